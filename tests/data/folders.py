"""Folders of images and of sounds for tests, and how each kind is written."""

from __future__ import annotations

import wave
from collections.abc import Callable
from pathlib import Path

import numpy as np
from PIL import Image
from published import pixels

CLASSES = ("ant", "bee", "cat")


def write_image(path: Path, seed: int, size: tuple[int, int] = (6, 5), mode: str = "RGB") -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    shape = (size[1], size[0]) if mode == "L" else (size[1], size[0], 3)
    Image.fromarray(pixels(*shape, seed=seed)).save(path)
    return path


def write_sound(path: Path, seed: int, length: int = 40, rate: int = 8000) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    levels = np.random.default_rng(seed).integers(-(2**15), 2**15, length, dtype=np.int16)
    with wave.open(str(path), "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(rate)
        file.writeframes(levels.astype("<i2").tobytes())
    return path


KINDS = {"image-folder": (".png", write_image), "audio-folder": (".wav", write_sound)}


def fill(home: Path, suffix: str, write: Callable[..., Path], count: int, first: int = 0) -> None:
    for label, name in enumerate(CLASSES):
        for k in range(count):
            write(home / name / f"{k:03}{suffix}", seed=first + 100 * label + k)
