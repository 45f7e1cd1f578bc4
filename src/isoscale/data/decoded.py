"""A data set decoded from files, one sample each: in memory if it is small, else once into files that are mapped.

What does not fit is decoded file by file. Training samples go to the disk as the integers that they are while their
moments are summed, and then, one by one, standardised into `.npy` files in the cache folder, as `arrays` reads them.
No more than one sample is in memory at a time, every worker and later run maps the same pages, and the numbers, and so
the fingerprint, are the same to the last bit as those of the data set in memory.
"""

from __future__ import annotations

import dataclasses
import json
import logging
import math
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float32, Integer

from isoscale.data import cache, files
from isoscale.data.arrays import arrays
from isoscale.data.class_folders import Files, Found
from isoscale.data.dataset import META, Dataset, Digest
from isoscale.data.standardise import Moments, Split, look_up, standardised
from isoscale.errors import DataError

# Data sets of more float32 bytes are mapped. Of one in memory every worker process holds a copy, so that with a worker
# a core these MiB are GiB; and what is smaller decodes in seconds, which is not worth a folder in the cache.
IN_MEMORY_BYTES = 2**28

# Goes up whenever the same files become other numbers.
_VERSION = 2

_log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class Source:
    """Files that make a data set.

    Attributes:
        name: Of the data set, in the registry.
        folder: Where the files are.
        found: Which they are.
        note: Of the data set.
        options: Of the reader, as JSON takes them.
        decoders: Versions of what decodes the files, of which others may give other levels.
        read: A file as levels (channels, *positions), uint8, uint16 or int16, all of one shape and type; raises
            DataError.
        refusal: What to say if a channel of all training files is one level, which it is told.
        least_std: Say so too of a channel whose standard deviation is less than so many levels.
    """

    name: str
    folder: Path
    found: Found
    note: str
    options: dict[str, Any]
    decoders: tuple[str | None, ...] = ()
    read: Callable[[Path], Integer[np.ndarray, " channels *positions"]]
    refusal: Callable[[int], str]
    least_std: int = 0


@dataclass(frozen=True)
class _Sizes:
    """What the first sample and the number of files say of all."""

    shape: tuple[int, ...]
    dtype: np.dtype
    train: int
    test: int

    @property
    def decoded(self) -> int:
        """Bytes of the standardised samples."""
        samples = self.train + self.test
        return 4 * samples * math.prod(self.shape)

    @property
    def on_disk(self) -> int:
        """Bytes that are needed while they are made: the levels of the training samples too."""
        one = math.prod(self.shape)
        levels = self.train * one * self.dtype.itemsize
        labels = 8 * (self.train + self.test)
        return self.decoded + levels + labels


def decoded(source: Source) -> Dataset:
    """The data set of the files, standardised.

    Raises:
        DataError: A file is damaged or does not fit the others, a channel is constant, or the cache has no room.
    """
    train_paths = source.found.train.paths
    test_paths = source.found.test.paths
    first = source.read(train_paths[0])
    sizes = _Sizes(
        shape=first.shape,
        dtype=first.dtype,
        train=len(train_paths),
        test=len(test_paths),
    )
    if sizes.decoded > IN_MEMORY_BYTES:
        return _mapped(source, sizes)
    return standardised(
        name=source.name,
        train=_split(source.found.train, source, sizes),
        test=_split(source.found.test, source, sizes),
        classes=len(source.found.classes),
        note=source.note,
        refusal=source.refusal,
        least_std=source.least_std,
    )


def _split(files: Files, source: Source, sizes: _Sizes) -> Split:
    # One array, filled as they come: a list of samples and their stack would take the memory twice.
    count = len(files.paths)
    levels = np.empty((count, *sizes.shape), sizes.dtype)
    for sample, path in zip(levels, files.paths, strict=True):
        sample[:] = source.read(path)
    labels = np.array(files.labels, dtype=np.int64)
    return Split(levels, labels)


# --- what does not fit ---
def _mapped(source: Source, sizes: _Sizes) -> Dataset:
    """Decoded into the cache, unless it is there."""
    place = _cached(source, sizes)
    try:
        return _opened(place, source.name)
    except DataError:
        # Something else wrote there, or took it away: once more, from the files.
        cache.discard(place)
        place = _cached(source, sizes)
        return _opened(place, source.name)


def _cached(source: Source, sizes: _Sizes) -> Path:
    def write(place: Path) -> None:
        count = sizes.train + sizes.test
        size = sizes.decoded / 2**30
        _log.warning("decoding %d files of %s, once, into %s: %.1f GiB", count, source.folder, place.parent, size)
        _write(place, source, sizes)

    home = str(source.folder.resolve())
    origin = [source.name, home, source.options]
    state = [_VERSION, source.decoders, _state(source)]
    return cache.folder(
        source.name,
        origin=origin,
        state=state,
        size=sizes.on_disk,
        write=write,
    )


def _state(source: Source) -> list[list[Any]]:
    """Each file's name, size and times, by which a change is seen without reading it."""
    state: list[list[Any]] = []
    for path in source.found.train.paths + source.found.test.paths:
        name = str(path.relative_to(source.folder))
        try:
            found = path.stat()
        except OSError as error:
            raise files.unreadable(path, error) from error
        # The time of change too: files from an archive bring their own times of writing.
        state.append([name, found.st_size, found.st_mtime_ns, found.st_ctime_ns])
    return state


def _opened(place: Path, name: str) -> Dataset:
    dataset = dataclasses.replace(arrays(place), name=name)
    try:
        text = (place / META).read_text(encoding="utf-8")
        fingerprint = str(json.loads(text)["fingerprint"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise DataError(f"{place / META} is damaged: {error}") from error
    # Where a cached property looks first: every worker would read all files to hash them.
    vars(dataset)["fingerprint"] = fingerprint
    return dataset


def _write(place: Path, source: Source, sizes: _Sizes) -> None:
    """The files of `Dataset.save`, and the fingerprint."""
    train, test = source.found.train, source.found.test
    classes = len(source.found.classes)
    # The table needs the moments of all training samples, so these pass twice; decoding them twice takes longer
    # than writing and reading their levels.
    levels_path = place / "levels"
    moments = _write_levels(levels_path, source)
    table = moments.table(sizes.dtype, source.refusal, source.least_std)

    # The order in which a fingerprint takes the four.
    digest = Digest(classes)
    train_levels = _read_levels(levels_path, sizes)
    _write_samples(
        place / "train_x.npy",
        table,
        samples=train_levels,
        count=sizes.train,
        sizes=sizes,
        digest=digest,
    )
    levels_path.unlink()
    _write_labels(place / "train_y.npy", train.labels, digest)
    test_levels = map(source.read, test.paths)
    _write_samples(
        place / "test_x.npy",
        table,
        samples=test_levels,
        count=sizes.test,
        sizes=sizes,
        digest=digest,
    )
    _write_labels(place / "test_y.npy", test.labels, digest)

    meta = {
        "classes": classes,
        "note": source.note,
        "fingerprint": digest.fingerprint,
        "folder": str(source.folder),
    }
    (place / META).write_text(json.dumps(meta), encoding="utf-8")


def _write_levels(path: Path, source: Source) -> Moments:
    moments = Moments()
    with path.open("wb") as file:
        for path in source.found.train.paths:
            sample = source.read(path)
            moments.add(sample[None])
            contiguous = np.ascontiguousarray(sample)
            file.write(contiguous.data)
    return moments


def _read_levels(path: Path, sizes: _Sizes) -> Iterator[Integer[np.ndarray, " channels *positions"]]:
    one = math.prod(sizes.shape)
    with path.open("rb") as file:
        for _ in range(sizes.train):
            numbers = np.fromfile(file, sizes.dtype, one)
            yield numbers.reshape(sizes.shape)


def _write_samples(
    path: Path,
    table: Float32[np.ndarray, "channels levels"],
    samples: Iterable[Integer[np.ndarray, " channels *positions"]],
    count: int,
    sizes: _Sizes,
    digest: Digest,
) -> None:
    """Levels, standardised one sample at a time."""
    shape = (count, *sizes.shape)
    digest.begin(torch.float32, shape)
    parts = (look_up(table, sample[None]) for sample in samples)
    _write_npy(path, np.dtype(np.float32), shape, parts, digest)


def _write_labels(path: Path, labels: list[int], digest: Digest) -> None:
    numbers = np.array(labels, dtype=np.int64)
    digest.begin(torch.int64, numbers.shape)
    _write_npy(path, numbers.dtype, numbers.shape, [numbers], digest)


def _write_npy(
    path: Path, dtype: np.dtype, shape: tuple[int, ...], parts: Iterable[np.ndarray], digest: Digest
) -> None:
    """By writing, not by mapping: where a disk is full, that is an error, and this would end the process."""
    header = {
        "descr": np.lib.format.dtype_to_descr(dtype),
        "fortran_order": False,
        "shape": shape,
    }
    with path.open("wb") as file:
        np.lib.format.write_array_header_1_0(file, header)
        for part in parts:
            contiguous = np.ascontiguousarray(part)
            file.write(contiguous.data)
            digest.update(contiguous)
