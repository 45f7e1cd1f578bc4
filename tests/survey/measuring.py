"""Measured exponents: how what one step of training does to a network's stream and output goes with its size.

The step is Adam's first, minus the learning rate times the sign of the gradient, so small that all is linear in it
(float64), on a fixed batch. What is measured is the root mean square of what it changes.

Input layers are drawn anew, so that what they put on the stream is of size one. Many models draw embeddings at 0.02:
then most of a shallow stream is the branches' own noise, which completep makes fade with the depth, so that a norm
divides by less and all changes grow like r^1/2 until it has faded (docs/theory.md, section 5, "At small sizes").
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from expected import FROM_TABLE, INPUT, TIMES_ROOT, Rows, rows_of
from judging import expected_of
from scipy import stats
from torch import Tensor, nn

import isoscale
from models import SUBJECTS, Inputs

SEEDS, STEP = 5, 1e-7


@dataclass(frozen=True, kw_only=True)
class Slope:
    """d log(change) / d log(size): mean over seeds, and the half width of its 95 % t interval."""

    mean: float
    half_width: float

    @property
    def low(self) -> float:
        return self.mean - self.half_width

    @property
    def high(self) -> float:
        return self.mean + self.half_width


def slopes(name: str, small: tuple[int, int], large: tuple[int, int], rule: str) -> dict[str, Slope]:
    """Slopes of what one step does to "stream" (what the readouts are given) and "output", from one size to another.

    Args:
        name: Of the model.
        small, large: (width, depth); one of the two grows.
        rule: Of the plan; the small size is its base.
    """
    growth = np.log(max(b / a for a, b in zip(small, large, strict=True)))
    changes = [_change(name, small, size, rule, seed) for seed in range(SEEDS) for size in (small, large)]
    found: dict[str, Slope] = {}
    for place in ("stream", "output"):
        logs = np.log([change[place] for change in changes]).reshape(SEEDS, 2)
        each = (logs[:, 1] - logs[:, 0]) / growth
        half_width = stats.t.ppf(0.975, SEEDS - 1) * each.std(ddof=1) / np.sqrt(SEEDS)
        found[place] = Slope(mean=float(each.mean()), half_width=float(half_width))
    return found


def _drawn(name: str, size: tuple[int, int], seed: int) -> nn.Module:
    with torch.random.fork_rng():
        torch.manual_seed(1000 * seed + 7)
        model = SUBJECTS[name].make(*size)
        _draw_input_layers(model, rows_of(name, size[1]))
    return model


@torch.no_grad()
def _draw_input_layers(model: nn.Module, rows: Rows) -> None:
    """Standard deviation 1 for tables and tokens, 1 over the width's root where the forward multiplies by it, and 1
    over the root of fan_in for layers.
    """
    for name, parameter in model.named_parameters():
        row = expected_of(name, rows)
        if row not in (INPUT, TIMES_ROOT, FROM_TABLE) or not parameter.requires_grad:
            continue
        if row == TIMES_ROOT:
            parameter.normal_(std=parameter.shape[-1] ** -0.5)
            continue
        module = model.get_submodule(name.rpartition(".")[0])
        is_layer = isinstance(module, nn.Linear | nn.Conv1d | nn.Conv2d | nn.Conv3d)
        parameter.normal_(std=math.prod(parameter.shape[1:]) ** -0.5 if is_layer else 1.0)


def _change(name: str, small: tuple[int, int], size: tuple[int, int], rule: str, seed: int) -> dict[str, float]:
    subject = SUBJECTS[name]
    model, base = _drawn(name, size, seed), _drawn(name, small, seed)
    plan = isoscale.parametrize(model, base, rule, "adamw", lr=1.0, example_inputs=subject.inputs())
    model = model.double().eval()
    if hasattr(model, "set_experts_implementation"):
        model.set_experts_implementation("eager")  # the fused one knows no float64
    readouts = sorted({entry.name.rpartition(".")[0] for entry in plan.entries if entry.role == "output"})
    seen: list[Tensor] = []
    for readout in readouts:
        model.get_submodule(readout).register_forward_pre_hook(lambda _, args: seen.append(args[0]))

    def run() -> tuple[Tensor, Tensor]:
        """All that the readouts are given, and all outputs."""
        seen.clear()
        output = _flat(_call(model, subject.inputs()))
        return _flat(seen), output

    stream, output = run()
    target = torch.randn(output.shape, generator=torch.Generator().manual_seed(0), dtype=output.dtype)
    (output * target).mean().backward()
    with torch.no_grad():
        for group in plan.param_groups():
            for parameter in group["params"]:
                if parameter.grad is not None:
                    parameter -= STEP * group["lr"] * parameter.grad.sign()
        changed = run()
    before = {"stream": stream, "output": output}
    return {
        place: float((after - before[place]).square().mean().sqrt())
        for place, after in zip(before, changed, strict=True)
    }


def _call(model: nn.Module, inputs: Inputs) -> Any:
    if isinstance(inputs, dict):
        return model(**{name: _double(value) for name, value in inputs.items()})
    return model(*map(_double, inputs))


def _double(value: Any) -> Any:
    return value.double() if isinstance(value, Tensor) and value.is_floating_point() else value


def _flat(values: Any) -> Tensor:
    """All floating-point tensors of a forward's result in one vector."""
    tensors = [leaf for leaf in torch.utils._pytree.tree_leaves(values) if isinstance(leaf, Tensor)]
    return torch.cat([leaf.reshape(-1) for leaf in tensors if leaf.is_floating_point()])
