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

# Between the seeds of two parts of one training.
_PARTS = 2**20


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

    def start(self, lrs: Sequence[float], seed: int) -> Group:
        """The network at those learning rates, untrained."""
        return Group(self, lrs, seed)

    def run(
        self,
        lrs: Sequence[float],
        seed: int,
        steps: int,
    ) -> Float[np.ndarray, "lr step"]:
        """Losses before each step, from the first that is not finite on NaN."""
        return self.start(lrs, seed).advance(steps)


class Group:
    """Learning rates that train together, of which some may go on when the others end.

    As a stack they go on from where they are; one after the other they begin again, since a large network's copies
    would fill the memory.

    Attributes:
        lrs: Those that are still in it.
        spent: Training steps of one network that it took so far.
    """

    def __init__(self, heats: Heats, lrs: Sequence[float], seed: int) -> None:
        self.lrs = list(lrs)
        self.spent = 0
        self._heats, self._seed = heats, seed
        self._stack: _Stack | None = None

    def advance(self, until: int) -> Float[np.ndarray, "lr step"]:
        """Train up to that step; losses before each step, from the first that is not finite on NaN."""
        if not self._heats.why_alone:
            try:
                if self._stack is None:
                    self._stack = _Stack(self._heats.experiment, self.lrs, self._seed)
                begun = self._stack.steps
                curves = self._stack.advance(until)
            except (RuntimeError, ValueError, TypeError) as error:
                # What is wrong with the model itself goes wrong once more, alone, and is heard.
                (self._heats.why_alone, *_) = f"torch.func.vmap does not take the model: {error}".splitlines()
            else:
                self.spent += len(self.lrs) * (until - begun)
                return curves
        curves = np.full((len(self.lrs), until), np.nan)
        for row, lr in zip(curves, self.lrs, strict=True):
            losses = train_alone(self._heats.experiment, lr, self._seed, until)
            row[: len(losses)] = losses
        self.spent += len(self.lrs) * until
        return curves

    def keep(self, lrs: Sequence[float]) -> None:
        """Go on with some of the learning rates."""
        places = [self.lrs.index(lr) for lr in lrs]
        self.lrs = list(lrs)
        if self._stack is not None:
            self._stack.keep(places)


# --- a stack ---
class _Stack:
    """One network's copies, each at its learning rate.

    Attributes:
        steps: How many were trained.
    """

    def __init__(self, experiment: Experiment, lrs: Sequence[float], seed: int) -> None:
        model = experiment.build(seed)
        families = experiment.families(model)
        self.steps = 0
        self._experiment, self._seed = experiment, seed
        self._stack = ModuleStack([model] * len(lrs))
        self._steppers: list[Stepper] = []
        for name, param in self._stack.trained.items():
            self._steppers.append(_stepper(param.detach(), families[name], lrs))
        self._table = np.empty((len(lrs), 0))

    def keep(self, places: Sequence[int]) -> None:
        self._stack.keep(places)
        members = torch.tensor(places)
        for stepper, param in zip(self._steppers, self._stack.trained.values(), strict=True):
            stepper.keep(members, param.detach())
        self._table = self._table[list(places)]

    def advance(self, until: int) -> Float[np.ndarray, "lr step"]:
        experiment = self._experiment

        def loss(model: nn.Module, x: Any, y: Any) -> Tensor:
            return one_number(experiment.loss_fn(model(x), y))

        curves: list[Tensor] = []
        # Each part of a training draws its own dropout masks, the same for all copies.
        with seeded(self._seed + _PARTS * self.steps):
            for number in range(self.steps, until):
                x, y = experiment.batches[number % len(experiment.batches)]
                losses = self._stack.losses(loss, x, y, is_shared=True, randomness="same")
                for stepper, grad in zip(self._steppers, self._stack.gradients(losses), strict=True):
                    # Momentum and decay go on where a gradient is zero because nothing depends on the tensor.
                    stepper.step(torch.zeros_like(stepper.param) if grad is None else grad)
                curves.append(losses.detach())
                if number % _LOOK_EVERY == 0 and not losses.isfinite().any():
                    break
        table = np.full((len(self._table), until), np.nan)
        table[:, : self.steps] = self._table
        found = torch.stack(curves, dim=1).double().cpu().numpy()
        table[:, self.steps : self.steps + found.shape[1]] = found
        is_finite = np.logical_and.accumulate(np.isfinite(table), axis=1)
        self._table = np.where(is_finite, table, np.nan)
        self.steps = until
        return self._table


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
