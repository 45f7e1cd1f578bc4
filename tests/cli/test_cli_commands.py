"""The commands on a tiny grid: what they print, what they write and how they exit."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import xarray as xr

from isoscale.cli.limit import LimitCommand
from isoscale.cli.sweep import SweepCommand
from isoscale.runs import Store, Sweep, worker
from isoscale.runs.engines import engine
from isoscale.runs.engines.local import WorkerLostError
from isoscale.testing import InlineEngine, inline

Run = Callable[..., tuple[int, str, str]]


def test_rules(isoscale: Run):
    code, out, errors = isoscale("rules")
    assert (code, errors) == (0, "")
    for rule in ("sp", "depth-mup-corrected", "completep", "residual-family(ALPHA,BETA)"):
        assert rule in out


@pytest.mark.parametrize("verb", ["transfer", "sweep"])
def test_dry_run_creates_nothing(isoscale: Run, tmp_path: Path, grid: list[str], verb: str):
    code, out, errors = isoscale(verb, *grid, "--dry-run")
    assert (code, errors) == (0, "")
    assert "24 trials in 4 shards, at most about " in out
    assert "(0 of 24 done)" in out
    assert "sp, depth-mup" in out
    assert list(tmp_path.iterdir()) == []


def test_a_dry_run_of_a_search_says_about_how_many_trials(isoscale: Run, tmp_path: Path, grid: list[str]):
    code, out, errors = isoscale("transfer", *grid, "--search", "adaptive", "--dry-run")
    assert (code, errors) == (0, "")
    # Eight full trials of each seed, for two rules at two depths.
    assert "Adaptive search, about 64 trials, about " in out
    assert list(tmp_path.iterdir()) == []


def test_transfer_and_what_follows(isoscale: Run, tmp_path: Path, grid: list[str]):
    """One sweep, and everything that can be asked of its store without training again."""
    with inline() as engine:
        _transfer_and_what_follows(isoscale, tmp_path, grid, engine)


def _transfer_and_what_follows(isoscale: Run, tmp_path: Path, grid: list[str], engine: type[InlineEngine]) -> None:
    code, out, errors = isoscale("transfer", *grid)
    assert (code, errors) == (0, "")
    assert "Does the learning rate of depth 1 serve depth 2?" in out
    assert "Report: isoscale-report/index.html" in out
    _answer_first(out)
    assert (tmp_path / "isoscale-report" / "index.html").read_text().startswith("<!DOCTYPE html>")

    trained = len(engine.ran)
    _again(isoscale, grid, out)
    _json_and_a_report_elsewhere(isoscale, tmp_path, grid)
    _drift(isoscale, grid)
    _report_that_cannot_be(isoscale, tmp_path, grid)
    _sweep_out(isoscale, tmp_path, grid)
    _config(isoscale, tmp_path)
    assert len(engine.ran) == trained, "trained again"


def _answer_first(out: str) -> None:
    """Then what its words mean and every threshold, then the numbers, then what would tell."""
    parts = (
        "Cannot tell for sp and depth-mup.",
        "Octave: a factor of two",
        "Regret: what the rate used costs",
        "at most 2 % of the loss",
        "sp  ? cannot tell: ",
        "rate used: ",
        "This would tell: sp at ",
        "--until-decided",
        "Report: ",
    )
    places = [out.index(part) for part in parts]
    assert places == sorted(places)


def _again(isoscale: Run, grid: list[str], first: str) -> None:
    code, out, errors = isoscale("transfer", *grid)
    assert (code, errors) == (0, "")
    assert "nothing to run" in out
    assert "(24 of 24 done)" in out
    assert out.splitlines()[2:-1] == first.splitlines()[2:-1]


def _json_and_a_report_elsewhere(isoscale: Run, tmp_path: Path, grid: list[str]) -> None:
    code, out, errors = isoscale("transfer", *grid, "--json", "--report", "other")
    assert (code, errors) == (0, "")
    assert (tmp_path / "other" / "index.html").exists()
    found = json.loads(out, parse_constant=pytest.fail)  # no NaN, which is no JSON
    assert found["question"] == "Does the learning rate of depth 1 serve depth 2?"
    assert list(found["rules"]) == ["sp", "depth-mup"]
    assert set(found["rules"]["sp"]["drift"]) == {"1", "2"}
    assert found["limits"] == {"regret": 0.02, "worse": 0.02, "lost_seeds": 0.0, "level": 0.95}
    assert {run["rule"] for run in found["next_runs"]} == {"sp", "depth-mup"}
    code, out, errors = isoscale("sweep", *grid, "--json")
    assert (code, errors) == (0, "")
    assert [(row["rule"], row["depth"]) for row in json.loads(out, parse_constant=pytest.fail)] == [
        ("sp", 1), ("sp", 2), ("depth-mup", 1), ("depth-mup", 2)
    ]  # fmt: skip


def _drift(isoscale: Run, grid: list[str]) -> None:
    """Five steps are too few for an optimum inside the grid: it is not found, which is no transfer."""
    assert isoscale("transfer", *grid, "--fail-on-drift", 100, "--quiet") == (1, "", "")


def _report_that_cannot_be(isoscale: Run, tmp_path: Path, grid: list[str]) -> None:
    """A report that cannot be written costs neither the verdict nor the store."""
    (tmp_path / "file").touch()
    code, out, errors = isoscale("transfer", *grid, "--report", "file/report")
    assert code == 2
    assert errors.startswith("error: cannot write the report to `file/report`")
    assert errors.count("\n") == 1
    assert "regret" in out


def _sweep_out(isoscale: Run, tmp_path: Path, grid: list[str]) -> None:
    code, out, errors = isoscale("sweep", *grid, "--out", "all.nc")
    assert (code, errors) == (0, "")
    assert "24 trials done, 0 diverged, in isoscale.db" in out
    assert xr.load_dataset(tmp_path / "all.nc", engine="scipy")["curve"].shape == (2, 1, 2, 3, 2, 5)
    code, out, errors = isoscale("sweep", *grid, "--out", "missing/all.nc")
    assert (code, errors) == (
        2,
        "error: cannot write `missing/all.nc`: No such file or directory. Choose another file\n",
    )
    assert "24 trials done" in out


def _config(isoscale: Run, tmp_path: Path) -> None:
    """The same grid from a file; flags that say where to run stand beside it, flags of the grid cannot."""
    spec = Sweep(
        widths=[8], depths=[1, 2], lrs=[0.0625, 0.125, 0.25], seeds=2, steps=5, rule=["sp", "depth-mup"],
        optimizer="adamw", model_args={"block_depth": 2, "phi": "relu", "norm": "layer"},
        dataset="synthetic", dataset_args={"accuracy": 0.7, "train": 6400},
    )  # fmt: skip
    (tmp_path / "grid.toml").write_text(spec.to_toml())
    code, out, errors = isoscale("sweep", "--config", "grid.toml", "--store", "isoscale.db", "--workers", 1)
    assert (code, errors) == (0, "")
    assert "nothing to run" in out


def test_a_worker_that_always_dies_exits_1(
    isoscale: Run, grid: list[str], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
):
    """Its trials are recorded as failed, with the reason printed as it is; the others finish."""

    class Dying:
        capacity = 2

        def __init__(self, *_: object) -> None: ...
        def __enter__(self) -> Dying:
            return self

        def __exit__(self, *_: object) -> None: ...
        def repair(self) -> None: ...
        def member_steps(self) -> list[int]:
            return []

        def submit(self, shard, slot):
            from concurrent.futures import Future

            future: Future = Future()
            if shard.config.depth == 2:
                future.set_exception(WorkerLostError("worker [died] :x:"))
            else:
                future.set_result(worker.run(shard, "cpu"))
            return future

        def result(self, future):
            return future.result()

    monkeypatch.setattr(engine, "LocalEngine", Dying)
    code, out, _ = isoscale("sweep", *grid)
    assert code == 1
    assert "12 trials done, 0 diverged" in out
    assert "failed: worker [died] :x:, 3 times" in out
    assert caplog.text.count("trying") == 4


def test_ctrl_c_exits_130_and_loses_nothing(tmp_path: Path, grid: list[str]):
    """Interrupted, as a terminal does it, once the first shard is in the store."""
    # Nine shards of about a second: four are in flight, so that the last ones never start.
    many = "--rule sp depth-mup depth-mup-corrected completep --depths 1 2 3 --steps 400"
    command = [sys.executable, "-m", "isoscale", "sweep", *grid, *many.split()]
    process = subprocess.Popen(
        command, cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True
    )
    try:
        end = time.monotonic() + 120
        while not (finished := _finished(tmp_path / "isoscale.db")) and time.monotonic() < end:
            time.sleep(0.1)
        os.killpg(process.pid, signal.SIGINT)
        _, errors = process.communicate(timeout=30)
    finally:
        process.kill()
        process.communicate()
    assert process.returncode == 130
    assert "interrupted: every finished shard is in the store" in errors
    assert "Traceback" not in errors
    assert 0 < finished <= _finished(tmp_path / "isoscale.db") < 72
    assert _group_is_gone(process.pid)
    with Store(tmp_path / "isoscale.db") as store:
        assert store._db.execute("SELECT count(*) FROM leases").fetchone() == (0,)


@pytest.mark.parametrize(("command", "keeps"), [("sweep", True), ("limit", False)])
def test_only_what_is_in_a_store_is_said_to_be_kept(
    isoscale: Run, monkeypatch: pytest.MonkeyPatch, command: str, keeps: bool
):
    def interrupted(self: object) -> int:
        raise KeyboardInterrupt

    for kind in (SweepCommand, LimitCommand):
        monkeypatch.setattr(kind, "run", interrupted)
    code, _, errors = isoscale(command)
    assert code == 130
    assert errors.startswith("interrupted")
    assert ("in the store" in errors) is keeps


def _finished(path: Path) -> int:
    if not path.exists():
        return 0
    with Store(path) as store:
        return store._db.execute("SELECT count(*) FROM trials").fetchone()[0]


def _group_is_gone(group: int) -> bool:
    """Within some seconds; the resource tracker of multiprocessing ends a moment after its driver."""
    for _ in range(50):
        states = []
        for entry in Path("/proc").iterdir():
            if entry.name.isdigit():
                try:
                    fields = (entry / "stat").read_text().rsplit(")", 1)[1].split()
                except OSError:
                    continue
                states += [fields[0]] if int(fields[2]) == group else []
        if set(states) <= {"Z"}:
            return True
        time.sleep(0.1)
    return False
