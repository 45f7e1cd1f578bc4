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
    from isoscale.runs.engines.engine import Backend
    from isoscale.runs.shards import Shard


def announce(spec: Sweep, place: Place, out: Console) -> None:
    """Say what will run, what the store already has and what the rest costs; draw the grid if it is a dry run."""
    from isoscale.runs import cost, driver
    from isoscale.runs.engines.engine import choose, usable_here

    backend = choose(place.engine, place.workers, place.device, place.address, place.gpu_share)
    if not place.dry_run:  # which neither connects to a cluster nor starts one
        backend.connect()
    plan = driver.prepare(spec, place.data)
    left = _left(plan, place.store)
    if out.quiet:  # the estimate trains for a moment, and nobody would read it
        return
    todo = sum(len(shard.members) for shard in left)
    price = "nothing to run"
    if left:
        seconds = cost.estimate_seconds(left, backend.workers or 1, usable_here(backend.device))
        price = f"at most about {duration(seconds)} on {_workers(backend)}"
    out.print(
        f"{spec.trials} trials in {len(plan)} shards, {price}.  "
        f"Store: {place.store} ({spec.trials - todo} of {spec.trials} done)"
    )
    if place.dry_run:
        out.print(_grid(spec))


def _workers(backend: Backend) -> str:
    if backend.workers is None:
        return "one worker of a Ray cluster (how many it has is not asked in a dry run: give --workers)"
    plural = "s" if backend.workers > 1 else ""
    of_what = " of a Ray cluster" if backend.engine == "ray" else ""
    return f"{backend.workers} worker{plural}{of_what}"


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
    return {
        "store": place.store,
        "engine": place.engine,
        "engine_address": place.address,
        "workers": place.workers,
        "device": place.device,
        "data": place.data,
        "gpu_share": place.gpu_share,
    }


def _left(plan: list[Shard], path: str) -> list[Shard]:
    """What the store does not have; one that is not there yet is not made, since this may be a dry run."""
    from isoscale.runs import Store, driver

    if not os.path.exists(path):  # Path.exists raises on a name that is too long
        return plan
    with Store(path) as store:
        return driver.missing(plan, store)


def _grid(spec: Sweep) -> Table:
    rows = []
    for name, value in spec.to_mapping().items():
        shown = ", ".join(map(str, value)) if isinstance(value, list) else str(value)
        rows.append((name, shown))
    return framed(["", "values"], rows)
