"""What runs together: the trials of one rule, width and depth, which share every shape.

A shard is the unit of scheduling, retry and resume. A trial's key hashes everything that determines its
result, so that a store knows what it has whatever sweep asked for it.
"""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from isoscale.sweeps.spec import Sweep
from isoscale.training import Member, Optimizer, Recipe

# Part of every trial's key: raise it when a change makes the same trial give other numbers.
NUMERICS = 1

_KEY_DIGITS = 32


@dataclass(frozen=True)
class Source:
    """Where a worker reads the data of a shard; `fingerprint` and `note` say what was there at the start."""

    name: str
    folder: str | None
    args: Mapping[str, Any]
    fingerprint: str
    note: str


@dataclass(frozen=True)
class Shard:
    """Trials that train as one batched program.

    Attributes:
        recipe: What they share.
        members: Learning rate and seed of each.
        source: Their data.
    """

    recipe: Recipe
    members: tuple[Member, ...]
    source: Source

    @property
    def id(self) -> str:
        """Hash of what the members share: two sweeps that overlap here share the lease."""
        return digest(self._shared)

    def key(self, member: Member) -> str:
        """Hash of everything that determines one trial."""
        return digest(self.config(member))

    @functools.cached_property
    def keys(self) -> tuple[str, ...]:
        """Of the members, in their order; what they share is written out and hashed once."""
        before, between, after = (
            "".join(f'"{name}":{_json(self._shared[name])},' for name in sorted(self._shared) if low < name < high)
            for low, high in (("", "lr"), ("lr", "seed"), ("seed", "~"))
        )
        shared, keys = hashlib.sha256(f"{{{before}".encode()), []
        text = functools.lru_cache(None, typed=True)(_json)  # few numbers, each in many members
        for member in self.members:
            own = f'"lr":{text(member.lr)},{between}"seed":{text(member.seed)},{after}'
            hashed = shared.copy()
            hashed.update(f"{own[:-1]}}}".encode())
            keys.append(hashed.hexdigest()[:_KEY_DIGITS])
        return tuple(keys)

    def config(self, member: Member) -> dict[str, Any]:
        """Everything that determines one trial, as plain values."""
        return self._shared | {"lr": member.lr, "seed": member.seed}

    def only(self, keys: set[str]) -> Shard:
        """The shard with the members whose keys are in `keys`."""
        members = tuple(member for member, key in zip(self.members, self.keys, strict=True) if key in keys)
        return dataclasses.replace(self, members=members)

    @property
    def member_steps(self) -> int:
        return len(self.members) * self.recipe.steps

    @functools.cached_property
    def _shared(self) -> dict[str, Any]:
        data = {"dataset": self.source.name, "data": self.source.fingerprint, "numerics": NUMERICS}
        return dataclasses.asdict(self.recipe) | data


def make(spec: Sweep, source: Source) -> list[Shard]:
    """The shards of a sweep, in the order of its rules, widths and depths."""
    members = tuple(Member(lr, seed) for lr in spec.lrs for seed in _tuple(spec.seeds))
    return [
        Shard(_recipe(spec, rule, width, depth), members, source)
        for rule in _tuple(spec.rule)
        for width in spec.widths
        for depth in spec.depths
    ]


def _recipe(spec: Sweep, rule: str, width: int, depth: int) -> Recipe:
    assert spec.base_width is not None
    assert spec.base_depth is not None
    optimizer = Optimizer(
        family=spec.optimizer,  # pyrefly: ignore[bad-argument-type]  checked by the spec
        momentum=spec.momentum,
        betas=spec.betas,
        eps=spec.eps,
        weight_decay=spec.weight_decay,
    )
    return Recipe(
        model=spec.model,
        model_args=spec.model_args,
        width=width,
        depth=depth,
        base_width=spec.base_width,
        base_depth=spec.base_depth,
        rule=rule,
        optimizer=optimizer,
        steps=spec.steps,
        batch_size=spec.batch_size,
    )


def _tuple(value: Any) -> tuple[Any, ...]:
    assert isinstance(value, tuple)  # Sweep normalises its grids
    return value


def digest(values: Mapping[str, Any]) -> str:
    """The key of a trial's settings."""
    return hashlib.sha256(_json(values).encode()).hexdigest()[:_KEY_DIGITS]


# Made once: `json.dumps` would make one for each of a hundred thousand keys.
_json = json.JSONEncoder(sort_keys=True, separators=(",", ":")).encode
