"""A small sweep around a learning rate that was found without one."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from torch import nn

from isoscale import stats as laws
from isoscale.errors import InvalidValueError
from isoscale.measure.tools.building import Factory, build, checked_batches, checked_steps, seed_list
from isoscale.measure.tools.observe import maps
from isoscale.measure.tools.passes import Batch, LossFn, called_maps, descend, seeded
from isoscale.scaling.optimizers import FAMILIES, OptimizerFamily, family_of
from isoscale.training.torch_optimizers import optimizers

if TYPE_CHECKING:
    import xarray as xr

OCTAVES = range(-4, 5)


@dataclass(frozen=True, kw_only=True)
class Confirmed:
    """How far the best learning rate of a sweep is from the one in question.

    Attributes:
        lr: Best of the sweep; NaN if nothing trained.
        octaves: log2(asked / best); NaN likewise.
        statement: That in words.
        loss: Mean training loss (lr, seed) over the last tenth of the steps; NaN where a run diverged.
    """

    lr: float
    octaves: float
    statement: str
    loss: xr.DataArray


def confirm_lr(
    make_model: Factory,
    batches: Sequence[Batch],
    loss_fn: LossFn,
    lr: float,
    *,
    optimizer: OptimizerFamily = "sgd",
    steps: int = 100,
    seeds: int | Sequence[int] = 3,
    progress: Callable[[float], None] | None = None,
) -> Confirmed:
    """Train at nine learning rates, from 1/16 to 16 times `lr`, and find the best.

    Args:
        make_model: Called with `seed` if it takes one.
        batches: (x, y) pairs, used in turn.
        loss_fn: loss_fn(model(x), y) is the loss, one number.
        lr: The learning rate in question.
        optimizer: "sgd", "adam", "adamw", "sign", or "muon": the maps between the first and the last one called are
            then torch's Muon's, all else is AdamW's, at the same learning rate.
        steps: Optimizer steps of each run.
        seeds: How many (0, 1, ...) or which.
        progress: Called with the share that is done.

    Raises:
        InvalidValueError: Another optimizer, a model that torch's Muon does not step, or a learning rate that is not
            positive and finite.
        InvalidTypeError: A loss that is not one number.
    """
    import xarray as xr

    if not (math.isfinite(lr) and lr > 0):
        raise InvalidValueError(f"`lr` must be > 0 and finite, got {lr!r}")
    drawn = seed_list(seeds)
    training = _Training(checked_batches(batches), loss_fn, family_of(optimizer), checked_steps(steps))
    lrs = [lr * 2.0**octave for octave in OCTAVES]
    table = np.full((len(lrs), len(drawn)), np.nan)
    for i, one in enumerate(lrs):
        for j, seed in enumerate(drawn):
            table[i, j] = training.final_loss(build(make_model, seed), one, seed)
        if progress:
            progress((i + 1) / len(lrs))
    loss = xr.DataArray(table, {"lr": lrs, "seed": drawn}, name="loss")
    return _judged(loss, lr)


@dataclass(frozen=True)
class _Training:
    batches: Sequence[Batch]
    loss_fn: LossFn
    family: OptimizerFamily
    steps: int

    def final_loss(self, model: nn.Module, lr: float, seed: int) -> float:
        """Mean loss over the last tenth of the steps; NaN from the first loss that is not finite."""
        steppers = optimizers(self.family, self._groups(model, lr))
        losses: list[float] = []
        with seeded(seed):
            for step in range(self.steps):
                losses.append(descend(model, steppers, self.loss_fn, self.batches[step % len(self.batches)]))
                if not math.isfinite(losses[-1]):
                    return math.nan
        return float(np.mean(losses[-max(1, self.steps // 10) :]))

    def _groups(self, model: nn.Module, lr: float) -> list[dict[str, Any]]:
        """All parameters at one rate; under Muon the first and the last map called go to the family beside it."""
        row = FAMILIES[self.family]
        shared: dict[str, Any] = {"lr": lr, "weight_decay": 0.0}
        trained = [param for param in model.parameters() if param.requires_grad]
        if not row.beside:
            return [{"params": trained, **shared}]
        linear = maps(model)
        inner = called_maps(model, self.batches[0][0])[1:-1]
        hidden = {id(linear[name].weight) for name in inner}
        groups = [
            {"params": [p for p in trained if id(p) in hidden], "optimizer": row.name, **shared},
            {"params": [p for p in trained if id(p) not in hidden], "optimizer": row.beside, **shared},
        ]
        return [group for group in groups if group["params"]]


def _judged(loss: xr.DataArray, asked: float) -> Confirmed:
    found = laws.optimal_lr(loss)
    if str(found["at_edge"].values) == "none":
        nothing = "most seeds diverge at every learning rate of the sweep"
        return Confirmed(lr=math.nan, octaves=math.nan, statement=nothing, loss=loss)
    best, at_edge = float(found["lr"]), bool(found["at_edge"])
    octaves = math.log2(asked / best)
    bound = " or beyond (the sweep's edge)" if at_edge else ""
    side = f"{abs(octaves):.1f} octaves {'above' if octaves > 0 else 'below'} it"
    place = "the same within 0.1 octaves" if abs(octaves) < 0.1 else side
    statement = f"best learning rate {best:.3g}{bound}: the one asked for is {place}"
    return Confirmed(lr=best, octaves=octaves, statement=statement, loss=loss)
