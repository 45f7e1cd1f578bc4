"""Means over seeds and their standard errors, and the level of every interval."""

from __future__ import annotations

import math

import numpy as np
from jaxtyping import Float, Shaped

# Of every interval: 95 %.
LEVEL = 0.95


def mean_and_se(values: np.ndarray, axis: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """The mean over seeds and its standard error.

    Args:
        values: Numbers of every seed; NaN or inf where a run diverged.
        axis: That of the seeds.

    Returns:
        Both without that axis. The standard error is NaN for one seed, and where it is not finite.

    >>> mean, error = mean_and_se(np.array([1.0, 2.0, 3.0]))
    >>> float(mean), round(float(error), 4)
    (2.0, 0.5774)
    """
    # A run about to diverge is too large to square: it has no standard error.
    with np.errstate(over="ignore", invalid="ignore"):
        mean = values.mean(axis)
    return np.asarray(mean), standard_error(values, axis)


def standard_error(values: np.ndarray, axis: int = 0) -> np.ndarray:
    """Standard error of the mean over seeds, as in `mean_and_se`: std / sqrt(seeds)."""
    seeds = values.shape[axis]
    if seeds < 2:
        # A sum, as the mean of no seed at all would warn.
        return np.asarray(np.nan * values.sum(axis))
    with np.errstate(over="ignore", invalid="ignore"):
        spread = values.std(axis, ddof=1)
    error = spread / math.sqrt(seeds)
    is_known = np.isfinite(error)
    return np.where(is_known, error, np.nan)


def seed_mean(losses: Float[np.ndarray, "*curve seed"]) -> Float[np.ndarray, "*curve"]:
    """Mean over the seeds that finished; NaN where half of them or more did not."""
    is_finished = np.isfinite(losses)
    kept = np.where(is_finished, losses, 0.0)
    return majority_mean(
        total=kept.sum(-1),
        finished=is_finished.sum(-1),
        seeds=losses.shape[-1],
    )


def majority_mean(
    total: Float[np.ndarray, "*curve"],
    finished: Shaped[np.ndarray, "*curve"],
    seeds: int,
) -> Float[np.ndarray, "*curve"]:
    """Mean of a sum over `finished` of `seeds` runs; NaN unless more than half finished."""
    count = np.maximum(finished, 1)
    is_most = 2 * finished > seeds
    return np.where(is_most, total / count, np.nan)
