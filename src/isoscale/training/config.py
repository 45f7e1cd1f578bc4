"""What the members of an ensemble share: model, size, rule, optimizer, data order; and what they do not."""

from __future__ import annotations

import functools
import hashlib
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import torch
from jaxtyping import Int
from torch import Tensor

from isoscale import models
from isoscale.checks import check_memory
from isoscale.data import Dataset
from isoscale.errors import InvalidValueError
from isoscale.models import Model
from isoscale.parametrization.make_plan import Reading, check_budget, make, read
from isoscale.parametrization.plan import Plan
from isoscale.parametrization.sizes import describe
from isoscale.scaling import rules
from isoscale.scaling.budget import NO_BUDGET, Budget
from isoscale.training.loop import Loop
from isoscale.training.optimizer import Optimizer

# A base's init is measured on one draw; which one makes no difference to the laws that are found.
_BASE_SEED = 0


class Member(NamedTuple):
    """One trial of a shard."""

    lr: float
    seed: int


@dataclass(frozen=True, kw_only=True)
class TrialConfig:
    """Everything about a trial but its learning rate and seed.

    Attributes:
        model, model_args: A name of `isoscale.models.names()` and its own options.
        width, depth: Size to train at.
        base_width, base_depth: Size at which the rule changes nothing.
        rule: A name of `isoscale.rules.names()`.
        optimizer: Optimizer and base hyperparameters.
        steps, batch_size: Length of a run; batches are drawn epoch by epoch without replacement.
        budget: How far these are from the base's, and the rule that the settings follow them by.
        loop: Schedule, warmup, clipping and accumulation.
    """

    model: str = "residual-mlp"
    model_args: Mapping[str, Any] = field(default_factory=dict)
    width: int
    depth: int
    base_width: int
    base_depth: int
    rule: str
    optimizer: Optimizer
    steps: int
    batch_size: int
    loop: Loop = field(default_factory=Loop)
    budget: Budget = NO_BUDGET

    def plan(self, in_shape: int | Sequence[int], out_features: int, lr: float = 1.0) -> Plan:
        """What `isoscale.parametrize` makes of the model at its size, given the model at the base's size.

        Args:
            in_shape: Shape of one sample, or its number of features.
            out_features: Number of outputs.
            lr: The base's learning rate. All learning rates of the plan are proportional to it.

        Raises:
            PlanError: The rule cannot be applied to this model; the message says what to do.
        """
        reading = self._reading(in_shape, out_features)
        settings = self.optimizer.settings(lr)
        check_budget(self.budget, settings)
        return make(reading, rules.get(self.rule), settings, self.budget)

    def _reading(self, in_shape: int | Sequence[int], out_features: int) -> Reading:
        options = tuple(sorted(self.model_args.items()))
        sizes = (self.width, self.depth, self.base_width, self.base_depth)
        return _read(self.model, options, *sizes, _shape(in_shape), out_features)

    def has_branches(self, in_shape: int | Sequence[int], out_features: int) -> bool:
        """Whether the model has residual branches, on which the depth rules act."""
        return any(facts.role.in_branch for facts in self._reading(in_shape, out_features).facts)

    def build(
        self, in_shape: int | Sequence[int], out_features: int, seed: int, plan: Plan | None = None
    ) -> tuple[Model, Plan]:
        """The model at its own size with the plan's initial weights, and the plan bound to it."""
        plan = self.plan(in_shape, out_features) if plan is None else plan
        model = _build(self.model, self.model_args, _shape(in_shape), out_features, self.width, self.depth, seed=seed)
        return model, plan.apply(model)

    def on_meta(self, in_shape: int | Sequence[int], out_features: int) -> Model:
        """The model on the meta device: its sizes are known and nothing is computed."""
        shape = _shape(in_shape)
        return _build(self.model, self.model_args, shape, out_features, self.width, self.depth, device="meta")


# The name that `TrialConfig` had first.
Recipe = TrialConfig


def _shape(in_shape: int | Sequence[int]) -> tuple[int, ...]:
    return (in_shape,) if isinstance(in_shape, int) else tuple(in_shape)


def _build(
    model: str,
    options: Mapping[str, Any],
    in_shape: tuple[int, ...],
    out_features: int,
    width: int,
    depth: int,
    **place: Any,
) -> Model:
    return models.build(model, options, in_shape=in_shape, out_features=out_features, width=width, depth=depth, **place)


# A sweep asks for each of its sizes once a rule: what a model is does not depend on the rule.
@functools.lru_cache(maxsize=64)
def _read(
    model: str,
    options: tuple[tuple[str, Any], ...],
    width: int,
    depth: int,
    base_width: int,
    base_depth: int,
    in_shape: tuple[int, ...],
    out_features: int,
) -> Reading:
    """The model on the meta device, read against its base."""
    base = _describe(model, options, base_width, base_depth, in_shape, out_features)
    target = _build(model, dict(options), in_shape, out_features, width, depth, device="meta")
    return read(target, base, target.example_inputs)


@functools.lru_cache(maxsize=16)
def _describe(
    model: str,
    options: tuple[tuple[str, Any], ...],
    width: int,
    depth: int,
    in_shape: tuple[int, ...],
    out_features: int,
) -> Any:
    """The base, with numbers: a plan measures the law of the model's own init on them."""
    counted = _build(model, dict(options), in_shape, out_features, width, depth, device="meta")
    # The weights, and what reading the law of the largest of them takes on top.
    needed = 2 * sum(parameter.nbytes for parameter in counted.parameters())
    check_memory(needed, f"The base has width {width:,} and depth {depth:,}: take a smaller one.")
    base = _build(model, dict(options), in_shape, out_features, width, depth, seed=_BASE_SEED)
    return describe(base, base.example_inputs)


def as_taken(model: str, data: Dataset) -> Dataset:
    """The data as the model takes it: flattened for one that takes vectors, else as it is.

    Raises:
        InvalidValueError: A model of tokens and data that is none, or the other way round.
    """
    wanted = models.takes(model)
    if (wanted == "tokens") != (data.kind == "tokens"):
        raise InvalidValueError(f"model {model} takes {wanted}, data set {data.name} has {data.kind}")
    return data.flatten() if wanted == "features" else data


def batch_order(samples: int, batch_size: int, steps: int, seed: int) -> Int[Tensor, "steps batch_size"]:
    """Which samples each step sees: epochs of permutations, the odd rest of an epoch dropped.

    The order depends on the seed alone, so every model of a seed sees the same batches.

    Raises:
        InvalidValueError: A batch larger than the data.
    """
    if batch_size > samples:
        raise InvalidValueError(f"`batch_size` must be at most the {samples} training samples, got {batch_size}")
    generator = _generator(seed, "data")
    per_epoch = samples // batch_size
    epochs = []
    for _ in range(math.ceil(steps / per_epoch)):
        permutation = torch.randperm(samples, generator=generator)
        epochs.append(permutation[: per_epoch * batch_size].view(per_epoch, batch_size))
    return torch.cat(epochs)[:steps]


def _generator(seed: int, purpose: str) -> torch.Generator:
    """A stream of its own for each purpose: equal seeds must not mean equal draws for init and data."""
    digest = hashlib.sha256(f"{purpose}:{seed}".encode()).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest[:8], "big") >> 1)
