"""From integer levels to standardised tensors: (level - mean) / std, both of the training samples, per channel.

A level is one of 256 or 65,536 integers (8 or 16 bits), so mean and variance are ratios of exact integer sums,
and each level is divided once. Every machine, thread count and order of reading gives the same bits, without which a
fingerprint is no key; and samples can be summed and standardised one by one, as they come from a disk.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from functools import partial
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Float32, Integer

from isoscale.data.dataset import Dataset
from isoscale.errors import DataError

# Squares are summed over so many numbers at a time: all at once they would take eight times the samples' memory.
_PART = 2**20


class Split(NamedTuple):
    """Samples as they were published, unsigned of 8 or 16 bits or signed of 16, and their labels."""

    levels: Integer[np.ndarray, "samples channels *positions"]
    labels: Integer[np.ndarray, " samples"]


class Moments:
    """Exact sums over samples and positions of each channel: of the levels, and of their squares.

    >>> moments = Moments()
    >>> moments.add(np.array([[[1, 2]], [[3, 4]]], np.uint8))
    >>> moments.count, moments.sums, moments.squares
    (4, [10], [30])
    """

    def __init__(self) -> None:
        self.count = 0
        # Python integers: count * squares passes 2^63 for CIFAR-10.
        self.sums: list[int] = []
        self.squares: list[int] = []

    def add(self, levels: Integer[np.ndarray, "samples channels *positions"]) -> None:
        """Count more samples."""
        axes = (0, *range(2, levels.ndim))
        for part in _parts(levels):
            self.count += part[:, 0].size
            sums = part.sum(axes, dtype=np.int64)
            squares = np.square(part, dtype=np.int64).sum(axes)
            self.sums = _plus(self.sums, sums)
            self.squares = _plus(self.squares, squares)

    def table(
        self, dtype: np.dtype, refusal: Callable[[int], str], least_std: int = 0
    ) -> Float32[np.ndarray, "channels levels"]:
        """What each level becomes, for each channel; negative levels count from the end, as indices do.

        Args:
            dtype: Of the levels.
            refusal: What to say of a channel that has one level, which it is told, everywhere.
            least_std: Refuse a smaller standard deviation too, in levels.

        Raises:
            DataError: There is such a channel.
        """
        # Every bit pattern once, in the order of unsigned numbers: 0, 1, ..., and then, if signed, ..., -2, -1.
        size = dtype.itemsize
        count = 2 ** (8 * size)
        patterns = np.arange(count).astype(f"u{size}")
        levels = patterns.view(dtype).astype(np.float64)
        rows = []
        sums = zip(self.sums, self.squares, strict=True)
        for total, squares in sums:
            # With N numbers: std = sqrt(N sum(x^2) - sum(x)^2) / N, of which the radicand is an exact integer.
            scatter = self.count * squares - total * total
            if scatter == 0 or scatter < (least_std * self.count) ** 2:
                raise DataError(refusal(total // self.count))
            mean = total / self.count
            std = math.sqrt(scatter) / self.count
            rows.append((levels - mean) / std)
        return np.stack(rows).astype(np.float32)


def look_up(
    table: Float32[np.ndarray, "channels levels"], levels: Integer[np.ndarray, "samples channels *positions"]
) -> Float32[np.ndarray, "samples channels *positions"]:
    """Standardised samples, by the table of `Moments`."""
    channel = np.arange(len(table))
    positions = levels.ndim - 2
    channel = channel.reshape(-1, *(1,) * positions)  # (C, 1, 1), against (N, C, H, W)
    return table[channel, levels]


def standardised(
    *,
    name: str,
    train: Split,
    test: Split,
    classes: int,
    note: str,
    refusal: Callable[[int], str] | None = None,
    least_std: int = 0,
) -> Dataset:
    """The data set of two splits, both standardised with the training split's mean and std of each channel.

    Raises:
        DataError: A channel of the training samples has the same value everywhere, or a standard deviation of less
            than `least_std` levels; `refusal` words it.
    """
    moments = Moments()
    moments.add(train.levels)
    if refusal is None:
        refusal = partial(constant_channel, name)
    table = moments.table(train.levels.dtype, refusal, least_std)
    train_x = look_up(table, train.levels)
    train_y = train.labels.astype(np.int64)
    test_x = look_up(table, test.levels)
    test_y = test.labels.astype(np.int64)
    return Dataset(
        name=name,
        note=note,
        classes=classes,
        train_x=torch.from_numpy(train_x),
        train_y=torch.from_numpy(train_y),
        test_x=torch.from_numpy(test_x),
        test_y=torch.from_numpy(test_y),
    )


def constant_channel(name: str, level: int) -> str:
    """The refusal of images that cannot be standardised."""
    return f"training images of {name!r} have a channel that is {level} everywhere"


def _parts(levels: Integer[np.ndarray, "samples channels *positions"]) -> Iterator[np.ndarray]:
    of_one = math.prod(levels.shape[1:])
    samples = max(1, _PART // of_one)
    for start in range(0, len(levels), samples):
        yield levels[start : start + samples]


def _plus(sums: list[int], more: Integer[np.ndarray, " channels"]) -> list[int]:
    numbers = more.tolist()
    if not sums:
        return numbers
    return [a + b for a, b in zip(sums, numbers, strict=True)]
