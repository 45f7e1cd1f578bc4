"""PNGs of 16 bits a channel: every level of 65,536 arrives, on the scale of 8-bit images."""

from __future__ import annotations

import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
import torch
from folders import CLASSES
from PIL import Image
from published import pixels

from isoscale.data import Dataset, decoded, load
from isoscale.errors import DataError

COLOUR_TYPES = {"grey": (0, 1), "colour": (2, 3), "grey and alpha": (4, 2), "colour and alpha": (6, 4)}


def deep(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 2**16, shape, dtype=np.uint16)


def chunk(name: bytes, content: bytes) -> bytes:
    return struct.pack(">I", len(content)) + name + content + struct.pack(">I", zlib.crc32(name + content))


def rows(levels: np.ndarray) -> bytes:
    """Each row by another of the filters "none", "left" and "above", whose distance is a pixel of all its bytes."""
    height, _, channels = levels.shape
    numbers = np.frombuffer(levels.astype(">u2").tobytes(), np.uint8).reshape(height, -1)
    out = b""
    for y in range(height):
        kind = y % 3
        left = np.concatenate([np.zeros(2 * channels, np.uint8), numbers[y, : -2 * channels]])
        above = numbers[y - 1] if y else np.zeros_like(left)
        predicted = (np.zeros_like(left), left, above)[kind]
        out += bytes([kind]) + (numbers[y] - predicted).astype(np.uint8).tobytes()
    return out


def write_png(path: Path, levels: np.ndarray, colour_type: int) -> Path:
    """As the PNG specification says; Pillow writes 16 bits of grey only."""
    path.parent.mkdir(parents=True, exist_ok=True)
    height, width, _ = levels.shape
    header = struct.pack(">IIBBBBB", width, height, 16, colour_type, 0, 0, 0)
    content = chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(rows(levels))) + chunk(b"IEND", b"")
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + content)
    return path


def fill(home: Path, kind: str) -> np.ndarray:
    """Five images a class; returns those for training, (samples, height, width, channels)."""
    colour_type, channels = COLOUR_TYPES[kind]
    images = deep(15, 7, 6, channels)
    for label, name in enumerate(CLASSES):
        for k in range(5):
            write_png(home / name / f"{k}.png", images[5 * label + k], colour_type)
    return np.delete(images, [4, 9, 14], axis=0)


def standard(levels: np.ndarray) -> np.ndarray:
    """(N, H, W, C) -> standardised (N, C, H, W)."""
    x = levels.astype(np.float64).transpose(0, 3, 1, 2)
    return (x - x.mean((0, 2, 3), keepdims=True)) / x.std((0, 2, 3), keepdims=True)


def close(data: Dataset, expected: np.ndarray, atol: float = 1e-6) -> None:
    np.testing.assert_allclose(data.train_x.numpy(), expected, rtol=1e-5, atol=atol)


@pytest.mark.parametrize("kind", COLOUR_TYPES)
def test_every_level_arrives(tmp_path: Path, kind: str) -> None:
    levels = fill(tmp_path, kind)
    colours = levels[..., :1] if "grey" in kind else levels[..., :3]
    close(load("image-folder", tmp_path), standard(np.broadcast_to(colours, (*colours.shape[:3], 3))))
    luminance = colours if "grey" in kind else colours @ np.array([[0.299], [0.587], [0.114]])
    close(load("image-folder", tmp_path, grey=True), standard(luminance), atol=1e-4)


def test_pillow_wrote_the_file(tmp_path: Path) -> None:
    levels = deep(15, 7, 6)
    for label, name in enumerate(CLASSES):
        (tmp_path / name).mkdir()
        for k in range(5):
            Image.fromarray(levels[5 * label + k]).save(tmp_path / name / f"{k}.png")
    close(load("image-folder", tmp_path, grey=True), standard(np.delete(levels, [4, 9, 14], axis=0)[..., None]))


@pytest.mark.parametrize("options", [{}, {"size": 3}, {"grey": True, "size": 9}])
def test_the_scale_is_that_of_8_bits(tmp_path: Path, options: dict[str, int]) -> None:
    """257 times the level of 8 bits is the same colour with 16: white is 255 and 65,535."""
    for k, name in enumerate(CLASSES * 5):
        levels = pixels(8, 6, 3, seed=k)
        (tmp_path / "8" / name).mkdir(parents=True, exist_ok=True)
        Image.fromarray(levels).save(tmp_path / "8" / name / f"{k:02}.png")
        write_png(tmp_path / "16" / name / f"{k:02}.png", levels.astype(np.uint16) * 257, 2)
    ours = load("image-folder", tmp_path / "16", **options)
    theirs = load("image-folder", tmp_path / "8", **options)
    # Where something is averaged, 8 bits round to whole levels: once each way in which an image is resized.
    channel = theirs.train_x[:, 0]
    level = channel.unique().diff().min()
    assert (ours.train_x - theirs.train_x).abs().max() < (1.6 * level if options else 1e-5)
    assert torch.equal(ours.train_y, theirs.train_y)


def test_resizing_rounds_no_level_of_a_constant_image(tmp_path: Path) -> None:
    """Neighbours of 65,536 levels are told apart after resizing too."""
    for k, name in enumerate(CLASSES * 5):
        constant = np.full((7, 9, 1), 40_000 + k, np.uint16)
        write_png(tmp_path / name / f"{k:02}.png", constant, 0)
    data = load("image-folder", tmp_path, size=4, grey=True)
    assert len(data.train_x.unique()) == 12


def test_the_same_through_the_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fill(tmp_path / "data", "colour")
    in_memory = load("image-folder", tmp_path / "data").fingerprint
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(decoded, "IN_MEMORY_BYTES", 0)
    assert load("image-folder", tmp_path / "data").fingerprint == in_memory


@pytest.mark.parametrize("threshold", [0, 2**40], ids=["cached", "in memory"])
def test_8_and_16_bits_in_one_folder_are_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, threshold: int
) -> None:
    """The levels of one would be read as those of the other."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(decoded, "IN_MEMORY_BYTES", threshold)
    fill(tmp_path / "data", "colour")
    odd = tmp_path / "data" / "bee" / "2.png"
    Image.fromarray(pixels(7, 6, 3)).save(odd)
    with pytest.raises(DataError) as info:
        load("image-folder", tmp_path / "data")
    assert str(info.value) == f"{odd} has 8 bits a channel, 0.png has 16. Save all with as many"


@pytest.mark.parametrize("kind", COLOUR_TYPES)
def test_damaged_files_are_named(tmp_path: Path, kind: str) -> None:
    fill(tmp_path, kind)
    path = tmp_path / "bee" / "2.png"
    whole = path.read_bytes()
    for content in (whole[: len(whole) // 2], whole[:60], whole[:20]):
        path.write_bytes(content)
        with pytest.raises(DataError, match="is damaged: ") as info:
            load("image-folder", tmp_path)
        assert str(info.value).startswith(str(path))
