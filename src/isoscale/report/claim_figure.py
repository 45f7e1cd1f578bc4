"""The figure of a claim: small panels of points with their intervals against size, lines labelled beside each panel."""

from __future__ import annotations

import json
import math
import textwrap
from typing import Any

import numpy as np
import xarray as xr
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator

from isoscale.errors import InvalidValueError, unknown
from isoscale.report import drawing

# Inches of a panel's axes and of what stands around them: labels of lines are to the right.
_LEFT, _RIGHT, _ABOVE, _BELOW = 0.78, 1.75, 0.42, 0.5
_WIDTH, _HEIGHT = 2.35, 1.95
# "column": one column of a two-column paper.
_STYLES = {"page": 3, "column": 1}
_COLUMN = {"left": 0.72, "right": 1.08, "width": 1.55, "height": 1.75}

# Letters to a line of a label, which may take two; a title has twice as many on one.
_LONGEST = {"page": 25, "column": 13}


def claim(data: xr.Dataset, style: str = "page") -> Figure:
    """Every panel of a claim's measurement.

    Args:
        data: `isoscale.reproduce.Reproduced.measured`.
        style: "page": up to three panels side by side. "column": 3.35 inches wide, panels below one another.

    Raises:
        InvalidValueError: No such style, or no point to draw.
    """
    if style not in _STYLES:
        raise unknown("style", style, _STYLES)
    panels: dict[str, dict[str, Any]] = json.loads(data.attrs["panels"])
    drawn = [name for name in panels if bool((data["panel"] == name).any())]
    if not drawn:
        raise InvalidValueError("there is nothing to draw: no point was measured")
    columns = min(_STYLES[style], len(drawn))
    rows = math.ceil(len(drawn) / columns)
    narrow = style == "column"
    left = _COLUMN["left"] if narrow else _LEFT
    right = _COLUMN["right"] if narrow else _RIGHT
    width = _COLUMN["width"] if narrow else _WIDTH
    height = _COLUMN["height"] if narrow else _HEIGHT
    wide = left + width + right
    high = _ABOVE + height + _BELOW
    with drawing.style():
        figure = drawing.blank(wide * columns, high * rows)
        for index, name in enumerate(drawn):
            row, column = divmod(index, columns)
            axes = drawing.panel(
                figure,
                left=left + wide * column,
                bottom=high * (rows - 1 - row) + _BELOW,
                width=width,
                height=height,
            )
            of = data.isel(point=np.flatnonzero(data["panel"].values == name))
            _panel(axes, of, name, panels[name], _LONGEST[style])
    return figure


def _panel(axes: Axes, of: xr.Dataset, name: str, labels: dict[str, Any], longest: int) -> None:
    """One panel: the frame, then every line, then their names."""
    places = _places(axes, of["x"].values)
    axes.set_title(drawing.shortened(name, 2 * longest), fontsize=8.5, loc="left")
    axes.set_xlabel(labels["x"])
    axes.set_ylabel(labels["y"], fontsize=8)
    heights = of["y"].values
    seen = heights[np.isfinite(heights)]
    is_log = labels["log"] and len(seen) > 0 and bool((seen > 0).all())
    if is_log:
        axes.set_yscale("log")
    elif len(seen) and seen.min() < 0 < seen.max():
        axes.axhline(0, color=drawing.MUTED, lw=0.8)
    lines = list(dict.fromkeys(of["line"].values.tolist()))
    ends = []
    for index, line in enumerate(lines):
        chosen = np.flatnonzero(of["line"].values == line)
        colour = drawing.colours(len(lines))[index]
        marker = drawing.MARKERS[index % len(drawing.MARKERS)]
        end = _line(axes, of.isel(point=chosen), places[chosen], colour, marker)
        label = textwrap.fill(drawing.shortened(line, 2 * longest - 2), longest)
        ends.append((label, colour, end))
    if is_log:
        _log_limits(axes, seen)
    drawing.label_ends(axes, ends)


def _line(axes: Axes, of: xr.Dataset, x: np.ndarray, colour: str, marker: str) -> float:
    """Points joined in order of size, with the band of their intervals; the height of the last one that is a number."""
    order = np.argsort(x, kind="stable")
    x = x[order]
    y, low, high = (of[name].values[order] for name in ("y", "y_low", "y_high"))
    axes.plot(x, y, color=colour, marker=marker, ms=4, lw=1.4)
    axes.fill_between(x, low, high, color=colour, alpha=0.18, lw=0)
    finite = y[np.isfinite(y)]
    return float(finite[-1]) if len(finite) else math.nan


def _places(axes: Axes, sizes: np.ndarray) -> np.ndarray:
    """Sizes on an axis of powers of two, infinity one octave to the right of the others; where each stands."""
    infinite = np.isinf(sizes)
    if (sizes <= 0).any():
        return sizes
    largest = sizes[~infinite].max()
    places = np.where(infinite, 2 * largest, sizes)
    axes.set_xscale("log", base=2)
    ticks, first = np.unique(places, return_index=True)
    labels = ["∞" if math.isinf(sizes[at]) else f"{sizes[at]:g}" for at in first]
    # A seventh of the axis from one label to the next, or they touch; the largest size has one.
    nearest = math.log2(ticks[-1] / ticks[0]) / 7
    shown = [""] * len(ticks)
    before = math.inf
    for at in reversed(range(len(ticks))):
        place = math.log2(ticks[at])
        if before - place >= nearest * (1 - 1e-9):
            shown[at] = labels[at]
            before = place
    axes.set_xticks(ticks, shown)
    axes.minorticks_off()
    return places


def _log_limits(axes: Axes, seen: np.ndarray) -> None:
    """An octave at least, so that a flat line looks flat, and not below what was measured: a band may reach 0."""
    low, high = math.log2(seen.min()), math.log2(seen.max())
    margin = max(0.25, 0.1 * (high - low), (2.0 - (high - low)) / 2)
    axes.set_ylim(2 ** (low - margin), 2 ** (high + margin))
    # Within a few octaves powers of ten alone would leave an axis without a label.
    span = high - low + 2 * margin
    axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5) if span < 9 else (1,), numticks=7))
    axes.yaxis.set_major_formatter(lambda value, _: f"{value:g}")
    axes.minorticks_off()
