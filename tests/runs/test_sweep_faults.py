"""Whatever happens to the processes, the disk or the clock: the same command then gives what it would have given."""

from __future__ import annotations

import os
import random
import resource
import signal
import sqlite3
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from isoscale.errors import StoreError
from isoscale.runs import Store, Sweep, SweepResult, sweep, worker
from isoscale.runs.engines import local
from isoscale.runs.store import database
from isoscale.testing import inline as inline_

SPEC = Sweep(rule=["mup", "completep"], widths=[8], depths=[1, 2, 3], lrs=[0.0625, 0.125], seeds=2, steps=200)

SCRIPT = f"""
    import isoscale
    result = isoscale.sweep(isoscale.Sweep(**{SPEC.to_mapping()!r}), store="s.db", workers=2)
    print(result.count("done"))
"""


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> SweepResult:
    """The sweep when nothing happens to it, without processes."""
    with inline_():
        return sweep(SPEC, store=tmp_path_factory.mktemp("whole") / "s.db")


def _same(a: SweepResult, b: SweepResult) -> None:
    np.testing.assert_equal(a.data.to_dict(), b.data.to_dict())


# --- processes --------------------------------------------------------------------------------------------------


@pytest.mark.nightly
def test_killed_at_random_moments(whole: SweepResult, tmp_path: Path, start: Callable[..., Any]):
    """Driver or worker, from import to the last record; a killed driver is started again, as a user would."""
    chance = random.Random(20)
    process = start(SCRIPT)
    for _ in range(20):
        time.sleep(chance.uniform(0.2, 5.0))
        workers = process.workers()
        if workers and chance.random() < 0.5:
            os.kill(chance.choice(workers), signal.SIGKILL)
        else:
            process.signal(signal.SIGKILL)
            assert process.gone_within(10), "workers outlive their driver"
            process = start(SCRIPT)
    code, out, errors = process.wait(120)
    assert (code, out) == (0, f"{SPEC.trials}\n")
    assert "Traceback" not in errors
    _same(sweep(SPEC, store=tmp_path / "s.db"), whole)
    with Store(tmp_path / "s.db") as store:
        assert store.faults() == []
        assert store.count() == SPEC.trials


def _start_with_little_memory(*arguments: Any) -> None:
    """A worker that may take 200 MB more than it has after its imports and its data."""
    _START(*arguments)
    worker.source("digits", None, (), "residual-mlp")
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    limit = pages * os.sysconf("SC_PAGE_SIZE") + 200 * 2**20
    resource.setrlimit(resource.RLIMIT_AS, (limit, limit))


_START = local._start_worker


@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="needs Linux to know a process's size")
def test_a_worker_out_of_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """The wide shard needs gigabytes: recorded with its reason after three tries, while the narrow one finishes."""
    monkeypatch.setattr(local, "_start_worker", _start_with_little_memory)
    spec = Sweep(rule="mup", widths=[8, 8192], depths=[1], lrs=[0.0625, 0.125], seeds=1, steps=2)
    found = sweep(spec, store=tmp_path / "s.db", workers=1)
    assert found.data["status"].sel(width=8).values.ravel().tolist() == [0, 0]
    assert found.data["status"].sel(width=8192).values.ravel().tolist() == [2, 2]
    (reason,) = found.reasons
    assert "memory" in reason.lower()
    assert reason.endswith(", 3 times")


# --- the disk ---------------------------------------------------------------------------------------------------


def test_a_disk_that_fills_up_in_mid_sweep(
    tiny: Callable[..., Sweep], inline: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    spec = tiny(depths=[1, 2, 3, 4], steps=60)
    expected = sweep(spec, store=tmp_path / "whole.db")
    set_up = database.Database._set_up

    def small(self: database.Database) -> None:
        set_up(self)
        (pages,) = self.connection.execute("PRAGMA page_count").fetchone()
        self.connection.execute(f"PRAGMA max_page_count = {pages + 2}")

    monkeypatch.setattr(database.Database, "_set_up", small)
    with pytest.raises(StoreError, match=r"disk is full.*free the disk"):
        sweep(spec, store=tmp_path / "s.db")
    monkeypatch.setattr(database.Database, "_set_up", set_up)
    with Store(tmp_path / "s.db") as store:
        kept = store.count()
        assert store.faults() == []
    assert 0 < kept < spec.trials
    assert kept % 4 == 0  # whole shards
    inline.ran.clear()
    _same(sweep(spec, store=tmp_path / "s.db"), expected)
    assert sum(len(shard.members) for shard in inline.ran) == spec.trials - kept


def _lock(path: Path) -> sqlite3.Connection:
    db = sqlite3.connect(path, isolation_level=None, check_same_thread=False)
    db.execute("BEGIN EXCLUSIVE")
    return db


def test_a_store_that_another_program_locks_for_a_while(tiny: Callable[..., Sweep], inline: Any, tmp_path: Path):
    Store(tmp_path / "s.db").close()
    holder = _lock(tmp_path / "s.db")
    threading.Timer(0.5, holder.close).start()
    started = time.monotonic()
    assert sweep(tiny(), store=tmp_path / "s.db").count("done") == tiny().trials
    assert time.monotonic() - started > 0.3


def test_a_store_that_another_program_never_lets_go(
    tiny: Callable[..., Sweep], inline: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    sweep(tiny(depths=[1]), store=tmp_path / "s.db")
    monkeypatch.setattr(database, "LOCK_SECONDS", 0.2)
    holder = _lock(tmp_path / "s.db")
    with pytest.raises(StoreError, match="database is locked"):
        sweep(tiny(base_depth=1), store=tmp_path / "s.db")
    holder.close()
    inline.ran.clear()
    assert sweep(tiny(base_depth=1), store=tmp_path / "s.db").count("done") == tiny().trials
    assert [shard.config.depth for shard in inline.ran] == [2]


@pytest.fixture(scope="module")
def sound(tmp_path_factory: pytest.TempPathFactory) -> tuple[Sweep, SweepResult, bytes]:
    """A sweep, its result, and its store in one file."""
    spec = Sweep(rule="depth-mup", widths=[8], depths=[1, 2, 3, 4, 5, 6], lrs=[0.0625, 0.125], seeds=2, steps=100)
    path = tmp_path_factory.mktemp("sound") / "s.db"
    with inline_():
        found = sweep(spec, store=path)
    with Store(path) as store:
        store._db.execute("PRAGMA journal_mode = DELETE")
    return spec, found, path.read_bytes()


@pytest.mark.parametrize("damage", ["cut short", "overwritten"])
def test_a_damaged_store_is_recovered_and_the_sweep_goes_on(
    sound: tuple[Sweep, SweepResult, bytes], inline: Any, tmp_path: Path, damage: str
):
    """What could be saved is not run again, and the result is what it was."""
    spec, expected, content = sound
    half = len(content) // 2
    hurt = content[:half] if damage == "cut short" else content[:half] + b"\xff" * 3000 + content[half + 3000 :]
    (tmp_path / "s.db").write_bytes(hurt)
    with pytest.raises(StoreError, match="isoscale store salvage"):
        sweep(spec, store=tmp_path / "s.db")
    saved = Store.salvage(tmp_path / "s.db", tmp_path / "rescued.db").saved
    assert 0 < saved < spec.trials
    inline.ran.clear()
    again = sweep(spec, store=tmp_path / "rescued.db")
    assert sum(len(shard.members) for shard in inline.ran) == spec.trials - saved
    # A shard that lost some of its members trains the others alone: float32 round-off.
    np.testing.assert_allclose(again.data["curve"], expected.data["curve"], rtol=1e-4)
    np.testing.assert_equal(again.data["status"].values, expected.data["status"].values)


# --- the clock --------------------------------------------------------------------------------------------------


def test_a_clock_that_goes_backwards(
    tiny: Callable[..., Sweep], inline: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    """By an hour at each look; two drivers compare no clocks, and dates are only for people."""
    expected = sweep(tiny(), store=tmp_path / "whole.db")
    now = [time.time()]

    def backwards() -> float:
        now[0] -= 3600
        return now[0]

    gmtime = time.gmtime
    monkeypatch.setattr(time, "time", backwards)
    monkeypatch.setattr(time, "gmtime", lambda seconds=None: gmtime(backwards() if seconds is None else seconds))
    found = sweep(tiny(), store=tmp_path / "s.db")
    inline.ran.clear()
    _same(sweep(tiny(), store=tmp_path / "s.db"), expected)
    _same(found, expected)
    assert inline.ran == []
    with Store(tmp_path / "s.db") as store:
        dates = [trial.created for trial in store.trials()]
        assert dates == sorted(dates, reverse=True)
        assert len(set(dates)) == 2
        assert store.acquire("a lease")
