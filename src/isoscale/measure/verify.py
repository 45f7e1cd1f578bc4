"""Does a plan do what its rule promises? One gradient at each size, and what the first step of the plan then does.

The plan's own numbers take the step: its groups' learning rates, its eps, its optimizer for each tensor. For every
kind of tensor three things are measured over the sizes: the value that it makes at the start, what the step changes in
that value, and what that changes in the loss. Each is a power of the size that the rule's own table promises
(`isoscale.measure.tools.promises`); a power that differs by more than chance and finite width explain is an open item.
Roles enter through the plan alone: a tensor that was misread got the wrong numbers, and they show.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor, nn

from isoscale import checks
from isoscale.errors import InvalidTypeError, InvalidValueError
from isoscale.graph.anatomy import Roles
from isoscale.graph.unwrapping import unwrapped
from isoscale.measure.audit import output_from_zero, step_of_plan
from isoscale.measure.tools.building import Factory, build
from isoscale.measure.tools.first_step import first_step
from isoscale.measure.tools.observe import tensors
from isoscale.measure.tools.passes import LossFn, loss_gradient
from isoscale.measure.tools.promises import LOSS, START, UPDATE, promised, promises_depth
from isoscale.measure.tools.slopes import fit
from isoscale.parametrization import Plan
from isoscale.parametrization.make_plan import make as make_plan
from isoscale.parametrization.make_plan import read, settings
from isoscale.parametrization.sizes import describe
from isoscale.scaling import rules
from isoscale.scaling.optimizers import FAMILIES
from isoscale.scaling.roles import Role
from isoscale.scaling.rules import Rule
from isoscale.scaling.tensor import TensorPlan, decide, muon_scale

if TYPE_CHECKING:
    import pandas as pd
    import xarray as xr


# --- one network ---
@dataclass(frozen=True)
class Measured:
    """What the first step does to one network, by kind of tensor.

    Attributes:
        values: quantity -> kind -> number.
        order: The kinds in the order in which they meet data.
        missed: Kinds whose action could not be followed, and why.
        ends: Whether the output has the same shape whatever the size: its number of entries.
    """

    values: dict[str, dict[str, float]]
    order: tuple[str, ...]
    missed: dict[str, str]
    outputs: int


def measured(
    model: nn.Module, plan: Plan, kinds: Mapping[str, str], batch: Any, loss_fn: LossFn | None, seed: int
) -> Measured:
    """Take the plan's first step in one network, to first order."""
    inputs, targets = _split(batch, loss_fn)
    outputs = 0

    def loss(output: Any, y: Any) -> Tensor:
        nonlocal outputs
        first = next(tensor for _, tensor in tensors(output))
        outputs = first.numel()
        if loss_fn is not None:
            return loss_fn(output, y)
        # A direction drawn once for all sizes: where a loss would push the output, without a loss.
        signs = torch.randint(2, first.shape, generator=torch.Generator().manual_seed(0))
        return (first * (2 * signs - 1).to(first)).mean()

    with output_from_zero(model):
        _, grads = loss_gradient(model, loss, (inputs, targets), seed)
    steps = step_of_plan(plan, grads)
    acted = first_step(model, inputs, steps, seed)
    squares: dict[str, dict[str, list[float]]] = {START: {}, UPDATE: {}}
    losses: dict[str, float] = {}
    for entry in plan.entries:
        kind = kinds[entry.name]
        if entry.name not in steps:
            continue
        change = -float((grads[entry.name].double() * steps[entry.name].double()).sum())
        losses[kind] = losses.get(kind, 0.0) + change
        if entry.name in acted.update:
            squares[UPDATE].setdefault(kind, []).append(acted.update[entry.name])
            if entry.role.decays:
                squares[START].setdefault(kind, []).append(acted.start[entry.name])
    values: dict[str, dict[str, float]] = {LOSS: losses}
    for quantity, by_kind in squares.items():
        values[quantity] = {}
        for kind, sizes in by_kind.items():
            values[quantity][kind] = float(np.sqrt(np.mean(np.square(sizes))))
    order = tuple(dict.fromkeys(kinds[name] for name in acted.order))
    missed = {kinds[name]: why for name, why in acted.missed.items()}
    return Measured(values, order, missed, outputs)


def _split(batch: Any, loss_fn: LossFn | None) -> tuple[Any, Any]:
    """The forward's arguments, a tuple or a mapping, and the targets."""
    targets = None
    inputs = batch
    if loss_fn is not None:
        inputs, targets = batch
    if not isinstance(inputs, (tuple, Mapping)):
        inputs = (inputs,)
    return inputs, targets
