"""Data sets from what is in memory: the same numbers come out, and a sample that cannot be used is named."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import torch
from torch.utils.data import IterableDataset, TensorDataset

from isoscale.data import Dataset
from isoscale.errors import InvalidTypeError, InvalidValueError

X = np.arange(40.0).reshape(10, 4) / 40
Y = np.arange(10) % 3


class Stream(IterableDataset):
    def __init__(self, samples: list[Any]) -> None:
        self.samples = samples

    def __iter__(self) -> Iterator[Any]:
        yield from self.samples

    def __len__(self) -> int:
        return len(self.samples)


PAIRS = [(x, int(y)) for x, y in zip(X, Y, strict=True)]


@pytest.mark.parametrize(
    "dataset",
    [PAIRS, iter(PAIRS), Stream(PAIRS), TensorDataset(torch.tensor(X), torch.tensor(Y))],
    ids=["list", "iterator", "iterable data set", "data set"],
)
def test_every_door_leads_to_the_same_data(dataset: Any):
    found = Dataset.from_torch(dataset, test=[(X[0], 2)])
    by_arrays = Dataset.from_arrays(X, torch.tensor(Y), test=(X[:1], [2]))
    assert found.fingerprint == by_arrays.fingerprint
    assert found.train_x.dtype == torch.float32
    np.testing.assert_array_equal(found.train_x, X.astype("f4"))
    np.testing.assert_array_equal(found.train_y, Y)
    assert (found.classes, found.test_y.tolist()) == (3, [2])


def test_a_share_is_drawn_to_test_on_and_not_trained_on():
    found = Dataset.from_arrays(X, Y, test=0.3)
    assert (len(found.train_x), len(found.test_x)) == (7, 3)
    rows = torch.cat([found.train_x, found.test_x])
    assert sorted(rows[:, 0].tolist()) == X[:, 0].astype("f4").tolist()
    assert found.note == "arrays, of which 3 samples drawn with seed 0 to test on"
    assert found.fingerprint == Dataset.from_arrays(X, Y, test=0.3).fingerprint


def test_tokens_are_whole_numbers():
    tokens = np.arange(24, dtype=np.int32).reshape(4, 6) % 5
    assert Dataset.from_arrays(tokens[:, :-1], tokens[:, 1:], test=0.25).kind == "tokens"


class Torn:
    def __len__(self) -> int:
        return 5

    def __getitem__(self, at: int) -> Any:
        if at == 3:
            raise OSError("truncated")
        return X[at], 0


@pytest.mark.parametrize(
    ("dataset", "error", "message"),
    [
        (Torn(), InvalidValueError, "sample 3 of `dataset` cannot be read: OSError: truncated"),
        ([(X[0], 0), X[1]], InvalidTypeError, r"sample 1 of `dataset` must be a pair \(x, y\), got ndarray"),
        ([(X[0], 0), (X[1, :3], 0)], InvalidValueError, r"sample 1 of `dataset` has shapes \(3,\) and"),
        ([(X[0], 0), (X[1] * np.nan, 0)], InvalidValueError, "sample 1 of `dataset` is NaN or infinite"),
        ([(X[0], 0.5)], InvalidTypeError, "sample 0 of `dataset` has labels of torch.float"),
        ([(np.uint8([1, 2]), 0)], InvalidTypeError, "sample 0 of `dataset` has samples of torch.uint8"),
        ([("word", 0)], InvalidTypeError, "sample 0 of `dataset` must be an array of numbers, got str"),
        ([], InvalidValueError, "`dataset` has no sample"),
        (3, InvalidTypeError, "must be a data set of torch's or an iterable of samples, got int"),
    ],
)
def test_a_bad_sample_is_named(dataset: Any, error: type[Exception], message: str):
    with pytest.raises(error, match=message):
        Dataset.from_torch(dataset)


@pytest.mark.parametrize(
    ("x", "y", "options", "message"),
    [
        (X, Y[:5], {}, "`x` has 10 samples and `y` has 5"),
        (X[:0], Y[:0], {}, "`x` has 0 samples and `y` has 0"),
        (X, Y, {"test": 0.01}, "`test` must leave samples on both sides"),
        (X, Y, {"test": 1.0}, "`test` must leave samples on both sides"),
        (X, Y, {"classes": 2}, "has labels 0 to 2, expected 0 to 1"),
        (np.where(X > 0.9, np.inf, X), Y, {}, "`x` is NaN or infinite in 1 of 10 samples, first in sample 9"),
    ],
)
def test_arrays_that_make_no_data_set(x: Any, y: Any, options: dict[str, Any], message: str):
    with pytest.raises(InvalidValueError, match=message):
        Dataset.from_arrays(x, y, **options)
