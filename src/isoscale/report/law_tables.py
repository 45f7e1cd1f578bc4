"""The depth law in tables: published, measured and verdict for every network, nothing left out.

The tables are `isoscale.depth_law`'s own numbers as text, for the terminal and for a page in Markdown.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from typing import Any

import numpy as np
import pandas as pd
import xarray as xr

from isoscale.report import formats
from isoscale.report.numbers import NOTHING, SE, ends, with_ends, written

# Names of the papers for what the numbers call otherwise.
_MEASURES = {"path_sum": "PathSum"}
_LAWS = {"claimed": "-3/2"}
_BOUND = {"low": "<= ", "high": ">= ", "": ""}


def law_tables(law: Any) -> dict[str, pd.DataFrame]:
    """The tables of `isoscale.depth_law`'s result, by title, every cell as text.

    Args:
        law: A `DepthLaw`, or anything with its `data`, `predictions`, `segments` and `zero_shot`.
    """
    tables = {
        "Law": _by_network(law.data, _law_row),
        "Without a sweep": _by_network(law.data, _free_row),
        "Which depth predicts": _predictions(law.predictions),
        "Segments": _segments(law.segments),
        "Zero-shot": _zero_shot(law.zero_shot),
        "Optima": _optima(law.data),
    }
    return {title: table for title, table in tables.items() if len(table)}


def learning(of: xr.Dataset) -> int:
    """At how many depths a network learns anything."""
    return int((of["learns"] == 1).sum())


def bent(of: xr.Dataset) -> bool:
    """Whether a network's optima refute a power law: the curvature's interval excludes 0."""
    return bool(of["curvature_low"] > 0 or of["curvature_high"] < 0)


# --- one row per network ---
def _by_network(data: xr.Dataset, cells: Callable[[xr.Dataset], dict[str, str]]) -> pd.DataFrame:
    rows = []
    for network in data["network"].values:
        name = str(network)
        of = data.sel(network=name)
        rows.append({"network": name} | cells(of))
    return pd.DataFrame(rows)


def _law_row(of: xr.Dataset) -> dict[str, str]:
    depths = int(np.isfinite(of["trials"]).sum())
    return {
        "published": _published(of),
        "measured": _with_ends(of, "exponent", ".2f"),
        "R²": written(of["r2"], ".3f"),
        "optima": f"{float(of['points']):.0f}",
        "of depths learn": f"{learning(of)} of {depths}",
        "curvature": _with_ends(of, "curvature", "+.2f"),
        "power law?": _power_law(of),
        "against -3/2": str(of["claim_verdict"].item()),
        "against published": str(of["published_verdict"].item()),
    }


def _published(of: xr.Dataset) -> str:
    """The published exponents of networks of this kind: "-1.39 to -1.34 (CNN)"."""
    kind = str(of["published_kind"].item())
    if not kind:
        return NOTHING
    low = float(of["published_low"])
    high = float(of["published_high"])
    printed = f"{low:.2f}" if low == high else f"{low:.2f} to {high:.2f}"
    return f"{printed} ({kind})"


def _power_law(of: xr.Dataset) -> str:
    if not math.isfinite(float(of["curvature_low"])):
        return NOTHING
    return "no, it bends" if bent(of) else "not refuted"


def _free_row(of: xr.Dataset) -> dict[str, str]:
    inside = of["at_edge"] == ""
    ratios = (of["lr"] / of["estimate"]).where(inside)
    octaves = np.log2(ratios.values)
    octaves = octaves[np.isfinite(octaves)]
    shallowest, deepest = NOTHING, NOTHING
    if len(octaves):
        shallowest = f"{octaves[0]:+.1f}"
        deepest = f"{octaves[-1]:+.1f}"
    return {
        "swept": _with_ends(of, "exponent", ".2f"),
        "sweep-free": _with_ends(of, "estimate_exponent", ".2f"),
        "curvature of sweep-free": _with_ends(of, "estimate_curvature", "+.2f"),
        "swept above it, shallowest": shallowest,
        "deepest": deepest,
    }


def _with_ends(of: xr.Dataset, name: str, form: str) -> str:
    middle, low, high = formats.interval(of, name)
    return with_ends(middle, low, high, form)


# --- one row per depth ---
def _optima(data: xr.Dataset) -> pd.DataFrame:
    rows = []
    for network in data["network"].values:
        for depth in data["depth"].values:
            at = data.sel(network=network, depth=depth)
            trials = float(at["trials"])
            # Networks share the depth axis; a depth without trials is another network's.
            if math.isfinite(trials):
                cells = _optimum_row(at, str(network))
                rows.append(cells)
    return pd.DataFrame(rows)


def _optimum_row(at: xr.Dataset, network: str) -> dict[str, str]:
    _, low, high = formats.interval(at, "lr")
    final, final_se = float(at["final_loss"]), float(at["final_loss_se"])
    return {
        "network": network,
        "L": f"{int(at['depth'])}",
        "lr*": _optimum(at),
        "interval": ends(low, high, ".3g"),
        "± octaves": written(at["half_width"], ".2f"),
        "loss": written(at["loss"], ".4f"),
        "final": _plus_minus(final, final_se),
        "learns": "yes" if float(at["learns"]) == 1 else "no",
        "diverged seeds": written(at["seeds_diverged"], ".0f"),
        "sweep-free": _estimate(at),
        "trials": written(at["full_trials"], ".0f"),
    }


def _optimum(at: xr.Dataset) -> str:
    edge = str(at["at_edge"].item())
    if edge == "none":
        return "none stable"
    lr = float(at["lr"])
    return f"{_BOUND[edge]}{lr:.3g}"


def _estimate(at: xr.Dataset) -> str:
    """The sweep-free learning rate with half its 95 % interval."""
    lr = float(at["estimate"])
    half = SE * float(at["estimate_se"])
    if not math.isfinite(half):
        return NOTHING
    return f"{lr:.3g} ± {half:.1g}"


# --- what the laws predict ---
def _predictions(table: pd.DataFrame) -> pd.DataFrame:
    """One row per network, a column for each measure of depth with each law: errors in octaves, and the best."""
    if table.empty:
        return table
    measures = table["measure"].replace(_MEASURES)
    laws = table["law"].replace(_LAWS)
    keys = measures + ", " + laws
    keyed = table.assign(key=keys)
    errors = keyed.pivot(index="network", columns="key", values="octaves")
    # A pivot sorts; the reader gets networks and measures in the order in which they were measured.
    errors = errors.loc[_distinct(table["network"]), _distinct(keys)]
    best = errors.abs().idxmin(axis=1)
    cells = errors.map("{:+.2f}".format)
    return cells.assign(best=best).reset_index()


def _segments(table: pd.DataFrame) -> pd.DataFrame:
    """One row per network and segment: the exponent, and the errors of both laws on the other depths."""
    if table.empty:
        return table
    of_blocks = table[table["measure"] == "blocks"]
    keys = ["network", "segment", "depths"]
    wide = of_blocks.pivot(index=keys, columns="law", values=["exponent", "octaves", "worst"])
    in_order = of_blocks[keys].itertuples(index=False, name=None)
    rows = wide.reindex(_distinct(in_order))
    exponents = rows[("exponent", "fitted")]
    cells: dict[str, Any] = {"exponent fitted": exponents.map("{:.2f}".format)}
    for law in ("fitted", "claimed"):
        name = _LAWS.get(law, law)
        means = rows[("octaves", law)]
        worsts = rows[("worst", law)]
        errors = [f"{mean:.2f} ({worst:.2f})" for mean, worst in zip(means, worsts, strict=True)]
        cells[f"{name}: mean (worst)"] = errors
    return pd.DataFrame(cells, index=rows.index).reset_index()


def _zero_shot(table: pd.DataFrame) -> pd.DataFrame:
    """One row per network and way to a learning rate: what the deepest network makes of it."""
    rows = []
    for row in table.to_dict("records"):
        diverged = row["diverged"]
        # Regret is measured against the tuned learning rate, which so has none.
        is_tuned = row["method"] == "tuned"
        regret = _plus_minus(row["regret"], row["regret_se"], sign="+")
        cells = {
            "network": row["network"],
            "method": row["method"],
            "lr": f"{row['lr']:.3g}",
            "loss": _plus_minus(row["loss"], row["loss_se"], diverged),
            "final": _plus_minus(row["final_loss"], row["final_loss_se"], diverged),
            "regret": NOTHING if is_tuned else regret,
        }
        rows.append(cells)
    return pd.DataFrame(rows)


def _plus_minus(value: float, error: float, diverged: int = 0, sign: str = "") -> str:
    """A loss with its standard error, or how many seeds have none."""
    if diverged:
        return f"{diverged} diverged"
    if not math.isfinite(value):
        return NOTHING
    number = f"{value:{sign}.4f}"
    if not math.isfinite(error):
        return number
    return f"{number} ± {error:.2g}"


def _distinct(items: Iterable[Any]) -> list[Any]:
    """Each once, in the order of their first appearance."""
    return list(dict.fromkeys(items))
