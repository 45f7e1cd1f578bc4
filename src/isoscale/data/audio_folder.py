"""Folders of WAV files, a sub-folder for each class, as sequences of one channel."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Int16

from isoscale import checks
from isoscale.data import class_folders, files
from isoscale.data.dataset import Dataset
from isoscale.data.decoded import Source, decoded
from isoscale.errors import DataError

SUFFIXES = (".wav",)
_NOT_READ = (".flac", ".mp3", ".ogg", ".oga", ".opus", ".m4a", ".aac", ".wma", ".aif", ".aiff", ".au", ".caf", ".w64")
_FULL_SCALE = 2**15


class _Sound(NamedTuple):
    """A file's levels, and whether it has more bits than they have."""

    rate: int
    samples: Int16[np.ndarray, " length"]
    narrowed: bool


def audio_folder(folder: Path, *, length: int | None = None) -> Dataset:
    """The sounds of a folder as sequences (samples, 1, length), standardised by the training sounds' mean and std.

    Channels are averaged. Every encoding becomes 16-bit first, so that mean and variance are exact: of integers of
    24, 32 or 64 bits the upper 16 are kept, and 1.0 is full scale of floats. A folder of more
    than 256 MiB, decoded, need not fit into memory: it is decoded once into the cache folder, as an image folder is.

    Args:
        folder: Has `train/<class>/` and `test/<class>/` (or `val/`), or `<class>/` alone: then every fifth file of
            each class is held out. Files may lie at any depth below their class.
        length: Cut each sound after so many samples, or add silence at its end; by default all must have one length.

    Raises:
        InvalidValueError, InvalidTypeError: A `length` that makes no sense.
        DataError: A class is missing or empty, or has sounds of other kinds (FLAC, MP3, ...); a file is damaged, is
            not finite, is louder than full scale, has another rate or length than the first; all is silence or too
            quiet for 16 bits; or the cache folder has no room.
    """
    if length is not None:
        length = checks.whole("length", length)
    found = class_folders.find(folder, SUFFIXES, "sounds", _NOT_READ)
    train = len(found.train.paths)
    test = len(found.test.paths)
    first = found.train.paths[0]
    sound = _read(first)
    note = f"{train:,} training sounds of {len(found.classes)} classes from {folder.name}, "
    note += f"{sound.rate:,} Hz, {test:,} test sounds{found.note}"
    return decoded(
        Source(
            name="audio-folder",
            folder=folder,
            found=found,
            note=note,
            options={"length": length},
            read=_reader(
                first.name,
                rate=sound.rate,
                samples=len(sound.samples),
                length=length,
            ),
            # The dropped bits are noise of up to one level: sounds no larger than that would be lost in it.
            least_std=1 if sound.narrowed else 0,
            refusal=_refusal(folder, sound.narrowed),
        )
    )


def _refusal(folder: Path, narrowed: bool) -> Callable[[int], str]:
    if narrowed:
        fact = "are silent, or too quiet for the 16 bits that are kept of them. Scale them, or write them with 16 bits"
    else:
        fact = "are silent"
    return lambda _: f"training sounds of {folder} {fact}"


def _reader(first: str, rate: int, samples: int, length: int | None) -> Callable[[Path], Int16[np.ndarray, "1 length"]]:
    """Reads sounds that have the rate of the first and, unless a length is given, its length."""

    def read(path: Path) -> Int16[np.ndarray, "1 length"]:
        sound = _read(path)
        if sound.rate != rate:
            raise DataError(f"{path} has {sound.rate:,} Hz, {first} {rate:,} Hz. Bring all sounds to one rate")
        count = len(sound.samples)
        if length is None:
            # What a `length` would change is for the user to say: sounds are cut, or end in silence.
            if count != samples:
                raise DataError(f"{path} has {count:,} samples, {first} {samples:,}. Give them one `length`")
            return sound.samples[None]
        missing = max(0, length - count)
        beginning = sound.samples[:length]
        padded = np.pad(beginning, (0, missing))
        return padded[None]

    return read


def _read(path: Path) -> _Sound:
    from scipy.io import wavfile

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error")  # a cut file is a warning to scipy
            warnings.filterwarnings("ignore", message="Chunk .non-data. not understood")
            rate, samples = wavfile.read(path)
    except Exception as error:  # what a damaged file makes of a parser is not documented
        raise files.damaged(path, str(error) or "no WAV file", ", or take it away") from error
    if samples.size == 0:
        raise files.damaged(path, "no samples", ", or take it away")
    # RIFX files are big-endian, which is another type to numpy.
    samples = samples.astype(samples.dtype.newbyteorder("="), copy=False)
    levels = _as_16_bit(path, samples)
    return _Sound(
        rate=rate,
        samples=_mono(levels),
        narrowed=samples.itemsize > levels.itemsize,
    )


def _as_16_bit(path: Path, samples: np.ndarray) -> Int16[np.ndarray, " length ..."]:
    kind = samples.dtype
    if kind == np.int16:
        return samples
    if kind == np.uint8:
        return (samples.astype(np.int16) - 128) << 8
    if kind in (np.int32, np.int64):
        # 24 bits too: scipy puts them into the upper part of 32.
        dropped = 8 * kind.itemsize - 16
        return (samples >> dropped).astype(np.int16)
    if kind in (np.float32, np.float64):
        return _from_float(path, samples)
    raise DataError(f"{path} has samples of type {kind}. Write it with integers of 16 bits")


def _from_float(path: Path, samples: Float[np.ndarray, " length ..."]) -> Int16[np.ndarray, " length ..."]:
    wrong = samples.size - np.isfinite(samples).sum()
    if wrong:
        raise DataError(
            f"{path} has {wrong:,} of {samples.size:,} samples that are NaN or infinite. Write it again without them, "
            "or take it away"
        )
    scaled = samples.astype(np.float64) * _FULL_SCALE
    levels = np.rint(scaled)
    # 1.0 is one level more than 16 bits have, and clipped by everybody; what is louder is not full scale 1.0.
    beyond = (np.abs(levels) > _FULL_SCALE).sum()
    if beyond:
        loudest = np.abs(samples).max()
        raise DataError(
            f"{path} has {beyond:,} of {samples.size:,} samples beyond full scale, -1 to 1; the loudest is "
            f"{loudest:.6g}. Divide all sounds by one number"
        )
    levels = np.minimum(levels, _FULL_SCALE - 1)
    return levels.astype(np.int16)


def _mono(samples: Int16[np.ndarray, " length ..."]) -> Int16[np.ndarray, " length"]:
    if samples.ndim == 1:
        return samples
    channels = samples.shape[1]
    # Whole levels, rounded down: the same on every machine.
    mean = samples.sum(1, dtype=np.int64) // channels
    return mean.astype(np.int16)
