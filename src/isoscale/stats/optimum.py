"""The optimal learning rate of a sweep, its drift across sizes, and the regret of not tuning again.

Loss curves over log2(lr) are smooth with a cliff on the right, so the optimum is the vertex of a quadratic
around the smallest loss; its interval is a bootstrap over seeds (docs/theory.md, section 7). Diverged runs are left
out of the means; a learning rate at which half of the seeds or more diverged counts as beyond the cliff.
"""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING

import numpy as np
from jaxtyping import Float

from isoscale.errors import InvalidValueError
from isoscale.stats.axes import ascending
from isoscale.stats.bootstrap import interval, resampled_means, resamples
from isoscale.stats.summary import seed_mean, standard_error
from isoscale.stats.vertex import interpolate, vertices

if TYPE_CHECKING:
    import xarray as xr


def optimal_lr(loss: xr.DataArray, *, seed: int = 0) -> xr.Dataset:
    """The best learning rate of each curve, with a 95 % interval over seeds.

    Args:
        loss: Final loss over `lr`, `seed` and any other dimensions, in any order; NaN where a run diverged.
        seed: Of the bootstrap, where there are too many seeds to enumerate every resample.

    Returns:
        Dataset over the other dimensions: `lr`, `lr_low`, `lr_high`, `loss` (at the optimum), `loss_se` (over
        seeds) and `at_edge`: "" for an optimum inside the grid; "low" or "high" when the smallest loss
        lies at the grid's end, so that `lr` is only a bound (and the interval open on that side, NaN); "none" when no
        learning rate trained most seeds (all NaN). Where the next learning rate up diverged, the optimum is not
        extrapolated towards it, but the interval reaches to it: the cliff lies somewhere before.

    Raises:
        InvalidValueError: A missing dimension; learning rates that are not positive, finite and distinct.

    >>> import xarray as xr
    >>> lrs = [0.125, 0.25, 0.5, 1.0]
    >>> loss = xr.DataArray([[3.0], [1.0], [1.0], [3.0]], {"lr": lrs, "seed": [0]}, dims=("lr", "seed"))
    >>> round(float(optimal_lr(loss).lr), 4)
    0.3536
    """
    optima = Optima(loss, seed=seed)
    return optima.best()


def drift(
    loss: xr.DataArray,
    axis: str,
    base: int,
    *,
    seed: int = 0,
) -> xr.Dataset:
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
    optima = Optima(loss, seed=seed)
    return optima.drift(axis, base)


def regret(
    loss: xr.DataArray,
    axis: str,
    base: int,
    *,
    seed: int = 0,
) -> xr.Dataset:
    """What it costs to train each size at the base's best learning rate: loss there - loss at its own optimum.

    The loss between two learning rates of the grid is interpolated linearly in log2(lr); next to a diverged
    one the nearer of the two decides. Arguments as for `drift`.

    Returns:
        Dataset over `loss`'s other dimensions: `regret`, `regret_low`, `regret_high`; inf where the base's
        learning rate diverges, NaN where there is no optimum to compare with.
    """
    optima = Optima(loss, seed=seed)
    return optima.regret(axis, base)


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
        loss = ascending(loss, "lr")
        loss = loss.transpose(..., "lr", "seed")
        self._dims = [str(dim) for dim in loss.dims[:-2]]
        self._loss = loss
        # Sums over seeds then have one order, whatever the order of the dimensions.
        self._values = np.ascontiguousarray(loss.values)
        self._shape = self._values.shape[:-2]
        self._cells = list(np.ndindex(self._shape))

        lrs = loss["lr"].values
        self._log2_lrs = np.log2(lrs)
        self._means = seed_mean(self._values)
        self._found = vertices(self._log2_lrs, self._means)
        self._picks = resamples(loss.sizes["seed"], seed)

    @functools.cached_property
    def _resampled(self) -> tuple[Float[np.ndarray, "*cell n"], Float[np.ndarray, "*cell n"]]:
        """Vertex of every resample: its log2(lr), and its loss."""
        shape = (*self._shape, len(self._picks))
        log2_lrs = np.empty(shape)
        losses = np.empty_like(log2_lrs)
        for at in self._cells:
            curves = self._values[at]
            means = resampled_means(curves, self._picks)
            found = vertices(self._log2_lrs, means)
            log2_lrs[at] = found.log2_lr
            losses[at] = found.loss
        return log2_lrs, losses

    def best(self) -> xr.Dataset:
        """As `isoscale.laws.optimal_lr`."""
        found = self._found
        log2_lrs, _ = self._resampled
        low, high = interval(log2_lrs)
        # The cliff lies somewhere below the learning rate that diverged.
        high = np.fmax(high, found.cliff)
        # At an end of the grid the optimum is only a bound: the interval is open on that side.
        is_nothing = found.edge == "none"
        is_open_low = is_nothing | (found.edge == "low")
        is_open_high = is_nothing | (found.edge == "high")
        low = np.where(is_open_low, np.nan, low)
        high = np.where(is_open_high, np.nan, high)
        return self._dataset(
            lr=2.0**found.log2_lr,
            lr_low=2.0**low,
            lr_high=2.0**high,
            loss=found.loss,
            loss_se=self._loss_se(),
            at_edge=found.edge,
        )

    def drift(self, axis: str, base: int) -> xr.Dataset:
        """As `isoscale.laws.drift`."""
        log2_lr = self._found.log2_lr
        drift = log2_lr - self._of_base(log2_lr, axis, base)
        # The same seeds at both sizes: what a seed does to all sizes alike cancels.
        log2_lrs, _ = self._resampled
        drifts = log2_lrs - self._of_base(log2_lrs, axis, base)
        return self._with_interval("drift", axis, drift, drifts)

    def regret(self, axis: str, base: int) -> xr.Dataset:
        """As `isoscale.laws.regret`."""
        found = self._found
        transferred = self._of_base(found.log2_lr, axis, base)
        there = interpolate(self._log2_lrs, self._means, transferred)
        regret = _cost(there, transferred, found.loss)

        log2_lrs, lowest = self._resampled
        transferred = self._of_base(log2_lrs, axis, base)
        there = np.empty_like(lowest)
        for at in self._cells:
            curves = self._values[at]
            means = resampled_means(curves, self._picks)
            there[at] = interpolate(self._log2_lrs, means, transferred[at])
        regrets = _cost(there, transferred, lowest)
        return self._with_interval("regret", axis, regret, regrets)

    def _loss_se(self) -> Float[np.ndarray, "*cell"]:
        """Standard error over the seeds that finished, at the learning rate of the grid nearest to the optimum."""
        found = self._found
        errors = np.full(self._shape, np.nan)
        for at in self._cells:
            if found.edge[at] == "none":
                continue
            octaves = self._log2_lrs - found.log2_lr[at]
            nearest = np.argmin(np.abs(octaves))
            losses = self._values[at][nearest]
            is_finished = np.isfinite(losses)
            errors[at] = standard_error(losses[is_finished])
        return errors

    def _of_base(
        self,
        values: Float[np.ndarray, "*cell"] | Float[np.ndarray, "*cell n"],
        axis: str,
        base: int,
    ) -> np.ndarray:
        """The base's values, at every size."""
        if axis not in self._dims:
            raise InvalidValueError(f"`axis` must be a size of the sweep, {self._dims}, got {axis!r}")
        sizes = self._loss[axis].values.tolist()
        times = sizes.count(base)
        if times != 1:
            how = "more than once" if times else "not"
            raise InvalidValueError(f"`base` {axis} {base} is {how} in the sweep: {axis}s {sizes}")
        place = self._dims.index(axis)
        index = sizes.index(base)
        of_base = values.take([index], axis=place)
        return np.broadcast_to(of_base, values.shape)

    def _with_interval(
        self,
        name: str,
        axis: str,
        found: Float[np.ndarray, "*cell"],
        resampled: Float[np.ndarray, "*cell n"],
    ) -> xr.Dataset:
        """What was found and the interval of its resamples; the dimension in question comes last."""
        low, high = interval(resampled)
        values = {
            name: found,
            f"{name}_low": low,
            f"{name}_high": high,
        }
        data = self._dataset(**values)
        return data.transpose(..., axis)

    def _dataset(self, **values: np.ndarray | np.generic) -> xr.Dataset:
        """Values over the cells, labelled; of a single cell NumPy gives scalars, which are no arrays."""
        import xarray as xr

        coords = {dim: self._loss[dim] for dim in self._dims}
        data = {}
        for name, array in values.items():
            data[name] = (self._dims, array)
        return xr.Dataset(data, coords)


def _cost(
    there: Float[np.ndarray, "*of"],
    wanted: Float[np.ndarray, "*of"],
    lowest: Float[np.ndarray, "*of"],
) -> Float[np.ndarray, "*of"]:
    """Loss at the wanted learning rate over the lowest; NaN where either size trains at no learning rate."""
    # Interpolation can fall a little below the vertex; a cost is not negative.
    cost = there - lowest
    cost = np.maximum(cost, 0.0)
    is_unknown = np.isnan(wanted) | np.isnan(lowest)
    return np.where(is_unknown, np.nan, cost)
