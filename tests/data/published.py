"""Makes small data sets in their published formats, and damages them."""

from __future__ import annotations

import gzip
import lzma
from collections.abc import Callable
from pathlib import Path

import numpy as np
from hypothesis import strategies as st

from isoscale.data import Dataset
from isoscale.errors import DataError

SUFFIXES = ["", ".gz", ".xz"]
_PACK: dict[str, Callable[[bytes], bytes]] = {"": bytes, ".gz": gzip.compress, ".xz": lzma.compress}


def pack(content: bytes, suffix: str) -> bytes:
    return _PACK[suffix](content)


def write(folder: Path, name: str, content: bytes, suffix: str = "") -> Path:
    """Write `content`, packed as the suffix says, making the folders on the way."""
    path = folder / (name + suffix)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(pack(content, suffix))
    return path


def labels(samples: int) -> np.ndarray:
    return (np.arange(samples) % 10).astype(np.uint8)


def pixels(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)


def idx(array: np.ndarray) -> bytes:
    """An IDX file of unsigned bytes."""
    return bytes([0, 0, 8, array.ndim]) + np.array(array.shape, ">u4").tobytes() + array.tobytes()


def cifar(records: int, seed: int = 0) -> bytes:
    """A CIFAR-10 binary batch."""
    images = pixels(records, 3 * 32 * 32, seed=seed)
    return np.concatenate([labels(records)[:, None], images], axis=1).tobytes()


def damages(size: int) -> st.SearchStrategy[Callable[[bytes], bytes]]:
    """Cut a file of this many bytes, or change one byte of it; its header is hit as often as all the rest."""
    places = st.integers(0, min(size, 20) - 1) | st.integers(0, size - 1)
    return st.builds(_cut, places) | st.builds(_flip, places, st.integers(1, 255))


def _cut(place: int) -> Callable[[bytes], bytes]:
    return lambda content: content[:place]


def _flip(place: int, mask: int) -> Callable[[bytes], bytes]:
    return lambda content: content[:place] + bytes([content[place] ^ mask]) + content[place + 1 :]


def error_or(read: Callable[[], Dataset]) -> Dataset | str:
    """What was read, or the message of the only error that damaged files may give."""
    try:
        return read()
    except DataError as error:
        return str(error)


def differences(one: Dataset, other: Dataset) -> int:
    """How many test pixels and test labels differ."""
    return int((one.test_x != other.test_x).sum() + (one.test_y != other.test_y).sum())
