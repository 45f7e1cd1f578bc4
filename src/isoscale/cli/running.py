"""What the commands that train have in common: the plan with its cost before, the progress during."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

from rich.console import Console

from isoscale.cli.grid import Place
from isoscale.cli.terminal import duration, framed
from isoscale.runs.spec import Sweep

if TYPE_CHECKING:
    from rich.table import Table

    from isoscale.runs import Progress
    from isoscale.runs.shards import Shard


def announce(spec: Sweep, place: Place, out: Console) -> None:
    """Say what will run, what the store already has and what the rest costs; draw the grid if it is a dry run."""
    from isoscale.runs import cost, driver
    from isoscale.runs.engines.engine import find, usable_here

    site = find(place.engine, place.workers, place.device, place.address, place.gpu_share)
    plan = driver.prepare(spec, place.data)
    left = _left(plan, place.store)
    if out.quiet:  # the estimate trains for a moment, and nobody would read it
        return
    todo = sum(len(shard.members) for shard in left)
    seconds = cost.estimate_seconds(left, site.workers, usable_here(site.device))
    workers = f"{site.workers} worker{'s' * (site.workers > 1)}{' of a Ray cluster' * (site.engine == 'ray')}"
    price = f"at most about {duration(seconds)} on {workers}" if left else "nothing to run"
    out.print(
        f"{spec.trials} trials in {len(plan)} shards, {price}.  "
        f"Store: {place.store} ({spec.trials - todo} of {spec.trials} done)"
    )
    if place.dry_run:
        out.print(_grid(spec))


@contextlib.contextmanager
def progress(place: Place) -> Iterator[Callable[[Progress], None] | bool]:
    """The progress callback that the flags ask for; bars are drawn on a terminal only."""
    if place.quiet or place.json:
        yield False
        return
    from isoscale.runs.progress import bars

    with bars() as show:
        yield show


def run_arguments(place: Place) -> dict[str, Any]:
    """What `isoscale.sweep` takes from the flags."""
    names = ("store", "engine", "workers", "device", "data", "gpu_share")
    return {name: getattr(place, name) for name in names} | {"engine_address": place.address}


def _left(plan: list[Shard], path: str) -> list[Shard]:
    """What the store does not have; one that is not there yet is not made, since this may be a dry run."""
    from isoscale.runs import Store, driver

    if not os.path.exists(path):  # Path.exists raises on a name that is too long
        return plan
    with Store(path) as store:
        return driver.missing(plan, store)


def _grid(spec: Sweep) -> Table:
    rows = (
        (name, ", ".join(map(str, value)) if isinstance(value, list) else str(value))
        for name, value in spec.to_mapping().items()
    )
    return framed(["", "values"], rows)
