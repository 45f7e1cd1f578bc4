"""The best learning rate against depth, log-log, one panel a network: is it a power law, and the claimed one?"""

from __future__ import annotations

import math

import numpy as np
import xarray as xr
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from isoscale.errors import InvalidValueError
from isoscale.report import drawing, formats

# Inches of a panel's axes and of what stands around them.
_AXES, _LEFT, _RIGHT, _ABOVE, _BELOW, _HEAD = (1.95, 1.55), 0.6, 0.2, 0.52, 0.47, 0.38
_COLUMNS = 4
_SWEPT, _FREE = drawing.RULES[0], drawing.RULES[1]
_KEYS = (
    ("\N{BLACK CIRCLE} swept optimum (open: not below chance) and its law", _SWEPT),
    ("\N{WHITE SQUARE} without a sweep (maximal update)", _FREE),
    ("- - claimed exponent, through the optima's middle", drawing.MUTED),
)


def depth_law(data: xr.Dataset, claim: float = -1.5) -> Figure:
    """Swept optima with their intervals and fitted law, sweep-free estimates and the claimed slope.

    Args:
        data: `isoscale.depth_law(...).data`.
        claim: The claimed exponent.

    Raises:
        InvalidValueError: No network has an optimum or an estimate.
    """
    networks = [str(name) for name in data["network"].values]
    if not np.isfinite(data[["lr", "estimate"]].to_array().values).any():
        raise InvalidValueError("there is nothing to draw: no network has a best learning rate at any depth")
    columns = min(_COLUMNS, len(networks))
    rows = math.ceil(len(networks) / columns)
    wide, high = _LEFT + _AXES[0] + _RIGHT, _ABOVE + _AXES[1] + _BELOW
    # Three panels hold the legend in one line; fewer have it line by line.
    width, height = max(wide * columns, 3.9), high * rows + _HEAD * (1 if columns > 2 else 1.9)
    with drawing.style():
        figure = drawing.blank(width, height)
        _legend(figure, in_line=columns > 2)
        for index, network in enumerate(networks):
            left = _LEFT + wide * (index % columns)
            bottom = high * (rows - 1 - index // columns) + _BELOW
            axes = figure.add_axes((left / width, bottom / height, _AXES[0] / width, _AXES[1] / height))
            _panel(axes, data.sel(network=network), network, claim)
    return figure


def _legend(figure: Figure, *, in_line: bool) -> None:
    height = figure.get_size_inches()[1]
    for index, (text, colour) in enumerate(_KEYS):
        x, row = (0.02 + 0.34 * index, 0) if in_line else (0.02, index)
        figure.text(x, 1 - (0.2 + 0.22 * row) / height, text, color=colour, fontsize=9, va="center")


def _panel(axes: Axes, of: xr.Dataset, network: str, claim: float) -> None:
    depths = of["depth"].values.astype(float)
    axes.set_xscale("log", base=2)
    axes.set_yscale("log", base=2)
    axes.set_title(f"{drawing.shortened(network, 32)}\n{_law_text(of)}", fontsize=8.5, loc="left")
    inside = (of["at_edge"].values == "") & np.isfinite(of["lr"].values)
    _swept(axes, of, depths, inside)
    axes.plot(depths, of["estimate"].values, color=_FREE, marker="s", ms=4, mfc="white", lw=0.9, ls=":", zorder=3)
    if inside.any():
        logs = np.log(of["lr"].values[inside]) - claim * np.log(depths[inside])
        line = np.exp(logs.mean()) * depths**claim
        axes.plot(depths, line, color=drawing.MUTED, lw=1.2, ls=(0, (4, 2)), zorder=1)
    _limits(axes, depths)


def _swept(axes: Axes, of: xr.Dataset, depths: np.ndarray, inside: np.ndarray) -> None:
    lr, low, high = (of[name].values for name in ("lr", "lr_low", "lr_high"))
    axes.vlines(depths[inside], low[inside], high[inside], color=_SWEPT, lw=1.3)
    for which, face in ((of["learns"].values == 1, _SWEPT), (of["learns"].values != 1, "white")):
        shown = inside & which
        axes.plot(depths[shown], lr[shown], color=_SWEPT, mfc=face, marker="o", ms=4.5, lw=0, zorder=4)
    for depth, at, edge in zip(depths, lr, of["at_edge"].values, strict=True):
        if str(edge) == "none":
            axes.plot(depth, 0.03, "x", color=_SWEPT, ms=5, transform=axes.get_xaxis_transform())
        elif edge:
            axes.plot(depth, at, marker="^" if edge == "high" else "v", color=_SWEPT, mfc="white", ms=5, zorder=4)
    if math.isfinite(float(of["coefficient"])):
        law = float(of["coefficient"]) * depths ** float(of["exponent"])
        axes.plot(depths, law, color=_SWEPT, lw=1.5, zorder=2)


def _limits(axes: Axes, depths: np.ndarray) -> None:
    """Ticks at whole powers of two, at least three octaves high: a flat law must look flat."""
    low, high = np.log2(axes.get_ylim())
    short = max(0.0, 3.2 - (high - low)) / 2
    low, high = low - short, high + short
    axes.set_ylim(2**low, 2**high)
    ticks = drawing.power_ticks(low, high, most=5)
    axes.set(yticks=[2.0**tick for tick in ticks], yticklabels=[f"2{formats.superscript(tick)}" for tick in ticks])
    places = np.log2(depths)
    labels, used = [], -math.inf
    for place, depth in zip(places, depths, strict=True):
        free = place - used >= (places[-1] - places[0]) / 8
        labels.append(f"{depth:g}" if free else "")
        used = place if free else used
    axes.set(xticks=depths, xticklabels=labels, xlabel="depth")
    axes.minorticks_off()


def _law_text(of: xr.Dataset) -> str:
    exponent, low, high = (float(of[name]) for name in ("exponent", "exponent_low", "exponent_high"))
    if not math.isfinite(exponent):
        return "too few optima for a law"
    interval = f" [{low:.2f}, {high:.2f}]" if math.isfinite(low) else ""
    return f"L^{exponent:.2f}{interval}"
