"""Extrapolation in 1/depth from a sequence of depths that share their noise."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

FINEST = 3
"""Levels that infinite depth is extrapolated from where results at each finite depth are wanted too."""


def weights(depths: Sequence[int]) -> np.ndarray:
    """Weights w with sum_i w_i M(L_i) = M(infinity) + O(L^-m) for m depths, if M is smooth in 1/L.

    >>> weights([8, 16])
    array([-1.,  2.])
    """
    # sum_i w_i = 1 keeps the constant, sum_i w_i L_i^-p = 0 for p = 1 .. m - 1 cancels the powers of 1/L
    inverse = 1 / np.asarray(depths, dtype=float)
    powers = np.vander(inverse, increasing=True).T
    target = np.zeros(len(inverse))
    target[0] = 1.0
    return np.linalg.solve(powers, target)


def extrapolate(values: Sequence[np.ndarray], depths: Sequence[int]) -> tuple[np.ndarray, np.ndarray]:
    """The values at infinite depth, replica by replica, and the extrapolation's own error (of their mean).

    The error is what leaving out the coarsest depth changes: the error of a sequence one level shorter.

    Args:
        values: For each depth an array (replicas, ...).
        depths: Increasing; with a single depth there is nothing to extrapolate and the error is 0.
    """
    full = _combine(values, weights(depths))
    if len(depths) == 1:
        return full, np.zeros(full.shape[1:])
    shorter = _combine(values[1:], weights(depths[1:]))
    # |mean_r (m levels - (m - 1) levels)|
    change = (full - shorter).mean(0)
    return full, np.abs(change)


def append_limit(values: Sequence[np.ndarray], depths: Sequence[int]) -> list[np.ndarray]:
    """The values at each depth, and after them those at infinite depth, extrapolated from the finest levels."""
    finest = values[-FINEST:]
    limit, _ = extrapolate(finest, depths[-FINEST:])
    return [*values, limit]


def _combine(values: Sequence[np.ndarray], by: np.ndarray) -> np.ndarray:
    stacked = np.stack(list(values))
    return np.tensordot(by, stacked, axes=1)
