"""Sounds arrive with their levels, or are refused by name: no NaN becomes silence, no loud sample is cut off."""

from __future__ import annotations

import wave
from pathlib import Path

import numpy as np
import pytest
from folders import CLASSES
from scipy.io import wavfile

from isoscale.data import Dataset, load
from isoscale.errors import DataError


def levels(seed: int, spread: float = 3000.0) -> np.ndarray:
    return (spread * np.random.default_rng(seed).standard_normal(40)).astype(np.int16)


def write(path: Path, samples: np.ndarray) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    wavfile.write(path, 8000, samples)
    return path


def write_24_bits(path: Path, samples: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with wave.open(str(path), "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(3)
        file.setframerate(8000)
        file.writeframes(b"".join(int(sample).to_bytes(3, "little", signed=True) for sample in samples))


def write_rifx(path: Path, samples: np.ndarray) -> None:
    """The big-endian form of a WAV file, of 16 bits."""
    write(path, samples)
    content = path.read_bytes()
    header = np.frombuffer(content[4:8] + content[16:20], "<u4").astype(">u4").tobytes()
    words = np.frombuffer(content[20:24] + content[32:36], "<u2").astype(">u2").tobytes()
    rates = np.frombuffer(content[24:32] + content[40:44], "<u4").astype(">u4").tobytes()
    body = samples.astype(">i2").tobytes()
    path.write_bytes(
        b"RIFX" + header[:4] + b"WAVEfmt " + header[4:] + words[:4] + rates[:8] + words[4:] + b"data" + rates[8:] + body
    )


ENCODINGS = {
    "24 bits": lambda path, x: write_24_bits(path, x.astype(np.int64) << 8),
    "32 bits": lambda path, x: write(path, x.astype(np.int32) << 16),
    "64 bits": lambda path, x: write(path, x.astype(np.int64) << 48),
    "float32": lambda path, x: write(path, (x / 2**15).astype(np.float32)),
    "float64": lambda path, x: write(path, x / 2**15),
    "big-endian": write_rifx,
}


def loaded(folder: Path) -> Dataset:
    return load("audio-folder", folder)


@pytest.mark.parametrize("encoding", ENCODINGS)
def test_every_encoding_gives_the_data_set_of_16_bits(tmp_path: Path, encoding: str) -> None:
    for k, name in enumerate(CLASSES * 5):
        write(tmp_path / "16 bits" / name / f"{k:02}.wav", levels(k))
        place = tmp_path / encoding / name / f"{k:02}.wav"
        place.parent.mkdir(parents=True, exist_ok=True)
        ENCODINGS[encoding](place, levels(k))
    assert loaded(tmp_path / encoding).fingerprint == loaded(tmp_path / "16 bits").fingerprint


def fill(folder: Path, kind: type, scale: float) -> Path:
    """Five sounds a class; returns one of them."""
    for k, name in enumerate(CLASSES * 5):
        write(folder / name / f"{k:02}.wav", (scale * levels(k)).astype(kind))
    return folder / "bee" / "07.wav"


def refusal(folder: Path) -> str:
    with pytest.raises(DataError) as info:
        loaded(folder)
    return str(info.value)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_a_sound_that_is_not_finite_is_refused(tmp_path: Path, value: float) -> None:
    odd = fill(tmp_path, np.float32, 2.0**-15)
    samples = wavfile.read(odd)[1].copy()
    samples[[3, 8]] = value
    write(odd, samples)
    assert refusal(tmp_path) == (
        f"{odd} has 2 of 40 samples that are NaN or infinite. Write it again without them, or take it away"
    )


def test_a_sound_louder_than_full_scale_is_refused(tmp_path: Path) -> None:
    """Floats on the scale of 16-bit integers would become a sign each."""
    odd = fill(tmp_path, np.float32, 2.0**-15)
    samples = wavfile.read(odd)[1].copy()
    samples[:4] = [1.0, -1.0, -3.5, 1.25]
    write(odd, samples)
    assert refusal(tmp_path) == (
        f"{odd} has 2 of 40 samples beyond full scale, -1 to 1; the loudest is 3.5. Divide all sounds by one number"
    )


def test_full_scale_itself_is_read(tmp_path: Path) -> None:
    odd = fill(tmp_path, np.float32, 2.0**-15)
    samples = wavfile.read(odd)[1].copy()
    samples[:4] = [1.0, -1.0, 0.0, 0.5]
    write(odd, samples)
    data = loaded(tmp_path)
    high, low, none, half = next(x[0, :4].double() for x in data.train_x if x.max() == data.train_x.max())
    # Of 16 bits, 1.0 is the highest of 65,536 levels and -1.0 the lowest.
    assert float((high - low) / (half - none)) == pytest.approx(65_535 / 16_384, abs=1e-5)


@pytest.mark.parametrize("kind", [np.int32, np.int64])
def test_16_bit_numbers_in_longer_integers_are_refused(tmp_path: Path, kind: type) -> None:
    """Nothing but their signs is in the upper 16 bits."""
    fill(tmp_path, kind, 1.0)
    assert refusal(tmp_path) == (
        f"training sounds of {tmp_path} are silent, or too quiet for the 16 bits that are kept of them. Scale them, or "
        "write them with 16 bits"
    )


def test_quiet_sounds_of_16_bits_are_read_and_one_quiet_sound_of_32_among_others(tmp_path: Path) -> None:
    """The first lose nothing; the second loses what is small beside the data set's standard deviation."""
    fill(tmp_path / "16", np.int16, 4e-4)
    assert len(loaded(tmp_path / "16").train_x.unique()) > 1
    odd = fill(tmp_path / "32", np.int32, 2.0**16)
    write(odd, np.array([-5, 5] * 20, np.int32))
    assert len(loaded(tmp_path / "32").train_x) == 12
