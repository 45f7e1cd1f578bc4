"""A small sweep around a learning rate that was found without one."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch

from isoscale import laws
from isoscale.errors import InvalidValueError
from isoscale.measure.building import Factory, build, seed_list
from isoscale.measure.passes import Batch, LossFn, seeded

if TYPE_CHECKING:
    import xarray as xr

_OCTAVES = range(-4, 5)


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
    optimizer: str = "sgd",
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
        optimizer: "sgd", "adam" or "adamw".
        steps: Optimizer steps of each run.
        seeds: How many (0, 1, ...) or which.
        progress: Called with the share that is done.

    Raises:
        InvalidValueError: Another optimizer.
    """
    import xarray as xr

    if optimizer not in _CLASSES:
        raise InvalidValueError(f"`optimizer` of a sweep must be one of {', '.join(_CLASSES)}, got {optimizer!r}")
    drawn = seed_list(seeds)
    lrs = [lr * 2.0**octave for octave in _OCTAVES]
    table = np.full((len(lrs), len(drawn)), np.nan)
    for i, one in enumerate(lrs):
        for j, seed in enumerate(drawn):
            table[i, j] = _train(make_model, batches, loss_fn, one, optimizer, steps, seed)
        if progress:
            progress((i + 1) / len(lrs))
    loss = xr.DataArray(table, {"lr": lrs, "seed": drawn}, name="loss")
    return _judged(loss, lr)


_CLASSES = {"sgd": torch.optim.SGD, "adam": torch.optim.Adam, "adamw": torch.optim.AdamW}


def _train(
    make_model: Factory, batches: Sequence[Batch], loss_fn: LossFn, lr: float, optimizer: str, steps: int, seed: int
) -> float:
    """Mean loss over the last tenth of the steps; NaN from the first loss that is not finite."""
    model = build(make_model, seed)
    stepper = _CLASSES[optimizer](model.parameters(), lr=lr)
    losses = []
    with seeded(seed):
        for step in range(steps):
            x, y = batches[step % len(batches)]
            stepper.zero_grad()
            loss = loss_fn(model(x), y)
            loss.backward()
            stepper.step()
            losses.append(float(loss.detach()))
            if not math.isfinite(losses[-1]):
                return math.nan
    return float(np.mean(losses[-max(1, steps // 10) :]))


def _judged(loss: xr.DataArray, asked: float) -> Confirmed:
    if not bool(loss.notnull().any()):
        return Confirmed(lr=math.nan, octaves=math.nan, statement="nothing trains at any of them", loss=loss)
    found = laws.optimal_lr(loss)
    best, at_edge = float(found["lr"]), bool(found["at_edge"])
    octaves = math.log2(asked / best)
    bound = " or beyond (the sweep's edge)" if at_edge else ""
    side = "above" if octaves > 0 else "below"
    statement = f"best learning rate {best:.3g}{bound}: the one asked for is {abs(octaves):.1f} octaves {side} it"
    return Confirmed(lr=best, octaves=octaves, statement=statement, loss=loss)
