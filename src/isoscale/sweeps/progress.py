"""Progress bars of a sweep, one a rule, drawn only where they were asked for and only on a terminal."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, TaskID, TextColumn, TimeRemainingColumn
from rich.progress import Progress as RichProgress

if TYPE_CHECKING:
    from isoscale.sweeps.driver import Progress


@contextlib.contextmanager
def bars(console: Console | None = None) -> Iterator[Callable[[Progress], None]]:
    """A callback for `isoscale.sweep(progress=...)` that draws; nothing is drawn off a terminal."""
    console = console or Console(stderr=True)
    columns = (TextColumn("  {task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with RichProgress(*columns, console=console, disable=not console.is_terminal) as rich:
        tasks: dict[str, TaskID] = {}

        def show(progress: Progress) -> None:
            width = max(map(len, progress.total))
            for rule, total in progress.total.items():
                if rule not in tasks:
                    # What an earlier run finished is not counted into this run's speed.
                    tasks[rule] = rich.add_task(rule.ljust(width), total=total, completed=int(progress.done[rule]))
                rich.update(tasks[rule], completed=int(progress.done[rule]))

        yield show
