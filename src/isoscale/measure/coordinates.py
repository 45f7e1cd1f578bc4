"""Coordinate check: train for a few real steps at every size, and see whether each module's output changes alike."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor, nn

from isoscale.measure.tools.building import Factory, checked_batches, checked_steps, seed_list
from isoscale.measure.tools.observe import INPUT, observe
from isoscale.measure.tools.passes import Batch, LossFn, call, descend, parameters, seeded, widest
from isoscale.measure.tools.places import places
from isoscale.measure.tools.scaled import Scaled, Size, size_list
from isoscale.measure.tools.slopes import fit, judged, undecided
from isoscale.parametrization import Plan
from isoscale.scaling import rules
from isoscale.scaling.optimizers import family_of
from isoscale.scaling.roles import Role
from isoscale.scaling.rules import Rule
from isoscale.training.torch_optimizers import optimizers

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
    progress: Callable[[float], None] | None = None,
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

    Source: TP5 (arXiv 2203.03466), appendix D.1; THEORY.md section 5.

    >>> from isoscale.models import ResidualMLP
    >>> make = lambda width, seed: ResidualMLP(4, 1, width=width, depth=2, seed=seed)
    >>> batch = torch.randn(8, 4, generator=torch.Generator().manual_seed(0)), torch.ones(8, 1)
    >>> mse = lambda f, y: (f - y).square().mean()
    >>> checked = coordinate_check(make, [batch], mse, widths=[64, 128, 256], rule="mup")
    >>> checked.ok
    True
    """
    training = _Training(checked_batches(batches), loss_fn, optimizer, lr, checked_steps(steps))
    drawn = seed_list(seeds)
    inputs, family = (training.batches[0][0],), family_of(optimizer)
    of_width, of_depth = size_list("widths", widths), size_list("depths", depths)
    scaled = Scaled(make_model, inputs, rules.get(rule), family, of_width, of_depth)
    runs = scaled.over(drawn, lambda seed, size: _run(scaled, training, seed, size), progress)
    data = _dataset(runs, scaled, drawn, training)
    ends = {label for of_seeds in runs.values() for run in of_seeds for label in run.ends}
    exponents = _exponents(data, scaled, ends)
    changes = exponents[exponents["quantity"] == "change"]  # a start may shrink
    notes = (*scaled.notes(drawn[0], changes), *_diverged(data), *undecided(changes))
    return CoordinateCheck(exponents=exponents, data=data, notes=notes)


# --- one network ---
@dataclass
class _Run:
    """start: label -> size; changes: label -> size after each step; losses before each step; ends: branches' ends."""

    start: dict[str, float]
    changes: list[dict[str, float]]
    losses: list[float]
    ends: set[str]


@dataclass(frozen=True)
class _Training:
    """How each network is trained."""

    batches: Sequence[Batch]
    loss_fn: LossFn
    optimizer: str | type
    lr: float
    steps: int

    def optimizers(self, plan: Plan) -> list[torch.optim.Optimizer]:
        groups = plan.param_groups()
        if isinstance(self.optimizer, str):
            return optimizers(family_of(self.optimizer), groups)
        return [self.optimizer(groups)]


def _run(scaled: Scaled, training: _Training, seed: int, size: dict[str, int]) -> _Run:
    model, plan = scaled.at(seed, training.lr, **size)
    steppers = training.optimizers(plan)
    watched = _watched(model, scaled, plan)
    x = training.batches[0][0]
    first = _outputs(model, watched, x, seed)
    run = _Run(start=_sizes(first, watched), changes=[], losses=[], ends=_ends(plan))
    with seeded(seed):
        for step in range(training.steps):
            batch = training.batches[step % len(training.batches)]
            run.losses.append(descend(model, steppers, training.loss_fn, batch))
            now = _outputs(model, watched, x, seed)
            run.changes.append(_sizes({name: now[name] - first[name] for name in first}, watched))
    return run


def _watched(model: nn.Module, scaled: Scaled, plan: Plan) -> dict[str, str]:
    """Name to observe -> label: modules with parameters of their own, the residual stream, the output."""
    leaves = [
        name
        for name, module in model.named_modules()
        if name and not any(True for _ in module.children()) and any(True for _ in module.parameters())
    ]
    blocks = {entry.block for entry in plan.entries if entry.block}
    stream = places(model, scaled.inputs).blocks
    labels = {"": _OUTPUT} | {name: _starred(name, blocks) for name in (*stream, *leaves)}
    # A block of several branches is itself in none of them: all depths must still have the same labels.
    return labels | {name: _all_starred(name) for name in stream if labels[name] == name}


def _starred(name: str, blocks: set[str]) -> str:
    """`h.*.mlp.0` of `h.3.mlp.0` in block `h.3`."""
    for block in blocks:
        if f"{name}.".removeprefix(INPUT).startswith(f"{block}."):
            return name.replace(block, _all_starred(block), 1)
    return name


def _all_starred(name: str) -> str:
    return ".".join("*" if step.isdecimal() else step for step in name.split("."))


def _outputs(model: nn.Module, watched: dict[str, str], x: Any, seed: int) -> dict[str, Tensor]:
    found: dict[str, Tensor] = {}

    def see(name: str, _: tuple[Any, ...], output: Tensor) -> None:
        found[name] = output.detach().clone()

    with torch.no_grad(), observe(model, watched, see):
        call(model, parameters(model), (x,), seed)
    return found


def _sizes(outputs: dict[str, Tensor], watched: dict[str, str]) -> dict[str, float]:
    """Root mean square by label, over all modules of the label."""
    squares: dict[str, list[float]] = {}
    for name, output in outputs.items():
        plain = name.partition("@")[0].partition("[")[0]
        squares.setdefault(watched[plain], []).append(float(widest(output).square().mean()))
    return {label: float(np.sqrt(np.mean(values))) for label, values in squares.items()}


# --- all networks ---
def _dataset(runs: dict[Size, list[_Run]], scaled: Scaled, seeds: list[int], training: _Training) -> xr.Dataset:
    import xarray as xr

    labels = list(next(iter(runs.values()))[0].start)
    axes = {axis: values for axis, values in (("width", scaled.widths), ("depth", scaled.depths)) if values}
    coords: dict[str, Any] = {"module": labels, **axes, "seed": seeds, "step": np.arange(1, training.steps + 1)}
    shape = [len(coords[dim]) for dim in coords]
    dims = tuple(coords)
    data = xr.Dataset(
        {
            "start": (dims[:-1], np.full(shape[:-1], np.nan)),
            "change": (dims, np.full(shape, np.nan)),
            "loss": (dims[1:], np.full(shape[1:], np.nan)),
        },
        coords,
        attrs={"rule": scaled.rule.name, "optimizer": str(scaled.optimizer), "lr": training.lr},
    )
    for size, of_seeds in runs.items():
        for seed, run in zip(seeds, of_seeds, strict=True):
            at = {**dict(size), "seed": seed}
            data["start"].loc[at] = [run.start[label] for label in labels]
            data["change"].loc[at] = np.array([[step[label] for step in run.changes] for label in labels])
            data["loss"].loc[at] = run.losses
    return data


def _ends(plan: Plan) -> set[str]:
    """Labels whose output is a branch's own output: that of its last map, or of the norm after it."""
    return {entry.kind.rpartition(".")[0] for entry in plan.entries if entry.role is Role.BRANCH_LAST or entry.carries}


def _exponents(data: xr.Dataset, scaled: Scaled, ends: set[str]) -> pd.DataFrame:
    import pandas as pd

    # A run that left the numbers counts as one that grew beyond them.
    last = data["change"].isel(step=-1).fillna(np.inf)
    rows = []
    for module in data["module"].values.tolist():
        for quantity, values in (("start", data["start"]), ("change", last)):
            for axis in scaled.axes:
                sizes = scaled.line(axis)
                table = np.stack([values.sel({"module": module, **size}).values for size in sizes])
                slope = fit([size[axis] for size in sizes], table)
                expected = _expectation(module in ends and axis == "depth", scaled.rule)
                rows.append(({"module": module, "quantity": quantity, "axis": axis}, slope, expected))
    return pd.DataFrame(_forgiven(judged(rows)))


def _expectation(branch_end: bool, rule: Rule) -> float:
    return rule.depth.branch + rule.depth.init_last if branch_end else 0.0


def _forgiven(rows: Iterator[dict[str, Any]]) -> Iterator[dict[str, Any]]:
    """A start that shrinks is none of a coordinate check's business."""
    for row in rows:
        shrinks = row["quantity"] == "start" and row["verdict"].startswith("vanishes")
        yield row | ({"verdict": "stable"} if shrinks else {})


def _diverged(data: xr.Dataset) -> Iterator[str]:
    """The sizes at which training left the numbers. Cells off the two lines of sizes were never trained."""
    started = data["start"].notnull().any("module")
    last = data["change"].isel(step=-1)
    bad = started & ~(last.fillna(np.inf) != np.inf).all("module")
    at = [f"{axis} {size}" for axis in ("width", "depth") if axis in bad.dims for size in _where(bad, axis)]
    if at:
        yield f"training diverges at {', '.join(at)}: a lower `lr` may tell more"


def _where(bad: xr.DataArray, axis: str) -> list[int]:
    return bad[axis].values[bad.any([dim for dim in bad.dims if dim != axis]).values].tolist()
