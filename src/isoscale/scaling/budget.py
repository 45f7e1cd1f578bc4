"""The table of budgets: how learning rate, decay, eps and betas follow the batch and the duration of a training.

Two ratios, both relative to the tuned base: b = batch / base batch, t = samples (tokens) seen / base. Their quotient
q = b / t is base steps / steps. Every factor is a product of powers, b^x t^y; a budget rule is a row of such powers.
The published rows contradict one another: docs/theory.md, section 8.2, says where each comes from.

>>> budget("completed-p").factors("adamw", batch=16.0, tokens=4.0).lr  # (16 / 4)^(1/2)
2.0
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import astuple, dataclass
from typing import Any

from isoscale.checks import number, share
from isoscale.errors import InvalidTypeError, InvalidValueError, unknown
from isoscale.scaling.optimizers import OPTIMIZERS, OptimizerFamily, family

# What torch's Adam family averages over unless it is told.
TORCH_BETAS = (0.9, 0.999)

# An average over one step is none: 1 - beta must stay below 1.
LARGEST_ONE_MINUS_BETA = 0.99


@dataclass(frozen=True, kw_only=True)
class Powers:
    """Powers of the two ratios."""

    batch: float = 0.0
    tokens: float = 0.0

    def at(self, batch: float, tokens: float) -> float:
        """The factor b^x t^y; infinite where no number holds it."""
        try:
            return batch**self.batch * tokens**self.tokens
        except OverflowError:
            return math.inf


@dataclass(frozen=True, kw_only=True)
class BudgetFactors:
    """What the settings of every tensor are multiplied by, relative to the base.

    Attributes:
        lr: Learning rate.
        weight_decay: The optimizer's `weight_decay` argument.
        eps: The optimizer's `eps`.
        one_minus_beta1, one_minus_beta2: 1 - beta1 and 1 - beta2.
    """

    lr: float = 1.0
    weight_decay: float = 1.0
    eps: float = 1.0
    one_minus_beta1: float = 1.0
    one_minus_beta2: float = 1.0

    @property
    def keeps_betas(self) -> bool:
        """Whether the betas stay as they are."""
        return self.one_minus_beta1 == 1 == self.one_minus_beta2

    def betas(self, betas: tuple[float, float]) -> tuple[float, float]:
        """The betas at this budget, each at least 1 - `LARGEST_ONE_MINUS_BETA` unless the base's own is smaller.

        >>> BudgetFactors(one_minus_beta1=2.0).betas((0.75, 0.999))
        (0.5, 0.999)
        """
        first, second = self._wanted(betas)
        return _beta(betas[0], first), _beta(betas[1], second)

    def capped(self, betas: tuple[float, float]) -> Iterator[str]:
        """In words, each beta that cannot follow its factor."""
        for name, base, wanted in zip(("beta1", "beta2"), betas, self._wanted(betas), strict=True):
            kept = _beta(base, wanted)
            if kept != wanted and wanted != base:
                yield f"{name} would have to be {wanted:.3g}, which is no average: capped at {kept:.3g}"

    def _wanted(self, betas: tuple[float, float]) -> tuple[float, float]:
        # A beta that stays does so to the last bit.
        first, second = betas
        if self.one_minus_beta1 != 1:
            first = 1 - (1 - first) * self.one_minus_beta1
        if self.one_minus_beta2 != 1:
            second = 1 - (1 - second) * self.one_minus_beta2
        return first, second


def _beta(base: float, wanted: float) -> float:
    return max(wanted, min(base, 1 - LARGEST_ONE_MINUS_BETA))


@dataclass(frozen=True, kw_only=True)
class BudgetRule:
    """A named way to follow batch and duration: one row of the table.

    Attributes:
        name: What `budget` finds it by.
        keeps: What the rule keeps constant, in one line.
        source: The paper or the code, and how it is known.
        optimizers: The families that it is stated for.
        lr, weight_decay, eps, one_minus_beta1, one_minus_beta2: Powers of the two ratios.
        beta2_range: If given, beta2 itself is raised to the power b, and kept between these two.
    """

    name: str
    keeps: str
    source: str
    optimizers: tuple[OptimizerFamily, ...] = OPTIMIZERS
    lr: Powers = Powers()
    weight_decay: Powers = Powers()
    eps: Powers = Powers()
    one_minus_beta1: Powers = Powers()
    one_minus_beta2: Powers = Powers()
    beta2_range: tuple[float, float] | None = None

    @property
    def is_named(self) -> bool:
        """Whether `budget` returns this very rule for its name."""
        return _RULES.get(self.name) == self

    def factors(
        self, optimizer: OptimizerFamily, *, batch: float = 1.0, tokens: float = 1.0, beta2: float = TORCH_BETAS[1]
    ) -> BudgetFactors:
        """Factors relative to the base.

        Args:
            optimizer: The optimizer's family.
            batch: Target / base number of samples in a step, > 0.
            tokens: Target / base number of samples (tokens) seen in all, > 0.
            beta2: The base's; only a rule that raises beta2 to a power asks for it.

        Raises:
            InvalidValueError: A ratio that is not positive and finite, or so far from 1 that a factor is no number, a
                beta2 outside [0, 1), an unknown family, or a family that the rule is not stated for.

        >>> budget("sqrt-batch").factors("adamw", batch=16).lr
        4.0
        """
        name = family(optimizer).name
        if name not in self.optimizers:
            raise InvalidValueError(
                f"the budget {self.name!r} is stated for {', '.join(self.optimizers)}, not for {name}. "
                f"For {name}: {', '.join(budget_names(name))}"
            )
        b = number("batch", batch, above=0)
        t = number("tokens", tokens, above=0)
        beta2 = share("beta2", beta2)
        second = self.one_minus_beta2.at(b, t)
        if self.beta2_range:
            second = _powered(beta2, b, self.beta2_range)
        found = BudgetFactors(
            lr=self.lr.at(b, t),
            weight_decay=self.weight_decay.at(b, t),
            eps=self.eps.at(b, t),
            one_minus_beta1=self.one_minus_beta1.at(b, t),
            one_minus_beta2=second,
        )
        if not all(0 < factor < math.inf for factor in astuple(found)):
            raise InvalidValueError(f"no number holds what {self.name!r} asks for at batch x{b:g} and tokens x{t:g}")
        return found


def _powered(beta2: float, batch: float, kept: tuple[float, float]) -> float:
    """The factor on 1 - beta2 of beta2 -> beta2^b; the base's own beta2 is never out of the range."""
    least, most = kept
    found = min(max(beta2**batch, min(least, beta2)), max(most, beta2))
    return (1 - found) / (1 - beta2)


@dataclass(frozen=True, kw_only=True)
class Budget:
    """How far the target's batch and duration are from the base's, and the rule that follows them.

    Attributes:
        rule: The rule.
        batch, tokens: Ratios of the samples in a step, and of the samples (tokens) seen in all.
    """

    rule: BudgetRule
    batch: float = 1.0
    tokens: float = 1.0

    def factors(self, optimizer: OptimizerFamily, beta2: float = TORCH_BETAS[1]) -> BudgetFactors:
        """The rule's factors at these ratios; arguments and errors as for `BudgetRule.factors`."""
        return self.rule.factors(optimizer, batch=self.batch, tokens=self.tokens, beta2=beta2)

    def canonical(self) -> dict[str, Any]:
        """As plain values: what `isoscale.parametrize` calls budget, batch and tokens."""
        return {"budget": self.rule.name, "batch": self.batch, "tokens": self.tokens}


_SQRT_BATCH = Powers(batch=0.5)
_STEPS = Powers(batch=1, tokens=-1)  # q
_SQRT_STEPS = Powers(batch=0.5, tokens=-0.5)
_ONE_OVER_SQRT_STEPS = Powers(batch=-0.5, tokens=0.5)

_ROWS = (
    BudgetRule(name="none", keeps="the base's own settings", source="no rule"),
    BudgetRule(
        name="linear",
        keeps="the noise of SGD's path, and the share of the weights that decay removes in the run",
        source="Goyal et al., arXiv 1706.02677",
        optimizers=("sgd",),
        lr=Powers(batch=1),
        # 1/b at fixed steps, where t = b.
        weight_decay=Powers(tokens=-1),
    ),
    BudgetRule(
        name="sde",
        keeps="the noise of Adam's path, as a stochastic differential equation",
        source="Malladi et al., arXiv 2205.10287; decay as in third-party code",
        optimizers=("adam", "adamw"),
        lr=_SQRT_BATCH,
        weight_decay=_SQRT_BATCH,
        eps=Powers(batch=-0.5),
        one_minus_beta1=Powers(batch=1),
        one_minus_beta2=Powers(batch=1),
    ),
    BudgetRule(
        name="sdew",
        keeps="the noise of AdamW's path, as a stochastic differential equation",
        source="arXiv 2411.15958, as in third-party code",
        optimizers=("adamw",),
        weight_decay=_SQRT_BATCH,
        one_minus_beta2=_SQRT_BATCH,
    ),
    BudgetRule(name="sqrt-batch", keeps="the noise of a step, roughly", source="custom", lr=_SQRT_BATCH),
    BudgetRule(
        name="completed-p",
        keeps="the path of AdamW in time of its own: lr x decay x steps",
        source="Mlodozeniec et al., arXiv 2512.22382, as in third-party code",
        optimizers=("adam", "adamw"),
        lr=_SQRT_STEPS,
        weight_decay=_SQRT_STEPS,
        eps=_ONE_OVER_SQRT_STEPS,
        one_minus_beta1=_STEPS,
        one_minus_beta2=_STEPS,
    ),
    BudgetRule(
        name="marin",
        keeps="what a fit to one family of runs found: lr falls like tokens^-0.3",
        source="marin's code, read; a later sweep of theirs fits 0.28",
        optimizers=("adam", "adamw"),
        lr=Powers(batch=0.5, tokens=-0.3),
        eps=_ONE_OVER_SQRT_STEPS,
        beta2_range=(0.9, 0.9999),
    ),
    BudgetRule(
        name="hyperp",
        keeps="what a fit found for Muon on a Frobenius sphere, where decay does nothing",
        source="Ren et al., arXiv 2603.28743, code read",
        optimizers=("muon",),
        lr=Powers(batch=0.5, tokens=-0.32),
    ),
    BudgetRule(
        name="ema-timescale",
        keeps="the weights' averaging time as a share of the run",
        source="Wang, Aitchison, arXiv 2405.13698",
        optimizers=("adamw", "sign", "muon"),
        weight_decay=_STEPS,
    ),
    BudgetRule(
        name="nanochat",
        keeps="lr x decay x steps, with lr ~ sqrt(batch)",
        source="nanochat's code, read",
        optimizers=("adamw", "muon"),
        lr=_SQRT_BATCH,
        weight_decay=Powers(batch=0.5, tokens=-1),
    ),
)
_RULES = {rule.name: rule for rule in _ROWS}

# As the base.
NO_BUDGET = Budget(rule=_RULES["none"])


def budget_names(optimizer: str | None = None) -> list[str]:
    """The named budget rules, sorted; of an optimizer's family those that are stated for it.

    >>> budget_names("sgd")
    ['linear', 'none', 'sqrt-batch']
    """
    if optimizer is None:
        return sorted(_RULES)
    name = family(optimizer).name
    return sorted(rule.name for rule in _ROWS if name in rule.optimizers)


def budget(name: str | BudgetRule) -> BudgetRule:
    """The budget rule of that name.

    Raises:
        InvalidValueError: No such rule; the message names the nearest.
    """
    if isinstance(name, BudgetRule):
        return name
    if not isinstance(name, str):
        raise InvalidTypeError(f"a budget rule is a name or a `BudgetRule`, got {name!r}")
    if name not in _RULES:
        raise unknown("budget", name, _RULES)
    return _RULES[name]
