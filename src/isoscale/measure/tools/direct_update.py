"""What a step on one weight matrix does to its own layer while the layer's input stays: |Delta W x| / |W x|.

The total change of a layer hides whether the layer learns, because its input moves as well (docs/theory.md, section 4).
"""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from isoscale.graph.swapping import swapped
from isoscale.measure.tools.observe import module_of, observe
from isoscale.measure.tools.passes import call, mean_square, parameters, widest


def direct_updates(
    model: nn.Module,
    inputs: tuple[Any, ...],
    steps: Mapping[str, Tensor],
    vectors: Collection[str],
    seed: int,
) -> dict[str, float]:
    """Size of each tensor's step as its own layer feels it.

    Args:
        model: The network, left as it was.
        inputs: Arguments of its forward.
        steps: Change of each tensor, by name.
        vectors: Names of those that are biases or norm scales.
        seed: Of dropout.

    Returns:
        For a weight matrix: |Delta W x| / |W x| with the x that its module gets; NaN if no module shows it (a
        function is called with it, or the module does more than multiply). For a vector-like parameter: the root
        mean square of its change.
    """
    found: dict[str, float] = {}
    owners: dict[str, str] = {}
    for name, step in steps.items():
        if name in vectors:
            found[name] = float(mean_square(step).sqrt())
        else:
            found[name] = math.nan
            owners[name] = name.rpartition(".")[0]
    modules = dict(model.named_modules())
    # Sums of squares over all calls of a module: a shared layer feels its step in each of them.
    moved = dict.fromkeys(owners, 0.0)
    whole = dict.fromkeys(owners, 0.0)

    def see(at: str, given: tuple[Any, ...], output: Tensor) -> None:
        called = module_of(at)  # of several outputs each is seen
        for name, owner in owners.items():
            if owner == called:
                leaf = name.rpartition(".")[2]
                change, size = _felt(modules[owner], leaf, steps[name], given)
                moved[name] += change
                whole[name] += size

    hooked = dict.fromkeys(owners.values())
    with torch.no_grad(), observe(model, hooked, see):
        call(model, parameters(model), inputs, seed)
    for name in owners:
        if whole[name] > 0:
            ratio = moved[name] / whole[name]
            found[name] = math.sqrt(ratio)
    return found


_NOT_LINEAR = (0.0, 0.0)


def _felt(
    module: nn.Module,
    leaf: str,
    step: Tensor,
    given: tuple[Any, ...],
) -> tuple[float, float]:
    """Squared sizes of Delta W x and W x; zeros where the module is not linear in this weight."""
    weight = module._parameters[leaf]
    assert weight is not None
    # Attention is not linear in its weights, but its first step is: queries, keys and values are W x, where x is
    # the first argument (of self-attention).
    if isinstance(module, nn.MultiheadAttention):
        if leaf != "in_proj_weight":
            return _NOT_LINEAR
        x = given[0]
        moved = F.linear(x, step)
        whole = F.linear(x, weight)
        return _square(moved), _square(whole)
    # What a module with children does with its own weight cannot be told from what they do.
    if any(True for _ in module.children()):
        return _NOT_LINEAR
    # The other parameters are set to zero: a bias is no part of W x.
    zeros: dict[str, Tensor] = {}
    for name, param in module._parameters.items():
        if param is not None:
            zeros[name] = torch.zeros_like(param)

    def alone(value: Tensor) -> Tensor:
        """The module's output with this weight and no other."""
        with swapped(module, zeros | {leaf: value}):
            return module.forward(*given)

    try:
        rest = alone(zeros[leaf])
        moved = alone(step) - rest
        whole = alone(weight) - rest
        double = alone(2 * weight) - rest
    except Exception:  # the user's own module, called with less than it expects
        return _NOT_LINEAR
    # f(2 W) = 2 f(W) shows a layer that multiplies its input by W and does nothing else with it.
    rounding = 1e-6 * float(whole.abs().max())
    if not torch.allclose(double, 2 * whole, rtol=1e-3, atol=rounding):
        return _NOT_LINEAR
    return _square(moved), _square(whole)


def _square(tensor: Tensor) -> float:
    return float(widest(tensor).square().sum())
