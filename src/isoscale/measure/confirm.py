"""A small sweep around a learning rate that was found without one."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from isoscale import checks
from isoscale import stats as laws
from isoscale.measure.tools.building import Factory, checked_batches
from isoscale.measure.tools.experiment import Experiment, Progress
from isoscale.measure.tools.heats import train_alone
from isoscale.measure.tools.passes import Batch, LossFn
from isoscale.scaling.optimizers import OptimizerFamily, family_of

if TYPE_CHECKING:
    import xarray as xr

OCTAVES = range(-4, 5)
"""Factors of two (octaves) between the learning rates of the sweep and the one in question."""


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
    progress: Progress | None = None,
) -> Confirmed:
    """Train at nine learning rates, from 1/16 to 16 times `lr`, and find the best.

    Args:
        make_model: Called with `seed` if it takes one.
        batches: (x, y) pairs, used in turn.
        loss_fn: loss_fn(model(x), y) is the loss, one number.
        lr: The learning rate in question.
        optimizer: "sgd", "adam", "adamw", "sign", or "muon": the linear layers between the first and the last one
            called are then torch's Muon's, all else is AdamW's, at the same learning rate.
        steps: Optimizer steps of each run.
        seeds: How many (0, 1, ...) or which.
        progress: Called with the share that is done.

    Raises:
        InvalidValueError: Another optimizer, a model that torch's Muon does not step, or a learning rate that is not
            positive and finite.
        InvalidTypeError: A loss that is not one number; `batches`, `lr` or `steps` of another type.
    """
    import xarray as xr

    asked = checks.number("lr", lr, above=0)
    experiment = Experiment.of(
        make_model,
        checked_batches(batches),
        loss_fn,
        seeds=seeds,
        optimizer=family_of(optimizer),
        steps=steps,
        least_steps=1,
        progress=progress,
    )
    # Every rate starts from the same weights and sees the same batches and masks.
    lrs = [asked * 2.0**octave for octave in OCTAVES]
    table = experiment.over(lrs, lambda one, seed: _final_loss(experiment, one, seed))
    coords = {"lr": lrs, "seed": experiment.seeds}
    loss = xr.DataArray(np.array(table), coords, name="loss")
    return _judged(loss, asked)


def _final_loss(experiment: Experiment, lr: float, seed: int) -> float:
    """Mean loss over the last tenth of the steps; NaN from the first loss that is not finite."""
    losses = train_alone(experiment, lr, seed, experiment.steps)
    if len(losses) < experiment.steps:
        return math.nan
    # The last loss alone would be that of one batch.
    counted = max(1, experiment.steps // 10)
    return float(np.mean(losses[-counted:]))


def _judged(loss: xr.DataArray, asked: float) -> Confirmed:
    found = laws.optimal_lr(loss)
    if str(found["at_edge"].values) == "none":
        nothing = "most seeds diverge at every learning rate of the sweep"
        return Confirmed(lr=math.nan, octaves=math.nan, statement=nothing, loss=loss)
    best = float(found["lr"])
    # At an edge the optimum may lie beyond it: the distance is then a lower bound.
    octaves = math.log2(asked / best)
    bound = " or beyond (the sweep's edge)" if bool(found["at_edge"]) else ""
    if abs(octaves) < 0.1:
        place = "the same within 0.1 octaves"
    else:
        side = "above" if octaves > 0 else "below"
        place = f"{abs(octaves):.1f} octaves {side} it"
    statement = f"best learning rate {best:.3g}{bound}: the one asked for is {place}"
    return Confirmed(lr=best, octaves=octaves, statement=statement, loss=loss)
