"""Many models of one shape trained as one batched program.

The members of a shard differ in learning rate and seed only. Their parameters are stacked, a tensor a
layer, and one forward and backward pass trains them all. Members never mix: each member's loss depends
on its own parameters alone, so a NaN stays where it arose.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float, Int, Shaped
from torch import Tensor, nn
from torch.nn.modules.conv import _ConvNd

from isoscale.data import Dataset
from isoscale.errors import InvalidValueError
from isoscale.graph.multiplier import Multiplier
from isoscale.models import Model
from isoscale.parametrization.plan import Plan
from isoscale.training.config import Member, TrialConfig, as_taken, batch_order
from isoscale.training.hopeless import Mark, window
from isoscale.training.loop import Loop
from isoscale.training.memory import data_fit, in_parts, members_that_fit
from isoscale.training.precision import autocast
from isoscale.training.steppers import Stepper, added, clipped, stepper

# A stack of narrow models pays by sparing overhead, a stack of wide ones only by filling the caches;
# these sizes measured fastest (benchmarks/ensemble.py).
_UNITS_PER_STACK = 1024
_SMALLEST_STACK = 4

# Of models with many positions (pixels, tokens) a stack pays only while an activation stays in the cache;
# larger ones train one at a time (benchmarks/conv_ensemble.py).
_NUMBERS_PER_STACK = 2**19
_NUMBERS_THAT_STACK = 2**17

# Divergence is looked for every so many steps: each look waits for the device.
_LOOK_EVERY = 10

# A stack of one is a plain model, whose sums may be taken in another order: members that go on keep company.
_LEAST_STACK = 2

_EVAL_POSITIONS = 2**16
_EVAL_SAMPLES = 1024

Progress = Callable[[int], None]


@dataclass(frozen=True)
class Outcome:
    """What a shard's members did, in the order in which they were given.

    Attributes:
        curve: Training loss on each step's batch before the step, (members, steps); NaN from the
            first loss that was not finite, and from where a member was stopped.
        diverged_at: Step of that first loss, (members,); `steps` if only the test loss was not
            finite; -1 for a member that stayed finite.
        stopped_at: After how many steps a hopeless member was stopped, (members,); -1 for all others.
        test_loss, test_accuracy, metric: On the held-out set after training, (members,); NaN if diverged or stopped,
            the metric also without one.
    """

    curve: Float[np.ndarray, "members steps"]
    diverged_at: Int[np.ndarray, " members"]
    stopped_at: Int[np.ndarray, " members"]
    test_loss: Float[np.ndarray, " members"]
    test_accuracy: Float[np.ndarray, " members"]
    metric: Float[np.ndarray, " members"]


Metric = Callable[[Tensor, Tensor], float]
"""Of a member's outputs and the targets, one number."""


def train(
    config: TrialConfig,
    members: Sequence[Member],
    data: Dataset,
    *,
    plan: Plan | None = None,
    metric: Metric | None = None,
    device: torch.device | str = "cpu",
    progress: Progress | None = None,
    marks: Sequence[Mark] = (),
) -> Outcome:
    """Train every member and record its losses; divergence is recorded, never raised.

    Args:
        config: What the members share.
        members: Learning rate and seed of each. A stack of them that does not fit the memory is halved.
        data: Of the kind that the model takes; images are flattened for one that takes vectors.
        plan: `config.plan(...)` at learning rate 1, if it was made already.
        metric: What else is measured on the held-out samples.
        device: Where to train.
        progress: Called with the number of member-steps finished since its last call.
        marks: Where hopeless members are stopped, in ascending order; the others' losses do not depend on it.

    Raises:
        InvalidValueError: A batch larger than the data, data of another kind than the model takes, or a model
            that refuses its options.
        PlanError: The rule cannot be applied to the model.
    """
    data = as_taken(config.model, data)
    plan = config.plan(data.in_shape, data.classes) if plan is None else plan
    # Neighbours in learning rate diverge together, and a stack stops once all of it has diverged.
    order = sorted(range(len(members)), key=lambda i: members[i])
    seeds = {seed: _Seed(config, plan, data, seed, device) for seed in {member.seed for member in members}}

    def run(chunk: Sequence[int]) -> Outcome:
        replicas = []
        for i in chunk:
            start = seeds[members[i].seed]
            replicas.append(Replica(start.model, start.plan, start.order, members[i].lr))
        return train_stack(replicas, data, device, progress, config.loop, metric, marks)

    chunks = _chunks(order, members_at_once(config, data, device))
    outcomes = [part for chunk in chunks for part in in_parts(run, chunk)]
    joined = [np.concatenate(parts) for parts in zip(*map(_fields, outcomes), strict=True)]
    back = np.argsort(order)
    return Outcome(*(array[back] for array in joined))


def members_at_once(config: TrialConfig, data: Dataset, device: torch.device | str = "cpu") -> int:
    """How many members train fastest as one stack: on a GPU, which a large stack fills, all that its memory holds."""
    model = config.on_meta(data.in_shape, data.classes)
    if torch.device(device).type == "cuda":
        matrices = sum(param.dim() > 1 for param in model.parameters())
        units = config.width * model.positions * model.expansion
        return members_that_fit(model, units, matrices, config.batch_size, device)
    return stack_size(config.width, config.batch_size, model.positions, model.expansion)


def stack_size(width: int, batch_size: int, positions: int, expansion: int = 1) -> int:
    """How many members of a size train fastest as one stack on a CPU; the last two are a `Model`'s."""
    if positions == 1:
        return max(_SMALLEST_STACK, _UNITS_PER_STACK // width)
    numbers = batch_size * width * positions * expansion
    return 1 if numbers > _NUMBERS_THAT_STACK else _NUMBERS_PER_STACK // numbers


class Replica(NamedTuple):
    """One network of an ensemble.

    Attributes:
        model: With its initial weights.
        plan: Its numbers. Replicas that train as one stack have plans of one shape, and share what steps each tensor,
            momentum and betas; learning rates, decays and eps may differ.
        order: Which samples each batch has, (steps, batch); of several batches a step, one step's after another's.
        lr: What the plan's learning rates are multiplied by.
    """

    model: Model
    plan: Plan
    order: Int[Tensor, "steps batch"]
    lr: float


class _Seed:
    """What every member of a seed starts from: initial model, its plan, and the order of the samples."""

    def __init__(self, config: TrialConfig, plan: Plan, data: Dataset, seed: int, device: torch.device | str) -> None:
        model, self.plan = config.build(data.in_shape, data.classes, seed, plan)
        self.model = model.to(device)
        batches = config.steps * config.loop.accumulate
        self.order = batch_order(len(data.train_x), config.batch_size, batches, seed).to(device)


def train_stack(
    replicas: Sequence[Replica],
    data: Dataset,
    device: torch.device | str = "cpu",
    progress: Progress | None = None,
    loop: Loop | None = None,
    metric: Metric | None = None,
    marks: Sequence[Mark] = (),
) -> Outcome:
    """Train replicas of one shape as one batched program.

    Those that diverged or are stopped leave the stack, where the others' sums do not depend on how many there are.

    Args:
        replicas: The networks; they stay as they are, copies are trained.
        data: What they train on and are evaluated on.
        device: Where to train.
        progress: Called with the number of member-steps finished since its last call.
        loop: What is done beside the optimizers' steps; by default nothing.
        metric, marks: As for `train`.
    """
    loop = loop or Loop()
    least = dict(marks)
    orders = {id(replica.order): replica.order for replica in replicas}
    places = {key: place for place, key in enumerate(orders)}
    of_order = torch.tensor([places[id(replica.order)] for replica in replicas], device=device)
    order = torch.stack(list(orders.values()), dim=1)  # (steps, different orders, batch)
    model = stack([replica.model for replica in replicas])
    params = list(model.parameters())
    steppers = _steppers(model, replicas)
    # Labels are far smaller than samples, and both must lie in one place to be picked by one index.
    # Data that do not fit beside the models stay where they are, and their batches travel.
    x = data.train_x.to(device) if data_fit(data.train_x, device) else data.train_x
    y = data.train_y.to(x.device)
    steps = len(order) // loop.accumulate
    count = len(replicas)
    curve = torch.full((steps, count), torch.nan, device=device)
    stopped_at = torch.full((count,), -1, device=device)
    # Which replicas the stack still holds.
    rows = torch.arange(count, device=device)
    may_leave = _may_leave(model)
    for step in range(steps):
        if loop.has_schedule:
            for one in steppers:
                one.scale_lr(loop.lr_factor(step, steps))
        grads: list[Tensor | None] = []
        total = torch.zeros(len(rows), device=device)
        for row in range(step * loop.accumulate, (step + 1) * loop.accumulate):
            batch = order[row][of_order]  # (members, batch)
            at = batch.to(x.device)
            with autocast(loop, device):
                losses = _losses(model, x[at].to(device), y[at].to(device))
            if loop.accumulate > 1:
                losses = losses / loop.accumulate
            total += losses.detach()
            # The sum's gradient is each member's own: no member's parameters enter another's loss.
            grads = added(grads, torch.autograd.grad(losses.sum(), params))
        curve[step, rows] = total
        if loop.clip is not None:
            grads = clipped(grads, loop.clip, len(rows))
        for one, grad in zip(steppers, grads, strict=True):
            assert grad is not None  # every parameter of isoscale's own networks takes part
            one.step(grad)
        done = step + 1
        if done in least:
            come = curve[0].double() - curve[done - window(done) : done].double().mean(0)
            # Of one that diverged, that is NaN and no less than anything.
            is_hopeless = (come < least[done]) & (stopped_at < 0)
            stopped_at[is_hopeless] = done
        is_looked = done % _LOOK_EVERY == 0
        if is_looked and progress:
            progress(_LOOK_EVERY * count)
        if is_looked or done in least:
            goes_on = curve[step, rows].isfinite() & (stopped_at[rows] < 0)
            if not goes_on.any():
                break
            if may_leave and done < steps and not goes_on.all():
                kept = _company(goes_on)
                if len(kept) < len(rows):
                    rows, of_order = rows[kept], of_order[kept]
                    params = _keep(model, steppers, kept)
    with autocast(loop, device):
        return _outcome(model, curve, stopped_at, rows, data, device, metric)


def _may_leave(model: Model) -> bool:
    """Whether the members' sums do not depend on how many there are: those of a grouped convolution do."""
    return not any(isinstance(module, _ConvNd) for module in model.modules())


def _company(goes_on: Shaped[Tensor, " members"]) -> Int[Tensor, " kept"]:
    """Places of the members that go on, and of others where these would be too few for a stack."""
    # Those that go on first, each kind in its order.
    order = torch.argsort((~goes_on).int(), stable=True)
    count = max(int(goes_on.sum()), min(_LEAST_STACK, len(goes_on)))
    return order[:count].sort().values


def _keep(model: Model, steppers: Sequence[Stepper], kept: Int[Tensor, " kept"]) -> list[nn.Parameter]:
    """Leave those members in a stack and in its steppers; its new parameters."""
    for name, param in dict(model.named_parameters()).items():
        owner, _, leaf = name.rpartition(".")
        setattr(model.get_submodule(owner), leaf, nn.Parameter(param.detach()[kept]))
    for name, buffer in dict(model.named_buffers()).items():
        owner, _, leaf = name.rpartition(".")
        setattr(model.get_submodule(owner), leaf, buffer[kept])
    params = list(model.parameters())
    for one, param in zip(steppers, params, strict=True):
        one.keep(kept, param.detach())
    return params


def _steppers(model: Model, replicas: Sequence[Replica]) -> list[Stepper]:
    """One for each parameter, from what the replicas' plans say of it."""
    planned = [{entry.name: entry for entry in replica.plan.entries} for replica in replicas]
    lrs = [replica.lr for replica in replicas]
    adjust_lr_fn = replicas[0].plan.settings.adjust_lr_fn
    return [
        stepper(param.detach(), [entries[name] for entries in planned], lrs, adjust_lr_fn)
        for name, param in model.named_parameters()
    ]


def stack(models: Sequence[Model]) -> Model:
    """One module with the models' parameters and buffers stacked along a new first axis; one is copied as it is."""
    stacked = copy.deepcopy(models[0])
    if len(models) == 1:
        return stacked
    for name in dict(stacked.named_parameters()):
        owner, _, leaf = name.rpartition(".")
        tensors = torch.stack([model.get_parameter(name).detach() for model in models])
        setattr(stacked.get_submodule(owner), leaf, nn.Parameter(tensors))
    for name, module in stacked.named_modules():
        if isinstance(module, Multiplier):
            factors = {str(model.get_submodule(name).factor) for model in models}
            if len(factors) > 1:
                raise InvalidValueError(f"`{name}` multiplies by {', '.join(sorted(factors))}: a stack has one factor")
    for name in dict(stacked.named_buffers()):
        owner, _, leaf = name.rpartition(".")
        setattr(stacked.get_submodule(owner), leaf, torch.stack([model.get_buffer(name) for model in models]))
    return stacked


def _losses(
    model: Model, x: Shaped[Tensor, "members batch *shape"], y: Int[Tensor, "members batch *places"]
) -> Float[Tensor, " members"]:
    losses = F.cross_entropy(_logits(model, x), y.reshape(-1), reduction="none")
    return losses.view(len(y), -1).mean(1)


def _logits(model: Model, x: Shaped[Tensor, "members batch *shape"]) -> Float[Tensor, "rows classes"]:
    """Outputs of all members, one after the other; a single member is a plain model without the axis."""
    return model(x[0] if len(x) == 1 else x).flatten(0, -2)


def _outcome(
    model: Model,
    curve: Float[Tensor, "steps members"],
    stopped_at: Int[Tensor, " members"],
    rows: Int[Tensor, " kept"],
    data: Dataset,
    device: torch.device | str,
    metric: Metric | None,
) -> Outcome:
    """What became of all members, of which the model still holds some."""
    steps, count = curve.shape
    is_stopped = stopped_at >= 0
    # A stopped member may have trained on in company.
    is_after = is_stopped & (torch.arange(steps, device=curve.device)[:, None] >= stopped_at)
    finite = (curve.isfinite() & ~is_after).int().cummin(0).values.bool()
    test_loss, test_accuracy = torch.full((2, count), torch.nan, device=curve.device)
    measured = torch.full((count,), torch.nan, dtype=torch.float64, device=curve.device)
    test_loss[rows], test_accuracy[rows], measured[rows] = _evaluate(model, data, len(rows), device, metric)
    survived = finite[-1] & test_loss.isfinite()
    if metric is not None:
        survived = survived & measured.isfinite()
    diverged = ~survived & ~is_stopped
    return Outcome(
        curve=curve.where(finite, torch.nan).T.cpu().numpy(),
        diverged_at=finite.sum(0).where(diverged, -1).cpu().numpy(),
        stopped_at=stopped_at.cpu().numpy(),
        test_loss=test_loss.where(survived, torch.nan).cpu().numpy(),
        test_accuracy=test_accuracy.where(survived, torch.nan).cpu().numpy(),
        metric=measured.where(survived, torch.nan).cpu().numpy(),
    )


@torch.no_grad()
def _evaluate(
    model: Model, data: Dataset, members: int, device: torch.device | str, metric: Metric | None
) -> tuple[Float[Tensor, " members"], Float[Tensor, " members"], Float[Tensor, " members"]]:
    """Test loss, share of right answers, and the metric's mean over batches by their samples (NaN without one)."""
    model.eval()
    loss = torch.zeros(members, device=device)
    correct = torch.zeros(members, device=device)
    measured = torch.zeros(members, dtype=torch.float64, device=device)
    samples = min(_EVAL_SAMPLES, max(1, _EVAL_POSITIONS // model.positions))
    for x, y in zip(data.test_x.split(samples), data.test_y.split(samples), strict=True):
        x, y = x.to(device).expand(members, *x.shape), y.to(device)
        logits = _logits(model, x)
        targets = y.flatten().repeat(members)
        loss += F.cross_entropy(logits, targets, reduction="none").view(members, -1).sum(1)
        correct += (logits.argmax(1) == targets).view(members, -1).sum(1)
        if metric is not None:
            # One member at a time: a metric may be any code, and the forward pass is what takes long.
            of_members = logits.unflatten(0, (members, *y.shape))
            values = [metric(output, y) for output in of_members]
            measured += len(y) * torch.tensor(values, dtype=torch.float64, device=device)
    measured = measured / len(data.test_y) if metric is not None else measured.fill_(torch.nan)
    return loss / data.test_y.numel(), correct / data.test_y.numel(), measured


def _fields(outcome: Outcome) -> tuple[np.ndarray, ...]:
    arrays = (outcome.curve, outcome.diverged_at, outcome.stopped_at, outcome.test_loss, outcome.test_accuracy)
    return (*arrays, outcome.metric)


def _chunks(items: Sequence[int], size: int) -> list[Sequence[int]]:
    return [items[start : start + size] for start in range(0, len(items), size)]
