"""The optimal learning rate of a sweep, its drift across sizes, and the regret of not tuning again.

Loss curves over log2(lr) are smooth with a cliff on the right, so the optimum is the vertex of a quadratic
around the smallest loss; its interval is a bootstrap over seeds (THEORY.md section 7). Diverged runs are left
out of the means; a learning rate at which half of the seeds or more diverged counts as beyond the cliff.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from typing import TYPE_CHECKING

import numpy as np
from jaxtyping import Float

from isoscale.errors import InvalidValueError
from isoscale.stats.intervals import interval, need_dims, resampled_means, resamples, seed_mean
from isoscale.stats.vertex import Vertices, interpolate, vertices

if TYPE_CHECKING:
    import xarray as xr


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
    return Optima(loss, seed=seed).best()


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
    return Optima(loss, seed=seed).drift(axis, base)


def regret(loss: xr.DataArray, axis: str, base: int, *, seed: int = 0) -> xr.Dataset:
    """What it costs to train each size at the base's best learning rate: loss there - loss at its own optimum.

    The loss between two learning rates of the grid is interpolated linearly in log2(lr); next to a diverged
    one the nearer of the two decides. Arguments as for `drift`.

    Returns:
        Dataset over `loss`'s other dimensions: `regret`, `regret_low`, `regret_high`; inf where the base's
        learning rate diverges, NaN where there is no optimum to compare with.
    """
    return Optima(loss, seed=seed).regret(axis, base)


class Optima:
    """The three questions to one sweep, whose resamples are worked out once.

    Args:
        loss, seed: As for `optimal_lr`.

    >>> import xarray as xr
    >>> lrs, depths = [0.125, 0.25, 0.5], [4, 8]
    >>> losses = [[[3.0], [1.0], [3.0]], [[2.0], [1.5], [2.0]]]
    >>> loss = xr.DataArray(losses, {"depth": depths, "lr": lrs, "seed": [0]}, dims=("depth", "lr", "seed"))
    >>> optima = Optima(loss)
    >>> optima.best().lr.values.tolist(), optima.drift("depth", 4).drift.values.tolist()
    ([0.25, 0.25], [0.0, 0.0])
    """

    def __init__(self, loss: xr.DataArray, *, seed: int = 0) -> None:
        need_dims(loss, "lr", "seed")
        self._loss, self._dims = loss, [str(dim) for dim in loss.dims if dim not in ("lr", "seed")]
        self._values = loss.transpose(*self._dims, "lr", "seed").values
        self._log2_lrs = np.log2(loss["lr"].values)
        self._picks = resamples(loss.sizes["seed"], seed)
        self._found = vertices(self._log2_lrs, seed_mean(self._values))

    @functools.cached_property
    def _resampled(self) -> Float[np.ndarray, "optimum *cell n"]:
        """Vertex of every resample: its log2(lr), then its loss."""
        out = np.empty((2, *self._values.shape[:-2], len(self._picks)))
        for at in np.ndindex(self._values.shape[:-2]):
            out[(slice(None), *at)] = vertices(self._log2_lrs, resampled_means(self._values[at], self._picks))[:2]
        return out

    def best(self) -> xr.Dataset:
        """As `isoscale.laws.optimal_lr`."""
        import xarray as xr

        shape, (lows, highs) = self._values.shape[:-2], interval(self._resampled[0])
        rows = [
            self._summary(Vertices(*(part[at] for part in self._found)), (lows[at], highs[at]), self._values[at])
            for at in np.ndindex(shape)
        ]
        names, columns = ("lr", "lr_low", "lr_high", "loss", "loss_se"), np.array(rows, float).reshape(*shape, 5)
        arrays = {name: (self._dims, columns[..., k]) for k, name in enumerate(names)}
        return xr.Dataset(arrays | {"at_edge": (self._dims, self._found.edge)}, self._coords())

    def drift(self, axis: str, base: int) -> xr.Dataset:
        """As `isoscale.laws.drift`."""
        found, resampled = self._found.log2_lr, self._resampled[0]
        of_base = self._of_base(axis, base)
        return self._with_interval("drift", axis, found - of_base(found), resampled - of_base(resampled))

    def regret(self, axis: str, base: int) -> xr.Dataset:
        """As `isoscale.laws.regret`."""
        of_base = self._of_base(axis, base)
        wanted, resampled = of_base(self._found.log2_lr), of_base(self._resampled[0])
        there = np.empty(resampled.shape)
        for at in np.ndindex(self._values.shape[:-2]):
            means = resampled_means(self._values[at], self._picks)
            there[at] = interpolate(self._log2_lrs, means, resampled[at])
        found = _cost(interpolate(self._log2_lrs, seed_mean(self._values), wanted), wanted, self._found.loss)
        return self._with_interval("regret", axis, found, _cost(there, resampled, self._resampled[1]))

    def _summary(
        self, found: Vertices, interval: tuple[float, float], curves: Float[np.ndarray, "lr seed"]
    ) -> list[float]:
        """Optimum, interval, loss and its standard error of one curve."""
        log2_lr, loss, edge, cliff = (part.item() for part in found)
        if edge == "none":
            return [math.nan] * 5
        low, high = map(float, interval)
        if math.isfinite(cliff):
            high = max(high, cliff)
        ends = [math.nan if edge == side else 2**end for side, end in (("low", low), ("high", high))]
        nearest = curves[np.argmin(np.abs(self._log2_lrs - log2_lr))]
        nearest = nearest[np.isfinite(nearest)]
        se = float(nearest.std(ddof=1) / math.sqrt(len(nearest))) if len(nearest) > 1 else math.nan
        return [2**log2_lr, *ends, loss, se]

    def _of_base(self, axis: str, base: int) -> Callable[[np.ndarray], np.ndarray]:
        """What takes the base's values, for every size, from values over the cells."""
        need_dims(self._loss, axis)
        sizes = self._loss[axis].values
        if base not in sizes:
            raise InvalidValueError(f"`base` {axis} {base} is not in the sweep: {axis}s {sizes.tolist()}")
        at, place = [int(np.flatnonzero(sizes == base)[0])], self._dims.index(axis)
        return lambda values: np.broadcast_to(values.take(at, axis=place), values.shape)

    def _with_interval(self, name: str, axis: str, found: np.ndarray, resampled: np.ndarray) -> xr.Dataset:
        import xarray as xr

        values = zip((name, f"{name}_low", f"{name}_high"), (found, *interval(resampled)), strict=True)
        data = xr.Dataset({key: (self._dims, array) for key, array in values}, self._coords())
        return data.transpose(*(dim for dim in self._dims if dim != axis), axis)

    def _coords(self) -> dict[str, xr.DataArray]:
        return {dim: self._loss[dim] for dim in self._dims}


def _cost(there: np.ndarray, wanted: np.ndarray, lowest: np.ndarray) -> np.ndarray:
    """Loss at the wanted learning rate over the lowest; NaN where either size trains at no learning rate."""
    # Interpolation can fall a little below the vertex; a cost is not negative.
    return np.where(np.isnan(wanted) | np.isnan(lowest), np.nan, np.maximum(there - lowest, 0.0))
