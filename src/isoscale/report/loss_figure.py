"""Loss against learning rate, one panel a rule, one curve a size: the figure that answers the question.

A rule transfers when its curves have their valleys above one another. Each curve ends at its panel's right
edge, as a line if it trained, as crosses in the strip above if it diverged, and there it carries its size.
"""

from __future__ import annotations

import dataclasses
import math
import textwrap
from typing import Any

import numpy as np
import xarray as xr
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from isoscale.report import drawing, formats
from isoscale.report.loss_scale import Scale, Strip, diverged, mean_loss

# Inches. The label margin stands to the right of every panel, the left margin to the left of the first.
LEFT, LABELS, TITLE, PLOT, BELOW = 0.78, 0.5, 0.82, 2.35, 0.74
POINTS = 72
BAR = 52  # points from the strip up to the bar over the title


@dataclasses.dataclass(frozen=True, kw_only=True)
class _Grid:
    """Where the panels stand, in inches."""

    panels: int
    strip: float
    narrow: bool

    @property
    def rows(self) -> int:
        return self.panels if self.narrow else math.ceil(self.panels / 4)

    @property
    def columns(self) -> int:
        return math.ceil(self.panels / self.rows)

    @property
    def width(self) -> float:
        return 3.9 if self.narrow else min(12.4, LEFT + self.columns * 4.6)

    @property
    def row_height(self) -> float:
        return TITLE + self.strip + PLOT + BELOW

    @property
    def height(self) -> float:
        return self.rows * self.row_height

    @property
    def panel_width(self) -> float:
        return (self.width - LEFT) / self.columns - LABELS

    def place(self, index: int) -> tuple[float, float, float, float]:
        """Left, bottom, width and height of a panel's axes as fractions of the figure."""
        row, column = divmod(index, self.columns)
        x = LEFT + column * (self.panel_width + LABELS)
        y = (self.rows - row - 1) * self.row_height + BELOW
        return x / self.width, y / self.height, self.panel_width / self.width, PLOT / self.height


def loss_curves(data: xr.Dataset, *, narrow: bool = False) -> Figure:
    """Loss against learning rate, one panel a rule, the good ones first, all with the same axes.

    Args:
        data: The result, as `isoscale.report.formats` describes it.
        narrow: One column of panels, for a telephone.

    Returns:
        The figure; save it with its own `savefig`.
    """
    rules = formats.ordered(data)
    strip, scale = Strip.of(data, PLOT * POINTS), Scale.of(data)
    grid = _Grid(panels=len(rules), strip=strip.height * PLOT, narrow=narrow)
    with drawing.style():
        figure = drawing.blank(grid.width, grid.height)
        for index, rule in enumerate(rules):
            axes = figure.add_axes(grid.place(index))
            first = index % grid.columns == 0
            _frame(axes, data, scale, strip, first=first)
            _title(axes, data, rule, strip, grid.panel_width)
            _base_line(axes, data, rule)
            _curves(axes, data, rule, scale, strip)
    return figure


def _frame(axes: Axes, data: xr.Dataset, scale: Scale, strip: Strip, *, first: bool) -> None:
    """Axes, ticks and the strip; the first panel of a row carries the words."""
    axes.set_yscale("log" if scale.log else "linear")
    axes.set_ylim(scale.bottom, scale.top)
    ticks = scale.ticks()
    axes.set_yticks(ticks, [f"{tick:g}" if first else "" for tick in ticks])
    axes.minorticks_off()
    low, high = drawing.log2(data.lr.values)[[0, -1]]
    axes.set_xlim(low - 0.4, high + 0.4)
    drawing.label_powers(axes, "x", drawing.power_ticks(low, high))
    axes.set_xlabel("learning rate", labelpad=14)
    axes.set_ylabel(scale.caption() if first else "")
    _strip(axes, strip, first=first)


def _strip(axes: Axes, strip: Strip, *, first: bool) -> None:
    """The grey band where crosses stand for runs without a loss."""
    if not strip.rows:
        return
    area = Rectangle((0, strip.bottom), 1, strip.top - strip.bottom, transform=axes.transAxes, clip_on=False)
    area.set(facecolor=drawing.STRIP, edgecolor="none", zorder=0)
    axes.add_patch(area)
    if first:
        middle = (strip.bottom + strip.top) / 2
        drawing.write(axes, "diverged", (0, middle), (-6, 0), ha="right", va="center", color=drawing.MUTED)


def _title(axes: Axes, data: xr.Dataset, rule: str, strip: Strip, inches: float) -> None:
    """The rule's name behind its sign, and the verdict in words, under a bar in the sign's colour."""
    sign, colour = drawing.sign(formats.is_good(data, rule))
    bar = strip.top + BAR / (PLOT * POINTS)
    axes.plot([0, 1], [bar, bar], transform=axes.transAxes, color=colour, lw=2.5, clip_on=False)
    verdict = formats.typeset(str(data.verdict.sel(rule=rule).item()))
    lines = textwrap.wrap(verdict, round(inches * 14), max_lines=2, placeholder=" …")
    large = len(rule) <= inches * 8.5
    name, size = drawing.shortened(rule, round(inches * (8.5 if large else 10.5))), 12 if large else 9.5
    drawing.write(axes, sign, (0, bar), (0, -6), va="top", size=12, weight="bold", color=colour)
    drawing.write(axes, name, (0, bar), (15, -6 if large else -8), va="top", size=size, weight="bold")
    drawing.write(axes, "\n".join(lines), (0, bar), (0, -23), va="top", color=colour)


def _base_line(axes: Axes, data: xr.Dataset, rule: str) -> None:
    """A line down the panel at the base's optimum: the other valleys' distance from it is the drift."""
    base = int(data.attrs["base"])
    best = math.log2(formats.value(data, "optimal_lr", rule, base))
    if math.isnan(best):
        return
    axes.axvline(best, color=drawing.INK, lw=0.9, ls=(0, (4, 3)), zorder=1.5)
    low, high = axes.get_xlim()
    place = (best - low) / (high - low)
    side = "left" if place < 0.25 else "right" if place > 0.75 else "center"
    shift = {"left": -4, "right": 4}.get(side, 0)
    text = f"best at {formats.axis(data)} {base}"
    drawing.write(axes, text, (place, 0), (shift, -17), ha=side, va="top", size=8, color=drawing.INK)


def _curves(axes: Axes, data: xr.Dataset, rule: str, scale: Scale, strip: Strip) -> None:
    """Every size's curve, crosses, optimum and, where the curve ends, its label."""
    sizes = formats.sizes(data)
    colours = drawing.sequence(len(sizes))
    ends = [
        _curve(axes, data.sel({"rule": rule, formats.axis(data): size}), scale, strip, row, colour)
        for row, (size, colour) in enumerate(zip(sizes, colours, strict=True))
    ]
    for size, colour in zip(sizes, colours, strict=True):
        _optimum(axes, data, rule, size, colour)
    labels = drawing.spread(ends, 9.5 / (PLOT * POINTS), 0.0, strip.top)
    for size, colour, height in zip(sizes, colours, labels, strict=True):
        drawing.write(axes, str(size), (1, height), (5, 0), va="center", weight="bold", color=colour)
    top = (1, max(labels))
    drawing.write(axes, formats.axis(data), top, (5, 10), va="center", size=8, color=drawing.MUTED)


def _curve(axes: Axes, cell: xr.Dataset, scale: Scale, strip: Strip, row: int, colour: str) -> float:
    """One size's mean loss, the range of its seeds and its crosses; returns the height at which it ends."""
    x, mean = drawing.log2(cell.lr.values), mean_loss(cell).values
    dead, partly = (mask.values for mask in diverged(cell))
    axes.plot(x, mean, color=colour, lw=1.7, marker="o", ms=2.6, label=_name(cell), zorder=3)
    low, high = cell.loss.min("seed"), cell.loss.max("seed")
    axes.fill_between(x, low, high, color=colour, alpha=0.16, lw=0, zorder=2)
    _crosses(axes, x[dead], strip.centre(row), color=colour)
    _crosses(axes, x[partly], strip.centre(row), color=colour, alpha=0.4)
    finite = np.flatnonzero(np.isfinite(mean))
    if dead[-1] or not len(finite):
        return strip.centre(row) if strip.rows else 0.0
    return scale.fraction(float(mean[finite[-1]]))


def _name(cell: xr.Dataset) -> str:
    """What a curve is called: "depth 8"."""
    return f"{formats.axis(cell)} {int(cell[formats.axis(cell)])}"


def _crosses(axes: Axes, x: np.ndarray, height: float, **look: Any) -> None:
    """Crosses in the strip, one a learning rate."""
    place = axes.get_xaxis_transform()
    axes.scatter(x, np.full(len(x), height), s=14, marker="x", lw=1.2, transform=place, clip_on=False, **look)


def _optimum(axes: Axes, data: xr.Dataset, rule: str, size: int, colour: str) -> None:
    """The optimum with its interval; on the grid's edge an arrowhead that points where the optimum went."""
    names = ("best_loss", "optimal_lr", "optimal_lr_low", "optimal_lr_high")
    loss, best, low, high = (formats.value(data, name, rule, size) for name in names)
    where = formats.edge(data, rule, size)
    if where == "none" or math.isnan(best):
        return
    if math.isfinite(low + high):
        ends = drawing.log2([low, high])
        axes.plot(ends, [loss, loss], color=colour, lw=1.8, marker="|", ms=8, mew=1.6, zorder=5)
    marker = {"low": "<", "high": ">"}.get(where, "o")
    look: dict[str, Any] = (
        {"mfc": "white", "mec": colour, "ms": 7} if where else {"mfc": colour, "mec": "white", "ms": 5.5}
    )
    axes.plot(math.log2(best), loss, marker=marker, mew=0.8, zorder=6, clip_on=False, **look)
