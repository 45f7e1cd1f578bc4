"""The collapse plot: which maps stop learning as the network gets deeper."""

from __future__ import annotations

import math

import numpy as np
import xarray as xr
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from isoscale.errors import InvalidValueError
from isoscale.report import drawing

_PANELS = {"own": "own update:\nchange by its own weight", "inherited": "inherited change:\nits input moved"}


def collapse(data: xr.Dataset) -> Figure:
    """Change of features at the last step against depth: own part and inherited part, one line a kind of map.

    Under a rule that keeps the inner maps of branches learning their lines on the left are flat. The inherited part
    hides a collapse, which is why the two stand apart (THEORY section 4).

    Args:
        data: What `isoscale.measure.feature_speed` returns; the last width, if it has several.

    Raises:
        InvalidValueError: It has no depths to draw against.
    """
    if "depth" not in data.dims:
        raise InvalidValueError("the collapse plot needs the dimension 'depth': give `depths` to feature_speed")
    last = data.isel({"step": -1} | ({"width": -1} if "width" in data.dims else {}))
    low, high = _limits(last)
    with drawing.style():
        figure = drawing.blank(11.6, 3.9)
        for index, (part, title) in enumerate(_PANELS.items()):
            axes = figure.add_axes((0.07 + 0.5 * index, 0.14, 0.25, 0.72))
            axes.set_title(title, fontsize=9, loc="left")
            axes.set_xscale("log", base=2)
            axes.set_yscale("log", base=2)
            axes.set(xlabel="depth", ylabel="|change| / |initial output|", ylim=(low, high))
            axes.set(xticks=data["depth"].values, xticklabels=[f"{depth:g}" for depth in data["depth"].values])
            ticks = [2.0**power for power in drawing.power_ticks(math.log2(low), math.log2(high))]
            axes.set(yticks=ticks, yticklabels=[f"{tick:.3g}" for tick in ticks])
            axes.minorticks_off()
            _draw(axes, last, part)
    return figure


def _draw(axes: Axes, last: xr.Dataset, part: str) -> None:
    ends = []
    for group, color in zip(last["group"].values, _colours(last.sizes["group"]), strict=True):
        of = last.sel(group=group)
        values, errors = of[f"group_{part}"].values, np.nan_to_num(of[f"group_{part}_se"].values)
        end = drawing.line(axes, last["depth"].values, values, errors, color, marker="o")
        exponent, low, high = (float(of[f"{part}_exponent{end}"]) for end in ("", "_low", "_high"))
        interval = f" [{low:+.2f}, {high:+.2f}]" if math.isfinite(low) else ""
        text = f"L^{exponent:+.2f}{interval}" if math.isfinite(exponent) else "no power law"
        ends.append((f"{drawing.shortened(str(group), 30)}\n{text}", color, end))
    drawing.label_ends(axes, ends)


def _limits(last: xr.Dataset) -> tuple[float, float]:
    """The same for both panels, so that heights compare."""
    values = np.concatenate([last[f"group_{part}"].values.ravel() for part in _PANELS])
    seen = values[np.isfinite(values) & (values > 0)]
    if not len(seen):
        return 0.5, 2.0
    return float(2 ** (math.floor(np.log2(seen.min())) - 0.3)), float(2 ** (math.ceil(np.log2(seen.max())) + 0.3))


def _colours(count: int) -> list[str]:
    return list(drawing.RULES[:count]) if count <= len(drawing.RULES) else drawing.sequence(count)
