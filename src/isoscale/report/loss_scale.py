"""The vertical axis of the loss panels: the range to show, and the strip above it for runs without a loss."""

from __future__ import annotations

import dataclasses
import math

import numpy as np
import xarray as xr
from matplotlib.ticker import MaxNLocator

from isoscale.report import formats

DONE, DIVERGED = 0, 1
ROW = 10.0  # points between the strip's rows of crosses
LOG_FROM = 8.0  # best and worst loss this many times apart want a logarithmic axis


@dataclasses.dataclass(frozen=True, kw_only=True)
class Scale:
    """A range of losses, linear or logarithmic, that every panel shares."""

    bottom: float
    top: float
    log: bool
    cut: bool

    @classmethod
    def of(cls, data: xr.Dataset) -> Scale:
        """Show every curve from the smallest learning rate to its valley; what rises higher beyond it is cut.

        Left of the valley a loss is at most that of an untrained network; right of it, on the way to
        divergence, it can be anything, and one huge value would press all the valleys flat.
        """
        curves = mean_loss(data).transpose(..., "lr").values.reshape(-1, data.sizes["lr"])
        curves = curves[np.isfinite(curves).any(axis=1)]
        if not len(curves):
            return cls(bottom=0.0, top=1.0, log=False, cut=False)
        valley = np.nanargmin(curves, axis=1)[:, None]
        arms = np.where(np.arange(curves.shape[1]) <= valley, curves, np.nan)
        bottom, top = float(np.nanmin(data.loss)), max(float(np.nanmax(arms)), float(np.nanmedian(curves)))
        log = bottom > 0 and top > LOG_FROM * bottom
        bottom, top = _padded(bottom, top, log=log)
        return cls(bottom=bottom, top=top, log=log, cut=bool((curves > top).any()))

    def fraction(self, loss: float) -> float:
        """Where a loss stands between the axis's ends, 0 to 1; losses beyond them stand at the ends."""
        ends = (self.bottom, min(max(loss, self.bottom), self.top), self.top)
        low, here, high = (math.log(end) if self.log else end for end in ends)
        return (here - low) / (high - low)

    def ticks(self) -> list[float]:
        """Round numbers for the axis, 3 to 8 of them where the range allows."""
        if not self.log:
            return [tick for tick in MaxNLocator(6).tick_values(self.bottom, self.top) if self._shows(tick)]
        decades = range(math.floor(math.log10(self.bottom)), math.ceil(math.log10(self.top)) + 1)
        for digits in ((1, 2, 5), (1, 3), (1,)):
            ticks = [digit * 10.0**decade for decade in decades for digit in digits]
            ticks = [tick for tick in ticks if self._shows(tick)]
            if len(ticks) <= 8:
                break
        return ticks

    def _shows(self, tick: float) -> bool:
        return self.bottom <= tick <= self.top

    def caption(self) -> str:
        """What the axis shows and what it leaves out."""
        notes = ["log scale"] if self.log else []
        notes += [f"cut at {formats.significant(self.top)}"] if self.cut else []
        return "final training loss" + (f"\n({', '.join(notes)})" if notes else "")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Strip:
    """Rows above a panel, one a size, for the crosses of diverged runs; in fractions of the panel."""

    bottom: float
    row: float
    rows: int

    @classmethod
    def of(cls, data: xr.Dataset, points: float) -> Strip:
        """The strip for panels so many points high: no rows where nothing diverged."""
        rows = data.sizes[formats.axis(data)] if bool((data.status == DIVERGED).any()) else 0
        return cls(bottom=1 + 6 / points, row=ROW / points, rows=rows)

    @property
    def height(self) -> float:
        return self.top - 1

    @property
    def top(self) -> float:
        return self.bottom + self.rows * self.row

    def centre(self, row: int) -> float:
        """The height of a row's crosses; the first row, the smallest size, is the lowest."""
        return self.bottom + (row + 0.5) * self.row


def _padded(bottom: float, top: float, *, log: bool) -> tuple[float, float]:
    """The range with a little room at both ends, and with some height even if it has none."""
    if log:
        room = (top / bottom) ** 0.06
        return bottom / room, top * room
    room = 0.06 * (top - bottom) or 0.1 * abs(top) or 0.1
    return bottom - room, top + room


def mean_loss(data: xr.Dataset) -> xr.DataArray:
    """The mean over the seeds that finished; NaN where none did."""
    return data.loss.mean("seed", skipna=True)


def diverged(data: xr.Dataset) -> tuple[xr.DataArray, xr.DataArray]:
    """Where no seed finished because runs diverged, and where only some diverged."""
    some, finished = (data.status == DIVERGED).any("seed"), (data.status == DONE).any("seed")
    return some & ~finished, some & finished
