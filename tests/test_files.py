"""What is written is there whole or not at all: what a failing disk, a wrong place or an error leaves behind."""

from __future__ import annotations

import ast
import errno
import os
from pathlib import Path

import pytest

import isoscale
from isoscale.errors import InvalidValueError
from isoscale.files import publishing, replacing, replacing_all


def contents(folder: Path) -> dict[str, str]:
    """Every file of a folder, hidden ones too."""
    return {str(path.relative_to(folder)): path.read_text() for path in folder.rglob("*") if path.is_file()}


def _write_half_of(path: Path) -> None:
    path.write_text("half")
    raise ZeroDivisionError


@pytest.fixture
def events(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What is flushed and renamed, in order."""
    seen: list[str] = []
    fsync, replace, rename = os.fsync, Path.replace, Path.rename

    def flushed(descriptor: int) -> None:
        seen.append("flush")
        fsync(descriptor)

    def replaced(self: Path, target: Path) -> Path:
        seen.append(f"replace {target.name}")
        return replace(self, target)

    def renamed(self: Path, target: Path) -> Path:
        seen.append(f"rename {target.name}")
        return rename(self, target)

    monkeypatch.setattr(os, "fsync", flushed)
    monkeypatch.setattr(Path, "replace", replaced)
    monkeypatch.setattr(Path, "rename", renamed)
    return seen


def test_contents_reach_the_disk_before_any_name_changes(tmp_path: Path, events: list[str]):
    (tmp_path / "a").write_text("old")
    with replacing_all([tmp_path / "b", tmp_path / "a"]) as scratches:
        for scratch in scratches:
            scratch.write_text("new")
        assert contents(tmp_path)["a"] == "old"
    assert events == ["flush", "flush", "replace b", "replace a"]
    assert contents(tmp_path) == {"a": "new", "b": "new"}


def test_a_block_that_fails_leaves_the_old_file(tmp_path: Path):
    (tmp_path / "a").write_text("old")
    with pytest.raises(ZeroDivisionError), replacing(tmp_path / "a") as scratch:
        _write_half_of(scratch)
    assert contents(tmp_path) == {"a": "old"}


def test_a_disk_that_refuses_the_last_of_several_leaves_them_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    def refuse(descriptor: int) -> None:
        if os.fstat(descriptor).st_size > 3:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    for name in ("a", "b"):
        (tmp_path / name).write_text("old")
    monkeypatch.setattr(os, "fsync", refuse)
    with pytest.raises(OSError, match="No space left"), replacing_all([tmp_path / "a", tmp_path / "b"]) as scratches:
        _ = [scratch.write_text(text) for scratch, text in zip(scratches, ("new", "longer"), strict=True)]
    assert contents(tmp_path) == {"a": "old", "b": "old"}


@pytest.mark.parametrize(
    ("name", "words"), [("missing/a", "No such file or directory"), ("a/b", "Not a directory"), ("d", "directory")]
)
def test_a_place_where_no_file_can_be_is_named(tmp_path: Path, name: str, words: str):
    (tmp_path / "a").write_text("a file")
    (tmp_path / "d").mkdir()
    with pytest.raises(InvalidValueError) as caught, replacing(tmp_path / name) as scratch:
        scratch.write_text("new")
    assert str(caught.value).startswith(f"cannot write `{tmp_path / name}`: ")
    assert words in str(caught.value)
    assert str(caught.value).endswith("Choose another file")
    assert contents(tmp_path) == {"a": "a file"}


def test_no_name_at_all_is_an_error():
    with pytest.raises(InvalidValueError, match="cannot write ``"), replacing("") as scratch:
        scratch.write_text("new")


def test_a_folder_appears_when_all_of_it_is_on_the_disk(tmp_path: Path, events: list[str]):
    with publishing(tmp_path / "made") as scratch:
        (scratch / "a").write_text("1")
        (scratch / "within").mkdir()
        (scratch / "within" / "b").write_text("2")
        assert not (tmp_path / "made").exists()
    assert events == ["flush", "flush", "rename made"]
    assert contents(tmp_path) == {"made/a": "1", "made/within/b": "2"}


def test_a_folder_that_another_made_meanwhile_stays(tmp_path: Path):
    with publishing(tmp_path / "made") as scratch:
        (scratch / "a").write_text("ours")
        (tmp_path / "made").mkdir()
        (tmp_path / "made" / "a").write_text("theirs")
    assert contents(tmp_path) == {"made/a": "theirs"}


def test_a_folder_whose_making_fails_is_gone(tmp_path: Path):
    with pytest.raises(ZeroDivisionError), publishing(tmp_path / "made") as scratch:
        _write_half_of(scratch / "a")
    assert list(tmp_path.iterdir()) == []


# --- where the system's own encoding is another ---
def _is_text_of_no_encoding(call: ast.Call) -> bool:
    """Of `read_text`, `write_text` and `open`: text, in whatever encoding the machine has."""
    name = call.func.attr if isinstance(call.func, ast.Attribute) else getattr(call.func, "id", "")
    named = {keyword.arg for keyword in call.keywords}
    if name in ("read_text", "write_text"):
        return "encoding" not in named and len(call.args) < 2
    if name != "open" or "encoding" in named:
        return False
    modes = [value.value for value in call.args if isinstance(value, ast.Constant) and isinstance(value.value, str)]
    # An `open` of something else than a file takes no mode, and bytes have no encoding.
    return any(set(mode) <= set("rwax+t") for mode in modes)


def test_text_is_utf8_on_every_system():
    """As on Windows, where it is the code page otherwise."""
    found = []
    for path in Path(isoscale.__path__[0]).rglob("*.py"):
        text = path.read_text(encoding="utf-8")
        if "open(" not in text and "_text(" not in text:
            continue
        for node in ast.walk(ast.parse(text)):
            if isinstance(node, ast.Call) and _is_text_of_no_encoding(node):
                found.append(f"{path.name}:{node.lineno}")
    assert found == []
