"""What every engine and every store promises: classes of tests, inherited once for each of them."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from isoscale.errors import DataError, StoreError
from isoscale.runs import Store, Sweep, TrialRecord, driver, worker
from isoscale.runs.engines.engine import Engine
from isoscale.runs.shards import Shard

SPEC = Sweep(rule="mup", widths=[4], depths=[1, 2], lrs=[0.0625, 0.125], seeds=1, steps=3)


class EngineContract:
    """A subclass has `engine`, a fixture that opens one for three shards on the CPU."""

    def test_each_shard_gives_its_own_trials(self, engine: Engine):
        """Bit for bit what the shard gives in this process, whichever comes back first."""
        shards = driver.prepare(SPEC)
        futures = [engine.submit(shard, index) for index, shard in enumerate(shards)]
        for shard, future in reversed(list(zip(shards, futures, strict=True))):
            engine.repair()
            found = engine.result(future)
            expected = worker.run(shard, "cpu")
            assert [one.key for one in found] == [one.key for one in expected] == list(shard.keys)
            assert all(one.same_result(other) for one, other in zip(found, expected, strict=True))

    def test_what_a_shard_raises_comes_back_and_the_engine_goes_on(self, engine: Engine):
        shard = driver.prepare(SPEC)[0]
        assert isinstance(shard, Shard)
        broken = dataclasses.replace(shard, source=dataclasses.replace(shard.source, fingerprint="of other data"))
        with pytest.raises(DataError):
            engine.result(engine.submit(broken, 2))
        assert len(engine.result(engine.submit(shard, 2))) == len(shard.keys)

    def test_there_is_room_for_a_shard(self, engine: Engine):
        assert engine.capacity >= 1

    def test_steps_are_counted_shard_by_shard_or_not_at_all(self, engine: Engine):
        """Now and then while it trains: never more than there are."""
        (shard,) = driver.prepare(dataclasses.replace(SPEC, depths=[1], steps=50))
        engine.result(engine.submit(shard, 1))
        counted = engine.member_steps()
        assert not counted or 0 < counted[1] <= shard.member_steps


class StoreContract:
    """A subclass has `path`, a fixture: where a store is, or may be made, that may hold other trials already."""

    @pytest.fixture
    def store(self, path: Path) -> Any:
        with Store(path) as store:
            yield store

    def test_what_was_recorded_is_read_back(self, path: Path, store: Store, trial: Callable[..., TrialRecord]):
        diverged = trial(
            "b",
            status="diverged",
            reason="loss not finite at step 1",
            curve=np.array([2.0, np.nan], "f4"),
            test_loss=float("nan"),
            test_accuracy=float("nan"),
        )
        failed = trial("c", status="failed", reason="no memory", curve=np.empty(0, "f4"), test_loss=float("inf"))
        store.record([trial("a"), diverged, failed])
        with Store(path) as opened_again:
            found = {one.key: one for one in opened_again.read(["a", "b", "c", "elsewhere"])}
        assert set(found) == {"a", "b", "c"}
        for wanted in (trial("a"), diverged, failed):
            assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ", found[wanted.key].created)
            read = dataclasses.replace(found[wanted.key], created="")
            np.testing.assert_equal(dataclasses.asdict(read), dataclasses.asdict(wanted))

    def test_finished_is_done_or_diverged(self, store: Store, trial: Callable[..., TrialRecord]):
        store.record([trial(status, status=status) for status in ("done", "diverged", "failed")])
        assert store.finished(["done", "diverged", "failed", "missing"]) == {"done", "diverged"}
        assert store.finished([]) == set()

    @pytest.mark.parametrize("finished", ["done", "diverged"])
    def test_a_finished_trial_is_never_overwritten(
        self, store: Store, trial: Callable[..., TrialRecord], finished: str
    ):
        store.record([trial(status=finished, test_loss=1.0)])
        for later in ("done", "diverged", "failed"):
            store.record([trial(status=later, test_loss=2.0)])
        (kept,) = store.read(["k"])
        assert (kept.status, kept.test_loss) == (finished, 1.0)

    def test_a_failed_trial_is_overwritten(self, store: Store, trial: Callable[..., TrialRecord]):
        store.record([trial(status="failed", reason="first", curve=np.empty(0, "f4"))])
        store.record([trial(status="failed", reason="second", curve=np.empty(0, "f4"))])
        assert store.read(["k"])[0].reason == "second"
        store.record([trial()])
        (kept,) = store.read(["k"])
        assert (kept.status, kept.reason, kept.curve.tolist()) == ("done", "", [2.0, 1.0])

    def test_a_shard_is_there_whole_or_not_at_all(self, store: Store, trial: Callable[..., TrialRecord]):
        store.record([trial("old")])
        with pytest.raises(StoreError, match="CHECK constraint"):
            store.record([trial("a"), trial("b", status="nonsense")])
        assert store.finished(["old", "a", "b"]) == {"old"}
        store.record([trial("a")])  # and the store goes on
        assert store.finished(["a"]) == {"a"}

    def test_a_lease_has_one_holder(self, path: Path, store: Store):
        with Store(path) as other:
            assert store.acquire("shard")
            assert not other.acquire("shard")
            store.release("shard")
            assert other.acquire("shard")

    def test_nothing_in_it_is_damaged(self, store: Store, trial: Callable[..., TrialRecord]):
        before = store.count()
        store.record([trial("a")])
        assert store.count() == before + 1
        assert store.faults() == []
