"""The exponents that published rules give the best learning rate along an axis of sizes."""

from __future__ import annotations

import math
from typing import NamedTuple

from isoscale.runs import Sweep
from isoscale.scaling import rules
from isoscale.scaling.budget import budget, budget_names
from isoscale.scaling.roles import Role

# How a base's batch and samples change when a size doubles, by axis and by what stays fixed.
_RATIOS: dict[tuple[str, str], tuple[float, float]] = {
    ("batch_size", "steps"): (2.0, 2.0),
    ("batch_size", "tokens"): (2.0, 1.0),
    ("batch_size", "tokens-per-parameter"): (2.0, 1.0),
    ("steps", "steps"): (1.0, 2.0),
    ("steps", "tokens"): (0.5, 1.0),
    ("steps", "tokens-per-parameter"): (0.5, 1.0),
}


class Exponent(NamedTuple):
    """lr ~ size^value, by a rule; `source` says whose it is."""

    rule: str
    value: float
    source: str


def exponents(spec: Sweep, axis: str) -> list[Exponent]:
    """What published rules say of a sweep's learning rate along one of its size axes; none of axes they do not know.

    Along batch sizes and steps these are the rows of `isoscale.rules.budget_names()` that are stated for the optimizer,
    less what the sweep's own budget does already. Along width it is the exponent that muP gives hidden matrices, less
    that of the sweep's rule.

    >>> spec = Sweep(batch_sizes=[8, 16], optimizer="sgd", budget_axis="tokens")
    >>> [(found.rule, found.value) for found in exponents(spec, "batch_size")]
    [('linear', 1.0), ('none', 0.0), ('sqrt-batch', 0.5)]
    """
    if axis == "width":
        return _of_width(spec)
    if (axis, spec.budget_axis) not in _RATIOS:
        return []
    own = _budget_exponent(spec.budget, spec, axis)
    found = []
    for name in budget_names(spec.optimizer or None):
        value = _budget_exponent(name, spec, axis) - own
        found.append(Exponent(name, value, budget(name).source))
    return found


def _budget_exponent(name: str, spec: Sweep, axis: str) -> float:
    batch, tokens = _RATIOS[axis, spec.budget_axis]
    powers = budget(name).lr
    doublings = {2.0: 1, 1.0: 0, 0.5: -1}
    return powers.batch * doublings[batch] + powers.tokens * doublings[tokens]


def _of_width(spec: Sweep) -> list[Exponent]:
    if not spec.optimizer:
        return []
    names = list(spec.axes["rule"])
    found = []
    for name in names:
        if name not in rules.names():
            continue
        # What is left of muP's exponent after what the rule does by itself.
        left = _hidden_exponent("mup", spec.optimizer) - _hidden_exponent(name, spec.optimizer)
        found.append(Exponent(f"mup's hidden matrices, after {name}", left, "TP5, arXiv 2203.03466"))
    return found


def _hidden_exponent(name: str, optimizer: str) -> float:
    factors = rules.get(name).factors(Role.HIDDEN, optimizer, width=2.0, depth=1.0)  # pyrefly: ignore[bad-argument-type]
    return math.log2(factors.lr)
