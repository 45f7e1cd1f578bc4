"""MNIST and Fashion-MNIST in IDX: every layout and packing is read, and every damage is named."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from published import SUFFIXES, damages, differences, error_or, idx, labels, pack, pixels, write

from isoscale.data import Dataset, load
from isoscale.errors import DataError

TRAIN, TEST = 12, 10


def write_half(home: Path, half: str, samples: int, suffix: str = "", first: str = "") -> None:
    write(home, f"{half}-images{first}-idx3-ubyte", idx(pixels(samples, 28, 28, seed=samples)), suffix)
    write(home, f"{half}-labels-idx1-ubyte", idx(labels(samples)), suffix)


def write_set(home: Path, suffix: str = "") -> None:
    write_half(home, "train", TRAIN, suffix)
    write_half(home, "t10k", TEST, suffix)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    write_set(tmp_path / "mnist")
    return tmp_path


def error(folder: Path, name: str = "mnist") -> str:
    with pytest.raises(DataError) as info:
        load(name, folder)
    message = str(info.value)
    assert "\n" not in message
    return message


@pytest.mark.parametrize("suffix", SUFFIXES)
@pytest.mark.parametrize(
    ("name", "home"),
    [
        ("mnist", "MNIST/raw"),
        ("mnist", "mnist"),
        ("fashion-mnist", "FashionMNIST/raw"),
        ("fashion-mnist", "fashion-mnist"),
        ("fashion-mnist", "fashion-mnist-part"),
    ],
)
def test_every_layout_and_packing_gives_the_same_data(
    tmp_path: Path, name: str, home: str, suffix: str, folder: Path
) -> None:
    write_set(tmp_path / "other" / home, suffix)
    data = load(name, tmp_path / "other")
    assert data.name == name
    assert data.fingerprint == load("mnist", folder).fingerprint


def test_images_and_labels_keep_their_places(folder: Path) -> None:
    data = load("mnist", folder)
    images = pixels(TRAIN, 28, 28, seed=TRAIN)
    expected = (images - images.mean()) / images.std()
    np.testing.assert_allclose(data.train_x[:, 0].numpy(), expected, rtol=1e-5, atol=1e-6)
    assert data.train_y.tolist() == labels(TRAIN).tolist()
    assert data.test_x.shape == (TEST, 1, 28, 28)
    assert data.note == "12 MNIST training images, 10 test images"


def test_labels_beyond_the_last_image_are_dropped(tmp_path: Path) -> None:
    home = tmp_path / "fashion-mnist-part"
    write_half(home, "train", TRAIN, ".gz", first="-first8226")
    write_half(home, "t10k", TEST, ".gz", first="-first1770")
    # A label that belongs to no image is not looked at, legal or not.
    write(home, "train-labels-idx1-ubyte", idx(np.append(labels(TRAIN), [3, 200]).astype(np.uint8)), ".gz")
    data = load("fashion-mnist", tmp_path)
    assert data.train_y.tolist() == labels(TRAIN).tolist()
    assert data.note == "12 Fashion-MNIST training images, 10 test images"


def test_test_images_alone_are_split_and_the_note_says_so(tmp_path: Path) -> None:
    write_half(tmp_path / "mnist", "t10k", TEST, ".gz")
    data = load("mnist", tmp_path)
    assert data.train_y.tolist() == [0, 1, 2, 3, 5, 6, 7, 8]
    assert data.test_y.tolist() == [4, 9]
    assert data.note == "MNIST's 10 test images, split 8/2: every fifth held out"


def test_too_few_images_to_split_are_refused(tmp_path: Path) -> None:
    write_half(tmp_path / "mnist", "t10k", 4)
    assert "too few images to split: 4. Put the training files there" in error(tmp_path)


def test_sets_of_the_same_file_names_are_not_confused(folder: Path) -> None:
    message = error(folder, "fashion-mnist")
    assert message.startswith(f"no Fashion-MNIST images in {folder}. Looked for train-images-idx3-ubyte or ")
    assert "t10k-images-idx3-ubyte" in message
    assert f"{folder}/FashionMNIST/raw, {folder}/fashion-mnist, {folder}/fashion-mnist-part" in message
    assert "no MNIST images" in error(folder / "mnist")


@pytest.mark.parametrize("name", ["train-labels-idx1-ubyte", "t10k-labels-idx1-ubyte", "t10k-images-idx3-ubyte"])
def test_missing_file_is_named(folder: Path, name: str) -> None:
    (folder / "mnist" / name).unlink()
    message = error(folder)
    assert message.startswith(f"no {name}")
    assert message.endswith(f"in {folder}/mnist. Put the published file there")


IMAGES = pixels(TRAIN, 28, 28)


@pytest.mark.parametrize(
    ("content", "fact"),
    [
        (b"", "0 bytes, expected a header of 16"),
        (idx(IMAGES)[:15], "15 bytes, expected a header of 16"),
        (b"\0\0\x0d\x03" + idx(IMAGES)[4:], r"it begins with 00 00 0d, expected 00 00 08 (unsigned bytes)"),
        (b"<!DOCTYPE html>\n<html>", "it begins with 3c 21 44, expected 00 00 08 (unsigned bytes)"),
        (idx(labels(TRAIN)) + b"\0" * 9, "1 dimensions, expected 3"),
        (idx(IMAGES)[:-1], "9,423 bytes, expected 9,424"),
        (idx(IMAGES) + b"\0", "9,425 bytes, expected 9,424"),
        (idx(IMAGES[:0]), "0 items of shape (28, 28), expected at least one of shape (28, 28)"),
        (
            idx(IMAGES.reshape(-1, 14, 56)),
            "12 items of shape (14, 56), expected at least one of shape",
        ),
        # An empty array of absurd size, which numpy cannot even shape.
        (b"\0\0\x08\x03\0\0\0\0" + b"\xff" * 8, "0 items of shape (4294967295, 4294967295), expected"),
    ],
)
def test_damaged_images_are_described(folder: Path, content: bytes, fact: str) -> None:
    path = write(folder / "mnist", "train-images-idx3-ubyte", content)
    message = error(folder)
    assert message.startswith(f"{path} is damaged: {fact}")
    assert message.endswith(". Get it again")


def test_label_out_of_range_is_named(folder: Path) -> None:
    wrong = labels(TEST)
    wrong[6] = 10
    path = write(folder / "mnist", "t10k-labels-idx1-ubyte", idx(wrong))
    assert error(folder) == f"{path} is damaged: label 10 for image 6, expected 0 to 9. Get it again"


def test_fewer_labels_than_images_are_refused(folder: Path) -> None:
    path = write(folder / "mnist", "train-labels-idx1-ubyte", idx(labels(TRAIN - 1)))
    expected = f"{path} has 11 labels for 12 images in train-images-idx3-ubyte. Get both files again"
    assert error(folder) == expected


@pytest.mark.parametrize("suffix", [".gz", ".xz"])
def test_cut_stream_is_damage(folder: Path, suffix: str) -> None:
    (folder / "mnist" / "train-images-idx3-ubyte").unlink()
    path = write(folder / "mnist", "train-images-idx3-ubyte", idx(IMAGES), suffix)
    path.write_bytes(path.read_bytes()[:-30])
    assert error(folder).startswith(f"{path} is damaged: ")


@pytest.fixture(scope="module", params=SUFFIXES)
def damaged_folder(
    tmp_path_factory: pytest.TempPathFactory, request: pytest.FixtureRequest
) -> tuple[Path, str, Dataset]:
    """A folder, how its files are packed and what they give when sound."""
    folder = tmp_path_factory.mktemp("damaged")
    write_set(folder / "mnist", request.param)
    return folder, request.param, load("mnist", folder)


@settings(deadline=None, max_examples=80)
@given(st.data(), st.booleans())
def test_damage_is_an_error_or_changes_one_byte(
    damaged_folder: tuple[Path, str, Dataset], data: st.DataObject, hit_labels: bool
) -> None:
    folder, suffix, expected = damaged_folder
    name, array = ("labels-idx1", labels(TEST)) if hit_labels else ("images-idx3", pixels(TEST, 28, 28, seed=TEST))
    path, sound = folder / "mnist" / f"t10k-{name}-ubyte{suffix}", pack(idx(array), suffix)
    damage: Callable[[bytes], bytes] = data.draw(damages(len(sound)))
    path.write_bytes(damage(sound))
    found = error_or(lambda: load("mnist", folder))
    path.write_bytes(sound)
    if isinstance(found, str):
        assert str(path) in found
    elif suffix:
        assert found.fingerprint == expected.fingerprint
    else:
        assert differences(found, expected) == 1
