"""The files of a report: a folder that is made where it is missing, and files that appear whole or not at all."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping
from pathlib import Path

from isoscale.errors import InvalidValueError
from isoscale.files import replacing_all


def write_all(folder: Path, files: Mapping[str, bytes]) -> None:
    """Write files into a folder, each replaced in one step, in the order given.

    A run that is killed, or a disk that fills up, leaves every file as it was or as it will be
    (`isoscale.files.replacing_all`).

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
        reason = (error.strerror or str(error)).lower()
        raise InvalidValueError(
            f"cannot write the report to `{folder}`: {reason}. Choose another folder with --report"
        ) from error
    finally:
        # Innermost first; a folder in which something stands cannot be removed, and stays.
        for level in made:
            with contextlib.suppress(OSError):
                level.rmdir()
