"""The best learning rate against size, one line a rule: a rule that transfers is flat."""

from __future__ import annotations

import math
import textwrap
from typing import Any

import numpy as np
import xarray as xr
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from isoscale.report import drawing, formats

# Inches. The labels stand to the right of the axes.
LEFT, TOP, PLOT, BELOW = 0.72, 0.22, 3.1, 0.62
POINTS = 72
FOOT = 0.03  # of the axes' height: where crosses stand for sizes at which no run trained
DODGE = 6.0  # points between the rules' marks at one size, so that intervals do not cover each other


def optimum(data: xr.Dataset, *, narrow: bool = False) -> Figure:
    """The best learning rate of every rule at every size with its interval, and the fitted laws.

    Args:
        data: The result, as `isoscale.report.formats` describes it.
        narrow: Half as wide, for a telephone.

    Returns:
        The figure; save it with its own `savefig`.
    """
    rules = formats.ordered(data)
    width, labels = (3.95, 1.75) if narrow else (8.6, 2.3)
    height = TOP + max(PLOT, 0.5 * len(rules)) + BELOW
    box = (LEFT / width, BELOW / height, 1 - (LEFT + labels) / width, 1 - (TOP + BELOW) / height)
    with drawing.style():
        figure = drawing.blank(width, height)
        axes = figure.add_axes(box)
        _frame(axes, data)
        dodges = _dodges(axes, formats.sizes(data), len(rules), width - LEFT - labels)
        ends = [_rule(axes, data, rule, _look(i), dodges[i]) for i, rule in enumerate(rules)]
        _labels(axes, data, ends, height - TOP - BELOW, letters=26 if narrow else 40)
    return figure


def _look(index: int) -> dict[str, Any]:
    """A rule's colour and marker; the pair repeats only after 49 rules."""
    colours, markers = drawing.RULES, drawing.MARKERS
    return {"color": colours[index % 7], "marker": markers[(index + index // 7) % 7]}


def _frame(axes: Axes, data: xr.Dataset) -> None:
    """Both axes logarithmic, the vertical one as wide as the optima and their intervals need."""
    ends = drawing.log2([data[name] for name in ("optimal_lr", "optimal_lr_low", "optimal_lr_high")])
    low, high = (np.nanmin(ends), np.nanmax(ends)) if np.isfinite(ends).any() else (-1.0, 1.0)
    axes.set_ylim(low - 1.1, high + 0.7)
    drawing.label_powers(axes, "y", drawing.power_ticks(low - 0.5, high + 0.7))
    sizes = formats.sizes(data)
    first, last = drawing.log2(sizes)[[0, -1]]
    axes.set_xlim(first - 0.45, last + 0.45)
    axes.set_xticks(*_size_ticks(sizes))
    axes.set_xlabel(formats.axis(data))
    axes.set_ylabel("best learning rate")
    if bool((data.at_edge == "none").any()):
        drawing.write(axes, "none", (0, FOOT), (-6, 0), ha="right", va="center", color=drawing.MUTED)


def _size_ticks(sizes: list[int]) -> tuple[list[float], list[str]]:
    """A tick a size, and a label wherever the one before leaves room."""
    places = [math.log2(size) for size in sizes]
    room = (places[-1] - places[0]) / 10
    labels, used = [], -math.inf
    for size, place in zip(sizes, places, strict=True):
        free = place - used >= room
        labels.append(str(size) if free else "")
        used = place if free else used
    return places, labels


def _dodges(axes: Axes, sizes: list[int], rules: int, inches: float) -> np.ndarray:
    """How far to shift each rule's marks, in octaves: a few points, less where the sizes stand close."""
    low, high = axes.get_xlim()
    closest = min(np.diff(drawing.log2(sizes)), default=1.0)
    step = min(DODGE * (high - low) / (inches * POINTS), 0.6 * closest / rules)
    return step * (np.arange(rules) - (rules - 1) / 2)


def _rule(axes: Axes, data: xr.Dataset, rule: str, look: dict[str, Any], dodge: float) -> tuple[float, float]:
    """One rule: its law where it was fitted, or else a line through its optima; returns where that ends."""
    cell, sizes = data.sel(rule=rule), formats.sizes(data)
    best, x = drawing.log2(cell.optimal_lr), drawing.log2(sizes)
    law = drawing.log2(cell.coefficient) + float(cell.exponent) * x
    fitted = bool(np.isfinite(law).all())
    heights = np.where(cell.at_edge == "", law, np.nan) if fitted else best
    shown = np.flatnonzero(np.isfinite(heights))
    line: dict[str, Any] = {"lw": 1.8} if fitted else {"lw": 1.0, "ls": (0, (1, 2))}
    axes.plot(x[shown] + dodge, heights[shown], color=look["color"], label=rule, zorder=2, **line)
    for place, size in zip(x + dodge, sizes, strict=True):
        _mark(axes, data, rule, size, place, look)
    foot = (x[-1] + dodge, axes.get_ylim()[0])
    return (float(x[shown[-1]] + dodge), float(heights[shown[-1]])) if len(shown) else foot


def _mark(axes: Axes, data: xr.Dataset, rule: str, size: int, x: float, look: dict[str, Any]) -> None:
    """An optimum and its interval, a bound as a hollow mark with an arrow, a cross where nothing trained."""
    where, colour = formats.edge(data, rule, size), look["color"]
    names = ("optimal_lr", "optimal_lr_low", "optimal_lr_high")
    best, low, high = drawing.log2([formats.value(data, name, rule, size) for name in names])
    if where == "none" or np.isnan(best):
        axes.plot(x, FOOT, "x", color=colour, ms=6, mew=1.6, transform=axes.get_xaxis_transform())
        return
    if np.isfinite(low + high):
        axes.plot([x, x], [low, high], color=colour, lw=1.5, marker="_", ms=5, mew=1.5, zorder=3)
    if where:
        arrow = {"arrowstyle": "-|>", "color": colour, "lw": 1.4, "shrinkA": 0, "shrinkB": 0}
        axes.annotate("", (x, best + (0.6 if where == "high" else -0.6)), (x, best), arrowprops=arrow)
    axes.plot(x, best, ms=5.5, mfc="white" if where else colour, mec=colour, mew=1.4, zorder=4, ls="", **look)


def _labels(axes: Axes, data: xr.Dataset, ends: list[tuple[float, float]], inches: float, *, letters: int) -> None:
    """Every rule's sign, name and law at the end of its line."""
    rules = formats.ordered(data)
    laws = [textwrap.wrap(_law(data, rule), letters) for rule in rules]
    fractions = [axes.transLimits.transform(end) for end in ends]
    gap = (19 + 11 * max(map(len, laws))) / (inches * POINTS)
    places = drawing.spread([y for _, y in fractions], gap, gap - 13 / (inches * POINTS), 0.98)
    for index, (rule, law, (x, y), place) in enumerate(zip(rules, laws, fractions, places, strict=True)):
        colour, (sign, _) = _look(index)["color"], drawing.sign(formats.is_good(data, rule))
        name = f"{sign} {drawing.shortened(rule, letters - 3)}"
        leader = {"color": drawing.FAINT, "lw": 0.8, "clip_on": False}
        axes.plot([x, 1.03], [y, place], transform=axes.transAxes, **leader)
        drawing.write(axes, name, (1.03, place), (4, 0), va="bottom", weight="bold", color=colour)
        drawing.write(axes, "\n".join(law), (1.03, place), (4, -1), va="top", size=8.5, color=drawing.MUTED)


def _law(data: xr.Dataset, rule: str) -> str:
    """The law in words: "exponent -0.48 ± 0.06", or why there is none."""
    exponent = formats.typeset(formats.exponent_text(data, rule)).replace(", ", ",\N{NO-BREAK SPACE}")
    return f"exponent {exponent}" if exponent else "too few optima for a law"
