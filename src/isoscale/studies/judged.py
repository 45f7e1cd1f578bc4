"""From runs to verdicts: every rule's optimum at every size, what the base's rate costs there, and what would tell.

Whoever trained, the runs come as one table: rule, size, hyperparameters, seed and loss, infinite where they diverged.
What is said here of learning rates goes for any hyperparameter that a question is about.
"""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from isoscale import stats
from isoscale.errors import InvalidValueError
from isoscale.runs.result import STATUS
from isoscale.runs.spec import NO_RULE
from isoscale.stats import Curve, Limits, Optimum, Quantity, Transferred, Undecided, Verdict
from isoscale.studies.along import (
    LEAST_POINTS,
    OTHERS,
    STOPPED,
    Along,
    Others,
    curves,
    in_octaves,
    is_scattered,
    points_of,
    usable,
)

if TYPE_CHECKING:
    import pandas as pd
    import xarray as xr

Size = int | float | str
"""A value of the size axis; a label where several sizes change together."""

# More seeds at once than there are already would be a guess.
_MOST_TIMES = 2
# Octaves that a search's finest rates are apart, halved.
_BESIDE = 1 / 16
# A figure of more learning rates shows them at three digits: no eye tells more apart.
_MOST_RATES = 2000
# Octaves on either side of an optimum at which another seed tells something of it.
_WINDOW = 1.0


@dataclass(frozen=True)
class NextRun:
    """The cheapest runs that would tell more about a rule: every learning rate with every seed.

    Attributes:
        rule, size: Where.
        lrs, seeds: The trials.
        why: What they would tell.
        what: What `lrs` are values of; "learning rate", unless the question is about something else.
    """

    rule: str
    size: Size
    lrs: tuple[float, ...]
    seeds: tuple[int, ...]
    why: str
    what: str = "learning rate"

    @property
    def trials(self) -> int:
        """How many there are."""
        return len(self.lrs) * len(self.seeds)

    def __str__(self) -> str:
        lrs = ", ".join(f"{lr:.3g}" for lr in self.lrs)
        seeds = ", ".join(map(str, self.seeds))
        what = "learning rates" if self.what == "learning rate" else self.what
        return f"{self.rule} at {self.size}: {what} {lrs}, seeds {seeds} ({self.why})"


class Axis(NamedTuple):
    """The sizes of a question: the name of their axis, the sizes in order, and the one that was tuned."""

    name: str
    sizes: Sequence[Size]
    base: Size

    @property
    def target(self) -> Size:
        """The largest size."""
        return self.sizes[-1]

    def words(self, size: Size) -> str:
        """A size as a reader calls it: "depth 4"."""
        return size if isinstance(size, str) else f"{self.name} {size:g}"


@dataclass(frozen=True)
class Judged:
    """Every rule's verdict at every size, along one hyperparameter.

    Attributes:
        along: The hyperparameter.
        verdicts: By rule, then size.
        next_runs: The cheapest runs that would tell, rule by rule.
        notes: What was left out.
    """

    along: Along
    verdicts: dict[str, dict[Size, Verdict]] = field(default_factory=dict)
    next_runs: list[NextRun] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)


def judge_table(
    table: pd.DataFrame,
    axis: Axis,
    along: Along,
    limits: Limits,
    others: Others = "best",
    rules: Sequence[str] | None = None,
    failed: Mapping[str, str] | None = None,
    quantity: Quantity | None = None,
) -> Judged:
    """The verdict on every rule of a table of runs.

    Args:
        table: rule, the axis's column, the hyperparameters', seed, loss: one row for each setting and seed. Whether a
            run was stopped before its end stands in a column of its own, if any was (`along.STOPPED`).
        axis: Along which sizes.
        along: Which hyperparameter the question is about.
        limits: What still counts as a transfer.
        others: Where the other tuned hyperparameters are.
        rules: Which rules; by default those of the table.
        failed: Rules of which trials failed, and what is said of that: what is left of them is not what was asked for.
        quantity: What the losses are.
    """
    table, notes = usable(table, along.name)
    found = Judged(along, notes=notes)
    for name in rules or table["rule"].unique().tolist():
        of_rule = table[table["rule"] == name]
        of_size, said = curves(of_rule, axis, along, others)
        found.notes.extend(note for note in said if note not in found.notes)
        verdicts = {}
        for size in axis.sizes:
            names = (axis.words(axis.base), axis.words(size))
            verdicts[size] = stats.judge(of_size[axis.base], of_size[size], limits, names=names, quantity=quantity)
        found.verdicts[name] = verdicts
        last = verdicts[axis.target]
        if failed and name in failed:
            verdicts[axis.target] = replace(last, answer="cannot tell", reason=failed[name], undecided=())
        elif along.tuned and is_scattered(of_rule, axis, along):
            # No single run would tell more of points that have nothing in common.
            few = _too_few_points(of_rule, axis, along)
            if few:
                verdicts[axis.target] = replace(last, answer="cannot tell", reason=few, undecided=())
        else:
            run = next_run(name, last, of_size, axis, along.words)
            if run is not None:
                found.next_runs.append(run)
    return found


def _too_few_points(of_rule: pd.DataFrame, axis: Axis, along: Along) -> str:
    """Why scattered points of several hyperparameters tell nothing; "" if there are enough."""
    points = points_of(of_rule, axis, along)
    for size in (axis.base, axis.target):
        if points[size] < LEAST_POINTS:
            names = " and ".join([along.name, *along.tuned])
            return (
                f"{points[size]} scattered points of {names} at {axis.words(size)}: of fewer than {LEAST_POINTS}, "
                "intervals hold the truth too seldom"
            )
    return ""


# --- as labelled arrays ---
# What is told of each tuned hyperparameter; "lr" in a name stands for the hyperparameter there.
_OF_TUNED = (
    *("optimal_lr", "optimal_lr_low", "optimal_lr_high", "at_edge", "drift", "drift_low", "drift_high"),
    *("regret", "regret_low", "regret_high", "regret_limit", "best_loss", "loss_transferred", "lost_seeds"),
    *("rate_used", "verdict", "reason", "good"),
)


def tuned_dataset(
    table: pd.DataFrame,
    axis: Axis,
    names: Sequence[str],
    tuned: Sequence[str],
    limits: Limits,
    *,
    linear: Sequence[str] = (),
    failed: Mapping[str, str] | None = None,
    quantity: Quantity | None = None,
) -> xr.Dataset:
    """The verdict on each of several tuned hyperparameters, over (hyperparameter, others, rule, <axis>).

    `others` is "best" where the other hyperparameters are at their best, value by value, and "held" where they are held
    at the base's best. Optima and drifts of beta1, beta2 and momentum are those of 1 - beta.
    """
    import xarray as xr

    of_name = []
    for name in names:
        along = Along(name, tuple(other for other in tuned if other != name), tuple(linear))
        parts = []
        for others in OTHERS:
            judged = judge_table(table, axis, along, limits, others, failed=failed, quantity=quantity)
            parts.append(dataset(judged.verdicts, axis)[list(_OF_TUNED)])
        of_name.append(xr.concat(parts, xr.Variable("others", list(OTHERS))))
    # Every rule was run at every hyperparameter, in the same order.
    found = xr.concat(of_name, xr.Variable("hyperparameter", list(names)))
    renamed = {name: name.replace("optimal_lr", "optimum").replace("rate_used", "value_used") for name in _OF_TUNED}
    return found.rename(renamed)


def trials_dataset(table: pd.DataFrame, axis: Axis, along: Along, rules: Sequence[str] | None = None) -> xr.Dataset:
    """`loss` and `status` over (rule, <axis>, lr, seed); what was not run is missing.

    Of several runs at one value and seed the best; "lr" holds the hyperparameter of the question.
    """
    import pandas as pd

    if STOPPED in table:
        table = table[~table[STOPPED]]
    rates = in_octaves(along.name, table[along.name].to_numpy(float))
    if len(np.unique(rates)) > _MOST_RATES:
        digits = 2 - np.floor(np.log10(rates))
        rates = np.round(rates * 10.0**digits) / 10.0**digits
    drawn = pd.DataFrame(
        {"rule": table["rule"], axis.name: table[axis.name], "lr": rates, "seed": table["seed"], "loss": table["loss"]}
    )
    loss = drawn.groupby(["rule", axis.name, "lr", "seed"], sort=True)["loss"].min().to_xarray()
    rules = list(rules or dict.fromkeys(table["rule"]))
    loss = loss.reindex({"rule": rules, axis.name: list(axis.sizes)}).transpose("rule", axis.name, "lr", "seed")
    status = np.where(np.isnan(loss.values), STATUS["missing"], STATUS["done"])
    status = np.where(np.isinf(loss.values), STATUS["diverged"], status).astype(np.int8)
    found = loss.where(np.isfinite(loss)).to_dataset()
    found["status"] = (loss.dims, status)
    return found


def dataset(verdicts: Mapping[str, Mapping[Size, Verdict]], axis: Axis) -> xr.Dataset:
    """The numbers of every rule and size over (rule, <axis>), and the verdict on the largest size over (rule)."""
    import xarray as xr

    rules = list(verdicts)
    columns: dict[str, list[list[Any]]] = {}
    of_rule: dict[str, list[Any]] = {"rate_used": [], "verdict": [], "reason": [], "good": []}
    for rule in rules:
        rows = [_numbers(verdicts[rule][size]) for size in axis.sizes]
        for name in rows[0]:
            columns.setdefault(name, []).append([row[name] for row in rows])
        last = verdicts[rule][axis.target]
        of_rule["rate_used"].append(2.0**last.numbers.rate)
        of_rule["verdict"].append(last.answer)
        of_rule["reason"].append(last.reason)
        of_rule["good"].append(last.answer == "transfers")
    data = {name: (("rule", axis.name), np.array(values)) for name, values in columns.items()}
    by_rule = of_rule | _laws(verdicts, axis) | _worth(verdicts, axis)
    data |= {name: ("rule", np.array(values)) for name, values in by_rule.items()}
    found = xr.Dataset(data, {"rule": rules, axis.name: list(axis.sizes)})
    for name in ("drift", "drift_low", "drift_high"):
        found[name].attrs["units"] = "octaves"
    return found


def _numbers(verdict: Verdict) -> dict[str, Any]:
    """One size's: the optimum, and what the base's rate does there."""
    own: Optimum = verdict.target
    there: Transferred = verdict.numbers
    return {
        "optimal_lr": 2.0**own.log2_lr,
        "optimal_lr_low": 2.0**own.low,
        "optimal_lr_high": 2.0**own.high,
        "optimal_lr_se": own.se,
        "at_edge": own.edge,
        "is_limit": own.is_limit,
        "best_loss": own.loss,
        "best_loss_se": own.loss_se,
        "drift": there.drift,
        "drift_low": there.drift_low,
        "drift_high": there.drift_high,
        "regret": there.regret,
        "regret_low": there.regret_low,
        "regret_high": there.regret_high,
        "regret_limit": verdict.limit,
        "loss_transferred": there.loss,
        "loss_tuned": there.loss_tuned,
        "lost_seeds": there.lost,
    }


def _laws(verdicts: Mapping[str, Mapping[Size, Verdict]], axis: Axis) -> dict[str, list[Any]]:
    """Law of the optimum against size by rule, for rules with at least three optima that are not bounds."""
    names = ("exponent", "exponent_low", "exponent_high", "coefficient")
    rows = []
    for of_size in verdicts.values():
        inside = [size for size in axis.sizes if not isinstance(size, str) and not of_size[size].target.edge]
        if len(inside) < 3:
            rows.append([math.nan] * len(names))
            continue
        optima = [of_size[size].target for size in inside]
        # All count alike: see `isoscale.studies.size_law.law_of`.
        law = stats.fit_power_law(inside, [2.0**optimum.log2_lr for optimum in optima])
        rows.append([getattr(law, name) for name in names])
    columns = zip(names, np.array(rows).T, strict=True)
    return {name: column.tolist() for name, column in columns}


def _worth(verdicts: Mapping[str, Mapping[Size, Verdict]], axis: Axis) -> dict[str, list[Any]]:
    """Whether the transfer is worth it, by rule: its exponents and words; "" for fewer than three optima."""
    names = ("alpha", "beta", "gamma", "kappa")
    columns: dict[str, list[float]] = {f"{name}{end}": [] for name in names for end in ("", "_low", "_high")}
    words = []
    for of_size in verdicts.values():
        optima = {size: of_size[size].target for size in axis.sizes if not isinstance(size, str)}
        try:
            found = stats.worth_of_optima(optima)
        except InvalidValueError:
            # Too few sizes have an optimum with an interval.
            found = None
        words.append("" if found is None else found.words)
        for name in names:
            numbers = (math.nan,) * 3 if found is None else tuple(getattr(found, name))
            for end, number in zip(("", "_low", "_high"), numbers, strict=True):
                columns[f"{name}{end}"].append(number)
    return columns | {"worth": words}


# --- what would tell ---
def next_run(
    rule: str, verdict: Verdict, curves: Mapping[Size, Curve], axis: Axis, what: str = "learning rate"
) -> NextRun | None:
    """The cheapest runs that would tell more of a verdict that is open; None if nothing is known that would."""
    if not verdict.undecided:
        return None
    wanted = verdict.undecided[0]
    size = axis.base if wanted.size == "base" else axis.target
    curve = curves[size]
    seeds = _seeds(curve) or _seeds(curves[axis.base]) or (0, 1)
    lrs, seeds = _RUNS[wanted.kind](wanted, verdict, curve, seeds)
    if not lrs or not seeds:
        return None
    return NextRun(rule, size, lrs, seeds, _WHY[wanted.kind], what)


_Trials = tuple[tuple[float, ...], tuple[int, ...]]
_WHY = {
    "edge low": "smaller learning rates may be better",
    "edge high": "larger learning rates may be better",
    "rate": "the base's rate at this size",
    "resolution": "where between these rates training breaks down",
    "seeds": "the seeds' scatter is what is left",
}


def _below(wanted: Undecided, verdict: Verdict, curve: Curve, seeds: tuple[int, ...]) -> _Trials:
    return (wanted.lr / 2, wanted.lr / math.sqrt(2)), seeds


def _above(wanted: Undecided, verdict: Verdict, curve: Curve, seeds: tuple[int, ...]) -> _Trials:
    return (wanted.lr * math.sqrt(2), wanted.lr * 2), seeds


def _there(wanted: Undecided, verdict: Verdict, curve: Curve, seeds: tuple[int, ...]) -> _Trials:
    return (wanted.lr,), seeds


def _more_seeds(wanted: Undecided, verdict: Verdict, curve: Curve, seeds: tuple[int, ...]) -> _Trials:
    """As many seeds as would bring the interval's end to the limit, at the rates that the regret is read off."""
    optimum = verdict.base if wanted.size == "base" else verdict.target
    count = _seeds_needed(verdict, len(seeds)) - len(seeds)
    number = max(seeds) + 1
    added = tuple(range(number, number + count))
    rates = np.unique(curve.log2_lr[curve.is_stable])
    near = rates[np.abs(rates - optimum.log2_lr) <= _WINDOW] if math.isfinite(optimum.log2_lr) else rates
    used = verdict.numbers.rate
    if wanted.size == "target" and math.isfinite(used):
        # A rate beside the one used tells nothing more.
        near = np.append(near[np.abs(near - used) > _BESIDE], used)
    return tuple(sorted(2.0**rate for rate in near.tolist())), added


def _seeds_needed(verdict: Verdict, seeds: int) -> int:
    """Seeds at which the regret's interval would end at the limit: its width falls like 1 / sqrt(seeds)."""
    numbers = verdict.numbers
    gap = abs(verdict.limit - numbers.regret)
    half = max(numbers.regret_high - numbers.regret, numbers.regret - numbers.regret_low)
    needed = seeds * (half / gap) ** 2 if gap > 0 and math.isfinite(half) else math.inf
    most = _MOST_TIMES * seeds
    return min(max(seeds + 1, math.ceil(min(needed, most))), most)


_RUNS: dict[str, Callable[[Undecided, Verdict, Curve, tuple[int, ...]], _Trials]] = {
    "edge low": _below,
    "edge high": _above,
    "rate": _there,
    "resolution": _there,
    "seeds": _more_seeds,
}


def _seeds(curve: Curve) -> tuple[int, ...]:
    """The curve's seeds, if they are numbers."""
    return tuple(int(name) for name in curve.names.tolist() if isinstance(name, (int, float)))


# --- in words ---
def answer(data: xr.Dataset, axis: Axis, what: str = "learning rate") -> str:
    """The verdicts of all rules in one sentence."""
    of: dict[str, list[str]] = {"transfers": [], "does not transfer": [], "cannot tell": []}
    for rule in data["rule"].values.tolist():
        of[str(data["verdict"].sel(rule=rule).item())].append(rule)
    if data["rule"].values.tolist() == [NO_RULE]:
        return {"transfers": "Yes.", "does not transfer": "No.", "cannot tell": "Cannot tell."}[
            str(data["verdict"].item())
        ]
    good, bad, unknown = of.values()
    parts = [f"Yes, with {_list(good)}"] if good else []
    if bad:
        does = f"does the {what} of {axis.words(axis.base)} serve {axis.words(axis.target)}"
        parts.append(f"not with {_list(bad)}" if good else f"No: with none of {_list(bad)} {does}")
    if unknown:
        parts.append(f"{'cannot' if parts else 'Cannot'} tell for {_list(unknown)}")
    return "; ".join(parts) + "."


def _list(names: list[str]) -> str:
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"


def ask(axis: Axis, what: str = "learning rate") -> str:
    """The question in words."""
    return f"Does the {what} of {axis.words(axis.base)} serve {axis.words(axis.target)}?"


def attributes(
    data: xr.Dataset,
    axis: Axis,
    limits: Limits,
    along: Along,
    notes: Sequence[str],
    tuned: xr.Dataset | None,
    quantity: Quantity,
) -> dict[str, Any]:
    """What every verdict says of itself, whoever trained: question, answer, thresholds by name, and when."""
    return {
        "quantity": quantity.name,
        "better": quantity.better,
        "axis": axis.name,
        "base": axis.base,
        "hyperparameter": along.name,
        "what": along.words,
        "question": ask(axis, along.words),
        "answer": answer(data, axis, along.words),
        "notes": json.dumps(list(notes)),
        "tuned": json.dumps([] if tuned is None else _rows(tuned, axis)),
        "limits": json.dumps(asdict(limits)),
        "created": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
    }


def _rows(tuned: xr.Dataset, axis: Axis) -> list[dict[str, Any]]:
    """One mapping for each hyperparameter, place of the others and rule, with its numbers at the largest size."""
    rows = []
    at_target = tuned.sel({axis.name: axis.target})
    base = tuned["optimum"].sel({axis.name: axis.base})
    for name in tuned["hyperparameter"].values.tolist():
        for others in OTHERS:
            for rule in tuned["rule"].values.tolist():
                place = {"hyperparameter": name, "others": others, "rule": rule}
                row = at_target.sel(place)
                told: dict[str, Any] = {"hyperparameter": Along(name).words, "others": others, "rule": rule}
                told["base_optimum"] = float(base.sel(place))
                for key in (
                    "optimum",
                    "value_used",
                    "drift",
                    "drift_low",
                    "drift_high",
                    "regret",
                    "regret_low",
                    "regret_high",
                    "best_loss",
                ):
                    told[key] = float(row[key])
                told |= {key: str(row[key].item()) for key in ("at_edge", "verdict", "reason")}
                rows.append(told)
    return rows
