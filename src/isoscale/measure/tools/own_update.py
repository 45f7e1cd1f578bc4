"""What a step on one map does to its own layer while the layer's input stays: |Delta W x| / |W x| (THEORY section 4).

The total change of a layer hides whether the layer learns, because its input moves as well.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from isoscale.graph.swapping import swapped
from isoscale.measure.tools.observe import observe
from isoscale.measure.tools.passes import call, parameters, widest


def own_updates(
    model: nn.Module, inputs: tuple[Any, ...], steps: Mapping[str, Tensor], vectors: Collection[str], seed: int
) -> dict[str, float]:
    """Size of each tensor's step as its own layer feels it.

    Args:
        model: The network, left as it was.
        inputs: Arguments of its forward.
        steps: Change of each tensor, by name.
        vectors: Names of those that are biases or gains.
        seed: Of dropout.

    Returns:
        For the weight of a map: |Delta W x| / |W x| with the x that its module gets; NaN if no module shows it (a
        function is called with it, or the module does more than multiply). For a vector: the root mean square of
        its change.
    """
    found = {name: _rms(step) if name in vectors else math.nan for name, step in steps.items()}
    owners = {name: name.rpartition(".")[0] for name, size in found.items() if math.isnan(size)}
    modules = dict(model.named_modules())
    sums: dict[str, list[float]] = {name: [0.0, 0.0] for name in owners}

    def see(at: str, given: tuple[Any, ...], _: Tensor) -> None:
        called = at.partition("@")[0].partition("[")[0]  # of several outputs each is seen
        for name, owner in owners.items():
            if owner == called:
                moved, whole = _felt(modules[owner], name.rpartition(".")[2], steps[name], given)
                sums[name][0] += moved
                sums[name][1] += whole

    with torch.no_grad(), observe(model, dict.fromkeys(owners.values()), see):
        call(model, parameters(model), inputs, seed)
    shown = {name: math.sqrt(moved / whole) for name, (moved, whole) in sums.items() if whole > 0}
    return found | shown


def _felt(module: nn.Module, leaf: str, step: Tensor, given: tuple[Any, ...]) -> tuple[float, float]:
    """Squared sizes of Delta W x and W x; zeros where the module is not linear in this weight."""
    weight = module._parameters[leaf]
    assert weight is not None
    if isinstance(module, nn.MultiheadAttention):
        if leaf != "in_proj_weight":
            return 0.0, 0.0
        return _square(F.linear(given[0], step)), _square(F.linear(given[0], weight))
    if any(True for _ in module.children()):
        return 0.0, 0.0
    zeros = {name: torch.zeros_like(p) for name, p in module._parameters.items() if p is not None}

    def alone(value: Tensor) -> Tensor:
        with swapped(module, zeros | {leaf: value}):
            return module.forward(*given)

    try:
        rest = alone(zeros[leaf])
        moved, whole, double = alone(step) - rest, alone(weight) - rest, alone(2 * weight) - rest
    except Exception:  # the user's own module, called with less than it expects
        return 0.0, 0.0
    linear = torch.allclose(double, 2 * whole, rtol=1e-3, atol=1e-6 * float(whole.abs().max()))
    return (_square(moved), _square(whole)) if linear else (0.0, 0.0)


def _square(tensor: Tensor) -> float:
    return float(widest(tensor).square().sum())


def _rms(tensor: Tensor) -> float:
    return float(widest(tensor).square().mean().sqrt())
