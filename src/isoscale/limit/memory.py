"""Memory that a run needs, and that the machine has."""

from __future__ import annotations

import os
import sys

from isoscale.errors import InvalidValueError
from isoscale.limit.network import KERNELS, Problem, Size

SAFETY = 1.15
"""Allowance for temporaries, on top of what is counted."""


def lazy_bytes(problem: Problem, size: Size) -> int:
    """Upper bound of a run's memory in bytes: histories 4 n rank L (or matrices n^2 L) words, streams and kernels."""
    # A step queries each matrix on at most one vector a sample and direction: rank <= samples (steps + 1).
    rank = problem.samples * (problem.steps + 1)
    if size.can_densify and rank > size.largest_basis:
        # explicit matrices, and the bases that they replace once these have grown to their largest
        matrices = 1 if size.reused else 2
        bases = 4 * size.n * (size.largest_basis + problem.samples)
        history = size.n**2 * matrices + bases
    else:
        # bases and images of both directions, and the small matrices S in float64
        history = 4 * size.n * rank + 2 * rank**2
    streams = 5 * size.n * problem.samples
    a_layer = history + streams
    kernels = len(size.kernel_layers) * len(KERNELS)
    records = kernels * problem.trained**2 * (problem.steps + 1)
    words = size.replicas * (a_layer * size.depth + records)
    return int(SAFETY * words * problem.gram.element_size())


def available_bytes() -> int:
    """Memory that can be taken without swapping; without psutil, all that there is."""
    try:
        import psutil
    except ModuleNotFoundError:
        if not hasattr(os, "sysconf"):  # Windows, which does not say without psutil
            return sys.maxsize
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return psutil.virtual_memory().available


def check_memory(needed: int, remedy: str) -> None:
    """Raise before a run that cannot fit."""
    available = available_bytes()
    if needed > available:
        need = needed / 2**30
        have = available / 2**30
        raise InvalidValueError(
            f"this run needs about {need:.1f} GiB and the machine has {have:.1f} GiB free. {remedy}"
        )
