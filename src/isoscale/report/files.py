"""The files of a report: a folder that is made where it is missing, and files that appear whole or not at all."""

from __future__ import annotations

import contextlib
import tempfile
from collections.abc import Mapping
from pathlib import Path

from isoscale.errors import InvalidValueError
from isoscale.files import replacing_all


def check_writable(folder: Path, *, flag: str) -> None:
    """Raise before anything is computed for a folder that cannot be made or written to; nothing is left in it.

    Args:
        folder: Where `write_all` is to write.
        flag: What gives another folder.

    Raises:
        InvalidValueError: It cannot be.
    """
    is_there = next(level for level in (folder, *folder.absolute().parents) if level.exists())
    try:
        with tempfile.TemporaryFile(dir=is_there):
            pass
    except OSError as error:
        raise _unwritable(folder, error, flag) from error


def write_all(folder: Path, files: Mapping[str, bytes], *, flag: str = "--report") -> None:
    """Write files into a folder, each replaced in one step, in the order given.

    A run that is killed, or a disk that fills up, leaves every file as it was or as it will be
    (`isoscale.files.replacing_all`). `flag` is what gives another folder.

    Raises:
        InvalidValueError: The folder cannot be made or written to.
    """
    made: list[Path] = []
    try:
        for level in (folder, *folder.parents):
            if not level.exists():
                made.append(level)
        folder.mkdir(parents=True, exist_ok=True)
        with replacing_all([folder / name for name in files]) as scratches:
            for scratch, content in zip(scratches, files.values(), strict=True):
                scratch.write_bytes(content)
    except OSError as error:
        raise _unwritable(folder, error, flag) from error
    finally:
        # Innermost first; a folder in which something stands cannot be removed, and stays.
        for level in made:
            with contextlib.suppress(OSError):
                level.rmdir()


def _unwritable(folder: Path, error: OSError, flag: str) -> InvalidValueError:
    reason = (error.strerror or str(error)).lower()
    return InvalidValueError(f"cannot write the report to `{folder}`: {reason}. Choose another folder with {flag}")
