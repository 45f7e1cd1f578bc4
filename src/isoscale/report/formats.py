"""Cells of the terminal's table and of the page's: every number of a result in words, as plain text.

What the report is handed (`axis` is `data.attrs["axis"]`, the size dimension's name: "depth", "width", or "size" along
a path of both, whose sizes are labels such as "width 16, depth 2"):

    loss, test_loss, status (rule, axis, lr, seed)  final losses; 0 done, 1 diverged, 2 failed, 3 not trained,
                                            4 stopped before the end
    curve (rule, axis, lr, seed, step)      training loss at each step
    optimal_lr, _low, _high (rule, axis)    the best learning rate and its interval
    at_edge (rule, axis)                    "" inside the rates, "low" (<=) or "high" (>=) at their end, "none"
    is_limit (rule, axis)                   whether the best learning rate is the limit of stability
    best_loss, best_loss_se (rule, axis)    loss at the optimum
    loss_transferred (rule, axis)           loss at the rate used, inf where it diverges
    loss_tuned (rule, axis)                 loss at the rate that the size would hand on itself
    drift, _low, _high (rule, axis)         log2(optimum / optimum at the base), octaves
    regret, _low, _high (rule, axis)        loss_transferred - loss_tuned, inf where it diverges
    exponent, _low, _high, coefficient (rule)   optimal_lr = coefficient * size^exponent
    rate_used (rule)                        the learning rate that the base hands on
    verdict, reason, good (rule)            "transfers", "does not transfer" or "cannot tell"; why; 1 or 0

Attributes: axis, base, question, answer, limits (JSON), model, dataset, dataset_note, optimizer, created, seconds,
trials, diverged, stopped, failed, searched (what the searches took, in words), versions (JSON), spec (TOML) and, if
there were any, command and next_runs (JSON). A number that does not exist, and an end of an interval that is open, is
NaN.

A question may be about another hyperparameter: `what` is its name in words ("learning rate" by default), and what is
called lr here is it. Runs may be judged by another `quantity` than the loss (its name), which is what is called loss
here; if `better` is "higher", minus it. `tuned` (JSON) has a row for each of several tuned hyperparameters, place of
the others ("best" or "held") and rule.
"""

from __future__ import annotations

import json
import math
from typing import Literal

import numpy as np
import pandas as pd
import xarray as xr

from isoscale.report import numbers

GOOD, BAD, OPEN = "\N{CHECK MARK}", "\N{BALLOT X}", "?"
DONE, DIVERGED, FAILED, MISSING, STOPPED = 0, 1, 2, 3, 4

Size = int | str
"""A size; a label where several sizes change together."""

Standing = Literal["good", "open", "bad"]
"""What a verdict says: yes, nothing yet, no."""

_STANDINGS: dict[str, Standing] = {"transfers": "good", "cannot tell": "open", "does not transfer": "bad"}
_SIGNS: dict[Standing, str] = {"good": GOOD, "open": OPEN, "bad": BAD}

# A bound on the optimum, by the end of the measured rates that it sits on.
BOUND = {"low": "\N{LESS-THAN OR EQUAL TO} ", "high": "\N{GREATER-THAN OR EQUAL TO} "}

# An exponent whose interval is wider than that says nothing of a law, nor does a line through fewer optima.
WIDEST_EXPONENT = 2.0
FEWEST_OPTIMA = 3


# --- the result's parts ---
def axis(data: xr.Dataset) -> str:
    """The name of the size dimension: "depth", "width" or "size"."""
    return str(data.attrs["axis"])


def sizes(data: xr.Dataset) -> list[Size]:
    """The sizes trained, smallest first."""
    return data[axis(data)].values.tolist()


def base(data: xr.Dataset) -> Size:
    """The size that was tuned."""
    size = data.attrs["base"]
    return size if isinstance(size, str) else int(size)


def target(data: xr.Dataset) -> Size:
    """The size that the question is about: the largest."""
    return sizes(data)[-1]


def what(data: xr.Dataset) -> str:
    """The hyperparameter that the question is about, in words: "learning rate"."""
    return str(data.attrs.get("what", "learning rate"))


def quantity(data: xr.Dataset) -> str:
    """What is judged: "loss", or the name of a metric."""
    return str(data.attrs.get("quantity", "loss"))


def sign(data: xr.Dataset) -> int:
    """What a loss of the data is multiplied by to be shown: -1 where higher values of the quantity are better."""
    return -1 if data.attrs.get("better") == "higher" else 1


def words(data: xr.Dataset, size: Size) -> str:
    """A size as a reader calls it: "depth 4"; labels speak for themselves."""
    return size if isinstance(size, str) else f"{axis(data)} {size}"


def places(data: xr.Dataset) -> np.ndarray:
    """Where each size stands on an axis: at its log2, labels one after the other."""
    names = sizes(data)
    if any(isinstance(size, str) for size in names):
        return np.arange(len(names), dtype=float)
    return np.log2(np.array(names, dtype=float))


def called(rule: str) -> str:
    """What a reader calls a rule; runs that name none have "-"."""
    return "all runs" if rule == "-" else rule


def ordered(data: xr.Dataset) -> list[str]:
    """The rules as a reader should meet them: good ones first, bad ones last, otherwise in the order given."""
    rules = [str(rule) for rule in data.rule.values]
    order: tuple[Standing, ...] = ("good", "open", "bad")
    return sorted(rules, key=lambda rule: order.index(standing(data, rule)))


def standing(data: xr.Dataset, rule: str) -> Standing:
    """What the rule's verdict says."""
    return _STANDINGS[verdict(data, rule)]


def verdict(data: xr.Dataset, rule: str) -> str:
    """The rule's verdict: "transfers", "does not transfer" or "cannot tell"."""
    return str(data.verdict.sel(rule=rule).item())


def reason(data: xr.Dataset, rule: str) -> str:
    """Why."""
    return str(data.reason.sel(rule=rule).item())


def at(data: xr.Dataset, rule: str, size: Size) -> xr.Dataset:
    """What was measured of one rule at one size: a cell."""
    place = {"rule": rule, axis(data): size}
    return data.sel(place)


def edge(cell: xr.Dataset) -> str:
    """Where the optimum sits: "" inside the measured rates, "low" or "high" at their end, "none" if nothing trained."""
    return str(cell.at_edge.item())


def interval(cell: xr.Dataset, name: str) -> tuple[float, float, float]:
    """One number of a data set and the two ends of its interval."""
    middle = float(cell[name])
    low = float(cell[f"{name}_low"])
    high = float(cell[f"{name}_high"])
    return middle, low, high


def shared_rates(cell: xr.Dataset) -> np.ndarray:
    """Of the learning rates (lr), which were trained with at least half of the cell's seeds, none of them stopped.

    A search trains most rates of a grid not at all, and some next to a cliff with single seeds: a mean over one seed
    here and three there is not a curve, nor is one over the seeds that were not hopeless.
    """
    status = cell.status.transpose("lr", "seed").values
    is_run = status != MISSING
    seeds = int(is_run.any(axis=0).sum())
    runs = is_run.sum(axis=1)
    return (runs > 0) & (2 * runs >= seeds) & ~(status == STOPPED).any(axis=1)


def nearest_rate(cell: xr.Dataset, lr: float) -> float:
    """The rate with a loss that is nearest to `lr`, of those that at least half of the seeds trained at; NaN if none.

    An optimum mostly lies between two rates that were trained at.
    """
    has_loss = shared_rates(cell) & np.isfinite(cell.loss.mean("seed").values)
    lrs = cell.lr.values[has_loss]
    if not len(lrs) or not math.isfinite(lr):
        return math.nan
    return float(lrs[np.argmin(np.abs(np.log2(lrs) - math.log2(lr)))])


# --- one cell ---
def lr_cell(data: xr.Dataset, rule: str, size: Size) -> str:
    """The best learning rate: "0.13", a bound "≥ 0.5", or why there is none."""
    cell = at(data, rule, size)
    where = edge(cell)
    if where == "none":
        if bool((cell.status == MISSING).all()):
            return "not run"
        all_failed = bool((cell.status == FAILED).all())
        return "failed" if all_failed else "diverged"
    bound = BOUND.get(where, "")
    lr = float(cell.optimal_lr)
    return bound + numbers.learning_rate(lr)


def lr_interval(data: xr.Dataset, rule: str, size: Size) -> str:
    """The interval of the best learning rate: "0.10 to 0.17", "from 0.10" where it is open, or "" where it has none."""
    cell = at(data, rule, size)
    _, low, high = interval(cell, "optimal_lr")
    ends = numbers.learning_rate(low), numbers.learning_rate(high)
    if math.isfinite(low) and math.isfinite(high):
        return f"{ends[0]} to {ends[1]}"
    if math.isfinite(low):
        return f"from {ends[0]}"
    if math.isfinite(high):
        return f"up to {ends[1]}"
    return ""


def rate_cell(data: xr.Dataset, rule: str) -> str:
    """The learning rate that the base hands on; a dash if it has none."""
    return numbers.learning_rate(float(data.rate_used.sel(rule=rule)))


def drift_cell(data: xr.Dataset, rule: str, size: Size) -> str:
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


def regret_cell(data: xr.Dataset, rule: str, size: Size) -> str:
    """What the transferred learning rate costs in loss: "+0.002 ± 0.001", or "diverges"."""
    if size == base(data):
        return "base"
    cell = at(data, rule, size)
    regret, low, high = interval(cell, "regret")
    if math.isinf(regret):
        return "diverges"
    # Beyond the end of the rates the loss may fall further, and the regret grows by as much.
    if edge(cell) in BOUND:
        return BOUND["high"] + numbers.estimate(regret)
    return numbers.estimate(regret, low, high)


def regret_share(data: xr.Dataset, rule: str, size: Size) -> str:
    """The regret as a share of the loss at the size's own rate: "+5.0 %", or "" where it has none."""
    cell = at(data, rule, size)
    regret = float(cell.regret)
    tuned = float(cell.loss_tuned)
    if size == base(data) or not math.isfinite(regret) or not abs(tuned) > 0:
        return ""
    bound = BOUND["high"] if edge(cell) in BOUND else ""
    return f"{bound}{numbers.signed(100 * regret / abs(tuned), 1)} %"


def loss_cell(data: xr.Dataset, rule: str, size: Size) -> str:
    """The loss at the optimum with its standard error: "0.412 ± 0.003"."""
    cell = at(data, rule, size)
    loss = sign(data) * float(cell.best_loss)
    se = float(cell.best_loss_se)
    return numbers.estimate(loss, loss - se, loss + se, sign=False)


def transferred_cell(data: xr.Dataset, rule: str, size: Size) -> str:
    """The loss at the rate used: "0.43", or "diverges"."""
    loss = float(at(data, rule, size).loss_transferred)
    return "diverges" if math.isinf(loss) else numbers.estimate(sign(data) * loss, sign=False)


def held_out_cell(data: xr.Dataset, rule: str, size: Size, lr: float) -> str:
    """The test loss at the trained rate nearest to `lr`, with its standard error over the seeds."""
    cell = at(data, rule, size)
    nearest = nearest_rate(cell, lr)
    # Runs of somebody else need not have one.
    if math.isnan(nearest) or "test_loss" not in cell:
        return numbers.NOTHING
    losses = cell.test_loss.sel(lr=nearest).values
    losses = losses[np.isfinite(losses)]
    if not len(losses):
        return numbers.NOTHING
    mean = float(losses.mean())
    se = float(losses.std(ddof=1)) / math.sqrt(len(losses)) if len(losses) > 1 else math.nan
    return numbers.estimate(mean, mean - se, mean + se, sign=False)


def tuned_test_cell(data: xr.Dataset, rule: str, size: Size) -> str:
    """The test loss at the size's own best rate."""
    return held_out_cell(data, rule, size, float(at(data, rule, size).optimal_lr))


def transferred_test_cell(data: xr.Dataset, rule: str, size: Size) -> str:
    """The test loss at the rate used."""
    if math.isinf(float(at(data, rule, size).loss_transferred)):
        return "diverges"
    return held_out_cell(data, rule, size, float(data.rate_used.sel(rule=rule)))


def has_law(data: xr.Dataset, rule: str) -> bool:
    """Whether the fitted exponent says anything: three optima at least, and an interval no wider than ± 1."""
    of = data.sel(rule=rule)
    _, low, high = interval(of, "exponent")
    inside = int((of.at_edge == "").sum())
    # An interval that is open is as wide as can be.
    return inside >= FEWEST_OPTIMA and high - low <= WIDEST_EXPONENT


def exponent_text(data: xr.Dataset, rule: str) -> str:
    """The fitted exponent with its interval: "-0.48 ± 0.06", or "" where it says nothing."""
    if not has_law(data, rule):
        return ""
    exponent, low, high = interval(data.sel(rule=rule), "exponent")
    return numbers.estimate(exponent, low, high, places=2)


def no_law(data: xr.Dataset, rule: str) -> str:
    """Why there is no exponent."""
    if isinstance(target(data), str):
        return "no law along a path"
    inside = int((data.at_edge.sel(rule=rule) == "").sum())
    return "too few optima for a law" if inside < FEWEST_OPTIMA else "too uncertain for a law"


def mark(data: xr.Dataset, rule: str) -> str:
    """The verdict's sign, which needs no colour."""
    return _SIGNS[standing(data, rule)]


def verdict_cell(data: xr.Dataset, rule: str) -> str:
    """The verdict behind its sign: "✓ transfers"."""
    return f"{mark(data, rule)} {verdict(data, rule)}"


# --- what it is decided on ---
def limits(data: xr.Dataset) -> list[str]:
    """Every threshold of the verdict, a sentence each."""
    of = json.loads(data.attrs["limits"])
    small, large = words(data, base(data)), words(data, target(data))
    name, worse_side = quantity(data), "above" if sign(data) > 0 else "below"
    regret, worse, lost, level = (100 * of[name] for name in ("regret", "worse", "lost_seeds", "level"))
    seeds = f"at most {lost:.3g} % of the seeds diverge there" if lost else "no seed diverges there"
    return [
        f"the regret is at most {regret:.3g} % of the {name} at {large}'s own rate, all of its {level:.3g} % interval",
        f"the {name} there is not more than {worse:.3g} % {worse_side} that of {small}",
        seeds,
    ]


def terms(data: xr.Dataset) -> list[str]:
    """What the words of a verdict mean, and its thresholds: lines for a terminal."""
    small, large = words(data, base(data)), words(data, target(data))
    return [
        f"The rate used is the best of {small}, or half an octave below a cliff of its loss. Octave: a factor of two.",
        f"Drift: octaves that the best rate moves. Regret: what the rate used costs at {large}, in {quantity(data)}.",
        f"A rule transfers if {'; '.join(limits(data))}.",
    ]


def level(data: xr.Dataset) -> str:
    """The level of every interval: "95 %"."""
    return f"{100 * json.loads(data.attrs['limits'])['level']:.3g} %"


# --- tables of them ---
def row(data: xr.Dataset, rule: str) -> dict[str, str]:
    """A rule's row of the table."""
    largest = target(data)
    lrs = {words(data, size): lr_cell(data, rule, size) for size in sizes(data)}
    return {
        "rule": called(rule),
        **lrs,
        "rate used": rate_cell(data, rule),
        "drift": drift_cell(data, rule, largest),
        "regret": regret_cell(data, rule, largest),
        "verdict": verdict_cell(data, rule),
    }


def table(data: xr.Dataset) -> pd.DataFrame:
    """The result with one row per rule, in text: best LR at each size, the rate used and its drift and regret at the
    largest, verdict.

    Columns: "rule", "<axis> <size>" for each size, "rate used", "drift", "regret", "verdict". Good rules come first.
    """
    rows = [row(data, rule) for rule in ordered(data)]
    return pd.DataFrame(rows)


def by_size(data: xr.Dataset, rule: str) -> pd.DataFrame:
    """One rule with one row per size, in text.

    Columns: the axis's name, "best lr" (or of what the question is about), "95 % interval", "drift", "loss: tuned"
    (or of what is judged), "transferred", "regret", "test loss: tuned".
    """
    short = "lr" if what(data) == "learning rate" else what(data)
    rows = []
    for size in sizes(data):
        cells = {
            axis(data): str(size),
            f"best {short}": lr_cell(data, rule, size),
            f"{level(data)} interval": lr_interval(data, rule, size),
            "drift": drift_cell(data, rule, size),
            f"{quantity(data)}: tuned": loss_cell(data, rule, size),
            "transferred": transferred_cell(data, rule, size),
            "regret": regret_cell(data, rule, size),
            "test loss: tuned": tuned_test_cell(data, rule, size),
        }
        rows.append(cells)
    return pd.DataFrame(rows)


# Where the other hyperparameters are, in words.
_PLACES = {"best": "at their best", "held": "held at the base's"}


def tuned_table(data: xr.Dataset) -> pd.DataFrame:
    """The verdict on each of several tuned hyperparameters, in text; empty if only one was tuned.

    Columns: "hyperparameter", "others", "rule", "best at <base>", "best at <target>", "drift", "regret", "verdict".
    """
    small, large = words(data, base(data)), words(data, target(data))
    rows = []
    for told in json.loads(data.attrs.get("tuned", "[]"), parse_constant=float):
        bound = BOUND.get(told["at_edge"], "")
        mark = _SIGNS[_STANDINGS[told["verdict"]]]
        row = {
            "hyperparameter": told["hyperparameter"],
            "others": _PLACES[told["others"]],
            "rule": called(told["rule"]),
            f"best at {small}": numbers.learning_rate(told["base_optimum"]),
            f"best at {large}": bound + numbers.learning_rate(told["optimum"]),
            "drift": numbers.estimate(told["drift"], told["drift_low"], told["drift_high"], places=1),
            "regret": numbers.estimate(told["regret"], told["regret_low"], told["regret_high"]),
            "verdict": f"{mark} {told['verdict']}",
        }
        rows.append(row)
    return pd.DataFrame(rows)
