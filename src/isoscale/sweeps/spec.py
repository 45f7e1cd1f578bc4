"""What to run: a grid of rules, widths, depths, learning rates and seeds."""

from __future__ import annotations

import dataclasses
import math
import numbers
import os
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

from isoscale import rules
from isoscale.data import names as dataset_names
from isoscale.errors import DataError, InvalidTypeError, InvalidValueError, unknown


def log2_grid(low: float, high: float, per_octave: int = 1) -> tuple[float, ...]:
    """Learning rates 2^low ... 2^high, `per_octave` to a factor of two, both ends included.

    >>> log2_grid(-2, 1)
    (0.25, 0.5, 1.0, 2.0)
    """
    if per_octave < 1 or high < low:
        raise InvalidValueError(f"a log2 grid needs low <= high and `per_octave` >= 1, got {low}, {high}, {per_octave}")
    return tuple(2.0 ** (low + k / per_octave) for k in range(math.floor((high - low) * per_octave + 1e-9) + 1))


@dataclass(frozen=True, kw_only=True)
class Sweep:
    """A grid of trials on one model, data set and optimizer.

    Attributes:
        model, model_args: A name of `isoscale.models.names()` and its own options (`block_depth`, `phi`, ...).
        dataset, dataset_args: A name of `isoscale.data.names()` and its own options (`batches`).
        rule: One rule or several, by name.
        optimizer: Family: "sgd", "adam", "adamw", "sign" or "muon".
        widths, depths: Sizes to train at.
        lrs: Base learning rates.
        seeds: That many seeds (0, 1, ...), or the seeds themselves.
        steps, batch_size: Length of every run.
        base_width, base_depth: Where the rules change nothing; by default the smallest of each.
        momentum, betas, eps, weight_decay: Of the optimizer (`isoscale.training.Optimizer`).

    Raises:
        InvalidValueError, InvalidTypeError: A value that makes no sense, named.

    >>> Sweep(depths=[4, 8], lrs=log2_grid(-3, 0), rule=["sp", "depth-mup"]).trials
    48
    """

    __pydantic_config__: ClassVar[dict[str, Any]] = {"extra": "forbid"}

    model: str = "residual-mlp"
    model_args: Mapping[str, Any] = field(default_factory=dict)
    dataset: str = "digits"
    dataset_args: Mapping[str, Any] = field(default_factory=dict)
    rule: str | Sequence[str] = "completep"
    optimizer: str = "sgd"
    widths: Sequence[int] = (64,)
    depths: Sequence[int] = (4, 8, 16, 32)
    lrs: Sequence[float] = log2_grid(-10, 0)
    seeds: int | Sequence[int] = 3
    steps: int = 200
    batch_size: int = 64
    base_width: int | None = None
    base_depth: int | None = None
    momentum: float | None = None
    betas: tuple[float, float] = (0.9, 0.999)
    eps: float = 1e-8
    weight_decay: float = 0.0

    def __post_init__(self) -> None:
        if self.dataset not in dataset_names():
            raise unknown("data set", self.dataset, dataset_names())
        if self.optimizer not in rules.OPTIMIZERS:
            raise unknown("optimizer", self.optimizer, rules.OPTIMIZERS)
        named = (self.rule,) if isinstance(self.rule, str) else tuple(self.rule)
        self._set("rule", _distinct("rule", [rules.get(rule).name for rule in named]))
        for name in ("widths", "depths"):
            self._set(name, _distinct(name, [whole(name, size) for size in getattr(self, name)]))
        seeds = range(whole("seeds", self.seeds)) if isinstance(self.seeds, int) else self.seeds
        for name in ("model_args", "dataset_args"):
            frozen = {k: tuple(v) if isinstance(v, list) else v for k, v in dict(getattr(self, name)).items()}
            self._set(name, frozen)
        self._set("seeds", _distinct("seeds", [whole("seeds", seed, least=0) for seed in seeds]))
        self._set("lrs", _distinct("lrs", [_rate(lr) for lr in self.lrs]))
        self._set("base_width", whole("base_width", self.base_width or min(self.widths)))
        self._set("base_depth", whole("base_depth", self.base_depth or min(self.depths)))
        whole("steps", self.steps), whole("batch_size", self.batch_size)

    def _set(self, name: str, value: Any) -> None:
        object.__setattr__(self, name, value)

    @property
    def trials(self) -> int:
        """How many trials the grid has."""
        axes = (self.rule, self.widths, self.depths, self.lrs, self.seeds)
        return math.prod(len(axis) for axis in axes if isinstance(axis, Sequence))

    @classmethod
    def from_mapping(cls, values: Mapping[str, Any]) -> Sweep:
        """A sweep from plain values, as read from TOML or JSON; an unknown key is an error that names it."""
        from pydantic import TypeAdapter, ValidationError

        known = [f.name for f in dataclasses.fields(cls)]
        for key in values:
            if key not in known:
                raise unknown("setting of a sweep", key, known)
        try:
            return TypeAdapter(cls).validate_python(dict(values))
        except ValidationError as error:
            first = error.errors()[0]
            where = ".".join(str(part) for part in first["loc"] if str(part) in known or isinstance(part, int))
            raise InvalidValueError(f"`{where}`: {first['msg']}, got {first['input']!r}") from error

    @classmethod
    def from_toml(cls, path: str | os.PathLike[str]) -> Sweep:
        """A sweep from a TOML file whose keys are the attributes.

        Raises:
            DataError: The file is missing or is not TOML.
            InvalidValueError: An unknown key or a bad value.
        """
        path = Path(path)
        try:
            values = tomllib.loads(path.read_text(encoding="utf-8"))
        except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
            raise DataError(f"cannot read the sweep `{path}`: {error}") from error
        return cls.from_mapping(values)

    def to_toml(self) -> str:
        """The text of a file that `from_toml` reads back as an equal sweep."""
        import tomli_w

        return tomli_w.dumps(self.to_mapping())

    def to_mapping(self) -> dict[str, Any]:
        """Plain values that `from_mapping` turns back into an equal sweep."""
        return {
            f.name: _plain(getattr(self, f.name)) for f in dataclasses.fields(self) if getattr(self, f.name) is not None
        }


def whole(name: str, value: object, *, least: int = 1) -> int:
    """`value` as an int of at least `least`, or the error that names it."""
    if isinstance(value, bool) or not isinstance(value, numbers.Integral):
        raise InvalidTypeError(f"`{name}` must be a whole number, got {value!r}")
    if value < least:
        raise InvalidValueError(f"`{name}` must be >= {least}, got {value}")
    return int(value)


def _rate(value: object) -> float:
    if isinstance(value, bool) or not isinstance(value, numbers.Real):
        raise InvalidTypeError(f"`lrs` must be numbers, got {value!r}")
    lr = float(value)
    if not (math.isfinite(lr) and lr > 0):
        raise InvalidValueError(f"`lrs` must be positive and finite, got {lr}")
    return lr


def _distinct(name: str, values: list[Any]) -> tuple[Any, ...]:
    """The values in order; numbers sorted, so that equal grids are equal however they were typed."""
    if not values:
        raise InvalidValueError(f"`{name}` is empty: give at least one")
    if len(set(values)) < len(values):
        raise InvalidValueError(f"`{name}` has a value twice: {', '.join(map(str, values))}")
    return tuple(values) if isinstance(values[0], str) else tuple(sorted(values))


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in value]
    return value
