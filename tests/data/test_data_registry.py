"""`load` and `names`: what is asked for is found, or the error says what could be."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from published import idx, labels, pixels, write

import isoscale.data
from isoscale.data import load, names
from isoscale.errors import DataError, InvalidTypeError, InvalidValueError

NEED_A_FOLDER = sorted(set(names()) - {"digits", "synthetic"})


def write_mnist(folder: Path) -> Path:
    write(folder, "mnist/t10k-images-idx3-ubyte", idx(pixels(10, 28, 28)))
    write(folder, "mnist/t10k-labels-idx1-ubyte", idx(labels(10)))
    return folder


def test_names_are_sorted() -> None:
    folders = ["arrays", "audio-folder", "cifar10", "fashion-mnist", "image-folder", "mnist", "text"]
    assert names() == sorted([*folders, "digits", "synthetic"])


def test_public_names() -> None:
    assert sorted(dir(isoscale.data)) == ["Dataset", "load", "names"]


def test_listing_names_imports_nothing_heavy() -> None:
    code = (
        "import sys, isoscale.data; isoscale.data.names();"
        "sys.exit(' '.join({'torch', 'numpy', 'jaxtyping', 'PIL'} & sys.modules.keys()))"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert result.stderr.strip() == ""


def test_unknown_name_is_answered_with_the_nearest() -> None:
    with pytest.raises(InvalidValueError, match=r"no data set named .* Nearest: fashion-mnist"):
        load("fashion_mnist")


def test_option_of_another_data_set_is_refused() -> None:
    with pytest.raises(InvalidTypeError, match=r"`batches` is not an option of .* 'digits'"):
        load("digits", batches=(1,))


def test_misspelt_option_is_answered_with_the_legal_ones() -> None:
    with pytest.raises(InvalidTypeError, match=r"`batch` is not an option .* Its options: `batches`"):
        load("cifar10", batch=1)


def test_folder_falls_back_to_the_environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ISOSCALE_DATA", str(write_mnist(tmp_path)))
    assert load("mnist").name == "mnist"


def test_folder_given_wins_over_the_environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ISOSCALE_DATA", "/nowhere")
    assert load("mnist", str(write_mnist(tmp_path))).name == "mnist"


def test_home_folder_is_expanded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_mnist(tmp_path / "sets")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert load("mnist", "~/sets").name == "mnist"


@pytest.mark.parametrize("variable", [None, ""])
@pytest.mark.parametrize("name", NEED_A_FOLDER)
def test_no_folder_at_all(name: str, variable: str | None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("ISOSCALE_DATA", raising=False)
    if variable is not None:
        monkeypatch.setenv("ISOSCALE_DATA", variable)
    with pytest.raises(DataError) as info:
        load(name)
    assert str(info.value) == f"data set {name!r} needs `folder` (--data), or $ISOSCALE_DATA set to one"


@pytest.mark.parametrize("name", NEED_A_FOLDER)
def test_folder_that_does_not_exist(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    missing = tmp_path / "missing"
    remedy = f"{missing}: No such file or directory. Give the folder of data set {name!r} (--data)"
    with pytest.raises(DataError) as info:
        load(name, missing)
    assert str(info.value) == f"`folder` is {remedy}"
    monkeypatch.setenv("ISOSCALE_DATA", str(missing))
    with pytest.raises(DataError) as info:
        load(name)
    assert str(info.value) == f"$ISOSCALE_DATA is {remedy}"


def test_file_for_a_folder_is_refused(tmp_path: Path) -> None:
    path = write(tmp_path, "file", b"")
    with pytest.raises(DataError, match="file: Not a directory"):
        load("mnist", path)


def test_folder_of_an_unknown_user_is_refused() -> None:
    with pytest.raises(DataError, match=r"~nobody-here/sets: No such file or directory"):
        load("mnist", "~nobody-here/sets")


def test_digits_need_no_folder(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ISOSCALE_DATA", "/nowhere")
    assert load("digits").fingerprint == load("digits", "/nowhere").fingerprint
