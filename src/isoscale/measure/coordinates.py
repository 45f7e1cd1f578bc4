"""Coordinate check: train for a few real steps at every size, and see whether each module's output changes alike."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor, nn

from isoscale import checks
from isoscale.errors import InvalidValueError
from isoscale.graph.anatomy import Roles
from isoscale.measure.tools.building import Factory, checked_batches
from isoscale.measure.tools.experiment import Experiment, Progress, Size
from isoscale.measure.tools.noise import made_by_noise, normed_stream
from isoscale.measure.tools.notes import crowded, notes_over_sizes
from isoscale.measure.tools.observe import INPUT, module_of, observe
from isoscale.measure.tools.passes import Batch, LossFn, call, mean_square, parameters, seeded, widest
from isoscale.measure.tools.slopes import (
    DEPENDS,
    SAME,
    UNDECIDED,
    Answer,
    Effect,
    Thresholds,
    answer,
    judged,
    undecided,
)
from isoscale.measure.tools.softmax import SoftmaxInputs
from isoscale.parametrization import Plan
from isoscale.scaling import rules
from isoscale.scaling.names import starred
from isoscale.scaling.optimizers import FAMILIES
from isoscale.scaling.roles import Role
from isoscale.scaling.rules import Rule
from isoscale.scaling.tensor import TensorPlan

if TYPE_CHECKING:
    import pandas as pd
    import xarray as xr

_OUTPUT = "output"
_CONTROL = "sp"
SOFTMAX = "softmax"
"""The label of what softmaxes are given: attention logits, and those of routers."""


@dataclass(frozen=True, kw_only=True)
class CoordinateCheck:
    """Sizes of every module's output at every size of the network.

    Attributes:
        exponents: A row for each module (all blocks together), quantity and axis: columns module, quantity ("start":
            the size at initialisation; "change": that of the difference after `steps` steps; "late_change": after
            `late`; "decay": the share of the weights that decay removes in a step), axis, exponent, low, high (95 %
            interval), expected, verdict. A module "<-name" is the value that `name` is given: the residual stream,
            where no module returns it. "softmax" is what softmaxes are given: attention logits.
        data: Dataset with start(module, width, depth, seed) and change(module, ..., step), root mean squares on the
            first batch; with `late`, stable_rank(module, ..., step), |dW|_F^2 / |dW|_2^2 of the updates at `steps` and
            at `late`; decay(module, width, depth, seed); stream(width, depth, seed), the start of the stream's end
            where a norm divides by it; loss(width, depth, seed, step).
        notes: What a reader should know about the model.
        thresholds: What the verdicts were reached with.
        toothless: The axes along which standard parametrization is not seen to fail either: the check shows nothing.
    """

    exponents: pd.DataFrame
    data: xr.Dataset
    notes: tuple[str, ...]
    thresholds: Thresholds = field(default_factory=Thresholds)
    toothless: tuple[str, ...] = ()

    @property
    def answer(self) -> Answer:
        """Whether the modules change alike at every size."""
        found = answer(self.exponents)
        if found == SAME and self.toothless:
            return UNDECIDED
        return found

    @property
    def ok(self) -> bool:
        """Whether no module's change depends on the size otherwise than it should."""
        return self.answer != DEPENDS

    def _repr_html_(self) -> str:
        return self.exponents.to_html(index=False, escape=True, float_format="{:.2f}".format)


def coordinate_check(
    make_model: Factory,
    batches: Sequence[Batch],
    loss_fn: LossFn,
    *,
    widths: Sequence[int] | None = None,
    depths: Sequence[int] | None = None,
    rule: str | Rule = "completep",
    optimizer: str | type = "adamw",
    lr: float = 1e-3,
    weight_decay: float = 0.0,
    roles: Roles | None = None,
    steps: int = 5,
    late: int | None = None,
    seeds: int | Sequence[int] = 3,
    control: bool = True,
    thresholds: Thresholds | None = None,
    progress: Progress | None = None,
) -> CoordinateCheck:
    """Train for a few steps at every width and depth, and fit how each module's change depends on them.

    Args:
        make_model: Called with `width` and `depth` (those that are given) and with `seed` if it takes one.
        batches: (x, y) pairs, used in turn; changes are seen on the first.
        loss_fn: loss_fn(model(x), y) is the loss, one number.
        widths, depths: Sizes, three or more: of two nobody can tell a law from an effect that dies out. Widths are
            checked at the smallest depth, depths at the largest width; the rule's base has the smallest width and one
            block.
        rule: A name of `isoscale.rules.names()`, or a Rule.
        optimizer: "sgd", "adam", "adamw", "sign", "muon", or a class of such a family that takes parameter groups:
            what it does to the groups (a scheduler inside, a decay of its own) is part of what is checked.
        lr: The base's learning rate.
        weight_decay: The base's decay; if it is not 0, what decay removes in a step is checked too.
        roles: Glob pattern -> role, as for `isoscale.parametrize`.
        steps: Optimizer steps.
        late: Look once more after so many: optimizers that fix the size of an update pass an early check and drift
            later, as the stable rank of their updates grows. None: no second look.
        seeds: How many (0, 1, ...) or which.
        control: Where no module fails, check standard parametrization as well, and say so if that is not seen to
            fail either.
        thresholds: When an exponent is one; see `Thresholds`.
        progress: Called with the share that is done.

    Returns:
        `CoordinateCheck`. A change is expected to be free of the size; that of a branch's own output follows the size
        at which the branch starts, L^-b. A start may shrink with the size (a mean-field readout's does), but not grow.

    Raises:
        InvalidValueError, InvalidTypeError, PlanError, TraceError: As `isoscale.parametrize`; `late` not beyond
            `steps`.

    Source: TP5 (arXiv 2203.03466), appendix D.1; docs/theory.md, section 5; docs/results/alarms.md for how often it is
    wrong.

    >>> from isoscale.models import ResidualMLP
    >>> make = lambda width, seed: ResidualMLP(4, 1, width=width, depth=2, seed=seed)
    >>> batch = torch.randn(8, 4, generator=torch.Generator().manual_seed(0)), torch.ones(8, 1)
    >>> mse = lambda f, y: (f - y).square().mean()
    >>> checked = coordinate_check(make, [batch], mse, widths=[64, 128, 256], rule="mup")
    >>> checked.ok
    True
    """
    experiment = Experiment.of(
        make_model,
        checked_batches(batches),
        loss_fn,
        axes={"width": checks.sizes("widths", widths), "depth": checks.sizes("depths", depths)},
        seeds=seeds,
        rule=rules.get(rule),
        optimizer=optimizer,
        lr=lr,
        weight_decay=checks.number("weight_decay", weight_decay, least=0),
        roles=roles,
        steps=steps,
        least_steps=1,
        progress=progress,
    )
    looks = Looks.of(experiment.steps, late)
    chosen = thresholds or Thresholds()
    data, effects = _trained(experiment, looks)
    exponents = judged(effects, chosen, crowded=crowded(experiment))
    toothless: tuple[str, ...] = ()
    if control and answer(exponents) != DEPENDS and experiment.rule != rules.get(_CONTROL):
        toothless = tuple(_passed_by_control(experiment, looks, chosen))
    changes = exponents[exponents["quantity"] != "start"]  # a start may shrink
    notes = (
        *notes_over_sizes(experiment, changes),
        *_diverged(data),
        *_could_not_fail(toothless),
        *_updates(data, looks),
        *undecided(exponents),
    )
    return CoordinateCheck(
        exponents=exponents,
        data=data,
        notes=notes,
        thresholds=chosen,
        toothless=toothless,
    )


@dataclass(frozen=True)
class Looks:
    """The steps after which changes are recorded, and those of them that are judged."""

    steps: tuple[int, ...]
    verdicts: tuple[int, ...]

    @classmethod
    def of(cls, steps: int, late: int | None) -> Looks:
        """Every one of the first `steps`, judged at the last of them, and `late`."""
        first = tuple(range(1, steps + 1))
        if late is None:
            return cls(first, (steps,))
        if checks.whole("late", late, least=1) <= steps:
            raise InvalidValueError(f"`late` must be beyond the {steps} steps of the first look, got {late}")
        return cls((*first, late), (steps, late))

    @property
    def last(self) -> int:
        """How long to train."""
        return self.steps[-1]

    @property
    def ranked(self) -> tuple[int, ...]:
        """Those whose update's stable rank is wanted: both, if there are two to compare."""
        return self.verdicts if len(self.verdicts) > 1 else ()


def _passed_by_control(experiment: Experiment, looks: Looks, thresholds: Thresholds) -> Iterator[str]:
    """The axes along which a network without any rule is not seen to fail."""
    plain = replace(experiment, rule=rules.get(_CONTROL))
    _, effects = _trained(plain, looks)
    table = judged(effects, thresholds, crowded=crowded(plain))
    for axis in experiment.fitted_axes:
        if answer(table[table["axis"] == axis]) != DEPENDS:
            yield axis


def _could_not_fail(toothless: Sequence[str]) -> Iterator[str]:
    for axis in toothless:
        yield (
            f"standard parametrization is not seen to fail at these {axis}s either: the check could not have failed. A "
            f"wider range of {axis}s, more seeds or a higher `lr` would tell"
        )


def _updates(data: xr.Dataset, looks: Looks) -> Iterator[str]:
    """How the stable rank of an update changed between the two looks, at the largest size."""
    if not looks.ranked:
        return
    sizes = [axis for axis in ("width", "depth") if axis in data.dims]
    largest = data["stable_rank"].isel(dict.fromkeys(sizes, -1))
    early, late = (largest.sel(step=step).mean("seed") for step in looks.ranked)
    known = early.notnull() & late.notnull()
    if bool(known.any()):
        growth = (late / early).where(known, drop=True)
        most = growth["module"].values[int(growth.values.argmax())]
        yield (
            f"stable rank of an update, from step {looks.verdicts[0]} to {looks.verdicts[1]} at the largest size: "
            f"grows most in {most}, from {float(early.sel(module=most)):.3g} to {float(late.sel(module=most)):.3g}"
        )


# --- one network ---
@dataclass
class _Run:
    """One network in training; every mapping is by label.

    Attributes:
        start: Size at initialisation.
        changes: After each step that is looked at, size of the change since then.
        stable_ranks: Of the update at each of the two looks.
        decay: Share of the weights that decay removes in a step.
        stream: See `normed_stream`; this one is no mapping.
        losses: Before each step that is looked at.
        sizes_of_branches: For the modules that a rule does not start at size 1: its power of the depth ratio.
    """

    start: dict[str, float]
    decay: dict[str, float]
    stream: float
    sizes_of_branches: dict[str, float]
    changes: dict[int, dict[str, float]] = field(default_factory=dict)
    stable_ranks: dict[int, dict[str, float]] = field(default_factory=dict)
    losses: dict[int, float] = field(default_factory=dict)


def _run(experiment: Experiment, looks: Looks, seed: int, size: Size) -> _Run:
    model, plan = experiment.scaled(seed, **size)
    decay = _decay(experiment, model, plan)
    steppers = experiment.optimizers_of_plan(plan)
    labels = _labels(model, experiment, size, plan)
    first = _outputs(model, labels, experiment.inputs, seed)
    run = _Run(
        start=_sizes(first, labels),
        decay=decay,
        stream=normed_stream(model, experiment.inputs, experiment.hook_points(model, size), seed),
        sizes_of_branches=_sizes_of_branches(plan),
    )
    # The masks of training come from `seed` once; every look at the outputs starts from it anew, so that only the
    # parameters differ between two looks.
    with seeded(seed):
        for number in range(1, looks.last + 1):
            before = parameters(model)
            if number in looks.ranked:
                before = {name: param.clone() for name, param in before.items()}
            loss = experiment.step(model, steppers, number - 1)
            if number not in looks.steps:
                continue
            now = _outputs(model, labels, experiment.inputs, seed)
            change = {name: now[name] - first[name] for name in first}
            run.losses[number] = loss
            run.changes[number] = _sizes(change, labels)
            if number in looks.ranked:
                run.stable_ranks[number] = _stable_ranks(before, parameters(model), plan)
    return run


def _decay(experiment: Experiment, model: nn.Module, plan: Plan) -> dict[str, float]:
    """The share of each module's weights that a step without gradient removes; none without decay.

    Adam's coupled decay is no share of the weight: it is divided by its own size.
    """
    if not plan.settings.weight_decay or not FAMILIES[plan.settings.optimizer].keeps_lr_times_decay:
        return {}
    params = dict(model.named_parameters())
    before = {name: param.detach().clone() for name, param in params.items()}
    # Optimizers of their own: those of training start afresh.
    for optimizer in experiment.optimizers_of_plan(plan):
        for group in optimizer.param_groups:
            for param in group["params"]:
                param.grad = torch.zeros_like(param)
        optimizer.step()
        optimizer.zero_grad()
    removed: dict[str, list[float]] = {}
    with torch.no_grad():
        for entry in plan.entries:
            param = params[entry.name]
            start = before[entry.name]
            size = float(mean_square(start))
            if entry.role.decays and not entry.frozen and size > 0:
                share = float(mean_square(param - start)) / size
                removed.setdefault(_module(entry), []).append(share)
            param.copy_(start)
    return {label: float(np.sqrt(np.mean(shares))) for label, shares in removed.items()}


def _stable_ranks(before: Mapping[str, Tensor], after: Mapping[str, Tensor], plan: Plan) -> dict[str, float]:
    """|dW|_F^2 / |dW|_2^2 of one update of each module's weight matrices, the mean over all blocks."""
    found: dict[str, list[float]] = {}
    for entry in plan.entries:
        if entry.role.decays and not entry.frozen and len(entry.shape) >= 2:
            update = (after[entry.name] - before[entry.name]).flatten(1)
            found.setdefault(_module(entry), []).append(_stable_rank(update))
    return {label: float(np.mean(ranks)) for label, ranks in found.items()}


def _stable_rank(matrix: Tensor) -> float:
    """NaN for zero and for what overflowed."""
    if not matrix.isfinite().all() or not matrix.any():
        return math.nan
    matrix = widest(matrix)
    spectral = torch.linalg.matrix_norm(matrix, ord=2)
    return float(matrix.square().sum() / spectral.square())


def _module(entry: TensorPlan) -> str:
    """The label of the module that holds a tensor."""
    return entry.kind.rpartition(".")[0]


def _labels(model: nn.Module, experiment: Experiment, size: Size, plan: Plan) -> dict[str, str]:
    """Name to observe -> label: modules with parameters of their own, the residual stream, the output."""
    stream = experiment.hook_points(model, size).blocks
    leaves: list[str] = []
    for name, module in model.named_modules():
        # A module without parameters hands on what others made, and a parent what its children made.
        is_leaf = not any(True for _ in module.children())
        if name and is_leaf and any(True for _ in module.parameters()):
            leaves.append(name)
    blocks = {entry.block for entry in plan.entries if entry.block}
    of_entries = {entry.name.rpartition(".")[0]: _module(entry) for entry in plan.entries}
    labels = {"": _OUTPUT}
    for name in (*stream, *leaves):
        labels[name] = of_entries.get(name, _label(name, blocks))
    # A block of several branches is itself in none of them: all depths must still have the same labels.
    for name in stream:
        if labels[name] == name:
            labels[name] = starred(name)
    return labels


def _label(name: str, blocks: set[str]) -> str:
    """`h.*.mlp.0` of `h.3.mlp.0` in block `h.3`: the block's indices are left open, those inside it stay."""
    for block in blocks:
        if f"{name}.".removeprefix(INPUT).startswith(f"{block}."):
            return name.replace(block, starred(block), 1)
    return name


def _sizes_of_branches(plan: Plan) -> dict[str, float]:
    """The power of the depth ratio at which the output of a branch's last modules starts, where the rule gives one."""
    depth = plan.scaling.rule.depth
    powers: dict[str, float] = {}
    for entry in plan.entries:
        is_last = entry.role is Role.BRANCH_LAST
        if not is_last and not entry.carries:
            continue
        # A norm that ends the branch carries the multiplier; the layer before it then starts at its own size.
        power = depth.branch if entry.carries else 0.0
        if is_last:
            power += depth.init_last
        # A layer and its bias are one module: the layer's size is what is seen of both.
        if is_last or _module(entry) not in powers:
            powers[_module(entry)] = power
    return powers


def _outputs(
    model: nn.Module,
    labels: dict[str, str],
    inputs: tuple[Any, ...],
    seed: int,
) -> dict[str, Tensor]:
    """What each module returns, and under SOFTMAX[k] what the k-th softmax is given."""
    found: dict[str, Tensor] = {}
    softmaxes = itertools.count()

    def see(name: str, inputs: tuple[Any, ...], output: Tensor) -> None:
        found[name] = output.detach().clone()

    def see_logits(logits: Tensor) -> None:
        # Masked places have no logit; a difference of two infinities would be no number.
        visible = logits.detach().isneginf().logical_not()
        found[f"{SOFTMAX}[{next(softmaxes)}]"] = logits.detach()[visible]

    with torch.no_grad(), observe(model, labels, see), SoftmaxInputs(see_logits):
        call(model, parameters(model), inputs, seed)
    return found


def _sizes(outputs: dict[str, Tensor], labels: dict[str, str]) -> dict[str, float]:
    """Root mean square by label, over all modules of the label."""
    squares: dict[str, list[float]] = {}
    for name, output in outputs.items():
        module = module_of(name)
        label = labels.get(module, module)
        square = float(mean_square(output))
        squares.setdefault(label, []).append(square)
    sizes: dict[str, float] = {}
    for label, values in squares.items():
        sizes[label] = float(np.sqrt(np.mean(values)))
    return sizes


# --- all networks ---
def _trained(experiment: Experiment, looks: Looks) -> tuple[xr.Dataset, list[Effect]]:
    """Train at every size: the data, and the effects to judge."""
    sizes = experiment.lines()
    runs = experiment.over(sizes, lambda size, seed: _run(experiment, looks, seed, size))
    data = _dataset(experiment, looks, sizes, runs)
    powers: dict[str, float] = {}
    for of_seeds in runs:
        for run in of_seeds:
            powers |= run.sizes_of_branches
    return data, list(_effects(experiment, looks, data, powers))


def _dataset(
    experiment: Experiment,
    looks: Looks,
    sizes: list[Size],
    runs: list[list[_Run]],
) -> xr.Dataset:
    import xarray as xr

    assert experiment.rule is not None
    labels = list(runs[0][0].start)
    coords: dict[str, Any] = {
        "module": labels,
        **experiment.axes,
        "seed": experiment.seeds,
        "step": np.array(looks.steps),
    }
    dims = tuple(coords)
    shape = [len(coords[dim]) for dim in dims]
    # Only the two lines of sizes are trained; the rest of the grid stays NaN.
    data = xr.Dataset(
        {
            "start": (dims[:-1], np.full(shape[:-1], np.nan)),
            "change": (dims, np.full(shape, np.nan)),
            "stable_rank": (dims, np.full(shape, np.nan)),
            "decay": (dims[:-1], np.full(shape[:-1], np.nan)),
            "stream": (dims[1:-1], np.full(shape[1:-1], np.nan)),
            "loss": (dims[1:], np.full(shape[1:], np.nan)),
        },
        coords,
        attrs={
            "rule": experiment.rule.name,
            "optimizer": experiment.family.name,
            "lr": experiment.lr,
        },
    )
    for size, of_seeds in zip(sizes, runs, strict=True):
        for seed, run in zip(experiment.seeds, of_seeds, strict=True):
            at = {**size, "seed": seed}
            data["start"].loc[at] = [run.start[label] for label in labels]
            data["decay"].loc[at] = [run.decay.get(label, math.nan) for label in labels]
            data["stream"].loc[at] = run.stream
            for step in looks.steps:
                then = {**at, "step": step}
                data["change"].loc[then] = [run.changes[step][label] for label in labels]
                data["loss"].loc[then] = run.losses[step]
            for step in looks.ranked:
                ranks = run.stable_ranks[step]
                data["stable_rank"].loc[{**at, "step": step}] = [ranks.get(label, math.nan) for label in labels]
    return data


def _effects(
    experiment: Experiment,
    looks: Looks,
    data: xr.Dataset,
    sizes_of_branches: Mapping[str, float],
) -> Iterator[Effect]:
    """What is judged: start, changes and decay of each module along each axis."""
    quantities = {"start": data["start"]}
    for name, step in zip(("change", "late_change"), looks.verdicts, strict=False):
        # A run that left the numbers counts as one that grew beyond them.
        quantities[name] = data["change"].sel(step=step).fillna(np.inf)
    quantities["decay"] = data["decay"]
    noise = {axis: made_by_noise(experiment, axis, data["stream"]) for axis in experiment.fitted_axes}
    for module in data["module"].values.tolist():
        for quantity, values in quantities.items():
            of_module = values.sel(module=module)
            if quantity == "decay" and bool(of_module.isnull().all()):
                continue
            for axis in experiment.fitted_axes:
                sizes, at_sizes = experiment.along(axis, of_module)
                # A branch's own output follows the size at which the branch starts; all else is free of the size.
                follows = axis == "depth" and quantity != "decay"
                yield Effect(
                    named={"module": module, "quantity": quantity, "axis": axis},
                    sizes=sizes,
                    values=at_sizes,
                    expected=sizes_of_branches.get(module, 0.0) if follows else 0.0,
                    # A start that shrinks is none of a coordinate check's business.
                    may_vanish=quantity == "start",
                    noise=None if quantity in ("start", "decay") else noise[axis],
                )


def _diverged(data: xr.Dataset) -> Iterator[str]:
    """The sizes at which training left the numbers. Cells off the two lines of sizes were never trained."""
    # A cell was trained if it has a start, and diverged if some module's last change is no number.
    started = data["start"].notnull().any("module")
    last = data["change"].isel(step=-1).fillna(np.inf)
    bad = started & ~(last != np.inf).all("module")
    at: list[str] = []
    for axis in ("width", "depth"):
        if axis in bad.dims:
            others = [dim for dim in bad.dims if dim != axis]
            somewhere = bad.any(others).values
            sizes = bad[axis].values[somewhere]
            at += [f"{axis} {size}" for size in sizes.tolist()]
    if at:
        yield f"training diverges at {', '.join(at)}: a lower `lr` may tell more"
