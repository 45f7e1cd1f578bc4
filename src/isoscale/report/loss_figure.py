"""Loss against learning rate, one panel per rule, one curve per size: the figure that answers the question.

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

from isoscale.report import drawing, formats, numbers, ticks
from isoscale.report.drawing import POINTS
from isoscale.report.loss_scale import Scale, Strip, diverged, mean_loss

# Inches. The label margin stands to the right of every panel, the left margin to the left of the first.
LEFT, LABELS, TITLE, PLOT, BELOW = 0.78, 0.5, 0.82, 2.35, 0.74
BAR = 52  # points from the strip up to the bar over the title
LINE = 9.5  # points from one label of a curve to the next


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

    def panel(self, figure: Figure, index: int) -> Axes:
        """The axes of a panel, counted row by row from the top left."""
        row, column = divmod(index, self.columns)
        return drawing.panel(
            figure,
            left=LEFT + column * (self.panel_width + LABELS),
            bottom=(self.rows - row - 1) * self.row_height + BELOW,
            width=self.panel_width,
            height=PLOT,
        )


def loss_curves(data: xr.Dataset, *, narrow: bool = False) -> Figure:
    """Loss against learning rate, one panel per rule, the good ones first, all with the same axes.

    Args:
        data: The result, as `isoscale.report.formats` describes it.
        narrow: One column of panels, for a telephone.

    Returns:
        The figure; save it with its own `savefig`.
    """
    rules = formats.ordered(data)
    scale = Scale.of(data)
    strip = Strip.of(data, PLOT * POINTS)
    grid = _Grid(panels=len(rules), strip=strip.height * PLOT, narrow=narrow)
    with drawing.style():
        figure = drawing.blank(grid.width, grid.height)
        for index, rule in enumerate(rules):
            axes = grid.panel(figure, index)
            first = index % grid.columns == 0
            _frame(axes, data, scale, first=first)
            _strip(axes, strip, first=first)
            _title(axes, data, rule, strip, grid.panel_width)
            _base_line(axes, data, rule)
            _curves(axes, data, rule, scale, strip)
    return figure


# --- around the curves ---
def _frame(axes: Axes, data: xr.Dataset, scale: Scale, *, first: bool) -> None:
    """Axes and ticks; the first panel of a row carries the words."""
    losses = scale.ticks()
    labels = [f"{loss:g}" if first else "" for loss in losses]
    caption = scale.caption() if first else ""
    axes.set_yscale("log" if scale.log else "linear")
    axes.set_ylim(scale.bottom, scale.top)
    axes.set_yticks(losses, labels)
    axes.set_ylabel(caption)
    axes.minorticks_off()
    low, high = ticks.log2(data.lr.values)[[0, -1]]
    exponents = ticks.powers(low, high)
    axes.set_xlim(low - 0.4, high + 0.4)
    axes.set_xticks(exponents, ticks.as_powers(exponents))
    axes.set_xlabel("learning rate", labelpad=14)


def _strip(axes: Axes, strip: Strip, *, first: bool) -> None:
    """The grey band where crosses stand for runs without a loss."""
    if not strip.rows:
        return
    band = Rectangle(
        (0, strip.bottom),
        1,
        strip.top - strip.bottom,
        transform=axes.transAxes,
        clip_on=False,
    )
    band.set(facecolor=drawing.STRIP, edgecolor="none", zorder=0)
    axes.add_patch(band)
    if first:
        middle = (strip.bottom + strip.top) / 2
        drawing.write(
            axes,
            "diverged",
            at=(0, middle),
            shift=(-6, 0),
            ha="right",
            va="center",
            color=drawing.MUTED,
        )


def _title(axes: Axes, data: xr.Dataset, rule: str, strip: Strip, inches: float) -> None:
    """The rule's name behind its sign, and the verdict in words, under a bar in the sign's colour."""
    sign, colour = drawing.sign(formats.is_good(data, rule))
    bar = strip.top + BAR / (PLOT * POINTS)
    axes.plot(
        [0, 1],
        [bar, bar],
        transform=axes.transAxes,
        color=colour,
        lw=2.5,
        clip_on=False,
    )
    drawing.write(
        axes,
        sign,
        at=(0, bar),
        shift=(0, -6),
        va="top",
        size=12,
        weight="bold",
        color=colour,
    )
    # Letters to the inch, as the panel's width allows: a name that does not fit is set smaller, then shortened.
    large, small = inches * 8.5, inches * 10.5
    if len(rule) <= large:
        letters, size, drop = large, 12, -6
    else:
        letters, size, drop = small, 9.5, -8
    name = drawing.shortened(rule, round(letters))
    drawing.write(
        axes,
        name,
        at=(0, bar),
        shift=(15, drop),
        va="top",
        size=size,
        weight="bold",
    )
    verdict = numbers.typeset(formats.verdict(data, rule))
    lines = textwrap.wrap(verdict, round(inches * 14), max_lines=2, placeholder=" …")
    drawing.write(
        axes,
        "\n".join(lines),
        at=(0, bar),
        shift=(0, -23),
        va="top",
        color=colour,
    )


def _base_line(axes: Axes, data: xr.Dataset, rule: str) -> None:
    """A line down the panel at the base's optimum: the other valleys' distance from it is the drift."""
    base = formats.base(data)
    at_base = formats.at(data, rule, base)
    best = math.log2(float(at_base.optimal_lr))
    if math.isnan(best):
        return
    axes.axvline(
        best,
        color=drawing.INK,
        lw=0.9,
        ls=(0, (4, 3)),
        zorder=1.5,
    )
    low, high = axes.get_xlim()
    place = (best - low) / (high - low)
    # Near an edge of the panel the words stand on the line's inner side.
    if place < 0.25:
        side, shift = "left", -4
    elif place > 0.75:
        side, shift = "right", 4
    else:
        side, shift = "center", 0
    text = f"best at {formats.axis(data)} {base}"
    drawing.write(
        axes,
        text,
        at=(place, 0),
        shift=(shift, -17),
        ha=side,
        va="top",
        size=8,
        color=drawing.INK,
    )


# --- the curves ---
def _curves(axes: Axes, data: xr.Dataset, rule: str, scale: Scale, strip: Strip) -> None:
    """Every size's curve, crosses, optimum and, where the curve ends, its label."""
    sizes = formats.sizes(data)
    colours = drawing.sequence(len(sizes))
    ends = []
    for row, size in enumerate(sizes):
        cell = formats.at(data, rule, size)
        end = _curve(axes, cell, scale, strip, row, colours[row])
        ends.append(end)
    # After all curves, so that none runs over an optimum.
    for size, colour in zip(sizes, colours, strict=True):
        cell = formats.at(data, rule, size)
        _optimum(axes, cell, colour)
    heights = drawing.spread(ends, LINE / (PLOT * POINTS), 0.0, strip.top)
    for size, colour, height in zip(sizes, colours, heights, strict=True):
        drawing.write(
            axes,
            str(size),
            at=(1, height),
            shift=(5, 0),
            va="center",
            weight="bold",
            color=colour,
        )
    highest = max(heights)
    drawing.write(
        axes,
        formats.axis(data),
        at=(1, highest),
        shift=(5, 10),
        va="center",
        size=8,
        color=drawing.MUTED,
    )


def _curve(axes: Axes, cell: xr.Dataset, scale: Scale, strip: Strip, row: int, colour: str) -> float:
    """One size's mean loss, the range of its seeds and its crosses; returns the height at which it ends."""
    x = ticks.log2(cell.lr.values)
    mean = mean_loss(cell).values
    axis = formats.axis(cell)
    size = int(cell[axis])
    axes.plot(
        x,
        mean,
        color=colour,
        lw=1.7,
        marker="o",
        ms=2.6,
        label=f"{axis} {size}",
        zorder=3,
    )
    low = cell.loss.min("seed")
    high = cell.loss.max("seed")
    axes.fill_between(
        x,
        low,
        high,
        color=colour,
        alpha=0.16,
        lw=0,
        zorder=2,
    )
    height = strip.centre(row)
    all_diverged, some_diverged = diverged(cell)
    _crosses(axes, x[all_diverged.values], height, color=colour)
    _crosses(axes, x[some_diverged.values], height, color=colour, alpha=0.4)
    trained = np.flatnonzero(np.isfinite(mean))
    if bool(all_diverged[-1]) or not len(trained):
        return height if strip.rows else 0.0
    last = float(mean[trained[-1]])
    return scale.fraction(last)


def _crosses(axes: Axes, x: np.ndarray, height: float, **look: Any) -> None:
    """Crosses in the strip, one per learning rate."""
    axes.scatter(
        x,
        np.full(len(x), height),
        s=14,
        marker="x",
        lw=1.2,
        transform=axes.get_xaxis_transform(),
        clip_on=False,
        **look,
    )


def _optimum(axes: Axes, cell: xr.Dataset, colour: str) -> None:
    """The optimum with its interval; on the grid's edge an arrowhead that points where the optimum went."""
    loss = float(cell.best_loss)
    best, low, high = formats.interval(cell, "optimal_lr")
    edge = formats.edge(cell)
    if edge == "none" or math.isnan(best):
        return
    if math.isfinite(low + high):
        ends = ticks.log2([low, high])
        axes.plot(
            ends,
            [loss, loss],
            color=colour,
            lw=1.8,
            marker="|",
            ms=8,
            mew=1.6,
            zorder=5,
        )
    marker = {"low": "<", "high": ">"}.get(edge, "o")
    # A bound is hollow, a value filled.
    fill, rim, size = ("white", colour, 7) if edge else (colour, "white", 5.5)
    axes.plot(
        math.log2(best),
        loss,
        marker=marker,
        mfc=fill,
        mec=rim,
        ms=size,
        mew=0.8,
        zorder=6,
        clip_on=False,
    )
