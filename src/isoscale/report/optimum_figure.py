"""The best learning rate against size, one line per rule: a rule that transfers is flat."""

from __future__ import annotations

import dataclasses
import textwrap
from typing import TYPE_CHECKING

import numpy as np
import xarray as xr

from isoscale.report import drawing, formats, numbers, ticks
from isoscale.report.drawing import POINTS

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# Inches. The labels stand to the right of the axes.
LEFT, TOP, PLOT, BELOW = 0.72, 0.22, 3.1, 0.62
FOOT = 0.03  # of the axes' height: where crosses stand for sizes at which no run trained
DODGE = 6.0  # points between the rules' marks at one size, so that intervals do not cover each other


@dataclasses.dataclass(frozen=True, kw_only=True)
class _Look:
    """How one rule is drawn: its colour, its marker, and how many octaves its marks are shifted."""

    color: str
    marker: str
    dodge: float


def optimum(data: xr.Dataset, *, narrow: bool = False) -> Figure:
    """The best learning rate of every rule at every size with its interval, and the fitted laws.

    Args:
        data: The result, as `isoscale.report.formats` describes it.
        narrow: Half as wide, for a telephone.

    Returns:
        The figure; save it with its own `savefig`.
    """
    rules = formats.ordered(data)
    sizes = formats.sizes(data)
    width, labels, letters = (3.95, 1.75, 26) if narrow else (8.6, 2.3, 40)
    height = TOP + max(PLOT, 0.5 * len(rules)) + BELOW
    box = (LEFT / width, BELOW / height, 1 - (LEFT + labels) / width, 1 - (TOP + BELOW) / height)
    with drawing.style():
        figure = drawing.blank(width, height)
        axes = figure.add_axes(box)
        _frame(axes, data)
        looks = _looks(axes, data, len(rules), width - LEFT - labels)
        ends = []
        for rule, look in zip(rules, looks, strict=True):
            end = _law(axes, data, rule, look)
            for size, x in zip(sizes, formats.places(data) + look.dodge, strict=True):
                cell = formats.at(data, rule, size)
                _optimum(axes, cell, x, look)
            ends.append(end)
        _labels(axes, data, ends, looks, height - TOP - BELOW, letters)
    return figure


def _looks(axes: Axes, data: xr.Dataset, rules: int, inches: float) -> list[_Look]:
    """The look of each rule; shifted by a few points against the next, less where the sizes stand close."""
    low, high = axes.get_xlim()
    points_in_octaves = DODGE * (high - low) / (inches * POINTS)
    closest = min(np.diff(formats.places(data)), default=1.0)
    step = min(points_in_octaves, 0.6 * closest / rules)
    looks = []
    for index in range(rules):
        # The second round of colours begins with the second marker: the pair repeats only after 49 rules.
        round_ = index // len(drawing.RULES)
        look = _Look(
            color=drawing.RULES[index % len(drawing.RULES)],
            marker=drawing.MARKERS[(index + round_) % len(drawing.MARKERS)],
            dodge=step * (index - (rules - 1) / 2),
        )
        looks.append(look)
    return looks


def _frame(axes: Axes, data: xr.Dataset) -> None:
    """Both axes logarithmic, the vertical one as wide as the optima and their intervals need."""
    names = ("optimal_lr", "optimal_lr_low", "optimal_lr_high")
    heights = ticks.log2([data[name] for name in names])
    low, high = -1.0, 1.0
    if np.isfinite(heights).any():
        low, high = np.nanmin(heights), np.nanmax(heights)
    exponents = ticks.powers(low - 0.5, high + 0.7)
    axes.set_ylim(low - 1.1, high + 0.7)
    axes.set_yticks(exponents, ticks.as_powers(exponents))
    axes.set_ylabel(f"best {formats.what(data)}")

    sizes = formats.sizes(data)
    places = formats.places(data)
    room = (places[-1] - places[0]) / 10
    # Of a label of several sizes each stands on a line of its own.
    names = [str(size).replace(", ", ",\n") for size in sizes]
    labels = ticks.thinned(names, places, room)
    axes.set_xlim(places[0] - 0.45, places[-1] + 0.45)
    axes.set_xticks(places, labels)
    if not any(isinstance(size, str) for size in sizes):
        axes.set_xlabel(formats.axis(data))
    if bool((data.at_edge == "none").any()):
        drawing.write(
            axes,
            "none",
            at=(0, FOOT),
            shift=(-6, 0),
            ha="right",
            va="center",
            color=drawing.MUTED,
        )


def _law(axes: Axes, data: xr.Dataset, rule: str, look: _Look) -> tuple[float, float]:
    """A rule's law where it was fitted, or else a line through its optima; returns where that ends."""
    of = data.sel(rule=rule)
    log_size = formats.places(data)
    if formats.has_law(data, rule):
        # optimal_lr = coefficient * size^exponent
        law = ticks.log2(of.coefficient) + float(of.exponent) * log_size
        inside = of.at_edge == ""
        heights = np.where(inside, law, np.nan)
        width, dashes = 1.8, "-"
    else:
        heights = ticks.log2(of.optimal_lr)
        width, dashes = 1.0, (0, (1, 2))
    shown = np.flatnonzero(np.isfinite(heights))
    x = log_size + look.dodge
    axes.plot(
        x[shown],
        heights[shown],
        color=look.color,
        label=formats.called(rule),
        zorder=2,
        lw=width,
        ls=dashes,
    )
    if not len(shown):
        return float(x[-1]), axes.get_ylim()[0]
    last = shown[-1]
    return float(x[last]), float(heights[last])


def _optimum(axes: Axes, cell: xr.Dataset, x: float, look: _Look) -> None:
    """An optimum and its interval, a bound as a hollow mark with an arrow, a cross where nothing trained."""
    edge = formats.edge(cell)
    lrs = formats.interval(cell, "optimal_lr")
    best, low, high = ticks.log2(lrs)
    if edge == "none" or np.isnan(best):
        foot = axes.get_xaxis_transform()
        axes.plot(
            x,
            FOOT,
            "x",
            color=look.color,
            ms=6,
            mew=1.6,
            transform=foot,
        )
        return
    if np.isfinite(low + high):
        axes.plot(
            [x, x],
            [low, high],
            color=look.color,
            lw=1.5,
            marker="_",
            ms=5,
            mew=1.5,
            zorder=3,
        )
    if edge:
        length = 0.6 if edge == "high" else -0.6
        arrow = {"arrowstyle": "-|>", "color": look.color, "lw": 1.4, "shrinkA": 0, "shrinkB": 0}
        axes.annotate("", (x, best + length), (x, best), arrowprops=arrow)
    axes.plot(
        x,
        best,
        color=look.color,
        marker=look.marker,
        mfc=drawing.PAPER if edge else look.color,
        mec=look.color,
        ms=5.5,
        mew=1.4,
        zorder=4,
        ls="",
    )


def _labels(
    axes: Axes, data: xr.Dataset, ends: list[tuple[float, float]], looks: list[_Look], inches: float, letters: int
) -> None:
    """Every rule's sign, name and law at the end of its line."""
    rules = formats.ordered(data)
    laws = []
    for rule in rules:
        law = _exponent(data, rule)
        laws.append(textwrap.wrap(law, letters))
    fractions = [axes.transLimits.transform(end) for end in ends]
    # In points: a name with its leading takes 19, a line of the law 11. A label is anchored between the two, so that
    # the lowest needs room below for all but its name, which takes 13.
    points = inches * POINTS
    lines = max(len(law) for law in laws)
    gap = (19 + 11 * lines) / points
    wanted = [y for _, y in fractions]
    heights = drawing.spread(wanted, gap, low=gap - 13 / points, high=0.98)
    for index, rule in enumerate(rules):
        colour = looks[index].color
        x, y = fractions[index]
        height = heights[index]
        axes.plot(
            [x, 1.03],
            [y, height],
            transform=axes.transAxes,
            color=drawing.FAINT,
            lw=0.8,
            clip_on=False,
        )
        sign = formats.mark(data, rule)
        name = drawing.shortened(rule, letters - 3)
        law = "\n".join(laws[index])
        drawing.write(
            axes,
            f"{sign} {name}",
            at=(1.03, height),
            shift=(4, 0),
            va="bottom",
            weight="bold",
            color=colour,
        )
        drawing.write(
            axes,
            law,
            at=(1.03, height),
            shift=(4, -1),
            va="top",
            size=8.5,
            color=drawing.MUTED,
        )


def _exponent(data: xr.Dataset, rule: str) -> str:
    """The law in words: "exponent -0.48 ± 0.06", or why there is none."""
    exponent = numbers.typeset(formats.exponent_text(data, rule))
    if not exponent:
        return formats.no_law(data, rule)
    # The ends of an interval stay on one line.
    unbroken = exponent.replace(", ", ",\N{NO-BREAK SPACE}")
    return f"exponent {unbroken}"
