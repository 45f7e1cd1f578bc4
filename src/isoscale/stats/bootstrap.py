"""The bootstrap over seeds: resamples of the seeds, means of each resample, and the range between them.

A resample takes as many seeds as there are, with replacement. One resample serves every size (*paired*) where a seed
is the same start everywhere, so that what a seed does to all sizes alike cancels in a difference between sizes.
"""

from __future__ import annotations

import itertools

import numpy as np
from jaxtyping import Float, Int

from isoscale.stats.summary import LEVEL, majority_mean

RESAMPLES = 1000

# Shares of the resamples below the two ends of an interval.
_LOW = (1 - LEVEL) / 2
_HIGH = (1 + LEVEL) / 2

# Up to this many seeds, every resample is enumerated instead of drawn.
_ENUMERATED_SEEDS = 4

# So many bytes of sums are worked on at a time: they stay in the processor's cache.
_BLOCK = 2**19


def resamples(seeds: int, seed: int) -> Int[np.ndarray, "n seeds"]:
    """Which seeds each resample takes, at every size alike.

    >>> resamples(2, seed=0).tolist()
    [[0, 0], [0, 1], [1, 0], [1, 1]]
    """
    if seeds <= _ENUMERATED_SEEDS:
        every = itertools.product(range(seeds), repeat=seeds)
        return np.array(list(every))
    rng = np.random.default_rng(seed)
    return rng.integers(seeds, size=(RESAMPLES, seeds))


def resampled_means(
    losses: Float[np.ndarray, "lr seed"],
    picks: Int[np.ndarray, "n seed"],
) -> Float[np.ndarray, "n lr"]:
    """`seed_mean` of each resample: its seeds' losses added one seed after the other, for a block of resamples."""
    by_seed = losses.T
    finished = np.isfinite(by_seed)
    kept = np.where(finished, by_seed, 0.0)
    total = _resampled_sum(kept, picks)
    seeds = len(finished)
    if finished.all():
        return total / seeds
    count = _times(picks) @ finished
    return majority_mean(total, count, seeds)


def unpaired_means(
    losses: Float[np.ndarray, "size seed"],
    rng: np.random.Generator,
) -> Float[np.ndarray, "n size"]:
    """Mean losses of resamples in which every size draws seeds of its own; every run must have finished."""
    sizes, seeds = losses.shape
    picks = rng.integers(seeds, size=(RESAMPLES, sizes, seeds))
    drawn = np.take_along_axis(losses[None], picks, axis=2)
    return drawn.mean(2)


def interval(
    values: Float[np.ndarray, "*of n"],
) -> tuple[Float[np.ndarray, "*of"], Float[np.ndarray, "*of"]]:
    """Central 95 % of the resamples that gave a number, NaN where none did; inf is a number."""
    ordered = np.sort(values, axis=-1)  # NaN comes last
    is_number = ~np.isnan(values)
    last = is_number.sum(-1, keepdims=True) - 1
    # Without any number the first entry is as NaN as all the others.
    last = np.maximum(last, 0)
    # Order statistics rather than interpolation, which is undefined between a number and inf.
    low = np.floor(_LOW * last)
    high = np.ceil(_HIGH * last)
    ends = np.concatenate([low, high], axis=-1)
    taken = np.take_along_axis(ordered, ends.astype(int), axis=-1)
    return taken[..., 0], taken[..., 1]


def smooth_interval(
    values: Float[np.ndarray, "n ..."],
) -> tuple[Float[np.ndarray, ...], Float[np.ndarray, ...]]:
    """Central 95 % of draws that are all finite, interpolated between the draws."""
    low = np.quantile(values, _LOW, axis=0)
    high = np.quantile(values, _HIGH, axis=0)
    return low, high


def _resampled_sum(
    by_seed: Float[np.ndarray, "seed lr"],
    picks: Int[np.ndarray, "n seed"],
) -> Float[np.ndarray, "n lr"]:
    """Sum over each resample's seeds, in the order of the seeds in it."""
    count = len(picks)
    first = by_seed[0]
    shape = (count, len(first))
    total = np.zeros(shape)
    block = max(1, _BLOCK // max(1, first.nbytes))
    for start in range(0, count, block):
        rows = slice(start, start + block)
        part = total[rows]
        for seeds in picks[rows].T:
            part += by_seed[seeds]
    return total


def _times(picks: Int[np.ndarray, "n seed"]) -> Float[np.ndarray, "n seed"]:
    """How often each resample takes each seed."""
    count, seeds = picks.shape
    # One bin for each (resample, seed).
    resample = np.arange(count)[:, None]
    bins = seeds * resample + picks
    times = np.bincount(bins.ravel(), minlength=count * seeds)
    return times.reshape(count, seeds).astype(float)
