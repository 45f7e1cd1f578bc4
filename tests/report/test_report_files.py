"""Whole files or none: what a failing disk, a wrong folder or a kill leaves behind."""

from __future__ import annotations

import errno
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import xarray as xr

from isoscale import report
from isoscale.errors import InvalidValueError
from isoscale.report.files import write_all

OLD = {"loss.svg": b"old figure", "index.html": b"old page"}
NEW = {"loss.svg": b"new figure", "index.html": b"new page"}


def contents(folder: Path) -> dict[str, bytes]:
    """Every file of a folder, hidden ones too."""
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_a_folder_that_cannot_be_made_is_named(data: xr.Dataset, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    folder = tmp_path / "file" / "report"
    with pytest.raises(InvalidValueError) as error:
        report.write(data, folder)
    message = f"cannot write the report to `{folder}`: not a directory. Choose another folder with --report"
    assert str(error.value) == message
    assert contents(tmp_path) == {"file": b"in the way"}


@pytest.mark.parametrize(
    ("code", "words"), [(errno.ENOSPC, "no space left on device"), (errno.EACCES, "permission denied")]
)
def test_a_disk_that_refuses_leaves_the_old_report(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: int, words: str
) -> None:
    write_all(tmp_path, OLD)

    def refuse(descriptor: int) -> None:
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(os, "fsync", refuse)
    with pytest.raises(InvalidValueError, match=words):
        write_all(tmp_path, NEW)
    assert contents(tmp_path) == OLD
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(OLD)


@pytest.mark.parametrize("failure", [OSError(errno.EACCES, "Permission denied"), KeyboardInterrupt()])
def test_a_rename_that_fails_leaves_nothing_of_a_first_report(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, failure: BaseException
) -> None:
    def fail(self: Path, target: Path) -> None:
        raise failure

    monkeypatch.setattr(Path, "replace", fail)
    with pytest.raises((InvalidValueError, KeyboardInterrupt)):
        write_all(tmp_path / "new" / "report", NEW)
    assert list(tmp_path.iterdir()) == []


def test_the_page_is_replaced_last(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, data: xr.Dataset) -> None:
    order: list[str] = []
    rename = Path.replace

    def record(self: Path, target: Path) -> Path:
        order.append(target.name)
        return rename(self, target)

    monkeypatch.setattr(Path, "replace", record)
    report.write(data, tmp_path)
    # Three figures as two files each, the numbers and the page.
    assert len(order) == 8
    assert order[-1] == "index.html"


@pytest.mark.parametrize("moment", ["fsync", "replace"])
def test_a_killed_run_leaves_whole_files(tmp_path: Path, moment: str) -> None:
    write_all(tmp_path, OLD)
    code = (
        "import os, signal, pathlib\n"
        "from isoscale.report.files import write_all\n"
        "kill = lambda *_: os.kill(os.getpid(), signal.SIGKILL)\n"
        f"{'os.fsync' if moment == 'fsync' else 'pathlib.Path.replace'} = kill\n"
        f"write_all(pathlib.Path({str(tmp_path)!r}), {NEW!r})\n"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == -signal.SIGKILL
    assert {name: (tmp_path / name).read_bytes() for name in OLD} == OLD
    write_all(tmp_path, NEW)
    assert {name: (tmp_path / name).read_bytes() for name in NEW} == NEW


def test_other_files_of_the_folder_stay(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_bytes(b"mine")
    write_all(tmp_path, NEW)
    assert contents(tmp_path) == {**NEW, "notes.txt": b"mine"}
