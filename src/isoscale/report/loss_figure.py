"""Loss against learning rate, one panel per rule, one curve per size: the figure that answers the question.

A rule transfers when the largest size, at the rate that the base hands on, is about as good as at its own best rate.
A curve is drawn where it was trained, crosses stand in the strip above where it diverged, and nothing stands where a
search did not look. Its size stands at the panel's right edge, at the height where it ends.
"""

from __future__ import annotations

import dataclasses
import math
import textwrap
from typing import TYPE_CHECKING, Any

import numpy as np
import xarray as xr

from isoscale.extras import needed
from isoscale.report import drawing, formats, numbers, ticks
from isoscale.report.drawing import POINTS
from isoscale.report.loss_scale import Scale, Strip, diverged, mean_loss

with needed("report", by="a figure"):
    from matplotlib.patches import Rectangle

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# Inches. The label margin stands to the right of every panel, the left margin to the left of the first.
LEFT, LABELS, TITLE, PLOT, BELOW = 0.78, 0.5, 1.0, 2.35, 0.74
BAR = 64  # points from the strip up to the bar over the title
LINE = 9.5  # points from one label of a curve to the next


@dataclasses.dataclass(frozen=True, kw_only=True)
class Grid:
    """Where the panels stand, one a rule, in inches.

    Attributes:
        panels: How many.
        strip: Height of what stands above a panel.
        narrow: Whether they stand in one column.
        title, plot: Height of a panel's title and of its axes.
        labels: The margin to the right of every panel.
    """

    panels: int
    strip: float
    narrow: bool
    title: float = TITLE
    plot: float = PLOT
    labels: float = LABELS

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
        return self.title + self.strip + self.plot + BELOW

    @property
    def height(self) -> float:
        return self.rows * self.row_height

    @property
    def panel_width(self) -> float:
        return (self.width - LEFT) / self.columns - self.labels

    def panel(self, figure: Figure, index: int) -> Axes:
        """The axes of a panel, counted row by row from the top left."""
        row, column = divmod(index, self.columns)
        return drawing.panel(
            figure,
            left=LEFT + column * (self.panel_width + self.labels),
            bottom=(self.rows - row - 1) * self.row_height + BELOW,
            width=self.panel_width,
            height=self.plot,
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
    grid = Grid(panels=len(rules), strip=strip.height * PLOT, narrow=narrow)
    with drawing.style():
        figure = drawing.blank(grid.width, grid.height)
        for index, rule in enumerate(rules):
            axes = grid.panel(figure, index)
            first = index % grid.columns == 0
            _frame(axes, data, scale, first=first)
            _strip(axes, strip, first=first)
            _title(axes, data, rule, strip, grid.panel_width)
            _rate_used(axes, data, rule)
            _base_loss(axes, data, rule, scale)
            _curves(axes, data, rule, scale, strip)
            _transferred(axes, data, rule, scale, strip)
    return figure


# --- around the curves ---
def _frame(axes: Axes, data: xr.Dataset, scale: Scale, *, first: bool) -> None:
    """Axes and ticks; the first panel of a row carries the words."""
    losses = scale.ticks()
    # Where higher is better, minus it is drawn, so that valleys are valleys; the axis says what it is.
    labels = [f"{formats.sign(data) * loss:g}" if first else "" for loss in losses]
    caption = scale.caption(data) if first else ""
    axes.set_yscale("log" if scale.log else "linear")
    axes.set_ylim(scale.bottom, scale.top)
    axes.set_yticks(losses, labels)
    axes.set_ylabel(caption)
    axes.minorticks_off()
    low, high = ticks.log2(data.lr.values)[[0, -1]]
    exponents = ticks.powers(low, high)
    axes.set_xlim(low - 0.4, high + 0.4)
    axes.set_xticks(exponents, ticks.as_powers(exponents))
    axes.set_xlabel(formats.what(data), labelpad=14)


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
    sign, colour = formats.mark(data, rule), drawing.VERDICTS[formats.standing(data, rule)]
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
    called = formats.called(rule)
    if len(called) <= large:
        letters, size, drop = large, 12, -6
    else:
        letters, size, drop = small, 9.5, -8
    name = drawing.shortened(called, round(letters))
    drawing.write(
        axes,
        name,
        at=(0, bar),
        shift=(15, drop),
        va="top",
        size=size,
        weight="bold",
    )
    verdict = numbers.typeset(f"{formats.verdict(data, rule)}: {formats.reason(data, rule)}")
    lines = textwrap.wrap(verdict, round(inches * 16), max_lines=3, placeholder=" …")
    drawing.write(
        axes,
        "\n".join(lines),
        at=(0, bar),
        shift=(0, -23),
        va="top",
        color=colour,
        size=8.5,
    )


def _rate_used(axes: Axes, data: xr.Dataset, rule: str) -> None:
    """A line down the panel at the rate that the base hands on."""
    used = ticks.log2(data.rate_used.sel(rule=rule)).item()
    if not math.isfinite(used):
        return
    axes.axvline(
        used,
        color=drawing.INK,
        lw=0.9,
        ls=(0, (4, 3)),
        zorder=1.5,
    )
    low, high = axes.get_xlim()
    place = (used - low) / (high - low)
    # Near an edge of the panel the words stand on the line's inner side.
    if place < 0.25:
        side, shift = "left", -4
    elif place > 0.75:
        side, shift = "right", 4
    else:
        side, shift = "center", 0
    drawing.write(
        axes,
        f"rate used, from {formats.words(data, formats.base(data))}",
        at=(place, 0),
        shift=(shift, -17),
        ha=side,
        va="top",
        size=8,
        color=drawing.INK,
    )


def _base_loss(axes: Axes, data: xr.Dataset, rule: str, scale: Scale) -> None:
    """A line across the panel at the base's own loss: what the target should not end above."""
    loss = float(formats.at(data, rule, formats.base(data)).loss_transferred)
    if not math.isfinite(loss):
        return
    axes.axhline(
        loss,
        color=drawing.MUTED,
        lw=0.9,
        ls=(0, (1, 2)),
        zorder=1.5,
    )
    drawing.write(
        axes,
        f"{formats.quantity(data)} of {formats.words(data, formats.base(data))}",
        at=(1, scale.fraction(loss)),
        shift=(-2, -2),
        ha="right",
        va="top",
        size=7.5,
        color=drawing.MUTED,
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
    heights = drawing.spread([height for _, height in ends], LINE / (PLOT * POINTS), 0.0, strip.top)
    low, high = axes.get_xlim()
    for size, colour, end, height in zip(sizes, colours, ends, heights, strict=True):
        # A search ends each curve elsewhere: a thin line leads from there to its name.
        axes.plot(
            [(end[0] - low) / (high - low), 1.015],
            [end[1], height],
            transform=axes.transAxes,
            color=colour,
            lw=0.6,
            alpha=0.5,
            clip_on=False,
            zorder=1.6,
        )
        drawing.write(
            axes,
            _tag(data, size),
            at=(1, height),
            shift=(5, 0),
            va="center",
            weight="bold",
            color=colour,
        )
    if all(isinstance(size, str) for size in sizes):
        return
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


def _tag(data: xr.Dataset, size: formats.Size) -> str:
    """A size in the narrow margin of a panel: its number; of a path, the numbers of its label."""
    if not isinstance(size, str):
        return str(size)
    return ", ".join(word for word in size.replace(",", "").split() if word.isdigit())


def _curve(axes: Axes, cell: xr.Dataset, scale: Scale, strip: Strip, row: int, colour: str) -> tuple[float, float]:
    """One size's mean loss, the range of its seeds and its crosses; returns where it ends: log2(lr), and the height."""
    x = ticks.log2(cell.lr.values)
    losses = cell.loss.transpose("lr", "seed").values
    mean = mean_loss(cell).values
    is_shared = formats.shared_rates(cell)
    axes.plot(
        x[is_shared],
        mean[is_shared],
        color=colour,
        lw=1.7,
        marker="o",
        ms=2.6,
        label=formats.words(cell, cell[formats.axis(cell)].item()),
        zorder=3,
    )
    axes.fill_between(
        x[is_shared],
        cell.loss.min("seed").values[is_shared],
        cell.loss.max("seed").values[is_shared],
        color=colour,
        alpha=0.16,
        lw=0,
        zorder=2,
    )
    # Single runs next to a cliff.
    single = losses[~is_shared]
    axes.plot(
        x[~is_shared],
        single,
        color=colour,
        lw=0,
        marker=".",
        ms=2.5,
        alpha=0.6,
        zorder=2,
    )
    height = strip.centre(row)
    all_diverged, some_diverged = diverged(cell)
    _crosses(axes, x[all_diverged.values], height, color=colour)
    _crosses(axes, x[some_diverged.values], height, color=colour, alpha=0.4)
    shown = np.flatnonzero(is_shared)
    trained = shown[np.isfinite(mean[shown])]
    if not len(shown):
        return float(x[-1]), 0.0
    if not len(trained) or bool(all_diverged[shown[-1]]):
        return float(x[shown[-1]]), height if strip.rows else 0.0
    return float(x[trained[-1]]), scale.fraction(float(mean[trained[-1]]))


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
    fill, rim, size = (drawing.PAPER, colour, 7) if edge else (colour, drawing.PAPER, 5.5)
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


def _transferred(axes: Axes, data: xr.Dataset, rule: str, scale: Scale, strip: Strip) -> None:
    """A diamond at the rate used in the target's curve; in the strip if the target diverges there."""
    cell = formats.at(data, rule, formats.target(data))
    used = ticks.log2(data.rate_used.sel(rule=rule)).item()
    loss = float(cell.loss_transferred)
    if not math.isfinite(used) or math.isnan(loss):
        return
    is_lost = math.isinf(loss)
    if is_lost and not strip.rows:
        return
    row = len(formats.sizes(data)) - 1
    axes.plot(
        used,
        strip.centre(row) if is_lost else scale.fraction(loss),
        transform=axes.get_xaxis_transform(),
        marker="D",
        mfc="none" if is_lost else drawing.PAPER,
        mec=drawing.INK,
        ms=6.5,
        mew=1.5,
        zorder=7,
        clip_on=False,
    )
