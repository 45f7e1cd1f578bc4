"""What the laws' intervals have in common: means over seeds, resamples of the seeds, and the range between them."""

from __future__ import annotations

import itertools
from typing import TYPE_CHECKING

import numpy as np
from jaxtyping import Float, Int

from isoscale.errors import InvalidValueError

if TYPE_CHECKING:
    import xarray as xr

LEVEL = 0.95
RESAMPLES = 1000

# Up to this many seeds, every resample is enumerated instead of drawn.
_ENUMERATED_SEEDS = 4

# So many bytes of sums are worked on at a time: they stay in the processor's cache.
_BLOCK = 2**19


def need_dims(loss: xr.DataArray, *dims: str) -> None:
    """Raise InvalidValueError unless `loss` has those dimensions."""
    for dim in dims:
        if dim not in loss.dims:
            raise InvalidValueError(f"`loss` needs the dimension {dim!r}, it has {tuple(loss.dims)}")


def resamples(seeds: int, seed: int) -> Int[np.ndarray, "n seeds"]:
    """Which seeds each resample takes."""
    if seeds <= _ENUMERATED_SEEDS:
        return np.array(list(itertools.product(range(seeds), repeat=seeds)))
    return np.random.default_rng(seed).integers(seeds, size=(RESAMPLES, seeds))


def seed_mean(losses: Float[np.ndarray, "*curve seed"]) -> Float[np.ndarray, "*curve"]:
    """Mean over the seeds that finished; NaN where half of them or more did not."""
    finished = np.isfinite(losses)
    total = np.where(finished, losses, 0.0).sum(-1)
    return _mean(total, finished.sum(-1), losses.shape[-1])


def resampled_means(
    losses: Float[np.ndarray, "lr seed"], picks: Int[np.ndarray, "n seed"]
) -> Float[np.ndarray, "n lr"]:
    """`seed_mean` of each resample: its seeds' losses added one seed after the other, for a block of resamples."""
    finished = np.isfinite(losses.T)
    total = _resampled_sum(np.where(finished, losses.T, 0.0), picks)
    if finished.all():
        return total / len(finished)
    return _mean(total, _times(picks) @ finished.astype(float), len(finished))


def _resampled_sum(
    by_seed: Float[np.ndarray, "seed lr"], picks: Int[np.ndarray, "n seed"]
) -> Float[np.ndarray, "n lr"]:
    total = np.zeros((len(picks), by_seed.shape[1]))
    block = max(1, _BLOCK // max(1, by_seed[0].nbytes))
    for start in range(0, len(picks), block):
        part = total[start : start + block]
        for seeds in picks[start : start + block].T:
            part += by_seed[seeds]
    return total


def _times(picks: Int[np.ndarray, "n seed"]) -> Float[np.ndarray, "n seed"]:
    """How often each resample takes each seed."""
    places = picks + picks.shape[1] * np.arange(len(picks))[:, None]
    return np.bincount(places.ravel(), minlength=picks.size).reshape(picks.shape).astype(float)


def _mean(total: np.ndarray, count: np.ndarray, seeds: int) -> np.ndarray:
    return np.where(2 * count > seeds, total / np.maximum(count, 1), np.nan)


def interval(values: Float[np.ndarray, "*of n"]) -> tuple[Float[np.ndarray, "*of"], Float[np.ndarray, "*of"]]:
    """Central 95 % of the resamples that gave a number, NaN where none did; inf is a number."""
    ordered = np.sort(values, axis=-1)  # NaN comes last
    numbers = (~np.isnan(values)).sum(-1, keepdims=True)
    # Order statistics rather than interpolation, which is undefined between a number and inf.
    low = np.floor((1 - LEVEL) / 2 * (numbers - 1)).astype(int)
    high = np.ceil((1 + LEVEL) / 2 * (numbers - 1)).astype(int)
    ends = [np.take_along_axis(ordered, np.maximum(end, 0), -1)[..., 0] for end in (low, high)]
    return ends[0], ends[1]
