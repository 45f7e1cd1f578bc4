"""What is known of a depth without training: the sweep-free learning rate and three measures of depth."""

from __future__ import annotations

import dataclasses
import math
from typing import Any, NamedTuple

import numpy as np
import torch

from isoscale import measure, models
from isoscale.data import Dataset
from isoscale.errors import IsoscaleError
from isoscale.runs import Sweep, shards, worker
from isoscale.training import TrialConfig
from isoscale.training.config import batch_order

# Batches that the estimate averages over, for each seed.
BATCHES = 4


class Estimate(NamedTuple):
    """The learning rate of maximal update (docs/theory.md, section 6) and why there is none."""

    lr: float
    se: float
    why: str


class Depths(NamedTuple):
    """Measures of depth: residual blocks or layers, shortest path (MultiPath), cube root of PathSum."""

    blocks: float
    effective: float
    path_sum: float


def data_of(spec: Sweep, folder: str | None) -> Dataset:
    """The data set of a spec, as its model takes it."""
    options = tuple(spec.dataset_args.items())
    _, data = worker.source(spec.dataset, folder, options, spec.model)
    return data


def estimate(spec: Sweep, depth: int, data: Dataset, device: str = "cpu") -> Estimate:
    """The sweep-free learning rate at one depth, averaged over the spec's seeds and the first batches.

    The seeds' initial weights are those that the sweep trains from.
    """
    config = trial_config(spec, depth)
    seeds = list(spec.seeds)  # pyrefly: ignore[bad-argument-type]  the spec made it a tuple
    order = batch_order(len(data.train_x), spec.batch_size, BATCHES, seeds[0])
    batches = []
    for rows in order:
        x, y = data.train_x[rows], data.train_y[rows]
        batches.append((x.to(device), y.to(device)))

    def make(seed: int) -> torch.nn.Module:
        model, _ = config.build(data.in_shape, data.classes, seed)
        return model.to(device)

    try:
        # What overflows is no estimate, and said so below.
        with np.errstate(all="ignore"):
            found = measure.max_update_lr(
                make,
                _loss,
                batches,
                optimizer=config.optimizer.family,
                seeds=seeds,
            )
    except IsoscaleError as error:
        # A loss that is not finite at this depth is a result, not the end.
        return Estimate(math.nan, math.nan, str(error))
    if not (math.isfinite(found.lr) and found.lr > 0):
        return Estimate(math.nan, math.nan, "the changes of the pre-activations overflow")
    return Estimate(found.lr, found.lr_se, "")


def depths_of(spec: Sweep, depth: int, data: Dataset) -> Depths:
    """The measures of depth of the spec's network with so many blocks."""
    model = _meta_model(spec, depth, data)
    x = torch.zeros(2, *data.in_shape, dtype=data.train_x.dtype, device="meta")
    paths = measure.path_sum(model, (x,))
    return Depths(
        blocks=depth,
        effective=measure.effective_depth(model, (x,)),
        # A plain network's one path gives the cube of its depth.
        path_sum=paths ** (1 / 3),
    )


def has_branches(spec: Sweep, data: Dataset) -> bool:
    """Whether the network has residual branches, on which the depth rules act."""
    return trial_config(spec, 2).has_branches(data.in_shape, data.classes)


def trial_config(spec: Sweep, depth: int) -> TrialConfig:
    """Everything about a trial of a spec at one depth but its learning rate and seed; the rule is sp."""
    width = spec.widths[0]
    config = shards.config_of(spec, "sp", width, depth)
    return dataclasses.replace(config, base_width=width, base_depth=depth)


def _meta_model(spec: Sweep, depth: int, data: Dataset) -> models.Model:
    """The network without numbers, on the meta device."""
    shapes: dict[str, Any] = {"in_shape": data.in_shape, "out_features": data.classes}
    return models.build(
        spec.model,
        spec.model_args,
        device="meta",
        width=spec.widths[0],
        depth=depth,
        **shapes,
    )


def _loss(output: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    # (batch, ..., classes): one prediction for each position of a sequence.
    predictions = output.flatten(0, -2)
    return torch.nn.functional.cross_entropy(predictions, y.flatten())
