"""What a plan's first step does to one network, by kind of tensor."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from isoscale.measure.tools.building import pair, trainable
from isoscale.measure.tools.first_step import first_step
from isoscale.measure.tools.observe import tensors
from isoscale.measure.tools.passes import LossFn, loss_gradient, mean_square
from isoscale.measure.tools.promises import ACTION, GAIN, GRADIENT, LOSS, START, UPDATE
from isoscale.measure.tools.stepped import output_from_zero, step_of_plan
from isoscale.parametrization import Plan
from isoscale.scaling.optimizers import FAMILIES
from isoscale.scaling.tensor import muon_scale


@dataclass(frozen=True)
class Measured:
    """What the first step does to one network, by kind of tensor.

    Attributes:
        values: quantity -> kind -> number.
        order: The kinds in the order in which they meet data.
        missed: Kinds whose action could not be followed, and why.
        outputs: How many entries the output has.
        opened: Whether tensors that are zero took a step first.
    """

    values: dict[str, dict[str, float]]
    order: tuple[str, ...]
    missed: dict[str, str]
    outputs: int
    opened: bool


# The size of the data that a tensor multiplies.
_DATA = "data"
# The size of a tensor's entries, and of its gradient's.
ENTRIES, ENTRY_GRADIENT = "entries", "entry_gradient"
_BIAS = "bias"

# A gradient that is this much smaller than most is rounding: a key's bias moves no softmax.
_ROUNDING = 1e-4


def measured(
    model: nn.Module, plan: Plan, kinds: Mapping[str, str], batch: Any, loss_fn: LossFn | None, seed: int
) -> Measured:
    """Take the plan's first step in one network, to first order; the network is left as it was.

    Where a tensor starts at zero and shuts the gradient off from others, the step is taken on it, and the next is
    measured.
    """
    inputs = arguments(batch, loss_fn)
    outputs, grads = _gradient(model, batch, loss_fn, seed)
    steps = _steps(plan, grads)
    opened: dict[str, Tensor] = {}
    if any(not grad.any() for grad in grads.values()):
        opened = _zeros(model, steps)
    with _moved(model, opened):
        if opened:
            _, grads = _gradient(model, batch, loss_fn, seed)
            steps = _steps(plan, grads)
        acted = first_step(model, inputs, steps, seed)
    sizes = {name: float(grad.double().square().mean().sqrt()) for name, grad in grads.items()}
    typical = float(np.median(list(sizes.values())))
    squares: dict[str, dict[str, list[float]]] = {START: {}, UPDATE: {}, _DATA: {}, ENTRIES: {}, ENTRY_GRADIENT: {}}
    parameters = dict(model.named_parameters())
    losses: dict[str, float] = {}
    for entry in plan.entries:
        name = entry.name
        if name not in steps or not sizes[name] > _ROUNDING * typical:
            continue
        kind = kinds[name]
        squares[ENTRIES].setdefault(kind, []).append(float(mean_square(parameters[name].detach()).sqrt()))
        squares[ENTRY_GRADIENT].setdefault(kind, []).append(sizes[name])
        change = -float((grads[name].double() * steps[name].double()).sum())
        losses[kind] = losses.get(kind, 0.0) + change
        if name in acted.update:
            squares[UPDATE].setdefault(kind, []).append(acted.update[name])
            # A bias is beside what its layer makes of the data.
            if entry.place == _BIAS:
                continue
            squares[_DATA].setdefault(kind, []).append(acted.data[name])
            if (entry.role.decays or entry.carries) and name not in opened:
                squares[START].setdefault(kind, []).append(acted.start[name])
    values: dict[str, dict[str, float]] = {LOSS: losses, GAIN: {}, ACTION: {}, GRADIENT: {}}
    for quantity, by_kind in squares.items():
        values[quantity] = {kind: _root_mean_square(found) for kind, found in by_kind.items()}
    families = {kinds[entry.name]: FAMILIES[entry.optimizer] for entry in plan.entries}
    gains = {kinds[entry.name] for entry in plan.entries if not entry.role.decays}
    for kind, update in values[UPDATE].items():
        data = values[_DATA].get(kind, 1.0)
        # The gradient of a gain is a product with its data, whose size is no news of the gain's.
        if kind in gains:
            update, data = update / data, 1.0
        gradient = losses[kind] / update if update else math.nan
        values[GRADIENT][kind] = gradient
        values[ACTION][kind] = update / data
        if families[kind].answer == "linear":
            values[ACTION][kind] = update / (gradient * data**2)
        if kind in values[START]:
            values[GAIN][kind] = values[START][kind] / values[_DATA][kind]
    order = tuple(dict.fromkeys(kinds[name] for name in acted.order))
    missed = {kinds[name]: why for name, why in acted.missed.items()}
    return Measured(values, order, missed, outputs, bool(opened))


def _root_mean_square(values: Sequence[float]) -> float:
    return float(np.sqrt(np.mean(np.square(values))))


def _gradient(model: nn.Module, batch: Any, loss_fn: LossFn | None, seed: int) -> tuple[int, dict[str, Tensor]]:
    """The number of outputs, and the gradient of the loss at output zero."""
    outputs = 0

    def loss(output: Any, y: Any) -> Tensor:
        nonlocal outputs
        first = next(tensor for _, tensor in tensors(output))
        outputs = first.numel()
        if loss_fn is not None:
            return loss_fn(output, y)
        # Without a loss, a direction that is drawn once for all sizes stands for where one would push the output.
        signs = 2 * torch.randint(2, first.shape, generator=torch.Generator().manual_seed(0)) - 1
        return (first * signs.to(first)).mean()

    with output_from_zero(model):
        _, grads = loss_gradient(model, loss, _split(batch, loss_fn), seed)
    return outputs, grads


def _split(batch: Any, loss_fn: LossFn | None) -> tuple[Any, Any]:
    """The forward's arguments, a tuple or a mapping, and the targets.

    Raises:
        InvalidTypeError: A loss, and no pair.
    """
    targets = None
    inputs = trainable(batch)
    if loss_fn is not None:
        inputs, targets = pair(batch, "with `loss_fn`, the batch must be a pair (arguments, targets)")
    if not isinstance(inputs, (tuple, Mapping)):
        inputs = (inputs,)
    return inputs, targets


def arguments(batch: Any, loss_fn: LossFn | None = None) -> Any:
    """The forward's arguments in a batch, a tuple or a mapping."""
    inputs, _ = _split(batch, loss_fn)
    return inputs


def _steps(plan: Plan, grads: dict[str, Tensor]) -> dict[str, Tensor]:
    """The plan's first step, with Muon's own scale of it."""
    steps = step_of_plan(plan, grads)
    if plan.settings.adjust_lr_fn == "original":
        return steps
    for entry in plan.entries:
        if entry.name in steps and FAMILIES[entry.optimizer].answer == "spectral":
            rows, columns = entry.shape
            scale = muon_scale(rows, columns, plan.settings.adjust_lr_fn) / muon_scale(rows, columns, "original")
            steps[entry.name] = steps[entry.name] * scale
    return steps


def _zeros(model: nn.Module, steps: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The steps of the tensors that are zero."""
    found = {}
    for name, parameter in model.named_parameters():
        if name in steps and not parameter.any():
            found[name] = steps[name]
    return found


@contextlib.contextmanager
def _moved(model: nn.Module, steps: Mapping[str, Tensor]) -> Iterator[None]:
    """While the context lasts, tensors that are zero have taken these steps."""
    parameters = dict(model.named_parameters())
    try:
        with torch.no_grad():
            for name, step in steps.items():
                parameters[name].copy_(step)
        yield
    finally:
        with torch.no_grad():
            for name in steps:
                parameters[name].zero_()
