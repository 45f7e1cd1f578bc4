"""Coordinate check: train for a few real steps at every size, and see whether each module's output changes alike."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from isoscale import checks
from isoscale.graph.anatomy import Roles
from isoscale.measure.tools.building import Factory, checked_batches
from isoscale.measure.tools.experiment import Experiment, Progress, Size
from isoscale.measure.tools.noise import made_by_noise
from isoscale.measure.tools.notes import crowded, notes_over_sizes
from isoscale.measure.tools.passes import Batch, LossFn
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
from isoscale.measure.tools.trained import Looks, Trained, trained
from isoscale.scaling import rules
from isoscale.scaling.rules import Rule

if TYPE_CHECKING:
    import pandas as pd
    import xarray as xr

_CONTROL = "sp"


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

    >>> import torch
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
    data, effects = _over_sizes(experiment, looks)
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


def _passed_by_control(experiment: Experiment, looks: Looks, thresholds: Thresholds) -> Iterator[str]:
    """The axes along which a network without any rule is not seen to fail."""
    plain = replace(experiment, rule=rules.get(_CONTROL))
    _, effects = _over_sizes(plain, looks)
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


# --- all networks ---
def _over_sizes(experiment: Experiment, looks: Looks) -> tuple[xr.Dataset, list[Effect]]:
    """Train at every size: the data, and the effects to judge."""
    sizes = experiment.lines()
    runs = experiment.over(sizes, lambda size, seed: trained(experiment, looks, seed, size))
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
    runs: list[list[Trained]],
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
