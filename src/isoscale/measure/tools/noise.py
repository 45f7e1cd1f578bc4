"""Initial noise: what the branches add to the residual stream before training, and what a norm makes of it.

Under a rule whose branches start with size L^-b, their noise at the stream's end is L^(1/2 - b), beside what the input
layer puts there. With b > 1/2 it dies out as the network deepens, and where the input layer starts small (a fixed
standard deviation of 0.02) that takes many blocks. Until then the stream shrinks with the depth, a norm divides by
less, and the effects of a step grow: the more, the closer to L^(b - 1/2).
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor, nn

from isoscale.measure.tools.experiment import Experiment
from isoscale.measure.tools.hook_points import HookPoints
from isoscale.measure.tools.observe import observe
from isoscale.measure.tools.passes import call, mean_square, parameters

if TYPE_CHECKING:
    import xarray as xr


def normed_stream(model: nn.Module, inputs: tuple[Any, ...], points: HookPoints, seed: int) -> float:
    """Root mean square of the stream's end; NaN if the network has no norm, or no submodule shows the stream."""
    if not points.norms or points.stream is None:
        return math.nan
    sizes: list[float] = []

    def see(name: str, inputs: tuple[Any, ...], output: Tensor) -> None:
        sizes.append(float(mean_square(output).sqrt()))

    with torch.no_grad(), observe(model, [points.stream], see):
        call(model, parameters(model), inputs, seed)
    return sizes[0]


def made_by_noise(experiment: Experiment, axis: str, stream: xr.DataArray) -> np.ndarray | None:
    """What effects follow if the size of the stream is all that changes, (sizes, seeds); None if it is not known.

    A step of a size of its own (Adam, Muon) acts through one division by the stream. One that is proportional to the
    gradient (SGD) has another in the gradient.
    """
    _, sizes = experiment.along(axis, stream)
    if not (np.isfinite(sizes).all() and (sizes > 0).all()):
        return None
    divisions = 2 if experiment.family.answer == "linear" else 1
    return sizes**-divisions
