"""Memory that a run needs, and that the machine has."""

from __future__ import annotations

from isoscale.checks import check_memory
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


def check_words(words: int, remedy: str) -> None:
    """Raise before so many float64 are allocated that cannot fit."""
    check_memory(int(SAFETY * 8 * words), remedy)
