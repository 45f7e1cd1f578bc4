"""The collapse plot: which weight matrices stop learning as the network gets deeper."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np
import xarray as xr

from isoscale.errors import InvalidValueError
from isoscale.report import drawing, formats, numbers, ticks

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# The direct and the propagated update, by the names that their variables begin with.
_PARTS = {"own": "own update:\nchange by its own weight", "inherited": "inherited change:\nits input moved"}


def collapse(data: xr.Dataset) -> Figure:
    """Change of features at the last step against depth: direct and propagated part, one line per kind of layer.

    Under a rule that keeps the inner layers of branches learning their lines on the left are flat. The propagated
    part hides a collapse, which is why the two stand apart (docs/theory.md, section 4).

    Args:
        data: What `isoscale.measure.feature_speed` returns; the last width, if it has several.

    Raises:
        InvalidValueError: It has no depths to draw against.
    """
    if "depth" not in data.dims:
        raise InvalidValueError("the collapse plot needs the dimension 'depth': give `depths` to feature_speed")
    last = data.isel(step=-1)
    if "width" in last.dims:
        last = last.isel(width=-1)
    limits = _limits(last)
    with drawing.style():
        figure = drawing.blank(11.6, 3.9)
        for index, part in enumerate(_PARTS):
            axes = figure.add_axes((0.07 + 0.5 * index, 0.14, 0.25, 0.72))
            _frame(axes, last, part, limits)
            _draw(axes, last, part)
    return figure


def _limits(last: xr.Dataset) -> tuple[float, float]:
    """The lowest and highest change to show: the same for both panels, so that heights compare."""
    values = np.concatenate([last[f"group_{part}"].values.ravel() for part in _PARTS])
    seen = values[np.isfinite(values) & (values > 0)]
    if not len(seen):
        return 0.5, 2.0
    # From the whole power of two below to the one above, and a little room.
    low = math.floor(np.log2(seen.min())) - 0.3
    high = math.ceil(np.log2(seen.max())) + 0.3
    return float(2**low), float(2**high)


def _frame(axes: Axes, last: xr.Dataset, part: str, limits: tuple[float, float]) -> None:
    """Title, axes and ticks."""
    low, high = limits
    axes.set_title(_PARTS[part], fontsize=9, loc="left")
    ticks.label_sizes(axes, "depth", last["depth"].values)
    # Not written as powers of two: these are changes, which a reader wants as numbers.
    exponents = ticks.powers(math.log2(low), math.log2(high))
    heights = [2.0**exponent for exponent in exponents]
    axes.set_yscale("log", base=2)
    axes.set(
        ylabel="|change| / |initial output|",
        ylim=limits,
        yticks=heights,
        yticklabels=[f"{height:.3g}" for height in heights],
    )
    axes.minorticks_off()


def _draw(axes: Axes, last: xr.Dataset, part: str) -> None:
    """One line per group of layers, with its exponent in depth at its end."""
    ends = []
    depths = last["depth"].values
    colours = drawing.colours(last.sizes["group"])
    for group, colour in zip(last["group"].values, colours, strict=True):
        of = last.sel(group=group)
        height = drawing.line(
            axes,
            depths,
            of[f"group_{part}"].values,
            # A group without seeds to compare has no standard error: a line without a band.
            np.nan_to_num(of[f"group_{part}_se"].values),
            colour,
            marker="o",
        )
        name = drawing.shortened(str(group), 30)
        ends.append((f"{name}\n{_law(of, part)}", colour, height))
    drawing.label_ends(axes, ends)


def _law(of: xr.Dataset, part: str) -> str:
    """How the change goes with the depth L: "L^-0.50 [-0.60, -0.40]"."""
    exponent, low, high = formats.interval(of, f"{part}_exponent")
    if not math.isfinite(exponent):
        return "no power law"
    return "L^" + numbers.with_ends(exponent, low, high, "+.2f")
