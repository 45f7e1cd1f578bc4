"""The optimal learning rate of a sweep, its drift across sizes, and the regret of not tuning again.

Loss curves over log2(lr) are smooth with a cliff on the right, so the optimum is the vertex of a quadratic
around the smallest loss; its interval is a bootstrap over seeds (THEORY.md section 7). Diverged runs are left
out of the means; a learning rate at which half of the seeds or more diverged counts as beyond the cliff.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from jaxtyping import Float, Int

from isoscale.errors import InvalidValueError
from isoscale.laws.intervals import LEVEL, RESAMPLES, need_dims

if TYPE_CHECKING:
    import xarray as xr

# Up to this many seeds, every resample is enumerated instead of drawn.
_ENUMERATED_SEEDS = 4


class _Optimum(NamedTuple):
    """Vertex of one curve; `edge` is "", "low", "high" (of the grid) or "none" (no stable learning rate)."""

    log2_lr: float
    loss: float
    edge: str
    cliff: float  # log2 of the first diverged learning rate above the optimum if it is the next one, else NaN


def optimal_lr(loss: xr.DataArray, *, seed: int = 0) -> xr.Dataset:
    """The best learning rate of each curve, with a 95 % interval over seeds.

    Args:
        loss: Final loss over `lr`, `seed` and any other dimensions; NaN where a run diverged.
        seed: Of the bootstrap, where there are too many seeds to enumerate every resample.

    Returns:
        Dataset over the other dimensions: `lr`, `lr_low`, `lr_high`, `loss` (at the optimum), `loss_se` (over
        seeds) and `at_edge`: "" for an optimum inside the grid; "low" or "high" when the smallest loss
        lies at the grid's end, so that `lr` is only a bound (and the interval open on that side, NaN); "none" when no
        learning rate trained most seeds (all NaN). Where the next learning rate up diverged, the optimum is not
        extrapolated towards it, but the interval reaches to it: the cliff lies somewhere before.

    Raises:
        InvalidValueError: A missing dimension.

    >>> import xarray as xr
    >>> lrs = [0.125, 0.25, 0.5, 1.0]
    >>> loss = xr.DataArray([[3.0], [1.0], [1.0], [3.0]], {"lr": lrs, "seed": [0]}, dims=("lr", "seed"))
    >>> round(float(optimal_lr(loss).lr), 4)
    0.3536
    """
    import xarray as xr

    need_dims(loss, "lr", "seed")
    dims = [dim for dim in loss.dims if dim not in ("lr", "seed")]
    values = loss.transpose(*dims, "lr", "seed").values
    log2_lrs = np.log2(loss["lr"].values)
    resamples = _resamples(loss.sizes["seed"], seed)
    rows = [_summary(log2_lrs, values[at], resamples) for at in np.ndindex(values.shape[:-2])]
    coords = {dim: loss[dim] for dim in dims}
    shape = values.shape[:-2]
    columns = dict(
        zip(("lr", "lr_low", "lr_high", "loss", "loss_se"), zip(*(r[:5] for r in rows), strict=True), strict=True)
    )
    arrays = {name: (dims, np.array(column, float).reshape(shape)) for name, column in columns.items()}
    arrays["at_edge"] = (dims, np.array([row[5] for row in rows]).reshape(shape))
    return xr.Dataset(arrays, coords)


def drift(loss: xr.DataArray, axis: str, base: int, *, seed: int = 0) -> xr.Dataset:
    """How far the optimum moves from the base size, in octaves: log2(optimum / base's optimum).

    Args:
        loss: As for `optimal_lr`, with the dimension `axis`.
        axis: "depth" or "width".
        base: The size that was tuned.
        seed: Of the bootstrap; resamples are paired, each uses the same seeds at every size.

    Returns:
        Dataset over `loss`'s other dimensions: `drift`, `drift_low`, `drift_high`; NaN where either size has
        no stable learning rate.
    """
    return _against_base(loss, axis, base, "drift", lambda of, target, _: target.log2_lr - of.log2_lr, seed)


def regret(loss: xr.DataArray, axis: str, base: int, *, seed: int = 0) -> xr.Dataset:
    """What it costs to train each size at the base's best learning rate: loss there - loss at its own optimum.

    The loss between two learning rates of the grid is interpolated linearly in log2(lr); next to a diverged
    one the nearer of the two decides. Arguments as for `drift`.

    Returns:
        Dataset over `loss`'s other dimensions: `regret`, `regret_low`, `regret_high`; inf where the base's
        learning rate diverges, NaN where there is no optimum to compare with.
    """
    log2_lrs = np.log2(loss["lr"].values)

    def cost(of: _Optimum, target: _Optimum, curve: Float[np.ndarray, " lr"]) -> float:
        if math.isnan(of.log2_lr) or math.isnan(target.log2_lr):
            return math.nan
        # Interpolation can fall a little below the vertex; a cost is not negative.
        return max(0.0, _interpolate(log2_lrs, curve, of.log2_lr) - target.loss)

    return _against_base(loss, axis, base, "regret", cost, seed)


# --- one curve ---
def _optimum(log2_lrs: Float[np.ndarray, " lr"], curve: Float[np.ndarray, " lr"]) -> _Optimum:
    """Vertex of the quadratic around the smallest loss, kept within half a grid step of it."""
    stable = np.flatnonzero(np.isfinite(curve))
    if not len(stable):
        return _Optimum(math.nan, math.nan, "none", math.nan)
    best = int(stable[np.argmin(curve[stable])])
    if best in (0, len(curve) - 1) and len(curve) > 1:
        edge = "low" if best == 0 else "high"
        return _Optimum(float(log2_lrs[best]), float(curve[best]), edge, math.nan)
    cliff = float(log2_lrs[best + 1]) if best + 1 < len(curve) and best + 1 not in stable else math.nan
    around = stable[np.argsort(np.abs(log2_lrs[stable] - log2_lrs[best]), kind="stable")[:3]]
    if len(around) < 3:
        return _Optimum(float(log2_lrs[best]), float(curve[best]), "", cliff)
    # The parabola a x^2 + b x + c through the best point, at x = 0, and its two nearest neighbours.
    (_, x1, x2), (c, y1, y2) = log2_lrs[around] - log2_lrs[best], curve[around]
    a = ((y2 - c) / x2 - (y1 - c) / x1) / (x2 - x1)
    b = (y1 - c) / x1 - a * x1
    half_step = min(abs(x1), abs(x2)) / 2
    furthest = half_step if math.isnan(cliff) else 0.0
    x = min(max(-b / (2 * a), -half_step), furthest) if a > 0 else 0.0
    return _Optimum(float(log2_lrs[best] + x), float(a * x**2 + b * x + c), "", cliff)


def _interpolate(log2_lrs: Float[np.ndarray, " lr"], curve: Float[np.ndarray, " lr"], at: float) -> float:
    """Loss at a learning rate of the grid's range; inf if the nearest learning rate of the grid diverged."""
    above = int(np.clip(np.searchsorted(log2_lrs, at), 1, len(log2_lrs) - 1)) if len(log2_lrs) > 1 else 0
    below = max(0, above - 1)
    share = 0.0 if above == below else (at - log2_lrs[below]) / (log2_lrs[above] - log2_lrs[below])
    low, high = curve[below], curve[above]
    if np.isfinite(low) and np.isfinite(high):
        return float((1 - share) * low + share * high)
    nearest = high if share > 0.5 else low
    return float(nearest) if np.isfinite(nearest) else math.inf


def _summary(
    log2_lrs: Float[np.ndarray, " lr"],
    curves: Float[np.ndarray, "lr seed"],
    resamples: Int[np.ndarray, "n seed"],
) -> tuple[float, float, float, float, float, str]:
    found = _optimum(log2_lrs, seed_mean(curves))
    if found.edge == "none":
        return math.nan, math.nan, math.nan, math.nan, math.nan, "none"
    low, high = _interval([_optimum(log2_lrs, seed_mean(curves[:, seeds])).log2_lr for seeds in resamples])
    if math.isfinite(found.cliff):
        high = max(high, found.cliff)
    low = math.nan if found.edge == "low" else 2**low
    high = math.nan if found.edge == "high" else 2**high
    nearest = curves[np.argmin(np.abs(log2_lrs - found.log2_lr))]
    nearest = nearest[np.isfinite(nearest)]
    seeds = len(nearest)
    se = float(nearest.std(ddof=1) / math.sqrt(seeds)) if seeds > 1 else math.nan
    return 2**found.log2_lr, low, high, found.loss, se, found.edge


def seed_mean(losses: Float[np.ndarray, "*curve seed"]) -> Float[np.ndarray, "*curve"]:
    """Mean over the seeds that finished; NaN where half of them or more did not."""
    finished = np.isfinite(losses)
    total = np.where(finished, losses, 0.0).sum(-1)
    count = finished.sum(-1)
    return np.where(2 * count > losses.shape[-1], total / np.maximum(count, 1), np.nan)


# --- many curves ------------------------------------------------------------------------------------------------
def _against_base(
    loss: xr.DataArray, axis: str, base: int, name: str, compare: Callable[..., float], seed: int
) -> xr.Dataset:
    """Apply `compare(base's optimum, optimum, curve)` at each size, with an interval over paired resamples."""
    import xarray as xr

    need_dims(loss, "lr", "seed", axis)
    if base not in loss[axis].values:
        raise InvalidValueError(f"`base` {axis} {base} is not in the sweep: {axis}s {loss[axis].values.tolist()}")
    others = [dim for dim in loss.dims if dim not in ("lr", "seed", axis)]
    values = loss.transpose(*others, axis, "lr", "seed").values
    log2_lrs, at_base = np.log2(loss["lr"].values), int(np.flatnonzero(loss[axis].values == base)[0])

    def compared(curves: Float[np.ndarray, "size lr"]) -> list[float]:
        optima = [_optimum(log2_lrs, curve) for curve in curves]
        return [compare(optima[at_base], optimum, curve) for optimum, curve in zip(optima, curves, strict=True)]

    resamples = _resamples(loss.sizes["seed"], seed)
    out = np.empty((3, *values.shape[:-2]))
    for at in np.ndindex(values.shape[:-3]):
        found = compared(seed_mean(values[at]))
        resampled = np.array([compared(seed_mean(values[at][..., seeds])) for seeds in resamples])
        intervals = [_interval(column) for column in resampled.T]
        out[(slice(None), *at)] = [found, *zip(*intervals, strict=True)]
    dims = [*others, axis]
    names = (name, f"{name}_low", f"{name}_high")
    return xr.Dataset(
        {key: (dims, array) for key, array in zip(names, out, strict=True)}, {dim: loss[dim] for dim in dims}
    )


def _resamples(seeds: int, seed: int) -> Int[np.ndarray, "n seed"]:
    if seeds <= _ENUMERATED_SEEDS:
        return np.array(list(itertools.product(range(seeds), repeat=seeds)))
    return np.random.default_rng(seed).integers(seeds, size=(RESAMPLES, seeds))


def _interval(values: Any) -> tuple[float, float]:
    """Central 95 % of the resamples that gave a number; inf is a number."""
    numbers = np.sort([value for value in values if not math.isnan(value)])
    if not len(numbers):
        return math.nan, math.nan
    # Order statistics rather than interpolation, which is undefined between a number and inf.
    low, high = (1 - LEVEL) / 2 * (len(numbers) - 1), (1 + LEVEL) / 2 * (len(numbers) - 1)
    return float(numbers[math.floor(low)]), float(numbers[math.ceil(high)])
