"""A folder with a sub-folder for each class: which files there are, which class they have, which are for testing."""

from __future__ import annotations

from collections.abc import Sequence
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


def find(folder: Path, suffixes: Sequence[str], what: str) -> Found:
    """The files of `train/<class>/` and `test/<class>/` (or `val/`), or of `<class>/`, at any depth below the class.

    Without a `train` folder every fifth file of each class, in the order of their names, is for testing.

    Raises:
        DataError: Fewer than two classes, a class without files or without files of one split.
    """
    train_home = folder / "train"
    if not train_home.is_dir():
        return _split(_classes(folder, suffixes, what), what)
    homes = [folder / name for name in _TEST_NAMES if (folder / name).is_dir()]
    if not homes:
        raise DataError(f"{folder} has a folder train and none for testing. Put test/<class>/ beside it")
    train, test = _classes(train_home, suffixes, what), _classes(homes[0], suffixes, what)
    for one, other, home in ((train, test, homes[0]), (test, train, train_home)):
        if missing := sorted(set(one) - set(other)):
            raise DataError(f"{home} has no class {', '.join(missing)}. Each class needs {what} in both splits")
    return Found(_numbered(train), _numbered(test), sorted(train), "")


def _classes(home: Path, suffixes: Sequence[str], what: str) -> dict[str, list[Path]]:
    """The files of each class, sorted; hidden folders are none."""
    folders = sorted(path for path in home.iterdir() if path.is_dir() and not path.name.startswith("."))
    if len(folders) < 2:
        raise DataError(f"{home} has {len(folders)} class folders, expected at least two with {what} in each")
    found = {folder.name: _below(folder, suffixes) for folder in folders}
    for name, paths in found.items():
        if not paths:
            raise DataError(f"{home / name} has no {what} ({', '.join(suffixes)}). Fill the class or take it away")
    return found


def _below(folder: Path, suffixes: Sequence[str]) -> list[Path]:
    return sorted(path for path in folder.rglob("*") if path.suffix.lower() in suffixes and path.is_file())


def _split(classes: dict[str, list[Path]], what: str) -> Found:
    train: dict[str, list[Path]] = {}
    test: dict[str, list[Path]] = {}
    for name, paths in classes.items():
        held_out = np.arange(len(paths)) % _HOLD_OUT_EVERY == _HOLD_OUT_EVERY - 1
        if not held_out.any():
            raise DataError(
                f"class {name} has {len(paths)} {what}, expected at least {_HOLD_OUT_EVERY} to hold one out"
            )
        train[name] = [path for path, out in zip(paths, held_out, strict=True) if not out]
        test[name] = [path for path, out in zip(paths, held_out, strict=True) if out]
    return Found(_numbered(train), _numbered(test), sorted(classes), ": every fifth of each class held out")


def _numbered(classes: dict[str, list[Path]]) -> Files:
    numbers = {name: number for number, name in enumerate(sorted(classes))}
    pairs = [(path, numbers[name]) for name in sorted(classes) for path in classes[name]]
    return Files([path for path, _ in pairs], [label for _, label in pairs])
