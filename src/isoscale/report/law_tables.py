"""The depth law in tables and words: published, measured and verdict for every network, nothing left out.

The tables are `isoscale.depth_law`'s own numbers as text, for the terminal and for a page in Markdown.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd
import xarray as xr

from isoscale.report.formats import NOTHING

# Half-width of an interval in standard errors.
_SE = 1.96

_BENT = {True: "no, it bends", False: "not refuted"}

_NOTES = {
    "Law": "Exponent of the swept optimum in the number of blocks (plain nets: layers), with the t-based 95 % interval "
    "of least squares in log-log. Curvature: change of the exponent each time the depth doubles; where its "
    "interval excludes 0 no power law holds. `agrees`: the interval meets the published one (or -3/2) and is at most "
    "0.5 wide on either side; a wider one that meets it cannot tell. Of depths learn: at how many the optimum ends "
    "below chance; all optima enter the fit, but one that learns nothing says nothing of learning rates.",
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


def law_tables(law: Any) -> dict[str, pd.DataFrame]:
    """The tables of `isoscale.depth_law`'s result, by title, every cell as text.

    Args:
        law: A `DepthLaw`, or anything with its `data`, `predictions`, `segments` and `zero_shot`.
    """
    networks = [str(name) for name in law.data["network"].values]
    of = {network: law.data.sel(network=network) for network in networks}
    tables = {
        "Law": _table(of, _law_row),
        "Without a sweep": _table(of, _free_row),
        "Which depth predicts": _pivoted(law.predictions, "octaves", "{:+.2f}"),
        "Segments": _segments(law.segments),
        "Zero-shot": _zero_shot(law.zero_shot),
        "Optima": pd.concat([_optima(cell, name) for name, cell in of.items()], ignore_index=True),
    }
    return {title: table for title, table in tables.items() if len(table)}


def law_page(law: Any, *, heading: str, command: str, figure: str | None = None) -> str:
    """The same as a page in Markdown, with the settings and the command that gives it.

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
    parts += ["## Settings", markdown(_settings(law.data)), _count(law.runs)]
    return "\n\n".join(parts) + "\n"


def law_summary(data: xr.Dataset) -> str:
    """Where the claim holds and where it does not, in one paragraph."""
    names = data["network"].values.astype(str)
    verdicts = data["claim_verdict"].values.astype(str)
    bent = np.array([_bent(data.sel(network=name)) for name in names])
    groups = {
        "The claimed exponent -3/2 lies inside the interval, and no curvature is seen": (verdicts == "agrees") & ~bent,
        "-3/2 lies inside the interval, but the optima bend: no power law": (verdicts == "agrees") & bent,
        "The interval has -3/2 in it but is too wide to tell it from -1 or -2": verdicts == "cannot tell",
        "The learning rate falls less steeply than -3/2": verdicts == "shallower",
        "It falls more steeply than -3/2": verdicts == "steeper",
        "No verdict, for want of optima": verdicts == "no verdict",
    }
    parts = [f"{words}: {', '.join(names[which])}." for words, which in groups.items() if which.any()]
    idle = np.array([_learning(data.sel(network=name)) < 3 for name in names])
    if idle.any():
        listed = ", ".join(names[idle])
        parts.append(f"Fewer than three depths end below chance, so no exponent of learning is measured: {listed}.")
    return " ".join(parts)


def markdown(table: pd.DataFrame) -> str:
    """A table as Markdown."""
    lines = [table.columns, ["---"] * len(table.columns), *table.values]
    return "\n".join(f"| {' | '.join(str(cell).replace('|', '/') for cell in line)} |" for line in lines)


# --- rows ---
def _table(networks: Mapping[str, xr.Dataset], row: Any) -> pd.DataFrame:
    return pd.DataFrame([{"network": name} | row(cell) for name, cell in networks.items()])


def _law_row(of: xr.Dataset) -> dict[str, str]:
    low, high = float(of["published_low"]), float(of["published_high"])
    kind = str(of["published_kind"].item())
    printed = f"{low:.2f}" if low == high else f"{low:.2f} to {high:.2f}"
    return {
        "published": f"{printed} ({kind})" if kind else NOTHING,
        "measured": _exponent(of, ""),
        "R²": _number(of["r2"], "{:.3f}"),
        "optima": f"{float(of['points']):.0f}",
        "of depths learn": f"{_learning(of)} of {int(np.isfinite(of['trials']).sum())}",
        "curvature": _interval(of, "curvature", "{:+.2f}"),
        "power law?": _BENT[_bent(of)] if math.isfinite(float(of["curvature_low"])) else NOTHING,
        "against -3/2": str(of["claim_verdict"].item()),
        "against published": str(of["published_verdict"].item()),
    }


def _learning(of: xr.Dataset) -> int:
    return int((of["learns"] == 1).sum())


def _bent(of: xr.Dataset) -> bool:
    return bool(of["curvature_low"] > 0 or of["curvature_high"] < 0)


def _free_row(of: xr.Dataset) -> dict[str, str]:
    octaves = np.log2((of["lr"] / of["estimate"]).where(of["at_edge"] == "").values)
    octaves = octaves[np.isfinite(octaves)]
    first, last = (f"{octaves[at]:+.1f}" if len(octaves) else NOTHING for at in (0, -1))
    return {
        "swept": _exponent(of, ""),
        "sweep-free": _exponent(of, "estimate_"),
        "curvature of sweep-free": _interval(of, "estimate_curvature", "{:+.2f}"),
        "swept above it, shallowest": first,
        "deepest": last,
    }


def _optima(of: xr.Dataset, network: str) -> pd.DataFrame:
    rows = []
    for depth in of["depth"].values:
        at = of.sel(depth=depth)
        if not math.isfinite(float(at["trials"])):
            continue
        error = _SE * float(at["estimate_se"])
        row = {"network": network, "L": f"{int(depth)}", "lr*": _optimum(at)}
        row["interval"] = _bounds(float(at["lr_low"]), float(at["lr_high"]), "{:.3g}")
        row["± octaves"], row["loss"] = _number(at["half_width"], "{:.2f}"), _number(at["loss"], "{:.4f}")
        row["final"] = _plus_minus(float(at["final_loss"]), float(at["final_loss_se"]), 0)
        row["learns"] = "yes" if float(at["learns"]) == 1 else "no"
        row["diverged seeds"] = _number(at["seeds_diverged"], "{:.0f}")
        row["sweep-free"] = f"{float(at['estimate']):.3g} ± {error:.1g}" if math.isfinite(error) else NOTHING
        rows.append(row | {"trials": _number(at["full_trials"], "{:.0f}")})
    return pd.DataFrame(rows)


def _optimum(at: xr.Dataset) -> str:
    edge = str(at["at_edge"].item())
    if edge == "none":
        return "none stable"
    return {"low": "<= ", "high": ">= ", "": ""}[edge] + f"{float(at['lr']):.3g}"


def _pivoted(table: pd.DataFrame, value: str, form: str) -> pd.DataFrame:
    """A row a network, a column each measure of depth and law."""
    if table.empty:
        return table
    keys = table["measure"].replace({"path_sum": "PathSum"}) + ", " + table["law"].replace({"claimed": "-3/2"})
    wide = table.assign(key=keys).pivot(index="network", columns="key", values=value)
    wide = wide.loc[list(dict.fromkeys(table["network"])), list(dict.fromkeys(keys))]
    nearest = wide.abs().idxmin(axis=1)
    return wide.map(form.format).assign(best=nearest).reset_index()


def _segments(table: pd.DataFrame) -> pd.DataFrame:
    if table.empty:
        return table
    of_blocks = table[table["measure"] == "blocks"]
    keys = ["network", "segment", "depths"]
    wide = of_blocks.pivot(index=keys, columns="law", values=["exponent", "octaves", "worst"])
    rows = wide.reindex(list(dict.fromkeys(of_blocks[keys].itertuples(index=False, name=None))))
    cells: dict[str, Any] = {"exponent fitted": rows[("exponent", "fitted")].map("{:.2f}".format)}
    for law, name in (("fitted", "fitted"), ("claimed", "-3/2")):
        both = zip(rows[("octaves", law)], rows[("worst", law)], strict=True)
        cells[f"{name}: mean (worst)"] = [f"{mean:.2f} ({worst:.2f})" for mean, worst in both]
    return pd.DataFrame(cells, index=rows.index).reset_index()


def _zero_shot(table: pd.DataFrame) -> pd.DataFrame:
    if table.empty:
        return table
    rows = [
        {
            "network": row["network"],
            "method": row["method"],
            "lr": f"{row['lr']:.3g}",
            "loss": _plus_minus(row["loss"], row["loss_se"], row["diverged"]),
            "final": _plus_minus(row["final_loss"], row["final_loss_se"], row["diverged"]),
            "regret": NOTHING if row["method"] == "tuned" else _plus_minus(row["regret"], row["regret_se"], 0, "+"),
        }
        for row in table.to_dict("records")
    ]
    return pd.DataFrame(rows)


def _settings(data: xr.Dataset) -> pd.DataFrame:
    """What every network shares once, what differs network by network."""
    both = zip(data["network"].values, data["settings"].values, strict=True)
    settings = {str(name): json.loads(str(text)) for name, text in both}
    first = next(iter(settings.values()))
    shared = {key: value for key, value in first.items() if all(of.get(key) == value for of in settings.values())}
    rows = [{"network": "all", "setting": _words(shared)}]
    for name, of in settings.items():
        own = {key: value for key, value in of.items() if key not in shared}
        rows += [{"network": name, "setting": _words(own)}] if own else []
    return pd.DataFrame(rows)


def _words(settings: Mapping[str, Any]) -> str:
    return "; ".join(
        f"{key} {json.dumps(value) if isinstance(value, (dict, list)) else value}" for key, value in settings.items()
    )


def _count(runs: pd.DataFrame) -> str:
    counts = runs["status"].value_counts()
    return f"{len(runs)} runs: " + ", ".join(f"{count} {status}" for status, count in counts.items()) + "."


# --- numbers ---
def _number(value: Any, form: str) -> str:
    return form.format(float(value)) if math.isfinite(float(value)) else NOTHING


def _bounds(low: float, high: float, form: str) -> str:
    if not (math.isfinite(low) or math.isfinite(high)):
        return NOTHING
    return f"[{_number(low, form)}, {_number(high, form)}]"


def _interval(of: xr.Dataset, name: str, form: str) -> str:
    value = _number(of[name], form)
    low, high = float(of[f"{name}_low"]), float(of[f"{name}_high"])
    return f"{value} {_bounds(low, high, form)}" if math.isfinite(low) else value


def _exponent(of: xr.Dataset, prefix: str) -> str:
    return _interval(of, f"{prefix}exponent", "{:.2f}")


def _plus_minus(value: float, error: float, diverged: int, sign: str = "") -> str:
    if diverged:
        return f"{diverged} diverged"
    if not math.isfinite(value):
        return NOTHING
    tail = f" ± {error:.2g}" if math.isfinite(error) else ""
    return f"{value:{sign}.4f}{tail}"
