"""Memory that a run needs, and that the machine has."""

from __future__ import annotations

import os

from isoscale.errors import InvalidValueError
from isoscale.limit.network import KERNELS, Problem, Size

SAFETY = 1.15
"""Allowance for temporaries, on top of what is counted."""


def lazy_bytes(problem: Problem, size: Size) -> int:
    """Upper bound of a run's memory in bytes: histories 4 n rank L (or matrices n^2 L) words, streams and kernels."""
    if size.is_explicit(problem):
        # W, a change of it, and with momentum its buffer; and an independent copy
        arrays = 2 if size.reused else 3
        if problem.sgd.momentum:
            arrays += 1
        history = arrays * size.n**2
    else:
        # A step queries each matrix on at most one vector a sample and direction: rank <= samples (steps + 1).
        # Bases and images of both directions, and the small matrices S in float64.
        rank = problem.samples * (problem.steps + 1)
        history = 4 * size.n * rank + 2 * rank**2
    history *= problem.architecture.layers
    streams = (3 + 2 * problem.architecture.layers) * size.n * problem.samples
    a_layer = history + streams
    kernels = len(size.kernel_layers) * len(KERNELS)
    records = kernels * problem.trained**2 * (problem.steps + 1)
    words = size.replicas * (a_layer * size.depth + records)
    return int(SAFETY * words * problem.gram.element_size())


def available_bytes() -> int:
    """Memory that can be taken without swapping."""
    try:
        with open("/proc/meminfo") as file:
            for line in file:
                if line.startswith("MemAvailable:"):
                    kibibytes = line.split()[1]
                    return int(kibibytes) * 1024
    except OSError:
        pass  # not Linux: all that there is
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


def check_memory(needed: int, remedy: str) -> None:
    """Raise before a run that cannot fit."""
    available = available_bytes()
    if needed > available:
        need = needed / 2**30
        have = available / 2**30
        raise InvalidValueError(
            f"this run needs about {need:.1f} GiB and the machine has {have:.1f} GiB free. {remedy}"
        )
