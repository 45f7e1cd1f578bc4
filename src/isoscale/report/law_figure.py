"""The best learning rate against depth, log-log, one panel per network: is it a power law, and the claimed one?"""

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

# Inches of a panel's axes and of what stands around them.
_WIDTH, _HEIGHT = 1.95, 1.55
_LEFT, _RIGHT, _ABOVE, _BELOW = 0.6, 0.2, 0.52, 0.47
_LEGEND = 0.38  # a line of it, at the head of the figure

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
    rates = data[["lr", "estimate"]].to_array().values
    if not np.isfinite(rates).any():
        raise InvalidValueError("there is nothing to draw: no network has a best learning rate at any depth")
    networks = [str(name) for name in data["network"].values]
    columns = min(_COLUMNS, len(networks))
    rows = math.ceil(len(networks) / columns)
    wide = _LEFT + _WIDTH + _RIGHT
    high = _ABOVE + _HEIGHT + _BELOW
    # Three panels hold the legend in one line; fewer have it line by line.
    in_line = columns > 2
    legend = _LEGEND * (1 if in_line else 1.9)
    with drawing.style():
        figure = drawing.blank(max(wide * columns, 3.9), high * rows + legend)
        _legend(figure, in_line=in_line)
        for index, network in enumerate(networks):
            row, column = divmod(index, columns)
            axes = drawing.panel(
                figure,
                left=_LEFT + wide * column,
                bottom=high * (rows - 1 - row) + _BELOW,
                width=_WIDTH,
                height=_HEIGHT,
            )
            of = data.sel(network=network)
            name = drawing.shortened(network, 32)
            axes.set_title(f"{name}\n{_law(of)}", fontsize=8.5, loc="left")
            _panel(axes, of, claim)
    return figure


def _legend(figure: Figure, *, in_line: bool) -> None:
    """What each kind of mark is, in its colour."""
    height = figure.get_size_inches()[1]
    for index, (text, colour) in enumerate(_KEYS):
        x, row = (0.02 + 0.34 * index, 0) if in_line else (0.02, index)
        y = 1 - (0.2 + 0.22 * row) / height
        figure.text(
            x,
            y,
            text,
            color=colour,
            fontsize=9,
            va="center",
        )


def _law(of: xr.Dataset) -> str:
    """The fitted law in words: "L^-1.50 [-1.60, -1.40]", or why there is none."""
    exponent, low, high = formats.interval(of, "exponent")
    if not math.isfinite(exponent):
        return "too few optima for a law"
    return "L^" + numbers.with_ends(exponent, low, high, ".2f")


def _panel(axes: Axes, of: xr.Dataset, claim: float) -> None:
    """One network."""
    depths = of["depth"].values.astype(float)
    axes.set_xscale("log", base=2)
    axes.set_yscale("log", base=2)
    inside = (of["at_edge"].values == "") & np.isfinite(of["lr"].values)
    _optima(axes, of, depths, inside)
    _bounds(axes, of, depths)
    _fitted(axes, of, depths)
    estimates = of["estimate"].values
    axes.plot(
        depths,
        estimates,
        color=_FREE,
        marker="s",
        ms=4,
        mfc="white",
        lw=0.9,
        ls=":",
        zorder=3,
    )
    if inside.any():
        _claimed(axes, of, depths, inside, claim)
    _ticks(axes, depths)


def _optima(axes: Axes, of: xr.Dataset, depths: np.ndarray, inside: np.ndarray) -> None:
    """Optima inside the grid with their intervals: filled where the network learns, open where it does not."""
    lr, low, high = (of[name].values for name in ("lr", "lr_low", "lr_high"))
    axes.vlines(
        depths[inside],
        low[inside],
        high[inside],
        color=_SWEPT,
        lw=1.3,
    )
    learns = of["learns"].values == 1
    for shown, face in ((inside & learns, _SWEPT), (inside & ~learns, "white")):
        axes.plot(
            depths[shown],
            lr[shown],
            color=_SWEPT,
            mfc=face,
            marker="o",
            ms=4.5,
            lw=0,
            zorder=4,
        )


def _bounds(axes: Axes, of: xr.Dataset, depths: np.ndarray) -> None:
    """A triangle that points where an optimum on the grid's edge went, a cross at the foot where nothing trained."""
    for index, depth in enumerate(depths):
        edge = str(of["at_edge"].values[index])
        lr = of["lr"].values[index]
        if edge == "none":
            foot = axes.get_xaxis_transform()
            axes.plot(
                depth,
                0.03,
                "x",
                color=_SWEPT,
                ms=5,
                transform=foot,
            )
        elif edge:
            marker = "^" if edge == "high" else "v"
            axes.plot(
                depth,
                lr,
                marker=marker,
                color=_SWEPT,
                mfc="white",
                ms=5,
                zorder=4,
            )


def _fitted(axes: Axes, of: xr.Dataset, depths: np.ndarray) -> None:
    """The law through the optima, if there is one: lr = coefficient * depth^exponent."""
    coefficient = float(of["coefficient"])
    exponent = float(of["exponent"])
    if math.isfinite(coefficient):
        law = coefficient * depths**exponent
        axes.plot(
            depths,
            law,
            color=_SWEPT,
            lw=1.5,
            zorder=2,
        )


def _claimed(axes: Axes, of: xr.Dataset, depths: np.ndarray, inside: np.ndarray, claim: float) -> None:
    """The claimed exponent with the constant that fits best: log constant = mean(log lr - claim * log depth)."""
    log_constants = np.log(of["lr"].values[inside]) - claim * np.log(depths[inside])
    law = np.exp(log_constants.mean()) * depths**claim
    axes.plot(
        depths,
        law,
        color=drawing.MUTED,
        lw=1.2,
        ls=(0, (4, 2)),
        zorder=1,
    )


def _ticks(axes: Axes, depths: np.ndarray) -> None:
    """Ticks at whole powers of two, at least three octaves high: a flat law must look flat."""
    low, high = np.log2(axes.get_ylim())
    missing = max(0.0, 3.2 - (high - low)) / 2
    low, high = low - missing, high + missing
    axes.set_ylim(2**low, 2**high)
    exponents = ticks.powers(low, high, most=5)
    axes.set(
        yticks=[2.0**exponent for exponent in exponents],
        yticklabels=ticks.as_powers(exponents),
    )
    places = np.log2(depths)
    room = (places[-1] - places[0]) / 8
    labels = [f"{depth:g}" for depth in depths]
    axes.set(xticks=depths, xticklabels=ticks.thinned(labels, places, room), xlabel="depth")
    axes.minorticks_off()
