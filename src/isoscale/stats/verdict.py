"""Does the base's learning rate serve the target? Yes, no, or "cannot tell" with what would tell.

The criterion is the regret of the rate used, against a limit in loss; the drift explains it. A pure function of the
runs of two sizes (docs/verdict.md).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import numpy as np

from isoscale.checks import number, share
from isoscale.errors import InvalidValueError
from isoscale.stats.curve import SAME, Curve
from isoscale.stats.optimum import Optimum, find_optimum
from isoscale.stats.quantity import Quantity
from isoscale.stats.summary import LEVEL
from isoscale.stats.transferred import Transferred, transferred

Answer = Literal["transfers", "does not transfer", "cannot tell"]
Kind = Literal["edge low", "edge high", "seeds", "rate", "resolution"]
Size = Literal["base", "target"]


@dataclass(frozen=True, kw_only=True)
class Limits:
    """What still counts as a transfer.

    Attributes:
        regret: Largest regret, as a share of the target's loss at its own optimum.
        worse: By which share of the base's loss the target may end above it.
        lost_seeds: Largest share of the target's seeds that may diverge at the rate used.
        level: Of every interval.

    Raises:
        InvalidValueError: A limit below 0, or a level outside (0, 1).

    >>> Limits(regret=0.005).worse
    0.02
    """

    regret: float = 0.02
    worse: float = 0.02
    lost_seeds: float = 0.0
    level: float = LEVEL

    def __post_init__(self) -> None:
        number("regret", self.regret, least=0.0)
        number("worse", self.worse, least=0.0)
        share("lost_seeds", self.lost_seeds)
        if not 0 < self.level < 1:
            raise InvalidValueError(f"`level` must be between 0 and 1, got {self.level}")


@dataclass(frozen=True)
class Undecided:
    """What keeps a verdict open, and where a run would tell.

    Attributes:
        kind: "edge low", "edge high": the optimum lies at that end of the measured rates, or beyond. "seeds": too few.
            "rate": the rate used was not run at the target. "resolution": the gap that holds the optimum is too wide.
        size: Where: "base" or "target".
        lr: The learning rate that tells most: the end to go beyond, the rate to run, the middle of the gap, or where
            more seeds count; NaN if none is known.
    """

    kind: Kind
    size: Size
    lr: float


@dataclass(frozen=True, kw_only=True)
class Verdict:
    """The answer, why, and the numbers behind it.

    Attributes:
        answer: "transfers", "does not transfer" or "cannot tell".
        reason: Why, in words.
        undecided: What a "cannot tell" hangs on, the cheapest first; empty otherwise.
        base, target: The two optima.
        numbers: The base's rate at the target: drift, regret, lost seeds.
        limit: The largest regret allowed, in loss.
    """

    answer: Answer
    reason: str
    undecided: tuple[Undecided, ...]
    base: Optimum
    target: Optimum
    numbers: Transferred
    limit: float


def judge(
    base: Curve,
    target: Curve,
    limits: Limits | None = None,
    *,
    names: tuple[str, str] = ("the base", "the target"),
    quantity: Quantity | None = None,
) -> Verdict:
    """Whether the learning rate of `base` serves `target`.

    Args:
        base, target: Runs of the tuned size and of the large one.
        limits: `Limits()` by default.
        names: What to call the two sizes, such as ("depth 4", "depth 32").
        quantity: What the runs' losses are; by default losses.

    >>> rates = [(k, seed) for k in range(-6, 0) for seed in range(3)]
    >>> def curve(optimum):
    ...     losses = [1 + 0.1 * (k - optimum) ** 2 for k, _ in rates]
    ...     return Curve.of_runs([2.0**k for k, _ in rates], [seed for _, seed in rates], losses)
    >>> judge(curve(-3), curve(-3)).answer, judge(curve(-3), curve(-1.5)).answer
    ('transfers', 'does not transfer')
    """
    limits = limits or Limits()
    at_base = find_optimum(base, limits.level)
    at_target = find_optimum(target, limits.level)
    numbers = transferred(base, target, at_base, at_target, limits.level)
    limit = limits.regret * abs(numbers.loss_tuned)
    answer, reason, undecided = _decide(
        base, target, at_base, at_target, numbers, limits, names, quantity or Quantity()
    )
    return Verdict(
        answer=answer,
        reason=reason,
        undecided=tuple(undecided),
        base=at_base,
        target=at_target,
        numbers=numbers,
        limit=limit,
    )


_Decision = tuple[Answer, str, list[Undecided]]


def _decide(
    base: Curve,
    target: Curve,
    at_base: Optimum,
    at_target: Optimum,
    numbers: Transferred,
    limits: Limits,
    names: tuple[str, str],
    quantity: Quantity,
) -> _Decision:
    """The first of these that applies."""
    small, large = names
    used = 2.0**numbers.rate
    # --- the rate used is not known ---
    for curve, name, size in ((base, small, "base"), (target, large, "target")):
        if not curve.seeds:
            return "cannot tell", f"nothing was run at {name}", [Undecided("seeds", size, math.nan)]
    if at_base.edge:
        return _at_edge(base, at_base, small, "base")
    if _has_one_rate(base):
        return _one_rate(small, "base", used)

    # --- what it does at the target ---
    if numbers.lost > limits.lost_seeds:
        return "does not transfer", _lost_words(numbers, target, at_target, large), []
    if numbers.unknown > 0:
        why = f"the rate used, {used:.3g}, was not run at {large}"
        return "cannot tell", why, [Undecided("rate", "target", used)]
    for optimum, name, size in ((at_base, small, "base"), (at_target, large, "target")):
        if optimum.seeds < 2:
            return "cannot tell", f"one seed at {name}: no interval", [Undecided("seeds", size, used)]
    return _by_regret(target, at_base, at_target, numbers, limits, names, quantity)


def _by_regret(
    target: Curve,
    at_base: Optimum,
    at_target: Optimum,
    numbers: Transferred,
    limits: Limits,
    names: tuple[str, str],
    quantity: Quantity,
) -> _Decision:
    """The interval of the regret against its limit."""
    small, large = names
    unit = abs(numbers.loss_tuned) or 1.0
    cost = f"{_percent(numbers.regret / unit)} of the {quantity.name}"
    most = f"limit {_percent(limits.regret)}"
    if numbers.regret_low > limits.regret * unit:
        return "does not transfer", f"costs {cost} ({most}){_drift_words(numbers)}", []
    if numbers.worse_low > limits.worse * abs(numbers.loss_base):
        there, before = quantity.sign * numbers.loss, quantity.sign * numbers.loss_base
        ends = f"{large} ends at {there:.3g}, worse than {small} at {before:.3g}"
        return "does not transfer", f"costs {cost}, but {ends}", []
    if at_target.edge:
        return _at_edge(target, at_target, large, "target")
    if _has_one_rate(target):
        return _one_rate(large, "target", 2.0**numbers.rate)
    if numbers.regret_high <= limits.regret * unit:
        return "transfers", f"costs {cost} ({most})", []
    between = f"{_percent(numbers.regret_low / unit)} to {_percent(numbers.regret_high / unit)}"
    why = f"the regret is {between} of the {quantity.name} ({most})"
    return "cannot tell", why, _what_would_tell(at_base, at_target, numbers)


def _what_would_tell(at_base: Optimum, at_target: Optimum, numbers: Transferred) -> list[Undecided]:
    """Runs that narrow the regret's interval, the cheapest first."""
    used = 2.0**numbers.rate
    found: list[Undecided] = []
    if not numbers.is_measured:
        found.append(Undecided("rate", "target", used))
    sizes: tuple[tuple[Size, Optimum], ...] = (("target", at_target), ("base", at_base))
    for size, optimum in sizes:
        if optimum.is_limit and optimum.resolution > _FINE:
            found.append(Undecided("resolution", size, 2.0**optimum.cliff))
    found.append(Undecided("seeds", "target", used if numbers.is_noise else 2.0**at_target.rate))
    return found


# A gap this narrow, half of it in octaves, is no longer what decides.
_FINE = 0.1

# What to try beyond an end of the measured rates.
_BEYOND = {"low": "smaller", "high": "larger"}


def _at_edge(curve: Curve, optimum: Optimum, name: str, size: Size) -> _Decision:
    if optimum.edge == "none":
        lowest = 2.0 ** float(curve.log2_lr.min())
        return (
            "cannot tell",
            f"not trainable at {name}: most seeds diverge at every rate",
            [Undecided("edge low", size, lowest)],
        )
    end = 2.0**optimum.log2_lr
    why = f"the optimum at {name} lies at the end of the measured rates, {end:.3g}: try {_BEYOND[optimum.edge]} ones"
    kind: Kind = "edge low" if optimum.edge == "low" else "edge high"
    return "cannot tell", why, [Undecided(kind, size, end)]


def _has_one_rate(curve: Curve) -> bool:
    return bool(np.ptp(curve.log2_lr) <= SAME)


def _one_rate(name: str, size: Size, lr: float) -> _Decision:
    """Both sides of the only rate are open."""
    why = f"one learning rate was run at {name}"
    return "cannot tell", why, [Undecided("edge low", size, lr), Undecided("edge high", size, lr)]


def _lost_words(numbers: Transferred, target: Curve, at_target: Optimum, large: str) -> str:
    if at_target.edge == "none":
        return f"not trainable at {large}"
    if numbers.lost == 1:
        return f"diverges at {large}"
    known = round(target.seeds * (1 - numbers.unknown))
    return f"{round(numbers.lost * known)} of {known} seeds diverge at {large}"


def _drift_words(numbers: Transferred) -> str:
    """The drift, where its sign is known."""
    if numbers.drift_low > 0 or numbers.drift_high < 0:
        return f": the optimum drifts by {numbers.drift:+.1f} octaves"
    return ""


def _percent(share: float) -> str:
    """A share as a person says it.

    >>> _percent(0.0037), _percent(2.61), _percent(float("nan"))
    ('0.37 %', '261 %', 'unknown')
    """
    if math.isnan(share):
        return "unknown"
    percent = 100 * share
    return f"{percent:.2g} %" if percent < 99.5 else f"{percent:.0f} %"
