"""How far a sweep is, and bars that show it: drawn only where they were asked for, and only on a terminal."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.progress import TaskID


@dataclass(frozen=True)
class Progress:
    """How far a sweep is; handed to the `progress` callback several times a second.

    Attributes:
        total, done: Trials of the whole sweep by rule, and those finished, parts of running ones counted.
        elsewhere: Shards that another driver is running.
    """

    total: dict[str, int]
    done: dict[str, float]
    elsewhere: int


@contextlib.contextmanager
def bars() -> Iterator[Callable[[Progress], None]]:
    """A callback for `isoscale.sweep(progress=...)` that draws on standard error; nothing off a terminal."""
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn
    from rich.progress import Progress as RichProgress

    console = Console(stderr=True)
    columns = (TextColumn("  {task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with RichProgress(*columns, console=console, disable=not console.is_terminal) as rich:
        tasks: dict[str, TaskID] = {}

        def show(progress: Progress) -> None:
            longest = max(map(len, progress.total))
            for rule, total in progress.total.items():
                done = int(progress.done[rule])
                if rule in tasks:
                    # The rounds of a search differ in length.
                    rich.update(tasks[rule], total=total, completed=done)
                else:
                    # Begun with what an earlier run finished, so that it is not counted into this run's speed.
                    tasks[rule] = rich.add_task(rule.ljust(longest), total=total, completed=done)

        yield show
