"""The vertical axis of the loss panels: the range to show, and the strip above it for runs without a loss."""

from __future__ import annotations

import dataclasses
import math

import numpy as np
import xarray as xr

from isoscale.extras import needed
from isoscale.report import formats, numbers
from isoscale.report.formats import DIVERGED, DONE
from isoscale.report.ticks import round_numbers

with needed("report", by="a figure"):
    from matplotlib.ticker import MaxNLocator

ROW = 10.0  # points between the strip's rows of crosses
_JUDGED = 4.0  # times the rest of the range that a loss at the rate used may take
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
        curves = mean_loss(data).transpose(..., "lr").values
        curves = curves.reshape(-1, data.sizes["lr"])  # (curves, learning rates)
        curves = curves[np.isfinite(curves).any(axis=1)]
        if not len(curves):
            return cls(bottom=0.0, top=1.0, log=False, cut=False)
        valleys = np.nanargmin(curves, axis=1)[:, None]
        left_of_valley = np.arange(curves.shape[1]) <= valleys
        highest = float(np.nanmax(np.where(left_of_valley, curves, np.nan)))
        # Where every valley stands at the smallest learning rate, there is nothing on its left.
        usual = float(np.nanmedian(curves))
        bottom = float(np.nanmin(data.loss))
        top = max(highest, usual)
        # What is judged should be seen, unless it is on its way to divergence itself.
        transferred = data.loss_transferred.values
        transferred = transferred[np.isfinite(transferred)]
        if len(transferred):
            top = max(top, min(float(transferred.max()), _JUDGED * top))
        log = bottom > 0 and top > LOG_FROM * bottom
        bottom, top = _padded(bottom, top, log=log)
        return cls(bottom=bottom, top=top, log=log, cut=bool((curves > top).any()))

    def fraction(self, loss: float) -> float:
        """Where a loss stands between the axis's ends, 0 to 1; losses beyond them stand at the ends."""
        here = min(max(loss, self.bottom), self.top)
        low, high = self.bottom, self.top
        if self.log:
            low, here, high = math.log(low), math.log(here), math.log(high)
        return (here - low) / (high - low)

    def ticks(self) -> list[float]:
        """Round numbers for the axis, 3 to 8 of them where the range allows."""
        if not self.log:
            return [tick for tick in MaxNLocator(6).tick_values(self.bottom, self.top) if self._shows(tick)]
        first = math.floor(math.log10(self.bottom))
        last = math.ceil(math.log10(self.top))
        ticks: list[float] = []
        # As many digits of each decade as leave no more than eight ticks.
        for digits in ((1, 2, 5), (1, 3), (1,)):
            candidates = round_numbers(first, last, digits)
            ticks = [number for number in candidates if self._shows(number)]
            if len(ticks) <= 8:
                break
        return ticks

    def _shows(self, loss: float) -> bool:
        return self.bottom <= loss <= self.top

    def caption(self, data: xr.Dataset) -> str:
        """What the axis shows and what it leaves out."""
        name = formats.quantity(data)
        words = "final training loss" if name == "loss" else f"final {name}"
        notes = []
        if formats.sign(data) < 0:
            notes.append("best at the bottom")
        if self.log:
            notes.append("log scale")
        if self.cut:
            notes.append(f"cut at {numbers.significant(formats.sign(data) * self.top)}")
        if not notes:
            return words
        return f"{words}\n({', '.join(notes)})"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Strip:
    """Rows above a panel, one per size, for the crosses of diverged runs; in fractions of the panel."""

    bottom: float
    row: float
    rows: int

    @classmethod
    def of(cls, data: xr.Dataset, points: float) -> Strip:
        """The strip for panels so many points high: no rows where nothing diverged."""
        any_diverged = bool((data.status == DIVERGED).any())
        rows = data.sizes[formats.axis(data)] if any_diverged else 0
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
    some = (data.status == DIVERGED).any("seed")
    finished = (data.status == DONE).any("seed")
    return some & ~finished, some & finished
