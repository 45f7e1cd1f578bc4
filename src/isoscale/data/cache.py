"""Folders that are made once, kept in the user's cache folder, and read by every process from then on.

A cached folder is complete or it is not there: it is made under another name and then renamed. Its own name is a digest
of what it was made from, so that it is never out of date. All of it can be deleted at any time.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

from isoscale.errors import DataError
from isoscale.extras import needed
from isoscale.files import SCRATCH_SUFFIX, publishing

# What was not written to for so long has no writer any more: its process was killed.
_ABANDONED_SECONDS = 86_400


def home() -> Path:
    """Where cached folders are: `$XDG_CACHE_HOME/isoscale`, `~/.cache/isoscale` or the platform's own place."""
    with needed("sweep", by="the cache of decoded data"):
        import platformdirs

    return platformdirs.user_cache_path("isoscale", appauthor=False)


def folder(name: str, origin: Any, state: Any, size: int, write: Callable[[Path], None]) -> Path:
    """The cached folder of what `write` makes, made now unless it is there.

    Args:
        name: What it begins with.
        origin: What it is made from, as JSON takes it. There is one for each: another state replaces it.
        state: All else that decides its content.
        size: How many bytes it takes, at most.
        write: Fills an empty folder.

    Raises:
        DataError: It cannot be written, for want of room or another reason. Nothing is left of it then.
    """
    family = f"{name}-{_digest(origin)}-"
    place = home() / (family + _digest(state))
    if not place.is_dir():
        try:
            _make(place, size, write)
        except OSError as error:
            raise DataError(
                f"the cache folder {place.parent} cannot hold the {_size(size)} of {name}: {error.strerror or error}. "
                "Make room there, or set XDG_CACHE_HOME to a folder on another disk"
            ) from error
        for old in list(place.parent.glob(family + "*")):
            if old != place:
                discard(old)
    return place


def discard(place: Path) -> None:
    """Take a cached folder away; who has mapped its files keeps them."""
    # In one step: a folder that is half deleted would be taken for a whole one.
    gone = place.with_name(f".{place.name}.{os.getpid()}{SCRATCH_SUFFIX}")
    with suppress(OSError):  # another process was quicker, or still reads it on a system that minds
        place.rename(gone)
    shutil.rmtree(gone, ignore_errors=True)


def _make(place: Path, size: int, write: Callable[[Path], None]) -> None:
    place.parent.mkdir(parents=True, exist_ok=True)
    _clear_abandoned(place.parent)
    free = shutil.disk_usage(place.parent).free
    if free < size:
        # Known before hours of decoding rather than after them.
        raise OSError(f"only {_size(free)} are free")
    with publishing(place) as scratch:
        write(scratch)


def _clear_abandoned(parent: Path) -> None:
    abandoned_before = time.time() - _ABANDONED_SECONDS
    for scratch in parent.glob(f".*{SCRATCH_SUFFIX}"):
        with suppress(OSError):  # its writer is alive and has just finished
            written = [scratch.stat().st_mtime]
            for path in scratch.iterdir():
                written.append(path.stat().st_mtime)
            if max(written) < abandoned_before:
                shutil.rmtree(scratch, ignore_errors=True)


def _digest(value: Any) -> str:
    text = json.dumps(value, sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def _size(count: int) -> str:
    if count >= 2**30:
        return f"{count / 2**30:,.1f} GiB"
    return f"{count / 2**20:,.1f} MiB"
