"""One network of an audit: the first step of its optimizer, followed to first order."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from torch import Tensor, nn
from torch.utils._pytree import tree_map

from isoscale.measure.steps import optimizer_step
from isoscale.measure.tools.direct_update import direct_updates
from isoscale.measure.tools.experiment import Experiment, Size
from isoscale.measure.tools.hook_points import HookPoints
from isoscale.measure.tools.jvp import Jvp, forward_jvp
from isoscale.measure.tools.noise import normed_stream
from isoscale.measure.tools.passes import loss_gradient, mean_square
from isoscale.parametrization import Plan
from isoscale.scaling.roles import Role
from isoscale.scaling.tensor import TensorPlan

QUANTITIES = ("own_update", "branch_update", "stream_update", "output_update")

By = Literal["role", "tensor"]
Effects = dict[str, dict[str, float]]
"""quantity -> label -> root mean square."""


@dataclass(frozen=True)
class Stepped:
    """One network's effects and how the changes were computed.

    Attributes:
        effects: What the step does.
        roles: Of each label.
        stream: See `normed_stream`.
        carried: The labels of which every tensor carries its branch's multiplier, or stands before a norm that does.
        method: A remark on how the changes were computed; empty if there is none.
    """

    effects: Effects
    roles: dict[str, Role]
    carried: set[str]
    stream: float
    method: str


def stepped(experiment: Experiment, by: By, seed: int, size: Size) -> Stepped:
    """The effects of the first step on the network of a size and seed."""
    model, plan = experiment.scaled(seed, **size)
    groups = _groups(plan, by)
    roles = {label: entries[0].role for label, entries in groups.items()}
    carried = {label for label, entries in groups.items() if all(_ends_branch(entry) for entry in entries)}
    batch = experiment.batches[0]
    with output_from_zero(model):
        _, grads = loss_gradient(model, experiment.loss_fn, batch, seed)
    # A forward pass that overflows has no step to follow: its effects are beyond all numbers.
    for grad in grads.values():
        if not grad.isfinite().all():
            overflow = {quantity: dict.fromkeys(groups, math.inf) for quantity in QUANTITIES}
            return Stepped(overflow, roles, carried, math.nan, "")

    steps = step_of_plan(plan, grads)
    points = experiment.hook_points(model, size)
    stream = normed_stream(model, experiment.inputs, points, seed)
    vectors = {entry.name for entry in plan.entries if not entry.role.decays}
    direct = direct_updates(model, experiment.inputs, steps, vectors, seed)
    effects: Effects = {quantity: {} for quantity in QUANTITIES}
    method = ""
    # One Jacobian-vector product a group: the group's tensors move together, all others stay.
    for label, entries in groups.items():
        of_entries = [_direct(entry, direct, plan) for entry in entries]
        effects["own_update"][label] = _root_mean_square(of_entries)
        tangents = {entry.name: steps[entry.name] for entry in entries}
        pushed = _hooked_jvp(model, experiment.inputs, tangents, points, seed)
        if pushed.why and not method:
            method = f"changes by {pushed.method}, because {pushed.why}"
        for quantity, value in _propagated(pushed.outputs, points).items():
            effects[quantity][label] = value
    return Stepped(effects, roles, carried, stream, method)


@contextlib.contextmanager
def output_from_zero(model: nn.Module) -> Iterator[None]:
    """The gradient of the loss at output 0, where a wide network starts: the output's own start, a random number
    that shrinks with the width, would make the errors of small networks larger than those of large ones."""

    def centre(value: Any) -> Any:
        # 0 in value, and with the derivative of `value`.
        if isinstance(value, Tensor) and value.is_floating_point():
            return value - value.detach()
        return value

    handle = model.register_forward_hook(lambda module, inputs, output: tree_map(centre, output))
    try:
        yield
    finally:
        handle.remove()


def step_of_plan(plan: Plan, grads: dict[str, Tensor]) -> dict[str, Tensor]:
    """The first step of the plan's optimizer: each tensor's direction times its learning rate."""
    steps: dict[str, Tensor] = {}
    # Tensor by tensor: each has an eps and, under Muon, a family of its own.
    for entry in plan.entries:
        if entry.name in grads:
            gradient = {entry.name: grads[entry.name]}
            direction = optimizer_step(gradient, entry.optimizer, eps=entry.eps or 0.0)
            steps[entry.name] = direction[entry.name] * entry.lr
    return steps


def _ends_branch(entry: TensorPlan) -> bool:
    """Whether a tensor's updates are handed to the stream as they are: one of L that add up."""
    return entry.role is Role.BRANCH_LAST or entry.carries


def _direct(entry: TensorPlan, direct: dict[str, float], plan: Plan) -> float:
    """A norm scale at a branch's end is measured against the branch's multiplier, which was folded into it."""
    # The norm scale is c g where the branch starts at size c: its own change is that of g.
    if entry.carries and not entry.role.decays:
        return direct[entry.name] / plan.scaling.multiplier_of_branches()
    return direct[entry.name]


def _hooked_jvp(
    model: nn.Module,
    inputs: tuple[Any, ...],
    tangents: dict[str, Tensor],
    points: HookPoints,
    seed: int,
) -> Jvp[float]:
    """The root mean square of the change of the output, of the stream's end and of each pre-activation."""
    # "" is the network itself, whose output is the last that is seen.
    hooked = [""]
    if points.stream:
        hooked.append(points.stream)
    hooked += points.branch

    def rms(output: Tensor, change: Tensor) -> float:
        return float(mean_square(change).sqrt())

    return forward_jvp(
        model,
        inputs,
        tangents,
        modules=dict.fromkeys(hooked),
        keep=rms,
        seed=seed,
    )


def _propagated(changes: dict[str, float], points: HookPoints) -> dict[str, float]:
    """Effects of a step on pre-activations in branches, the stream's end and the output."""
    branch: list[float] = []
    stream: list[float] = []
    output: list[float] = []
    for name, value in changes.items():
        if name.partition("@")[0] in points.branch:
            branch.append(value)
        # Of a tuple or dict, the first tensor is the stream or the output.
        whole = name.partition("[")[0]
        if whole == points.stream:
            stream.append(value)
        if whole == "":
            output.append(value)
    return {
        "branch_update": _root_mean_square(branch),
        "stream_update": stream[0] if stream else math.nan,
        "output_update": output[0],
    }


def _root_mean_square(values: Sequence[float]) -> float:
    """Of the values that are known."""
    known = [value for value in values if not math.isnan(value)]
    if not known:
        return math.nan
    return float(np.sqrt(np.mean(np.square(known))))


def _groups(plan: Plan, by: By) -> dict[str, list[TensorPlan]]:
    """The trained tensors that are stepped together, by label."""
    groups: dict[str, list[TensorPlan]] = {}
    for entry in plan.entries:
        if not entry.frozen:
            label = str(entry.role) if by == "role" else entry.kind
            groups.setdefault(label, []).append(entry)
    return groups
