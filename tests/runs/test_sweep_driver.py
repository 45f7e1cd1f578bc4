"""The driver's decisions: what runs, what is kept, what is tried again; shards run in this process."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import logging
import signal
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from isoscale.errors import ClusterError, DataError, InvalidTypeError, InvalidValueError, StoreError
from isoscale.runs import Runner, Store, Sweep, SweepResult, TrialRecord, driver, interrupts, sweep, worker
from isoscale.runs.engines.local import LocalEngine, NotStartedError, WorkerLostError
from isoscale.runs.shards import Shard


@pytest.fixture
def store(tmp_path: Path) -> Path:
    return tmp_path / "s.db"


def _cells(engine: Any) -> set[tuple]:
    """(depth, lr, seed) of every trial that ran; none of them twice."""
    cells = [(shard.config.depth, *member) for shard in engine.ran for member in shard.members]
    assert len(cells) == len(set(cells))
    return set(cells)


def _same(a: SweepResult, b: SweepResult) -> None:
    np.testing.assert_equal(a.data.to_dict(), b.data.to_dict())


@pytest.mark.parametrize(
    ("sizes", "message"),
    [
        ({"base_depth": 6_381_753}, "`depth` must be at most 10,000 blocks, got 6,381,753"),
        ({"base_width": 10**6}, "The base has width 1,000,000 and depth 1: take a smaller one"),
        ({"widths": [10**8]}, "The base has width 100,000,000 and depth 1: take a smaller one"),
    ],
)
def test_a_size_that_no_memory_holds_is_refused_before_it_is_built(sizes: dict[str, Any], message: str):
    with pytest.raises(InvalidValueError, match=message):
        driver.prepare(Sweep(**{"widths": [8], "depths": [1], **sizes}))


# --- what runs --------------------------------------------------------------------------------------------------


def test_a_finished_sweep_runs_nothing_again(tiny: Callable[..., Sweep], inline: Any, store: Path):
    first = sweep(tiny(), store=store)
    assert len(_cells(inline)) == tiny().trials
    inline.ran.clear()
    _same(sweep(tiny(), store=store), first)
    assert inline.ran == []


def test_a_key_is_the_digest_of_the_whole_config(tiny: Callable[..., Sweep]):
    """Worked out together, for all members of a shard; a store of an earlier version keeps its trials."""
    spec = tiny(lrs=[1, 2.0**-40, 0.1], seeds=[0, 7, 2**62], model_args={"phi": "tanh"}, weight_decay=0.5)
    for shard in driver.prepare(spec):
        for key, member in zip(shard.keys, shard.members, strict=True):
            text = json.dumps(shard.settings(member), sort_keys=True, separators=(",", ":"))
            assert key == hashlib.sha256(text.encode()).hexdigest()[:32]


def test_several_sweeps_run_as_one_and_give_what_each_gives_alone(
    tiny: Callable[..., Sweep], inline: Any, store: Path, tmp_path: Path
):
    """The second asks for learning rates at a depth that the first has too: their shard is one."""
    specs = [tiny(), tiny(depths=[1], base_depth=1, lrs=[0.125, 0.25])]
    together = Runner(store=store).run(specs)
    assert len(_cells(inline)) == tiny().trials + 2
    assert len(inline.ran) == 2
    for spec, found in zip(specs, together, strict=True):
        alone = sweep(spec, store=tmp_path / "alone.db")
        # Another number of members in a batched product may sum in another order: float32 round-off.
        np.testing.assert_allclose(found.data["curve"], alone.data["curve"], rtol=1e-5)


@pytest.mark.parametrize(
    "grown", [{"lrs": [0.03125, 0.0625, 0.125]}, {"seeds": 3}, {"depths": [1, 2, 3], "base_depth": 1}], ids=str
)
def test_a_grown_sweep_runs_its_new_cells_only(
    tiny: Callable[..., Sweep], inline: Any, store: Path, tmp_path: Path, grown: dict
):
    sweep(tiny(), store=store)
    old = _cells(inline)
    inline.ran.clear()
    after = sweep(tiny(**grown), store=store)
    assert _cells(inline).isdisjoint(old)
    assert len(_cells(inline)) == tiny(**grown).trials - tiny().trials
    at_once = sweep(tiny(**grown), store=tmp_path / "at_once.db")
    # Another number of members in a batched product may sum in another order: float32 round-off.
    np.testing.assert_allclose(after.data["curve"], at_once.data["curve"], rtol=1e-5)
    np.testing.assert_equal(after.data["status"].values, at_once.data["status"].values)


@pytest.mark.parametrize(
    "other",
    [{"steps": 6}, {"batch_size": 32}, {"optimizer": "adam"}, {"base_depth": 2}, {"weight_decay": 0.1}],
    ids=str,
)
def test_whatever_determines_a_trial_makes_it_another(
    tiny: Callable[..., Sweep], inline: Any, store: Path, other: dict
):
    sweep(tiny(), store=store)
    inline.ran.clear()
    sweep(tiny(**other), store=store)
    assert len(_cells(inline)) == tiny().trials


def test_an_interrupted_sweep_equals_an_uninterrupted_one(
    tiny: Callable[..., Sweep], inline: Any, store: Path, tmp_path: Path
):
    spec = tiny(depths=[1, 2, 3, 4])
    uninterrupted = sweep(spec, store=tmp_path / "whole.db")
    inline.ran.clear()

    def interrupt(shard: Shard, device: str) -> list[TrialRecord]:
        if len(inline.ran) == 4:
            raise KeyboardInterrupt
        return worker.run(shard, device)

    inline.run_shard = staticmethod(interrupt)
    with pytest.raises(KeyboardInterrupt):
        sweep(spec, store=store)
    inline.ran.clear()
    inline.run_shard = staticmethod(worker.run)
    # Shards keep their members, so even the bits are the same.
    _same(sweep(spec, store=store), uninterrupted)
    assert len(inline.ran) == 2  # the two that were in flight


def test_ctrl_c_waits_for_the_end_of_a_turn(
    tiny: Callable[..., Sweep], inline: Any, store: Path, monkeypatch: pytest.MonkeyPatch
):
    """An interrupt amid a turn could leave a lock taken; a whole turn is short, and what it was given is kept."""
    turn = []

    def interrupted(self: Any, shard: Shard, slot: int) -> Any:
        signal.raise_signal(signal.SIGINT)
        turn.append("submitted")
        return submit(self, shard, slot)

    submit = inline.submit
    monkeypatch.setattr(inline, "capacity", 1)
    monkeypatch.setattr(inline, "submit", interrupted)
    with pytest.raises(KeyboardInterrupt):
        sweep(tiny(), store=store)
    assert turn == ["submitted"]
    with Store(store) as opened:
        assert len(opened.finished(key for shard in inline.ran for key in shard.keys)) == tiny().trials // 2
        assert opened._db.execute("SELECT count(*) FROM leases").fetchone() == (0,)
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


@pytest.mark.parametrize("presses", [1, 2])
def test_a_first_ctrl_c_waits_and_a_second_does_not(presses: int):
    outlives = []

    def press() -> None:
        with interrupts.held_back():
            for count in range(presses):
                signal.raise_signal(signal.SIGINT)
                outlives.append(count)

    with pytest.raises(KeyboardInterrupt):
        press()
    assert outlives == [0]
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_others_keep_their_handling_of_interrupts():
    seen = []
    before = signal.signal(signal.SIGINT, lambda *_: seen.append("theirs"))
    try:
        with interrupts.held_back() as let_through:
            signal.raise_signal(signal.SIGINT)
            let_through()
    finally:
        signal.signal(signal.SIGINT, before)
    with ThreadPoolExecutor(1) as pool:
        assert pool.submit(_let_through).result() == "no error"
    assert seen == ["theirs"]


def _let_through() -> str:
    with interrupts.held_back() as let_through:
        let_through()
    return "no error"


def test_a_diverged_trial_is_a_result(tiny: Callable[..., Sweep], inline: Any, store: Path):
    found = sweep(tiny(lrs=[0.125, 1e6], steps=20), store=store)
    status = found.data["status"].sel(lr=1e6)
    assert (status == 1).all()
    assert (found.count("done"), found.count("diverged"), found.count("failed")) == (4, 4, 0)
    assert np.isnan(found.loss.sel(lr=1e6)).all()
    assert np.isfinite(found.loss.sel(lr=0.125)).all()
    assert np.isfinite(found.data["curve"].sel(lr=1e6, step=0)).all()
    assert np.isnan(found.data["curve"].sel(lr=1e6, step=19)).all()
    inline.ran.clear()
    sweep(tiny(lrs=[0.125, 1e6], steps=20), store=store)
    assert inline.ran == []


# --- what goes wrong --------------------------------------------------------------------------------------------


def test_a_lost_worker_is_tried_again(tiny: Callable[..., Sweep], inline: Any, store: Path, tmp_path: Path):
    whole = sweep(tiny(), store=tmp_path / "whole.db")
    lost: list[str] = []

    def run(shard: Shard, device: str) -> list[TrialRecord]:
        if lost.count(shard.id) < 2:
            lost.append(shard.id)
            raise WorkerLostError("killed")
        return worker.run(shard, device)

    inline.run_shard = staticmethod(run)
    _same(sweep(tiny(), store=store), whole)
    assert len(lost) == 4


def test_workers_that_die_before_they_take_a_shard_cost_no_try(tiny: Callable[..., Sweep], inline: Any, store: Path):
    deaths = 5  # more than a shard has tries

    def dies_at_first(shard: Any, device: str) -> list[TrialRecord]:
        if len(inline.ran) <= deaths:
            raise NotStartedError
        return worker.run(shard, device)

    inline.run_shard = staticmethod(dies_at_first)
    found = driver.sweep(tiny(depths=[1]), store=store)
    assert found.count("done") == tiny(depths=[1]).trials
    assert len(inline.ran) == deaths + 1


def test_workers_that_always_die_at_once_end_the_sweep(tiny: Callable[..., Sweep], store: Path, monkeypatch: Any):
    def broken(*_: Any, **__: Any) -> None:
        raise RuntimeError

    def end() -> None: ...

    pools = []

    def pool(_: LocalEngine) -> SimpleNamespace:
        pools.append(SimpleNamespace(active=False, schedule=broken, join=end, stop=end, close=end))
        return pools[-1]

    monkeypatch.setattr(LocalEngine, "_new_pool", pool)
    with pytest.raises(ClusterError, match="died 10 times before one of them took a shard"):
        driver.sweep(tiny(depths=[1]), store=store, workers=1)
    assert len(pools) == 10
    with Store(store) as opened:
        assert opened.count() == 0


@pytest.mark.parametrize(
    ("error", "runs", "reason"),
    [
        (WorkerLostError("worker process died (exit code -9)"), 3, "worker process died (exit code -9), 3 times"),
        (RuntimeError("out of memory"), 1, "RuntimeError: out of memory"),
    ],
)
def test_a_shard_that_cannot_run_is_recorded_and_the_rest_finishes(
    tiny: Callable[..., Sweep],
    inline: Any,
    store: Path,
    caplog: pytest.LogCaptureFixture,
    error: Exception,
    runs: int,
    reason: str,
):
    def run(shard: Shard, device: str) -> list[TrialRecord]:
        if shard.config.depth == 2:
            raise error
        return worker.run(shard, device)

    inline.run_shard = staticmethod(run)
    with caplog.at_level(logging.ERROR):
        found = sweep(tiny(), store=store)
    assert [shard.config.depth for shard in inline.ran].count(2) == runs
    assert (found.data["status"].sel(depth=2) == 2).all()
    assert (found.data["status"].sel(depth=1) == 0).all()
    assert found.reasons == (reason,)
    assert f"depth-mup, width 8, depth 2 failed: {reason}" in caplog.text

    inline.ran.clear()
    inline.run_shard = staticmethod(worker.run)
    again = sweep(tiny(), store=store)
    assert again.count("done") == tiny().trials
    assert {shard.config.depth for shard in inline.ran} == {2}


@pytest.mark.parametrize("error", [DataError("changed"), StoreError("full")])
def test_an_error_of_ours_ends_the_sweep_with_all_that_ran_kept(
    tiny: Callable[..., Sweep], inline: Any, store: Path, error: Exception
):
    def run(shard: Shard, device: str) -> list[TrialRecord]:
        if len(inline.ran) == 2:
            raise error
        return worker.run(shard, device)

    inline.run_shard = staticmethod(run)
    with pytest.raises(type(error), match=str(error)):
        sweep(tiny(), store=store)
    first, second = inline.ran
    with Store(store) as opened:
        assert opened.finished(first.keys)
        # and no lease is left behind
        assert opened.acquire(first.id)
        assert opened.acquire(second.id)


def test_data_that_changed_while_the_sweep_ran(tiny: Callable[..., Sweep]):
    (shard, *_) = driver.prepare(tiny())
    assert isinstance(shard, Shard)
    other = dataclasses.replace(shard, source=dataclasses.replace(shard.source, fingerprint="another"))
    with pytest.raises(DataError, match=r"digits changed while the sweep ran: fingerprint .*, expected another"):
        worker.run(other, "cpu")


@pytest.mark.parametrize(
    ("run", "error", "message"),
    [
        ({"workers": 0}, InvalidValueError, "`workers` must be >= 1, got 0"),
        ({"workers": -2}, InvalidValueError, "`workers` must be >= 1, got -2"),
        ({"workers": 1.5}, InvalidTypeError, "`workers` must be a whole number, got 1.5"),
        ({"engine": "clusters"}, InvalidValueError, "`engine` must be one of local, ray, got 'clusters'"),
        ({"device": "gpu"}, InvalidValueError, "`device` 'gpu' cannot be used"),
    ],
)
def test_a_run_that_cannot_be_makes_no_store(
    tiny: Callable[..., Sweep], store: Path, run: dict, error: type[Exception], message: str
):
    with pytest.raises(error, match=message):
        sweep(tiny(), store=store, **run)
    assert not store.exists()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"batch_size": 1439}, "`batch_size` must be at most the 1438 training samples of digits, got 1439"),
        ({"model_args": {"phi": "rel"}}, "Nearest: relu"),
        ({"model_args": {"block_dept": 2}}, "no option of residual-mlp named 'block_dept'. Nearest: block_depth"),
        ({"momentum": 2.0}, "`momentum` must be in"),
        ({"optimizer": "adam", "momentum": 0.5}, "`momentum` is not an option of adam"),
        ({"weight_decay": -1.0}, "`weight_decay` must be >= 0, got -1"),
        ({"eps": 0.0}, "`eps` must be > 0"),
        ({"betas": (0.9, 1.0)}, "`betas` must be in"),
    ],
)
def test_a_sweep_that_cannot_be_makes_no_store(tiny: Callable[..., Sweep], store: Path, changes: dict, message: str):
    with pytest.raises(InvalidValueError, match=message):
        sweep(tiny(**changes), store=store)
    assert not store.exists()


# --- beside another driver --------------------------------------------------------------------------------------


def test_a_shard_that_another_driver_finishes_is_not_run(tiny: Callable[..., Sweep], inline: Any, store: Path):
    """The other driver holds one shard, and ends it while this one waits."""
    held = driver.prepare(tiny())[0]
    with Store(store) as other:
        assert other.acquire(held.id)

        def progress(state: driver.Progress) -> None:
            if state.elsewhere:
                other.record(worker.run(held, "cpu"))
                other.release(held.id)

        found = sweep(tiny(), store=store, progress=progress)
    assert found.count("done") == tiny().trials
    assert held.id not in [shard.id for shard in inline.ran]


def test_a_shard_that_another_driver_gives_up_is_run(tiny: Callable[..., Sweep], inline: Any, store: Path):
    held = driver.prepare(tiny())[0]
    with Store(store) as other:
        other.acquire(held.id)
        found = sweep(tiny(), store=store, progress=lambda state: other.release(held.id) if state.elsewhere else None)
    assert found.count("done") == tiny().trials
    assert [shard.id for shard in inline.ran].count(held.id) == 1


def test_progress_counts_up_to_every_trial(tiny: Callable[..., Sweep], inline: Any, store: Path):
    states: list[driver.Progress] = []
    spec = tiny(rule=["sp", "mup"])
    sweep(spec, store=store, progress=states.append)
    assert all(state.total == {"sp": 8, "mup": 8} for state in states)
    done = [sum(state.done.values()) for state in states]
    assert done == sorted(done)
    assert states[-1].done == {"sp": 8.0, "mup": 8.0}


# --- the result -------------------------------------------------------------------------------------------------


def test_loss_is_the_mean_of_the_last_tenth(tiny: Callable[..., Sweep], inline: Any, store: Path):
    found = sweep(tiny(steps=20), store=store)
    np.testing.assert_allclose(found.loss, found.data["curve"].isel(step=slice(18, None)).mean("step"), rtol=1e-6)
    assert "1,438" in found.note or "1438" in found.note
    (ran,) = found.versions
    assert {"isoscale", "torch", "python", "device", "threads"} <= set(ran)


def test_save_writes_netcdf(tiny: Callable[..., Sweep], inline: Any, store: Path, tmp_path: Path):
    import xarray as xr

    found = sweep(tiny(seeds=[1, 2**40]), store=store)
    found.save(tmp_path / "out.nc")
    read = xr.load_dataset(tmp_path / "out.nc", engine="scipy")
    np.testing.assert_equal(read["curve"].values, found.data["curve"].values)
    assert read["seed"].values.tolist() == [1, 2**40]
    before = (tmp_path / "out.nc").read_bytes()
    for path in (tmp_path / "missing" / "out.nc", tmp_path / "out.nc" / "x.nc", tmp_path):
        with pytest.raises(InvalidValueError, match=f"cannot write `{path}`: "):
            found.save(path)
    assert (tmp_path / "out.nc").read_bytes() == before
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out.nc", "s.db"]
