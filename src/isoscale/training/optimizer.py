"""An optimizer with the hyperparameters that the base was tuned with."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from isoscale.checks import number, share
from isoscale.errors import unknown
from isoscale.parametrization.make_plan import settings
from isoscale.scaling.optimizers import FAMILIES, OPTIMIZERS, OptimizerFamily
from isoscale.scaling.tensor import Settings

# Torch's own defaults, said here because a trial's key must not depend on the installed torch.
BETAS = (0.9, 0.999)


@dataclass(frozen=True, kw_only=True)
class Optimizer:
    """An optimizer and what the base was tuned with; a plan turns that into each tensor's own numbers.

    Attributes:
        family: "sgd", "adam", "adamw", "sign" (signed momentum) or "muon" (hidden matrices by Muon, everything else
            by AdamW at the same base learning rate).
        momentum: Of sgd (default 0), sign (0.9, an average) and muon (0.95, Nesterov); not for Adam.
        betas, eps: Of Adam.
        weight_decay: As in torch: coupled for sgd and adam, decoupled for adamw, sign and muon; acts on weight
            matrices only, never on biases and gains.
    """

    family: OptimizerFamily = "sgd"
    momentum: float | None = None
    betas: tuple[float, float] = BETAS
    eps: float = 1e-8
    weight_decay: float = 0.0

    def __post_init__(self) -> None:
        if self.family not in OPTIMIZERS:
            raise unknown("optimizer", self.family, OPTIMIZERS)
        number("eps", self.eps, above=0)
        for beta in self.betas:
            share("betas", beta)
        self.settings(lr=1.0)

    def settings(self, lr: float) -> Settings:
        """What a plan is made with, every option said."""
        row = FAMILIES[self.family]
        momentum = row.momentum if self.momentum is None else self.momentum
        uses_betas = row.takes_betas or row.beside
        return settings(
            self.family,
            lr,
            self.weight_decay,
            self.eps,
            momentum=momentum,
            betas=self.betas if uses_betas else None,
        )

    def canonical(self) -> dict[str, Any]:
        """What the steps depend on: options that the family does not take are left out, defaults are said."""
        told = self.settings(lr=1.0)
        row = FAMILIES[self.family]
        named: dict[str, Any] = {"family": self.family, "weight_decay": told.weight_decay}
        if told.momentum is not None:
            named["momentum"] = told.momentum
        if told.betas is not None:
            named["betas"] = list(told.betas)
        if row.has_eps or (row.beside and FAMILIES[row.beside].has_eps):
            named["eps"] = told.eps
        return named
