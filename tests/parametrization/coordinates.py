"""Does a model move by the same amount at every size? A few real steps, and the slope of what moved.

Each size trains from its own init on the same fixed batch; what is fitted is the change since init, root mean square
over all entries, of two tensors: the end of the residual stream and the logits.
"""

from __future__ import annotations

import fnmatch
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from scipy import stats
from torch import Tensor, nn
from zoo import Specimen

import isoscale


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


def slopes(
    specimen: Specimen,
    sizes: Sequence[tuple[int, int]],
    rule: str,
    optimizer: str = "adamw",
    *,
    lr: float,
    steps: int = 4,
    seeds: int = 5,
    trained: str = "*",
    roles: Mapping[str, str] | None = None,
) -> dict[str, Slope]:
    """Slopes of the changes of "stream" and "logits" against the size, which grows along `sizes`.

    Args:
        specimen: The architecture.
        sizes: (width, depth) of each size, the base's first; one of the two stays, or both grow by the same factors.
        rule, optimizer, lr: Of the plan; lr is the base's.
        steps, seeds: Training steps, and independent inits.
        trained: Pattern of the parameters that are trained.
        roles: As for `isoscale.parametrize`.
    """
    changes = _changes(specimen, sizes, rule, optimizer, lr, steps, seeds, trained, roles)
    growth = np.log([max(w / sizes[0][0], d / sizes[0][1]) for w, d in sizes])
    return {name: _slope(growth, np.log(values)) for name, values in changes.items()}


def _slope(growth: np.ndarray, logs: np.ndarray) -> Slope:
    """One least-squares line a seed; the interval is over seeds, which are independent."""
    each = np.polyfit(growth, logs, 1)[0]  # logs: (sizes, seeds)
    spread = each.std(ddof=1) / np.sqrt(len(each))
    return Slope(mean=each.mean(), half_width=stats.t.ppf(0.975, len(each) - 1) * spread)


def _changes(
    specimen: Specimen,
    sizes: Sequence[tuple[int, int]],
    rule: str,
    optimizer: str,
    lr: float,
    steps: int,
    seeds: int,
    trained: str,
    roles: Mapping[str, str] | None,
) -> dict[str, np.ndarray]:
    """Root mean square change, (sizes, seeds), by place."""
    inputs = specimen.inputs(0)
    shapes = isoscale.shapes(drawn(specimen, sizes[0], seed=0), inputs)
    rows: list[list[dict[str, float]]] = []
    for size in sizes:
        model = drawn(specimen, size, seed=0)
        plan = isoscale.parametrize(model, shapes, rule, optimizer, lr=lr, example_inputs=inputs, roles=roles)
        models = [model] + [drawn(specimen, size, seed) for seed in range(1, seeds)]
        plans = [plan.apply(each) for each in models]
        for each in models:
            _freeze(each, trained)
        rows.append([_change(specimen, *pair, optimizer, inputs, steps) for pair in zip(models, plans, strict=True)])
    return {place: np.array([[seed[place] for seed in row] for row in rows]) for place in ("stream", "logits")}


def drawn(specimen: Specimen, size: tuple[int, int], seed: int) -> nn.Module:
    with torch.random.fork_rng():
        torch.manual_seed(1000 * seed + 7)
        return specimen.make(*size)


def _freeze(model: nn.Module, trained: str) -> None:
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(fnmatch.fnmatch(name, trained))


def _change(
    specimen: Specimen, model: nn.Module, plan: isoscale.Plan, optimizer: str, inputs: Mapping[str, Tensor], steps: int
) -> dict[str, float]:
    targets = specimen.targets(0)
    groups = plan.param_groups()
    step = torch.optim.AdamW(groups) if optimizer == "adamw" else torch.optim.SGD(groups)
    model.train()
    with _watched(specimen, model) as seen:
        model(**inputs)
        first = {place: value.detach().clone() for place, value in seen.items()}
        for _ in range(steps):
            model(**inputs)
            step.zero_grad()
            specimen.loss(seen["logits"], targets).backward()
            step.step()
        with torch.no_grad():
            model(**inputs)
    return {place: _rms(seen[place].detach() - first[place]) for place in first}


@contextmanager
def _watched(specimen: Specimen, model: nn.Module) -> Iterator[dict[str, Tensor]]:
    """What the last forward passed through the stream's end and the readout."""
    seen: dict[str, Tensor] = {}

    def stream(_module: nn.Module, args: tuple[Any, ...]) -> None:
        seen["stream"] = args[0]

    def logits(_module: nn.Module, _args: tuple[Any, ...], out: Tensor) -> None:
        seen["logits"] = out

    handles = [
        model.get_submodule(specimen.stream).register_forward_pre_hook(stream),
        model.get_submodule(specimen.readout).register_forward_hook(logits),
    ]
    try:
        yield seen
    finally:
        for handle in handles:
            handle.remove()


def _rms(tensor: Tensor) -> float:
    return tensor.double().square().mean().sqrt().item()
