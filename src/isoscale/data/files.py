"""Files of a data folder: find one under its published names, unpack it, and say what is wrong with it."""

from __future__ import annotations

import gzip
import lzma
import os
import stat
import zlib
from collections.abc import Iterable
from io import BufferedIOBase
from pathlib import Path
from typing import NamedTuple

import numpy as np
from jaxtyping import UInt8

from isoscale.errors import DataError

SUFFIXES = ("", ".gz", ".xz")
_CHUNK = 1 << 20
_MOST_UNPACKED = 4 << 30
_BROKEN_STREAM = (EOFError, gzip.BadGzipFile, lzma.LZMAError, zlib.error)


class Unpacked(NamedTuple):
    """What came out of a file, and why no more did ("" when the end was reached)."""

    data: bytes
    fault: str


def find(home: Path, *names: str) -> Path | None:
    """The first of these files that `home` has, each looked for plain and packed."""
    for name in names:
        for suffix in SUFFIXES:
            path = home / (name + suffix)
            if _exists(path):
                return path
    return None


def find_home(folder: Path, subfolders: Iterable[str], names: Iterable[str], what: str) -> Path:
    """The first subfolder that has at least one of these files, from which the whole data set is read.

    Raises:
        DataError: None has any; the message lists names and places.
    """
    homes = [folder / subfolder for subfolder in subfolders]
    names = list(names)
    # One place, because two downloads side by side may be different parts of the set.
    for home in homes:
        if find(home, *names):
            return home
    searched = ", ".join(map(str, homes))
    raise DataError(
        f"no {what} in {folder}. Looked for {any_of(names)} in {searched}. "
        "Put the published files there, or give another folder with --data"
    )


def any_of(names: Iterable[str]) -> str:
    """The file names as an error lists them."""
    return f"{' or '.join(names)} (plain, .gz or .xz)"


def unpack(path: Path) -> Unpacked:
    """All bytes of a file up to its end or first fault, unpacked if its name ends in `.gz` or `.xz`.

    Raises:
        DataError: The file cannot be read at all, or unpacks to more than 4 GiB.
    """
    chunks: list[bytes] = []
    size = 0
    fault = ""
    check_no_pipe(path)
    try:
        with _open(path) as stream:
            # read1, not read: a fault must not cost the bytes before it, which an error counts.
            while chunk := stream.read1(_CHUNK):
                chunks.append(chunk)
                size += len(chunk)
                # A few megabytes can unpack to more than any memory; a plain file's size shows.
                if size > _MOST_UNPACKED and path.suffix in SUFFIXES[1:]:
                    raise DataError(
                        f"{path} unpacks to more than {_MOST_UNPACKED:,} bytes: if that is right, unpack it first"
                    )
    except _BROKEN_STREAM as error:
        fault = str(error)
    except OSError as error:
        raise unreadable(path, error) from error
    return Unpacked(b"".join(chunks), fault)


def check_no_pipe(path: Path) -> None:
    """Raise `DataError` for a pipe or a device: to read one is to wait for whoever writes it, perhaps for ever."""
    if not _exists(path):
        return  # whoever opens it says so
    mode = os.stat(path).st_mode
    if not stat.S_ISREG(mode) and not stat.S_ISDIR(mode):
        raise DataError(f"{path} is a pipe or a device, not a file: put a copy in its place")


def check_size(path: Path, unpacked: Unpacked, expected: int, remedy: str = "") -> None:
    """Raise `DataError` unless the file unpacked without fault to `expected` bytes."""
    found = len(unpacked.data)
    # A cut file is best described by its size, a file of another kind or with a wrong checksum by the fault.
    if unpacked.fault and found in (0, expected):
        raise damaged(path, unpacked.fault, remedy)
    if found != expected:
        after = " after unpacking" if path.suffix in SUFFIXES[1:] else ""
        raise damaged(path, f"{found:,} bytes{after}, expected {expected:,}", remedy)


def check_labels(path: Path, labels: UInt8[np.ndarray, " samples"], classes: int, remedy: str = "") -> None:
    """Raise `DataError` unless each label is one of 0 to `classes` - 1."""
    wrong = np.flatnonzero(labels >= classes)
    if wrong.size:
        first = int(wrong[0])
        fact = f"label {labels[first]} for image {first}, expected 0 to {classes - 1}"
        raise damaged(path, fact, remedy)


def damaged(path: Path, fact: str, remedy: str = "") -> DataError:
    """The error for a file whose content is wrong; `remedy` is what helps besides getting it again."""
    return DataError(f"{path} is damaged: {fact}. Get it again{remedy}")


def _open(path: Path) -> BufferedIOBase:
    if path.suffix == ".gz":
        return gzip.GzipFile(path)
    if path.suffix == ".xz":
        # The format is named: a guess may read damaged bytes as .lzma, whose header can ask for any memory.
        return lzma.LZMAFile(path, format=lzma.FORMAT_XZ)
    return path.open("rb")


def _exists(path: Path) -> bool:
    # Not Path.exists: "no permission to look" must not read as "not there".
    try:
        os.stat(path)
    except (FileNotFoundError, NotADirectoryError):
        return False
    except OSError as error:
        raise unreadable(path, error) from error
    return True


def unreadable(path: Path, error: OSError) -> DataError:
    reason = error.strerror or str(error)
    return DataError(f"{path} cannot be read: {reason}. Check the file and its permissions")
