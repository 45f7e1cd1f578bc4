"""CIFAR-10's binary batches: every layout and packing is read, and every damage is named."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from published import SUFFIXES, damages, differences, error_or, pack, write
from published import cifar as batch

from isoscale.data import Dataset, cifar, load
from isoscale.errors import DataError, InvalidTypeError, InvalidValueError

RECORDS = 20
FIRST = 7


@pytest.fixture(scope="module")
def small_batches() -> Iterator[None]:
    """Batches of 20 records for 10,000, so that a test can damage many."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(cifar, "RECORDS_PER_BATCH", RECORDS)
        patch.setattr(cifar, "TEST_FILES", {"test_batch.bin": RECORDS, "test_batch_first1017.bin": FIRST})
        yield


def write_batches(home: Path, numbers: tuple[int, ...] = (1, 2), suffix: str = "") -> None:
    for k in numbers:
        write(home, f"data_batch_{k}.bin", batch(RECORDS, seed=k), suffix)
    write(home, "test_batch.bin", batch(RECORDS, seed=9), suffix)


@pytest.fixture
def folder(tmp_path: Path, small_batches: None) -> Path:
    write_batches(tmp_path / "cifar10")
    return tmp_path


def read(folder: Path, **options: Any) -> Dataset:
    return load("cifar10", folder, **options)


def error(folder: Path, **options: Any) -> str:
    with pytest.raises(DataError) as info:
        read(folder, **options)
    message = str(info.value)
    assert "\n" not in message
    return message


@pytest.mark.usefixtures("small_batches")
@pytest.mark.parametrize("home", ["cifar-10-batches-bin", "cifar10", "."])
@pytest.mark.parametrize("suffix", SUFFIXES)
def test_every_layout_and_packing_gives_the_same_data(tmp_path: Path, home: str, suffix: str) -> None:
    write_batches(tmp_path / home, suffix=suffix)
    write_batches(tmp_path / "reference" / "cifar10")
    assert read(tmp_path).fingerprint == read(tmp_path / "reference").fingerprint


def test_records_become_channels_rows_columns(folder: Path) -> None:
    data = read(folder, batches=(2,))
    raw = np.frombuffer(batch(RECORDS, seed=2), np.uint8).reshape(RECORDS, 3073)
    images = raw[:, 1:].reshape(RECORDS, 3, 32, 32)
    mean, std = images.mean((0, 2, 3), keepdims=True), images.std((0, 2, 3), keepdims=True)
    np.testing.assert_allclose(data.train_x.numpy(), (images - mean) / std, rtol=1e-5, atol=1e-6)
    assert data.train_y.tolist() == raw[:, 0].tolist()
    assert data.in_features == 3072


@pytest.mark.parametrize("pool", [2, 4, 32])
def test_pooled_images_are_means_of_squares(folder: Path, pool: int) -> None:
    data = read(folder, batches=(2,), pool=pool)
    raw = np.frombuffer(batch(RECORDS, seed=2), np.uint8).reshape(RECORDS, 3073)[:, 1:]
    side = 32 // pool
    means = raw.reshape(RECORDS, 3, side, pool, side, pool).astype(float).mean((3, 5))
    levels = np.floor(means + 0.5)
    mean, std = levels.mean((0, 2, 3), keepdims=True), levels.std((0, 2, 3), keepdims=True)
    np.testing.assert_allclose(data.train_x.numpy(), (levels - mean) / std, rtol=1e-4, atol=1e-5)
    assert f"pooled to {side}x{side}" in data.note


def test_pooling_by_one_changes_nothing(folder: Path) -> None:
    assert read(folder, pool=1).fingerprint == read(folder).fingerprint


@pytest.mark.parametrize(("pool", "kind"), [(3, InvalidValueError), (0, InvalidValueError), (2.0, InvalidTypeError)])
def test_a_pool_that_cannot_be(folder: Path, pool: Any, kind: type[Exception]) -> None:
    with pytest.raises(kind, match="pool"):
        read(folder, pool=pool)


def test_all_batches_there_are_read_in_order(folder: Path) -> None:
    write(folder / "cifar10", "data_batch_5.bin", batch(RECORDS, seed=5), ".xz")
    data = read(folder)
    assert len(data.train_x) == 3 * RECORDS
    assert data.note == "60 CIFAR-10 training images (batches 1, 2, 5), 20 test images"
    assert data.fingerprint == read(folder, batches=[5, 1, 2]).fingerprint


def test_first_batches_need_no_naming_in_the_note(folder: Path) -> None:
    assert read(folder).note == "40 CIFAR-10 training images, 20 test images"
    assert read(folder, batches=(2,)).note == "20 CIFAR-10 training images (batch 2), 20 test images"


def test_whole_test_batch_is_preferred_to_its_beginning(folder: Path) -> None:
    write(folder / "cifar10", "test_batch_first1017.bin", batch(FIRST, seed=9), ".xz")
    assert len(read(folder).test_x) == RECORDS
    (folder / "cifar10" / "test_batch.bin").unlink()
    assert len(read(folder).test_x) == FIRST


def test_files_of_two_places_are_not_mixed(folder: Path) -> None:
    write_batches(folder / "cifar-10-batches-bin", (3,))
    assert read(folder).fingerprint == read(folder, batches=(3,)).fingerprint


@pytest.mark.parametrize("suffix", [".gz", ".xz"])
def test_cut_stream_counts_the_bytes_that_came_out(folder: Path, suffix: str) -> None:
    path = write(folder / "cifar10", "data_batch_3.bin", batch(RECORDS, seed=3), suffix)
    path.write_bytes(path.read_bytes()[:40_000])
    message = error(folder)
    assert f"{path} is damaged: " in message
    assert "bytes after unpacking, expected 61,460. Get it again, or leave it out with --batches 1 2" in message


def test_only_batch_cannot_be_left_out(folder: Path) -> None:
    path = write(folder / "cifar10", "data_batch_1.bin", batch(RECORDS - 1))
    message = f"{path} is damaged: 58,387 bytes, expected 61,460. Get it again"
    assert error(folder, batches=(1,)) == message


def test_long_file_is_damaged_too(folder: Path) -> None:
    path = write(folder / "cifar10", "test_batch.bin", batch(RECORDS + 1))
    assert error(folder) == f"{path} is damaged: 64,533 bytes, expected 61,460. Get it again"


@pytest.mark.parametrize(
    ("suffix", "fault"), [(".gz", "Not a gzipped file"), (".xz", "Input format not supported by decoder")]
)
def test_file_of_another_kind_is_named_as_such(folder: Path, suffix: str, fault: str) -> None:
    (folder / "cifar10" / "data_batch_1.bin").unlink()
    path = folder / "cifar10" / f"data_batch_1.bin{suffix}"
    path.write_bytes(b"<html>404 Not Found</html>")
    assert error(folder).startswith(f"{path} is damaged: {fault}")


def test_wrong_checksum_is_damage_though_the_size_is_right(folder: Path) -> None:
    path = write(folder / "cifar10", "test_batch.bin", batch(RECORDS), ".gz")
    path.with_suffix("").unlink()
    content = bytearray(path.read_bytes())
    content[-8] ^= 1  # the checksum is the first of the last two 32-bit words
    path.write_bytes(content)
    assert "CRC check failed" in error(folder)


def test_label_out_of_range_is_named(folder: Path) -> None:
    content = bytearray(batch(RECORDS))
    content[17 * 3073] = 255
    path = write(folder / "cifar10", "data_batch_2.bin", bytes(content))
    message = f"{path} is damaged: label 255 for image 17, expected 0 to 9. "
    assert error(folder) == message + "Get it again, or leave it out with --batches 1"


def test_empty_folder_lists_names_and_places(tmp_path: Path) -> None:
    message = error(tmp_path)
    assert message.startswith(f"no binary CIFAR-10 training batch in {tmp_path}. Looked for data_batch_1.bin or ")
    assert f"(plain, .gz or .xz) in {tmp_path}/cifar-10-batches-bin, {tmp_path}/cifar10, {tmp_path}" in message


def test_missing_test_images_are_listed(folder: Path) -> None:
    (folder / "cifar10" / "test_batch.bin").unlink()
    wanted = "test_batch.bin or test_batch_first1017.bin (plain, .gz or .xz)"
    assert error(folder) == f"no CIFAR-10 test images in {folder}/cifar10. Put {wanted} there"


def test_batch_that_is_not_there_is_named_with_those_that_are(folder: Path) -> None:
    message = error(folder, batches=(1, 4))
    assert message.startswith(f"no data_batch_4.bin (plain, .gz or .xz) in {folder}/cifar10. ")
    assert message.endswith("--batches 1 2")


@pytest.mark.parametrize("batches", [(), (0,), (1, 6), (1, 1)])
def test_illegal_batch_numbers_are_refused(folder: Path, batches: tuple[int, ...]) -> None:
    with pytest.raises(InvalidValueError, match=r"`batches` is .*, expected at least one of 1 to 5"):
        read(folder, batches=batches)


@pytest.mark.parametrize("batches", [1, "12", (1.0,), ("1",)])
def test_batches_of_another_type_are_refused(folder: Path, batches: Any) -> None:
    with pytest.raises(InvalidTypeError, match=r"`batches` is .*, expected a sequence of integers"):
        read(folder, batches=batches)


def test_unreadable_file_is_named(folder: Path) -> None:
    path = folder / "cifar10" / "data_batch_1.bin"
    path.unlink()
    path.mkdir()
    assert error(folder) == f"{path} cannot be read: Is a directory. Check the file and its permissions"


def test_file_that_may_not_be_looked_at_is_not_called_missing(folder: Path) -> None:
    path = folder / "cifar10" / "data_batch_1.bin"
    path.unlink()
    path.symlink_to(path)
    assert error(folder).startswith(f"{path} cannot be read: Too many levels of symbolic links")


@pytest.fixture(scope="module", params=SUFFIXES)
def damaged_folder(
    tmp_path_factory: pytest.TempPathFactory, small_batches: None, request: pytest.FixtureRequest
) -> tuple[Path, Path, bytes, Dataset]:
    """A folder, the file in it to damage, the file's sound content and what it gives."""
    folder = tmp_path_factory.mktemp("damaged")
    write(folder, "data_batch_1.bin", batch(RECORDS), request.param)
    path = write(folder, "test_batch_first1017.bin", batch(FIRST), request.param)
    return folder, path, pack(batch(FIRST), request.param), read(folder)


@settings(deadline=None, max_examples=60)
@given(st.data())
def test_damage_is_an_error_or_changes_one_byte(
    damaged_folder: tuple[Path, Path, bytes, Dataset], data: st.DataObject
) -> None:
    folder, path, sound, expected = damaged_folder
    damage: Callable[[bytes], bytes] = data.draw(damages(len(sound)))
    path.write_bytes(damage(sound))
    found = error_or(lambda: read(folder))
    if isinstance(found, str):
        assert found.startswith(f"{path} is damaged: ")
    elif path.suffix == ".bin":
        assert differences(found, expected) == 1
    else:
        assert found.fingerprint == expected.fingerprint
