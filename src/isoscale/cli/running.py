"""What the commands that train have in common: the plan with its cost before, the progress during."""

from __future__ import annotations

import contextlib
import shlex
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

from rich.console import Console

from isoscale.cli.grid import Place
from isoscale.cli.terminal import duration, framed
from isoscale.runs.spec import Sweep

if TYPE_CHECKING:
    from rich.table import Table

    from isoscale.runs import Job, Progress, Runner
    from isoscale.runs.engines.engine import Backend


@contextlib.contextmanager
def runner(place: Place, out: Console) -> Iterator[Runner]:
    """The runner that the flags ask for: it says what each job costs before it runs, and draws its progress."""
    from isoscale.runs import Runner

    with _progress(place) as progress:
        yield Runner(
            store=place.store,
            engine=place.engine,
            workers=place.workers,
            device=place.device,
            data=place.data,
            progress=progress,
            engine_address=place.address,
            gpu_share=place.gpu_share,
            reuse=place.reuse,
            fresh=place.fresh,
            announce=lambda job: announce(job, place, out),
        )


def dry_run(spec: Sweep, place: Place, out: Console) -> None:
    """Say what would run and what it would cost, and draw the grid; no cluster is connected to or started."""
    from isoscale.runs.adaptive import announced

    # What a search will ask for is not known before: a grid of about its cost is announced.
    asked = announced(spec) if spec.search == "adaptive" else spec
    with runner(place, out) as runs:
        job = runs.job([asked])
        announce(job, place, out)
    out.print(_grid(spec))
    if spec.command is not None:
        for line in command_lines(job):
            out.print(line, soft_wrap=True)


def command_lines(job: Job) -> Iterator[str]:
    """What a shell would be told to run of a job's commands."""
    from isoscale.runs.trainers import command
    from isoscale.runs.trainers.foreign import ForeignShard

    for shard in job.left:
        if isinstance(shard, ForeignShard):
            yield shlex.join(command.arguments(shard, job.backend.device))


def announce(job: Job, place: Place, out: Console) -> None:
    """Say what will run, what the store already has and what the rest costs."""
    if not place.dry_run:
        job.backend.connect()
    if out.quiet:  # the estimate trains for a moment, and nobody would read it
        return
    trials = sum(len(shard.members) for shard in job.shards)
    if any(spec.search == "adaptive" for spec in job.specs):
        out.print(f"Adaptive search, about {trials} trials{_price(job, 'about')}.  Store: {place.store}")
        return
    done = trials - sum(len(shard.members) for shard in job.missing)
    price = _price(job, "at most about") or ", nothing to run"
    out.print(f"{trials} trials in {len(job.shards)} shards{price}.  Store: {place.store} ({done} of {trials} done)")


def _price(job: Job, about: str) -> str:
    """What is left costs: ", about 80 s on 2 workers"; "" if nothing is left."""
    from isoscale.runs import cost
    from isoscale.runs.engines.engine import usable_here

    if not job.left:
        return ""
    seconds = cost.estimate_seconds(job.left, job.backend.workers or 1, usable_here(job.backend.device))
    if seconds is None:  # of code of the user's nobody knows before
        return f", on {_workers(job.backend)}, how long shows when the first is done"
    return f", {about} {duration(seconds)} on {_workers(job.backend)}"


def _workers(backend: Backend) -> str:
    if backend.workers is None:
        return "one worker of a Ray cluster (how many it has is not asked in a dry run: give --workers)"
    plural = "s" if backend.workers > 1 else ""
    of_what = " of a Ray cluster" if backend.engine == "ray" else ""
    return f"{backend.workers} worker{plural}{of_what}"


@contextlib.contextmanager
def _progress(place: Place) -> Iterator[Callable[[Progress], None] | bool]:
    """The progress callback that the flags ask for; bars are drawn on a terminal only, and from the first call on."""
    if place.quiet or place.json or place.dry_run:
        yield False
        return
    from isoscale.runs.progress import bars

    with contextlib.ExitStack() as stack:
        drawn: list[Callable[[Progress], None]] = []

        def show(progress: Progress) -> None:
            # What is announced before must not be written into the bars.
            if not drawn:
                drawn.append(stack.enter_context(bars()))
            drawn[0](progress)

        yield show


def _grid(spec: Sweep) -> Table:
    rows = []
    for name, value in spec.to_mapping().items():
        shown = ", ".join(map(str, value)) if isinstance(value, list) else str(value)
        if shown != "{}":
            rows.append((name, shown))
    return framed(["", "values"], rows)
