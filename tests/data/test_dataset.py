"""A `Dataset` is checked when it is made, and its fingerprint stands for its content."""

from __future__ import annotations

import dataclasses
import doctest
import importlib
from typing import Any

import numpy as np
import pytest
import torch

from isoscale.data import Dataset
from isoscale.errors import InvalidTypeError, InvalidValueError


def make(**changes: Any) -> Dataset:
    generator = torch.Generator().manual_seed(0)
    fields: dict[str, Any] = {
        "name": "made",
        "train_x": torch.randn(6, 3, 2, 2, generator=generator),
        "train_y": torch.tensor([0, 1, 2, 0, 1, 2]),
        "test_x": torch.randn(2, 3, 2, 2, generator=generator),
        "test_y": torch.tensor([2, 0]),
        "classes": 3,
    }
    return Dataset(**(fields | changes))


def test_flatten_keeps_samples_and_shares_memory() -> None:
    images = make()
    vectors = images.flatten()
    assert vectors.train_x.shape == (6, 12)
    assert vectors.test_x.shape == (2, 12)
    assert vectors.in_features == images.in_features == 12
    assert vectors.train_x.data_ptr() == images.train_x.data_ptr()
    assert torch.equal(vectors.train_x[4], images.train_x[4].flatten())
    assert torch.equal(vectors.flatten().train_x, vectors.train_x)


def test_fields_cannot_be_reassigned() -> None:
    with pytest.raises(dataclasses.FrozenInstanceError):
        make().name = "other"  # type: ignore[misc]


def test_arguments_are_keyword_only() -> None:
    with pytest.raises(TypeError, match="positional"):
        Dataset("made")  # type: ignore[call-arg]


def test_repr_shows_shapes_not_tensors() -> None:
    assert repr(make()) == "Dataset('made', train=(6, 3, 2, 2), test=(2, 3, 2, 2), classes=3)"


def test_fingerprint_is_sixteen_hexadecimal_digits_and_repeats() -> None:
    fingerprint = make().fingerprint
    assert len(fingerprint) == 16
    assert set(fingerprint) <= set("0123456789abcdef")
    assert make().fingerprint == fingerprint


def test_fingerprint_is_computed_once() -> None:
    data = make()
    assert data.fingerprint is data.fingerprint


def test_fingerprint_ignores_memory_layout() -> None:
    data = make()
    strided = data.train_x.to(memory_format=torch.channels_last)
    assert not strided.is_contiguous()
    assert make(train_x=strided).fingerprint == data.fingerprint


@pytest.mark.parametrize(
    "changes",
    [
        {"train_x": make().train_x.clone().index_fill_(0, torch.tensor([5]), 0.0)},
        {"train_y": torch.tensor([0, 1, 2, 0, 1, 1])},
        {"test_x": make().test_x.nextafter(torch.tensor(9.0))},
        {"test_y": torch.tensor([0, 2])},
        {"classes": 4},
    ],
    ids=lambda changes: next(iter(changes)),
)
def test_fingerprint_changes_with_content(changes: dict[str, Any]) -> None:
    assert make(**changes).fingerprint != make().fingerprint


def test_fingerprint_changes_with_shape() -> None:
    assert make().flatten().fingerprint != make().fingerprint


def test_fingerprint_ignores_what_does_not_change_training() -> None:
    assert make(name="other", note="said otherwise").fingerprint == make().fingerprint


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"train_x": torch.zeros(6, 3, 2, 2, dtype=torch.float64)}, "`train_x` is torch.float64"),
        ({"test_y": torch.zeros(2, dtype=torch.int32)}, "`test_y` is torch.int32"),
    ],
)
def test_wrong_dtype_is_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(InvalidTypeError, match=message):
        make(**changes)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"train_x": np.zeros((6, 3, 2, 2), np.float32)}, "`train_x` is a ndarray, expected a torch.Tensor"),
        ({"test_y": [0, 1]}, "`test_y` is a list, expected a torch.Tensor"),
        ({"test_x": np.ma.zeros((2, 3, 2, 2))}, "`test_x` is a MaskedArray.* Fill what is masked"),
        ({"train_x": torch.zeros(6, 3, 2, 2, dtype=torch.complex64)}, "`train_x` is torch.complex64"),
    ],
)
def test_what_is_no_tensor_of_numbers_is_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(InvalidTypeError, match=message):
        make(**changes)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
@pytest.mark.parametrize("name", ["train_x", "test_x"])
def test_what_is_not_finite_is_refused(name: str, value: float) -> None:
    x = torch.zeros(2, 3, 2, 2)
    x[1, 0] = value
    sound = {"train_x": torch.zeros(2, 3, 2, 2), "train_y": torch.tensor([0, 1])}
    with pytest.raises(InvalidValueError, match=f"`{name}` is NaN or infinite in 1 of 2 samples, first in sample 1"):
        make(**(sound | {name: x}))


def test_what_is_written_into_the_samples_is_seen_with_the_fingerprint() -> None:
    data = make()
    data.train_x[3] = torch.nan
    with pytest.raises(InvalidValueError, match="`train_x` is NaN or infinite in 1 of 6 samples, first in sample 3"):
        _ = data.fingerprint


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"train_y": torch.zeros(5, dtype=torch.int64)}, r"`train_x` is \(6, 3, 2, 2\).*`train_y` is \(5,\)"),
        ({"test_y": torch.zeros(2, 1, dtype=torch.int64)}, r"`test_y` is \(2, 1\)"),
        ({"test_x": torch.zeros(2)}, r"`test_x` is \(2,\)"),
        ({"test_x": torch.zeros(0, 3, 2, 2), "test_y": torch.zeros(0, dtype=torch.int64)}, "at least one"),
        ({"test_x": torch.zeros(2, 3, 2, 3)}, r"shape \(3, 2, 2\), `test_x` of shape \(3, 2, 3\)"),
        ({"train_y": torch.tensor([0, 1, 2, 0, 1, 3])}, "labels 0 to 3, expected 0 to 2"),
        ({"test_y": torch.tensor([-1, 0])}, "labels -1 to 0, expected 0 to 2"),
    ],
)
def test_what_makes_no_sense_is_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(InvalidValueError, match=message):
        make(**changes)


@pytest.mark.parametrize("module", ["dataset", "digits", "registry"])
def test_examples_in_docstrings_run(module: str) -> None:
    result = doctest.testmod(importlib.import_module(f"isoscale.data.{module}"))
    assert result.attempted > 0
    assert result.failed == 0
