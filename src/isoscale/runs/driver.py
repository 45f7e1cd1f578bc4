"""Runs a sweep: asks the store what is missing, runs that, and gathers what the store then holds."""

from __future__ import annotations

import collections
import concurrent.futures
import contextlib
import dataclasses
import functools
import itertools
import logging
import math
import os
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, TypedDict

from isoscale.errors import IsoscaleError
from isoscale.runs import interrupts, worker
from isoscale.runs.callbacks import Callback
from isoscale.runs.cost import Pace, Stopwatch
from isoscale.runs.engines.engine import Backend, Engine, choose
from isoscale.runs.engines.local import NotStartedError, WorkerLostError
from isoscale.runs.progress import Progress, bars
from isoscale.runs.record import TrialRecord
from isoscale.runs.result import SweepResult, gather
from isoscale.runs.shards import Shard
from isoscale.runs.spec import Sweep
from isoscale.runs.store.store import Store
from isoscale.runs.trainers import changed, registry, stack
from isoscale.runs.trainers.foreign import ForeignShard
from isoscale.runs.trainers.registry import AnyShard, Work
from isoscale.runs.twins import Twins
from isoscale.training import hopeless
from isoscale.training.hopeless import Mark
from isoscale.training.memory import is_out_of_memory
from isoscale.user_code import described

_log = logging.getLogger(__name__)

Marks = tuple[Mark, ...]

_TRIES = 3
_BEAT_SECONDS = 3.0
_POLL_SECONDS = 0.2
_LOOK_SECONDS = 1.0


class RunOptions(TypedDict, total=False):
    """Where and how sweeps run: the keyword arguments of `isoscale.sweep`, and of all that sweeps."""

    store: str | os.PathLike[str]
    engine: str
    workers: int | None
    device: str
    data: str | None
    progress: bool | Callable[[Progress], None]
    engine_address: str | None
    gpu_share: float
    reuse: bool
    fresh: bool
    callbacks: Sequence[Callback]


@dataclass(frozen=True, kw_only=True)
class Runner:
    """Where and how sweeps run.

    Attributes:
        store: SQLite file that keeps every trial.
        engine: "local": worker processes on this machine. "ray": tasks on a Ray cluster (`isoscale[ray]`).
        workers: How many; by default one for each core, or for each GPU.
        device: "auto", "cpu" or "cuda".
        data: Folder of the data sets; by default `$ISOSCALE_DATA`.
        progress: True draws a progress bar on the terminal; a callable gets a `Progress`.
        engine_address: Of a running Ray cluster; by default `$RAY_ADDRESS`, else one is started here.
        gpu_share: Share of a GPU that a shard takes: with 0.5, two train on each at once.
        reuse, fresh: If code of the user's changed since the store's trials: count these, or train again.
        callbacks: Each is called with every trial that ran (`TrialRecord`), once it is stored.
        announce: Called with each `Job` before it runs.
    """

    store: str | os.PathLike[str] = "isoscale.db"
    engine: str = "local"
    workers: int | None = None
    device: str = "auto"
    data: str | None = None
    progress: bool | Callable[[Progress], None] = False
    engine_address: str | None = None
    gpu_share: float = 1.0
    reuse: bool = False
    fresh: bool = False
    callbacks: Sequence[Callback] = ()
    announce: Callable[[Job], None] | None = None

    def job(self, specs: Sequence[Sweep]) -> Job:
        """What sweeps would run, after their data and models were seen to be usable."""
        return Job(self, specs, self.backend())

    def run(self, specs: Sequence[Sweep]) -> list[SweepResult]:
        """Several sweeps as one: their shards share the workers, which start once.

        Trials that two specs share run once. One result for each spec, in the same order.
        """
        with Session(self, is_search=False) as session:
            return session.run(specs)

    def sweep(self, spec: Sweep) -> SweepResult:
        """One sweep: its whole grid, or what its search asks for."""
        if spec.search != "adaptive":
            (result,) = self.run([spec])
            return result
        from isoscale.runs.adaptive import adaptive_sweep, announced

        expected = announced(spec)
        with self.announced(expected).session(expected) as session:
            return adaptive_sweep(session, spec)

    def session(self, expected: Sweep | None = None) -> Session:
        """For several runs one after the other, as a search makes them: the workers stay in between.

        Args:
            expected: A sweep of about the cost of all of them.
        """
        return Session(self, expected=expected)

    def announced(self, spec: Sweep) -> Runner:
        """A runner that says once what a sweep of that size costs; of a search, only if a part of it is not stored."""
        announce = self.announce
        if announce is None:
            return self
        said: list[Job] = []

        def once(job: Job) -> None:
            if not said and (job.left or spec.search != "adaptive"):
                said.append(self.job([spec]))
                announce(said[0])

        return dataclasses.replace(self, announce=once)

    def backend(self) -> Backend:
        """What the sweeps will run on, not connected yet."""
        return choose(self.engine, self.workers, self.device, self.engine_address, self.gpu_share)


class Session:
    """Runs sweeps one after the other on workers that stay until its end; a context manager."""

    def __init__(self, runner: Runner, *, is_search: bool = True, expected: Sweep | None = None) -> None:
        self._runner = runner
        is_timed = expected is not None and runner.progress is not False
        likely = prepare(expected, runner.data, runner.store) if expected and is_timed else ()
        self._watch, self._pace = Stopwatch(likely), Pace(likely)
        self._is_search = is_search
        self._backend = runner.backend()
        self._engine: Engine | None = None
        # How many shards the engine can take.
        self._room = 0

    def run(self, specs: Sequence[Sweep], marks: Sequence[Marks] = ()) -> list[SweepResult]:
        """As `Runner.run`.

        Args:
            specs: The sweeps.
            marks: For each of them where its hopeless trials are stopped; by default nowhere.
        """
        job = Job(self._runner, specs, self._backend, marks)
        if self._runner.announce is not None:
            self._runner.announce(job)
        self._backend.connect()
        try:
            return job.run(self._engine_for, self._watch, self._pace, is_round=self._is_search)
        except BaseException:
            # Shards of a run that failed must not go on beside those of the next one.
            self._end(*sys.exc_info())
            raise

    def read(self, specs: Sequence[Sweep]) -> list[SweepResult]:
        """What the store has of sweeps; nothing runs."""
        job = Job(self._runner, specs, self._backend)
        return job.read()

    def _engine_for(self, shards: int) -> Engine:
        """The engine of the last run, or a new one if that was opened for fewer shards."""
        if self._engine is None or shards > self._room:
            self._end()
            self._engine = self._backend.open(shards).__enter__()
            self._room = shards
        return self._engine

    def _end(self, *exception: Any) -> None:
        engine, self._engine = self._engine, None
        if engine is not None:
            engine.__exit__(*(exception or (None, None, None)))

    def __enter__(self) -> Session:
        return self

    def __exit__(self, *exception: Any) -> None:
        try:
            self._end(*exception)
        finally:
            self._backend.close()


class Job:
    """Sweeps that are about to run.

    Attributes:
        specs: The sweeps.
        shards: Their shards, each once.
        backend: What they run on; connected when they run, or by whoever must know how large it is.
    """

    def __init__(self, runner: Runner, specs: Sequence[Sweep], backend: Backend, marks: Sequence[Marks] = ()) -> None:
        self.specs = list(specs)
        self.backend = backend
        self._runner = runner
        plans = [
            _marked(prepare(spec, runner.data, runner.store), of_spec)
            for spec, of_spec in zip(specs, marks or itertools.repeat(()), strict=False)
        ]
        self._plans = [changed.settled(plan, runner.store, reuse=runner.reuse, fresh=runner.fresh) for plan in plans]
        self.shards = _merged([shard for plan in self._plans for shard in plan])
        self.twins = Twins(self.shards)

    @functools.cached_property
    def missing(self) -> list[AnyShard]:
        """What the store does not have; a store that is not there yet is not made."""
        if not os.path.exists(self._runner.store):
            return _costliest_first(self.shards)
        with Store(self._runner.store, read_only=True) as store:
            return missing(self.shards, store)

    @functools.cached_property
    def left(self) -> list[AnyShard]:
        """What must run: of what is missing the first of each that several rules share."""
        return self.twins.first(self.missing)

    def run(
        self, engine_for: Callable[[int], Engine], watch: Stopwatch, pace: Pace, *, is_round: bool = False
    ) -> list[SweepResult]:
        """Run what is left on the engine for so many shards, and return all of it."""
        left = self.left
        with Store(self._runner.store) as store, self._progress() as show:
            self._copy(store)
            beside = self.twins, watch, pace, is_round, self._runner.callbacks
            _Driver(self.shards, left, store, show, self.backend, engine_for, *beside).run()
            return self._gathered(store)

    def _copy(self, store: Store) -> None:
        """Keep what the store has of one rule's trials under the keys of its twins."""
        for shard in self.missing:
            for other in self.twins.of(shard):
                known = [trial for trial in store.read(other.keys) if trial.status != "failed"]
                store.record(self.twins.copies(other, known))

    def read(self) -> list[SweepResult]:
        """What the store has."""
        with Store(self._runner.store) as store:
            return self._gathered(store)

    def _gathered(self, store: Store) -> list[SweepResult]:
        return [gather(spec, plan, store) for spec, plan in zip(self.specs, self._plans, strict=True)]

    @contextlib.contextmanager
    def _progress(self) -> Iterator[Callable[[Progress], None]]:
        asked = self._runner.progress
        if asked is True:
            with bars() as show:
                yield show
        else:
            yield asked or (lambda _: None)


def sweep(
    spec: Sweep,
    *,
    store: str | os.PathLike[str] = "isoscale.db",
    engine: str = "local",
    workers: int | None = None,
    device: str = "auto",
    data: str | None = None,
    progress: bool | Callable[[Progress], None] = False,
    engine_address: str | None = None,
    gpu_share: float = 1.0,
    reuse: bool = False,
    fresh: bool = False,
    callbacks: Sequence[Callback] = (),
) -> SweepResult:
    """Run what the store does not have of a sweep, and return all of it.

    Run it again after an interruption, or with more learning rates, depths or seeds: only missing
    trials run. Each shard is written as soon as it ends; at most the shards in flight are lost.

    Args:
        spec: The grid.
        store: SQLite file that keeps every trial.
        engine: "local": worker processes on this machine. "ray": tasks on a Ray cluster (`isoscale[ray]`).
        workers: How many; by default one for each core, or for each GPU.
        device: "auto", "cpu" or "cuda".
        data: Folder of the data sets; by default `$ISOSCALE_DATA`.
        progress: True draws a progress bar on the terminal; a callable gets a `Progress`.
        engine_address: Of a running Ray cluster; by default `$RAY_ADDRESS`, else one is started here.
        gpu_share: Share of a GPU that a shard takes: with 0.5, two train on each at once.
        reuse: If the user's code changed since the store's trials of the same axes: count these as trials of it.
        fresh: Or train them again. Without either, that is an error, and nothing is mixed.
        callbacks: Each is called with every trial that ran (`TrialRecord`), once it is stored: `isoscale.callbacks`
            has TensorBoard and Weights & Biases. What one raises is a warning, and it is not called again.

    Returns:
        The trials as labelled arrays (`SweepResult`).

    Raises:
        InvalidValueError, PlanError, DataError, StoreError: Before anything runs, or with all that ran kept.
    """
    runner = Runner(
        store=store,
        engine=engine,
        workers=workers,
        device=device,
        data=data,
        progress=progress,
        engine_address=engine_address,
        gpu_share=gpu_share,
        reuse=reuse,
        fresh=fresh,
        callbacks=callbacks,
    )
    return runner.sweep(spec)


def _merged(plan: Sequence[AnyShard]) -> list[AnyShard]:
    """The plan with each shard once, holding the members that any of its copies has."""
    shards: dict[str, AnyShard] = {}
    for shard in plan:
        known = shards.setdefault(shard.id, shard)
        # Where one copy is to be trained to its end, all are.
        if isinstance(known, Shard) and isinstance(shard, Shard) and known.marks != shard.marks:
            known = shards[shard.id] = dataclasses.replace(known, marks=())
        if known.members != shard.members:  # else it stays, and so do the keys that it works out once
            members = tuple(dict.fromkeys((*known.members, *shard.members)))
            shards[shard.id] = dataclasses.replace(known, members=members)
    return list(shards.values())


def prepare(spec: Sweep, data: str | None = None, store: str | os.PathLike[str] = "isoscale.db") -> Sequence[AnyShard]:
    """The shards of a sweep, after whatever trains them was seen to be usable; the user's code logs beside `store`."""
    return registry.prepare(spec, data, store)


def _marked(plan: Sequence[AnyShard], marks: Marks) -> Sequence[AnyShard]:
    """The plan with hopeless trials stopped; code of the user's runs to its end."""
    if not marks:
        return plan
    return [dataclasses.replace(shard, marks=marks) if isinstance(shard, Shard) else shard for shard in plan]


def missing(plan: Sequence[AnyShard], store: Store) -> list[AnyShard]:
    """What of a plan the store does not have, the costliest shards first.

    A trial that was stopped counts where the plan's marks would stop it, too.
    """
    finished = store.finished([key for shard in plan for key in shard.keys])
    for shard in plan:
        if isinstance(shard, Shard) and shard.marks:
            for trial in store.read(set(shard.keys) - finished):
                if trial.status == "stopped" and hopeless.stopped_at(trial.seen, shard.marks) >= 0:
                    finished.add(trial.key)
    left: list[AnyShard] = []
    for shard in plan:
        keys = set(shard.keys) - finished
        if keys:
            left.append(shard.only(keys))
    return _costliest_first(left)


def _costliest_first(shards: Sequence[AnyShard]) -> list[AnyShard]:
    """No schedule beats the longest shard, so it starts first."""
    return sorted(shards, key=lambda shard: shard.cost, reverse=True)


def _shares(shards: Sequence[AnyShard], workers: int) -> dict[str, int]:
    """How many of those that could train together one worker is given at most, so that all workers have some."""
    counts = collections.Counter(shard.company for shard in shards if isinstance(shard, ForeignShard))
    return {
        company: min(stack.MOST, math.ceil(count / workers)) for company, count in counts.items() if company is not None
    }


def _work(shards: Sequence[AnyShard]) -> Work:
    """A shard as it is, several as a stack."""
    return shards[0] if len(shards) == 1 else stack.joined([one for one in shards if isinstance(one, ForeignShard)])


class _Driver:
    """One sweep's run: hands out shards under leases, records what comes back, tries lost ones again."""

    def __init__(
        self,
        plan: Sequence[AnyShard],
        left: Sequence[AnyShard],
        store: Store,
        show: Callable[[Progress], None],
        backend: Backend,
        engine_for: Callable[[int], Engine],
        twins: Twins,
        watch: Stopwatch,
        pace: Pace,
        is_round: bool = False,
        callbacks: Sequence[Callback] = (),
    ) -> None:
        self.callbacks = list(callbacks)
        self.plan, self.store, self.show, self.backend = plan, store, show, backend
        self.engine_for = engine_for
        self.twins, self.watch, self.pace, self.is_round = twins, watch, pace, is_round
        self.waiting = list(left)
        self.slots = {shard.id: slot for slot, shard in enumerate(self.waiting)}
        self.tries = dict.fromkeys(self.slots, 0)
        # Several where they are tried together.
        self.running: dict[concurrent.futures.Future, list[AnyShard]] = {}
        self.most_together = _shares(self.waiting, backend.workers or 1)
        self.last_beat = self.last_look = time.monotonic()
        self.left_seconds: float | None = None
        # Work that isoscale's own networks have left.
        self.own_work = self._own_work([])

    def run(self) -> None:
        if self.waiting:
            engine = self.engine_for(len(self.waiting))
            with interrupts.held_back() as interrupt:
                try:
                    while self.waiting or self.running:
                        self._turn(engine)
                        interrupt()
                finally:
                    self.store.release_all()
        self._moved([])
        self.show(self._progress([]))

    def _turn(self, engine: Engine) -> None:
        engine.repair()
        self._hand_out(engine)
        done, _ = concurrent.futures.wait(self.running, timeout=_POLL_SECONDS)
        if not self.running:  # every shard left is another driver's
            time.sleep(_POLL_SECONDS)
        # An error may end the sweep: what finished beside it is kept first.
        for future in sorted(done, key=lambda future: future.exception() is not None):
            self._take_back(engine, future)
        if time.monotonic() - self.last_beat > _BEAT_SECONDS:
            self.store.heartbeat()
            self.last_beat = time.monotonic()
        self.show(self._progress(engine.member_steps()))

    def _hand_out(self, engine: Engine) -> None:
        """Give the engine as many shards as it wants, each under a lease."""
        gone: set[str] = set()
        for shard in list(self.waiting):
            if len(self.running) >= engine.capacity:
                return
            if shard.id in gone:
                continue
            taken = [one for one in self._company(shard) if self.store.acquire(one.id)]
            for one in taken:
                self.waiting.remove(one)
                gone.add(one.id)
            # Another driver may have finished some since we looked.
            left = missing(taken, self.store)
            ids = {one.id for one in left}
            for one in taken:
                if one.id not in ids:
                    self.store.release(one.id)
            if left:
                self.running[engine.submit(_work(left), self.slots[left[0].id])] = left

    def _company(self, shard: AnyShard) -> list[AnyShard]:
        """The shard, with those that are tried together with it."""
        if not isinstance(shard, ForeignShard) or shard.company not in self.most_together:
            return [shard]
        company: list[AnyShard] = []
        for one in self.waiting:
            if isinstance(one, ForeignShard) and one.company == shard.company:
                company.append(one)
        company = company[: self.most_together[shard.company]]
        steps = sum(one.member_steps for one in company)
        return company if shard in company and steps >= stack.LEAST_STEPS else [shard]

    def _take_back(self, engine: Engine, future: concurrent.futures.Future) -> None:
        shards = self.running.pop(future)
        try:
            records = engine.result(future)
            self._record(shards, records)
            self._not_together(shards, records)
        except NotStartedError:
            # No try of theirs: their turn comes again, as often as the engine starts workers.
            self.waiting[:0] = shards
        except WorkerLostError as error:
            self._not_together(shards, [])
            for shard in shards:
                self._lost(shard, str(error))
        except IsoscaleError:
            raise
        except Exception as error:
            reason = f"{type(error).__name__}: {error}".removesuffix(": ")
            self._not_together(shards, [])
            # Memory that another shard holds now is free later; and of several it is not known whose error it is.
            is_tried_again = is_out_of_memory(error) or len(shards) > 1
            for shard in shards:
                (self._lost if is_tried_again else self._failed)(shard, reason)
        finally:
            for shard in shards:
                self.store.release(shard.id)

    def _not_together(self, shards: Sequence[AnyShard], records: Sequence[TrialRecord]) -> None:
        """Of several, those that did not come back wait again; and no more go together than came back."""
        if len(shards) == 1 or len(records) == len(shards):
            return
        (first, *_) = shards
        assert isinstance(first, ForeignShard)
        if first.company is not None:
            self.most_together[first.company] = max(1, len(records))
        if records:
            found = {record.key for record in records}
            self.waiting[:0] = [shard for shard in shards if shard.id not in found]

    def _lost(self, shard: AnyShard, reason: str) -> None:
        self.tries[shard.id] += 1
        if self.tries[shard.id] < _TRIES:
            _log.warning("%s; trying %s again", reason, shard.label)
            self.waiting.insert(0, shard)
        else:
            self._failed(shard, f"{reason}, {_TRIES} times")

    def _failed(self, shard: AnyShard, reason: str) -> None:
        _log.error("%s failed: %s", shard.label, reason)
        self._record([shard], worker.failures(shard, reason, self.backend.device))

    def _record(self, shards: Sequence[AnyShard], records: Sequence[TrialRecord]) -> None:
        """Keep what came of shards, under the keys of their twins too, and tell whoever wants to know."""
        copies = [copy for shard in shards for copy in self.twins.copies(shard, records)]
        self.store.record([*records, *copies])
        of = {shard.id: shard for shard in shards}
        for record in records:
            _log.info("trial %s: %s, loss %g", record.key, record.reason or record.status, record.final_loss)
            # What diverged or failed may have ended early.
            seconds = record.measured.get("seconds")
            if record.status == "done" and seconds is not None and record.shard in of:
                self.watch.see(of[record.shard], seconds)
        for callback in list(self.callbacks):
            try:
                for record in records:
                    callback(record)
            except Exception as error:
                # The trials are safe, and a sweep of days does not end for want of a picture of it.
                self.callbacks.remove(callback)
                _log.warning("callback %r fails, and is not called again: %s", callback, described(error))

    def _moved(self, member_steps: Sequence[int]) -> float:
        """What is left of the work of isoscale's own networks, after the pace was told how far they are."""
        before, self.own_work = self.own_work, self._own_work(member_steps)
        self.pace.move(before - self.own_work)
        return self.own_work

    def _own_work(self, member_steps: Sequence[int]) -> float:
        """Cost of what isoscale's own networks have left, of running ones the rest of their steps."""
        left = sum(shard.cost for shard in self.waiting if isinstance(shard, Shard))
        for first, *_ in self.running.values():
            if isinstance(first, Shard):
                steps = member_steps[self.slots[first.id]] if member_steps else 0
                left += first.cost * (1 - min(1.0, steps / first.member_steps))
        return left

    def _progress(self, member_steps: Sequence[int]) -> Progress:
        total = dict.fromkeys((shard.rule for shard in self.plan), 0)
        for shard in self.plan:
            total[shard.rule] += len(shard.members)
        done = {rule: float(count) for rule, count in total.items()}
        for shard in self.waiting:
            done[shard.rule] -= len(shard.members)
        for shards in self.running.values():
            steps = member_steps[self.slots[shards[0].id]] if member_steps else 0
            of_all = sum(shard.member_steps for shard in shards)
            for shard in shards:
                done[shard.rule] -= len(shard.members) * (1 - min(1.0, steps / of_all))
        elsewhere = 0 if self.running else len(self.waiting)
        # Of ten thousand waiting shards that takes longer than a turn should.
        if time.monotonic() - self.last_look > _LOOK_SECONDS:
            running = [shard for shards in self.running.values() for shard in shards]
            self.left_seconds = self.watch.left([*self.waiting, *running], self.backend.workers or 1)
            if self.left_seconds is None:
                self.left_seconds = self.pace.left(self._moved(member_steps))
            self.last_look = time.monotonic()
        return Progress(total, done, elsewhere, self.is_round, self.left_seconds)
