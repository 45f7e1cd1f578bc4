"""From integer levels to standardised tensors: (level - mean) / std, both of the training samples, per channel.

A level is one of 256 integers (images) or 65,536 (sounds), so mean and variance are ratios of exact integer sums,
and each level is divided once. Every machine, thread count and order of reading gives the same bits, without which a
fingerprint is no key; and samples can be summed and standardised one by one, as they come from a disk.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Float32, Integer

from isoscale.data.dataset import Dataset
from isoscale.errors import DataError

# Squares are summed over so many numbers at a time: all at once they would take eight times the samples' memory.
_PART = 2**20


class Split(NamedTuple):
    """Samples as they were published, unsigned 8-bit or signed 16-bit, and their labels."""

    levels: Integer[np.ndarray, "samples channels *places"]
    labels: Integer[np.ndarray, " samples"]


class Moments:
    """Exact sums over samples and places of each channel: of the levels, and of their squares.

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

    def add(self, levels: Integer[np.ndarray, "samples channels *places"]) -> None:
        """Count more samples."""
        axes = (0, *range(2, levels.ndim))
        for part in _parts(levels):
            self.count += part[:, 0].size
            self.sums = _plus(self.sums, part.sum(axes, dtype=np.int64))
            self.squares = _plus(self.squares, np.square(part, dtype=np.int64).sum(axes))

    def table(self, dtype: np.dtype, refusal: Callable[[int], str]) -> Float32[np.ndarray, "channels levels"]:
        """What each level becomes, for each channel; negative levels count from the end, as indices do.

        Args:
            dtype: Of the levels.
            refusal: What to say of a channel that has one level, which it is told, everywhere.

        Raises:
            DataError: There is such a channel.
        """
        levels = np.arange(2 ** (8 * dtype.itemsize)).astype(f"u{dtype.itemsize}").view(dtype).astype(np.float64)
        rows = []
        for total, squares in zip(self.sums, self.squares, strict=True):
            scatter = self.count * squares - total * total
            if scatter == 0:
                raise DataError(refusal(total // self.count))
            rows.append((levels - total / self.count) / (math.sqrt(scatter) / self.count))
        return np.stack(rows).astype(np.float32)


def look_up(
    table: Float32[np.ndarray, "channels levels"], levels: Integer[np.ndarray, "samples channels *places"]
) -> Float32[np.ndarray, "samples channels *places"]:
    """Standardised samples, by the table of `Moments`."""
    channel = np.arange(len(table)).reshape(-1, *(1,) * (levels.ndim - 2))  # (C, 1, 1), against (N, C, H, W)
    return table[channel, levels]


def standardised(
    *, name: str, train: Split, test: Split, classes: int, note: str, refusal: Callable[[int], str] | None = None
) -> Dataset:
    """The data set of two splits, both standardised with the training split's mean and std of each channel.

    Raises:
        DataError: A channel of the training samples has the same value everywhere; `refusal` words it.
    """
    moments = Moments()
    moments.add(train.levels)
    table = moments.table(train.levels.dtype, refusal or (lambda level: constant_channel(name, level)))
    return Dataset(
        name=name,
        note=note,
        classes=classes,
        train_x=torch.from_numpy(look_up(table, train.levels)),
        train_y=torch.from_numpy(train.labels.astype(np.int64)),
        test_x=torch.from_numpy(look_up(table, test.levels)),
        test_y=torch.from_numpy(test.labels.astype(np.int64)),
    )


def constant_channel(name: str, level: int) -> str:
    """The refusal of images that cannot be standardised."""
    return f"training images of {name!r} have a channel that is {level} everywhere"


def _parts(levels: Integer[np.ndarray, "samples channels *places"]) -> Iterator[np.ndarray]:
    samples = max(1, _PART // math.prod(levels.shape[1:]))
    return (levels[start : start + samples] for start in range(0, len(levels), samples))


def _plus(sums: list[int], more: Integer[np.ndarray, " channels"]) -> list[int]:
    return [a + b for a, b in zip(sums or [0] * len(more), more.tolist(), strict=True)]
