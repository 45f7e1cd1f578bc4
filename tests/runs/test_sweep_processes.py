"""Sweeps in worker processes, and what `kill -9` and Ctrl-C leave of them."""

from __future__ import annotations

import os
import signal
import sqlite3
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from isoscale.runs import Store, Sweep, SweepResult, driver, sweep
from isoscale.runs.engines.local import LocalEngine
from isoscale.runs.twins import Twins
from isoscale.testing import inline

# Shards of about half a second: long enough to be killed in the middle.
SLOW = {"rule": ["mup", "completep"], "depths": [1, 2, 3, 4], "lrs": [0.0625, 0.125], "steps": 200}

# A user's script, without `if __name__ == "__main__":`, which says what it ran.
SCRIPT = """
    import isoscale
    from isoscale.runs.engines.local import LocalEngine
    submit = LocalEngine.submit
    def spy(self, shard, index):
        with open("ran.txt", "a") as file:
            print(WHO, shard.id, file=file, flush=True)
        return submit(self, shard, index)
    LocalEngine.submit = spy
    result = isoscale.sweep(isoscale.Sweep(**SPEC), store="s.db", workers=WORKERS)
    print(result.count("done"))
"""


def _script(spec: Sweep, who: str = "driver", workers: int = 2) -> str:
    mapping = f"SPEC, WHO, WORKERS = {spec.to_mapping()!r}, {who!r}, {workers}"
    return f"    {mapping}\n{SCRIPT}"


def _same(a: SweepResult, b: SweepResult) -> None:
    np.testing.assert_equal(a.data.to_dict(), b.data.to_dict())


@pytest.fixture(scope="module")
def slow(tmp_path_factory: pytest.TempPathFactory) -> tuple[Sweep, SweepResult]:
    """A sweep and its result when nothing happens to it, without processes."""
    spec = Sweep(widths=[8], seeds=2, **SLOW)
    with inline():
        return spec, sweep(spec, store=tmp_path_factory.mktemp("slow") / "s.db")


def _ran(folder: Path) -> Counter[str]:
    return Counter(line.split()[1] for line in (folder / "ran.txt").read_text().splitlines())


@pytest.mark.nightly
def test_a_driver_killed_again_and_again(
    slow: tuple[Sweep, SweepResult], tmp_path: Path, start: Callable[..., Any], until: Callable[..., bool]
):
    """Killed at times spread over start, training and recording; each restart goes on where the last one died."""
    spec, uninterrupted = slow
    for seconds in (0.5, 2.0, 3.5, 4.25, 5.0):
        process = start(_script(spec))
        time.sleep(seconds)
        process.signal(signal.SIGKILL)
        assert process.gone_within(10), "workers outlive their driver"
        if (tmp_path / "s.db").exists():
            with Store(tmp_path / "s.db"):  # a killed driver leaves a sound store
                pass
    last = start(_script(spec))
    code, out, errors = last.wait()
    assert (code, out, errors) == (0, f"{spec.trials}\n", "")
    _same(sweep(spec, store=tmp_path / "s.db"), uninterrupted)
    assert _integrity(tmp_path / "s.db") == "ok"


def _integrity(path: Path) -> str:
    db = sqlite3.connect(path)
    (found,) = db.execute("PRAGMA integrity_check").fetchone()
    db.close()
    return found


def test_killed_while_they_train(
    slow: tuple[Sweep, SweepResult], tmp_path: Path, start: Callable[..., Any], until: Callable[..., bool]
):
    """Both workers at once, then, when their successors have stored something, the driver; another one finishes."""
    spec, undisturbed = slow
    process = start(_script(spec))
    assert until(lambda: _stored(tmp_path / "s.db"), 120)
    killed = process.workers()
    for pid in killed:
        os.kill(pid, signal.SIGKILL)
    assert until(lambda: max(_ran(tmp_path).values()) >= 2, 120), "no lost shard runs again"
    before = _stored(tmp_path / "s.db")
    assert until(lambda: _stored(tmp_path / "s.db") > before, 120)
    process.signal(signal.SIGKILL)
    assert process.gone_within(10), "workers outlive their driver"
    _, _, errors = process.wait()
    assert len(killed) == 2
    assert "worker process died" in errors
    assert "Traceback" not in errors
    kept = _stored(tmp_path / "s.db")
    assert before < kept < spec.trials
    with inline() as engine:
        _same(sweep(spec, store=tmp_path / "s.db"), undisturbed)
    assert sum(len(shard.members) for shard in engine.ran) <= spec.trials - kept
    assert _integrity(tmp_path / "s.db") == "ok"


@pytest.mark.nightly
def test_workers_killed_while_they_start(
    slow: tuple[Sweep, SweepResult], tmp_path: Path, start: Callable[..., Any], until: Callable[..., bool]
):
    """Both at once, before they took a shard: others take their places without a word."""
    spec, undisturbed = slow
    process = start(_script(spec))
    assert until(lambda: len(process.workers()) == 2, 30)
    for pid in process.workers():
        os.kill(pid, signal.SIGKILL)
    code, out, errors = process.wait()
    assert (code, out) == (0, f"{spec.trials}\n")
    assert "Traceback" not in errors
    _same(sweep(spec, store=tmp_path / "s.db"), undisturbed)


def _stored(path: Path) -> int:
    """Trials in a store that another process writes."""
    try:
        db = sqlite3.connect(f"file:{path}?mode=ro", uri=True)
        (count,) = db.execute("SELECT count(*) FROM trials").fetchone()
        db.close()
    except sqlite3.OperationalError:
        return 0
    return count


def test_ctrl_c_while_workers_start(tmp_path: Path, start: Callable[..., Any], until: Callable[..., bool]):
    """A terminal interrupts every process: workers that are still importing must not answer with tracebacks."""
    process = start(_script(Sweep(widths=[8], seeds=2, **SLOW)))
    assert until(lambda: len(process.workers()) == 2, 30)
    process.interrupt()
    code, out, errors = process.wait()
    assert (code, out) == (-signal.SIGINT, "")
    assert errors.count("Traceback") == errors.splitlines().count("KeyboardInterrupt") == 1  # the script's own
    assert process.gone_within(5)


def test_two_drivers_share_a_store(slow: tuple[Sweep, SweepResult], tmp_path: Path, start: Callable[..., Any]):
    """Each a script without a main guard, with a worker of its own: the bits are those of a single process."""
    spec, alone = slow
    drivers = [start(_script(spec, who, workers=1)) for who in ("first", "second")]
    for process in drivers:
        assert process.wait() == (0, f"{spec.trials}\n", "")
        assert process.gone_within(5)
    ran = _ran(tmp_path)
    plan = driver.prepare(spec)
    assert len(ran) == len(Twins(plan).first(plan))
    assert set(ran.values()) == {1}, "a shard ran twice"
    assert _stored(tmp_path / "s.db") == spec.trials
    _same(sweep(spec, store=tmp_path / "s.db"), alone)


def _exit_at_once(*_: Any) -> None:
    os._exit(3)


# --- the engine by itself ---------------------------------------------------------------------------------------


def test_an_engine_whose_workers_die_at_once_says_so_every_time(
    tiny: Callable[..., Sweep], monkeypatch: pytest.MonkeyPatch
):
    """A worker that cannot even start costs no shard a try, and never the engine."""
    from isoscale.runs.engines import local

    monkeypatch.setattr(local, "_start_worker", _exit_at_once)
    shard, other = driver.prepare(tiny())
    with LocalEngine(2, 1) as engine:
        for _ in range(2):
            futures = [engine.submit(shard, 0), engine.submit(other, 1)]
            end = time.monotonic() + 30
            while not all(future.done() for future in futures) and time.monotonic() < end:
                engine.repair()
                time.sleep(0.05)
            for future in futures:
                with pytest.raises(local.NotStartedError):
                    engine.result(future)


def test_an_engine_starts_no_more_workers_than_shards(tiny: Callable[..., Sweep]):
    (shard, *_) = driver.prepare(tiny())
    with LocalEngine(1, 8) as engine:
        assert len(engine.submit(shard, 0).result(timeout=60)) == len(shard.members)
        assert engine.member_steps() == [0]  # 5 steps: counted every 10
        assert len(engine._pool._pool_manager.worker_manager.workers) == 1
