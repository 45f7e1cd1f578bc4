"""Memory that a run needs, and that the machine has."""

from __future__ import annotations

from isoscale.checks import check_memory
from isoscale.limit.network import KERNELS, Problem, Size

SAFETY = 1.15
"""Allowance for temporaries, on top of what is counted."""


def lazy_bytes(problem: Problem, size: Size) -> int:
    """Upper bound of a run's memory in bytes: histories 4 n rank L (or matrices n^2 L) words, streams and kernels."""
    if size.is_explicit(problem):
        # W, a change of it, and with momentum its buffer; and an independent copy
        arrays = 2 if size.reused else 3
        if problem.optimizer.momentum:
            arrays += 1
        history = (arrays + problem.optimizer.moments) * size.n**2
    else:
        # A step queries each matrix on at most one vector a sample and direction: rank <= samples (steps + 1).
        # Bases and images of both directions, and the small matrices S in float64.
        rank = problem.samples * (problem.steps + 1)
        history = 4 * size.n * rank + 2 * rank**2
        if problem.optimizer.moments:
            # what was trained, and a change of it
            history += (2 + problem.optimizer.moments) * size.n**2
    history *= problem.architecture.layers
    streams = (3 + 2 * problem.architecture.layers) * size.n * problem.samples
    a_layer = history + streams
    kernels = len(size.kernel_layers) * len(KERNELS)
    records = kernels * problem.trained**2 * (problem.steps + 1)
    words = size.replicas * (a_layer * size.depth + records)
    return int(SAFETY * words * problem.gram.element_size())


def record_bytes(problem: Problem, times: int, runs: int) -> int:
    """What is kept of so many runs, with kernels at so many layer times, in float64."""
    at_a_time = len(KERNELS) * problem.trained**2 + problem.samples
    a_step = 1 + problem.samples * problem.outputs + times * at_a_time
    return int(SAFETY * 8 * runs * (problem.steps + 1) * a_step)


def check_words(words: int, remedy: str) -> None:
    """Raise before so many float64 are allocated that cannot fit."""
    check_memory(int(SAFETY * 8 * words), remedy)
