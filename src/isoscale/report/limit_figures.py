"""Figures of the infinite limit: training in both versions, the gap between them, and how fast size closes in."""

from __future__ import annotations

import math
from collections.abc import Mapping

import numpy as np
import xarray as xr
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from isoscale.report import drawing


def training(runs: Mapping[str, xr.Dataset]) -> Figure:
    """Loss against step, one line a run with its 95 % interval, labelled where it ends.

    Args:
        runs: By label, data sets with loss(step) and loss_se(step).
    """
    with drawing.style():
        figure = drawing.blank(7.6, 3.7)
        axes = figure.add_axes((0.09, 0.14, 0.6, 0.8))
        axes.set(xlabel="step", ylabel="training loss")
        axes.xaxis.set_major_locator(MaxNLocator("auto", integer=True))
        ends = [
            (label, color, drawing.line(axes, run["step"].values, run["loss"].values, run["loss_se"].values, color))
            for (label, run), color in zip(runs.items(), drawing.RULES, strict=False)
        ]
        axes.set_ylim(bottom=min(0.0, axes.get_ylim()[0]))
        drawing.label_ends(axes, ends)
    return figure


def gap(data: xr.Dataset) -> Figure:
    """How far independent backward weights are from reused ones: against depth at the last step, one line a horizon.

    Args:
        data: What `isoscale.limit.independence_gap` returns.
    """
    last = data.isel(step=-1)
    depths = data["depth"].values
    # Infinity stands one place to the right of the finite depths.
    places = np.where(np.isinf(depths), 2 * np.nanmax(np.where(np.isinf(depths), np.nan, depths)), depths)
    with drawing.style():
        figure = drawing.blank(7.6, 3.7)
        axes = figure.add_axes((0.12, 0.15, 0.62, 0.79))
        axes.set_xscale("log", base=2)
        axes.set(xlabel="depth", ylabel=f"gap in loss at step {int(last['step'])}\n(independent minus reused)")
        names = ["∞" if math.isinf(depth) else f"{depth:g}" for depth in depths]
        axes.set_xticks(places, names)
        axes.minorticks_off()
        axes.axhline(0, color=drawing.MUTED, lw=0.8)
        ends = []
        for horizon, color in zip(data["horizon"].values, drawing.sequence(data.sizes["horizon"]), strict=True):
            of = last.sel(horizon=horizon)
            end = drawing.line(axes, places, of["gap"].values, of["gap_se"].values, color, marker="o")
            ends.append((f"T = {horizon:g}", color, end))
        drawing.label_ends(axes, ends)
    return figure


def rates(data: xr.Dataset) -> Figure:
    """Measured errors against depth and width, log-log, with the fitted exponents.

    Args:
        data: What `isoscale.limit.convergence` returns.
    """
    panels = {
        "depth": [
            *((f"error, {mode}", data["depth_error"].sel(mode=mode), data["depth_error_se"].sel(mode=mode)) for mode in
              data["mode"].values),
            ("gap in training", data["training_gap"], data["training_gap_se"]),
        ],
        "width": [
            *((f"error², {mode}", data["width_error"].sel(mode=mode), data["width_error_se"].sel(mode=mode)) for mode in
              data["mode"].values),
            ("gap at step 0", data["initial_gap"], data["initial_gap_se"]),
        ],
    }  # fmt: skip
    with drawing.style():
        figure = drawing.blank(11.6, 3.8)
        for index, (axis, lines) in enumerate(panels.items()):
            axes = figure.add_axes((0.065 + 0.5 * index, 0.14, 0.25, 0.8))
            axes.set_xscale("log", base=2)
            axes.set_yscale("log")
            axes.yaxis.set_major_formatter(lambda value, _: f"{value:g}")
            axes.set(xlabel=axis, xticks=data[axis].values, xticklabels=[f"{size:g}" for size in data[axis].values])
            axes.minorticks_off()
            ends = []
            for (label, values, se), color in zip(lines, drawing.RULES, strict=False):
                end = drawing.line(axes, data[axis].values, values.values, se.values, color, marker="o")
                ends.append((f"{label}\n{_exponent(data, axis, label)}", color, end))
            drawing.label_ends(axes, ends)
    return figure


def _exponent(data: xr.Dataset, axis: str, label: str) -> str:
    kind, _, mode = label.partition(", ")
    law = (
        f"{axis} error, {mode}" if mode else {"gap in training": "training gap, depth"}.get(kind, "initial gap, width")
    )
    of = data.sel(law=law)
    return f"{float(of['exponent']):+.2f} [{float(of['exponent_low']):+.2f}, {float(of['exponent_high']):+.2f}]"
