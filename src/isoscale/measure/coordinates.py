"""Coordinate check: train for a few real steps at every size, and see whether each module's output changes alike."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor, nn

from isoscale import checks
from isoscale.measure.tools.building import Factory, checked_batches
from isoscale.measure.tools.experiment import Experiment, Progress, Size
from isoscale.measure.tools.hook_points import hook_points
from isoscale.measure.tools.notes import notes_over_sizes
from isoscale.measure.tools.observe import INPUT, module_of, observe
from isoscale.measure.tools.passes import Batch, LossFn, call, mean_square, parameters, seeded
from isoscale.measure.tools.slopes import fit, judged, undecided
from isoscale.parametrization import Plan
from isoscale.scaling import rules
from isoscale.scaling.roles import Role
from isoscale.scaling.rules import Rule
from isoscale.scaling.tensor import starred

if TYPE_CHECKING:
    import pandas as pd
    import xarray as xr

_OUTPUT = "output"


@dataclass(frozen=True, kw_only=True)
class CoordinateCheck:
    """Sizes of every module's output at every size of the network.

    Attributes:
        exponents: A row for each module (all blocks together), quantity and axis: columns module, quantity ("start":
            the size at initialisation, "change": that of the difference after all steps), axis, exponent, low, high
            (95 % interval), expected, verdict. A module "<-name" is the value that `name` is given: the residual
            stream, where no module returns it.
        data: Dataset with start(module, width, depth, seed) and change(module, ..., step), root mean squares on the
            first batch; loss(width, depth, seed, step).
        notes: What a reader should know about the model.
    """

    exponents: pd.DataFrame
    data: xr.Dataset
    notes: tuple[str, ...]

    @property
    def ok(self) -> bool:
        """Whether no module's change depends on the size otherwise than it should."""
        return bool(self.exponents["verdict"].isin(["stable", "not measured"]).all())

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
    steps: int = 5,
    seeds: int | Sequence[int] = 3,
    progress: Progress | None = None,
) -> CoordinateCheck:
    """Train for a few steps at every width and depth, and fit how each module's change depends on them.

    Args:
        make_model: Called with `width` and `depth` (those that are given) and with `seed` if it takes one.
        batches: (x, y) pairs, used in turn; changes are seen on the first.
        loss_fn: loss_fn(model(x), y) is the loss, one number.
        widths, depths: Sizes, three or more for a useful interval. Widths are checked at the smallest depth, depths at
            the largest width; the rule's base has the smallest width and one block.
        rule: A name of `isoscale.rules.names()`, or a Rule.
        optimizer: "sgd", "adam", "adamw", "sign", "muon", or a class of such a family that takes parameter groups.
        lr: The base's learning rate.
        steps: Optimizer steps.
        seeds: How many (0, 1, ...) or which.
        progress: Called with the share that is done.

    Returns:
        `CoordinateCheck`. A change is expected to be free of the size; that of a branch's own output follows the size
        at which the branch starts, L^-b. A start may shrink with the size (a mean-field readout's does), but not grow.

    Raises:
        InvalidValueError, InvalidTypeError, PlanError, TraceError: As `isoscale.parametrize`.

    Source: TP5 (arXiv 2203.03466), appendix D.1; docs/theory.md, section 5.

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
        steps=steps,
        least_steps=1,
        progress=progress,
    )
    sizes = experiment.lines()
    runs = experiment.over(sizes, lambda size, seed: _run(experiment, seed, size))
    branch_outputs: set[str] = set()
    for of_seeds in runs:
        for run in of_seeds:
            branch_outputs |= run.branch_outputs
    data = _dataset(experiment, sizes, runs)
    exponents = _exponents(experiment, data, branch_outputs)
    changes = exponents[exponents["quantity"] == "change"]  # a start may shrink
    notes = (
        *notes_over_sizes(experiment, changes),
        *_diverged(data),
        *undecided(changes),
    )
    return CoordinateCheck(exponents=exponents, data=data, notes=notes)


# --- one network ---
@dataclass
class _Run:
    """One network in training.

    Attributes:
        start: Size at initialisation, by label.
        changes: Size of the change after each step, by label.
        losses: Before each step.
        branch_outputs: Labels whose output is a branch's own output.
    """

    start: dict[str, float]
    changes: list[dict[str, float]]
    losses: list[float]
    branch_outputs: set[str]


def _run(experiment: Experiment, seed: int, size: Size) -> _Run:
    model, plan = experiment.scaled(seed, **size)
    steppers = experiment.optimizers_of_plan(plan)
    labels = _labels(model, experiment, plan)
    first = _outputs(model, labels, experiment.inputs, seed)
    run = _Run(
        start=_sizes(first, labels),
        changes=[],
        losses=[],
        branch_outputs=_branch_outputs(plan),
    )
    # The masks of training come from `seed` once; every look at the outputs starts from it anew, so that only the
    # parameters differ between two looks.
    with seeded(seed):
        for number in range(experiment.steps):
            loss = experiment.step(model, steppers, number)
            now = _outputs(model, labels, experiment.inputs, seed)
            change = {name: now[name] - first[name] for name in first}
            run.losses.append(loss)
            run.changes.append(_sizes(change, labels))
    return run


def _labels(model: nn.Module, experiment: Experiment, plan: Plan) -> dict[str, str]:
    """Name to observe -> label: modules with parameters of their own, the residual stream, the output."""
    stream = hook_points(model, experiment.inputs).blocks
    leaves: list[str] = []
    for name, module in model.named_modules():
        # A module without parameters hands on what others made, and a parent what its children made.
        is_leaf = not any(True for _ in module.children())
        if name and is_leaf and any(True for _ in module.parameters()):
            leaves.append(name)
    blocks = {entry.block for entry in plan.entries if entry.block}
    labels = {"": _OUTPUT}
    for name in (*stream, *leaves):
        labels[name] = _label(name, blocks)
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


def _branch_outputs(plan: Plan) -> set[str]:
    """Labels whose output is a branch's own output: that of its output projection, or of the norm after it."""
    labels: set[str] = set()
    for entry in plan.entries:
        if entry.role is Role.BRANCH_LAST or entry.carries:
            labels.add(entry.kind.rpartition(".")[0])
    return labels


def _outputs(
    model: nn.Module,
    labels: dict[str, str],
    inputs: tuple[Any, ...],
    seed: int,
) -> dict[str, Tensor]:
    found: dict[str, Tensor] = {}

    def see(name: str, inputs: tuple[Any, ...], output: Tensor) -> None:
        found[name] = output.detach().clone()

    with torch.no_grad(), observe(model, labels, see):
        call(model, parameters(model), inputs, seed)
    return found


def _sizes(outputs: dict[str, Tensor], labels: dict[str, str]) -> dict[str, float]:
    """Root mean square by label, over all modules of the label."""
    squares: dict[str, list[float]] = {}
    for name, output in outputs.items():
        label = labels[module_of(name)]
        square = float(mean_square(output))
        squares.setdefault(label, []).append(square)
    sizes: dict[str, float] = {}
    for label, values in squares.items():
        sizes[label] = float(np.sqrt(np.mean(values)))
    return sizes


# --- all networks ---
def _dataset(
    experiment: Experiment,
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
        "step": np.arange(1, experiment.steps + 1),
    }
    dims = tuple(coords)
    shape = [len(coords[dim]) for dim in dims]
    # Only the two lines of sizes are trained; the rest of the grid stays NaN.
    data = xr.Dataset(
        {
            "start": (dims[:-1], np.full(shape[:-1], np.nan)),
            "change": (dims, np.full(shape, np.nan)),
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
            changes = [[step[label] for step in run.changes] for label in labels]
            data["start"].loc[at] = [run.start[label] for label in labels]
            data["change"].loc[at] = np.array(changes)
            data["loss"].loc[at] = run.losses
    return data


def _exponents(
    experiment: Experiment,
    data: xr.Dataset,
    branch_outputs: set[str],
) -> pd.DataFrame:
    import pandas as pd

    assert experiment.rule is not None
    depth = experiment.rule.depth
    # A run that left the numbers counts as one that grew beyond them.
    last = data["change"].isel(step=-1).fillna(np.inf)
    rows = []
    for module in data["module"].values.tolist():
        for quantity, values in (("start", data["start"]), ("change", last)):
            of_module = values.sel(module=module)
            for axis in experiment.fitted_axes:
                slope = fit(*experiment.along(axis, of_module))
                # A branch's own output follows the size at which the branch starts; all else is free of the size.
                follows = axis == "depth" and module in branch_outputs
                expected = depth.branch + depth.init_last if follows else 0.0
                named = {"module": module, "quantity": quantity, "axis": axis}
                rows.append((named, slope, expected))
    return pd.DataFrame(_forgiven(judged(rows)))


def _forgiven(rows: Iterator[dict[str, Any]]) -> Iterator[dict[str, Any]]:
    """A start that shrinks is none of a coordinate check's business."""
    for row in rows:
        if row["quantity"] == "start" and row["verdict"].startswith("vanishes"):
            row["verdict"] = "stable"
        yield row


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
