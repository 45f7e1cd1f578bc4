"""A folder with a sub-folder for each class: which files there are, which class they have, which are for testing."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import compress
from pathlib import Path
from typing import NamedTuple

import numpy as np

from isoscale.errors import DataError

_TEST_NAMES = ("test", "val")
_HOLD_OUT_EVERY = 5


class Files(NamedTuple):
    """The files of one split and their classes, by number."""

    paths: list[Path]
    labels: list[int]


class Found(NamedTuple):
    """Both splits, the names of the classes in the order of their numbers, and how the splits came about."""

    train: Files
    test: Files
    classes: list[str]
    note: str


def find(folder: Path, suffixes: Sequence[str], what: str, others: Sequence[str] = ()) -> Found:
    """The files of `train/<class>/` and `test/<class>/` (or `val/`), or of `<class>/`, at any depth below the class.

    Without a `train` folder every fifth file of each class, in the order of their names, is for testing.

    Args:
        folder: The folder.
        suffixes: Of the files, in lower case.
        what: What the files are, in words.
        others: Suffixes of the same that are not read. Beside files that are, nobody would see that they are left out.

    Raises:
        DataError: Fewer than two classes, a class without files or without files of one split, a file of the others.
    """
    train_home = folder / "train"
    if not train_home.is_dir():
        classes = _classes(folder, suffixes, what, others)
        return _split(classes, what)
    test_home = _test_home(folder)
    train = _classes(train_home, suffixes, what, others)
    test = _classes(test_home, suffixes, what, others)
    _check_same_classes(test_home, train, test, what)
    _check_same_classes(train_home, test, train, what)
    return Found(
        train=_numbered(train),
        test=_numbered(test),
        classes=sorted(train),
        note="",
    )


def _test_home(folder: Path) -> Path:
    for name in _TEST_NAMES:
        home = folder / name
        if home.is_dir():
            return home
    raise DataError(f"{folder} has a folder train and none for testing. Put test/<class>/ beside it")


def _check_same_classes(home: Path, wanted: Iterable[str], there: Iterable[str], what: str) -> None:
    missing = set(wanted) - set(there)
    if missing:
        listed = ", ".join(sorted(missing))
        raise DataError(f"{home} has no class {listed}. Each class needs {what} in both splits")


def _classes(home: Path, suffixes: Sequence[str], what: str, others: Sequence[str]) -> dict[str, list[Path]]:
    """The files of each class, sorted; hidden folders are none."""
    folders = []
    for path in sorted(home.iterdir()):
        if path.is_dir() and not path.name.startswith("."):
            folders.append(path)
    count = len(folders)
    if count < 2:
        raise DataError(f"{home} has {count} class folders, expected at least two with {what} in each")

    found = {}
    for folder in folders:
        kinds = ", ".join(suffixes)
        paths = _below(folder, (*suffixes, *others))
        not_read = [path for path in paths if path.suffix.lower() in others]
        if not_read:
            raise DataError(
                f"{not_read[0]} is of a kind that is not read ({len(not_read)} in {folder.name}; {kinds} are). Convert "
                "such files, or take them away"
            )
        if not paths:
            raise DataError(f"{folder} has no {what} ({kinds}). Fill the class or take it away")
        found[folder.name] = paths
    return found


def _below(folder: Path, suffixes: Sequence[str]) -> list[Path]:
    # Sorted, because the order of a directory's entries differs between file systems.
    paths = []
    for path in folder.rglob("*"):
        if path.suffix.lower() in suffixes and path.is_file():
            paths.append(path)
    return sorted(paths)


def _split(classes: dict[str, list[Path]], what: str) -> Found:
    train: dict[str, list[Path]] = {}
    test: dict[str, list[Path]] = {}
    for name, paths in classes.items():
        # Of the 5th, the 10th, ... and not of the last: files are often numbered in the order of some recording.
        count = len(paths)
        held_out = np.arange(count) % _HOLD_OUT_EVERY == _HOLD_OUT_EVERY - 1
        if not held_out.any():
            raise DataError(f"class {name} has {count} {what}, expected at least {_HOLD_OUT_EVERY} to hold one out")
        train[name] = list(compress(paths, ~held_out))
        test[name] = list(compress(paths, held_out))
    return Found(
        train=_numbered(train),
        test=_numbered(test),
        classes=sorted(classes),
        note=": every fifth of each class held out",
    )


def _numbered(classes: dict[str, list[Path]]) -> Files:
    files = Files(paths=[], labels=[])
    for number, name in enumerate(sorted(classes)):
        paths = classes[name]
        files.paths.extend(paths)
        files.labels.extend([number] * len(paths))
    return files
