"""Runs a sweep: asks the store what is missing, runs that, and gathers what the store then holds."""

from __future__ import annotations

import concurrent.futures
import dataclasses
import logging
import os
import time
from collections.abc import Callable, Sequence
from typing import Any

from isoscale import models
from isoscale.errors import InvalidValueError, IsoscaleError
from isoscale.sweeps import shards as shards_
from isoscale.sweeps import worker
from isoscale.sweeps.local import LocalEngine, WorkerLostError, worker_count
from isoscale.sweeps.progress import Progress, bars
from isoscale.sweeps.result import SweepResult, gather
from isoscale.sweeps.shards import Shard
from isoscale.sweeps.spec import Sweep
from isoscale.sweeps.store import Store

_log = logging.getLogger(__name__)

ENGINES = ("local",)

_TRIES = 3
_BEAT_SECONDS = 3.0
_POLL_SECONDS = 0.2


def sweep(
    spec: Sweep,
    *,
    store: str | os.PathLike[str] = "isoscale.db",
    engine: str = "local",
    workers: int | None = None,
    device: str = "auto",
    data: str | None = None,
    progress: bool | Callable[[Progress], None] = False,
) -> SweepResult:
    """Run what the store does not have of a sweep, and return all of it.

    Run it again after an interruption, or with more learning rates, depths or seeds: only missing
    trials run. Each shard is written as soon as it ends; at most the shards in flight are lost.

    Args:
        spec: The grid.
        store: SQLite file that keeps every trial.
        engine: "local": worker processes on this machine.
        workers: How many; by default a core each, on a GPU one.
        device: "auto", "cpu" or "cuda".
        data: Folder of the data sets; by default `$ISOSCALE_DATA`.
        progress: True draws a progress bar on the terminal; a callable gets a `Progress`.

    Returns:
        The trials as labelled arrays (`SweepResult`).

    Raises:
        InvalidValueError, DataError, StoreError: Before anything runs, or with all that ran kept.
    """
    (result,) = sweep_all(
        [spec], store=store, engine=engine, workers=workers, device=device, data=data, progress=progress
    )
    return result


def sweep_all(
    specs: Sequence[Sweep],
    *,
    store: str | os.PathLike[str] = "isoscale.db",
    engine: str = "local",
    workers: int | None = None,
    device: str = "auto",
    data: str | None = None,
    progress: bool | Callable[[Progress], None] = False,
) -> list[SweepResult]:
    """Several sweeps as one: their shards share the workers, which start once.

    Arguments and errors as for `sweep`; one result for each spec, in the same order. Trials that two specs share
    run once.
    """
    if engine not in ENGINES:
        raise InvalidValueError(f"`engine` must be one of {', '.join(ENGINES)}, got {engine!r}")
    device = resolve_device(device)
    workers = worker_count(workers, device)
    plans = [prepare(spec, data) for spec in specs]
    plan = _merged([shard for plan in plans for shard in plan])
    with Store(store) as opened:
        if progress is True:
            with bars() as show:
                _Driver(plan, opened, show, workers, device).run()
        else:
            _Driver(plan, opened, progress or (lambda _: None), workers, device).run()
        return [gather(spec, plan, opened) for spec, plan in zip(specs, plans, strict=True)]


def _merged(plan: Sequence[Shard]) -> list[Shard]:
    """The plan with each shard once, holding the members that any of its copies has."""
    shards: dict[str, Shard] = {}
    for shard in plan:
        known = shards.setdefault(shard.id, shard)
        members = tuple(dict.fromkeys((*known.members, *shard.members)))
        shards[shard.id] = dataclasses.replace(known, members=members)
    return list(shards.values())


def prepare(spec: Sweep, data: str | None = None) -> list[Shard]:
    """The shards of a sweep, after its data and model were seen to be usable."""
    source, dataset = worker.source(spec.dataset, data, tuple(spec.dataset_args.items()), spec.model)
    inputs: dict[str, Any] = {"in_shape": dataset.in_shape, "out_features": dataset.classes}
    for width in spec.widths:
        models.build(spec.model, spec.model_args, device="meta", width=width, depth=1, **inputs)
    if spec.batch_size > len(dataset.train_x):
        raise InvalidValueError(
            f"`batch_size` must be at most the {len(dataset.train_x)} training samples of {spec.dataset}, "
            f"got {spec.batch_size}"
        )
    return shards_.make(spec, source)


def missing(plan: Sequence[Shard], store: Store) -> list[Shard]:
    """What of a plan the store does not have, the costliest shards first."""
    keys = {shard.id: [shard.key(member) for member in shard.members] for shard in plan}
    finished = store.finished([key for of_shard in keys.values() for key in of_shard])
    left = [shard.only(set(keys[shard.id]) - finished) for shard in plan]
    return sorted((shard for shard in left if shard.members), key=cost, reverse=True)


def resolve_device(device: str) -> str:
    """The device that "auto" means here; other names as they are."""
    import torch

    if device == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    try:
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:
        raise InvalidValueError(f"`device` {device!r} cannot be used: {str(error).splitlines()[0]}") from error
    return device


class _Driver:
    """One sweep's run: hands out shards under leases, records what comes back, tries lost ones again."""

    def __init__(
        self,
        plan: Sequence[Shard],
        store: Store,
        show: Callable[[Progress], None],
        workers: int,
        device: str,
    ) -> None:
        self.plan, self.store, self.show, self.device = plan, store, show, device
        self.workers = workers
        self.waiting = missing(plan, store)
        self.slots = {shard.id: slot for slot, shard in enumerate(self.waiting)}
        self.tries = dict.fromkeys(self.slots, 0)
        self.running: dict[concurrent.futures.Future, Shard] = {}
        self.last_beat = time.monotonic()

    def run(self) -> None:
        if self.waiting:
            with LocalEngine(len(self.waiting), self.workers, self.device) as engine:
                try:
                    while self.waiting or self.running:
                        self._turn(engine)
                finally:
                    self.store.release_all()
        self.show(self._progress([]))

    def _turn(self, engine: LocalEngine) -> None:
        engine.mend()
        self._hand_out(engine)
        done, _ = concurrent.futures.wait(self.running, timeout=_POLL_SECONDS)
        if not self.running:  # every shard left is another driver's
            time.sleep(_POLL_SECONDS)
        # An error may end the sweep: what finished beside it is kept first.
        for future in sorted(done, key=lambda future: future.exception() is not None):
            self._take_back(engine, future)
        if time.monotonic() - self.last_beat > _BEAT_SECONDS:
            self.store.beat()
            self.last_beat = time.monotonic()
        self.show(self._progress(engine.member_steps()))

    def _hand_out(self, engine: LocalEngine) -> None:
        """Keep every worker busy and one shard ready for each; more would only keep other drivers waiting."""
        for shard in list(self.waiting):
            if len(self.running) >= 2 * engine.workers:
                return
            if not self.store.acquire(shard.id):
                continue
            self.waiting.remove(shard)
            # Another driver may have finished it since we looked.
            left = missing([shard], self.store)
            if left:
                self.running[engine.submit(left[0], self.slots[shard.id])] = left[0]
            else:
                self.store.release(shard.id)

    def _take_back(self, engine: LocalEngine, future: concurrent.futures.Future) -> None:
        shard = self.running.pop(future)
        try:
            self.store.record(engine.result(future))
        except WorkerLostError as error:
            self._lost(shard, str(error))
        except IsoscaleError:
            raise
        except Exception as error:
            self._failed(shard, f"{type(error).__name__}: {error}")
        finally:
            self.store.release(shard.id)

    def _lost(self, shard: Shard, reason: str) -> None:
        self.tries[shard.id] += 1
        if self.tries[shard.id] < _TRIES:
            _log.warning("%s; trying %s again", reason, _describe(shard))
            self.waiting.insert(0, shard)
        else:
            self._failed(shard, f"{reason}, {_TRIES} times")

    def _failed(self, shard: Shard, reason: str) -> None:
        _log.error("%s failed: %s", _describe(shard), reason)
        self.store.record(worker.failures(shard, reason, self.device))

    def _progress(self, member_steps: Sequence[int]) -> Progress:
        total = dict.fromkeys((shard.recipe.rule for shard in self.plan), 0)
        for shard in self.plan:
            total[shard.recipe.rule] += len(shard.members)
        done = {rule: float(count) for rule, count in total.items()}
        for shard in self.waiting:
            done[shard.recipe.rule] -= len(shard.members)
        for shard in self.running.values():
            steps = member_steps[self.slots[shard.id]] if member_steps else 0
            done[shard.recipe.rule] -= len(shard.members) * (1 - min(1.0, steps / shard.member_steps))
        return Progress(total, done, len(self.waiting) if not self.running else 0)


def cost(shard: Shard) -> int:
    """Proportional to the arithmetic of the hidden maps."""
    return shard.member_steps * shard.recipe.depth * shard.recipe.width**2


def _describe(shard: Shard) -> str:
    return f"{shard.recipe.rule}, width {shard.recipe.width}, depth {shard.recipe.depth}"
