"""Logarithmic axes: where ticks stand and what they say."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

import numpy as np

from isoscale.report.numbers import superscript

if TYPE_CHECKING:
    from matplotlib.axes import Axes


def log2(numbers: object) -> np.ndarray:
    """log2 of positive numbers; NaN stays NaN."""
    return np.log2(np.asarray(numbers, dtype=float))


def powers(low: float, high: float, most: int = 7) -> list[int]:
    """The exponents of two that label an axis from 2^low to 2^high, evenly spaced and not too many."""
    # The tolerance keeps the power that an end stands on, whatever the rounding of its log2.
    first = math.ceil(low - 1e-9)
    last = math.floor(high + 1e-9)
    step = max(1, math.ceil((last - first + 1) / most))
    # Counted from the top, so that it is the lowest powers that go without a label.
    from_the_top = range(last, first - 1, -step)
    return list(reversed(from_the_top))


def round_numbers(first: int, last: int, digits: Sequence[int]) -> list[float]:
    """Numbers with one of these digits in front, from the decade 10^first to 10^last.

    >>> round_numbers(0, 1, (1, 3))
    [1.0, 3.0, 10.0, 30.0]
    """
    numbers = []
    for decade in range(first, last + 1):
        for digit in digits:
            numbers.append(digit * 10.0**decade)
    return numbers


def as_powers(exponents: Sequence[int]) -> list[str]:
    """Labels of powers of two."""
    return [f"2{superscript(exponent)}" for exponent in exponents]


def label_sizes(axes: Axes, name: str, sizes: np.ndarray) -> None:
    """A log2 axis of sizes, every one of them labelled."""
    labels = [f"{size:g}" for size in sizes]
    axes.set_xscale("log", base=2)
    axes.set(xlabel=name, xticks=sizes, xticklabels=labels)


def thinned(labels: Sequence[str], places: Iterable[float], room: float) -> list[str]:
    """The labels, emptied wherever the last one before leaves less than the room.

    >>> thinned(["4", "5", "8"], [2.0, 2.3, 3.0], 0.5)
    ['4', '', '8']
    """
    kept = []
    last = -math.inf
    for label, place in zip(labels, places, strict=True):
        free = place - last >= room
        kept.append(label if free else "")
        if free:
            last = place
    return kept
