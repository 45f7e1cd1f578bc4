"""Figures of the infinite limit: training in both versions, the gap between them, and how fast size closes in."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import xarray as xr

from isoscale.extras import needed
from isoscale.report import drawing, formats, numbers, ticks

with needed("report", by="a figure"):
    from matplotlib.ticker import MaxNLocator

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


def training(runs: Mapping[str, xr.Dataset]) -> Figure:
    """Loss against step, one line per run with its 95 % interval, labelled where it ends.

    Args:
        runs: By label, data sets with loss(step) and loss_se(step).
    """
    with drawing.style():
        figure = drawing.blank(7.6, 3.7)
        axes = figure.add_axes((0.09, 0.14, 0.6, 0.8))
        axes.set(xlabel="step", ylabel="training loss")
        axes.xaxis.set_major_locator(MaxNLocator("auto", integer=True))
        ends = []
        for (label, run), colour in zip(runs.items(), drawing.RULES, strict=False):
            height = drawing.line(
                axes,
                run["step"].values,
                run["loss"].values,
                run["loss_se"].values,
                colour,
            )
            ends.append((label, colour, height))
        lowest = axes.get_ylim()[0]
        axes.set_ylim(bottom=min(0.0, lowest))
        drawing.label_ends(axes, ends)
    return figure


def limit_rates(data: xr.Dataset) -> Figure:
    """Loss at the end of training against the learning rate, with the best one and its interval.

    Args:
        data: What `isoscale.limit.optimal_lr` returns.
    """
    trained = np.isfinite(data["loss_tried"].values)
    tried, loss = data["tried"].values[trained], data["loss_tried"].values[trained]
    with drawing.style():
        figure = drawing.blank(7.6, 3.7)
        axes = figure.add_axes((0.13, 0.15, 0.8, 0.75))
        axes.set_xscale("log", base=2)
        axes.set_yscale("log")
        axes.set(xlabel="learning rate", ylabel="training loss at the end")
        for scale in (axes.xaxis, axes.yaxis):
            scale.set_major_formatter(lambda value, _: f"{value:g}")
        axes.minorticks_off()
        axes.axvspan(float(data["lr_low"]), float(data["lr_high"]), color=drawing.RULES[0], alpha=0.2, lw=0)
        drawing.line(axes, tried, loss, data["loss_tried_se"].values[trained], drawing.RULES[0], marker="o")
        best = float(data["lr"])
        words = f"best {numbers.with_ends(best, float(data['lr_low']), float(data['lr_high']), '.3g')}"
        axes.annotate(words, (best, 1.0), xycoords=("data", "axes fraction"), ha="center", va="bottom")
    return figure


def depth_returns(data: xr.Dataset) -> Figure:
    """Loss against depth with that of infinite depth, and what each doubling saves.

    Args:
        data: What `isoscale.limit.depth_returns` returns.
    """
    depths, limit = data["depth"].values.astype(float), float(data["limit"])
    has_limit = math.isfinite(limit)
    with drawing.style():
        figure = drawing.blank(9.0, 3.7)
        axes = figure.add_axes((0.09, 0.15, 0.38, 0.75))
        places = _depth_axis(axes, np.append(depths, math.inf) if has_limit else depths)
        axes.set_ylabel("training loss at the end")
        axes.set_title("loss", fontsize=9, loc="left")
        drawing.line(axes, depths, data["loss"].values, data["loss_se"].values, drawing.RULES[0], marker="o")
        if has_limit:
            reach = numbers.SE * float(data["limit_se"])
            axes.errorbar(places[-1:], [limit], yerr=[reach], color=drawing.RULES[1], marker="s", ms=5, lw=1.6)
            axes.axhline(limit, color=drawing.MUTED, lw=0.8, ls=":")
        saved = figure.add_axes((0.59, 0.15, 0.38, 0.75))
        _depth_axis(saved, depths)
        saved.set_xlabel("depth that is doubled")
        saved.set_ylabel("loss saved")
        saved.set_title("what a doubling brings (hollow: from the fit)", fontsize=9, loc="left")
        saved.axhline(0, color=drawing.MUTED, lw=0.8)
        for depth in depths:
            cell = data.sel(depth=depth)
            gain, low, high = formats.interval(cell, "gain")
            if not math.isfinite(gain):
                continue
            face = drawing.RULES[0] if int(cell["is_measured"]) else drawing.PAPER
            reach = [[gain - low], [high - gain]]
            saved.errorbar([depth], [gain], yerr=reach, color=drawing.RULES[0], marker="o", mfc=face, ms=5, lw=1.4)
    return figure


def lr_drift(data: xr.Dataset) -> Figure:
    """How far the best learning rates of finite sizes are from that of infinite size, against depth and width.

    Args:
        data: What `isoscale.limit.lr_drift` returns.
    """
    depths, widths = data["depth"].values, data["width"].values
    panels = (
        ("drift", depths, "depth L, infinite width", 0.09),
        ("drift_of_width", widths, f"width n, from infinite width at depth {depths[0]}", 0.59),
    )
    with drawing.style():
        figure = drawing.blank(9.0, 3.7)
        for name, sizes, label, left in panels:
            axes = figure.add_axes((left, 0.15, 0.38, 0.75))
            _depth_axis(axes, sizes)
            axes.set_xlabel(label)
            axes.set_ylabel("octaves")
            axes.axhline(0, color=drawing.MUTED, lw=0.8)
            value, low, high = (data[f"{name}{end}"].values for end in ("", "_low", "_high"))
            seen = np.isfinite(value)
            reach = np.stack([value - low, high - value])[:, seen]
            axes.errorbar(sizes[seen], value[seen], yerr=reach, color=drawing.RULES[0], marker="o", ms=5, lw=1.4)
    return figure


def captioned(figure: Figure, settings: Mapping[str, object]) -> Figure:
    """The figure with all settings in small print below.

    Args:
        figure: Changed in place.
        settings: By name; numbers are shortened, lists of more than eight left out.
    """
    words = []
    for name, value in settings.items():
        if isinstance(value, float):
            value = f"{value:.4g}"
        if isinstance(value, list | tuple | np.ndarray):
            if len(value) > 8:
                continue
            value = " ".join(f"{each:.4g}" for each in value)
        words.append(f"{name} {value}")
    with drawing.style():
        drawing.caption(figure, ", ".join(words))
    return figure


def gap(data: xr.Dataset) -> Figure:
    """How far independent backward weights are from reused ones, against depth at the last step, by horizon.

    Args:
        data: What `isoscale.limit.independence_gap` returns.
    """
    last = data.isel(step=-1)
    with drawing.style():
        figure = drawing.blank(7.6, 3.7)
        axes = figure.add_axes((0.12, 0.15, 0.62, 0.79))
        places = _depth_axis(axes, data["depth"].values)
        step = int(last["step"])
        axes.set_ylabel(f"gap in loss at step {step}\n(independent minus reused)")
        axes.axhline(0, color=drawing.MUTED, lw=0.8)
        ends = []
        colours = drawing.sequence(data.sizes["horizon"])
        for horizon, colour in zip(data["horizon"].values, colours, strict=True):
            of = last.sel(horizon=horizon)
            height = drawing.line(
                axes,
                places,
                of["gap"].values,
                of["gap_se"].values,
                colour,
                marker="o",
            )
            ends.append((f"T = {horizon:g}", colour, height))
        drawing.label_ends(axes, ends)
    return figure


def _depth_axis(axes: Axes, depths: np.ndarray) -> np.ndarray:
    """Depths on a log2 axis, infinity one place to the right of the finite ones; where each stands."""
    infinite = np.isinf(depths)
    deepest = np.nanmax(np.where(infinite, np.nan, depths))
    places = np.where(infinite, 2 * deepest, depths)
    names = ["∞" if math.isinf(depth) else f"{depth:g}" for depth in depths]
    axes.set_xscale("log", base=2)
    axes.set_xlabel("depth")
    axes.set_xticks(places, names)
    axes.minorticks_off()
    return places


class _Curve(NamedTuple):
    """An error against size: its label, the name of its fitted law, values and standard errors."""

    label: str
    law: str
    values: xr.DataArray
    se: xr.DataArray


def rates(data: xr.Dataset) -> Figure:
    """Measured errors against depth and width, log-log, with the fitted exponents.

    Args:
        data: What `isoscale.limit.convergence` returns.
    """
    with drawing.style():
        figure = drawing.blank(11.6, 3.8)
        for index, axis in enumerate(("depth", "width")):
            axes = figure.add_axes((0.065 + 0.5 * index, 0.14, 0.25, 0.8))
            sizes = data[axis].values
            ticks.label_sizes(axes, axis, sizes)
            axes.set_yscale("log")
            axes.yaxis.set_major_formatter(lambda value, _: f"{value:g}")
            axes.minorticks_off()
            ends = []
            for curve, colour in zip(_curves(data, axis), drawing.RULES, strict=False):
                height = drawing.line(
                    axes,
                    sizes,
                    curve.values.values,
                    curve.se.values,
                    colour,
                    marker="o",
                )
                exponent = _exponent(data, curve.law)
                ends.append((f"{curve.label}\n{exponent}", colour, height))
            drawing.label_ends(axes, ends)
    return figure


def _curves(data: xr.Dataset, axis: str) -> Iterator[_Curve]:
    """What was measured against depth or width: the error of each mode, and the gap between the modes."""
    # Against width the variance is measured, which is the error squared.
    error = "error" if axis == "depth" else "error²"
    for mode in data["mode"].values:
        of = data.sel(mode=mode)
        yield _Curve(
            label=f"{error}, {mode}",
            law=f"{axis} error, {mode}",
            values=of[f"{axis}_error"],
            se=of[f"{axis}_error_se"],
        )
    if axis == "depth":
        yield _Curve(
            label="gap in training",
            law="training gap, depth",
            values=data["training_gap"],
            se=data["training_gap_se"],
        )
    else:
        yield _Curve(
            label="gap at step 0",
            law="initial gap, width",
            values=data["initial_gap"],
            se=data["initial_gap_se"],
        )


def _exponent(data: xr.Dataset, law: str) -> str:
    """A fitted exponent with its interval."""
    fit = data.sel(law=law)
    exponent, low, high = formats.interval(fit, "exponent")
    return numbers.with_ends(exponent, low, high, "+.2f")
