"""One network trained at several learning rates from the same start, on the same batches and dropout masks.

Small networks train as one stack, a tensor a layer, by `torch.func.vmap`: their copies then cost little more than one.
Large ones, and those that vmap does not take, train one after the other with torch's own optimizers.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor, nn

from isoscale.measure.tools.experiment import Experiment
from isoscale.measure.tools.passes import one_number, seeded
from isoscale.scaling.optimizers import FAMILIES, OptimizerFamily
from isoscale.training import torch_optimizers
from isoscale.training.module_stack import ModuleStack
from isoscale.training.optimizer import BETAS
from isoscale.training.steppers import Stepper, stepper_of_family

# A larger network fills the processor by itself, and copies of it the memory.
_PARAMETERS_THAT_STACK = 2**20

# Divergence of all copies is looked for every so many steps: each look waits for the device.
_LOOK_EVERY = 8


def train_alone(
    experiment: Experiment,
    lr: float,
    seed: int,
    steps: int,
) -> list[float]:
    """Losses before each step of one network; the list ends before the first loss that is not finite."""
    model = experiment.build(seed)
    groups = experiment.groups(model, lr=lr, weight_decay=0.0)
    optimizers = torch_optimizers.optimizers(experiment.family.name, groups)
    losses: list[float] = []
    with seeded(seed):
        for number in range(steps):
            loss = experiment.step(model, optimizers, number)
            if not math.isfinite(loss):
                break
            losses.append(loss)
    return losses


class Heats:
    """Trains the network of an experiment at any learning rates.

    Attributes:
        why_alone: Why the networks train one at a time; empty while they train as a stack.
    """

    def __init__(self, experiment: Experiment) -> None:
        self.experiment = experiment
        self.why_alone = ""
        model = experiment.build(experiment.seeds[0])
        # Torch's optimizers say what they do not step, before anything is trained.
        torch_optimizers.optimizers(experiment.family.name, experiment.groups(model))
        count = sum(param.numel() for param in model.parameters())
        if count > _PARAMETERS_THAT_STACK:
            self.why_alone = f"the model has {count:,} parameters"

    def run(
        self,
        lrs: Sequence[float],
        seed: int,
        steps: int,
    ) -> Float[np.ndarray, "lr step"]:
        """Losses before each step, from the first that is not finite on NaN."""
        if not self.why_alone:
            try:
                return _train_stack(self.experiment, lrs, seed, steps)
            except (RuntimeError, ValueError, TypeError) as error:
                # What is wrong with the model itself goes wrong once more, alone, and is heard.
                (self.why_alone, *_) = f"torch.func.vmap does not take the model: {error}".splitlines()
        curves = np.full((len(lrs), steps), np.nan)
        for row, lr in zip(curves, lrs, strict=True):
            losses = train_alone(self.experiment, lr, seed, steps)
            row[: len(losses)] = losses
        return curves


# --- a stack ---
def _train_stack(
    experiment: Experiment,
    lrs: Sequence[float],
    seed: int,
    steps: int,
) -> Float[np.ndarray, "lr step"]:
    model = experiment.build(seed)
    families = experiment.families(model)
    stack = ModuleStack([model] * len(lrs))
    steppers = [_stepper(param.detach(), families[name], lrs) for name, param in stack.trained.items()]

    def loss(model: nn.Module, x: Any, y: Any) -> Tensor:
        return one_number(experiment.loss_fn(model(x), y))

    curves: list[Tensor] = []
    with seeded(seed):
        for number in range(steps):
            x, y = experiment.batches[number % len(experiment.batches)]
            losses = stack.losses(loss, x, y, is_shared=True, randomness="same")
            for stepper, grad in zip(steppers, stack.gradients(losses), strict=True):
                # Momentum and decay go on where a gradient is zero because nothing depends on the tensor.
                stepper.step(torch.zeros_like(stepper.param) if grad is None else grad)
            curves.append(losses.detach())
            if number % _LOOK_EVERY == 0 and not losses.isfinite().any():
                break
    found = torch.stack(curves, dim=1).double().cpu().numpy()
    table = np.full((len(lrs), steps), np.nan)
    table[:, : found.shape[1]] = found
    is_finite = np.logical_and.accumulate(np.isfinite(table), axis=1)
    return np.where(is_finite, table, np.nan)


def _stepper(
    param: Tensor,
    family: OptimizerFamily,
    lrs: Sequence[float],
) -> Stepper:
    """With torch's own defaults and without weight decay."""
    row = FAMILIES[family]
    return stepper_of_family(
        param,
        row,
        lrs,
        momentum=row.momentum,
        betas=BETAS if row.takes_betas else None,
        eps=1e-8,
        weight_decay=0.0,
    )
