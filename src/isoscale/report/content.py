"""What the page says, as plain text and lists of it; the template decides how it looks."""

from __future__ import annotations

import json
from typing import Any

import xarray as xr

from isoscale.report import formats


def rules(data: xr.Dataset) -> list[dict[str, Any]]:
    """One entry a rule, good ones first: its row of the table and, size by size, every number."""
    return [
        {**formats.row(data, rule), "good": formats.is_good(data, rule), **_by_size(data, rule)}
        for rule in formats.ordered(data)
    ]


def _by_size(data: xr.Dataset, rule: str) -> dict[str, list[Any]]:
    """The cells of a rule, a list over the sizes for each quantity."""
    cells = {
        "lrs": lambda size: (formats.lr_cell(data, rule, size), formats.lr_interval(data, rule, size)),
        "drifts": lambda size: formats.drift_cell(data, rule, size),
        "regrets": lambda size: formats.regret_cell(data, rule, size),
        "losses": lambda size: formats.loss_cell(data, rule, size),
    }
    return {name: [cell(size) for size in formats.sizes(data)] for name, cell in cells.items()}


def facts(data: xr.Dataset) -> dict[str, str]:
    """How the experiment was run, as pairs of a word and what stands behind it."""
    attrs = data.attrs
    return {
        "Model": str(attrs["model"]),
        formats.axis(data).capitalize(): formats.listing(formats.sizes(data)),
        "Data": " \N{EM DASH} ".join(str(attrs[name]) for name in ("dataset", "dataset_note") if attrs[name]),
        "Optimizer": str(attrs["optimizer"]),
        "Learning rates": _grid(data),
        "Seeds": formats.listing(int(seed) for seed in data.seed.values),
        "Trials": _trials(data),
        "Time of this run": duration(float(attrs["seconds"])),
        "Finished": str(attrs["created"]).replace("T", " ").replace("Z", " UTC"),
        "Versions": ", ".join(f"{name} {version}" for name, version in json.loads(attrs["versions"]).items()),
    }


def _grid(data: xr.Dataset) -> str:
    """The learning rates: "11, from 2⁻⁸ to 2²"."""
    first, last = (formats.power(float(data.lr[end])) for end in (0, -1))
    return f"{data.sizes['lr']}, from {first} to {last}" if data.sizes["lr"] > 1 else first


def _trials(data: xr.Dataset) -> str:
    """How many, and what became of them."""
    trials, diverged, failed = (int(data.attrs[name]) for name in ("trials", "diverged", "failed"))
    return f"{trials:,}: {trials - diverged - failed:,} finished, {diverged:,} diverged, {failed:,} failed"


def duration(seconds: float) -> str:
    """A time as a person says it.

    >>> duration(0.4), duration(93.5), duration(7260)
    ('under a second', '1 min 34 s', '2 h 1 min')
    """
    if seconds < 1:
        return "under a second"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    if hours:
        return f"{hours} h {minutes} min"
    return f"{minutes} min {rest} s" if minutes else f"{rest} s"


def spoken(data: xr.Dataset, figure: str) -> str:
    """What a figure shows, in words, for those who hear the page."""
    if figure == "loss":
        verdicts = ". ".join(f"{rule}: {data.verdict.sel(rule=rule).item()}" for rule in formats.ordered(data))
        return f"Final training loss against learning rate, one panel a rule. {verdicts}."
    size = formats.axis(data)
    laws = (f"{rule}: exponent {formats.exponent_text(data, rule) or 'unknown'}" for rule in formats.ordered(data))
    return f"Best learning rate against {size}, one line a rule. {'. '.join(laws)}."
