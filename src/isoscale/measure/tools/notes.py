"""What a reader of a measurement should know about the model that it was taken on."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn
from torch.nn.modules.batchnorm import _NormBase
from torch.nn.modules.conv import _ConvNd
from torch.nn.modules.dropout import _DropoutNd

from isoscale.measure.tools.observe import maps, observe
from isoscale.measure.tools.passes import call, parameters

# Measured on residual MLPs of widths 32 to 128: no effect at 2 positions, exponents mostly lower by 0.1 to 0.2 at 8 to
# 32, mixed at 64 and 256. No law was found that fits them all.
_CROWDED = 4


def notes_on(model: nn.Module) -> list[str]:
    """One sentence for each circumstance that the numbers depend on.

    >>> notes_on(nn.Sequential(nn.BatchNorm1d(3), nn.Dropout(0.0)))
    ['batch statistics in 1 norm (0): their change is part of what is measured, running statistics stay as they were']
    """
    notes = []
    if norms := [name for name, module in model.named_modules() if _uses_batch(module)]:
        notes.append(
            f"batch statistics in {_count(norms, 'norm')}: their change is part of what is measured, "
            "running statistics stay as they were"
        )
    if drops := [name for name, module in model.named_modules() if _drops(module)]:
        notes.append(f"dropout active in {_count(drops, 'module')}: gradient and change share their masks")
    if frozen := [name for name, param in model.named_parameters() if not param.requires_grad]:
        notes.append(f"{_count(frozen, 'frozen tensor')}: not stepped")
    return notes


def positions(model: nn.Module, inputs: tuple[Any, ...]) -> int:
    """How many vectors (samples, times tokens or pixels) the batch sends through a map, at the most.

    >>> positions(nn.Conv1d(1, 1, 3, padding=1), (torch.zeros(2, 1, 5),))
    10
    """
    found = [1]
    linear = maps(model)

    def see(name: str, _: tuple[Any, ...], output: torch.Tensor) -> None:
        axis = 1 if isinstance(linear[name.partition("@")[0]], _ConvNd) else -1
        found.append(output.numel() // max(1, output.shape[axis]))

    with torch.no_grad(), observe(model, linear, see):
        call(model, parameters(model), inputs, seed=0)
    return max(found)


def crowding(model: nn.Module, inputs: tuple[Any, ...], width: int, *, low: bool) -> list[str]:
    """A warning if the batch is large for the narrowest network.

    Args:
        model: It.
        inputs: Arguments of its forward.
        width: Its width.
        low: Whether an exponent in width is too low; then a quarter of the width counts as large already.
    """
    count = positions(model, inputs)
    if count <= (width / _CROWDED if low else width):
        return []
    return [
        f"{count} positions (samples x tokens or pixels) in the batch, {width} units in the narrowest layers: with so "
        "many, finite-width effects of 0.2 or more can show in the exponents in width; try a smaller batch or larger "
        "widths"
    ]


def _uses_batch(module: nn.Module) -> bool:
    return isinstance(module, _NormBase) and (module.training or not module.track_running_stats)


def _drops(module: nn.Module) -> bool:
    return isinstance(module, _DropoutNd) and module.training and module.p > 0


def _count(names: list[str], noun: str) -> str:
    listed = ", ".join(names[:3]) + (", ..." if len(names) > 3 else "")
    return f"{len(names)} {noun}{'s' * (len(names) > 1)} ({listed})"
