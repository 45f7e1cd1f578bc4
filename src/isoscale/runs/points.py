"""Points of a random search: a scrambled Sobol sequence over the ranges of all tuned hyperparameters.

Its first points fill the ranges evenly whatever their number, and more of them leave the ones before as they are. So a
search of 64 points resumes one of 32, and every size is trained at the same points.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

# The points are part of what a sweep is: they are the same for everybody.
_SEED = 0
# A position is known to so many decimals of an octave, on every machine.
_DECIMALS = 9

ONE_LESS = ("beta1", "beta2", "momentum")
"""Hyperparameters that act by how far they are below 1: a memory of 1 / (1 - beta) steps."""


def drawn(
    lrs: Sequence[float],
    hyperparameters: Mapping[str, Sequence[Any]],
    linear: Sequence[str],
    count: int,
) -> list[dict[str, Any]]:
    """So many points between the least and the greatest of each, ascending in the learning rate.

    Args:
        lrs, hyperparameters: Their ranges.
        linear: Those that are even in themselves; else the logarithm is, or that of 1 - beta for `ONE_LESS`.
        count: How many points.

    >>> [round(point["lr"], 2) for point in drawn((0.25, 1.0), {}, (), 4)]
    [0.31, 0.44, 0.54, 0.71]
    """
    from scipy.stats import qmc

    axes = {"lr": lrs} | dict(hyperparameters)
    sequence = qmc.Sobol(len(axes), scramble=True, rng=_SEED)
    # Drawn by a power of two, in which the sequence is balanced.
    shares = sequence.random_base2(math.ceil(math.log2(max(count, 2))))[:count]
    points = []
    for row in shares.tolist():
        point = {}
        for share, (name, values) in zip(row, axes.items(), strict=True):
            point[name] = _value(share, name, values, is_linear=name in linear)
        points.append(point)
    return sorted(points, key=lambda point: point["lr"])


def _value(share: float, name: str, values: Sequence[Any], *, is_linear: bool) -> Any:
    """The value that lies so far between the ends of a range."""
    low, high = min(values), max(values)
    if low == high:
        return low
    if is_linear:
        return round(low + share * (high - low), _DECIMALS)
    if name in ONE_LESS and high < 1:
        return 1 - _between(share, 1 - high, 1 - low)
    return _between(share, low, high)


def _between(share: float, low: float, high: float) -> float:
    """Even in the logarithm."""
    ends = np.log2([low, high])
    return 2.0 ** round(float(ends[0] + share * (ends[1] - ends[0])), _DECIMALS)
