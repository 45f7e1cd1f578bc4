"""A tensor's plan made by hand, for tests of what reads it."""

from __future__ import annotations

from isoscale.scaling.factors import Factors
from isoscale.scaling.optimizers import stepping
from isoscale.scaling.roles import Role
from isoscale.scaling.tensor import TensorPlan
from isoscale.training import Optimizer


def planned(optimizer: Optimizer, role: Role = Role.BRANCH_INTERNAL, factors: Factors | None = None) -> TensorPlan:
    """The numbers of a matrix at base learning rate 1, its factors given."""
    factors = Factors() if factors is None else factors
    row = stepping(optimizer.family, role)
    told = optimizer.settings(lr=1.0)
    return TensorPlan(
        name="w",
        role=role,
        shape=(4, 4),
        base_shape=(4, 4),
        optimizer=row.name,
        multiplier=1.0,
        init=factors.init_std,
        lr=factors.lr,
        weight_decay=told.weight_decay * factors.weight_decay if role.decays else 0.0,
        eps=told.eps * factors.eps if row.has_eps else None,
        momentum=None if row.takes_betas else told.momentum,
        betas=told.betas if row.takes_betas else None,
    )
