"""Cells of the terminal's table and of the page's: every number of a result in words, as plain text.

What the report is handed (`axis` is `data.attrs["axis"]`, the size dimension's name, "depth" or "width"):

    loss, status (rule, axis, lr, seed)     final training loss; 0 done, 1 diverged, 2 failed
    optimal_lr, _low, _high (rule, axis)    the best learning rate and its interval
    at_edge (rule, axis)                    "" inside the grid, "low" (<=) or "high" (>=) on its edge, "none"
    best_loss, best_loss_se (rule, axis)    loss at the optimum
    drift, _low, _high (rule, axis)         log2(optimum / optimum at the base), octaves
    regret, _low, _high (rule, axis)        loss(transferred LR) - loss(optimum), inf where that LR diverges
    exponent, _low, _high, coefficient (rule)   optimal_lr = coefficient * size^exponent
    verdict, good (rule)                    short text, 1 or 0

Attributes: axis, base, question, answer, model, dataset, dataset_note, optimizer, created, seconds, trials,
diverged, failed, versions (JSON), spec (TOML) and, if there was one, command. A number that does not exist is NaN.
"""

from __future__ import annotations

import math

import pandas as pd
import xarray as xr

from isoscale.report import numbers

GOOD, BAD = "\N{CHECK MARK}", "\N{BALLOT X}"
FAILED = 2

# A bound on the optimum, by the edge of the grid that it sits on.
BOUND = {"low": "\N{LESS-THAN OR EQUAL TO} ", "high": "\N{GREATER-THAN OR EQUAL TO} "}


# --- the result's parts ---
def axis(data: xr.Dataset) -> str:
    """The name of the size dimension: "depth" or "width"."""
    return str(data.attrs["axis"])


def sizes(data: xr.Dataset) -> list[int]:
    """The sizes trained, smallest first."""
    name = axis(data)
    return [int(size) for size in data[name].values]


def base(data: xr.Dataset) -> int:
    """The size that was tuned."""
    return int(data.attrs["base"])


def target(data: xr.Dataset) -> int:
    """The size that the question is about: the largest."""
    return sizes(data)[-1]


def ordered(data: xr.Dataset) -> list[str]:
    """The rules as a reader should meet them: good ones first, otherwise in the order given."""
    rules = [str(rule) for rule in data.rule.values]
    return sorted(rules, key=lambda rule: not is_good(data, rule))


def is_good(data: xr.Dataset, rule: str) -> bool:
    """Whether the rule passed."""
    return bool(data.good.sel(rule=rule))


def verdict(data: xr.Dataset, rule: str) -> str:
    """The rule's verdict in words."""
    return str(data.verdict.sel(rule=rule).item())


def at(data: xr.Dataset, rule: str, size: int) -> xr.Dataset:
    """What was measured of one rule at one size: a cell."""
    place = {"rule": rule, axis(data): size}
    return data.sel(place)


def edge(cell: xr.Dataset) -> str:
    """Where the optimum sits: "" inside the grid, "low" or "high" on its edge, "none" if nothing trained."""
    return str(cell.at_edge.item())


def interval(cell: xr.Dataset, name: str) -> tuple[float, float, float]:
    """One number of a data set and the two ends of its interval."""
    middle = float(cell[name])
    low = float(cell[f"{name}_low"])
    high = float(cell[f"{name}_high"])
    return middle, low, high


# --- one cell ---
def lr_cell(data: xr.Dataset, rule: str, size: int) -> str:
    """The best learning rate: "0.13", a bound "≥ 0.5", or why there is none."""
    cell = at(data, rule, size)
    where = edge(cell)
    if where == "none":
        all_failed = bool((cell.status == FAILED).all())
        return "failed" if all_failed else "diverged"
    bound = BOUND.get(where, "")
    lr = float(cell.optimal_lr)
    return bound + numbers.learning_rate(lr)


def lr_interval(data: xr.Dataset, rule: str, size: int) -> str:
    """The interval of the best learning rate, "0.10 to 0.17", or "" where it has none."""
    cell = at(data, rule, size)
    _, low, high = interval(cell, "optimal_lr")
    if not math.isfinite(low + high):
        return ""
    return f"{numbers.learning_rate(low)} to {numbers.learning_rate(high)}"


def drift_cell(data: xr.Dataset, rule: str, size: int) -> str:
    """How far the optimum moved from the base's, in octaves: "-1.0 ± 0.3", "≤ -3.0", or "base"."""
    if size == base(data):
        return "base"
    cell = at(data, rule, size)
    drift, low, high = interval(cell, "drift")
    at_base = at(data, rule, base(data))
    bound = _drift_bound(edge(at_base), edge(cell))
    if bound is None or math.isnan(drift):
        return numbers.NOTHING
    has_interval = high - low > numbers.NARROWEST
    if bound or not has_interval:
        return bound + numbers.signed(drift, 1)
    return numbers.estimate(drift, low, high, places=1)


def _drift_bound(base_edge: str, size_edge: str) -> str | None:
    """What optima on the grid's edge make of the drift: a bound ("" for a number), None if nothing is known.

    drift = log2(optimum) - log2(base's optimum): a bound on the base's optimum bounds the drift the other way round.
    """
    if not base_edge:
        return BOUND.get(size_edge, "")
    opposite = {"low": "high", "high": "low"}.get(base_edge, "none")
    if size_edge not in ("", opposite):
        return None
    return BOUND.get(opposite)


def regret_cell(data: xr.Dataset, rule: str, size: int) -> str:
    """What the transferred learning rate costs in loss: "+0.002 ± 0.001", or "diverges"."""
    if size == base(data):
        return "base"
    cell = at(data, rule, size)
    regret, low, high = interval(cell, "regret")
    if math.isinf(regret):
        return "diverges"
    # Beyond the grid's edge the loss may fall further, and the regret grows by as much.
    if edge(cell) in BOUND:
        return BOUND["high"] + numbers.estimate(regret)
    return numbers.estimate(regret, low, high)


def loss_cell(data: xr.Dataset, rule: str, size: int) -> str:
    """The loss at the optimum with its standard error: "0.412 ± 0.003"."""
    cell = at(data, rule, size)
    loss = float(cell.best_loss)
    se = float(cell.best_loss_se)
    return numbers.estimate(loss, loss - se, loss + se, sign=False)


def exponent_text(data: xr.Dataset, rule: str) -> str:
    """The fitted exponent with its interval: "-0.48 ± 0.06", or "" where there is no fit."""
    fit = data.sel(rule=rule)
    exponent, low, high = interval(fit, "exponent")
    if math.isnan(exponent):
        return ""
    return numbers.estimate(exponent, low, high, places=2)


def verdict_cell(data: xr.Dataset, rule: str) -> str:
    """The verdict behind a sign that needs no colour: "✓ transfers"."""
    sign = GOOD if is_good(data, rule) else BAD
    words = verdict(data, rule)
    return f"{sign} {words}"


# --- tables of them ---
def row(data: xr.Dataset, rule: str) -> dict[str, str]:
    """A rule's row of the table."""
    name = axis(data)
    largest = target(data)
    lrs = {f"{name} {size}": lr_cell(data, rule, size) for size in sizes(data)}
    return {
        "rule": rule,
        **lrs,
        "drift": drift_cell(data, rule, largest),
        "regret": regret_cell(data, rule, largest),
        "verdict": verdict_cell(data, rule),
    }


def table(data: xr.Dataset) -> pd.DataFrame:
    """The result with one row per rule, in text: best LR at each size, drift and regret at the largest, verdict.

    Columns: "rule", "<axis> <size>" for each size, "drift", "regret", "verdict". Good rules come first.
    """
    rows = [row(data, rule) for rule in ordered(data)]
    return pd.DataFrame(rows)


def by_size(data: xr.Dataset, rule: str) -> pd.DataFrame:
    """One rule with one row per size, in text.

    Columns: the axis's name, "best lr", "95 % interval", "drift", "regret", "loss".
    """
    rows = []
    for size in sizes(data):
        cells = {
            axis(data): str(size),
            "best lr": lr_cell(data, rule, size),
            "95 % interval": lr_interval(data, rule, size),
            "drift": drift_cell(data, rule, size),
            "regret": regret_cell(data, rule, size),
            "loss": loss_cell(data, rule, size),
        }
        rows.append(cells)
    return pd.DataFrame(rows)
