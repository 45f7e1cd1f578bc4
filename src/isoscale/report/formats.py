"""Numbers as words: every cell of the terminal's table and of the page's, as plain text.

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
import re
from collections.abc import Iterable

import pandas as pd
import xarray as xr

NOTHING = "\N{EM DASH}"
GOOD, BAD = "\N{CHECK MARK}", "\N{BALLOT X}"
FAILED = 2
NARROWEST = 1e-9  # an interval narrower than that is rounding

# A bound on the optimum, by the edge of the grid that it sits on.
BOUND = {"low": "\N{LESS-THAN OR EQUAL TO} ", "high": "\N{GREATER-THAN OR EQUAL TO} "}


def axis(data: xr.Dataset) -> str:
    """The name of the size dimension: "depth" or "width"."""
    return str(data.attrs["axis"])


def sizes(data: xr.Dataset) -> list[int]:
    """The sizes trained, smallest first."""
    return [int(size) for size in data[axis(data)].values]


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


def value(data: xr.Dataset, name: str, rule: str, size: int) -> float:
    """One number of the data set."""
    return float(data[name].sel({"rule": rule, axis(data): size}))


def edge(data: xr.Dataset, rule: str, size: int) -> str:
    """Where the optimum sits: "" inside the grid, "low" or "high" on its edge, "none" if nothing trained."""
    return str(data.at_edge.sel({"rule": rule, axis(data): size}).item())


def significant(number: float, digits: int = 2) -> str:
    """A positive number with so many significant digits, as a person writes it.

    >>> significant(0.1302), significant(0.0996, 1), significant(130.4), significant(3.05e-5)
    ('0.13', '0.1', '130', '3e-05')
    """
    if not 1e-4 <= abs(number) < 1e5:
        return f"{number:.{digits}g}"
    rounded = float(f"{number:.{digits}g}")
    return f"{number:.{max(0, digits - 1 - math.floor(math.log10(abs(rounded))))}f}"


def learning_rate(number: float) -> str:
    """A learning rate: exact if it is a power of two, as grids are; else the two digits that a fit deserves.

    >>> learning_rate(0.0625), learning_rate(16.0), learning_rate(0.0627), learning_rate(float("nan"))
    ('0.0625', '16', '0.063', '—')
    """
    if not math.isfinite(number):
        return NOTHING
    if math.frexp(number)[0] != 0.5:
        return significant(number)
    return f"{number:.0f}" if 1 <= number < 1e5 else f"{number:.3g}"


def estimate(
    middle: float, low: float = math.nan, high: float = math.nan, *, places: int = 0, sign: bool = True
) -> str:
    """A number and its interval, with no more decimals than the interval supports.

    >>> estimate(-1.04, -1.3, -0.74), estimate(0.002, 0.001, 0.009), estimate(0.412, 0.409, 0.415, sign=False)
    ('-1.0 ± 0.3', '+0.002 [+0.001, +0.009]', '0.412 ± 0.003')
    """
    if not math.isfinite(middle):
        return NOTHING if math.isnan(middle) else signed(middle, 0)
    half = (high - low) / 2
    wide = high - low > NARROWEST
    digits = max(places, _decimals(half if wide and half < math.inf else abs(middle) / 100))
    if not wide:
        return signed(middle, digits, sign=sign)
    # An interval is written as ± if it is symmetric as far as the digits show.
    if abs((low + high) / 2 - middle) < 0.5 * 10.0**-digits:
        return f"{signed(middle, digits, sign=sign)} ± {half:.{digits}f}"
    ends = (signed(end, digits, sign=sign) for end in (low, high))
    return f"{signed(middle, digits, sign=sign)} [{', '.join(ends)}]"


def signed(number: float, digits: int, *, sign: bool = True) -> str:
    """A number with its sign, and zero without one.

    >>> signed(2.04, 1), signed(-0.01, 1), signed(-1.0, 1), signed(2.04, 1, sign=False)
    ('+2.0', '0.0', '-1.0', '2.0')
    """
    if math.isinf(number):
        return "∞" if number > 0 else "-∞"
    rounded = round(number, digits) + 0.0
    return f"{rounded:{'+' if sign and rounded else ''}.{digits}f}"


def _decimals(error: float) -> int:
    """Decimals that show one digit of an error, from 0 for errors of 1 and more to 9; 3 if there is none."""
    # 0.02: an error of 0.096 is written 0.1, so it needs one decimal, not two.
    return 3 if error < 1e-11 else min(9, max(0, math.ceil(-math.log10(error) - 0.02)))


def lr_cell(data: xr.Dataset, rule: str, size: int) -> str:
    """The best learning rate: "0.13", a bound "≥ 0.5", or why there is none."""
    where = edge(data, rule, size)
    if where == "none":
        statuses = data.status.sel({"rule": rule, axis(data): size})
        return "failed" if bool((statuses == FAILED).all()) else "diverged"
    return BOUND.get(where, "") + learning_rate(value(data, "optimal_lr", rule, size))


def lr_interval(data: xr.Dataset, rule: str, size: int) -> str:
    """The interval of the best learning rate, "0.10 to 0.17", or "" where it has none."""
    low, high = (value(data, f"optimal_lr_{end}", rule, size) for end in ("low", "high"))
    return f"{learning_rate(low)} to {learning_rate(high)}" if math.isfinite(low + high) else ""


def drift_cell(data: xr.Dataset, rule: str, size: int) -> str:
    """How far the optimum moved from the base's, in octaves: "-1.0 ± 0.3", "≤ -3.0", or "base"."""
    if size == int(data.attrs["base"]):
        return "base"
    middle, low, high = (value(data, name, rule, size) for name in ("drift", "drift_low", "drift_high"))
    bound = _drift_bound(edge(data, rule, int(data.attrs["base"])), edge(data, rule, size))
    if bound is None or math.isnan(middle):
        return NOTHING
    if bound or not high - low > NARROWEST:
        return bound + signed(middle, 1)
    return estimate(middle, low, high, places=1)


def _drift_bound(base: str, size: str) -> str | None:
    """What an optimum on the grid's edge makes of the drift: a bound ("" for a number), None if unknown."""
    if not base:
        return BOUND.get(size, "")
    opposite = {"low": "high", "high": "low"}.get(base, "none")
    return BOUND.get(opposite) if size in ("", opposite) else None


def regret_cell(data: xr.Dataset, rule: str, size: int) -> str:
    """What the transferred learning rate costs in loss: "+0.002 ± 0.001", or "diverges"."""
    if size == int(data.attrs["base"]):
        return "base"
    middle, low, high = (value(data, name, rule, size) for name in ("regret", "regret_low", "regret_high"))
    if math.isinf(middle):
        return "diverges"
    # Beyond the grid's edge the loss may fall further, and the regret grows by as much.
    bound = edge(data, rule, size) in BOUND
    return BOUND["high"] + estimate(middle) if bound else estimate(middle, low, high)


def loss_cell(data: xr.Dataset, rule: str, size: int) -> str:
    """The loss at the optimum with its standard error: "0.412 ± 0.003"."""
    loss, se = value(data, "best_loss", rule, size), value(data, "best_loss_se", rule, size)
    return estimate(loss, loss - se, loss + se, sign=False)


def exponent_text(data: xr.Dataset, rule: str) -> str:
    """The fitted exponent with its interval: "-0.48 ± 0.06", or "" where there is no fit."""
    fit = data.sel(rule=rule)
    middle, low, high = (float(fit[name]) for name in ("exponent", "exponent_low", "exponent_high"))
    return "" if math.isnan(middle) else estimate(middle, low, high, places=2)


def verdict_cell(data: xr.Dataset, rule: str) -> str:
    """The verdict behind a sign that needs no colour: "✓ transfers"."""
    return f"{GOOD if is_good(data, rule) else BAD} {data.verdict.sel(rule=rule).item()}"


def table(data: xr.Dataset) -> pd.DataFrame:
    """The result in one row a rule, in text: best LR at each size, drift and regret at the largest, verdict.

    Columns: "rule", "<axis> <size>" for each size, "drift", "regret", "verdict". Good rules come first.
    """
    return pd.DataFrame([row(data, rule) for rule in ordered(data)])


def by_size(data: xr.Dataset, rule: str) -> pd.DataFrame:
    """One rule in one row a size, in text.

    Columns: the axis's name, "best lr", "95 % interval", "drift", "regret", "loss".
    """
    rows = [
        {
            axis(data): str(size),
            "best lr": lr_cell(data, rule, size),
            "95 % interval": lr_interval(data, rule, size),
            "drift": drift_cell(data, rule, size),
            "regret": regret_cell(data, rule, size),
            "loss": loss_cell(data, rule, size),
        }
        for size in sizes(data)
    ]
    return pd.DataFrame(rows)


def row(data: xr.Dataset, rule: str) -> dict[str, str]:
    """A rule's row of the table."""
    lrs = {f"{axis(data)} {size}": lr_cell(data, rule, size) for size in sizes(data)}
    end = target(data)
    ends = {"drift": drift_cell(data, rule, end), "regret": regret_cell(data, rule, end)}
    return {"rule": rule, **lrs, **ends, "verdict": verdict_cell(data, rule)}


def typeset(text: str) -> str:
    """The same text with true minus signs before numbers, for figures and the page.

    >>> typeset("depth-mup drifts by -2.0 octaves") == "depth-mup drifts by \\N{MINUS SIGN}2.0 octaves"
    True
    """
    return re.sub(r"(?<![\w.-])-(?=[\d∞])", "\N{MINUS SIGN}", text)


def superscript(number: int) -> str:
    """An integer as superscripts.

    >>> superscript(-3)
    '⁻³'
    """
    return str(number).translate(str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹"))


def power(number: float) -> str:
    """A grid's learning rate as a power of two where it is one.

    >>> power(0.125), power(0.1)
    ('2⁻³', '0.1')
    """
    exponent = math.log2(number)
    return f"2{superscript(int(exponent))}" if exponent.is_integer() else f"{number:.3g}"


def listing(items: Iterable[object]) -> str:
    """Items as a sentence has them: "4, 8 and 16"."""
    *rest, last = (str(item) for item in items)
    return f"{', '.join(rest)} and {last}" if rest else last
