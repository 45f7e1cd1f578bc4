"""Writing a file, several, or a folder: whole or not at all.

What is written goes to a scratch name beside the target, reaches the disk, and is renamed then. After a crash there
is the old content or the new one under the target's name, never half of one.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path

from isoscale.errors import InvalidValueError

# How every scratch name ends; what a killed process leaves behind is found by it.
SCRATCH_SUFFIX = ".part"


@contextlib.contextmanager
def replacing(path: str | os.PathLike[str]) -> Iterator[Path]:
    """A scratch file beside `path` that takes its place when the block ends, and is gone if the block fails.

    Raises:
        InvalidValueError: The file cannot be written, here or in the block.

    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     with replacing(f"{folder}/a.txt") as scratch:
    ...         _ = scratch.write_text("whole")
    ...     Path(folder, "a.txt").read_text()
    'whole'
    """
    try:
        with replacing_all([path]) as (scratch,):
            yield scratch
    except OSError as error:
        raise InvalidValueError(f"cannot write `{path}`: {error.strerror or error}. Choose another file") from error


@contextlib.contextmanager
def replacing_all(paths: Sequence[str | os.PathLike[str]]) -> Iterator[list[Path]]:
    """Scratch files beside several paths, which take their places one after the other when the block ends.

    No file is replaced before all of them are on the disk: a disk that fills up leaves every old file.

    Raises:
        OSError: One of them cannot be written.
    """
    targets = [Path(path) for path in paths]
    scratches = [_scratch(target) for target in targets]
    try:
        yield scratches
        for scratch in scratches:
            _flush(scratch)
        for scratch, target in zip(scratches, targets, strict=True):
            scratch.replace(target)
    finally:
        for scratch in scratches:
            with contextlib.suppress(OSError):
                scratch.unlink(missing_ok=True)


@contextlib.contextmanager
def publishing(folder: Path) -> Iterator[Path]:
    """A scratch folder that becomes `folder` when the block ends, and is gone if the block fails.

    A folder cannot be replaced in one step. So one that is there already, because another process made the same
    meanwhile, stays as it is.

    Raises:
        OSError: It cannot be written.
    """
    scratch = Path(tempfile.mkdtemp(prefix=f".{folder.name}.", suffix=SCRATCH_SUFFIX, dir=folder.parent))
    try:
        yield scratch
        for path in scratch.rglob("*"):
            if path.is_file():
                _flush(path)
        try:
            scratch.rename(folder)
        except OSError:
            if not folder.is_dir():
                raise
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


def _scratch(target: Path) -> Path:
    """The process number keeps two processes that write the same file apart."""
    return target.parent / f".{target.name}.{os.getpid()}{SCRATCH_SUFFIX}"


def _flush(path: Path) -> None:
    """Wait until the disk has a file's contents."""
    with path.open("rb+") as file:
        os.fsync(file.fileno())
