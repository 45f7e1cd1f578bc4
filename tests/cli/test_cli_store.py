"""`isoscale store`: what it prints, what it refuses, how it exits."""

from __future__ import annotations

import io
import json
import sqlite3
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from isoscale import cli
from isoscale.runs import Store, Sweep, driver, worker

Run = Callable[..., tuple[int, str, str]]

SPEC = Sweep(rule=["sp", "mup"], widths=[8], depths=[1], lrs=[0.125, 1e6], seeds=1, steps=20)


@pytest.fixture
def store(tmp_path: Path) -> Path:
    """One done and one diverged trial of sp, two failed ones of mup."""
    path = tmp_path / "isoscale.db"
    with Store(path) as opened:
        first, second = driver.prepare(SPEC)
        opened.record(worker.run(first, "cpu"))
        opened.record(worker.failures(second, "worker [died] :x:", "cpu"))
    return path


@pytest.mark.parametrize("verb", ["list", "check", "export all.csv", "prune --status failed --yes"])
def test_a_store_that_is_not_there_is_not_made(isoscale: Run, tmp_path: Path, verb: str):
    assert isoscale("store", *verb.split()) == (2, "", "error: there is no store `isoscale.db`\n")
    assert list(tmp_path.iterdir()) == []


def test_list(isoscale: Run, store: Path):
    code, out, errors = isoscale("store", "list")
    assert (code, errors) == (0, "")
    assert out.splitlines()[-1] == "4 trials in isoscale.db: 1 done, 1 diverged, 0 stopped, 2 failed"
    assert out.splitlines()[1].split()[:5] == ["residual-mlp", "digits", "sgd", "mup", "20"]
    code, out, errors = isoscale("store", "list", "--json")
    assert [(row["rule"], row["failed"]) for row in json.loads(out)] == [("mup", 2), ("sp", 0)]


def test_export(isoscale: Run, store: Path, tmp_path: Path):
    assert isoscale("store", "export", "all.csv") == (0, "4 trials written to all.csv\n", "")
    assert len((tmp_path / "all.csv").read_text().splitlines()) == 5
    code, _, errors = isoscale("store", "export", "all.xml")
    assert code == 2
    assert "one of .csv, .nc, .parquet" in errors


def test_prune_asks_first(isoscale: Run, store: Path):
    code, out, _ = isoscale("store", "prune", "--status", "failed")
    assert (code, out) == (0, "2 trials of isoscale.db would be deleted. Nothing was: add --yes to delete them\n")
    code, out, _ = isoscale("store", "prune", "--yes")
    assert code == 2
    assert "(4 of 4 done)" not in out
    code, out, _ = isoscale("store", "prune", "--status", "failed", "--yes")
    assert (code, out) == (0, "2 trials deleted from isoscale.db\n")
    with Store(store) as opened:
        assert opened.count() == 2


def test_merge_exits_1_on_conflicts(isoscale: Run, store: Path, tmp_path: Path):
    with Store(store) as opened, Store(tmp_path / "other.db") as other:
        done = next(opened.trials())
        other.record([done.__class__(**(vars(done) | {"test_loss": 0.0, "created": ""}))])
    code, out, _ = isoscale("store", "merge", "other.db", "--into", "new.db")
    assert (code, out) == (0, "1 trials added to new.db, 0 were there already\n")
    code, out, _ = isoscale("store", "merge", "other.db", "new.db")
    assert code == 1
    assert out.count(f"conflict: {done.key} in ") == 2
    assert isoscale("store", "merge")[0] == 2


def test_check_and_salvage(isoscale: Run, store: Path, tmp_path: Path):
    assert isoscale("store", "check") == (0, "isoscale.db is sound\n", "")
    db = sqlite3.connect(store)
    with db:
        db.execute("UPDATE trials SET test_loss = 0 WHERE status = 'done'")
        (key,) = db.execute("SELECT key FROM trials WHERE status = 'done'").fetchone()
    db.close()
    code, out, _ = isoscale("store", "check")
    assert code == 1
    assert f"trial {key} is damaged" in out
    assert "isoscale store salvage isoscale.db rescued.db" in out
    code, out, _ = isoscale("store", "salvage", "isoscale.db", "rescued.db")
    assert code == 1
    assert f"lost: {key}" in out
    assert "3 trials saved to rescued.db, 1 lost, which the same sweep runs again" in out
    assert isoscale("store", "check", "--store", "rescued.db")[0] == 0


def test_a_terminal_without_unicode(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    with Store(tmp_path / "größe.db"):
        pass
    terminal = io.TextIOWrapper(io.BytesIO(), encoding="ascii")
    monkeypatch.setattr(sys, "stdout", terminal)
    with pytest.raises(SystemExit) as ended:
        cli.main(["store", "list", "--store", str(tmp_path / "größe.db")])
    assert ended.value.code == 0
    terminal.seek(0)
    assert "gr\\xf6\\xdfe.db" in terminal.read()
