"""The optimal learning rate of a grid, its drift across sizes, and the regret of not tuning again.

Labelled losses in, labelled numbers out: each cell of the grid becomes a `Curve`, and `find_optimum` and
`transferred` answer (docs/theory.md, section 7). How often the intervals hold the truth: docs/verdict.md.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np

from isoscale.errors import InvalidValueError
from isoscale.stats.axes import ascending
from isoscale.stats.curve import Curve
from isoscale.stats.optimum import Optimum, find_optimum
from isoscale.stats.transferred import Transferred, transferred

if TYPE_CHECKING:
    import xarray as xr


def optimal_lr(loss: xr.DataArray, *, seed: int = 0) -> xr.Dataset:
    """The best learning rate of each curve, with a 95 % interval over seeds.

    Args:
        loss: Final loss over `lr`, `seed` and any other dimensions, in any order; NaN where a run diverged.
        seed: Without effect: nothing is drawn.

    Returns:
        Dataset over the other dimensions: `lr`, `lr_low`, `lr_high`, `lr_se` (half the interval, in octaves and in
        standard errors), `loss` (at the optimum), `loss_se` (over seeds), `rate_used` (the learning rate to hand on:
        the optimum, or half an octave below the median cliff where that is less) and `at_edge`: "" for an optimum
        inside the grid; "low" or "high" when the smallest loss lies at the grid's end, so that `lr` is only a bound
        (and the interval open on that side, NaN); "none" when no learning rate trained most seeds (all NaN). Where
        the loss falls until the next learning rate up diverged, `lr` is the last that trained and the interval reaches
        over the gap: the cliff lies somewhere in it. One seed has no interval, and neither has a curve in which
        nothing but noise shows.

    Raises:
        InvalidValueError: A missing dimension; learning rates that are not positive, finite and distinct.

    >>> import xarray as xr
    >>> lrs = [0.125, 0.25, 0.5, 1.0]
    >>> loss = xr.DataArray([[3.0], [1.0], [1.0], [3.0]], {"lr": lrs, "seed": [0]}, dims=("lr", "seed"))
    >>> round(float(optimal_lr(loss).lr), 4)
    0.3536
    """
    return Optima(loss, seed=seed).best()


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
        seed: Without effect: nothing is drawn. Seeds are paired, the same ones at every size.

    Returns:
        Dataset over `loss`'s other dimensions: `drift`, `drift_low`, `drift_high`; NaN where either size has
        no stable learning rate, and an end is NaN where it is open.
    """
    return Optima(loss, seed=seed).drift(axis, base)


def regret(
    loss: xr.DataArray,
    axis: str,
    base: int,
    *,
    seed: int = 0,
) -> xr.Dataset:
    """What it costs to train each size at the learning rate that the base hands on: loss there - loss at its own.

    Between two learning rates of the grid log loss is interpolated, but never through a diverged one. Arguments as
    for `drift`.

    Returns:
        Dataset over `loss`'s other dimensions: `regret`, `regret_low`, `regret_high`; inf where the base's
        learning rate diverges, NaN where nothing is known, an open end or one seed.
    """
    return Optima(loss, seed=seed).regret(axis, base)


class Optima:
    """The three questions to one sweep, whose optima are worked out once.

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
        self._shape = loss.shape[:-2]
        self._cells = list(np.ndindex(self._shape))

        log2_lrs = np.log2(loss["lr"].values)
        seeds = loss["seed"].values
        values = loss.values.astype(float)
        self._curves: dict[tuple[int, ...], Curve] = {}
        for at in self._cells:
            self._curves[at] = Curve.of_grid(log2_lrs, seeds, values[at])

    @functools.cached_property
    def _found(self) -> dict[tuple[int, ...], Optimum]:
        return {at: find_optimum(curve) for at, curve in self._curves.items()}

    def best(self) -> xr.Dataset:
        """As `isoscale.laws.optimal_lr`."""
        found = self._found
        return self._dataset(
            lr=self._over(found, lambda one: 2.0**one.log2_lr),
            lr_low=self._over(found, lambda one: 2.0**one.low),
            lr_high=self._over(found, lambda one: 2.0**one.high),
            lr_se=self._over(found, lambda one: one.se),
            loss=self._over(found, lambda one: one.loss),
            loss_se=self._over(found, lambda one: one.loss_se),
            at_edge=self._over(found, lambda one: one.edge),
        )

    def drift(self, axis: str, base: int) -> xr.Dataset:
        """As `isoscale.laws.drift`."""
        return self._against(axis, base, "drift", "drift_low", "drift_high")

    def regret(self, axis: str, base: int) -> xr.Dataset:
        """As `isoscale.laws.regret`."""
        return self._against(axis, base, "regret", "regret_low", "regret_high")

    def _against(self, axis: str, base: int, *names: str) -> xr.Dataset:
        """Numbers of every size against the base; the dimension in question comes last."""
        place, index = self._base(axis, base)
        found: dict[tuple[int, ...], Transferred] = {}
        for at in self._cells:
            of_base = (*at[:place], index, *at[place + 1 :])
            found[at] = transferred(
                self._curves[of_base],
                self._curves[at],
                self._found[of_base],
                self._found[at],
            )
        values = {}
        for name in names:
            values[name] = self._over(found, lambda one, name=name: getattr(one, name))
        return self._dataset(**values).transpose(..., axis)

    def _base(self, axis: str, base: int) -> tuple[int, int]:
        """The place of the axis among the dimensions, and of the base along it."""
        if axis not in self._dims:
            raise InvalidValueError(f"`axis` must be a size of the sweep, {self._dims}, got {axis!r}")
        sizes = self._loss[axis].values.tolist()
        times = sizes.count(base)
        if times != 1:
            how = "more than once" if times else "not"
            raise InvalidValueError(f"`base` {axis} {base} is {how} in the sweep: {axis}s {sizes}")
        return self._dims.index(axis), sizes.index(base)

    def _over(self, found: dict[tuple[int, ...], Any], number: Callable[[Any], Any]) -> np.ndarray:
        """One number of every cell."""
        values = [number(found[at]) for at in self._cells]
        return np.array(values).reshape(self._shape)

    def _dataset(self, **values: np.ndarray) -> xr.Dataset:
        """Values over the cells, labelled."""
        import xarray as xr

        coords = {dim: self._loss[dim] for dim in self._dims}
        data = {}
        for name, array in values.items():
            data[name] = (self._dims, array)
        return xr.Dataset(data, coords)
