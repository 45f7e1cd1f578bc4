"""How far a sweep is: bars on a terminal, a line now and then elsewhere; only where they were asked for."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

from isoscale.extras import needed

if TYPE_CHECKING:
    from rich.console import Console
    from rich.progress import TaskID

# Off a terminal, how often a line says how far it is.
_LINE_SECONDS = 30.0


@dataclass(frozen=True)
class Progress:
    """How far a sweep is; handed to the `progress` callback several times a second.

    Attributes:
        total, done: Trials of the whole sweep by rule, and those finished, parts of running ones counted.
        elsewhere: Shards that another driver is running.
        is_round: Whether they are those of one round of a search, which nobody knows the rounds of.
        left_seconds: How long it will go on, a search's further rounds included; None where that is not known yet.
    """

    total: dict[str, int]
    done: dict[str, float]
    elsewhere: int
    is_round: bool = False
    left_seconds: float | None = None


@contextlib.contextmanager
def bars() -> Iterator[Callable[[Progress], None]]:
    """A callback for `isoscale.sweep(progress=...)` that draws on standard error; lines off a terminal."""
    with needed("sweep", by="showing progress"):
        from rich.console import Console
        from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn
        from rich.progress import Progress as RichProgress

    console = Console(stderr=True)
    if not console.is_terminal:
        yield _lines(console)
        return
    columns = (
        TextColumn("  {task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
        TextColumn("{task.fields[left]}"),
    )
    with RichProgress(*columns, console=console) as rich:
        tasks: dict[str, TaskID] = {}

        def show(progress: Progress) -> None:
            longest = max(map(len, progress.total))
            left = "" if progress.left_seconds is None else f"about {_words(progress.left_seconds)} left in all"
            for rule, total in progress.total.items():
                done = int(progress.done[rule])
                if rule in tasks:
                    # The rounds of a search differ in length.
                    rich.update(tasks[rule], total=total, completed=done, left=left)
                else:
                    # Begun with what an earlier run finished, so that it is not counted into this run's speed.
                    tasks[rule] = rich.add_task(rule.ljust(longest), total=total, completed=done, left=left)

        yield show


def _words(seconds: float) -> str:
    return f"{seconds:.0f} s" if seconds < 90 else f"{seconds / 60:.0f} min"


def _lines(console: Console) -> Callable[[Progress], None]:
    """A callback that prints a line twice a minute."""
    started = last = time.monotonic()
    first: float | None = None
    is_said = False

    def show(progress: Progress) -> None:
        nonlocal last, first, is_said
        done, total = sum(progress.done.values()), sum(progress.total.values())
        # What an earlier run finished is not counted into this one's speed.
        first = done if first is None else first
        now = time.monotonic()
        # As soon as the first trials of the user's code have shown that it takes longer than that, it is said.
        is_news = progress.left_seconds is not None and progress.left_seconds > _LINE_SECONDS and not is_said
        if now - last < _LINE_SECONDS and not (is_news and done < total):
            return
        last = now
        is_said = is_said or is_news
        left = ""
        if progress.left_seconds is not None:
            left = f", about {_words(progress.left_seconds)} left"
        elif first < done < total and not progress.is_round:
            left = f", about {_words((now - started) * (total - done) / (done - first))} left"
        by_rule = ", ".join(f"{rule} {int(count)}" for rule, count in progress.done.items())
        rules = f" ({by_rule})" if len(progress.done) > 1 else ""
        of_what = "trials of this round" if progress.is_round else "trials"
        text = f"{int(done)} of {total} {of_what} after {(now - started) / 60:.1f} min{rules}{left}"
        console.print(text, soft_wrap=True, highlight=False)

    return show
