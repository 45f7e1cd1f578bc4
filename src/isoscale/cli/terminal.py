"""Where the commands print: tables and verdicts on standard output, progress and errors on standard error."""

from __future__ import annotations

import contextlib
import functools
import math
import shlex
import sys
from collections.abc import Callable, Iterable, Iterator
from typing import TYPE_CHECKING

from rich.console import Console
from rich.text import Text

if TYPE_CHECKING:
    from rich.table import Table

# Paths and messages are printed as they are: "[x]" is no markup and ":x:" no emoji.
_verbatim = functools.partial(Console, markup=False, emoji=False, highlight=False)


def console(*, quiet: bool = False) -> Console:
    """Standard output; nothing if quiet. Off a terminal, lines are as long as they need to be."""
    return _verbatim(quiet=quiet, width=None if sys.stdout.isatty() else 160)


def error_console() -> Console:
    """Standard error."""
    return _verbatim(stderr=True)


def print_error(error: Exception) -> None:
    """One line that says what was wrong."""
    error_console().print(Text.assemble(("error:", "bold red"), " ", " ".join(str(error).split())), soft_wrap=True)


def framed(columns: Iterable[str], rows: Iterable[Iterable[object]]) -> Table:
    """A table without lines, its columns apart."""
    from rich.table import Table

    table = Table(*columns, box=None, pad_edge=False)
    for row in rows:
        table.add_row(*(f"{value:.4g}" if isinstance(value, float) else str(value) for value in row))
    return table


def finite(value: object) -> object:
    """With None in place of numbers that JSON does not have.

    >>> finite({"lr": float("nan"), "at": ["a", 1.0, float("inf")]})
    {'lr': None, 'at': ['a', 1.0, None]}
    """
    if isinstance(value, dict):
        return {key: finite(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [finite(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def duration(seconds: float) -> str:
    """Seconds as a person says them.

    >>> duration(89), duration(600), duration(9000)
    ('90 s', '10 min', '2.5 h')
    """
    if seconds < 120:
        return f"{max(5, round(seconds / 5) * 5)} s"
    return f"{seconds / 60:.0f} min" if seconds < 7200 else f"{seconds / 3600:.1f} h"


@contextlib.contextmanager
def bar(label: str, *, quiet: bool) -> Iterator[Callable[[float], None]]:
    """A progress callback that takes the share done; with the time left on a terminal, silent elsewhere."""
    from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

    screen = error_console()
    columns = (TextColumn("{task.description}"), BarColumn(), TimeRemainingColumn())
    with Progress(*columns, console=screen, disable=quiet or not screen.is_terminal) as bars:
        task = bars.add_task(label, total=1.0)
        yield lambda share: bars.update(task, completed=share)


def typed_command() -> str:
    """The command line as it was typed."""
    return shlex.join(["isoscale", *sys.argv[1:]])
