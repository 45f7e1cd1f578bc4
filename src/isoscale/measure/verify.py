"""Does a plan do what its rule promises? One gradient at each size, and what the first step of the plan then does.

The plan's own numbers take the step: its groups' learning rates, its eps, its optimizer for each tensor. For every
kind of tensor three things are measured over the sizes: the value that it makes at the start, what the step changes in
that value, and what that changes in the loss. Each is a power of the size that the rule's own table promises
(`isoscale.measure.tools.promises`); a power that differs by more than chance and finite width explain is an open item.
Roles enter through the plan alone: a tensor that was misread got the wrong numbers, and they show.
"""

from __future__ import annotations

import contextlib
import math
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor, nn

from isoscale import checks
from isoscale.errors import InvalidValueError
from isoscale.graph.anatomy import Roles
from isoscale.measure.audit import output_from_zero, step_of_plan
from isoscale.measure.tools.building import Factory, build, pair
from isoscale.measure.tools.first_step import first_step
from isoscale.measure.tools.observe import tensors
from isoscale.measure.tools.passes import LossFn, loss_gradient, mean_square
from isoscale.measure.tools.promises import (
    ACTION,
    GAIN,
    GRADIENT,
    LOSS,
    QUANTITIES,
    START,
    UPDATE,
    promised,
    promises_depth,
)
from isoscale.measure.tools.slopes import Slope, fit
from isoscale.parametrization import Plan
from isoscale.parametrization.make_plan import make as make_plan
from isoscale.parametrization.make_plan import read, settings
from isoscale.parametrization.sizes import describe
from isoscale.scaling import rules
from isoscale.scaling.optimizers import FAMILIES
from isoscale.scaling.roles import Role
from isoscale.scaling.rules import Rule
from isoscale.scaling.tensor import Settings, TensorPlan, decide, muon_scale
from isoscale.stats.least_squares import normal_quantile, t_quantile
from isoscale.stats.summary import LEVEL

if TYPE_CHECKING:
    import pandas as pd
    import xarray as xr


# --- one network ---
@dataclass(frozen=True)
class Measured:
    """What the first step does to one network, by kind of tensor.

    Attributes:
        values: quantity -> kind -> number.
        order: The kinds in the order in which they meet data.
        missed: Kinds whose action could not be followed, and why.
        outputs: How many entries the output has.
        opened: Whether tensors that are zero took a step first.
    """

    values: dict[str, dict[str, float]]
    order: tuple[str, ...]
    missed: dict[str, str]
    outputs: int
    opened: bool


# The size of the data that a tensor multiplies.
_DATA = "data"
# The size of a tensor's entries, and of its gradient's.
ENTRIES, ENTRY_GRADIENT = "entries", "entry_gradient"
_BIAS = "bias"

# A gradient that is this much smaller than most is rounding: a key's bias moves no softmax.
_ROUNDING = 1e-4


def measured(
    model: nn.Module, plan: Plan, kinds: Mapping[str, str], batch: Any, loss_fn: LossFn | None, seed: int
) -> Measured:
    """Take the plan's first step in one network, to first order; the network is left as it was.

    Where a tensor starts at zero and shuts the gradient off from others, the step is taken on it, and the next is
    measured.
    """
    inputs = arguments(batch, loss_fn)
    outputs, grads = _gradient(model, batch, loss_fn, seed)
    steps = _steps(plan, grads)
    opened: dict[str, Tensor] = {}
    if any(not grad.any() for grad in grads.values()):
        opened = _zeros(model, steps)
    with _moved(model, opened):
        if opened:
            _, grads = _gradient(model, batch, loss_fn, seed)
            steps = _steps(plan, grads)
        acted = first_step(model, inputs, steps, seed)
    sizes = {name: float(grad.double().square().mean().sqrt()) for name, grad in grads.items()}
    typical = float(np.median(list(sizes.values())))
    squares: dict[str, dict[str, list[float]]] = {START: {}, UPDATE: {}, _DATA: {}, ENTRIES: {}, ENTRY_GRADIENT: {}}
    parameters = dict(model.named_parameters())
    losses: dict[str, float] = {}
    for entry in plan.entries:
        name = entry.name
        if name not in steps or not sizes[name] > _ROUNDING * typical:
            continue
        kind = kinds[name]
        squares[ENTRIES].setdefault(kind, []).append(float(mean_square(parameters[name].detach()).sqrt()))
        squares[ENTRY_GRADIENT].setdefault(kind, []).append(sizes[name])
        change = -float((grads[name].double() * steps[name].double()).sum())
        losses[kind] = losses.get(kind, 0.0) + change
        if name in acted.update:
            squares[UPDATE].setdefault(kind, []).append(acted.update[name])
            # A bias is beside what its layer makes of the data.
            if entry.place == _BIAS:
                continue
            squares[_DATA].setdefault(kind, []).append(acted.data[name])
            if (entry.role.decays or entry.carries) and name not in opened:
                squares[START].setdefault(kind, []).append(acted.start[name])
    values: dict[str, dict[str, float]] = {LOSS: losses, GAIN: {}, ACTION: {}, GRADIENT: {}}
    for quantity, by_kind in squares.items():
        values[quantity] = {kind: _root_mean_square(found) for kind, found in by_kind.items()}
    families = {kinds[entry.name]: FAMILIES[entry.optimizer] for entry in plan.entries}
    gains = {kinds[entry.name] for entry in plan.entries if not entry.role.decays}
    for kind, update in values[UPDATE].items():
        data = values[_DATA].get(kind, 1.0)
        # The gradient of a gain is a product with its data, whose size is no news of the gain's.
        if kind in gains:
            update, data = update / data, 1.0
        gradient = losses[kind] / update if update else math.nan
        values[GRADIENT][kind] = gradient
        values[ACTION][kind] = update / data
        if families[kind].answer == "linear":
            values[ACTION][kind] = update / (gradient * data**2)
        if kind in values[START]:
            values[GAIN][kind] = values[START][kind] / values[_DATA][kind]
    order = tuple(dict.fromkeys(kinds[name] for name in acted.order))
    missed = {kinds[name]: why for name, why in acted.missed.items()}
    return Measured(values, order, missed, outputs, bool(opened))


def _root_mean_square(values: Sequence[float]) -> float:
    return float(np.sqrt(np.mean(np.square(values))))


def _gradient(model: nn.Module, batch: Any, loss_fn: LossFn | None, seed: int) -> tuple[int, dict[str, Tensor]]:
    """The number of outputs, and the gradient of the loss at output zero."""
    outputs = 0

    def loss(output: Any, y: Any) -> Tensor:
        nonlocal outputs
        first = next(tensor for _, tensor in tensors(output))
        outputs = first.numel()
        if loss_fn is not None:
            return loss_fn(output, y)
        # Without a loss, a direction that is drawn once for all sizes stands for where one would push the output.
        signs = 2 * torch.randint(2, first.shape, generator=torch.Generator().manual_seed(0)) - 1
        return (first * signs.to(first)).mean()

    with output_from_zero(model):
        _, grads = loss_gradient(model, loss, _split(batch, loss_fn), seed)
    return outputs, grads


def _split(batch: Any, loss_fn: LossFn | None) -> tuple[Any, Any]:
    """The forward's arguments, a tuple or a mapping, and the targets.

    Raises:
        InvalidTypeError: A loss, and no pair.
    """
    targets = None
    inputs = batch
    if loss_fn is not None:
        inputs, targets = pair(batch, "with `loss_fn`, the batch must be a pair (arguments, targets)")
    if not isinstance(inputs, (tuple, Mapping)):
        inputs = (inputs,)
    return inputs, targets


def arguments(batch: Any, loss_fn: LossFn | None = None) -> Any:
    """The forward's arguments in a batch, a tuple or a mapping."""
    inputs, _ = _split(batch, loss_fn)
    return inputs


def _steps(plan: Plan, grads: dict[str, Tensor]) -> dict[str, Tensor]:
    """The plan's first step, with Muon's own scale of it."""
    steps = step_of_plan(plan, grads)
    if plan.settings.adjust_lr_fn == "original":
        return steps
    for entry in plan.entries:
        if entry.name in steps and FAMILIES[entry.optimizer].answer == "spectral":
            rows, columns = entry.shape
            scale = muon_scale(rows, columns, plan.settings.adjust_lr_fn) / muon_scale(rows, columns, "original")
            steps[entry.name] = steps[entry.name] * scale
    return steps


def _zeros(model: nn.Module, steps: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The steps of the tensors that are zero."""
    found = {}
    for name, parameter in model.named_parameters():
        if name in steps and not parameter.any():
            found[name] = steps[name]
    return found


@contextlib.contextmanager
def _moved(model: nn.Module, steps: Mapping[str, Tensor]) -> Iterator[None]:
    """While the context lasts, tensors that are zero have taken these steps."""
    parameters = dict(model.named_parameters())
    try:
        with torch.no_grad():
            for name, step in steps.items():
                parameters[name].copy_(step)
        yield
    finally:
        with torch.no_grad():
            for name in steps:
                parameters[name].zero_()


# --- over sizes ---
@dataclass(frozen=True)
class Cell:
    """One network to measure.

    Attributes:
        axis: The size that differs from the base's, as the user calls it.
        size: How large it is, relative to the base.
        growth: Ratios by which the rule's promise grows: {"width": 4.0, "depth": 1.0}.
        seed: Of the draw.
        build: Makes the network as its own code draws it.
        plan: Its plan.
    """

    axis: str
    size: float
    growth: Mapping[str, float]
    seed: int
    build: Callable[[], nn.Module]
    plan: Plan


@dataclass(frozen=True, kw_only=True)
class Thresholds:
    """When a measured power is not the promised one.

    Attributes:
        tolerance: Of the powers; finite width and depth alone make up to 0.3 of them.
        fades: Of powers that are too small: a part of a network whose gradient is a sum of random signs at the start
            (a router, a map onto a few tokens) begins to learn late, whatever its plan.
        finite: What finite width and depth are granted beside chance.
        level: Of the interval that chance explains.
    """

    tolerance: float = 0.35
    fades: float = 0.4
    finite: float = 0.15
    level: float = 0.99


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

    >>> from isoscale.models import ResidualMLP
    >>> make = lambda width, seed: ResidualMLP(4, 2, width=width, depth=2, seed=seed)
    >>> x = torch.randn(4, 4, generator=torch.Generator().manual_seed(0))
    >>> verify(make, x, sizes={"width": [32, 64, 128]}).ok
    True
    >>> wrong = verify(make, x, sizes={"width": [32, 64, 128]}, roles={"blocks.*.maps.0.weight": Role.INPUT})
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
    ordered = sorted(cells, key=lambda cell: _parameters(cell.plan))
    last = (0.0, 0)
    for number, cell in enumerate(ordered):
        elapsed, parameters = last
        expected = elapsed * _parameters(cell.plan) / parameters if parameters else 0.0
        if found and time.monotonic() + expected > deadline:
            left_out.append(cell)
            continue
        started = time.monotonic()
        model = cell.build()
        cell.plan.apply(model)
        seen = measured(model, cell.plan, names, batch, loss_fn, cell.seed)
        found.append((cell, seen))
        last = (time.monotonic() - started, _parameters(cell.plan))
        if progress:
            progress((number + 1) / len(ordered))
    table = _Table(found, names, thresholds)
    said = [*_left_out(left_out, found), *table.notes()]
    return Verified(
        exponents=table.frame(),
        data=table.dataset(),
        open_items=tuple(table.open_items()),
        notes=tuple(said),
        seconds=time.monotonic() - began,
    )


def _parameters(plan: Plan) -> int:
    return sum(math.prod(entry.shape) for entry in plan.entries)


def _left_out(left_out: Sequence[Cell], found: Sequence[tuple[Cell, Measured]]) -> Iterator[str]:
    for axis in dict.fromkeys(cell.axis for cell in left_out):
        reached = max((cell.size for cell, _ in found if cell.axis == axis), default=1.0)
        yield f"the time limit left out the larger sizes of {axis}: measured up to x{reached:g}"


def kinds_of(plans: Sequence[Plan]) -> dict[str, str]:
    """The kind of each tensor by name: its name, with the index of every module open that not all sizes have."""
    children: dict[str, list[set[str]]] = {}
    for plan in plans:
        of_plan: dict[str, set[str]] = {}
        for entry in plan.entries:
            steps = entry.name.split(".")
            for at, step in enumerate(steps[:-1]):
                of_plan.setdefault(".".join(steps[:at]), set()).add(step)
        for path, below in of_plan.items():
            children.setdefault(path, []).append(below)
    varying = {path for path, sets in children.items() if any(below != sets[0] for below in sets)}
    kinds: dict[str, str] = {}
    for plan in plans:
        for entry in plan.entries:
            steps = entry.name.split(".")
            opened = entry.kind.split(".")
            for at, step in enumerate(steps[:-1]):
                if step.isdecimal() and ".".join(steps[:at]) in varying:
                    opened[at] = "*"
            kinds[entry.name] = ".".join(opened)
    return kinds


# --- the verdict ---
STAYS = "as promised"
_BEFORE = "before"
_SYMBOLS = {"width": "n", "depth": "L"}
# What a tensor's own numbers decide, and what follows for others.
_OWN = (GAIN, ACTION)
_FOLLOWING = (START, GRADIENT)
_EFFECTS = {
    GAIN: "its output at the start",
    ACTION: "what its step changes in its output",
    START: "its output at the start",
    GRADIENT: "what its output does to the loss",
    _BEFORE: "what comes before it changes the loss, and that",
}


@dataclass(frozen=True)
class _Power:
    """One quantity of one kind along one axis."""

    kind: str
    quantity: str
    axis: str
    slope: Slope
    last: float
    promised: float
    usual: float = 0.0

    @property
    def off(self) -> float:
        return self.slope.exponent - self.promised

    def interval(self, level: float = LEVEL) -> tuple[float, float]:
        """By its own error, and no narrower than the error that is usual for the quantity makes it.

        A few seeds may scatter little by chance. With very few of them, Student's law would tell nothing at all: its
        quantile is bounded.
        """
        by_own = min(t_quantile(self.slope.freedom, level), _LARGEST_QUANTILE) * self.slope.se
        by_usual = normal_quantile(level) * self.usual
        half = max(by_own, by_usual)
        return self.slope.exponent - half, self.slope.exponent + half


_LARGEST_QUANTILE = 5.0


def _with_usual_errors(powers: Sequence[_Power]) -> Iterator[_Power]:
    """The powers, each with the median error of its quantity over all kinds of tensor."""
    errors: dict[tuple[str, str], list[float]] = {}
    for power in powers:
        errors.setdefault((power.quantity, power.axis), []).append(power.slope.se)
    for power in powers:
        usual = float(np.median(errors[power.quantity, power.axis]))
        yield replace(power, usual=usual)


class _Table:
    """What was measured, by kind, quantity and axis."""

    def __init__(
        self, found: Sequence[tuple[Cell, Measured]], names: Mapping[str, str], thresholds: Thresholds
    ) -> None:
        self.found = found
        self.thresholds = thresholds
        largest = max(found, key=lambda pair: _parameters(pair[0].plan))
        self.order = list(largest[1].order)
        self.entries: dict[str, TensorPlan] = {}
        for cell, _ in found:
            for entry in cell.plan.entries:
                self.entries.setdefault(names[entry.name], entry)
        # Of the largest network: what a message shows.
        self.scaling = largest[0].plan.scaling
        self.shown = {names[entry.name]: entry for entry in largest[0].plan.entries}
        self.names = names
        self.axes = list(dict.fromkeys(cell.axis for cell, _ in found))
        self.readout = self._readout()
        self.opened = any(seen.opened for _, seen in found)
        self.tied = any(entry.tied for entry in self.entries.values())
        self.powers = list(_with_usual_errors(list(self._powers())))
        self.steps_grow = any(power.promised > 0 for power in self.powers if power.quantity == UPDATE)

    def _readout(self) -> str | None:
        """The last weight matrix, if it ends in an output of one shape at every size."""
        if len({measured.outputs for _, measured in self.found}) > 1:
            return None
        matrices = [kind for kind in self.order if self.entries[kind].role.decays]
        return matrices[-1] if matrices else None

    def _powers(self) -> Iterator[_Power]:
        for axis in self.axes:
            pairs = [(cell, values) for cell, values in self.found if cell.axis == axis]
            seeds = sorted({cell.seed for cell, _ in pairs})
            counts = Counter(cell.size for cell, _ in pairs)
            # A size that the time limit cut short is left out.
            sizes = sorted(size for size, count in counts.items() if count == len(seeds))
            if len(sizes) < 2:
                continue
            largest = next(cell for cell, _ in pairs if cell.size == sizes[-1])
            entries = {self.names[entry.name]: entry for entry in largest.plan.entries}
            growth = largest.growth
            if growth.get("depth", 1.0) != 1 and not promises_depth(self.scaling.rule):
                continue
            at = {(cell.size, cell.seed): values for cell, values in pairs}
            for kind in self.order:
                for quantity in QUANTITIES:
                    values = np.array(
                        [[at[size, seed].values[quantity].get(kind, math.nan) for seed in seeds] for size in sizes]
                    )
                    if not (np.isfinite(values).all() and (values > 0).all()):
                        continue
                    yield _Power(
                        kind=kind,
                        quantity=quantity,
                        axis=axis,
                        slope=fit(sizes, values),
                        last=fit(sizes[-2:], values[-2:]).exponent,
                        promised=self._promise(entries.get(kind, self.entries[kind]), growth)[quantity],
                    )

    def _promise(self, entry: TensorPlan, growth: Mapping[str, float], role: Role | None = None) -> dict[str, float]:
        """The powers that the rule promises of what grows most, where several sizes may grow at once."""
        role = role or entry.role
        total = dict.fromkeys(QUANTITIES, 0.0)
        scale = math.log(max(growth.values()))
        for axis, ratio in growth.items():
            powers = promised(self.scaling.rule, entry, role, axis, tied=self.tied)
            for quantity, power in powers.items():
                total[quantity] += power * math.log(ratio) / scale
        return total

    def _is_told(self, power: _Power) -> bool:
        """Whether a power of a tensor's own can be judged."""
        # The few numbers that a readout makes say little of it; what they do to all that comes before says more.
        if power.kind == self.readout and power.quantity in (GAIN, START):
            return False
        # A tensor that is the embedding and the readout at once has two promises.
        if self.entries[power.kind].tied and power.quantity != GRADIENT:
            return False
        return power.quantity in _EFFECTS

    # --- what deviates ---
    def deviates(self, power: _Power) -> bool:
        """Whether a power is further from its promise than chance and finite size explain."""
        if not self._is_told(power):
            return False
        # Gates that were opened are as large as their own step, which a rule may let grow: then so does all that
        # passes them.
        if power.quantity != ACTION and self.opened and self.steps_grow:
            return False
        # What fades by the work of others is how parts begin whose signals have random signs.
        if power.quantity in _FOLLOWING and power.off < 0:
            return False
        allowed = self.thresholds.tolerance if power.off > 0 else self.thresholds.fades
        sign = math.copysign(1, power.off)
        if sign * power.off <= allowed or sign * (power.last - power.promised) <= allowed:
            return False
        low, high = power.interval(self.thresholds.level)
        # Without points to spare nothing is known of the error, and no comparison holds.
        return power.promised < low - self.thresholds.finite or power.promised > high + self.thresholds.finite

    def open_items(self) -> Iterator[str]:
        """Each tensor whose own numbers deviate; what follows from it downstream and upstream is not repeated."""
        for axis in self.axes:
            off = [power for power in self.powers if power.axis == axis and self.deviates(power)]
            own = [power for power in off if power.quantity in _OWN]
            following = [power for power in off if power.quantity in _FOLLOWING]
            kinds = sorted({power.kind for power in own}, key=self.order.index)
            for kind in kinds:
                yield self._item([power for power in own if power.kind == kind])
            if not own and following:
                yield self._from_what_follows(following)

    def _from_what_follows(self, powers: Sequence[_Power]) -> str:
        """An item where no tensor's own numbers show a cause."""
        axis = powers[0].axis
        worst = max(powers, key=lambda power: abs(power.off))
        kinds = {power.kind for power in powers}
        also = f" (and {len(kinds) - 1} other kinds of tensor)" if len(kinds) > 1 else ""
        # In depth a gradient grows with the number of tensors that are no branches': they are the cause themselves. In
        # width one that is too large comes from what follows: the first weight matrix behind all that feel it.
        in_depth = any(cell.growth.get("depth", 1.0) != 1 for cell, _ in self.found if cell.axis == axis)
        if in_depth or any(power.quantity != GRADIENT for power in powers):
            return self._item([worst]) + also
        last = max(self.order.index(kind) for kind in kinds)
        behind = [kind for kind in self.order[last + 1 :] if self.entries[kind].role.decays]
        if not behind:
            return self._item([worst]) + also
        words = f"`{behind[0]}`: {self._in_words(replace(worst, quantity=_BEFORE))} (as `{worst.kind}`{also})"
        return words + self._assumed(behind[0], axis, worst)

    def _item(self, powers: Sequence[_Power]) -> str:
        kind, axis = powers[0].kind, powers[0].axis
        parts = [self._in_words(power) for power in powers]
        return f"`{kind}`: {' and '.join(parts)}" + self._assumed(kind, axis, None)

    def _assumed(self, kind: str, axis: str, gradient: _Power | None) -> str:
        """The role that a tensor was taken for, and the one that would explain what is seen."""
        words = f". Taken as {self._taken(self.shown.get(kind, self.entries[kind]))}"
        better = self._better(kind, axis, gradient)
        if better is not None:
            words += f"; as {better} it would be flat: roles={{{kind!r}: {str(better)!r}}}"
        return words

    def _in_words(self, power: _Power) -> str:
        low, high = power.interval()
        symbol = self._symbol(power.axis)
        how = "grows" if power.slope.exponent > 0 else "fades"
        return (
            f"{_EFFECTS[power.quantity]} {how} like {symbol}^{power.slope.exponent:.2f} [{low:.2f}, {high:.2f}] "
            f"where {self.scaling.rule.name} promises {symbol}^{power.promised:g}"
        )

    def _symbol(self, axis: str) -> str:
        return _SYMBOLS.get(axis, axis)

    def _taken(self, entry: TensorPlan) -> str:
        role = str(entry.role).replace("_", " ")
        place = f", {entry.place}" if entry.place else ""
        base = " x ".join(map(str, entry.base_shape))
        shape = " x ".join(map(str, entry.shape))
        return f"{role}{place} ({base} -> {shape})"

    def _better(self, kind: str, axis: str, gradient: _Power | None) -> Role | None:
        """The role under which every power of a kind would be as that role promises.

        Args:
            kind, axis: Of the tensor.
            gradient: What deviates before it, where its own powers do not.
        """
        cell = max((cell for cell, _ in self.found if cell.axis == axis), key=lambda cell: cell.size)
        own = [entry for entry in cell.plan.entries if self.names[entry.name] == kind]
        powers = {power.quantity: power for power in self.powers if power.kind == kind and power.axis == axis}
        for role in self._candidates(own[0]) if own else ():
            tried = decide(replace(own[0], role=role, given=True), cell.plan.scaling, cell.plan.settings)
            scale = math.log(cell.size)
            shifts = {GAIN: math.log(tried.init / own[0].init) / scale}
            # Learning rates of different optimizers cannot be compared.
            if tried.optimizer == own[0].optimizer:
                shifts[ACTION] = math.log(tried.lr / own[0].lr) / scale
            promise = self._promise(own[0], cell.growth, role)
            left: list[float] = []
            for quantity, shift in shifts.items():
                # The few numbers of an output are too noisy to tell; what comes before it tells more.
                if quantity in powers and not (quantity == GAIN and gradient is not None):
                    left.append(powers[quantity].slope.exponent + shift - promise[quantity])
            if gradient is not None:
                left.append(gradient.off + shifts[GAIN])
            changes = any(abs(shift) > self.thresholds.tolerance for shift in shifts.values())
            if changes and all(abs(value) <= self.thresholds.tolerance for value in left):
                return role
        return None

    def _candidates(self, entry: TensorPlan) -> list[Role]:
        """The roles that a tensor of its kind may have, its own left out; the likelier first."""
        onto_fixed_size = entry.fan_in != 1 and entry.fan_out == 1

        def unlikely(role: Role) -> int:
            return ((role is Role.BRANCH_LAST) != entry.carries) + ((role is Role.OUTPUT) != onto_fixed_size)

        roles = [role for role in Role if role is not entry.role and role.decays == entry.role.decays]
        return sorted(roles, key=unlikely)

    # --- as data ---
    def notes(self) -> Iterator[str]:
        missed = {kind: why for _, measured in self.found for kind, why in measured.missed.items()}
        for kind, why in missed.items():
            yield f"`{kind}`: what its step does could not be followed ({why})"
        told = {power.kind for power in self.powers if power.quantity == ACTION}
        untold = [kind for kind in self.entries if kind not in told and not self.entries[kind].frozen]
        if untold and self.powers:
            shown = ", ".join(f"`{kind}`" for kind in untold[:3]) + (", ..." if len(untold) > 3 else "")
            yield f"no gradient reaches {len(untold)} kinds of tensor at the start ({shown}): not verified"
        for axis in self.axes:
            if not any(power.axis == axis for power in self.powers):
                yield f"{self.scaling.rule.name} promises nothing along {axis}: not verified"

    def frame(self) -> pd.DataFrame:
        import pandas as pd

        rows = []
        for power in self.powers:
            low, high = power.interval()
            verdict = STAYS
            if self.deviates(power):
                verdict = "grows" if power.off > 0 else "fades"
            rows.append(
                {
                    "kind": power.kind,
                    "role": str(self.entries[power.kind].role),
                    "quantity": power.quantity,
                    "axis": power.axis,
                    "exponent": power.slope.exponent,
                    "low": low,
                    "high": high,
                    "promised": power.promised,
                    "verdict": verdict,
                }
            )
        columns = ["kind", "role", "quantity", "axis", "exponent", "low", "high", "promised", "verdict"]
        return pd.DataFrame(rows, columns=columns)

    def dataset(self) -> xr.Dataset:
        import xarray as xr

        kinds = list(self.order)
        data = {}
        for quantity in QUANTITIES:
            values = [[seen.values[quantity].get(kind, math.nan) for _, seen in self.found] for kind in kinds]
            data[quantity] = (("kind", "network"), np.array(values), {"units": "1"})
        return xr.Dataset(
            data,
            coords={
                "kind": kinds,
                "axis": ("network", [cell.axis for cell, _ in self.found]),
                "size": ("network", [cell.size for cell, _ in self.found]),
                "seed": ("network", [cell.seed for cell, _ in self.found]),
            },
        )
