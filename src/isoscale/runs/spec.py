"""What to run: a grid of rules, widths, depths, learning rates and seeds."""

from __future__ import annotations

import dataclasses
import math
import numbers
import os
import tomllib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from isoscale.checks import LARGEST, number, whole
from isoscale.data import names as dataset_names
from isoscale.errors import DataError, InvalidTypeError, InvalidValueError, unknown
from isoscale.models import names as model_names
from isoscale.scaling import rules
from isoscale.scaling.optimizers import OPTIMIZERS

if TYPE_CHECKING:
    from isoscale.runs.trial import Trial

# Powers of two that a float holds.
_LOG2_RANGE = (-1074, 1023)

# A larger grid is a slip of the pen, and would fill the memory before anything could say so.
_MOST_TRIALS = 10_000_000


def log2_grid(low: float, high: float, per_octave: int = 1) -> tuple[float, ...]:
    """Learning rates 2^low ... 2^high, `per_octave` to a factor of two, both ends included.

    >>> log2_grid(-2, 1)
    (0.25, 0.5, 1.0, 2.0)
    """
    if not (_LOG2_RANGE[0] <= low <= high <= _LOG2_RANGE[1]):
        raise InvalidValueError(
            f"a log2 grid needs {_LOG2_RANGE[0]} <= low <= high <= {_LOG2_RANGE[1]}, got {low}, {high}"
        )
    if per_octave < 1:
        raise InvalidValueError(f"`per_octave` must be >= 1, got {per_octave}")
    return tuple(2.0 ** (low + k / per_octave) for k in range(math.floor((high - low) * per_octave + 1e-9) + 1))


@dataclass(frozen=True, kw_only=True)
class Sweep:
    """A grid of trials on one model, data set and optimizer.

    Attributes:
        model, model_args: A name of `isoscale.models.names()` and its own options (`block_depth`, `phi`, ...);
            an option that is None is left to the model.
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
    steps: int = 100
    batch_size: int = 64
    base_width: int | None = None
    base_depth: int | None = None
    momentum: float | None = None
    betas: tuple[float, float] = (0.9, 0.999)
    eps: float = 1e-8
    weight_decay: float = 0.0

    def __post_init__(self) -> None:
        self._check_names()
        named = [self.rule] if isinstance(self.rule, str) else _items("rule", self.rule)
        self._set("rule", _distinct("rule", [_rule(name) for name in named]))
        for name in ("widths", "depths"):
            self._set(name, _distinct(name, [whole(name, size) for size in _items(name, getattr(self, name))]))
        self._set("lrs", _distinct("lrs", [_rate(lr) for lr in _items("lrs", self.lrs)]))
        # bool is a number to Python; `whole` refuses it.
        seeds = range(_count("seeds", self.seeds)) if isinstance(self.seeds, numbers.Integral) else self.seeds
        self._set("seeds", _distinct("seeds", [whole("seeds", seed, least=0) for seed in _items("seeds", seeds)]))
        if self.trials > _MOST_TRIALS:
            raise InvalidValueError(f"a sweep has at most {_MOST_TRIALS:,} trials, this one {self.trials:,}")
        self._set_scalars()
        for name in ("model_args", "dataset_args"):
            self._set(name, _options(name, getattr(self, name)))

    def _check_names(self) -> None:
        for field_, what, known in (
            ("model", "model", model_names()),
            ("dataset", "data set", dataset_names()),
            ("optimizer", "optimizer", OPTIMIZERS),
        ):
            if getattr(self, field_) not in known:
                raise unknown(what, getattr(self, field_), known)

    def _set_scalars(self) -> None:
        """Numbers as Python's own, so that equal trials have equal keys however they were typed."""
        for axis, sizes in (("width", self.widths), ("depth", self.depths)):
            base = getattr(self, f"base_{axis}")
            self._set(f"base_{axis}", min(sizes) if base is None else whole(f"base_{axis}", base))
        for name in ("steps", "batch_size"):
            self._set(name, whole(name, getattr(self, name)))
        for name in ("eps", "weight_decay"):
            self._set(name, number(name, getattr(self, name)))
        self._set("momentum", None if self.momentum is None else number("momentum", self.momentum))
        betas = tuple(number("betas", beta) for beta in _items("betas", self.betas))
        if len(betas) != 2:
            raise InvalidValueError(f"`betas` must be two numbers, got {self.betas!r}")
        self._set("betas", betas)

    def _set(self, name: str, value: Any) -> None:
        object.__setattr__(self, name, value)

    @property
    def trials(self) -> int:
        """How many trials the grid has."""
        axes = (self.rule, self.widths, self.depths, self.lrs, self.seeds)
        return math.prod(len(axis) for axis in axes if isinstance(axis, Sequence))

    def trial(
        self,
        *,
        rule: str | None = None,
        width: int | None = None,
        depth: int | None = None,
        lr: float | None = None,
        seed: int | None = None,
        data: str | None = None,
        device: str = "cpu",
    ) -> Trial:
        """One trial as its parts: `.model()`, `.plan`, `.batches()`. A plain loop over these gives the stored curve.

        Args:
            rule, width, depth, lr, seed: Which; one that the sweep has a single value of may be left out. Values that
                the sweep does not have are fine.
            data: Folder of the data sets; by default `$ISOSCALE_DATA`.
            device: Where its model and batches are.

        Raises:
            InvalidValueError: An axis with several values that is left out, or a value that makes no sense.
            PlanError: The rule cannot be applied to the model.

        >>> trial = Sweep(widths=[16], depths=[2, 4], steps=3).trial(depth=4, lr=0.125, seed=0)
        >>> trial, len(list(trial.batches()))
        (Trial(rule=completep, width=16, depth=4, lr=0.125, seed=0), 3)
        """
        from isoscale.runs import shards, worker
        from isoscale.runs.trial import Trial

        rule = _rule(_one("rule", rule, self.rule))
        width = whole("width", _one("width", width, self.widths))
        depth = whole("depth", _one("depth", depth, self.depths))
        lr = number("lr", _one("lr", lr, self.lrs), above=0)
        seed = whole("seed", _one("seed", seed, self.seeds), least=0)
        source, dataset = worker.source(self.dataset, data, tuple(self.dataset_args.items()), self.model)
        return Trial(shards.config_of(self, rule, width, depth), lr, seed, source, dataset, device)

    @classmethod
    def from_mapping(cls, values: Mapping[str, Any]) -> Sweep:
        """A sweep from plain values, as read from TOML or JSON; an unknown key is an error that names it."""
        known = [f.name for f in dataclasses.fields(cls)]
        for key in values:
            if key not in known:
                raise unknown("setting of a sweep", key, known)
        return cls(**values)

    @classmethod
    def from_toml(cls, path: str | os.PathLike[str]) -> Sweep:
        """A sweep from a TOML file whose keys are the attributes.

        Raises:
            DataError: The file is missing or is not TOML.
            InvalidValueError, InvalidTypeError: An unknown key or a bad value.
        """
        path = Path(path)
        try:
            values = tomllib.loads(path.read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:  # no TOML, no UTF-8, or a number of thousands of digits
            raise DataError(f"cannot read the sweep `{path}`: {error}") from error
        except RecursionError:
            raise DataError(f"cannot read the sweep `{path}`: its lists or tables are nested too deep") from None
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


def _one(name: str, value: Any, values: Any) -> Any:
    """The value given, or the only one that there is."""
    if value is not None:
        return value
    if len(values) != 1:
        raise InvalidValueError(f"`{name}` must be given: the sweep has {', '.join(map(str, values))}")
    return values[0]


def _count(name: str, value: object) -> int:
    """`value` as a length of an axis."""
    count = whole(name, value)
    if count > _MOST_TRIALS:
        raise InvalidValueError(f"`{name}` must be at most {_MOST_TRIALS:,}, got {count:,}")
    return count


def _rate(value: object) -> float:
    try:
        return number("lrs", value, above=0)
    except InvalidValueError:
        raise InvalidValueError(f"`lrs` must be positive and finite, got {value}") from None


def _rule(name: object) -> str:
    if not isinstance(name, str):
        raise InvalidTypeError(f"`rule` must be the name of a rule or several, got {name!r}")
    return rules.get(name).name


def _items(name: str, values: object) -> list[Any]:
    """The values of one axis of the grid, from any list-like thing."""
    if isinstance(values, (str, bytes, Mapping)) or not isinstance(values, Iterable):
        raise InvalidTypeError(f"`{name}` must be a list, got {values!r}")
    return list(values)


def _options(name: str, options: object) -> dict[str, Any]:
    if not isinstance(options, Mapping):
        raise InvalidTypeError(f"`{name}` must be a mapping of options, got {options!r}")
    return {str(key): _option(f"{name}.{key}", value) for key, value in options.items() if value is not None}


def _option(name: str, value: object) -> Any:
    """A value that TOML can write and a trial's key can hash."""
    if isinstance(value, (str, bool)):
        return value
    if isinstance(value, numbers.Integral):
        return whole(name, value, least=-LARGEST)
    if isinstance(value, numbers.Real):
        return float(value)
    if isinstance(value, (list, tuple)):
        return tuple(_option(name, item) for item in value)
    raise InvalidTypeError(f"`{name}` must be text, a number, true or false, or a list of these, got {value!r}")


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
