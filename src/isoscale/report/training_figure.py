"""Training loss against the step at the largest size: at its own best learning rate, and at the one handed on."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import xarray as xr

from isoscale.report import drawing, formats, numbers
from isoscale.report.loss_figure import Grid
from isoscale.report.loss_scale import LOG_FROM

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# Steps are averaged until no more points than that are left.
POINTS = 100


class _Line(NamedTuple):
    """The mean over seeds of one learning rate, and what to call it."""

    name: str
    color: str
    steps: np.ndarray
    loss: np.ndarray


def training_curves(data: xr.Dataset, *, narrow: bool = False) -> Figure:
    """Training curves of the largest size, one panel per rule: at its best rate and at the rate used.

    Args:
        data: The result, as `isoscale.report.formats` describes it.
        narrow: One column of panels, for a telephone.

    Returns:
        The figure; save it with its own `savefig`.
    """
    rules = formats.ordered(data)
    lines = {rule: _lines(data, rule) for rule in rules}
    losses = np.concatenate([line.loss for of_rule in lines.values() for line in of_rule] or [np.empty(0)])
    losses = losses[np.isfinite(losses)]
    grid = Grid(panels=len(rules), strip=0.0, narrow=narrow, title=0.55, plot=2.0, labels=0.9)
    with drawing.style():
        figure = drawing.blank(grid.width, grid.height)
        for index, rule in enumerate(rules):
            axes = grid.panel(figure, index)
            _frame(axes, data, losses, first=index % grid.columns == 0)
            _panel(axes, data, rule, lines[rule], grid.panel_width)
    return figure


def _lines(data: xr.Dataset, rule: str) -> list[_Line]:
    """The curves of a rule; one where both rates are the same, none where nothing was trained."""
    cell = formats.at(data, rule, formats.target(data))
    tuned = formats.nearest_rate(cell, float(cell.optimal_lr))
    used = _rate_run(cell, float(data.rate_used.sel(rule=rule)))
    named = {tuned: "tuned", used: "transferred"}
    if tuned == used:
        named = {tuned: "tuned and\ntransferred"}
    colours = {"tuned": drawing.RULES[2], "transferred": drawing.INK}
    lines = []
    for lr, name in named.items():
        if math.isnan(lr):
            continue
        steps, loss = _mean_curve(cell.sel(lr=lr))
        lines.append(_Line(name, colours.get(name, drawing.INK), steps, loss))
    return lines


def _rate_run(cell: xr.Dataset, lr: float) -> float:
    """The rate nearest to `lr` that was run, whether it trained or diverged; NaN if none is within a quarter octave."""
    lrs = cell.lr.values[formats.shared_rates(cell)]
    if not len(lrs) or not math.isfinite(lr):
        return math.nan
    octaves = np.abs(np.log2(lrs / lr))
    return float(lrs[octaves.argmin()]) if octaves.min() <= 0.25 else math.nan


def _mean_curve(trials: xr.Dataset) -> tuple[np.ndarray, np.ndarray]:
    """Steps and mean loss over the seeds, up to the first step that some seed did not reach, in at most `POINTS`."""
    is_run = trials.status.values != formats.MISSING
    curves = trials.curve.transpose("seed", "step").values[is_run]
    mean = curves.mean(axis=0)
    is_reached = np.logical_and.accumulate(np.isfinite(mean))
    mean = mean[is_reached].astype(float)
    each = max(1, math.ceil(len(mean) / POINTS))
    whole = len(mean) // each * each
    averaged = mean[:whole].reshape(-1, each).mean(axis=1)
    return each * (np.arange(len(averaged)) + 0.5), averaged


def _frame(axes: Axes, data: xr.Dataset, losses: np.ndarray, *, first: bool) -> None:
    """The same axes for every panel; the first of a row carries the words."""
    if len(losses):
        low, start = float(losses.min()), float(np.quantile(losses, 0.99))
        is_log = low > 0 and start > LOG_FROM * low
        axes.set_yscale("log" if is_log else "linear")
        room = 1.08 if is_log else 1.02
        axes.set_ylim(low / room if low > 0 else low, start * room)
        places = [place for place in axes.get_yticks() if low <= place <= start]
        axes.set_yticks(places, [numbers.written(place, "g") if first else "" for place in places])
    axes.minorticks_off()
    axes.set_xlim(0, data.sizes["step"])
    axes.set_xlabel("step")
    axes.set_ylabel("training loss" if first else "")


def _panel(axes: Axes, data: xr.Dataset, rule: str, lines: list[_Line], inches: float) -> None:
    """The rule's name and its curves, each with its name at its end."""
    name = drawing.shortened(formats.called(rule), round(inches * 9))
    colour = drawing.VERDICTS[formats.standing(data, rule)]
    axes.set_title(f"{formats.mark(data, rule)} {name}", loc="left", fontsize=11, fontweight="bold", color=colour)
    if not any(len(line.loss) for line in lines):
        drawing.write(
            axes,
            "nothing trained",
            at=(0.5, 0.5),
            shift=(0, 0),
            ha="center",
            color=drawing.MUTED,
        )
        return
    ends = []
    for line in lines:
        axes.plot(
            line.steps,
            line.loss,
            color=line.color,
            lw=1.5,
            label=line.name,
        )
        is_cut = len(line.loss) and line.steps[-1] < 0.9 * data.sizes["step"]
        note = f"{line.name}\n(diverges)" if is_cut or not len(line.loss) else line.name
        ends.append((note, line.color, float(line.loss[-1]) if len(line.loss) else math.nan))
    drawing.label_ends(axes, ends)
