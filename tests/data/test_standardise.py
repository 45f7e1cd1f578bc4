"""Standardising is (level - mean) / std with the training images' moments, the same bits in any order."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from published import labels, pixels

from isoscale.data import Dataset
from isoscale.data.standardise import Moments, Split, look_up, standardised
from isoscale.errors import DataError


def make(train: np.ndarray, test: np.ndarray) -> Dataset:
    splits = {"train": Split(train, labels(len(train))), "test": Split(test, labels(len(test)))}
    return standardised(name="made", classes=10, note="", **splits)


seeds = st.integers(0, 2**32 - 1)
counts = st.integers(2, 7)


@settings(deadline=None, max_examples=30)
@given(seeds, counts, st.integers(1, 3))
def test_both_splits_use_the_training_moments_of_each_channel(seed: int, samples: int, channels: int) -> None:
    train = pixels(samples, channels, 4, 5, seed=seed)
    test = pixels(3, channels, 4, 5, seed=seed + 1)
    data = make(train, test)
    mean = train.mean((0, 2, 3), keepdims=True)
    std = train.std((0, 2, 3), keepdims=True)
    np.testing.assert_allclose(data.train_x.numpy(), (train - mean) / std, rtol=1e-6, atol=1e-6)
    np.testing.assert_allclose(data.test_x.numpy(), (test - mean) / std, rtol=1e-6, atol=1e-6)


@settings(deadline=None, max_examples=30)
@given(seeds, counts)
def test_order_of_samples_changes_no_bit(seed: int, samples: int) -> None:
    images = pixels(samples, 2, 4, 4, seed=seed)
    forwards, backwards = make(images, images), make(images[::-1], images)
    assert np.array_equal(forwards.train_x.numpy(), backwards.train_x.numpy()[::-1])
    assert np.array_equal(forwards.test_x.numpy(), backwards.test_x.numpy())


def test_moments_are_exact() -> None:
    images = np.zeros((3000, 1, 32, 32), np.uint8)
    images[::2] = 255  # mean 127.5, std 127.5
    assert make(images, images[:2]).train_x.unique().tolist() == [-1.0, 1.0]


def test_moments_of_more_pixels_than_64_bits_can_multiply() -> None:
    # As many as CIFAR-10 has, half of them 0, half 255: count * sum of squares is 8.5e19, more than 2^63.
    count = 50_000 * 1024
    moments = Moments()
    moments.count, moments.sums, moments.squares = count, [255 * count // 2], [255**2 * count // 2]
    assert moments.table(np.dtype(np.uint8), str)[0, [0, 255]].tolist() == [-1.0, 1.0]


@pytest.mark.parametrize("dtype", [np.uint8, np.int16])
def test_samples_are_summed_one_by_one_or_all_at_once(dtype: type) -> None:
    """In parts too: more numbers than are squared at a time."""
    kind = np.iinfo(dtype)
    levels = np.random.default_rng(0).integers(kind.min, kind.max + 1, (5, 2, 300_000), dtype=dtype)
    one_by_one, at_once = Moments(), Moments()
    for sample in levels:
        one_by_one.add(sample[None])
    at_once.add(levels)
    assert vars(one_by_one) == vars(at_once)
    exact = levels.astype(object)
    assert at_once.sums == [exact[:, channel].sum() for channel in (0, 1)]
    assert at_once.squares == [(exact[:, channel] ** 2).sum() for channel in (0, 1)]


def test_levels_of_16_bits_are_looked_up_with_their_sign() -> None:
    levels = np.array([[[-32768, -1, 0, 1, 32767]]], np.int16)
    moments = Moments()
    moments.add(levels)
    found = look_up(moments.table(levels.dtype, str), levels)
    expected = (levels - levels.mean(dtype=float)) / levels.std(dtype=float)
    np.testing.assert_allclose(found, expected, rtol=1e-6)


def test_constant_channel_is_refused() -> None:
    images = pixels(4, 3, 2, 2)
    images[:, 1] = 7
    with pytest.raises(DataError, match="'made' have a channel that is 7 everywhere"):
        make(images, images)
