"""Folders of images and of sounds: every layout is read, and what is wrong is named."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from folders import CLASSES, KINDS, fill, write_image, write_sound
from PIL import Image
from published import pixels
from scipy.io import wavfile

from isoscale.data import load
from isoscale.errors import DataError, InvalidTypeError, InvalidValueError


@pytest.fixture(params=KINDS)
def kind(request: pytest.FixtureRequest) -> tuple[str, str, Callable[..., Path]]:
    return request.param, *KINDS[request.param]


def error(name: str, folder: Path, **options: object) -> str:
    with pytest.raises(DataError) as info:
        load(name, folder, **options)
    message = str(info.value)
    assert "\n" not in message
    return message


@pytest.mark.parametrize("test_name", ["test", "val"])
def test_train_and_test_folders(tmp_path: Path, kind: tuple, test_name: str) -> None:
    name, suffix, write = kind
    fill(tmp_path / "train", suffix, write, 4)
    fill(tmp_path / test_name, suffix, write, 2, first=50)
    data = load(name, tmp_path)
    assert data.train_y.tolist() == [0] * 4 + [1] * 4 + [2] * 4
    assert data.test_y.tolist() == [0, 0, 1, 1, 2, 2]
    axes = (0, *range(2, data.train_x.ndim))
    assert data.train_x.double().mean(axes).abs().max() < 1e-6
    assert (data.train_x.double().std(axes, correction=0) - 1).abs().max() < 1e-6
    assert data.fingerprint == load(name, tmp_path).fingerprint


def test_every_fifth_is_held_out_of_bare_classes(tmp_path: Path, kind: tuple) -> None:
    name, suffix, write = kind
    fill(tmp_path, suffix, write, 11)
    data = load(name, tmp_path)
    assert (data.train_y.bincount().tolist(), data.test_y.bincount().tolist()) == ([9] * 3, [2] * 3)
    assert data.note.endswith(
        "6 test " + ("images" if name == "image-folder" else "sounds") + ": every fifth of each class held out"
    )


def test_pixels_and_levels_are_those_of_the_files(tmp_path: Path) -> None:
    fill(tmp_path / "i" / "train", ".png", write_image, 2)
    fill(tmp_path / "i" / "test", ".png", write_image, 1, first=7)
    images = np.stack([pixels(5, 6, 3, seed=seed) for seed in (0, 1, 100, 101, 200, 201)]).transpose(0, 3, 1, 2)
    mean, std = images.mean((0, 2, 3), keepdims=True), images.std((0, 2, 3), keepdims=True)
    data = load("image-folder", tmp_path / "i")
    np.testing.assert_allclose(data.train_x.numpy(), (images - mean) / std, rtol=1e-5, atol=1e-6)
    fill(tmp_path / "a" / "train", ".wav", write_sound, 2)
    fill(tmp_path / "a" / "test", ".wav", write_sound, 1, first=7)
    sounds = np.stack([wavfile.read(path)[1] for path in sorted((tmp_path / "a" / "train").rglob("*.wav"))])
    data = load("audio-folder", tmp_path / "a")
    assert data.in_shape == (1, 40)
    np.testing.assert_allclose(
        data.train_x[:, 0].numpy(), (sounds - sounds.mean()) / sounds.std(), rtol=1e-5, atol=1e-5
    )


def test_images_below_their_class_grey_jpeg_and_other_sizes(tmp_path: Path) -> None:
    for split in ("train", "val"):
        write_image(tmp_path / split / "n1" / "images" / "a.JPEG", 1, (8, 12))
        write_image(tmp_path / split / "n2" / "images" / "b.jpg", 2, (9, 8), mode="L")
        (tmp_path / split / "n2" / "boxes.txt").write_text("not an image")
    assert load("image-folder", tmp_path, size=4).in_shape == (3, 4, 4)
    assert load("image-folder", tmp_path, size=8, grey=True).in_shape == (1, 8, 8)
    message = error("image-folder", tmp_path)
    assert message == f"{tmp_path}/train/n2/images/b.jpg is 9x8, a.JPEG is 8x12. Give them one `size`"


def test_resizing_takes_the_middle(tmp_path: Path) -> None:
    """Columns 2 to 3 of six, whatever lies beside them."""
    for split in ("train", "test"):
        for k, name in enumerate(CLASSES):
            stripes = np.zeros((2, 6, 3), np.uint8)
            stripes[:, 2:4] = 40 * k + 20
            stripes[:, :2] = 255
            path = tmp_path / split / name / "a.png"
            path.parent.mkdir(parents=True)
            Image.fromarray(stripes).save(path)
    data = load("image-folder", tmp_path, size=2)
    assert (data.train_x.flatten(1).std(1) == 0).all()
    np.testing.assert_allclose(data.train_x[:, 0, 0, 0], np.array([-1, 0, 1]) * 1.5**0.5, atol=1e-6)


def test_sounds_of_every_encoding(tmp_path: Path) -> None:
    """The same levels as 8, 16 and 32 bits, as floats and as two equal channels."""
    levels = np.array([-128, -64, 0, 64, 127, 5], np.int16)
    encodings = [
        (levels + 128).astype(np.uint8),
        (levels << 8).astype(np.int16),
        levels.astype(np.int32) << 24,
        (levels / 128).astype(np.float32),
        np.stack([levels << 8] * 2, axis=1).astype(np.int16),
    ]
    for split in ("train", "test"):
        for k, samples in enumerate(encodings):
            path = tmp_path / split / f"class{k}" / "a.wav"
            path.parent.mkdir(parents=True)
            wavfile.write(path, 8000, samples)
    x = load("audio-folder", tmp_path).train_x
    assert (x == x[0]).all()


def test_lengths_are_cut_and_filled_with_silence(tmp_path: Path) -> None:
    for split in ("train", "test"):
        write_sound(tmp_path / split / "ant" / "a.wav", 1, length=30)
        write_sound(tmp_path / split / "bee" / "b.wav", 2, length=50)
    assert error("audio-folder", tmp_path).endswith("b.wav has 50 samples, a.wav 30. Give them one `length`")
    x = load("audio-folder", tmp_path, length=40).train_x[:, 0]
    assert x.shape == (2, 40)
    assert (x[0, 30:] == x[0, 30]).all()


def test_damaged_files_are_named(tmp_path: Path, kind: tuple) -> None:
    name, suffix, write = kind
    fill(tmp_path, suffix, write, 5)
    path = tmp_path / "bee" / f"002{suffix}"
    sound = path.read_bytes()
    for content in (b"", sound[: len(sound) // 2], b"<html>404</html>", sound[:20]):
        path.write_bytes(content)
        message = error(name, tmp_path)
        assert message.startswith(f"{path} is damaged: ")
        assert message.endswith("Get it again, or take it away")


def test_classes_that_are_missing_are_named(tmp_path: Path, kind: tuple) -> None:
    name, suffix, write = kind
    what = "images" if name == "image-folder" else "sounds"
    assert error(name, tmp_path) == f"{tmp_path} has 0 class folders, expected at least two with {what} in each"
    fill(tmp_path / "train", suffix, write, 2)
    assert error(name, tmp_path).startswith(f"{tmp_path} has a folder train and none for testing")
    fill(tmp_path / "test", suffix, write, 1)
    (tmp_path / "train" / "dog").mkdir()
    assert error(name, tmp_path).startswith(f"{tmp_path}/train/dog has no {what} (")
    write(tmp_path / "train" / "dog" / f"a{suffix}", seed=1)
    assert error(name, tmp_path) == f"{tmp_path}/test has no class dog. Each class needs {what} in both splits"
    write(tmp_path / "test" / "dog" / f"a{suffix}", seed=1)
    write(tmp_path / "test" / "eel" / f"a{suffix}", seed=1)
    assert error(name, tmp_path).startswith(f"{tmp_path}/train has no class eel.")


@pytest.mark.parametrize("suffix", [".tif", ".WEBP", ".flac", ".mp3"])
def test_files_that_would_be_left_out_in_silence_are_named(tmp_path: Path, suffix: str) -> None:
    name = "image-folder" if suffix.lower() in (".tif", ".webp") else "audio-folder"
    own, write = KINDS[name]
    fill(tmp_path, own, write, 5)
    (tmp_path / "bee" / f"7{suffix}").write_bytes(b"?")
    message = error(name, tmp_path)
    assert f"7{suffix} is of a kind that is not read (1 in bee; {own}" in message
    (tmp_path / "bee" / f"7{suffix}").rename(tmp_path / "bee" / "notes.txt")
    assert len(load(name, tmp_path).train_x) == 12


@pytest.mark.parametrize("grey", [False, True])
@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGBA", "CMYK"])
def test_every_mode_of_8_bits_keeps_its_levels(tmp_path: Path, mode: str, grey: bool) -> None:
    """The samples are those of the same images saved as RGB, or grey, before."""
    suffix = ".jpg" if mode == "CMYK" else ".png"
    for label, name in enumerate(CLASSES):
        for k in range(5):
            image = Image.fromarray(pixels(5, 6, 3, seed=100 * label + k)).convert(mode)
            for home, as_is in (("own", True), ("plain", False)):
                path = tmp_path / home / name / f"{k}{suffix if as_is else '.png'}"
                path.parent.mkdir(parents=True, exist_ok=True)
                if as_is:
                    image.save(path)
                else:
                    # What JPEG loses is lost before.
                    with Image.open(tmp_path / "own" / name / f"{k}{suffix}") as saved:
                        saved.convert("L" if grey else "RGB").save(path)
    own = load("image-folder", tmp_path / "own", grey=grey)
    plain = load("image-folder", tmp_path / "plain", grey=grey)
    assert own.train_x.shape[1] == (1 if grey else 3)
    assert torch.equal(own.train_x, plain.train_x)
    assert torch.equal(own.test_x, plain.test_x)


def test_too_few_to_hold_one_out(tmp_path: Path, kind: tuple) -> None:
    name, suffix, write = kind
    fill(tmp_path, suffix, write, 4)
    assert error(name, tmp_path).startswith("class ant has 4 ")


def test_sounds_of_two_rates_and_silence(tmp_path: Path) -> None:
    fill(tmp_path, ".wav", write_sound, 5)
    write_sound(tmp_path / "cat" / "001.wav", 1, rate=16000)
    assert error("audio-folder", tmp_path).endswith(
        "001.wav has 16,000 Hz, 000.wav 8,000 Hz. Bring all sounds to one rate"
    )
    for path in tmp_path.rglob("*.wav"):
        wavfile.write(path, 8000, np.zeros(40, np.int16))
    assert error("audio-folder", tmp_path) == f"training sounds of {tmp_path} are silent"


@pytest.mark.parametrize(("name", "option"), [("image-folder", "size"), ("audio-folder", "length")])
def test_bad_options_are_named(tmp_path: Path, name: str, option: str) -> None:
    with pytest.raises(InvalidValueError, match=f"`{option}` must be >= 1, got 0"):
        load(name, tmp_path, **{option: 0})
    with pytest.raises(InvalidTypeError, match=f"`{option}` must be a whole number, got '8'"):
        load(name, tmp_path, **{option: "8"})
