"""Arrays mapped into memory: the same data as before they were written, and never all of it in memory."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from isoscale.data import Dataset, dataset, load
from isoscale.errors import DataError, InvalidValueError
from isoscale.training import Member, Optimizer, Recipe, train

DIGITS = load("digits")


def test_what_was_saved_is_read_back(tmp_path: Path) -> None:
    DIGITS.save(tmp_path / "d")
    again = load("arrays", tmp_path / "d")
    assert again.fingerprint == DIGITS.fingerprint
    assert (again.classes, again.note, again.name) == (10, DIGITS.note, "arrays")
    (tmp_path / "d" / "dataset.json").unlink()
    bare = load("arrays", tmp_path / "d")
    assert (bare.fingerprint, bare.note) == (DIGITS.fingerprint, "the arrays of d")


def test_tokens_are_read_back_too(tmp_path: Path) -> None:
    x = torch.arange(12).view(3, 4) % 5
    tokens = Dataset(name="t", classes=7, train_x=x, train_y=(x + 1) % 7, test_x=x, test_y=x)
    tokens.save(tmp_path)
    assert load("arrays", tmp_path).fingerprint == tokens.fingerprint
    assert load("arrays", tmp_path).kind == "tokens"


def test_training_gives_the_same_and_touches_only_its_batches(tmp_path: Path) -> None:
    DIGITS.save(tmp_path)
    mapped = load("arrays", tmp_path)
    setup = Recipe(
        model="conv-net",
        width=4,
        depth=2,
        base_width=4,
        base_depth=2,
        rule="sp",
        optimizer=Optimizer(),
        steps=3,
        batch_size=8,
    )
    ours, memory = (train(setup, [Member(0.1, 0), Member(0.2, 0)], data) for data in (mapped, DIGITS))
    np.testing.assert_array_equal(ours.curve, memory.curve)


def test_a_file_larger_than_its_resident_pages(tmp_path: Path) -> None:
    """A sparse file of 4 GiB: reading it as a whole would not be quick, and writing to it reaches nothing."""
    shape = (2**20, 1024)
    np.lib.format.open_memmap(tmp_path / "train_x.npy", "w+", np.float32, shape).flush()
    np.lib.format.open_memmap(tmp_path / "train_y.npy", "w+", np.int64, shape[:1]).flush()
    np.save(tmp_path / "test_x.npy", np.zeros((2, 1024), np.float32))
    np.save(tmp_path / "test_y.npy", np.array([0, 1]))
    data = load("arrays", tmp_path)
    assert data.train_x.shape == shape
    data.train_x[7, 3] = 1.0
    assert load("arrays", tmp_path).train_x[7, 3] == 0


@pytest.mark.skipif(not Path("/proc/meminfo").exists(), reason="asks Linux how much memory there is")
def test_a_file_larger_than_the_memory(tmp_path: Path) -> None:
    """No system promises room for copies of all of it; it is there to be read."""
    machine = dict(line.split(":") for line in Path("/proc/meminfo").read_text().splitlines())
    kib = sum(int(machine[name].split()[0]) for name in ("MemTotal", "SwapTotal"))
    np.lib.format.open_memmap(tmp_path / "train_x.npy", "w+", np.float32, (2, kib * 256)).flush()
    for name in ("train_y", "test_y"):
        np.save(tmp_path / f"{name}.npy", np.array([0, 1]))
    (tmp_path / "test_x.npy").hardlink_to(tmp_path / "train_x.npy")
    data = load("arrays", tmp_path)
    assert data.train_x.nbytes > 1024 * kib
    assert data.train_x[[1, 0], -3:].tolist() == [[0.0] * 3] * 2


def test_what_is_wrong_is_named(tmp_path: Path) -> None:
    DIGITS.save(tmp_path)
    path = tmp_path / "train_x.npy"
    sound = path.read_bytes()

    def error() -> str:
        with pytest.raises(DataError) as info:
            load("arrays", tmp_path)
        return str(info.value)

    for content in (sound[:1000], b"", b"no array", sound[:50]):
        path.write_bytes(content)
        assert error().startswith(f"{path} is damaged: ")
    np.save(path, np.zeros((5, 64), np.float32))
    assert error().startswith(f"the arrays of {tmp_path} make no data set: `train_x` is (5, 64)")
    path.write_bytes(sound)
    (tmp_path / "dataset.json").write_text(json.dumps({"classes": 5, "note": ""}))
    assert "`train_y` has labels 0 to 9, expected 0 to 4" in error()
    (tmp_path / "dataset.json").write_text("{")
    assert error().startswith(f"{tmp_path}/dataset.json is damaged")
    path.unlink()
    assert error() == f"no train_x.npy in {tmp_path}. Expected train_x.npy, train_y.npy, test_x.npy, test_y.npy"


def write_arrays(folder: Path, **changes: np.ndarray) -> np.ndarray:
    """Vectors of 40 samples and three classes, but for the arrays that are given; returns the samples."""
    generator = np.random.default_rng(0)
    x = generator.standard_normal((40, 6)).astype(np.float32)
    y = np.arange(40) % 3
    found = {"train_x": x, "train_y": y, "test_x": x, "test_y": y} | changes
    folder.mkdir(exist_ok=True)
    for name, array in found.items():
        np.save(folder / f"{name}.npy", array, allow_pickle=True)
    return x


def refusal(folder: Path) -> str:
    with pytest.raises(DataError) as info:
        load("arrays", folder)
    return str(info.value)


OTHER_TYPES = {
    "float64": (np.float64, "float64", "np.load('train_x.npy').astype('float32'))"),
    "float16": (np.float16, "float16", "np.load('train_x.npy').astype('float32'))"),
    "8 bits": (np.uint8, "uint8", "np.load('train_x.npy').astype('float32'))"),
    "truth values": (bool, "bool", "np.load('train_x.npy').astype('float32'))"),
    "big-endian": (">f4", "float32 in the byte order of other machines (>f4)", ".astype('float32'))"),
    "complex": (np.complex64, "complex numbers (complex64)", "Choose the numbers that stand for them"),
    "dates": ("datetime64[D]", "dates (datetime64[D])", "Choose the numbers that stand for them"),
    "time spans": ("timedelta64[s]", "time spans (timedelta64[s])", "Choose the numbers that stand for them"),
    "text": ("U7", "text (<U7)", "Choose the numbers that stand for them"),
    "objects": (object, "Python objects (object)", "Choose the numbers that stand for them"),
}


@pytest.mark.parametrize("kind", OTHER_TYPES)
def test_other_types_are_named_with_the_way_out(tmp_path: Path, kind: str) -> None:
    dtype, words, way_out = OTHER_TYPES[kind]
    whole = np.arange(240).reshape(40, 6).astype("i8")
    write_arrays(tmp_path, train_x=whole.astype(dtype))
    message = refusal(tmp_path)
    path = tmp_path / "train_x.npy"
    assert message.startswith(f"{path} has {words}, expected float32 (samples) or int64 (tokens). ")
    assert way_out in message
    write_arrays(tmp_path, test_y=np.arange(40).astype(dtype))
    assert refusal(tmp_path).startswith(f"{tmp_path / 'test_y.npy'} has {words}, expected int64 (labels). ")


def test_records_are_named(tmp_path: Path) -> None:
    write_arrays(tmp_path, train_x=np.zeros(40, [("height", "f4"), ("width", "f4")]))
    assert " has records ([('height', '<f4'), ('width', '<f4')]), expected float32" in refusal(tmp_path)


@pytest.mark.parametrize("name", ["train_x", "test_x"])
@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_samples_that_are_not_finite_are_refused(tmp_path: Path, name: str, value: float) -> None:
    x = write_arrays(tmp_path)
    x[[7, 7, 30], [2, 3, 0]] = value
    write_arrays(tmp_path, **{name: x})
    assert refusal(tmp_path) == (
        f"the arrays of {tmp_path} make no data set: `{name}` is NaN or infinite in 2 of 40 samples, first in "
        "sample 7. Replace those numbers, or leave the samples out"
    )


def test_what_is_too_large_to_check_at_once_is_checked_with_its_fingerprint(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    x = write_arrays(tmp_path / "sound")
    fingerprint = load("arrays", tmp_path / "sound").fingerprint
    x[39, 5] = np.nan
    write_arrays(tmp_path / "spoilt", train_x=x)
    monkeypatch.setattr(dataset, "_CHECKED_AT_ONCE", 100)
    monkeypatch.setattr(dataset, "_PART", 50)
    assert load("arrays", tmp_path / "sound").fingerprint == fingerprint
    mapped = load("arrays", tmp_path / "spoilt")
    with pytest.raises(InvalidValueError, match="`train_x` is NaN or infinite in 1 of 40 samples, first in sample 39"):
        _ = mapped.fingerprint


@pytest.mark.parametrize("name", ["train_y", "test_y"])
def test_no_labels_are_refused(tmp_path: Path, name: str) -> None:
    write_arrays(tmp_path, **{name: np.zeros(0, np.int64)})
    assert f"`{name}` is (0,)" in refusal(tmp_path)
