"""What runs together of isoscale's own networks: the trials of one rule and size, which share every shape.

A shard is the unit of scheduling, retry and resume.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from isoscale.parametrization.plan import Plan
from isoscale.runs.keys import Keys, Metric, Source, digest, identity
from isoscale.runs.record import TrialRecord
from isoscale.runs.spec import Sweep
from isoscale.training import Member, Optimizer, TrialConfig
from isoscale.training.hopeless import Mark


@dataclass(frozen=True)
class Shard:
    """Trials that train as one batched program.

    Attributes:
        config: What they share.
        members: Learning rate and seed of each.
        source: Their data.
        metric: What they are judged by instead of the loss.
        plan: What the rule makes of the network, at base learning rate 1. It follows from the rest, so it is no part
            of what the shard is.
        marks: Where hopeless trials are stopped; empty if none is. No part of what a trial is either.
    """

    config: TrialConfig
    members: tuple[Member, ...]
    source: Source
    plan: Plan = field(compare=False, repr=False)
    metric: Metric | None = None
    marks: tuple[Mark, ...] = field(default=(), compare=False)

    @property
    def id(self) -> str:
        """Hash of what the members share: two sweeps that overlap here share the lease."""
        return self._keys.shared

    @functools.cached_property
    def keys(self) -> tuple[str, ...]:
        """Of the members, in their order."""
        return tuple(self._keys.of(member.lr, member.seed) for member in self.members)

    def settings(self, member: Member) -> dict[str, Any]:
        """Everything that determines one trial, as plain values."""
        return self._identity | {"lr": member.lr, "seed": member.seed}

    def only(self, keys: set[str]) -> Shard:
        """The shard with the members whose keys are in `keys`."""
        members = tuple(member for member, key in zip(self.members, self.keys, strict=True) if key in keys)
        return dataclasses.replace(self, members=members)

    @property
    def rule(self) -> str:
        """Name of the rule."""
        return self.config.rule

    @functools.cached_property
    def twin(self) -> str | None:
        """What it shares with the shards of other rules at the base's own size, where no rule changes anything."""
        config = self.config
        if (config.width, config.depth) != (config.base_width, config.base_depth):
            return None
        return digest({name: value for name, value in self._identity.items() if name != "rule"})

    @property
    def label(self) -> str:
        """Which trials, for a person."""
        return f"{self.config.rule}, width {self.config.width}, depth {self.config.depth}"

    @property
    def note(self) -> str:
        """Exactly which data it trains on."""
        return self.source.note

    @property
    def cost(self) -> float:
        """Proportional to the arithmetic of the hidden maps."""
        return self.member_steps * self.config.depth * self.config.width**2

    @property
    def hard_limit(self) -> float | None:
        """isoscale's own networks come to an end."""
        return None

    def run(self, device: str, progress: Callable[[int], None] | None = None) -> list[TrialRecord]:
        """Train them (`trainers.ensemble.run`)."""
        from isoscale.runs.trainers import ensemble

        return ensemble.run(self, device, progress)

    @property
    def member_steps(self) -> int:
        """Steps of all members together."""
        return len(self.members) * self.config.steps

    @functools.cached_property
    def _identity(self) -> dict[str, Any]:
        return identity(self.config, self.source, self.metric)

    @functools.cached_property
    def _keys(self) -> Keys:
        return Keys(self._identity)


def make(spec: Sweep, source: Source, metric: Metric | None = None) -> list[Shard]:
    """The shards of a sweep, in the order of its axes.

    Raises:
        PlanError: A rule cannot be applied to the model at one of the sizes.
    """
    found = []
    for cell, lrs in spec.groups:
        members = tuple(Member(lr, seed) for lr in lrs for seed in _tuple(spec.seeds))
        config = config_of(spec, **cell)
        plan = config.plan(source.in_shape, source.classes)
        found.append(Shard(config, members, source, plan, metric))
    return found


def config_of(
    spec: Sweep,
    rule: str,
    width: int,
    depth: int,
    **others: Any,
) -> TrialConfig:
    """Everything about the trials of a spec at one rule and size but their learning rates and seeds.

    Args:
        spec, rule, width, depth: Which.
        **others: Values on the other axes: batch_size, steps, weight_decay, momentum, eps, beta1, beta2.
    """
    assert spec.base_width is not None
    assert spec.base_depth is not None
    beta1, beta2 = spec.betas
    spent = spec.spending({"width": width, "depth": depth, **others})
    optimizer = Optimizer(
        family=spec.optimizer,  # pyrefly: ignore[bad-argument-type]  checked by the spec
        momentum=others.get("momentum", spec.momentum),
        betas=(float(others.get("beta1", beta1)), float(others.get("beta2", beta2))),
        eps=float(others.get("eps", spec.eps)),
        weight_decay=float(others.get("weight_decay", spec.weight_decay)),
    )
    return TrialConfig(
        model=spec.model,
        model_args=spec.model_args,
        width=width,
        depth=depth,
        base_width=spec.base_width,
        base_depth=spec.base_depth,
        rule=rule,
        optimizer=optimizer,
        steps=spent.steps,
        batch_size=spent.batch_size,
        budget=spec.spent(spent.batch_size, spent.steps),
        loop=spec.loop,
    )


def _tuple(value: Any) -> tuple[Any, ...]:
    assert isinstance(value, tuple)  # Sweep normalises its grids
    return value
