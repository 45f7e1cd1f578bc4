"""The digits: a fixed split, every class in proportion, the pixels of scikit-learn."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from isoscale.data import Dataset, load


@pytest.fixture(scope="module")
def digits() -> Dataset:
    return load("digits")


def test_shapes_and_types(digits: Dataset) -> None:
    assert digits.name == "digits"
    assert digits.classes == 10
    assert digits.in_features == 64
    assert digits.train_x.shape == (1438, 1, 8, 8)
    assert digits.test_x.shape == (359, 1, 8, 8)
    assert digits.train_x.dtype == torch.float32
    assert digits.train_y.dtype == torch.int64


def test_training_images_are_standardised(digits: Dataset) -> None:
    assert digits.train_x.mean().item() == pytest.approx(0, abs=1e-6)
    assert digits.train_x.std(correction=0).item() == pytest.approx(1, abs=1e-6)


def test_a_fifth_of_each_class_is_held_out(digits: Dataset) -> None:
    train, test = digits.train_y.bincount(), digits.test_y.bincount()
    assert test.tolist() == [round(n / 5) for n in (train + test).tolist()]


def test_every_published_image_is_in_one_split(digits: Dataset) -> None:
    sklearn = pytest.importorskip("sklearn.datasets")
    x, y = sklearn.load_digits(return_X_y=True)
    ours = torch.cat([digits.train_x, digits.test_x]).flatten(1).double().numpy()
    # Undo the standardising: the levels are integers, from 0 to 16 in both splits.
    levels = (ours - ours.min()) / (ours.max() - ours.min()) * 16
    assert np.abs(levels - levels.round()).max() < 1e-5
    rows = np.column_stack([levels.round(), torch.cat([digits.train_y, digits.test_y])])
    assert sorted(map(tuple, rows)) == sorted(map(tuple, np.column_stack([x, y])))


def test_the_split_never_changes(digits: Dataset) -> None:
    # A store's results are keyed by this: another value here makes every stored sweep on digits start again.
    assert digits.fingerprint == "6a8bbdb235934961"
    assert load("digits").fingerprint == digits.fingerprint


def test_the_global_generators_are_not_touched() -> None:
    numpy_state, torch_state = np.random.get_state()[1].copy(), torch.get_rng_state()  # noqa: NPY002
    load("digits")
    assert np.array_equal(np.random.get_state()[1], numpy_state)  # noqa: NPY002
    assert torch.equal(torch.get_rng_state(), torch_state)


def test_the_note_says_what_was_used(digits: Dataset) -> None:
    assert digits.note == "1,438 training images, 359 test images: a fixed split of scikit-learn's 1,797 digits"
