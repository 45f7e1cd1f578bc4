"""One file of CIFAR-10's "python version": a pickled dict of an array (images, 3072) and a list of labels."""

from __future__ import annotations

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
        images, labels = _parts(inert_pickle.load(unpacked.data))
    except DataError as error:
        raise files.damaged(path, str(error), remedy) from error
    if images.shape != (records, 3 * 32 * 32) or labels.shape != (records,):
        fact = f"images {images.shape} and labels {labels.shape}, expected ({records}, 3072) and ({records},)"
        raise files.damaged(path, fact, remedy)
    files.check_labels(path, labels, _CLASSES, remedy)
    return Split(images.reshape(records, *_SHAPE), labels)


def _parts(value: object) -> tuple[np.ndarray, np.ndarray]:
    if not isinstance(value, dict):
        raise DataError(f"a {type(value).__name__}, expected a dict")
    parts = {name.decode("latin1") if isinstance(name, bytes) else name: part for name, part in value.items()}
    labels = parts.get("labels")
    if "data" not in parts or not isinstance(labels, list):
        raise DataError(f"no data and labels among {', '.join(sorted(map(str, parts)))}")
    if not all(type(label) is int and 0 <= label < 256 for label in labels):
        raise DataError("labels that are no small numbers")
    return inert_pickle.array(parts["data"]), np.array(labels, dtype=np.uint8)
