"""Which learning rates and branch sizes would make every effect the same at every depth.

An audit gives the exponents of the effects under one rule. How they answer to a change of the rule is known: a
learning rate moves its own effects alike; a branch that starts L^-c smaller passes on less of what its inner
projections learn, and, where the step follows the gradient's size (SGD), sends less gradient to them. Setting all
exponents to 0 is a linear equation.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from isoscale import checks
from isoscale.errors import InvalidValueError
from isoscale.measure.audit import Audit, audited
from isoscale.measure.tools.slopes import DEPENDS, Slope, answer, fit
from isoscale.scaling import rules
from isoscale.scaling.optimizers import Family
from isoscale.scaling.roles import Role
from isoscale.scaling.rules import DepthRow, Rule

if TYPE_CHECKING:
    import pandas as pd

# Where it is measured: any rule under which a deep network starts with numbers of size 1 would do.
_REFERENCE = rules.residual_family(0.5, 0.5).depth


@dataclass(frozen=True, kw_only=True)
class Suggestion:
    """Exponents in depth that make the branches' effects flat.

    Attributes:
        exponents: Rows "branch multiplier", "lr branch_internal", "lr branch_last": columns what, exponent, low, high
            (95 % interval), simplest (the multiple of 1/2 in the interval, else of 1/4, else the exponent itself).
            Learning rates are those beside an explicit multiplier, as in docs/theory.md, section 5.
        rule: The audited rule with the simplest exponents, for `isoscale.parametrize`.
        flat: Whether an audit under it finds every effect of the branches flat.
        statement: That in words.
        audit: That audit.
    """

    exponents: pd.DataFrame
    rule: Rule
    flat: bool
    statement: str
    audit: Audit


def suggest(found: Audit, *, seeds: int = 8) -> Suggestion:
    """Suggest a depth rule from an audit; it is measured anew, so the audited rule may be any.

    Args:
        found: An audit over four depths or more.
        seeds: How many (0, 1, ...) to measure with; what is found at infinite depth needs more than a verdict does.

    Returns:
        `Suggestion`. With inner projections that should learn, the branch must start smaller: CompleteP's rates; with
        one linear layer a branch there is no such need, and the branch keeps its initial noise: depth-muP's.

    Raises:
        InvalidValueError: Fewer than four depths, or no residual branches.

    Source: docs/theory.md, section 4.
    """
    axes = dict(found.experiment.axes)
    depths = axes.get("depth")
    if depths is None or len(depths) < 4:
        raise InvalidValueError(f"an audit over four depths or more is needed, got depths {depths}")
    # Only depth is asked about, and a wide network is nearer to what theory says of it.
    if "width" in axes:
        axes["width"] = [max(axes["width"])]
    reference = replace(found.rule, name="depth-mup's depths", depth=_REFERENCE)
    experiment = replace(
        found.experiment,
        axes=axes,
        seeds=checks.seeds(seeds),
        rule=reference,
    )
    row = experiment.family
    measured = audited(experiment, "role", found.thresholds)
    table = _frame(_solve(measured, row))
    simplest = dict(zip(table["what"], table["simplest"], strict=True))
    rule = _rule(found.rule, simplest, row)
    check = audited(replace(experiment, rule=rule), "role", found.thresholds)
    flat = _branches_flat(check)
    if flat:
        statement = "every effect of the branches is flat under these exponents"
    else:
        statement = (
            "no exponents of branch size and learning rates make every effect flat: see the audit under the nearest"
        )
    return Suggestion(
        exponents=table,
        rule=rule,
        flat=flat,
        statement=statement,
        audit=check,
    )


@dataclass(frozen=True)
class _Exponent:
    """A number with its standard error and degrees of freedom."""

    value: float
    se: float
    freedom: int

    def plus(self, other: _Exponent, times: float = 1.0) -> _Exponent:
        value = self.value + times * other.value
        se = math.hypot(self.se, times * other.se)
        return _Exponent(value, se, min(self.freedom, other.freedom))

    def shifted(self, by: float) -> _Exponent:
        return replace(self, value=self.value + by)


def _solve(measured: Audit, row: Family) -> dict[str, _Exponent]:
    """Exponents of the branch multiplier and of the learning rates beside it.

    With c the further shrinking of the branch, d_i and d_l the change of the two learning rates' exponents (folded):
        own_internal    + d_i - [linear] c = 0
        stream_internal + d_i - c - [linear] c = 0
        stream_last     + d_l = 0
    where [linear] is 1 if the step is proportional to the gradient (SGD), else 0.
    """
    linear = row.answer == "linear"
    stream_last = _measured(measured, Role.BRANCH_LAST, "stream_update")
    if stream_last is None:
        raise InvalidValueError("the model has no residual branches whose effect on the stream can be seen")
    direct = _measured(measured, Role.BRANCH_INTERNAL, "own_update")
    stream = _measured(measured, Role.BRANCH_INTERNAL, "stream_update")
    none = _Exponent(0.0, 0.0, stream_last.freedom)

    # c: the second equation less the first.
    shrink = none
    if direct is not None and stream is not None:
        shrink = stream.plus(direct, -1)
    branch = none.plus(shrink, -1).shifted(_REFERENCE.branch)

    # d_l: the third. The multiplier L^-c beside the rate folds into it as L^(-p c): the rate itself moves by d_l + p c.
    folds = float(row.lr_power)
    last = shrink.plus(stream_last, -1 / folds)
    start = _REFERENCE.sgd_last if linear else _REFERENCE.adam_last
    beside = replace(
        last,
        value=start + folds * last.value,
        se=folds * last.se,
    )
    found = {"branch multiplier": branch, "lr branch_last": beside}

    # d_i: the first.
    if direct is not None:
        change = shrink.plus(direct, -1) if linear else none.plus(direct, -1)
        start = _REFERENCE.sgd_internal if linear else _REFERENCE.adam_internal
        found["lr branch_internal"] = change.shifted(start)
    return found


def _measured(audit: Audit, role: Role, quantity: str) -> _Exponent | None:
    """A role's exponent in depth, its bias at finite depth taken out; None if the network has no such effect."""
    data = audit.data
    if str(role) not in data["role"].values:
        return None
    # The audit's depths are those at the largest width.
    values = data[quantity].sel(role=str(role))
    if "width" in data.dims:
        values = values.sel(width=data["width"].values.max())
    values = values.transpose("depth", "seed")
    slope = fit(data["depth"].values.tolist(), values.values, correction=True)
    if math.isnan(slope.exponent):
        return None
    return _Exponent(slope.exponent, slope.se, slope.freedom)


def _rule(audited: Rule, found: dict[str, float], row: Family) -> Rule:
    # Without inner projections their rate is free, and follows the output projection's.
    last = found["lr branch_last"]
    inner = found.get("lr branch_internal", last)
    branch = found["branch multiplier"]
    if row.answer == "linear":
        depth = DepthRow(branch=branch, sgd_internal=inner, sgd_last=last)
    else:
        depth = DepthRow(branch=branch, adam_internal=inner, adam_last=last)
    return replace(
        audited,
        name=f"suggested for {audited.name}",
        keeps="what the audit found flat",
        depth=depth,
    )


def _branches_flat(audit: Audit) -> bool:
    # Biases and norm scales have no rate of their own in a rule: they follow the output projection.
    rows = audit.exponents
    in_branch = rows["role"].str.startswith("branch_") & (rows["role"] != "branch_vector")
    in_depth = rows[in_branch & (rows["axis"] == "depth")]
    return answer(in_depth) != DEPENDS


def _frame(table: dict[str, _Exponent]) -> pd.DataFrame:
    import pandas as pd

    rows = []
    for what, found in table.items():
        slope = Slope(
            exponent=found.value,
            se=found.se,
            freedom=found.freedom,
        )
        low, high = slope.interval()
        row = {
            "what": what,
            "exponent": found.value,
            "low": low,
            "high": high,
            "simplest": _simplest(found.value, low, high),
        }
        rows.append(row)
    return pd.DataFrame(rows)


def _simplest(value: float, low: float, high: float) -> float:
    """The multiple of 1/2, else of 1/4, that the interval holds and that is nearest; else the value."""
    for parts in (2, 4):
        nearest = round(value * parts) / parts
        if low <= nearest <= high:
            return nearest
    return value
