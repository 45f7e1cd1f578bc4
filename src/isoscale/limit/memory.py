"""What a run needs, and what the machine has."""

from __future__ import annotations

import os

from isoscale.errors import InvalidValueError
from isoscale.limit.gaussian import DENSE_ABOVE
from isoscale.limit.network import KERNELS, Problem, Size

SAFETY = 1.15
"""Allowance for temporaries, on top of what is counted."""


def lazy_bytes(problem: Problem, size: Size) -> int:
    """Upper bound of a run's memory in bytes: histories 4 n rank L (or matrices n^2 L) words, streams and kernels."""
    rank = problem.samples * (problem.steps + 1)
    history = 4 * size.n * rank + 2 * rank**2
    dense = size.explicit and not size.matched and rank > DENSE_ABOVE * size.n
    if dense:
        history = size.n**2 * (1 if size.reused else 2) + 4 * size.n * int(DENSE_ABOVE * size.n + problem.samples)
    streams = 5 * size.n * problem.samples
    records = len(size.kernel_layers) * (problem.steps + 1) * problem.trained**2 * len(KERNELS)
    words = size.replicas * ((history + streams) * size.depth + records)
    return int(SAFETY * words * problem.gram.element_size())


def available_bytes() -> int:
    """Memory that can be taken without swapping."""
    try:
        with open("/proc/meminfo") as file:
            for line in file:
                if line.startswith("MemAvailable:"):
                    return int(line.split()[1]) * 1024
    except OSError:
        pass
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


def check_memory(needed: int, remedy: str) -> None:
    """Raise before a run that cannot fit."""
    available = available_bytes()
    if needed > available:
        need, have = needed / 2**30, available / 2**30
        raise InvalidValueError(
            f"this run needs about {need:.1f} GiB and the machine has {have:.1f} GiB free. {remedy}"
        )
