"""What a claim measures, in one form for all: points to draw, and quantities, with intervals, to decide on."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from isoscale import stats
from isoscale.stats.least_squares import t_quantile

if TYPE_CHECKING:
    import pandas as pd
    import xarray as xr
    from numpy.typing import ArrayLike

# Half-width of a 95 % interval in standard errors.
_NORMAL = 1.96


class Quantity(NamedTuple):
    """A number with its 95 % interval; NaN where it was not measured."""

    value: float
    low: float
    high: float


class Measured:
    """Collects points and quantities, in the order in which they are to be shown.

    >>> found = Measured()
    >>> found.panel("tanh", x="depth", y="error")
    >>> found.line("tanh", "reused", [2, 4, 8], [0.4, 0.2, 0.1])
    >>> found.law("exponent", [2, 4, 8], [0.4, 0.2, 0.1]).value
    -1.0
    >>> found.dataset().sizes
    Frozen({'point': 3, 'quantity': 1})
    """

    def __init__(self) -> None:
        self._panels: dict[str, dict[str, Any]] = {}
        self._points: list[dict[str, Any]] = []
        self._quantities: dict[str, Quantity] = {}
        self._runs: list[pd.DataFrame] = []

    def panel(self, name: str, *, x: str, y: str, log: bool = True) -> None:
        """A panel of the figure: what its axes show, and whether y is drawn on a logarithmic scale."""
        self._panels[name] = {"x": x, "y": y, "log": log}

    def line(
        self,
        panel: str,
        name: str,
        x: ArrayLike,
        y: ArrayLike,
        se: ArrayLike | None = None,
        *,
        low: ArrayLike | None = None,
        high: ArrayLike | None = None,
    ) -> None:
        """Points of one line, with standard errors or with the ends of their intervals."""
        xs = np.asarray(x, float)
        ys = np.asarray(y, float)
        half = _NORMAL * (np.full_like(ys, np.nan) if se is None else np.asarray(se, float))
        lows = ys - half if low is None else np.asarray(low, float)
        highs = ys + half if high is None else np.asarray(high, float)
        for at in range(len(xs)):
            self._points.append(
                {
                    "panel": panel,
                    "line": name,
                    "x": float(xs[at]),
                    "y": float(ys[at]),
                    "y_low": float(lows[at]),
                    "y_high": float(highs[at]),
                }
            )

    def quantity(self, name: str, value: float, low: float = math.nan, high: float = math.nan) -> Quantity:
        """A number that the verdict rests on."""
        self._quantities[name] = Quantity(float(value), float(low), float(high))
        return self._quantities[name]

    def mean(self, name: str, values: Sequence[float]) -> Quantity:
        """The mean of independent draws, with its t-interval; NaN of none, or if one is not finite."""
        array = np.asarray(values, float)
        if not len(array):
            return self.quantity(name, math.nan)
        middle = float(array.mean())
        half = math.nan
        if len(array) > 1:
            half = t_quantile(len(array) - 1) * float(array.std(ddof=1)) / math.sqrt(len(array))
        return self.quantity(name, middle, middle - half, middle + half)

    def law(self, name: str, x: ArrayLike, y: ArrayLike, se: ArrayLike | None = None) -> Quantity:
        """The exponent of y against x; NaN where fewer than two points are positive and finite.

        With standard errors, points below two of them are left out: a distance that is noise follows no power.
        """
        xs = np.asarray(x, float)
        ys = np.asarray(y, float)
        errors = None if se is None else np.asarray(se, float)
        usable = np.isfinite(ys) & (ys > 0) & np.isfinite(xs)
        if errors is not None:
            usable &= np.isfinite(errors) & (errors > 0) & (ys > 2 * errors)
        if len(np.unique(xs[usable])) < 2:
            return self.quantity(name, math.nan)
        found = stats.fit_power_law(xs[usable], ys[usable], None if errors is None else errors[usable])
        exponent = round(found.exponent, 12)
        return self.quantity(name, exponent, found.exponent_low, found.exponent_high)

    def add_runs(self, table: pd.DataFrame) -> None:
        """Trials behind the points, one row each."""
        self._runs.append(table)

    @property
    def runs(self) -> pd.DataFrame | None:
        """All trials; None where nothing was trained by a sweep."""
        import pandas as pd

        return pd.concat(self._runs, ignore_index=True) if self._runs else None

    def dataset(self) -> xr.Dataset:
        """panel, line, x, y, y_low, y_high(point) and value, low, high(quantity); attrs["panels"] is JSON."""
        import xarray as xr

        points: dict[str, Any] = {}
        for name in ("panel", "line", "x", "y", "y_low", "y_high"):
            points[name] = ("point", np.array([point[name] for point in self._points]))
        quantities: dict[str, Any] = {}
        for name in Quantity._fields:
            values = [getattr(quantity, name) for quantity in self._quantities.values()]
            quantities[name] = ("quantity", np.array(values, float))
        coords = {"quantity": list(self._quantities)}
        return xr.Dataset(points | quantities, coords, {"panels": json.dumps(self._panels)})
