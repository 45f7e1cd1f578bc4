"""MNIST and Fashion-MNIST in IDX: two zeros, a type, the number of dimensions, their big-endian sizes, data.

The two sets have files of the same names, so only a folder's name tells them apart: a bare folder is not
accepted. Labels beyond the last image are dropped, because an image file may be the beginning of the
published one (`-first8226-`) beside the complete labels.
"""

from __future__ import annotations

import math
import struct
from pathlib import Path

import numpy as np
from jaxtyping import UInt8

from isoscale.data import files
from isoscale.data.dataset import Dataset
from isoscale.data.standardise import Split, standardised
from isoscale.errors import DataError

MNIST_HOMES = ("MNIST/raw", "mnist")
FASHION_HOMES = ("FashionMNIST/raw", "fashion-mnist", "fashion-mnist-part")
TRAIN_IMAGES = ("train-images-idx3-ubyte", "train-images-first8226-idx3-ubyte")
TEST_IMAGES = ("t10k-images-idx3-ubyte", "t10k-images-first1770-idx3-ubyte")
TRAIN_LABELS = "train-labels-idx1-ubyte"
TEST_LABELS = "t10k-labels-idx1-ubyte"

_MAGIC = b"\0\0\x08"  # 08: unsigned bytes
_IMAGE = (28, 28)
_LABEL = ()
_CLASSES = 10
_HOLD_OUT_EVERY = 5


def mnist(folder: Path) -> Dataset:
    """MNIST's images of shape (samples, 1, 28, 28), as many as the folder has in `MNIST/raw/` or `mnist/`.

    Where the folder has only the 10,000 test images, every fifth of them (the 5th, the 10th, ...) is held out
    for testing and the others are for training; the note says so. Every fifth and not the last 2,000, because
    the second 5,000 are known to be harder than the first. The price: a writer's digits may be in both parts.

    Raises:
        DataError: A file is missing, unreadable or damaged, or there are fewer labels than images.
    """
    return _load(folder, "mnist", "MNIST", MNIST_HOMES)


def fashion_mnist(folder: Path) -> Dataset:
    """Fashion-MNIST's images of shape (samples, 1, 28, 28), as many as the folder has.

    They lie in `FashionMNIST/raw/`, `fashion-mnist/` or `fashion-mnist-part/`. Where there are only test
    images, they are split as MNIST's are.

    Raises:
        DataError: A file is missing, unreadable or damaged, or there are fewer labels than images.
    """
    return _load(folder, "fashion-mnist", "Fashion-MNIST", FASHION_HOMES)


def _load(folder: Path, name: str, title: str, homes: tuple[str, ...]) -> Dataset:
    names = TRAIN_IMAGES + TEST_IMAGES
    home = files.find_home(
        folder,
        subfolders=homes,
        names=names,
        what=f"{title} images",
    )
    test_images = _require(home, *TEST_IMAGES)
    test_labels = _require(home, TEST_LABELS)
    published = _read_split(test_images, test_labels)
    train_images = files.find(home, *TRAIN_IMAGES)
    if train_images:
        train_labels = _require(home, TRAIN_LABELS)
        train = _read_split(train_images, train_labels)
        test = published
    else:
        train, test = _split(test_images, published)

    train_count = len(train.labels)
    test_count = len(test.labels)
    if train_images:
        note = f"{train_count:,} {title} training images, {test_count:,} test images"
    else:
        whole = train_count + test_count
        note = f"{title}'s {whole:,} test images, split {train_count:,}/{test_count:,}: every fifth held out"
    return standardised(
        name=name,
        train=train,
        test=test,
        classes=_CLASSES,
        note=note,
    )


def _split(path: Path, whole: Split) -> tuple[Split, Split]:
    levels = whole.levels
    labels = whole.labels
    numbers = np.arange(len(labels))
    held_out = numbers % _HOLD_OUT_EVERY == _HOLD_OUT_EVERY - 1
    if not held_out.any():
        raise DataError(f"{path} has too few images to split: {len(held_out)}. Put the training files there")
    train = Split(
        levels=levels[~held_out],
        labels=labels[~held_out],
    )
    test = Split(
        levels=levels[held_out],
        labels=labels[held_out],
    )
    return train, test


def _read_split(images_path: Path, labels_path: Path) -> Split:
    # Cut first, check second: labels of images that are not here are nobody's business.
    images = _read(images_path, _IMAGE)
    count = len(images)
    labels = _read(labels_path, _LABEL)
    labels = labels[:count]
    found = len(labels)
    if found < count:
        fact = f"{labels_path} has {found:,} labels for {count:,} images in {images_path.name}"
        raise DataError(f"{fact}. Get both files again")
    files.check_labels(labels_path, labels, _CLASSES)
    one_channel = images[:, None]
    return Split(one_channel, labels)


def _read(path: Path, item: tuple[int, ...]) -> UInt8[np.ndarray, " samples ..."]:
    """The array in a file, whose shape must be (samples, *item)."""
    unpacked = files.unpack(path)
    dimensions = 1 + len(item)
    samples, *sizes = _sizes(path, unpacked, dimensions)
    if samples == 0 or tuple(sizes) != item:
        # None at all, or items of another shape: another data set of the same format.
        fact = f"{samples} items of shape {tuple(sizes)}, expected at least one of shape {item}"
        raise files.damaged(path, fact)
    header = _header_bytes(dimensions)
    expected = header + samples * math.prod(item)
    files.check_size(path, unpacked, expected)
    levels = np.frombuffer(unpacked.data, np.uint8, offset=header)
    return levels.reshape(samples, *item)


def _sizes(path: Path, unpacked: files.Unpacked, dimensions: int) -> tuple[int, ...]:
    data = unpacked.data
    header = _header_bytes(dimensions)
    if len(data) < header:
        fact = unpacked.fault or f"{len(data)} bytes, expected a header of {header}"
        raise files.damaged(path, fact)
    if data[:3] != _MAGIC:
        found = data[:3].hex(" ")
        expected = _MAGIC.hex(" ")
        raise files.damaged(path, f"it begins with {found}, expected {expected} (unsigned bytes)")
    found_dimensions = data[3]
    if found_dimensions != dimensions:
        fact = f"{found_dimensions} dimensions, expected {dimensions}"
        raise files.damaged(path, fact)
    return struct.unpack_from(f">{dimensions}I", data, 4)


def _header_bytes(dimensions: int) -> int:
    # Two zeros, the type and the number of dimensions; then each size as 32 bits.
    return 4 + 4 * dimensions


def _require(home: Path, *names: str) -> Path:
    path = files.find(home, *names)
    if path is None:
        wanted = files.any_of(names)
        raise DataError(f"no {wanted} in {home}. Put the published file there")
    return path
