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
    home = files.find_home(folder, homes, TRAIN_IMAGES + TEST_IMAGES, f"{title} images")
    test_images = _require(home, *TEST_IMAGES)
    test = _read_split(test_images, _require(home, TEST_LABELS))
    if train_images := files.find(home, *TRAIN_IMAGES):
        train = _read_split(train_images, _require(home, TRAIN_LABELS))
        note = f"{len(train.labels):,} {title} training images, {len(test.labels):,} test images"
    else:
        note = f"{title}'s {len(test.labels):,} test images, split "
        train, test = _split(test_images, test)
        note += f"{len(train.labels):,}/{len(test.labels):,}: every fifth held out"
    return standardised(name=name, train=train, test=test, classes=_CLASSES, note=note)


def _split(path: Path, whole: Split) -> tuple[Split, Split]:
    held_out = np.arange(len(whole.labels)) % _HOLD_OUT_EVERY == _HOLD_OUT_EVERY - 1
    if not held_out.any():
        raise DataError(f"{path} has too few images to split: {len(held_out)}. Put the training files there")
    train, test = (Split(whole.levels[rows], whole.labels[rows]) for rows in (~held_out, held_out))
    return train, test


def _read_split(images_path: Path, labels_path: Path) -> Split:
    # Cut first, check second: labels of images that are not here are nobody's business.
    images = _read(images_path, _IMAGE)
    labels = _read(labels_path, _LABEL)[: len(images)]
    if len(labels) < len(images):
        fact = f"{labels_path} has {len(labels):,} labels for {len(images):,} images in {images_path.name}"
        raise DataError(f"{fact}. Get both files again")
    files.check_labels(labels_path, labels, _CLASSES)
    return Split(images[:, None], labels)


def _read(path: Path, item: tuple[int, ...]) -> UInt8[np.ndarray, " samples ..."]:
    """The array in a file, whose shape must be (samples, *item)."""
    unpacked, dimensions = files.unpack(path), 1 + len(item)
    samples, *sizes = _sizes(path, unpacked, dimensions)
    if samples == 0 or tuple(sizes) != item:
        fact = f"{samples} items of shape {tuple(sizes)}, expected at least one of shape {item}"
        raise files.damaged(path, fact)
    header = _header_bytes(dimensions)
    files.check_size(path, unpacked, header + samples * math.prod(item))
    return np.frombuffer(unpacked.data, np.uint8, offset=header).reshape(samples, *item)


def _sizes(path: Path, unpacked: files.Unpacked, dimensions: int) -> tuple[int, ...]:
    data, header = unpacked.data, _header_bytes(dimensions)
    if len(data) < header:
        raise files.damaged(path, unpacked.fault or f"{len(data)} bytes, expected a header of {header}")
    if data[:3] != _MAGIC:
        found, expected = data[:3].hex(" "), _MAGIC.hex(" ")
        raise files.damaged(path, f"it begins with {found}, expected {expected} (unsigned bytes)")
    if data[3] != dimensions:
        raise files.damaged(path, f"{data[3]} dimensions, expected {dimensions}")
    return struct.unpack_from(f">{dimensions}I", data, 4)


def _header_bytes(dimensions: int) -> int:
    return 4 + 4 * dimensions


def _require(home: Path, *names: str) -> Path:
    if path := files.find(home, *names):
        return path
    raise DataError(f"no {files.any_of(names)} in {home}. Put the published file there")
