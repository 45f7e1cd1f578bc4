"""Text as tokens: windows that follow one another, and labels one step ahead."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import torch
from published import SUFFIXES, write

from isoscale.data import files, load
from isoscale.errors import DataError, InvalidTypeError, InvalidValueError

SAMPLE = "To be, or not to be: that is the question.\n" * 20


@pytest.mark.parametrize("suffix", SUFFIXES)
@pytest.mark.parametrize("name", ["tinyshakespeare/input.txt", "input.txt", "any.txt"])
def test_windows_are_the_text(tmp_path: Path, name: str, suffix: str) -> None:
    write(tmp_path, name, SAMPLE.encode(), suffix)
    data = load("text", tmp_path, context=16)
    letters = sorted(set(SAMPLE))
    assert (data.kind, data.classes, data.in_shape) == ("tokens", len(letters), (16,))
    cut = int(0.9 * len(SAMPLE))
    for x, y, part in (
        (data.train_x, data.train_y, SAMPLE[:cut]),
        (data.test_x, data.test_y, SAMPLE[cut:]),
    ):
        count = (len(part) - 1) // 16
        assert x.shape == y.shape == (count, 16)
        assert "".join(letters[token] for token in x.flatten()) == part[: 16 * count]
        assert "".join(letters[token] for token in y.flatten()) == part[1 : 16 * count + 1]
    assert data.note == f"{Path(name).name}{suffix}: 774 characters for training and 86 for testing, windows of 16"


def test_bytes_are_their_own_numbers(tmp_path: Path) -> None:
    content = bytes(range(256)) * 4
    write(tmp_path, "input.txt", content)
    data = load("text", tmp_path, level="bytes", context=8)
    assert data.classes == 256
    assert bytes(data.train_x.flatten().tolist()) == content[: data.train_x.numel()]


def test_characters_are_not_bytes_and_the_mark_at_the_beginning_is_none(tmp_path: Path) -> None:
    write(tmp_path, "input.txt", "\ufeffäöü€😀".encode() * 1 + "äöü€😀".encode() * 40)
    data = load("text", tmp_path, context=4)
    assert data.classes == 5
    assert data.train_x[0].tolist() == [0, 1, 2, 3]


def test_a_file_can_be_named(tmp_path: Path) -> None:
    write(tmp_path, "input.txt", SAMPLE.encode())
    write(tmp_path, "books/war.txt", SAMPLE.upper().encode(), ".xz")
    data = load("text", tmp_path, file="books/war.txt", context=8)
    assert data.note.startswith("war.txt.xz: ")
    with pytest.raises(DataError, match=r"no books/peace.txt \(plain, .gz or .xz\) in "):
        load("text", tmp_path, file="books/peace.txt")


def test_same_text_same_fingerprint_and_another_window_another(tmp_path: Path) -> None:
    write(tmp_path, "input.txt", SAMPLE.encode())
    one, again, other = (load("text", tmp_path, context=context) for context in (8, 8, 16))
    assert one.fingerprint == again.fingerprint != other.fingerprint
    assert torch.equal(one.flatten().train_x, one.train_x)


def _text(folder: Path, content: bytes, suffix: str = "") -> Path:
    return write(folder, "input.txt", content, suffix)


def test_what_is_wrong_is_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"no text in .* Looked for tinyshakespeare/input.txt or input.txt or \*.txt"):
        load("text", tmp_path)
    path = _text(tmp_path, SAMPLE.encode() + b"\xff")
    with pytest.raises(DataError, match=r"is not UTF-8: invalid start byte at byte 860. Read it with `level` 'bytes'"):
        load("text", tmp_path)
    path.write_text("too short")
    with pytest.raises(DataError, match="has 9 characters, too few for windows of `context` 64"):
        load("text", tmp_path)
    path.unlink()
    packed = _text(tmp_path, SAMPLE.encode(), ".xz")
    packed.write_bytes(packed.read_bytes()[:-20])
    with pytest.raises(DataError, match=r"input.txt.xz is damaged: .* Get it again"):
        load("text", tmp_path)
    packed.unlink()
    for name in ("a.txt", "b.txt"):
        write(tmp_path, name, SAMPLE.encode())
    with pytest.raises(DataError, match=r"several texts in .*: a.txt, b.txt. Choose one with `file`"):
        load("text", tmp_path)


def test_bad_options_are_named(tmp_path: Path) -> None:
    with pytest.raises(InvalidValueError, match="`level` must be characters or bytes, got 'words'"):
        load("text", tmp_path, level="words")
    with pytest.raises(InvalidValueError, match="`context` must be >= 1, got 0"):
        load("text", tmp_path, context=0)
    with pytest.raises(InvalidTypeError, match="`context` must be a whole number, got 'long'"):
        load("text", tmp_path, context="long")


def test_what_never_ends_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(tmp_path, "input.txt", bytes(5000), ".gz")
    monkeypatch.setattr(files, "_MOST_UNPACKED", 4000)
    with pytest.raises(DataError, match="unpacks to more than 4,000 bytes"):
        load("text", tmp_path)
    for place in (tmp_path / "named" / "input.txt", tmp_path / "found" / "any.txt"):
        place.parent.mkdir()
        os.mkfifo(place)
        with pytest.raises(DataError, match="is a pipe or a device"):
            load("text", place.parent)
