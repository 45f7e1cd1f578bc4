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

from isoscale.runs.spec import Sweep
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
        """Hash of everything that determines one trial: `digest(config(member))`."""
        before, between, after = self._around
        text = f'{{{before}"lr":{_number(member.lr)},{between}"seed":{_number(member.seed)},{after}'
        return _hash(f"{text[:-1]}}}")

    @functools.cached_property
    def keys(self) -> tuple[str, ...]:
        """Of the members, in their order."""
        return tuple(map(self.key, self.members))

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

    @functools.cached_property
    def _around(self) -> tuple[str, ...]:
        """What the members share, written out once: the parts of `config` before "lr", up to "seed" and after it."""
        return tuple(
            "".join(f'"{name}":{_json(self._shared[name])},' for name in sorted(self._shared) if low < name < high)
            for low, high in (("", "lr"), ("lr", "seed"), ("seed", "~"))
        )


def make(spec: Sweep, source: Source) -> list[Shard]:
    """The shards of a sweep, in the order of its rules, widths and depths."""
    members = tuple(Member(lr, seed) for lr in spec.lrs for seed in _tuple(spec.seeds))
    return [
        Shard(recipe(spec, rule, width, depth), members, source)
        for rule in _tuple(spec.rule)
        for width in spec.widths
        for depth in spec.depths
    ]


def recipe(spec: Sweep, rule: str, width: int, depth: int) -> Recipe:
    """Everything about the trials of a spec at one rule and size but their learning rates and seeds."""
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
    return _hash(_json(values))


def _hash(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:_KEY_DIGITS]


# Made once: `json.dumps` would make one for each of a hundred thousand keys.
_json = json.JSONEncoder(sort_keys=True, separators=(",", ":")).encode

# Of a sweep's learning rates and seeds, each stands in many keys.
_number = functools.lru_cache(maxsize=4096, typed=True)(_json)
