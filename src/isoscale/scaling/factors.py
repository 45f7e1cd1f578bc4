"""Factors on a tensor's numbers relative to the base, and the exponents that they come from."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal

from isoscale.scaling.optimizers import OptimizerFamily, family

Decay = Literal["independent", "sqrt", "coupled", "none"]

# The power of the independent decay's factor that each choice takes; "none" is no power.
_DECAY_POWER = {"independent": 1.0, "sqrt": 0.5, "coupled": 0.0}


@dataclass(frozen=True)
class Factors:
    """What one tensor's numbers are multiplied by, relative to the base.

    Attributes:
        init_std: Standard deviation of the initial entries.
        multiplier: Explicit multiplier on the layer's output.
        lr: Learning rate.
        weight_decay: The optimizer's `weight_decay` argument, with decay="independent".
        eps: The optimizer's `eps` (Adam family).
    """

    init_std: float = 1.0
    multiplier: float = 1.0
    lr: float = 1.0
    weight_decay: float = 1.0
    eps: float = 1.0

    def __mul__(self, other: Factors) -> Factors:
        # Spelled out: `dataclasses.astuple` copies, which took a fifth of a plan's time.
        return Factors(
            init_std=self.init_std * other.init_std,
            multiplier=self.multiplier * other.multiplier,
            lr=self.lr * other.lr,
            weight_decay=self.weight_decay * other.weight_decay,
            eps=self.eps * other.eps,
        )

    def fold(self, optimizer: OptimizerFamily) -> Factors:
        """The same training with multiplier 1 (docs/theory.md, section 5, "Folding").

        The folded weight is w' = c w, so its gradient is g / c. What that does to a step and to the decay stands in
        the optimizer's row (`isoscale.scaling.optimizers`).

        >>> Factors(multiplier=0.5).fold("sgd")
        Factors(init_std=0.5, multiplier=1.0, lr=0.25, weight_decay=4.0, eps=1.0)
        """
        c, row = self.multiplier, family(optimizer)
        return Factors(
            init_std=self.init_std * c,
            multiplier=1.0,
            lr=self.lr * c**row.lr_power,
            weight_decay=self.weight_decay / c**row.decay_power,
            # eps stands beside the gradient's size; a linear step has neither.
            eps=self.eps if row.answer == "linear" else self.eps / c,
        )

    def with_decay(self, decay: Decay) -> Factors:
        """The factors under another choice of what the weight decay keeps constant.

        "independent" keeps the share of a weight that one step removes (lr * weight_decay, but for Adam with coupled
        decay), "coupled" the argument itself; "sqrt" lies half way between, and "none" is no decay. Sources:
        docs/theory.md, section 8 (CompleteP 2505.01618; Fan et al. 2510.15262; Qiu et al. 2512.05620).

        >>> Factors(lr=0.25, weight_decay=4.0).with_decay("sqrt").weight_decay
        2.0
        """
        if decay == "none":
            return replace(self, weight_decay=0.0)
        return replace(self, weight_decay=self.weight_decay ** _DECAY_POWER[decay])


@dataclass(frozen=True)
class Exponents:
    """Powers of one size ratio for one tensor; `Factors` are their values at a ratio."""

    init_std: float = 0.0
    multiplier: float = 0.0
    lr: float = 0.0
    weight_decay: float = 0.0
    eps: float = 0.0

    def at(self, ratio: float) -> Factors:
        """The factors at a ratio target / base."""
        return Factors(
            init_std=ratio**self.init_std,
            multiplier=ratio**self.multiplier,
            lr=ratio**self.lr,
            weight_decay=ratio**self.weight_decay,
            eps=ratio**self.eps,
        )
