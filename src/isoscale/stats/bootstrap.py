"""The bootstrap: means of resampled seeds, and the range of draws that are all finite.

A resample takes as many seeds as there are, with replacement.
"""

from __future__ import annotations

import numpy as np
from jaxtyping import Float

from isoscale.stats.summary import LEVEL

RESAMPLES = 1000

# Shares of the resamples below the two ends of an interval.
_LOW = (1 - LEVEL) / 2
_HIGH = (1 + LEVEL) / 2


def unpaired_means(
    losses: Float[np.ndarray, "size seed"],
    rng: np.random.Generator,
) -> Float[np.ndarray, "n size"]:
    """Mean losses of resamples in which every size draws seeds of its own; every run must have finished."""
    sizes, seeds = losses.shape
    picks = rng.integers(seeds, size=(RESAMPLES, sizes, seeds))
    drawn = np.take_along_axis(losses[None], picks, axis=2)
    return drawn.mean(2)


def smooth_interval(
    values: Float[np.ndarray, "n ..."],
) -> tuple[Float[np.ndarray, "..."] | float, Float[np.ndarray, "..."] | float]:
    """Central 95 % of draws that are all finite, interpolated between the draws."""
    low = np.quantile(values, _LOW, axis=0)
    high = np.quantile(values, _HIGH, axis=0)
    return low, high
