"""What the page says, as plain text and lists of it; the template decides how it looks."""

from __future__ import annotations

import json
from typing import Any

import xarray as xr

from isoscale.report import formats, numbers


def rules(data: xr.Dataset) -> list[dict[str, Any]]:
    """One entry per rule, good ones first: its row of the table and, size by size, every number."""
    entries = []
    for rule in formats.ordered(data):
        entry = {
            **formats.row(data, rule),
            "standing": formats.standing(data, rule),
            "verdict": formats.verdict(data, rule),
            "signed_verdict": formats.verdict_cell(data, rule),
            "reason": formats.reason(data, rule),
            "rate_used": formats.rate_cell(data, rule),
            **_at_target(data, rule),
            **_by_size(data, rule),
        }
        entries.append(entry)
    return entries


def _at_target(data: xr.Dataset, rule: str) -> dict[str, str]:
    """What the question is about: the largest size, at its own rate and at the one that was handed on."""
    target = formats.target(data)
    return {
        "share": formats.regret_share(data, rule, target),
        "tuned": formats.loss_cell(data, rule, target),
        "transferred": formats.transferred_cell(data, rule, target),
        "test_tuned": formats.tuned_test_cell(data, rule, target),
        "test_transferred": formats.transferred_test_cell(data, rule, target),
    }


def _by_size(data: xr.Dataset, rule: str) -> dict[str, list[Any]]:
    """The cells of a rule, a list over the sizes for each quantity."""
    cells: dict[str, list[Any]] = {}
    for size in formats.sizes(data):
        row = {
            "lrs": (formats.lr_cell(data, rule, size), formats.lr_interval(data, rule, size)),
            "drifts": formats.drift_cell(data, rule, size),
            "regrets": formats.regret_cell(data, rule, size),
            "losses": formats.loss_cell(data, rule, size),
            "at_rate": formats.transferred_cell(data, rule, size),
            "tests": formats.tuned_test_cell(data, rule, size),
        }
        for name, cell in row.items():
            cells.setdefault(name, []).append(cell)
    return cells


def next_runs(data: xr.Dataset) -> list[str]:
    """The runs that would tell where a verdict is open."""
    return json.loads(data.attrs.get("next_runs", "[]"))


def tuned(data: xr.Dataset) -> dict[str, list[Any]]:
    """Columns and rows of the verdicts on several tuned hyperparameters; empty if only one was tuned."""
    table = formats.tuned_table(data)
    return {"columns": table.columns.tolist(), "rows": table.values.tolist()}


def facts(data: xr.Dataset) -> dict[str, str]:
    """How the experiment was run, as pairs of a word and what stands behind it."""
    attrs = data.attrs
    axis = formats.axis(data)
    sizes = formats.sizes(data)
    seeds = data.seed.values.tolist()
    seconds = float(attrs["seconds"])
    known = {
        "Model": str(attrs["model"]),
        axis.capitalize(): numbers.listing(sizes),
        "Data": _dataset(data),
        "Optimizer": str(attrs["optimizer"]),
        _plural(data): _learning_rates(data),
        "Seeds": numbers.listing(seeds),
        "Trials": _trials(data),
        "Searches": str(attrs.get("searched", "")),
        "Time of this run": duration(seconds),
        "Finished": _finished(data),
        "Versions": _versions(data),
        "Notes": "; ".join(json.loads(attrs.get("notes", "[]"))),
    }
    # Of runs that somebody else trained less is known.
    return {word: fact for word, fact in known.items() if fact}


def _plural(data: xr.Dataset) -> str:
    """What was tried, as a heading: "Learning rates"."""
    what = formats.what(data)
    return "Learning rates" if what == "learning rate" else f"Values of {what}"


def _dataset(data: xr.Dataset) -> str:
    """The data set's name and what is to be said of it, if anything."""
    name = str(data.attrs["dataset"])
    note = str(data.attrs["dataset_note"])
    return " \N{EM DASH} ".join(part for part in (name, note) if part)


def _learning_rates(data: xr.Dataset) -> str:
    """How many were trained at, and between which: "11, from 2⁻⁸ to 2²"."""
    count = data.sizes["lr"]
    first = numbers.power(float(data.lr[0]))
    last = numbers.power(float(data.lr[-1]))
    if count == 1:
        return first
    return f"{count}, from {first} to {last}"


def _trials(data: xr.Dataset) -> str:
    """How many, and what became of them."""
    trials = int(data.attrs["trials"])
    diverged = int(data.attrs["diverged"])
    failed = int(data.attrs["failed"])
    stopped = int(data.attrs.get("stopped", 0))
    finished = trials - diverged - failed - stopped
    counts = f"{finished:,} finished, {diverged:,} diverged"
    if stopped:
        counts += f", {stopped:,} stopped early"
    return f"{trials:,}: {counts}, {failed:,} failed"


def _finished(data: xr.Dataset) -> str:
    """The ISO date without its letters."""
    date = str(data.attrs["created"])
    return date.replace("T", " ").replace("Z", " UTC")


def _versions(data: xr.Dataset) -> str:
    """Packages with their versions."""
    versions = json.loads(data.attrs["versions"])
    return ", ".join(f"{name} {version}" for name, version in versions.items())


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
    if minutes:
        return f"{minutes} min {rest} s"
    return f"{rest} s"


def spoken(data: xr.Dataset, figure: str) -> str:
    """What a figure shows, in words, for those who hear the page."""
    rules = formats.ordered(data)
    verdicts = [f"{rule}: {formats.verdict(data, rule)}" for rule in rules]
    words = ". ".join(verdicts)
    if figure == "loss":
        name = formats.quantity(data)
        measured = "Final training loss" if name == "loss" else f"Final {name}"
        return f"{measured} against {formats.what(data)}, one panel a rule. {words}."
    if figure == "training":
        target = formats.words(data, formats.target(data))
        return f"Training loss of {target} at its best rate and at the rate used, one panel a rule. {words}."
    exponents = []
    for rule in rules:
        exponent = formats.exponent_text(data, rule) or "unknown"
        exponents.append(f"{rule}: exponent {exponent}")
    axis = formats.axis(data)
    words = ". ".join(exponents)
    return f"Best {formats.what(data)} against {axis}, one line a rule. {words}."
