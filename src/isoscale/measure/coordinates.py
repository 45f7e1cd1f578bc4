"""Coordinate check: train for a few real steps at every size, and see whether each module's output changes alike."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor, nn

from isoscale import rules
from isoscale.errors import InvalidTypeError, InvalidValueError
from isoscale.measure.building import Factory, check_seeds, seed_list
from isoscale.measure.notes import notes_on
from isoscale.measure.observe import observe
from isoscale.measure.passes import Batch, LossFn, call, parameters, seeded, widest
from isoscale.measure.places import places
from isoscale.measure.scaled import Scaled, size_list
from isoscale.measure.slopes import fit, judged
from isoscale.parametrization import Plan
from isoscale.parametrization.families import family_of
from isoscale.rules import Role, Rule

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
            (95 % interval), expected, verdict.
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
        optimizer: "sgd", "adam", "adamw", "muon", or a class that takes parameter groups.
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
    batches = _batches(batches)
    if isinstance(steps, bool) or not isinstance(steps, int) or steps < 1:
        raise InvalidValueError(f"`steps` must be a whole number >= 1, got {steps!r}")
    drawn = seed_list(seeds)
    scaled = Scaled(
        make_model,
        (batches[0][0],),
        rules.get(rule),
        family_of(optimizer),
        size_list("widths", widths),
        size_list("depths", depths),
    )
    if not scaled.axes:
        raise InvalidValueError("`widths` or `depths` must hold two sizes or more: an exponent needs them")
    sizes = list(dict.fromkeys(tuple(size.items()) for axis in scaled.axes for size in scaled.line(axis)))
    check_seeds(make_model, drawn, **dict(sizes[0]))
    runs: dict[tuple[tuple[str, int], ...], list[_Run]] = {}
    for done, size in enumerate(sizes):
        runs[size] = [_run(scaled, batches, loss_fn, optimizer, lr, steps, seed, dict(size)) for seed in drawn]
        if progress:
            progress((done + 1) / len(sizes))
    model, plan = scaled.at(drawn[0], lr, **dict(sizes[-1]))
    data = _dataset(runs, scaled, drawn, steps, lr)
    roles = _roles(plan, data["module"].values.tolist())
    return CoordinateCheck(
        exponents=_exponents(data, scaled, roles), data=data, notes=(*notes_on(model), *plan.open_items)
    )


# --- one network ---
@dataclass
class _Run:
    """start: module -> size; changes: module -> size after each step; losses before each step."""

    start: dict[str, float]
    changes: list[dict[str, float]]
    losses: list[float]


def _run(
    scaled: Scaled,
    batches: Sequence[Batch],
    loss_fn: LossFn,
    optimizer: str | type,
    lr: float,
    steps: int,
    seed: int,
    size: dict[str, int],
) -> _Run:
    model, plan = scaled.at(seed, lr, **size)
    optimizers = _optimizers(plan, optimizer)
    watched = _watched(model, scaled, plan)
    first = _outputs(model, watched, batches[0][0], seed)
    run = _Run(start=_sizes(first, watched), changes=[], losses=[])
    with seeded(seed):
        for step in range(steps):
            x, y = batches[step % len(batches)]
            for each in optimizers:
                each.zero_grad()
            loss = loss_fn(model(x), y)
            loss.backward()
            for each in optimizers:
                each.step()
            run.losses.append(float(loss.detach()))
            now = _outputs(model, watched, batches[0][0], seed)
            run.changes.append(_sizes({name: now[name] - first[name] for name in first}, watched))
    return run


def _optimizers(plan: Plan, optimizer: str | type) -> list[torch.optim.Optimizer]:
    groups = plan.param_groups()
    if not isinstance(optimizer, str):
        return [optimizer(groups)]
    if optimizer == "muon":
        muon = [group for group in groups if group["optimizer"] == "muon"]
        adamw = [group for group in groups if group["optimizer"] == "adamw"]
        return [torch.optim.Muon(muon), torch.optim.AdamW(adamw)]
    classes = {"sgd": torch.optim.SGD, "adam": torch.optim.Adam, "adamw": torch.optim.AdamW}
    if optimizer not in classes:
        raise InvalidValueError(f"torch has no optimizer of family {optimizer!r}: give its class as `optimizer`")
    return [classes[optimizer](groups)]


def _watched(model: nn.Module, scaled: Scaled, plan: Plan) -> dict[str, str]:
    """Name to observe -> label: modules with parameters of their own, the residual stream, the output."""
    leaves = [
        name
        for name, module in model.named_modules()
        if name and not any(True for _ in module.children()) and any(True for _ in module.parameters())
    ]
    blocks = {entry.block for entry in plan.entries if entry.block}
    stream = places(model, scaled.inputs).blocks
    return {"": _OUTPUT} | {name: _starred(name, blocks) for name in (*stream, *leaves)}


def _starred(name: str, blocks: set[str]) -> str:
    """`h.*.mlp.0` of `h.3.mlp.0` in block `h.3`."""
    for block in blocks:
        if f"{name}.".removeprefix("<-").startswith(f"{block}."):
            starred = ".".join("*" if step.isdecimal() else step for step in block.split("."))
            return name.replace(block, starred, 1)
    return name


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
def _dataset(runs: dict[Any, list[_Run]], scaled: Scaled, seeds: list[int], steps: int, lr: float) -> xr.Dataset:
    import xarray as xr

    labels = list(next(iter(runs.values()))[0].start)
    axes = {axis: values for axis, values in (("width", scaled.widths), ("depth", scaled.depths)) if values}
    coords: dict[str, Any] = {"module": labels, **axes, "seed": seeds, "step": np.arange(1, steps + 1)}
    shape = [len(coords[dim]) for dim in coords]
    dims = tuple(coords)
    data = xr.Dataset(
        {
            "start": (dims[:-1], np.full(shape[:-1], np.nan)),
            "change": (dims, np.full(shape, np.nan)),
            "loss": (dims[1:], np.full(shape[1:], np.nan)),
        },
        coords,
        attrs={"rule": scaled.rule.name, "optimizer": str(scaled.optimizer), "lr": lr},
    )
    for size, of_seeds in runs.items():
        for seed, run in zip(seeds, of_seeds, strict=True):
            at = {**dict(size), "seed": seed}
            data["start"].loc[at] = [run.start[label] for label in labels]
            data["change"].loc[at] = np.array([[step[label] for step in run.changes] for label in labels])
            data["loss"].loc[at] = run.losses
    return data


def _roles(plan: Plan, labels: list[str]) -> dict[str, bool]:
    """Whether each label's output is a branch's own output: that of its last map, or of the norm after it."""
    ends = {entry.kind.rpartition(".")[0] for entry in plan.entries if entry.role is Role.BRANCH_LAST or entry.carries}
    return {label: label in ends for label in labels}


def _exponents(data: xr.Dataset, scaled: Scaled, ends: dict[str, bool]) -> pd.DataFrame:
    import pandas as pd

    rows = []
    for module in data["module"].values.tolist():
        of_module = data.sel(module=module)
        for quantity, values in (("start", of_module["start"]), ("change", of_module["change"].isel(step=-1))):
            for axis in scaled.axes:
                sizes = scaled.line(axis)
                table = np.stack([values.sel(size).values for size in sizes])
                slope = fit([size[axis] for size in sizes], table)
                rows.append(
                    (
                        {"module": module, "quantity": quantity, "axis": axis},
                        slope,
                        _expectation(ends[module] and axis == "depth", scaled.rule),
                    )
                )
    return pd.DataFrame(_forgiven(judged(rows)))


def _expectation(branch_end: bool, rule: Rule) -> float:
    return rule.depth.branch + rule.depth.init_last if branch_end else 0.0


def _forgiven(rows: Iterator[dict[str, Any]]) -> Iterator[dict[str, Any]]:
    """A start that shrinks is none of a coordinate check's business."""
    for row in rows:
        shrinks = row["quantity"] == "start" and row["verdict"].startswith("vanishes")
        yield row | ({"verdict": "stable"} if shrinks else {})


def _batches(batches: Any) -> list[Batch]:
    if not isinstance(batches, Sequence) or not batches:
        raise InvalidTypeError("`batches` must be a list of pairs (x, y)")
    for batch in batches:
        if not isinstance(batch, (tuple, list)) or len(batch) != 2:
            raise InvalidTypeError("`batches` must be a list of pairs (x, y)")
    return [tuple(batch) for batch in batches]
