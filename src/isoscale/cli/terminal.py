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

# Called with the share done, from 0 to 1.
Callback = Callable[[float], None]

# Paths and messages are printed as they are: "[x]" is no markup and ":x:" no emoji.
_verbatim = functools.partial(Console, markup=False, emoji=False, highlight=False)


def console(*, quiet: bool = False) -> Console:
    """Standard output; nothing if quiet. Off a terminal, lines are as long as they need to be."""
    width = None if sys.stdout.isatty() else 160
    return _verbatim(quiet=quiet, width=width)


def error_console() -> Console:
    """Standard error."""
    return _verbatim(stderr=True)


# --- lines ---
def print_labelled(out: Console, label: str, style: str, text: str) -> None:
    """A line that begins with a word in a style of its own; wrapped by the terminal, so that it can be copied."""
    words = Text.assemble((f"{label}:", style), " ", text)
    out.print(words, soft_wrap=True)


def print_notes(out: Console, notes: Iterable[str]) -> None:
    """What a reader should know, a line each."""
    for note in notes:
        print_labelled(out, "note", "bold", note)


def print_error(error: Exception) -> None:
    """One line that says what was wrong."""
    one_line = " ".join(str(error).split())
    print_labelled(error_console(), "error", "bold red", one_line)


def print_failures(out: Console, reasons: Iterable[str]) -> None:
    """Why trials failed, a line each."""
    for reason in reasons:
        out.print(f"failed: {reason}", style="red")


def counted(count: int, noun: str) -> str:
    """A number of things.

    >>> counted(1, "note"), counted(2, "note")
    ('1 note', '2 notes')
    """
    ending = "" if count == 1 else "s"
    return f"{count} {noun}{ending}"


def duration(seconds: float) -> str:
    """Seconds as a person says them.

    >>> duration(89), duration(600), duration(9000)
    ('90 s', '10 min', '2.5 h')
    """
    if seconds < 120:
        in_fives = round(seconds / 5) * 5
        return f"{max(5, in_fives)} s"
    if seconds < 7200:
        return f"{seconds / 60:.0f} min"
    return f"{seconds / 3600:.1f} h"


# --- tables and JSON ---
def framed(columns: Iterable[str], rows: Iterable[Iterable[object]]) -> Table:
    """A table without lines, its columns apart."""
    from rich.table import Table

    table = Table(*columns, box=None, pad_edge=False)
    for row in rows:
        cells = [f"{value:.4g}" if isinstance(value, float) else str(value) for value in row]
        table.add_row(*cells)
    return table


def print_json(value: object) -> None:
    """A result for programs, as one JSON value on standard output."""
    console().print_json(data=finite(value))


def finite(value: object) -> object:
    """With None in place of numbers that JSON does not have.

    >>> finite({"lr": float("nan"), "at": ["a", 1.0, float("inf")]})
    {'lr': None, 'at': ['a', 1.0, None]}
    """
    if isinstance(value, dict):
        return {key: finite(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [finite(item) for item in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value


# --- progress ---
@contextlib.contextmanager
def bars(*, quiet: bool, indent: str = "") -> Iterator[Callable[[str], Callback]]:
    """A maker of progress callbacks, each with its own bar and the time left; nothing is drawn off a terminal."""
    from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

    screen = error_console()
    columns = (
        TextColumn(f"{indent}{{task.description}}"),
        BarColumn(),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=screen, disable=quiet or not screen.is_terminal) as drawn:

        def track(label: str) -> Callback:
            task = drawn.add_task(label, total=1.0)
            return lambda share: drawn.update(task, completed=share)

        yield track


@contextlib.contextmanager
def bar(label: str, *, quiet: bool) -> Iterator[Callback]:
    """A progress callback that takes the share done; with the time left on a terminal, silent elsewhere."""
    with bars(quiet=quiet) as track:
        yield track(label)


def typed_command() -> str:
    """The command line as it was typed."""
    return shlex.join(["isoscale", *sys.argv[1:]])
