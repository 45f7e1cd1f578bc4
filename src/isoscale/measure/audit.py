"""Does one optimizer step do the same at every size? Answered without training, by forward-mode derivatives.

For each role the first step of the optimizer, at the rule's own learning rates, is followed to first order: what it
does to its own layer at fixed input, to the pre-activations inside the branches, to the end of the residual stream
and to the output. Over widths and depths each effect is a power of the size; THEORY.md sections 4 and 5 say which.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from torch import Tensor, nn
from torch.utils._pytree import tree_map

from isoscale.errors import unknown
from isoscale.measure.steps import optimizer_step
from isoscale.measure.tools.building import Factory, seed_list
from isoscale.measure.tools.jvp import Jvp, forward_jvp
from isoscale.measure.tools.own_update import own_updates
from isoscale.measure.tools.passes import Batch, LossFn, loss_gradient, widest
from isoscale.measure.tools.places import Places, places
from isoscale.measure.tools.scaled import Scaled, Size, size_list
from isoscale.measure.tools.slopes import fit, judged, undecided
from isoscale.parametrization import Plan
from isoscale.scaling import rules
from isoscale.scaling.optimizers import family_of
from isoscale.scaling.roles import Role
from isoscale.scaling.rules import Rule
from isoscale.scaling.tensor import TensorPlan

if TYPE_CHECKING:
    import pandas as pd
    import xarray as xr

QUANTITIES = ("own_update", "branch_update", "stream_update", "output_update")

By = Literal["role", "tensor"]
Effects = dict[str, dict[str, float]]
"""quantity -> label -> root mean square."""


@dataclass(frozen=True, kw_only=True)
class Audit:
    """What one step does at each size, and the exponents of that.

    Attributes:
        exponents: A row for each role (or tensor), quantity and axis: columns role, (tensor,) quantity, axis,
            exponent, low, high (95 % interval), expected, verdict.
        data: Dataset with own_update, branch_update, stream_update, output_update(role or tensor, width, depth, seed),
            root mean squares to first order in a step at base learning rate 1; NaN where the grid was not measured.
        notes: What a reader should know about the model.
        question, rule: What was measured, under which rule; `suggest` measures it again under others.
    """

    exponents: pd.DataFrame
    data: xr.Dataset
    notes: tuple[str, ...]
    question: Question = field(repr=False)
    rule: Rule = field(repr=False)

    @property
    def ok(self) -> bool:
        """Whether every exponent that was measured is as expected, and every role has one."""
        fine = bool(self.exponents["verdict"].isin(["stable", "not measured"]).all())
        return fine and not any(True for _ in _mute(self.exponents))

    def _repr_html_(self) -> str:
        return self.exponents.to_html(index=False, escape=True, float_format="{:.2f}".format)


@dataclass(frozen=True)
class Question:
    """What an audit measures."""

    make_model: Factory
    batch: Batch
    loss_fn: LossFn
    widths: list[int] | None
    depths: list[int] | None
    optimizer: Any
    seeds: list[int]
    by: By
    progress: Callable[[float], None] | None = None


def audit(
    make_model: Factory,
    batch: Batch,
    loss_fn: LossFn,
    *,
    widths: Sequence[int] | None = None,
    depths: Sequence[int] | None = None,
    rule: str | Rule = "completep",
    optimizer: str | type = "sgd",
    seeds: int | Sequence[int] = 3,
    by: By = "role",
    progress: Callable[[float], None] | None = None,
) -> Audit:
    """Measure what the first step of each role does, over widths and depths, without training.

    Args:
        make_model: Called with `width` and `depth` (those that are given) and with `seed` if it takes one.
        batch: (x, y).
        loss_fn: loss_fn(model(x), y) is the loss, one number.
        widths, depths: Sizes, three or more for a useful interval. Widths are measured at the smallest depth, depths
            at the largest width; the rule's base has the smallest width and one block. None: the factory takes no
            such argument.
        rule: A name of `isoscale.rules.names()`, or a Rule.
        optimizer: Family or class, as in `isoscale.parametrize`.
        seeds: How many (0, 1, ...) or which.
        by: "role", or "tensor" for one row each kind of tensor (all blocks together).
        progress: Called with the share that is done.

    Returns:
        `Audit`. Own updates are relative, |Delta W x| / |W x|, for maps and absolute for vectors; the other three
        quantities are root mean squares of first-order changes. Expected is 0, but for a branch's last map in depth
        (b - 1, if its branch starts at size L^-b: its updates add up, its noise does not) and a mean-field readout in
        width (1/2: its output starts at n^-1/2).

    Raises:
        InvalidValueError, InvalidTypeError, PlanError, TraceError: As `isoscale.parametrize`; no axis with two sizes.

    Source: THEORY.md section 4.

    >>> import torch
    >>> from isoscale.models import ResidualMLP
    >>> make = lambda depth, seed: ResidualMLP(4, 1, width=64, depth=depth, seed=seed)
    >>> batch = torch.randn(8, 4, generator=torch.Generator().manual_seed(0)), torch.ones(8, 1)
    >>> found = audit(make, batch, lambda f, y: (f - y).square().mean(), depths=[4, 8, 16, 32], rule="depth-mup")
    >>> found.exponents.set_index(["role", "quantity"]).loc[("branch_internal", "own_update"), "verdict"][:15]
    'vanishes like L'
    """
    if by not in ("role", "tensor"):
        raise unknown("`by`", by, ("role", "tensor"))
    question = Question(
        make_model,
        batch,
        loss_fn,
        size_list("widths", widths),
        size_list("depths", depths),
        optimizer,
        seed_list(seeds),
        by,
        progress,
    )
    return answer(question, rules.get(rule))


def answer(question: Question, rule: Rule) -> Audit:
    """Audit under another rule."""
    scaled = _scaled(question, rule)
    roles: dict[str, Role] = {}
    remarks: dict[str, None] = {}

    def measure(seed: int, size: dict[str, int]) -> Effects:
        found = _effects(scaled, question, seed, size)
        roles.update(found.roles)
        remarks.update(dict.fromkeys([found.method] if found.method else []))
        return found.sizes

    data = _dataset(scaled.over(question.seeds, measure, question.progress), question, rule)
    exponents = _exponents(data, scaled, roles)
    notes = (
        *scaled.notes(question.seeds[0], exponents),
        *remarks,
        *_unseen(data),
        *_mute(exponents),
        *undecided(exponents),
    )
    return Audit(exponents=exponents, data=data, notes=notes, question=question, rule=rule)


def _scaled(question: Question, rule: Rule) -> Scaled:
    inputs = (question.batch[0],)
    return Scaled(question.make_model, inputs, rule, family_of(question.optimizer), question.widths, question.depths)


# --- one network ---
@dataclass(frozen=True)
class _Found:
    """One network's effects, the role of each label, and a remark on how the changes were computed."""

    sizes: Effects
    roles: dict[str, Role]
    method: str


def _effects(scaled: Scaled, question: Question, seed: int, size: dict[str, int]) -> _Found:
    model, plan = scaled.at(seed, **size)
    groups = _groups(plan, question.by)
    roles = {label: entries[0].role for label, entries in groups.items()}
    with _from_zero(model):
        _, grads = loss_gradient(model, question.loss_fn, question.batch, seed)
    if not all(grad.isfinite().all() for grad in grads.values()):
        return _Found({quantity: dict.fromkeys(groups, math.inf) for quantity in QUANTITIES}, roles, "")
    steps = step_of_plan(plan, grads)
    where = places(model, scaled.inputs)
    vectors = {entry.name for entry in plan.entries if not entry.role.decays}
    own = own_updates(model, scaled.inputs, steps, vectors, seed)
    out: Effects = {quantity: {} for quantity in QUANTITIES}
    method = ""
    for label, entries in groups.items():
        out["own_update"][label] = _root_mean_square([_own(entry, own, plan) for entry in entries])
        tangents = {entry.name: steps[entry.name] for entry in entries}
        pushed = _watched_jvp(model, scaled.inputs, tangents, where, seed)
        method = method or (f"changes by {pushed.method}, because {pushed.why}" if pushed.why else "")
        for quantity, value in _pushed(pushed.outputs, where).items():
            out[quantity][label] = value
    return _Found(out, roles, method)


@contextlib.contextmanager
def _from_zero(model: nn.Module) -> Iterator[None]:
    """The gradient of the loss at output 0, where a wide network starts: the output's own start, a random number
    that shrinks with the width, would make the errors of small networks larger than those of large ones."""

    def centre(value: Any) -> Any:
        return value - value.detach() if isinstance(value, Tensor) and value.is_floating_point() else value

    handle = model.register_forward_hook(lambda module, args, out: tree_map(centre, out))
    try:
        yield
    finally:
        handle.remove()


def step_of_plan(plan: Plan, grads: dict[str, Tensor]) -> dict[str, Tensor]:
    """The first step of the plan's optimizer: each tensor's direction times its learning rate."""
    entries = {entry.name: entry for entry in plan.entries if entry.name in grads}
    steps: dict[str, Tensor] = {}
    for name, entry in entries.items():
        steps |= optimizer_step({name: grads[name]}, entry.optimizer, eps=entry.eps or 0.0)
        steps[name] = steps[name] * entry.lr
    return steps


def _own(entry: TensorPlan, own: dict[str, float], plan: Plan) -> float:
    """A vector at a branch's end is measured against the branch's multiplier, which was folded into it."""
    folded = plan.scaling.multiplier_of_branches() if entry.carries and not entry.role.decays else 1.0
    return own[entry.name] / folded


def _watched_jvp(
    model: nn.Module, inputs: tuple[Any, ...], tangents: dict[str, Tensor], where: Places, seed: int
) -> Jvp[float]:
    watched = dict.fromkeys(["", *([where.stream] if where.stream else []), *where.branch])
    return forward_jvp(model, inputs, tangents, modules=watched, keep=_rms_change, seed=seed)


def _pushed(changes: dict[str, float], where: Places) -> dict[str, float]:
    """Effects of a step on pre-activations in branches, the stream's end and the output."""
    output = next(name for name in changes if name.partition("[")[0] == "")
    branch = [value for name, value in changes.items() if name.partition("@")[0] in where.branch]
    stream = [value for name, value in changes.items() if name.partition("[")[0] == where.stream]
    return {
        "branch_update": _root_mean_square(branch),
        "stream_update": stream[0] if stream else float("nan"),
        "output_update": changes[output],
    }


def _rms_change(_: Tensor, change: Tensor) -> float:
    return float(widest(change).square().mean().sqrt())


def _root_mean_square(values: Sequence[float]) -> float:
    """Of the values that are known."""
    known = [value for value in values if value == value]
    return float(np.sqrt(np.mean(np.square(known)))) if known else float("nan")


# --- groups of tensors ---
def _groups(plan: Plan, by: By) -> dict[str, list[TensorPlan]]:
    groups: dict[str, list[TensorPlan]] = {}
    for entry in plan.entries:
        if not entry.frozen:
            groups.setdefault(_label(entry, by), []).append(entry)
    return groups


def _label(entry: TensorPlan, by: By) -> str:
    return str(entry.role) if by == "role" else entry.kind


# --- all networks ---
def _dataset(found: dict[Size, list[Effects]], question: Question, rule: Rule) -> xr.Dataset:
    import xarray as xr

    labels = list(next(iter(found.values()))[0]["own_update"])
    coords: dict[str, list[Any]] = {question.by: labels}
    coords |= {axis: values for axis, values in (("width", question.widths), ("depth", question.depths)) if values}
    coords["seed"] = question.seeds
    shape = [len(values) for values in coords.values()]
    data = xr.Dataset(
        {quantity: (tuple(coords), np.full(shape, np.nan)) for quantity in QUANTITIES},
        coords,
        attrs={"rule": rule.name, "optimizer": str(family_of(question.optimizer)), "lr": 1.0},
    )
    for size, seeds in found.items():
        for seed, effects in zip(question.seeds, seeds, strict=True):
            for quantity, values in effects.items():
                data[quantity].loc[{**dict(size), "seed": seed}] = [values[label] for label in labels]
    return data


def _exponents(data: xr.Dataset, scaled: Scaled, roles: dict[str, Role]) -> pd.DataFrame:
    import pandas as pd

    by = "role" if "role" in data.dims else "tensor"
    rows = []
    for label in data[by].values.tolist():
        named = {"role": str(roles[label])} | ({"tensor": label} if by == "tensor" else {})
        for quantity in QUANTITIES:
            for axis in scaled.axes:
                slope = fit(*_line(data[quantity].sel({by: label}), scaled, axis))
                expected = expectation(roles[label], quantity, axis, scaled.rule)
                rows.append((named | {"quantity": quantity, "axis": axis}, slope, expected))
    return pd.DataFrame(judged(rows))


def _line(values: xr.DataArray, scaled: Scaled, axis: str) -> tuple[list[int], np.ndarray]:
    """Sizes along an axis and the values there, (sizes, seeds)."""
    sizes = scaled.line(axis)
    return [size[axis] for size in sizes], np.stack([values.sel(size).values for size in sizes])


def expectation(role: Role, quantity: str, axis: str, rule: Rule) -> float:
    """The exponent with which a network trains alike at every size."""
    if quantity != "own_update":
        return 0.0
    if axis == "depth" and role is Role.BRANCH_LAST:
        return -1.0 - (rule.depth.branch + rule.depth.init_last)
    if axis == "width" and role is Role.OUTPUT:
        start = rule.factors(Role.OUTPUT, "sgd", width=2.0)
        return 0.0 - (np.log2(start.init_std * start.multiplier) + 0.5)
    return 0.0


def _unseen(data: xr.Dataset) -> Iterator[str]:
    by = "role" if "role" in data.dims else "tensor"
    blind = data["own_update"].isnull().all([dim for dim in data.dims if dim != by])
    if bool(blind.any()):
        yield f"own updates that no module shows: {', '.join(map(str, data[by].values[blind.values]))}"
    if bool(data["stream_update"].isnull().all()):
        yield "no submodule is given or returns the residual stream: its updates were not measured"


def _mute(exponents: pd.DataFrame) -> Iterator[str]:
    """Roles (or tensors) that do nothing at all, and so cannot be judged."""
    by = "tensor" if "tensor" in exponents else "role"
    silent = exponents["exponent"].isnull().groupby(exponents[by], sort=False).all()
    if bool(silent.any()):
        yield (
            f"nothing to judge, as the step does nothing that is seen: {', '.join(silent.index[silent])}. "
            "A readout that starts at zero sends no gradient back: give it its mean-field size for the audit"
        )
