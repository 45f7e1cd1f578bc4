"""A user's file is loaded as `python file.py` would run it."""

import sys
import types

import pytest

from isoscale import user_code
from isoscale.errors import InvalidValueError


@pytest.fixture(autouse=True)
def _restored(monkeypatch):
    """What a file changes of the interpreter is undone."""
    monkeypatch.setattr(sys, "path", list(sys.path))
    before = dict(sys.modules)
    yield
    for name in set(sys.modules) - set(before):
        del sys.modules[name]


def test_a_file_finds_its_neighbour_and_may_define_dataclasses(tmp_path):
    """`from __future__ import annotations` makes dataclasses look their module up in `sys.modules`."""
    (tmp_path / "neighbour_of_mine.py").write_text("FACTOR = 3\n")
    (tmp_path / "my_training.py").write_text(
        "from __future__ import annotations\n"
        "from dataclasses import dataclass\n"
        "from typing import ClassVar\n"
        "import neighbour_of_mine\n"
        "@dataclass\n"
        "class Settings:\n"
        "    known: ClassVar[int] = 1\n"
        "    width: int = 2\n"
        "def train(trial):\n"
        "    return Settings().width * neighbour_of_mine.FACTOR\n"
    )
    loaded = user_code.load(f"{tmp_path}/my_training.py:train")
    assert loaded.value(None) == 6
    assert sys.modules["my_training"] is loaded.module
    assert sys.path[0] == str(tmp_path)


def test_a_file_never_takes_the_place_of_another_module(tmp_path):
    (tmp_path / "types.py").write_text("def make(): return 1\n")
    assert user_code.load(f"{tmp_path}/types.py:make").value() == 1
    assert sys.modules["types"] is types


def test_a_file_that_fails_leaves_no_module_behind(tmp_path):
    (tmp_path / "broken_file.py").write_text("x = 1\nraise RuntimeError('half way')\n")
    with pytest.raises(InvalidValueError, match=r"RuntimeError: half way \(broken_file.py, line 2\)"):
        user_code.load(f"{tmp_path}/broken_file.py:make")
    assert "broken_file" not in sys.modules


def test_a_file_is_run_anew_each_time(tmp_path):
    path = tmp_path / "changing_file.py"
    path.write_text("def make(): return 1\n")
    assert user_code.load(f"{path}:make").value() == 1
    path.write_text("def make(): return 'another'\n")
    assert user_code.load(f"{path}:make").value() == "another"


@pytest.mark.parametrize(
    ("reference", "message"),
    [
        ("train", "a function is written file.py:name or pkg.module:name, got 'train'"),
        ("no_such_file.py:train", "cannot import no_such_file.py: FileNotFoundError: there is no file no_such_file.py"),
        ("math:sqr", "math has no function `sqr`; it has: "),
    ],
)
def test_what_is_not_there_is_named(reference, message):
    with pytest.raises(InvalidValueError, match=message.replace("(", r"\(")):
        user_code.load(reference)


def test_the_colon_of_a_drive_is_not_the_functions(monkeypatch):
    """As on Windows."""
    asked = []
    monkeypatch.setattr(user_code, "module_of", lambda path: asked.append(path) or types.SimpleNamespace(train=len))
    assert user_code.load(r"C:\work\train.py:train").value is len
    assert asked == [r"C:\work\train.py"]
