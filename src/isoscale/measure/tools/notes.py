"""What a reader of a measurement should know about the model that it was taken on."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import nn
from torch.nn.modules.batchnorm import _NormBase
from torch.nn.modules.conv import _ConvNd
from torch.nn.modules.dropout import _DropoutNd

from isoscale.measure.tools.experiment import Experiment
from isoscale.measure.tools.observe import linear_layers, module_of, observe
from isoscale.measure.tools.passes import call, parameters

if TYPE_CHECKING:
    import pandas as pd

# Measured on residual MLPs of widths 32 to 128: no effect at 2 positions, exponents mostly lower by 0.1 to 0.2 at 8 to
# 32, mixed at 64 and 256. No law was found that fits them all.
_CROWDED = 4


def notes_on(model: nn.Module) -> list[str]:
    """One sentence for each circumstance that the numbers depend on.

    >>> notes_on(nn.Sequential(nn.BatchNorm1d(3), nn.Dropout(0.0)))
    ['batch statistics in 1 norm (0): their change is part of what is measured, running statistics stay as they were']
    """
    norms: list[str] = []
    drops: list[str] = []
    for name, module in model.named_modules():
        if isinstance(module, _NormBase) and (module.training or not module.track_running_stats):
            norms.append(name)
        elif isinstance(module, _DropoutNd) and module.training and module.p > 0:
            drops.append(name)
    frozen: list[str] = []
    for name, param in model.named_parameters():
        if not param.requires_grad:
            frozen.append(name)
    notes = []
    if norms:
        notes.append(
            f"batch statistics in {_count(norms, 'norm')}: their change is part of what is measured, "
            "running statistics stay as they were"
        )
    if drops:
        notes.append(f"dropout active in {_count(drops, 'module')}: gradient and change share their masks")
    if frozen:
        notes.append(f"{_count(frozen, 'frozen tensor')}: not stepped")
    return notes


def notes_over_sizes(experiment: Experiment, exponents: pd.DataFrame) -> list[str]:
    """What to know about an experiment's networks, their plans and the batch.

    Args:
        experiment: With axes and a rule.
        exponents: What was found: columns axis, exponent, expected.
    """
    seed = experiment.seeds[0]
    model, plan = experiment.scaled(seed, **experiment.largest)
    notes = [*notes_on(model), *plan.open_items]
    if "width" in experiment.fitted_axes:
        in_width = exponents[exponents["axis"] == "width"]
        low = in_width["verdict"] != "stable"
        size = experiment.smallest
        narrowest, _ = experiment.scaled(seed, **size)
        notes += width_ratio(
            narrowest,
            experiment.inputs,
            size["width"],
            low=bool(low.any()),
        )
    return notes


def crowded(experiment: Experiment) -> bool:
    """Whether the batch has so many positions that exponents in width come out low in the narrowest network."""
    if "width" not in experiment.fitted_axes:
        return False
    size = experiment.smallest
    narrowest = experiment.build(experiment.seeds[0], **size)
    return batch_positions(narrowest, experiment.inputs) > size["width"] / _CROWDED


def batch_positions(model: nn.Module, inputs: tuple[Any, ...]) -> int:
    """How many vectors (samples, times tokens or pixels) the batch sends through a linear layer, at the most.

    >>> batch_positions(nn.Conv1d(1, 1, 3, padding=1), (torch.zeros(2, 1, 5),))
    10
    """
    linear = linear_layers(model)
    largest = 1

    def see(name: str, inputs: tuple[Any, ...], output: torch.Tensor) -> None:
        nonlocal largest
        # Convolutions have their channels second, all other layers their features last.
        axis = 1 if isinstance(linear[module_of(name)], _ConvNd) else -1
        units = max(1, output.shape[axis])
        largest = max(largest, output.numel() // units)

    with torch.no_grad(), observe(model, linear, see):
        call(model, parameters(model), inputs, seed=0)
    return largest


def width_ratio(
    model: nn.Module,
    inputs: tuple[Any, ...],
    width: int,
    *,
    low: bool,
) -> list[str]:
    """A warning if the batch positions are many for the narrowest network.

    Args:
        model: It.
        inputs: Arguments of its forward.
        width: Its width.
        low: Whether an exponent in width is too low; then a quarter of the width counts as many already.
    """
    count = batch_positions(model, inputs)
    allowed = width / _CROWDED if low else width
    if count <= allowed:
        return []
    return [
        f"{count} positions (samples x tokens or pixels) in the batch, {width} units in the narrowest layers: with so "
        "many, finite-width effects of 0.2 or more can show in the exponents in width; try a smaller batch or larger "
        "widths"
    ]


def _count(names: list[str], noun: str) -> str:
    """Such as "2 norms (0, 3)".

    >>> _count(["0", "3"], "norm")
    '2 norms (0, 3)'
    """
    listed = ", ".join(names[:3])
    if len(names) > 3:
        listed += ", ..."
    plural = "s" if len(names) > 1 else ""
    return f"{len(names)} {noun}{plural} ({listed})"
