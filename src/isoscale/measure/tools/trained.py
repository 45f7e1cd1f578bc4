"""One network of a coordinate check: trained for a few real steps, with a look at every module's output after them."""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from isoscale import checks
from isoscale.errors import InvalidValueError
from isoscale.measure.tools.experiment import Experiment, Size
from isoscale.measure.tools.noise import normed_stream
from isoscale.measure.tools.observe import INPUT, module_of, observe
from isoscale.measure.tools.passes import call, mean_square, parameters, seeded, widest
from isoscale.measure.tools.softmax import SoftmaxInputs
from isoscale.parametrization import Plan
from isoscale.scaling.names import starred
from isoscale.scaling.optimizers import FAMILIES
from isoscale.scaling.roles import Role
from isoscale.scaling.tensor import TensorPlan

_OUTPUT = "output"
SOFTMAX = "softmax"
"""The label of what softmaxes are given: attention logits, and those of routers."""


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


@dataclass
class Trained:
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


def trained(experiment: Experiment, looks: Looks, seed: int, size: Size) -> Trained:
    """Train the network of a size and seed, and look at what its modules return."""
    model, plan = experiment.scaled(seed, **size)
    decay = _decay(experiment, model, plan)
    steppers = experiment.optimizers_of_plan(plan)
    labels = _labels(model, experiment, size, plan)
    first = _outputs(model, labels, experiment.inputs, seed)
    run = Trained(
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
