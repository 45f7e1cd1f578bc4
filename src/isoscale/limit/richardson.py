"""Extrapolation in 1/depth from a ladder of depths that share their noise."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np


def weights(depths: Sequence[int]) -> np.ndarray:
    """Weights w with sum_i w_i M(L_i) = M(infinity) + O(L^-m) for m depths, if M is smooth in 1/L.

    >>> weights([8, 16])
    array([-1.,  2.])
    """
    x = 1 / np.asarray(depths, dtype=float)
    target = np.zeros(len(x))
    target[0] = 1.0
    return np.linalg.solve(np.vander(x, increasing=True).T, target)


def extrapolate(values: Sequence[np.ndarray], depths: Sequence[int]) -> tuple[np.ndarray, np.ndarray]:
    """The values at infinite depth, replica by replica, and the ladder's own error (of their mean).

    The error is what leaving out the coarsest depth changes: the error of a ladder one rung shorter.

    Args:
        values: For each depth an array (replicas, ...).
        depths: Increasing; with a single depth there is nothing to extrapolate and the error is 0.
    """
    full = _combine(values, weights(depths))
    if len(depths) == 1:
        return full, np.zeros(full.shape[1:])
    shorter = _combine(values[1:], weights(depths[1:]))
    return full, np.abs((full - shorter).mean(0))


def _combine(values: Sequence[np.ndarray], by: np.ndarray) -> np.ndarray:
    return np.tensordot(by, np.stack(list(values)), axes=1)
