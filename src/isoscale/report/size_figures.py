"""Effects against size: what an audit or a coordinate check measured, log-log, one panel a quantity."""

from __future__ import annotations

import math
from collections.abc import Mapping

import numpy as np
import xarray as xr
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from isoscale.errors import InvalidValueError
from isoscale.report import drawing

_AUDIT = {
    "own_update": "own update\nat fixed input",
    "branch_update": "effect on pre-activations\nin the branches",
    "stream_update": "effect on the\nresidual stream",
    "output_update": "effect on\nthe output",
}
_CHECK = {"start": "size at\ninitialisation", "change": "change after\nall steps"}
# In inches: a panel's axes, and what stands around them.
_AXES, _LEFT, _TOP, _BOTTOM = (1.9, 1.75), 0.62, 0.5, 0.55
_LETTER = 0.075


def audit(data: xr.Dataset) -> Figure:
    """What one step does against width and depth: flat lines train alike at every size.

    Args:
        data: `isoscale.measure.audit(...).data`.
    """
    return _figure(data, "role" if "role" in data.dims else "tensor", _AUDIT)


def coordinates(data: xr.Dataset) -> Figure:
    """Sizes of modules' outputs and of their changes against width and depth.

    Args:
        data: `isoscale.measure.coordinate_check(...).data`.
    """
    return _figure(data.isel(step=-1), "module", _CHECK)


def _figure(data: xr.Dataset, dim: str, titles: Mapping[str, str]) -> Figure:
    axes_of_size = [axis for axis in ("width", "depth") if data.sizes.get(axis, 0) > 1]
    shown = [name for name in titles if bool(data[name].notnull().any())]
    if not axes_of_size or not shown:
        raise InvalidValueError("there is nothing to draw: no quantity was measured at two sizes")
    longest = max(min(28, len(str(label))) for label in data[dim].values)
    wide, high = _LEFT + _AXES[0] + _LETTER * longest + 0.25, _AXES[1] + _BOTTOM + 0.15
    with drawing.style():
        figure = drawing.blank(wide * len(shown), high * len(axes_of_size) + _TOP)
        width, height = figure.get_size_inches()
        for row, axis in enumerate(axes_of_size):
            for column, name in enumerate(shown):
                left, bottom = column * wide + _LEFT, height - _TOP - row * high - _AXES[1]
                axes = figure.add_axes((left / width, bottom / height, _AXES[0] / width, _AXES[1] / height))
                _panel(axes, _along(data[name], axis), axis, dim, titles[name] if row == 0 else "")
    return figure


def _along(values: xr.DataArray, axis: str) -> xr.DataArray:
    """Along one axis of size: widths at the smallest depth, depths at the largest width."""
    other, at = ("depth", 0) if axis == "width" else ("width", -1)
    return values.isel({other: at}) if other in values.dims else values


def _panel(axes: Axes, values: xr.DataArray, axis: str, dim: str, title: str) -> None:
    axes.set_title(title, fontsize=9, loc="left")
    axes.set_xscale("log", base=2)
    axes.set_yscale("log", base=10)
    axes.set(xlabel=axis, xticks=values[axis].values, xticklabels=[f"{size:g}" for size in values[axis].values])
    ends = []
    for label, color, marker in zip(
        values[dim].values, _colours(values.sizes[dim]), _markers(values.sizes[dim]), strict=True
    ):
        seeds = values.sel({dim: label}).transpose(axis, "seed").values
        mean = np.exp(np.log(np.where(seeds > 0, seeds, np.nan)).mean(1))
        if not np.isfinite(mean).any():
            continue
        axes.plot(values[axis].values, mean, color=color, marker=marker, ms=4, lw=1.5)
        axes.plot(values[axis].values, seeds, color=color, marker=".", ms=2.5, lw=0, alpha=0.5)
        last = mean[np.isfinite(mean)][-1]
        ends.append((drawing.shortened(str(label), 28), color, float(last)))
    _at_least_a_decade(axes)
    axes.minorticks_off()
    drawing.label_ends(axes, ends)


def _at_least_a_decade(axes: Axes) -> None:
    """A flat line must look flat: no panel spans less than a factor of ten."""
    low, high = axes.get_ylim()
    short = 0.5 * (1 - math.log10(high / low))
    if short > 0:
        low, high = low * 10**-short, high * 10**short
        axes.set_ylim(low, high)
    powers = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    steps = (1, 2, 5) if len(powers) <= 3 else (1,)  # one tick alone says nothing of the scale
    ticks = [tick for power in powers for step in steps if low <= (tick := step * 10.0**power) <= high]
    ticks = ticks[:: max(1, len(ticks) // 5)]
    axes.set(yticks=ticks, yticklabels=[f"{tick:g}" for tick in ticks])


def _colours(count: int) -> list[str]:
    return list(drawing.RULES[:count]) if count <= len(drawing.RULES) else drawing.sequence(count)


def _markers(count: int) -> list[str]:
    return [drawing.MARKERS[index % len(drawing.MARKERS)] for index in range(count)]
