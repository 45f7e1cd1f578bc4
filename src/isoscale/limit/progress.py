"""Progress reports: a function that is called with the fraction done, or None."""

from __future__ import annotations

from collections.abc import Callable

Progress = Callable[[float], None] | None


def portion(progress: Progress, done: float, part: float, total: float) -> Progress:
    """Report for a part of the work, which counts from 0 to 1 as if it were all of it.

    Args:
        progress: Report for all of the work.
        done: Work done before the part, in any unit.
        part: Work of the part.
        total: All work.

    >>> portion(print, done=1, part=2, total=4)(0.5)
    0.5
    """
    if progress is None:
        return None
    return lambda fraction: progress((done + part * fraction) / total)
