"""Effects against size: what an audit or a coordinate check measured, log-log, one panel per quantity."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np
import xarray as xr

from isoscale.errors import InvalidValueError
from isoscale.report import drawing, ticks

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_AUDIT = {
    "own_update": "own update\nat fixed input",
    "branch_update": "effect on pre-activations\nin the branches",
    "stream_update": "effect on the\nresidual stream",
    "output_update": "effect on\nthe output",
}
_CHECK = {
    "start": "size at\ninitialisation",
    "change": "change after\nall steps",
}

# In inches: a panel's axes, what stands around them, and a letter of a label on their right.
_WIDTH, _HEIGHT = 1.9, 1.75
_LEFT, _TOP, _BOTTOM = 0.62, 0.5, 0.55
_LETTER = 0.075
_LETTERS = 28  # of the longest label


def audit(data: xr.Dataset) -> Figure:
    """What one step does against width and depth: flat lines train alike at every size.

    Args:
        data: `isoscale.measure.audit(...).data`.
    """
    by = "role" if "role" in data.dims else "tensor"
    return _figure(data, by, _AUDIT)


def coordinates(data: xr.Dataset) -> Figure:
    """Sizes of modules' outputs and of their changes against width and depth.

    Args:
        data: `isoscale.measure.coordinate_check(...).data`.
    """
    return _figure(data.isel(step=-1), "module", _CHECK)


def _figure(data: xr.Dataset, by: str, titles: Mapping[str, str]) -> Figure:
    """A row of panels for width and one for depth, a column for each quantity, a line for each entry of `by`."""
    rows = [axis for axis in ("width", "depth") if data.sizes.get(axis, 0) > 1]
    columns = [name for name in titles if bool(data[name].notnull().any())]
    if not rows or not columns:
        raise InvalidValueError("there is nothing to draw: no quantity was measured at two sizes")
    longest = max(len(str(label)) for label in data[by].values)
    letters = min(_LETTERS, longest)
    wide = _LEFT + _WIDTH + _LETTER * letters + 0.25
    high = _HEIGHT + _BOTTOM + 0.15
    total_height = high * len(rows) + _TOP
    with drawing.style():
        figure = drawing.blank(wide * len(columns), total_height)
        for row, axis in enumerate(rows):
            for column, name in enumerate(columns):
                axes = drawing.panel(
                    figure,
                    left=column * wide + _LEFT,
                    bottom=total_height - _TOP - row * high - _HEIGHT,
                    width=_WIDTH,
                    height=_HEIGHT,
                )
                title = titles[name] if row == 0 else ""
                axes.set_title(title, fontsize=9, loc="left")
                _panel(axes, _along(data[name], axis), axis, by)
    return figure


def _along(values: xr.DataArray, axis: str) -> xr.DataArray:
    """Along one axis of size: widths at the smallest depth, depths at the largest width."""
    if axis == "width" and "depth" in values.dims:
        return values.isel(depth=0)
    if axis == "depth" and "width" in values.dims:
        return values.isel(width=-1)
    return values


def _panel(axes: Axes, values: xr.DataArray, axis: str, by: str) -> None:
    """One line per entry of `by`: the geometric mean over the seeds, the seeds themselves as dots."""
    sizes = values[axis].values
    ticks.label_sizes(axes, axis, sizes)
    axes.set_yscale("log", base=10)
    colours = drawing.colours(values.sizes[by])
    ends = []
    for index, label in enumerate(values[by].values):
        colour = colours[index]
        marker = drawing.MARKERS[index % len(drawing.MARKERS)]
        seeds = values.sel({by: label}).transpose(axis, "seed").values
        # An effect of zero has no place on a log axis.
        positive = np.where(seeds > 0, seeds, np.nan)
        mean = np.exp(np.log(positive).mean(1))
        if not np.isfinite(mean).any():
            continue
        axes.plot(
            sizes,
            mean,
            color=colour,
            marker=marker,
            ms=4,
            lw=1.5,
        )
        axes.plot(
            sizes,
            seeds,
            color=colour,
            marker=".",
            ms=2.5,
            lw=0,
            alpha=0.5,
        )
        last = float(mean[np.isfinite(mean)][-1])
        name = drawing.shortened(str(label), _LETTERS)
        ends.append((name, colour, last))
    _decades(axes)
    axes.minorticks_off()
    drawing.label_ends(axes, ends)


def _decades(axes: Axes) -> None:
    """Ticks at round numbers, on an axis of a decade or more: a flat line must look flat."""
    low, high = axes.get_ylim()
    missing = 0.5 * (1 - math.log10(high / low))
    if missing > 0:
        low = low * 10**-missing
        high = high * 10**missing
        axes.set_ylim(low, high)
    first = math.floor(math.log10(low))
    last = math.ceil(math.log10(high))
    # One tick alone says nothing of the scale.
    digits = (1, 2, 5) if last - first < 3 else (1,)
    round_numbers = ticks.round_numbers(first, last, digits)
    places = [number for number in round_numbers if low <= number <= high]
    every = max(1, len(places) // 5)
    places = places[::every]
    labels = [f"{place:g}" for place in places]
    axes.set_yticks(places, labels)
