"""What a sweep will cost, from a stopwatch: a few steps of its smallest shard, scaled to the rest."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Sequence

from isoscale.runs.shards import Shard
from isoscale.runs.trainers import ensemble
from isoscale.runs.trainers.registry import AnyShard
from isoscale.training import train
from isoscale.training.ensemble import members_at_once

_STEPS = 4
_WORKER_START_SECONDS = 4.0


def estimate_seconds(left: Sequence[AnyShard], workers: int, device: str) -> float | None:
    """Seconds until `left` has run on that many workers; an upper guess, since diverged trials stop early.

    None for code of the user's: nobody knows what it does before it has run.
    """
    if not left:
        return 0.0
    own = [shard for shard in left if isinstance(shard, Shard)]
    if len(own) < len(left):
        return None
    smallest = min(own, key=lambda shard: shard.cost / len(shard.members))
    data = ensemble.load(smallest)
    sample = dataclasses.replace(
        smallest,
        config=dataclasses.replace(smallest.config, steps=_STEPS),
        members=smallest.members[: members_at_once(smallest.config, data)],
    )
    train(
        sample.config, sample.members, data, plan=sample.plan, device=device
    )  # the first call also warms up the libraries
    started = time.perf_counter()
    train(sample.config, sample.members, data, plan=sample.plan, device=device)
    per_unit = (time.perf_counter() - started) / sample.cost
    # No schedule beats the longest shard.
    seconds = [per_unit * shard.cost for shard in own]
    return _WORKER_START_SECONDS + max(sum(seconds) / workers, *seconds)
