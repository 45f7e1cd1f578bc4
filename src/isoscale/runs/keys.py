"""What determines a trial, in canonical form, and the key under which a store keeps it.

This is the one place that says what is hashed. Each name is written out here, so that renaming a field of a class
changes no key; and every default is said, so that a default spelled out is the same trial.
"""

from __future__ import annotations

import functools
import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from isoscale import models
from isoscale.runs.trainers.code import Code
from isoscale.scaling.budget import NO_BUDGET
from isoscale.training import Loop, TrialConfig

# Part of every trial's key: raise it when a change makes the same trial give other numbers.
# 2: rules are applied through plans; weight decay, norms that end a branch and Muon's convolutions changed.
NUMERICS = 2

_KEY_DIGITS = 32


@dataclass(frozen=True)
class Source:
    """Where a worker reads the data of a shard.

    Attributes:
        name, folder, args: As for `isoscale.data.load`.
        fingerprint, note: What was there at the start.
        in_shape, classes: Shape of one sample as the model takes it, and number of outputs.
    """

    name: str
    folder: str | None
    args: Mapping[str, Any]
    fingerprint: str
    note: str
    in_shape: tuple[int, ...]
    classes: int


@dataclass(frozen=True)
class Metric:
    """A metric of the user's, as it travels to a worker.

    Attributes:
        name: What it is called in a result.
        code: It.
    """

    name: str
    code: Code


def identity(config: TrialConfig, source: Source, metric: Metric | None = None) -> dict[str, Any]:
    """Everything that determines a trial but its learning rate and seed, as plain values."""
    # Keys from before there were loops and budgets are those of the plain one, and of none.
    later = {} if config.loop == Loop() else {"loop": config.loop.canonical()}
    if config.budget != NO_BUDGET:
        later |= {"budget": config.budget.canonical()}
    if metric is not None:
        later |= {"metric": {"name": metric.name, "source": metric.code.source}}
    return later | {
        "numerics": NUMERICS,
        "model": config.model,
        "model_args": models.canonical(config.model, config.model_args, source.in_shape),
        "width": config.width,
        "depth": config.depth,
        "base_width": config.base_width,
        "base_depth": config.base_depth,
        "rule": config.rule,
        "optimizer": config.optimizer.canonical(),
        "steps": config.steps,
        "batch_size": config.batch_size,
        "dataset": source.name,
        "data": source.fingerprint,
    }


def digest(values: Mapping[str, Any]) -> str:
    """The key of a trial's settings, `identity` with "lr" and "seed"."""
    return _hash(_json(values))


class Keys:
    """The keys of many trials that differ in learning rate and seed.

    Hashing a hundred thousand trials takes a second, most of which would go into writing out what they share. So that
    is written once, in the three parts that stand before, between and after "lr" and "seed" in sorted order.
    """

    def __init__(self, shared: Mapping[str, Any]) -> None:
        self.shared = digest(shared)
        parts = {"before": "", "between": "", "after": ""}
        for name in sorted(shared):
            place = "before" if name < "lr" else "between" if name < "seed" else "after"
            parts[place] += f'"{name}":{_json(shared[name])},'
        self._before, self._between, self._after = parts.values()

    def of(self, lr: float, seed: int) -> str:
        """`digest(shared | {"lr": lr, "seed": seed})`."""
        text = f'{self._before}"lr":{_number(lr)},{self._between}"seed":{_number(seed)},{self._after}'
        return _hash(f"{{{text[:-1]}}}")


def _hash(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:_KEY_DIGITS]


# Made once: `json.dumps` would make one for each of a hundred thousand keys.
_json = json.JSONEncoder(sort_keys=True, separators=(",", ":")).encode

# Of a sweep's learning rates and seeds, each stands in many keys.
_number = functools.lru_cache(maxsize=4096, typed=True)(_json)
