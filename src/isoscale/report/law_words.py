"""The depth law in words: the summary of all networks, and the page in Markdown with every table."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import numpy as np
import pandas as pd
import xarray as xr

from isoscale.report.law_tables import bent, law_tables, learning

# What each table shows, by its title.
_NOTES = {
    "Law": "Exponent of the swept optimum in the number of blocks (plain nets: layers), with the t-based 95 % interval "
    "of least squares in log-log. Curvature: change of the exponent each time the depth doubles; where its "
    "interval excludes 0 no power law holds. `agrees`: the interval meets the published one (or -3/2) and "
    "excludes the rivals 0, -1/2, -1 and -2; one that holds a rival, too, cannot tell. Of depths learn: at how many "
    "the optimum ends below chance; all optima enter the fit, but one that learns nothing says nothing of learning "
    "rates.",
    "Optima": "lr*: least mean training loss over all steps, averaged over seeds; interval over seeds. Loss, "
    "final (last tenth of the steps), learns (final loss two standard errors below chance, ln of the classes) and "
    "diverged seeds: at the trained learning rate nearest to lr*. Seeds that diverge are left out of means, unless "
    "they are half of them: beside a cliff lr* leans towards it. Sweep-free: "
    "maximal-update learning rate at initialisation ± 2 standard errors. Trials: counted by length (a pilot is a "
    "quarter), all that ran. Where the best learning rate lay at an end of the range, or none was stable, the range "
    "was extended, as far as lr_limits (settings) say. `<=`, `>=`: an optimum at the end even so; `none stable`: no "
    "learning rate trains most seeds. Neither enters a fit.",
    "Without a sweep": "Exponent of the sweep-free estimate, and how far the swept optimum lies above it, in octaves, "
    "at the shallowest and at the deepest depth.",
    "Which depth predicts": "The deepest optimum is left out of the fit; error in octaves, predicted above measured "
    "positive. With the fitted exponent, and with -3/2 and a fitted constant. Blocks: residual blocks or layers. "
    "Effective: shortest path. PathSum: its cube root.",
    "Segments": "Fit on the first depths, mean and largest absolute error on the others, in octaves.",
    "Zero-shot": "The deepest network trained at learning rates from shallower ones only. Tuned: its own trained "
    "learning rate of least loss that every seed survived. Sweep-free: its estimate, times the mean ratio of optimum "
    "and estimate of the shallower ones. Loss: mean over all steps (± standard error over seeds); final: last tenth of "
    "the steps; regret: loss above the tuned one's, seed by seed. "
    "`unchanged`, `depth-mup`, `completep`: the shallowest network's optimum, under rule sp, depth-mup, completep.",
}


def law_page(law: Any, *, heading: str, command: str, figure: str | None = None) -> str:
    """The tables and the summary as a page in Markdown, with the settings and the command that gives it.

    Args:
        law: As for `law_tables`.
        heading: Of the page.
        command: That gives these numbers again.
        figure: Path of the figure, beside the page.
    """
    parts = [f"# {heading}", law_summary(law.data), f"    {command}"]
    if figure:
        parts.append(f"![Best learning rate against depth]({figure})")
    for title, table in law_tables(law).items():
        parts += [f"## {title}", _NOTES[title], markdown(table)]
    parts += ["## Settings", markdown(_settings(law.data))]
    parts.append(_count(law.runs))
    return "\n\n".join(parts) + "\n"


def law_summary(data: xr.Dataset) -> str:
    """Where the claim holds and where it does not, in one paragraph."""
    networks = data["network"].values.astype(str)
    parts = []
    for words, which in _outcomes(data).items():
        if which.any():
            parts.append(f"{words}: {', '.join(networks[which])}.")
    # An exponent is fitted to three optima or more.
    idle = [name for name in networks if learning(data.sel(network=name)) < 3]
    if idle:
        listed = ", ".join(idle)
        parts.append(f"Fewer than three depths end below chance, so no exponent of learning is measured: {listed}.")
    return " ".join(parts)


def _outcomes(data: xr.Dataset) -> dict[str, np.ndarray]:
    """Every outcome in words, and for each network whether it is its outcome."""
    verdicts = data["claim_verdict"].values.astype(str)
    bends = np.array([bent(data.sel(network=name)) for name in data["network"].values])
    agrees = verdicts == "agrees"
    return {
        "The claimed exponent -3/2 lies inside the interval, and no curvature is seen": agrees & ~bends,
        "-3/2 lies inside the interval, but the optima bend: no power law": agrees & bends,
        "The interval has -3/2 in it but is too wide to tell it from -1 or -2": verdicts == "cannot tell",
        "The learning rate falls less steeply than -3/2": verdicts == "shallower",
        "It falls more steeply than -3/2": verdicts == "steeper",
        "No verdict, for want of optima": verdicts == "no verdict",
    }


def markdown(table: pd.DataFrame) -> str:
    """A table as Markdown."""
    rule = ["---"] * len(table.columns)
    lines = []
    for cells in (table.columns, rule, *table.values):
        # A bar would end the cell that it stands in.
        texts = [str(cell).replace("|", "/") for cell in cells]
        lines.append(f"| {' | '.join(texts)} |")
    return "\n".join(lines)


# --- how it was run ---
def _settings(data: xr.Dataset) -> pd.DataFrame:
    """What every network shares once, what differs network by network."""
    settings: dict[str, dict[str, Any]] = {}
    for name, text in zip(data["network"].values, data["settings"].values, strict=True):
        settings[str(name)] = json.loads(str(text))
    shared = dict(_shared(list(settings.values())))
    rows = [{"network": "all", "setting": _words(shared)}]
    for name, of in settings.items():
        own = {key: value for key, value in of.items() if key not in shared}
        if own:
            rows.append({"network": name, "setting": _words(own)})
    return pd.DataFrame(rows)


def _shared(settings: list[dict[str, Any]]) -> Iterator[tuple[str, Any]]:
    """What has the same value everywhere."""
    for key, value in settings[0].items():
        if all(of.get(key) == value for of in settings):
            yield key, value


def _words(settings: dict[str, Any]) -> str:
    """Settings on one line."""
    words = []
    for key, value in settings.items():
        is_nested = isinstance(value, (dict, list))
        shown = json.dumps(value) if is_nested else value
        words.append(f"{key} {shown}")
    return "; ".join(words)


def _count(runs: pd.DataFrame) -> str:
    """How many runs, and how they ended."""
    counts = runs["status"].value_counts()
    ended = [f"{count} {status}" for status, count in counts.items()]
    return f"{len(runs)} runs: {', '.join(ended)}."
