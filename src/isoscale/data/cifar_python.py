"""One file of CIFAR-10's "python version": a pickled dict of an array (images, 3072) and a list of labels."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np

from isoscale.data import files, inert_pickle
from isoscale.data.standardise import Split
from isoscale.errors import DataError

_SHAPE = (3, 32, 32)
_CLASSES = 10


def read(path: Path, records: int, remedy: str) -> Split:
    """The images and labels of one file.

    Raises:
        DataError: It is unreadable or damaged, or has anything in it but arrays and plain values.
    """
    unpacked = files.unpack(path)
    if unpacked.fault:
        raise files.damaged(path, unpacked.fault, remedy)
    try:
        value = inert_pickle.load(unpacked.data)
        images, labels = _parts(value)
    except DataError as error:
        raise files.damaged(path, str(error), remedy) from error
    images_expected = (records, math.prod(_SHAPE))
    labels_expected = (records,)
    if images.shape != images_expected or labels.shape != labels_expected:
        found = f"images {images.shape} and labels {labels.shape}"
        fact = f"{found}, expected {images_expected} and {labels_expected}"
        raise files.damaged(path, fact, remedy)
    files.check_labels(path, labels, _CLASSES, remedy)
    # (N, 3072) -> (N, 3, 32, 32): the red, green and blue planes, each row by row.
    images = images.reshape(records, *_SHAPE)
    return Split(images, labels)


def _parts(value: object) -> tuple[np.ndarray, np.ndarray]:
    if not isinstance(value, dict):
        kind = type(value).__name__
        raise DataError(f"a {kind}, expected a dict")
    parts = {}
    for name, part in value.items():
        # Python 2, which wrote the published files, has its text as bytes.
        if isinstance(name, bytes):
            name = name.decode("latin1")
        parts[name] = part
    labels = parts.get("labels")
    if "data" not in parts or not isinstance(labels, list):
        there = ", ".join(sorted(map(str, parts)))
        raise DataError(f"no data and labels among {there}")
    for label in labels:
        # Not isinstance: True is no label.
        if type(label) is not int or not 0 <= label < 256:
            raise DataError("labels that are no small numbers")
    images = inert_pickle.array(parts["data"])
    return images, np.array(labels, dtype=np.uint8)
