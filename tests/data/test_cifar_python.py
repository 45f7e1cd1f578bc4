"""CIFAR-10's pickled version: read without running it, and refused if there is anything in it to run."""

from __future__ import annotations

import io
import os
import pickle
from collections.abc import Iterator
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from published import SUFFIXES, damages, differences, error_or, labels, pixels, write
from published import cifar as binary

from isoscale.data import Dataset, cifar, inert_pickle, load
from isoscale.errors import DataError

RECORDS = 20


@pytest.fixture(scope="module", autouse=True)
def small_batches() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(cifar, "RECORDS_PER_BATCH", RECORDS)
        patch.setattr(cifar, "TEST_FILES", {"test_batch.bin": RECORDS})
        yield


class _Python2(pickle._Pickler):
    """Writes text and numpy's array as Python 2 did in the published files: short byte strings, protocol 2."""

    dispatch: ClassVar[dict[type, Any]] = dict(pickle._Pickler.dispatch)

    def save_str(self, text: str) -> None:
        content = text.encode("latin1")
        self.write(b"T" + len(content).to_bytes(4, "little") + content)
        self.memoize(text)

    dispatch[str] = save_str

    def save_bytes(self, content: bytes) -> None:
        self.write(b"T" + len(content).to_bytes(4, "little") + content)
        self.memoize(content)

    dispatch[bytes] = save_bytes


def python2(value: object) -> bytes:
    """As published: the array module had its old name, too."""
    stream = io.BytesIO()
    _Python2(stream, protocol=2).dump(value)
    return stream.getvalue().replace(b"numpy._core.multiarray", b"numpy.core.multiarray")


def batch(records: int = RECORDS, seed: int = 0, **changes: Any) -> dict[str, Any]:
    content = {
        "batch_label": f"training batch {seed} of 5",
        "labels": labels(records).tolist(),
        "data": pixels(records, 3072, seed=seed),
        "filenames": ["a.png"] * records,
    }
    return content | changes


def write_batches(home: Path, suffix: str = "", dump: Any = python2) -> None:
    for k in (1, 2):
        write(home, f"data_batch_{k}", dump(batch(seed=k)), suffix)
    write(home, "test_batch", dump(batch(seed=9)), suffix)


@pytest.mark.parametrize("home", ["cifar-10-batches-py", "cifar10", "."])
@pytest.mark.parametrize("suffix", SUFFIXES)
def test_both_versions_give_the_same_data(tmp_path: Path, home: str, suffix: str) -> None:
    write_batches(tmp_path / home, suffix)
    for k in (1, 2):
        write(tmp_path / "reference", f"data_batch_{k}.bin", binary(RECORDS, seed=k))
    write(tmp_path / "reference", "test_batch.bin", binary(RECORDS, seed=9))
    python, reference = load("cifar10", tmp_path), load("cifar10", tmp_path / "reference")
    assert python.fingerprint == reference.fingerprint
    assert python.note == reference.note
    assert (
        load("cifar10", tmp_path, batches=(2,)).fingerprint
        == load("cifar10", tmp_path / "reference", batches=(2,)).fingerprint
    )


@pytest.mark.parametrize("protocol", range(5))
def test_arrays_of_todays_numpy_are_read(protocol: int) -> None:
    """Not of protocol 5, by which numpy names a function that is not on the list."""
    images = pixels(4, 6)
    for given_ in (images, np.asfortranarray(images)):
        value = inert_pickle.load(pickle.dumps({"data": given_, "labels": [1, 2]}, protocol))
        by_name = {key if isinstance(key, str) else key.decode(): part for key, part in value.items()}
        assert by_name["labels"] == [1, 2]
        assert np.array_equal(inert_pickle.array(by_name["data"]), images)


class _Runs:
    def __init__(self, function: Any, *arguments: Any) -> None:
        self.call = (function, arguments)

    def __reduce__(self) -> Any:
        return self.call


@pytest.mark.parametrize("call", [(os.system, "touch ran"), (eval, "1"), (getattr, "a", "upper"), (np.zeros, 3)])
@pytest.mark.parametrize("protocol", [0, 2, 4])
def test_nothing_in_it_is_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: Any, protocol: int) -> None:
    monkeypatch.chdir(tmp_path)
    write_batches(tmp_path / "cifar10")
    path = write(tmp_path / "cifar10", "data_batch_1", pickle.dumps(batch(data=_Runs(*call)), protocol))
    with pytest.raises(DataError) as info:
        load("cifar10", tmp_path)
    assert str(info.value).startswith(f"{path} is damaged: no pickle of plain values: it names ")
    assert "which is never loaded. Get it again, or leave it out with --batches 2" in str(info.value)
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize("name", ["numpy\ndtype", "numpy\nndarray", "numpy.core.multiarray\n_reconstruct"])
def test_what_names_stand_for_cannot_be_changed(name: str) -> None:
    """BUILD sets attributes of whatever is on the stack; a class would keep them for the next file."""
    content = b"c" + name.encode() + b"\n(NS'mark'\nI1\ndtb."
    with pytest.raises(DataError):
        inert_pickle.load(content)
    content = b"c" + name.encode() + b"\n(N}S'mark'\nI1\nstb."
    with pytest.raises(DataError):
        inert_pickle.load(content)


@pytest.mark.parametrize(
    ("content", "fact"),
    [
        (batch(labels=[*range(9), 10] * 2), "label 10 for image 9, expected 0 to 9"),
        (batch(labels=[300] * RECORDS), "labels that are no small numbers"),
        (batch(labels=["1"] * RECORDS), "labels that are no small numbers"),
        (batch(labels=[1] * 3), "images (20, 3072) and labels (3,), expected (20, 3072) and (20,)"),
        (batch(data=pixels(RECORDS, 1024)), "images (20, 1024) and labels (20,), expected"),
        (batch(data=pixels(RECORDS, 3072).astype(np.int32)), "an array of 'i4', expected unsigned bytes"),
        (batch(data=[1, 2]), "no array where one was expected"),
        ({"images": 1}, "no data and labels among images"),
        ([1, 2], "a list, expected a dict"),
    ],
    ids=str,
)
def test_what_is_wrong_is_named(tmp_path: Path, content: Any, fact: str) -> None:
    write_batches(tmp_path / "cifar10")
    path = write(tmp_path / "cifar10", "test_batch", python2(content))
    with pytest.raises(DataError) as info:
        load("cifar10", tmp_path)
    assert str(info.value).startswith(f"{path} is damaged: {fact}")


@pytest.fixture(scope="module")
def damaged_folder(tmp_path_factory: pytest.TempPathFactory, small_batches: None) -> tuple[Path, bytes, Dataset]:
    """A folder, the sound content of its test file, and what they give."""
    folder = tmp_path_factory.mktemp("damaged")
    write_batches(folder)
    return folder, (folder / "test_batch").read_bytes(), load("cifar10", folder)


@settings(deadline=None, max_examples=60)
@given(st.data())
def test_damage_is_an_error_or_changes_one_byte(
    damaged_folder: tuple[Path, bytes, Dataset], data: st.DataObject
) -> None:
    folder, sound, expected = damaged_folder
    path = folder / "test_batch"
    path.write_bytes(data.draw(damages(len(sound)))(sound))
    found = error_or(lambda: load("cifar10", folder))
    if isinstance(found, str):
        assert found.startswith(f"{path} is damaged: ")
    else:
        assert differences(found, expected) <= 1
