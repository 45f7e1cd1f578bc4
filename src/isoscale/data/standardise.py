"""From grey levels to standardised tensors: (level - mean) / std, both of the training images, per channel.

A level is one of 256 integers, so mean and variance are ratios of exact integer sums, and each level is
divided once. Every machine and thread count gives the same bits, without which a fingerprint is no key.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Float, Float32, Integer, UInt8

from isoscale.data.dataset import Dataset
from isoscale.errors import DataError

_LEVELS = np.arange(256)


class Split(NamedTuple):
    """Images as they were published and their labels."""

    images: UInt8[np.ndarray, "samples channels height width"]
    labels: Integer[np.ndarray, " samples"]


def standardised(*, name: str, train: Split, test: Split, classes: int, note: str) -> Dataset:
    """The data set of two splits, both standardised with the training split's mean and std of each channel.

    Raises:
        DataError: A channel of the training images has the same value everywhere.
    """
    table = _table(name, train.images)
    return Dataset(
        name=name,
        note=note,
        classes=classes,
        train_x=torch.from_numpy(_look_up(table, train.images)),
        train_y=torch.from_numpy(train.labels.astype(np.int64)),
        test_x=torch.from_numpy(_look_up(table, test.images)),
        test_y=torch.from_numpy(test.labels.astype(np.int64)),
    )


def _table(
    name: str, images: UInt8[np.ndarray, "samples channels height width"]
) -> Float32[np.ndarray, "channels 256"]:
    """What each grey level becomes, for each channel."""
    axes = (0, 2, 3)
    sums = images.sum(axes, dtype=np.int64).tolist()
    # 255^2 fits into 16 bits; a wider type would copy all images at several times their size.
    squares = np.square(images, dtype=np.uint16).sum(axes, dtype=np.int64).tolist()
    rows = [_row(name, images[:, 0].size, *moments) for moments in zip(sums, squares, strict=True)]
    return np.stack(rows).astype(np.float32)


def _row(name: str, count: int, total: int, squares: int) -> Float[np.ndarray, " levels"]:
    # Python integers: count * squares passes 2^63 for CIFAR-10.
    scatter = count * squares - total * total
    if scatter == 0:
        raise DataError(f"training images of {name!r} have a channel that is {total // count} everywhere")
    mean, std = total / count, math.sqrt(scatter) / count
    return (_LEVELS - mean) / std


def _look_up(
    table: Float32[np.ndarray, "channels 256"], images: UInt8[np.ndarray, "samples channels height width"]
) -> Float32[np.ndarray, "samples channels height width"]:
    channel = np.arange(len(table))[:, None, None]  # (C, 1, 1), against (N, C, H, W)
    return table[channel, images]
