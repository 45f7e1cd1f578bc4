"""Does a plan do what its rule promises? One gradient at each size, and what the first step of the plan then does.

The plan's own numbers take the step: its groups' learning rates, its eps, its optimizer for each tensor. For every
kind of tensor three things are measured over the sizes: the value that it makes at the start, what the step changes in
that value, and what that changes in the loss. Each is a power of the size that the rule's own table promises
(`isoscale.measure.tools.promises`); a power that differs by more than chance and finite width explain is an open item.
Roles enter through the plan alone: a tensor that was misread got the wrong numbers, and they show.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

from torch import nn

from isoscale import checks
from isoscale.errors import InvalidValueError
from isoscale.graph.anatomy import Roles
from isoscale.measure.tools.building import Factory, build
from isoscale.measure.tools.by_kind import Measured, arguments, measured
from isoscale.measure.tools.deviations import Cell, Deviations, Thresholds, kinds_of, parameters_of
from isoscale.measure.tools.passes import LossFn
from isoscale.parametrization import Plan
from isoscale.parametrization.make_plan import make as make_plan
from isoscale.parametrization.make_plan import read, settings
from isoscale.parametrization.sizes import describe
from isoscale.scaling import rules
from isoscale.scaling.rules import Rule
from isoscale.scaling.tensor import Settings

if TYPE_CHECKING:
    import pandas as pd
    import xarray as xr


@dataclass(frozen=True, kw_only=True)
class Verified:
    """What the first step does over the sizes, and what of it was not promised.

    Attributes:
        exponents: A row for each kind of tensor, quantity and axis: kind, role, quantity, axis, exponent, low, high
            (95 % interval), promised, verdict.
        data: Dataset over (kind, network): start, update, loss, action, gradient; with the coordinates axis, size,
            seed of each network.
        open_items: What deviates, in words: the tensor, the power, the role that was assumed.
        notes: What could not be told.
        seconds: What it took.
    """

    exponents: pd.DataFrame
    data: xr.Dataset
    open_items: tuple[str, ...]
    notes: tuple[str, ...]
    seconds: float

    @property
    def ok(self) -> bool:
        """Whether nothing deviates."""
        return not self.open_items

    @property
    def kinds(self) -> int:
        """How many kinds of tensor were measured."""
        return self.exponents["kind"].nunique()

    def _repr_html_(self) -> str:
        return self.exponents.to_html(index=False, escape=True, float_format="{:.2f}".format)


def verify(
    make_model: Factory,
    batch: Any,
    *,
    sizes: Mapping[str, Sequence[Any]],
    loss_fn: LossFn | None = None,
    rule: str | Rule = "completep",
    optimizer: str | type = "adamw",
    lr: float = 1e-3,
    eps: float = 1e-8,
    roles: Roles | str | None = None,
    seeds: int | Sequence[int] = 3,
    thresholds: Thresholds | None = None,
    seconds: float = math.inf,
    progress: Callable[[float], None] | None = None,
) -> Verified:
    """Measure whether a plan for a family of networks does what its rule promises, without training.

    Args:
        make_model: Called with sizes as keyword arguments, and with `seed` if it takes one.
        batch: Arguments of the forward pass, with numbers: a tensor, a tuple, or a mapping of keyword arguments. With
            `loss_fn`, a pair (arguments, targets). A few samples: many positions for few units blur the powers.
        sizes: For each size that grows, its values, the base's first: {"width": [64, 128, 256], "depth": [2, 4, 8]}.
            Where several keyword arguments grow together, mappings of them: {"width": [{"n_embd": 64, "heads": 4},
            {"n_embd": 128, "heads": 8}]}. One axis grows while the others stay at the base.
        loss_fn: loss_fn(model(x), y) is the loss, one number. None: the output is pushed in a fixed random direction.
        rule, optimizer, lr, eps, roles: As for `isoscale.parametrize`.
        seeds: How many (0, 1, ...) or which.
        thresholds: When a power deviates.
        seconds: A limit. Networks are measured from small to large; those that would exceed it are left out, with a
            note.
        progress: Called with the share that is done.

    Returns:
        `Verified`.

    Raises:
        InvalidValueError, InvalidTypeError, PlanError, TraceError: As `isoscale.parametrize`; no axis with two sizes.

    Each network costs one gradient and two to three forward passes: less than 4 training steps, 10 where tensors start
    at zero and shut others off.

    >>> import torch
    >>> from isoscale.models import ResidualMLP
    >>> make = lambda width, seed: ResidualMLP(4, 2, width=width, depth=2, seed=seed)
    >>> x = torch.randn(4, 4, generator=torch.Generator().manual_seed(0))
    >>> verify(make, x, sizes={"width": [32, 64, 128]}).ok
    True
    >>> wrong = verify(make, x, sizes={"width": [32, 64, 128]}, roles={"blocks.*.maps.0.weight": "input"})
    >>> wrong.open_items[0][:70]
    '`blocks.*.maps.0.weight`: its output at the start grows like n^0.50 [0'
    """
    deadline = time.monotonic() + seconds
    cells = cells_of(
        make_model,
        arguments(batch, loss_fn),
        sizes=sizes,
        rule=rules.get(rule),
        made=settings(optimizer, lr, eps=eps),
        roles=roles,
        seeds=checks.seeds(seeds),
    )
    return judged(cells, batch, loss_fn, thresholds or Thresholds(), deadline=deadline, progress=progress)


def cells_of(
    make_model: Factory,
    inputs: Any,
    *,
    sizes: Mapping[str, Sequence[Any]],
    rule: Rule,
    made: Settings,
    roles: Roles | str | None,
    seeds: Sequence[int],
) -> list[Cell]:
    """The networks to measure, each with its plan; arguments as for `verify`."""
    fixed, axes = _axes(sizes)
    base = build(make_model, seeds[0], **fixed)
    described = describe(base, inputs)
    cells: list[Cell] = []
    for axis, values in axes.items():
        for value in values:
            size = {**fixed, **value}
            model = build(make_model, seeds[0], **size)
            plan = make_plan(read(model, described, inputs, roles), rule, made, force=True)
            grows = "depth" if _same_shapes(base, model) else "width"
            ratio = _ratio(values[0], value, plan, grows)
            for seed in seeds:
                cells.append(
                    Cell(
                        axis=axis,
                        size=ratio,
                        growth={grows: ratio},
                        seed=seed,
                        build=partial(build, make_model, seed, **size),
                        plan=plan,
                    )
                )
    return cells


def _axes(sizes: Mapping[str, Sequence[Any]]) -> tuple[dict[str, Any], dict[str, list[dict[str, Any]]]]:
    """The base's keyword arguments, and for each axis those of each of its sizes.

    Raises:
        InvalidValueError: No axis has two sizes.
    """
    fixed: dict[str, Any] = {}
    axes: dict[str, list[dict[str, Any]]] = {}
    for axis, values in sizes.items():
        listed = [dict(value) if isinstance(value, Mapping) else {axis: value} for value in values]
        if not listed:
            raise InvalidValueError(f"`sizes[{axis!r}]` must hold one size or more, got []")
        fixed |= listed[0]
        if len(listed) > 1:
            axes[axis] = listed
    if not axes:
        raise InvalidValueError("`sizes` must hold an axis with two sizes or more: a power needs them")
    return fixed, axes


def _same_shapes(model: nn.Module, other: nn.Module) -> bool:
    """Whether the tensors that two networks have in common are equally large: then the depth differs."""
    shapes = {name: parameter.shape for name, parameter in model.named_parameters()}
    return all(shapes.get(name, parameter.shape) == parameter.shape for name, parameter in other.named_parameters())


def _ratio(base: Mapping[str, Any], size: Mapping[str, Any], plan: Plan, grows: str) -> float:
    """How much larger a size is than the base's."""
    if grows == "width" and plan.scaling.width != 1:
        return plan.scaling.width
    ratios = [
        value / base[name]
        for name, value in size.items()
        if isinstance(value, (int, float)) and not isinstance(value, bool) and base.get(name)
    ]
    return max(ratios, default=1.0)


def judged(
    cells: Sequence[Cell],
    batch: Any,
    loss_fn: LossFn | None,
    thresholds: Thresholds,
    *,
    deadline: float = math.inf,
    progress: Callable[[float], None] | None = None,
) -> Verified:
    """Measure networks, and judge what is seen over their sizes."""
    began = time.monotonic()
    names = kinds_of([cell.plan for cell in cells])
    found: list[tuple[Cell, Measured]] = []
    left_out: list[Cell] = []
    # From small to large, so that a limit leaves out the largest; seed by seed at each size.
    ordered = sorted(cells, key=lambda cell: parameters_of(cell.plan))
    last = (0.0, 0)
    for number, cell in enumerate(ordered):
        elapsed, parameters = last
        expected = elapsed * parameters_of(cell.plan) / parameters if parameters else 0.0
        if found and time.monotonic() + expected > deadline:
            left_out.append(cell)
            continue
        started = time.monotonic()
        model = cell.build()
        cell.plan.apply(model)
        seen = measured(model, cell.plan, names, batch, loss_fn, cell.seed)
        found.append((cell, seen))
        last = (time.monotonic() - started, parameters_of(cell.plan))
        if progress:
            progress((number + 1) / len(ordered))
    table = Deviations(found, names, thresholds)
    said = [*_left_out(left_out, found), *table.notes()]
    return Verified(
        exponents=table.frame(),
        data=table.dataset(),
        open_items=tuple(table.open_items()),
        notes=tuple(said),
        seconds=time.monotonic() - began,
    )


def _left_out(left_out: Sequence[Cell], found: Sequence[tuple[Cell, Measured]]) -> Iterator[str]:
    for axis in dict.fromkeys(cell.axis for cell in left_out):
        reached = max((cell.size for cell, _ in found if cell.axis == axis), default=1.0)
        yield f"the time limit left out the larger sizes of {axis}: measured up to x{reached:g}"
