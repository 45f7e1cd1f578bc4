"""CIFAR-10 in its binary version: records of one label byte and 3 x 32 x 32 colour bytes, 10,000 to a file.

A folder may hold any of the five training batches. The test images are `test_batch.bin` or, where only the
exact beginning of it could be had, `test_batch_first1017.bin`. Where there is no binary version the "python
version" is read, whose pickles `inert_pickle` interprets without running anything in them.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from isoscale.data import cifar_python, files
from isoscale.data.dataset import Dataset
from isoscale.data.standardise import Split, standardised
from isoscale.errors import DataError, InvalidTypeError, InvalidValueError

HOMES = ("cifar-10-batches-bin", "cifar10", ".")
PYTHON_HOMES = ("cifar-10-batches-py", "cifar10", ".")
BATCHES = (1, 2, 3, 4, 5)
RECORDS_PER_BATCH = 10_000
TEST_FILES = {"test_batch.bin": RECORDS_PER_BATCH, "test_batch_first1017.bin": 1_017}

_SHAPE = (3, 32, 32)
_RECORD = 1 + 3 * 32 * 32
_CLASSES = 10


def cifar10(folder: Path, *, batches: Sequence[int] | None = None, pool: int = 1) -> Dataset:
    """CIFAR-10's images of shape (samples, 3, 32, 32), as many as the folder has.

    Args:
        folder: Has the files in `cifar-10-batches-bin/`, in `cifar10/` or directly; plain, `.gz` or `.xz`. Or,
            where none of these has any, the python version in `cifar-10-batches-py/`, in `cifar10/` or directly.
        batches: Which training batches, from 1 to 5, in any order; by default all that are there.
        pool: Make each image smaller: the mean of every square of so many pixels a side, rounded to a whole level.

    Raises:
        InvalidTypeError: `batches` is not a sequence of integers, or `pool` no integer.
        InvalidValueError: `batches` is empty, repeats a number or has one that is not 1 to 5; `pool` does not
            divide 32.
        DataError: A file is missing, unreadable or damaged.
    """
    chosen = None
    if batches is not None:
        chosen = _checked(batches)
    _check_pool(pool)
    version = _version(folder)
    home = files.find_home(
        folder,
        subfolders=version.homes,
        names=version.names(),
        what="binary CIFAR-10 training batch",
    )
    train_paths = _train_paths(home, chosen, version)
    test_path, test_records = _test_file(home, version)

    parts = []
    for k, path in train_paths.items():
        remedy = _without(k, train_paths)
        parts.append(version.read(path, RECORDS_PER_BATCH, remedy))
    train = _pooled(_join(parts), pool)
    test = version.read(test_path, test_records, "")
    test = _pooled(test, pool)

    train_count = len(train.labels)
    test_count = len(test.labels)
    which = _which(list(train_paths))
    note = f"{train_count:,} CIFAR-10 training images{which}, {test_count:,} test images"
    if pool > 1:
        side = _SHAPE[-1] // pool
        note += f", pooled to {side}x{side}"
    return standardised(
        name="cifar10",
        train=train,
        test=test,
        classes=_CLASSES,
        note=note,
    )


def _checked(batches: Sequence[int]) -> list[int]:
    sequence = isinstance(batches, Sequence)
    if not sequence or not all(isinstance(k, int) for k in batches):
        raise InvalidTypeError(f"`batches` is {batches!r}, expected a sequence of integers such as (1, 2)")
    different = set(batches)
    repeated = len(different) < len(batches)
    if not batches or repeated or not different <= set(BATCHES):
        raise InvalidValueError(f"`batches` is {batches!r}, expected at least one of 1 to 5, each once")
    # Sorted, so that the same batches are the same data set however they were asked for.
    return sorted(batches)


def _check_pool(pool: object) -> None:
    if isinstance(pool, bool) or not isinstance(pool, int):
        raise InvalidTypeError(f"`pool` is {pool!r}, expected a whole number such as 2")
    if pool < 1 or _SHAPE[-1] % pool:
        raise InvalidValueError(f"`pool` is {pool}, expected a divisor of {_SHAPE[-1]}: 1, 2, 4, 8, 16 or 32")


def _pooled(split: Split, pool: int) -> Split:
    """Mean level of each square of pixels, half a level rounded up: whole numbers, the same on every machine."""
    if pool == 1:
        return split
    side = _SHAPE[-1] // pool
    area = pool * pool
    # (N, 3, 32, 32) -> (N, 3, side, pool, side, pool): a square of pixels is a pair of the two short axes.
    channels = _SHAPE[0]
    squares = split.levels.reshape(-1, channels, side, pool, side, pool)
    # floor(sum / area + 1/2) in integers.
    sums = squares.sum((3, 5), dtype=np.uint32)
    levels = (sums + area // 2) // area
    return Split(levels.astype(np.uint8), split.labels)


class _Version(NamedTuple):
    """One of the published versions: where it lies, what its files are called, how one is read."""

    homes: tuple[str, ...]
    suffix: str
    test_files: dict[str, int]
    read: Callable[[Path, int, str], Split]

    def name(self, k: int) -> str:
        return f"data_batch_{k}{self.suffix}"

    def names(self) -> list[str]:
        return [self.name(k) for k in BATCHES]


def _version(folder: Path) -> _Version:
    """The binary version, unless there is only the other."""
    binary = _Version(
        homes=HOMES,
        suffix=".bin",
        test_files=TEST_FILES,
        read=_read,
    )
    python = _Version(
        homes=PYTHON_HOMES,
        suffix="",
        test_files={"test_batch": RECORDS_PER_BATCH},
        read=cifar_python.read,
    )
    for version in (binary, python):
        for home in version.homes:
            if files.find(folder / home, *version.names()):
                return version
    return binary


def _train_paths(home: Path, chosen: list[int] | None, version: _Version) -> dict[int, Path]:
    """The files to read, by batch number, in ascending order."""
    found: dict[int, Path] = {}
    for k in BATCHES:
        path = files.find(home, version.name(k))
        if path:
            found[k] = path
    if chosen is None:
        return found
    for k in chosen:
        if k not in found:
            wanted = files.any_of([version.name(k)])
            there = " ".join(map(str, found))
            raise DataError(f"no {wanted} in {home}. Get it, or choose from those there: --batches {there}")
    return {k: found[k] for k in chosen}


def _test_file(home: Path, version: _Version) -> tuple[Path, int]:
    for name, records in version.test_files.items():
        path = files.find(home, name)
        if path:
            return path, records
    wanted = files.any_of(version.test_files)
    raise DataError(f"no CIFAR-10 test images in {home}. Put {wanted} there")


def _without(k: int, paths: dict[int, Path]) -> str:
    """The remedy for a damaged batch k."""
    others = [str(other) for other in paths if other != k]
    if not others:
        return ""
    listed = " ".join(others)
    return f", or leave it out with --batches {listed}"


def _which(batches: list[int]) -> str:
    """Nothing for the first n batches, which their number of images tells already."""
    count = len(batches)
    if batches == list(BATCHES[:count]):
        return ""
    plural = "es" if count > 1 else ""
    listed = ", ".join(map(str, batches))
    return f" (batch{plural} {listed})"


def _read(path: Path, records: int, remedy: str) -> Split:
    unpacked = files.unpack(path)
    files.check_size(path, unpacked, records * _RECORD, remedy)
    numbers = np.frombuffer(unpacked.data, np.uint8)
    # (N, 3073): the label, then the red, green and blue planes, each row by row.
    table = numbers.reshape(records, _RECORD)
    labels = table[:, 0]
    files.check_labels(path, labels, _CLASSES, remedy)
    images = table[:, 1:]
    images = images.reshape(records, *_SHAPE)
    return Split(images, labels)


def _join(parts: list[Split]) -> Split:
    levels = np.concatenate([part.levels for part in parts])
    labels = np.concatenate([part.labels for part in parts])
    return Split(levels, labels)
