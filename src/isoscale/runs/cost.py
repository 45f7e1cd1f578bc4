"""What a sweep will cost, from a stopwatch: a few steps of each kind of shard, and those too large scaled from them.

Code of the user's is timed while it trains, as nobody knows what it does before it has run. What is left is told anew
all the time, by how fast the sweep went so far.
"""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable, Hashable, Sequence

from isoscale.runs.shards import Shard
from isoscale.runs.trainers import ensemble
from isoscale.runs.trainers.foreign import ForeignShard
from isoscale.runs.trainers.registry import AnyShard
from isoscale.runs.twins import Twins
from isoscale.training import train
from isoscale.training.ensemble import members_at_once

_STEPS = 3
# No kind of shard is timed once this has passed: an announcement that takes long is none.
_PATIENCE_SECONDS = 3.0
_WORKER_START_SECONDS = 4.0
# Before that the pace is that of a few first batches.
_FIRST_SECONDS = 5.0


def estimate_seconds(left: Sequence[AnyShard], workers: int, device: str) -> float | None:
    """Seconds until `left` has run on that many workers; an upper guess, since diverged trials stop early.

    None for code of the user's (`Stopwatch`).
    """
    if not left:
        return 0.0
    own = [shard for shard in left if isinstance(shard, Shard)]
    if len(own) < len(left):
        return None
    timed: dict[Hashable, float] = {}
    started = time.perf_counter()
    # What is timed last, the costliest, is nearest to what is too costly to time.
    per_unit = 0.0
    for shard in sorted(own, key=lambda shard: shard.cost):
        kind = _kind(shard)
        is_late = time.perf_counter() - started > _PATIENCE_SECONDS
        if kind not in timed and not (timed and is_late):
            timed[kind] = _seconds(shard, device)
            per_unit = timed[kind] / shard.cost
    seconds = [timed.get(_kind(shard), per_unit * shard.cost) for shard in own]
    # No schedule beats the longest shard.
    return _WORKER_START_SECONDS + max(sum(seconds) / workers, *seconds)


class Pace:
    """How long isoscale's own networks will still train, by how fast they did so far.

    Args:
        expected: All that a search will likely train, as it says at its beginning; of a grid nothing.
        clock: Seconds.
    """

    def __init__(self, expected: Sequence[AnyShard] = (), clock: Callable[[], float] = time.monotonic) -> None:
        own = [shard for shard in expected if isinstance(shard, Shard)]
        self._expected = sum(shard.cost for shard in Twins(own).first(own))
        self._clock = clock
        self._done = 0.0
        # When training was first seen to move, and how much was done then: workers take a while to start.
        self._began: tuple[float, float] | None = None

    def move(self, work: float) -> None:
        """So much more was done, as `Shard.cost` measures it; negative where it is to be done again."""
        self._done += work
        if self._began is None and self._done > 0:
            self._began = self._clock(), self._done

    def left(self, work: float) -> float | None:
        """Seconds until that much has run, and what the search will likely want after it; None before it is known."""
        if self._began is None:
            return None
        when, done = self._began
        seconds, moved = self._clock() - when, self._done - done
        if seconds < _FIRST_SECONDS or moved <= 0:
            return None
        return max(work, self._expected - self._done) * seconds / moved


class Stopwatch:
    """How long trials of the user's code take, learnt from those that are done.

    Args:
        expected: All that a search will likely train, as it says at its beginning; of a grid nothing.
    """

    def __init__(self, expected: Sequence[AnyShard] = ()) -> None:
        self._expected = [shard for shard in expected if isinstance(shard, ForeignShard)]
        # Of each size: seconds, steps, and how large its trials are.
        self._timed: dict[Hashable, tuple[float, int, float]] = {}
        self._spent = 0.0

    def see(self, shard: AnyShard, seconds: float) -> None:
        """A trial took so long."""
        if not isinstance(shard, ForeignShard):
            return
        before, steps, _ = self._timed.get(_size(shard), (0.0, 0, 0.0))
        self._timed[_size(shard)] = (before + seconds, steps + shard.member_steps, shard.cost)
        self._spent += seconds

    def left(self, shards: Sequence[AnyShard], workers: int) -> float | None:
        """Seconds until shards have run, and what the search will likely want after them; None before it is known."""
        foreign = [shard for shard in shards if isinstance(shard, ForeignShard)]
        if not self._timed or not (foreign or self._expected):
            return None
        seconds = [self._seconds(shard) for shard in foreign]
        at_least = sum(seconds)
        whole = sum(self._seconds(shard) for shard in self._expected)
        share = max(at_least, whole - self._spent) / workers
        # No schedule beats the longest trial.
        return max([share, *seconds])

    def _seconds(self, shard: ForeignShard) -> float:
        """A trial's seconds: those of its size, else of the nearest one in proportion to how large they are."""
        if _size(shard) in self._timed:
            seconds, steps, cost = self._timed[_size(shard)]
        else:
            seconds, steps, cost = min(self._timed.values(), key=lambda timed: abs(timed[2] - shard.cost))
        return seconds / steps * shard.member_steps * shard.cost / cost


def _size(shard: ForeignShard) -> Hashable:
    return tuple(sorted(shard.shared["sizes"].items()))


def _kind(shard: Shard) -> Hashable:
    """What the time of a shard depends on: everything but the rule's numbers."""
    config = shard.config
    model_args = tuple(sorted(config.model_args.items()))
    shape = (config.model, model_args, config.width, config.depth, config.batch_size, config.optimizer.family)
    return (*shape, config.loop, config.steps, len(shard.members))


def _seconds(shard: Shard, device: str) -> float:
    """Seconds of a whole shard, from a few steps of as many members as train at once."""
    data = ensemble.load(shard)
    members = shard.members[: members_at_once(shard.config, data)]

    def timed(steps: int) -> float:
        config = dataclasses.replace(shard.config, steps=steps)
        started = time.perf_counter()
        train(config, members, data, plan=shard.plan, device=device)
        return time.perf_counter() - started

    timed(1)  # warms up the libraries
    # Initial weights and the test at the end are in both: they are paid once, whatever the number of steps.
    short = timed(1)
    of_step = max(0.0, timed(1 + _STEPS) - short) / _STEPS
    seconds = short + of_step * (shard.config.steps - 1)
    return seconds * len(shard.members) / len(members)
