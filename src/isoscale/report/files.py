"""Files that appear whole or not at all."""

from __future__ import annotations

import contextlib
import os
import tempfile
from collections.abc import Mapping
from pathlib import Path

from isoscale.errors import InvalidValueError


def write_all(folder: Path, files: Mapping[str, bytes]) -> None:
    """Write files into a folder, each replaced in one step, in the order given.

    All of them are first written into a draft folder beside their destinations: a run that is killed, or a
    disk that fills up, leaves every file as it was or as it will be.

    Raises:
        InvalidValueError: The folder cannot be made or written to.
    """
    made: list[Path] = []
    try:
        made += [level for level in (folder, *folder.parents) if not level.exists()]
        folder.mkdir(parents=True, exist_ok=True)
        _replace(folder, files)
    except OSError as error:
        reason = (error.strerror or str(error)).lower()
        raise InvalidValueError(
            f"cannot write the report to `{folder}`: {reason}. Choose another folder with --report"
        ) from error
    finally:
        _remove_empty(made)


def _replace(folder: Path, files: Mapping[str, bytes]) -> None:
    """Write all files beside their destinations, then rename one after the other."""
    with tempfile.TemporaryDirectory(prefix=".writing-", dir=folder) as draft:
        for name, content in files.items():
            _write(Path(draft, name), content)
        for name in files:
            Path(draft, name).replace(folder / name)


def _write(path: Path, content: bytes) -> None:
    """Write a file and wait until the disk has it, so that its new name never stands for half of it."""
    with path.open("wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())


def _remove_empty(folders: list[Path]) -> None:
    """Remove those of the folders, innermost first, in which nothing stands."""
    for folder in folders:
        with contextlib.suppress(OSError):
            folder.rmdir()
