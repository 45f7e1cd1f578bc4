"""What to run: a grid of rules, sizes, learning rates, other hyperparameters and seeds, and who trains it."""

from __future__ import annotations

import dataclasses
import functools
import itertools
import math
import numbers
import os
import re
import tomllib
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_args

from isoscale.checks import LARGEST, number, whole
from isoscale.data import names as dataset_names
from isoscale.errors import DataError, InvalidTypeError, InvalidValueError, unknown
from isoscale.extras import needed
from isoscale.models import hidden_parameters
from isoscale.models import names as model_names
from isoscale.runs import spending
from isoscale.runs.spending import BUDGET_AXES, Spending
from isoscale.scaling import budget as budgets
from isoscale.scaling import rules
from isoscale.scaling.budget import NO_BUDGET, Budget
from isoscale.scaling.optimizers import OPTIMIZERS
from isoscale.stats.quantity import Better, Quantity
from isoscale.training.loop import Loop

if TYPE_CHECKING:
    from isoscale.runs.trainers.registry import AnyTrial

SEARCHES = ("grid", "adaptive", "random")

# How many points a random search has if nobody says.
_POINTS = 32

# Powers of two that a float holds.
_LOG2_RANGE = (-1074, 1023)

# Left to whoever trains: isoscale's own networks have a value for it, the user's code may have no such thing.
_LEFT_OUT: Any = None

# What isoscale's own networks train when nothing else is said.
_DEFAULTS: dict[str, Any] = {
    "model": "residual-mlp",
    "dataset": "digits",
    "rule": "completep",
    "optimizer": "sgd",
    "widths": (64,),
    "depths": (4, 8, 16, 32),
}

# The name of the one rule of a sweep that has none.
NO_RULE = "-"

# Hyperparameters beside the learning rate that isoscale's own networks have.
_TUNED = ("weight_decay", "momentum", "eps", "beta1", "beta2")

# Names that an axis of the user's own cannot have: they are something else in a trial, a command or a result.
_TAKEN = (
    *("rule", "width", "depth", "batch_size", "lr", "seed", "steps", "step", "optimizer", "device", "folder"),
    *("loss", "test_loss", "test_accuracy", "status", "curve", "seconds"),
)

# What a budget is spent in: sizes of a training, not of a network.
_SPENT = ("batch_size", "steps")

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
    """A grid of trials: of one of isoscale's networks, of a model of the user's, of a training function or a program.

    Attributes:
        model, model_args: A name of `isoscale.models.names()` (default "residual-mlp") and its own options
            (`block_depth`, `phi`, ...); an option that is None is left to the model. Or a factory of the user's, or
            where it is ("file.py:make"): called with the sizes by name, and with `seed` if it takes one, it returns
            the nn.Module that isoscale parametrizes and trains.
        dataset, dataset_args: A name of `isoscale.data.names()` (default "digits") and its own options (`batches`); or
            a `Dataset` (`Dataset.from_torch`, `Dataset.from_arrays`), which workers read in the cache folder.
        batches: For a model of the user's, instead of a data set: pairs (x, y), or a function that returns them,
            called with the trial if it takes one. They are gone through again and again. Or samples, of which batches
            are drawn by the trial's seed: two whole arrays (x, y), or a data set of torch's.
        loss_fn: loss_fn(model(x), y), one number; with a data set, cross-entropy by default.
        eval_batches: Like `batches`, but with an end; what `test_loss` is the mean over, after training.
        metric: metric(model(x), y), one number, of a model that isoscale trains: its mean over the held-out batches is
            what trials are judged by, instead of the training loss. A function, or where it is: "file.py:error_rate".
        better: Which values of the metric are, "lower" or "higher".
        schedule, warmup: Of the learning rate: "constant", "cosine", "linear" or "wsd" (which falls to zero in the last
            fifth), after a warmup of that share of the steps; a function or a program has its own.
        clip: Norm to which gradients are clipped; None: never.
        accumulate: Batches in a step.
        autocast: Precision of the forward pass: "bfloat16", by `torch.autocast`; None: that of the weights.
        train: Instead of a model and a data set, the user's own training function, or where it is:
            "file.py:train", "pkg.module:train". It is called with one trial (`HandedTrial`) and returns the loss, or
            a mapping with "loss", or yields a loss a step.
        command: Or a program: "python train.py --width {width} --lr {lr} --seed {seed}", with a placeholder for every
            axis, and `{steps}`, `{batch_size}`, `{device}`, `{folder}` where it wants them.
        loss_pattern: Regular expression whose first group is the loss in what the command prints; the last match
            counts. Without one, the last line that is a JSON object with "loss".
        time_limit: Seconds after which a trial of a function or a command has failed; by default none.
        version: Of the user's code, by the user: trials of different versions are never mistaken for each other.
        rule: One rule or several, by name; "completep" for isoscale's networks, none for the user's code.
        optimizer: Family: "sgd" (default for isoscale's networks), "adam", "adamw", "sign" or "muon".
        widths, depths: Sizes to train at; (64,) and (4, 8, 16, 32) for isoscale's networks, none for the user's code.
        batch_sizes: Batch sizes, as an axis; by default `batch_size` alone.
        sizes: Further size axes of the user's code: {"experts": [2, 4, 8]}.
        paired: Whether the sizes go together, the first width with the first depth and so on, as a path of sizes does;
            otherwise every size is trained with every other.
        lrs: Base learning rates; those that an adaptive search begins with.
        search: "grid": every learning rate with every seed. "adaptive" (`isoscale.runs.search`): from a short pilot
            to the optimum. "random": `points` points of a Sobol sequence between the least and the greatest value
            of every tuned axis (`isoscale.runs.points`), the same at every size. None: the grid for a sweep, the
            search for `isoscale.transfer`.
        early_stop: Whether an adaptive search stops full trials that are hopeless (of isoscale's own networks): after a
            quarter or half of its steps such a trial's loss has fallen by less than `hopeless` times what the best
            trial's of that size had fallen by then. It counts as at least that bad, and not as a measured loss.
        hopeless: That share, at least 0 and below 1.
        points: How many points a random search has, 32 by default; more later add to the ones that there are.
        linear: Hyperparameters that a random search draws evenly in themselves and not in their logarithm.
        hyperparameters: Further tuned axes: {"weight_decay": [0, 0.1]}. isoscale's networks have weight_decay,
            momentum, eps, beta1 and beta2; the user's code has what it likes, numbers or text.
        seeds: That many seeds (0, 1, ...), or the seeds themselves.
        steps: Length of every run, or several lengths, as a size axis. A schedule ends with its own run.
        batch_size: Samples in a step.
        base_width, base_depth, base_sizes: Where the rules change nothing; by default the smallest of each. In
            `base_sizes` also "batch_size" and "steps".
        budget: How the settings follow batch size and steps from there on: a name of `isoscale.rules.budget_names()`.
        budget_axis: What a trial spends at other sizes than the base's (`isoscale.runs.spending`). "steps": `steps`,
            whatever the batch. "tokens": as many samples as the base, steps x batch size; along `batch_sizes` the
            steps follow, along `steps` the batch size does. "tokens-per-parameter": samples in proportion to the
            parameters of the hidden layers, of isoscale's own networks.
        momentum, betas, eps, weight_decay: Of the optimizer (`isoscale.training.Optimizer`).

    Raises:
        InvalidValueError, InvalidTypeError: A value that makes no sense, named.

    >>> Sweep(depths=[4, 8], lrs=log2_grid(-3, 0), rule=["sp", "depth-mup"]).trials
    48
    >>> Sweep(train="train.py:train", widths=[64, 256], hyperparameters={"dropout": [0, 0.1]}, seeds=1).axes["dropout"]
    (0, 0.1)
    """

    model: Any = _LEFT_OUT
    model_args: Mapping[str, Any] = field(default_factory=dict)
    dataset: Any = _LEFT_OUT
    dataset_args: Mapping[str, Any] = field(default_factory=dict)
    batches: Any = None
    loss_fn: Callable[[Any, Any], Any] | str | None = None
    eval_batches: Any = None
    metric: Callable[[Any, Any], Any] | str | None = None
    better: Better | None = None
    schedule: str = "constant"
    warmup: float = 0.0
    clip: float | None = None
    accumulate: int = 1
    autocast: str | None = None
    train: Callable[[Any], Any] | str | None = None
    command: str | None = None
    loss_pattern: str | None = None
    time_limit: float | None = None
    version: str | None = None
    rule: str | Sequence[str] = _LEFT_OUT
    optimizer: str = _LEFT_OUT
    widths: Sequence[int] = _LEFT_OUT
    depths: Sequence[int] = _LEFT_OUT
    batch_sizes: Sequence[int] = ()
    sizes: Mapping[str, Sequence[Any]] = field(default_factory=dict)
    paired: bool = False
    lrs: Sequence[float] = log2_grid(-10, 0)
    search: str | None = None
    early_stop: bool = True
    hopeless: float = 0.25
    points: int | None = None
    linear: Sequence[str] = ()
    hyperparameters: Mapping[str, Sequence[Any]] = field(default_factory=dict)
    seeds: int | Sequence[int] = 3
    steps: int | Sequence[int] = 100
    batch_size: int = 64
    base_width: int | None = None
    base_depth: int | None = None
    base_sizes: Mapping[str, Any] = field(default_factory=dict)
    budget: str = "none"
    budget_axis: str = "steps"
    momentum: float | None = None
    betas: tuple[float, float] = (0.9, 0.999)
    eps: float = 1e-8
    weight_decay: float = 0.0

    def __post_init__(self) -> None:
        self._check_trainer()
        defaults = _DEFAULTS
        if self.is_foreign:
            # Of a model of the user's it is isoscale that asks for a plan, with the defaults of `parametrize`.
            named = {"rule": "completep", "optimizer": "adamw"} if self.has_own_model else {}
            defaults = dict.fromkeys(_DEFAULTS, ()) | named
        for name, value in defaults.items():
            if getattr(self, name) is None:
                self._set(name, value)
        self._check_names()
        self._set("rule", self._rules())
        for name in ("widths", "depths", "batch_sizes"):
            values = _items(name, getattr(self, name))
            if values or not (self.is_foreign or name == "batch_sizes"):
                values = _distinct(name, [whole(name, size) for size in values])
            self._set(name, tuple(values))
        self._set("lrs", _distinct("lrs", [_rate(lr) for lr in _items("lrs", self.lrs)]))
        # bool is a number to Python; `whole` refuses it.
        seeds = range(_count("seeds", self.seeds)) if isinstance(self.seeds, numbers.Integral) else self.seeds
        self._set("seeds", _distinct("seeds", [whole("seeds", seed, least=0) for seed in _items("seeds", seeds)]))
        for name in ("sizes", "hyperparameters"):
            self._set(name, self._own_axes(name))
        self._set("steps", _lengths(self.steps))
        self._check_search()
        if self.trials > _MOST_TRIALS:
            raise InvalidValueError(f"a sweep has at most {_MOST_TRIALS:,} trials, this one {self.trials:,}")
        self._set_scalars()
        self._check_budget()
        for name in ("model_args", "dataset_args"):
            self._set(name, _options(name, getattr(self, name)))
        self._check_budget_axis()
        if self.command is not None:
            self._check_command(self.command)

    def _check_trainer(self) -> None:
        """One of model, train and command; and nothing beside it that it does not have."""
        if self.train is not None and self.command is not None:
            raise InvalidValueError("`train` and `command` are two ways to train: give one of them")
        if self.train is not None and not isinstance(self.train, str) and not callable(self.train):
            raise InvalidTypeError(f'`train` must be a function, or "file.py:function", got {self.train!r}')
        if self.command is not None and (not isinstance(self.command, str) or not self.command.strip()):
            raise InvalidTypeError(f"`command` must be a command line, got {self.command!r}")
        way = "train" if self.train is not None else "command"
        if self.train is not None or self.command is not None:
            for name in ("model", "dataset", "model_args", "dataset_args"):
                if getattr(self, name):
                    raise InvalidValueError(f"`{name}` is for models that isoscale trains: with `{way}`, leave it out")
            for name in ("schedule", "warmup", "clip", "accumulate", "autocast"):
                if getattr(self, name) != getattr(Sweep, name):
                    raise InvalidValueError(f"`{name}` is for models that isoscale trains: with `{way}`, do it there")
            if self.metric is not None:
                raise InvalidValueError(
                    f"`metric` is for models that isoscale trains: with `{way}`, give it back as the loss (minus it, "
                    "where higher is better)"
                )
        for name in ("time_limit", "version"):
            if getattr(self, name) is not None and not self.is_foreign:
                raise InvalidValueError(f"`{name}` is for code of your own: give it with model, train or command")
        if self.has_own_model:
            self._check_own_model()
        else:
            for name in ("batches", "loss_fn", "eval_batches"):
                if getattr(self, name) != getattr(Sweep, name):
                    raise InvalidValueError(f"`{name}` is for a model of your own: give it with model=make")
        self._check_metric()
        for name, value in self.loop.canonical().items():
            self._set(name, value)
        if self.loss_pattern is not None and self.command is None:
            raise InvalidValueError("`loss_pattern` finds the loss in what a program prints: give it with command")
        if self.time_limit is not None:
            self._set("time_limit", number("time_limit", self.time_limit, above=0))
        if self.version is not None and not isinstance(self.version, str):
            raise InvalidTypeError(f"`version` must be text, got {self.version!r}")

    def _check_own_model(self) -> None:
        """What isoscale needs to train a model of the user's."""
        if hasattr(self.model, "state_dict") and not isinstance(self.model, type):
            raise InvalidTypeError(
                "`model` must be a function that makes one of any size, make(width=...), not a model"
            )
        if self.model_args:
            raise InvalidValueError("`model_args` are options of isoscale's own networks: bind yours to the factory")
        if (self.batches is None) == (self.dataset in (None, "", ())):
            raise InvalidValueError("a model of your own trains on `batches` or on a `dataset`: give one of them")
        if self.batches is not None and self.loss_fn is None:
            raise InvalidValueError("`batches` need a `loss_fn`: loss_fn(model(x), y) is the loss")
        if self.eval_batches is not None and self.batches is None:
            raise InvalidValueError("`eval_batches` go with `batches`: a data set has held-out samples of its own")

    def _check_metric(self) -> None:
        """A metric that is called like nothing else, and which values of it are the better ones."""
        if self.metric is None:
            if self.better is not None:
                raise InvalidValueError("`better` says which values of a `metric` are: give it one")
            return
        if not isinstance(self.metric, str) and not callable(self.metric):
            raise InvalidTypeError(f'`metric` must be a function, or "file.py:function", got {self.metric!r}')
        if self.better is None:
            raise InvalidValueError("`metric` needs `better`: 'lower' or 'higher' values of it")
        if self.better not in get_args(Better):
            raise unknown("`better`", str(self.better), get_args(Better))
        if self.has_own_model and self.batches is not None and self.eval_batches is None:
            raise InvalidValueError("`metric` is measured on held-out batches: give it `eval_batches`")
        name = self.quantity.name
        if name in _TAKEN or name in (*self.sizes, *self.hyperparameters):
            raise InvalidValueError(f"`metric` cannot be called `{name}`: that is something of every trial")

    def _check_command(self, command: str) -> None:
        """All that the sweep says reaches the program, and the program asks for nothing else."""
        from isoscale.runs.trainers import template

        for name in ("weight_decay", "momentum", "eps", "betas"):
            if getattr(self, name) != getattr(Sweep, name):
                raise InvalidValueError(
                    f"`{name}` does not reach a command: write it there, or give it among the hyperparameters"
                )
        # One seed is no axis: a program need not hear of it.
        is_axis = {name: name != "seed" or len(values) > 1 for name, values in self.axes.items()}
        is_axis["rule"] = self.rule != (NO_RULE,)
        is_axis |= dict.fromkeys(self.hyperparameters, True)
        needed = [name for name, needs in is_axis.items() if needs]
        for name, default in (("steps", 100), ("batch_size", Sweep.batch_size), ("optimizer", "")):
            if getattr(self, name) != default and name not in needed:
                needed.append(name)
        if self.budget_axis != "steps":
            needed += [name for name in _SPENT if name not in needed]
        known = {*needed, "seed", "steps", "batch_size", "device", "folder"}
        template.check(command, needed, known)
        if self.loss_pattern is not None:
            _check_pattern(self.loss_pattern)

    def _check_names(self) -> None:
        for field_, what, known in (
            ("model", "model", model_names()),
            ("dataset", "data set", dataset_names()),
            ("optimizer", "optimizer", OPTIMIZERS),
        ):
            name = getattr(self, field_)
            if field_ == "model" and self.has_own_model:
                continue
            if field_ == "dataset" and hasattr(name, "fingerprint"):
                # In memory, with all that was said of it.
                if self.dataset_args:
                    raise InvalidValueError("`dataset_args` are options of a data set that is named: leave them out")
                continue
            if self.is_foreign and not name:
                self._set(field_, "")
            elif name not in known:
                raise unknown(what, name, known)

    def _rules(self) -> tuple[str, ...]:
        named = [self.rule] if isinstance(self.rule, str) else _items("rule", self.rule)
        if self.is_foreign and named in ([], [NO_RULE]):
            return (NO_RULE,)
        return _distinct("rule", [_rule(name) for name in named])

    def _own_axes(self, kind: str) -> dict[str, tuple[Any, ...]]:
        """`sizes` or `hyperparameters`: their names and values."""
        given = getattr(self, kind)
        if not isinstance(given, Mapping):
            raise InvalidTypeError(f"`{kind}` must be a mapping from names to lists of values, got {given!r}")
        if given and kind == "sizes" and not self.is_foreign:
            raise InvalidValueError(f"`sizes` are axes of code of your own; {self.model} has widths and depths")
        axes = {}
        for name, values in given.items():
            if not isinstance(name, str) or not name.isidentifier():
                raise InvalidValueError(f"`{kind}` has a name that is no word: {name!r}")
            if name in _TAKEN:
                raise InvalidValueError(f"`{kind}` cannot have `{name}`: that is something of every trial")
            if kind == "hyperparameters" and name in self.sizes:
                raise InvalidValueError(f"`{name}` is in `sizes` and in `hyperparameters`: give it once")
            if kind == "hyperparameters" and not self.is_foreign and name not in _TUNED:
                raise unknown("hyperparameter of isoscale's networks", name, _TUNED)
            axes[name] = _distinct(name, [_axis_value(name, value) for value in _items(name, values)])
        return axes

    def _set_scalars(self) -> None:
        """Numbers as Python's own, so that equal trials have equal keys however they were typed."""
        for axis, sizes in (("width", self.widths), ("depth", self.depths)):
            base = getattr(self, f"base_{axis}")
            if base is None:
                self._set(f"base_{axis}", min(sizes, default=None))
            else:
                self._set(f"base_{axis}", whole(f"base_{axis}", base))
        self._set("base_sizes", self._bases())
        self._set("batch_size", whole("batch_size", self.batch_size))
        if not isinstance(self.early_stop, bool):
            raise InvalidTypeError(f"`early_stop` must be true or false, got {self.early_stop!r}")
        self._set("hopeless", number("hopeless", self.hopeless, least=0.0))
        if self.hopeless >= 1:
            raise InvalidValueError(f"`hopeless` must be below 1, got {self.hopeless}: a good trial is never hopeless")
        for name in ("eps", "weight_decay"):
            self._set(name, number(name, getattr(self, name)))
        self._set("momentum", None if self.momentum is None else number("momentum", self.momentum))
        betas = tuple(number("betas", beta) for beta in _items("betas", self.betas))
        if len(betas) != 2:
            raise InvalidValueError(f"`betas` must be two numbers, got {self.betas!r}")
        self._set("betas", betas)

    def _bases(self) -> dict[str, Any]:
        """The base's value on each axis of the user's own: what is given, else the smallest."""
        if not isinstance(self.base_sizes, Mapping):
            raise InvalidTypeError(f"`base_sizes` must be a mapping from names to sizes, got {self.base_sizes!r}")
        for name in self.base_sizes:
            if name not in (*self.sizes, *_SPENT):
                raise unknown("axis of `sizes`", name, [*self.sizes, *_SPENT])
        # Texts have no order: the first one counts.
        smallest = {name: values[0] for name, values in self.sizes.items()}
        given = {name: whole(name, value) if name in _SPENT else value for name, value in self.base_sizes.items()}
        return smallest | {name: _axis_value(name, value) for name, value in given.items()}

    def spent(self, batch_size: int | None = None, steps: int | None = None) -> Budget:
        """How far a trial's batch size and steps are from the base's, and the rule that follows them.

        >>> Sweep(batch_sizes=[32, 128], steps=100, budget="sqrt-batch").spent(batch_size=128).batch
        4.0
        """
        rule = budgets.budget(self.budget)
        if rule.name == "none":
            return NO_BUDGET
        base = self._base_spending
        batch = (batch_size or self.batch_size) / base.batch_size
        return Budget(rule=rule, batch=batch, tokens=batch * (steps or self.longest) / base.steps)

    @property
    def _base_spending(self) -> Spending:
        """What the base spends: the smallest batch size and length, unless `base_sizes` says otherwise."""
        batch_size = self.base_sizes.get("batch_size", min(self.batch_sizes or (self.batch_size,)))
        lengths = (self.steps,) if isinstance(self.steps, int) else self.steps
        return Spending(batch_size, self.base_sizes.get("steps", min(lengths)))

    def spending(self, cell: Mapping[str, Any]) -> Spending:
        """Batch size and steps of the trials of one of the `cells`.

        >>> spec = Sweep(batch_sizes=[16, 64], steps=100, budget_axis="tokens")
        >>> [spec.spending(cell) for cell in spec.cells if cell["depth"] == 4]
        [Spending(batch_size=16, steps=100), Spending(batch_size=64, steps=25)]
        """
        batch_size = cell.get("batch_size", self.batch_size)
        if self.budget_axis == "steps":
            return Spending(batch_size, cell.get("steps", self.steps))
        given = {"steps": cell["steps"]} if "steps" in cell else {"batch_size": batch_size}
        tokens = self._base_spending.tokens
        if self.budget_axis == "tokens":
            return spending.at_tokens(tokens, **given)
        return spending.near_tokens(tokens * self._parameters(cell) / self._parameters({}), **given)

    def _parameters(self, cell: Mapping[str, Any]) -> int:
        """Parameters of the hidden layers at a cell's width and depth; by default at the base's."""
        width, depth = cell.get("width", self.base_width), cell.get("depth", self.base_depth)
        return hidden_parameters(self.model, self.model_args, width=width, depth=depth)

    def _check_budget_axis(self) -> None:
        """There is something that follows, and it comes out in whole steps."""
        if self.budget_axis not in BUDGET_AXES:
            raise unknown("`budget_axis`", str(self.budget_axis), BUDGET_AXES)
        if self.budget_axis == "steps":
            return
        if self.batch_sizes and isinstance(self.steps, tuple):
            raise InvalidValueError(
                f'`budget_axis` "{self.budget_axis}": with several `batch_sizes` and several `steps` there is nothing '
                "left that could follow. Give one of them"
            )
        if self.budget_axis == "tokens":
            if not self.batch_sizes and not isinstance(self.steps, tuple):
                raise InvalidValueError(
                    '`budget_axis` "tokens" says what follows along `batch_sizes` or `steps`: give several of one'
                )
            self._spendings()
        elif self.is_foreign:
            raise InvalidValueError(
                '`budget_axis` "tokens-per-parameter" counts the parameters of isoscale\'s own networks: for code of '
                "your own give each size its `steps`, with `paired`"
            )

    def _spendings(self) -> list[Spending]:
        return [self.spending(cell) for cell in self.cells]

    def _check_budget(self) -> None:
        """The budget is known, and stated for the optimizer; and something of isoscale's applies it."""
        rule = budgets.budget(self.budget)
        if rule.name == "none":
            return
        if self.command is not None:
            raise InvalidValueError(
                f"the budget {rule.name!r} does not reach a command, which has its own settings: use `train=`, or "
                "write the command's own rule"
            )
        if self.optimizer:
            rule.factors(self.optimizer)  # pyrefly: ignore[bad-argument-type]  checked before

    def _set(self, name: str, value: Any) -> None:
        object.__setattr__(self, name, value)

    @property
    def is_foreign(self) -> bool:
        """Whether code of the user's is trained: a model, a function or a command."""
        return self.train is not None or self.command is not None or self.has_own_model

    @property
    def has_own_model(self) -> bool:
        """Whether isoscale trains a model of the user's."""
        return callable(self.model) or (isinstance(self.model, str) and ":" in self.model)

    @property
    def loop(self) -> Loop:
        """What isoscale does beside the optimizer's steps."""
        return Loop(
            schedule=self.schedule,
            warmup=self.warmup,
            clip=self.clip,
            accumulate=self.accumulate,
            autocast=self.autocast,
        )

    @property
    def quantity(self) -> Quantity:
        """What trials are judged by.

        >>> Sweep(metric="metrics.py:accuracy", better="higher").quantity
        Quantity(name='accuracy', better='higher')
        """
        if self.metric is None or self.better is None:
            return Quantity()
        given = self.metric
        name = given.rpartition(":")[2] if isinstance(given, str) else getattr(given, "__name__", "")
        # A lambda, or what functools.partial makes, has no name.
        return Quantity(name.rpartition(".")[2] if name.isidentifier() else "metric", self.better)

    @property
    def subject(self) -> str:
        """What is trained, as a person says it: "residual-mlp (phi=relu), digits, sgd", or "train.py:train"."""
        if self.command is not None:
            return self.command
        if self.train is not None:
            return _plain(self.train)
        if self.has_own_model:
            data = f", {self.dataset_name}" if self.dataset else ""
            return f"{_plain(self.model)}{data}, {self.optimizer}"
        options = ", ".join(f"{key}={value}" for key, value in self.model_args.items())
        model = f"{self.model} ({options})" if options else self.model
        return f"{model}, {self.dataset_name}, {self.optimizer}"

    @property
    def dataset_name(self) -> str:
        """The data set's name, also of one that is in memory."""
        return self.dataset if isinstance(self.dataset, str) else self.dataset.name

    @property
    def axes(self) -> dict[str, tuple[Any, ...]]:
        """Values of every axis, by the name of its dimension in a result, slowest first.

        >>> list(Sweep(command="./run {lr} {seed}", lrs=[0.1], seeds=2).axes)
        ['rule', 'lr', 'seed']
        """
        sizes = {"width": self.widths, "depth": self.depths, "batch_size": self.batch_sizes}
        axes: dict[str, Any] = {"rule": self.rule} | {name: values for name, values in sizes.items() if values}
        if isinstance(self.steps, tuple):
            axes["steps"] = self.steps
        axes.update(self.sizes)
        if self.search == "random":
            # The points are told apart by their learning rates, and hold the other hyperparameters.
            axes["lr"] = tuple(point["lr"] for point in self.drawn)
        else:
            axes.update(self.hyperparameters, lr=self.lrs)
        axes["seed"] = self.seeds
        return axes

    @functools.cached_property
    def drawn(self) -> list[dict[str, Any]]:
        """The points of a random search, ascending in the learning rate: a value of every tuned hyperparameter."""
        from isoscale.runs import points

        return points.drawn(self.lrs, self.hyperparameters, self.linear, self.points or _POINTS)

    @property
    def longest(self) -> int:
        """The length of its longest runs, in steps."""
        if self.budget_axis != "steps":
            return max(spent.steps for spent in self._spendings())
        return self.steps if isinstance(self.steps, int) else max(self.steps)

    @property
    def largest_batch(self) -> int:
        """The largest batch size of its trials."""
        if self.budget_axis != "steps":
            return max(spent.batch_size for spent in self._spendings())
        return max(self.batch_sizes, default=self.batch_size)

    @property
    def groups(self) -> list[tuple[dict[str, Any], tuple[float, ...]]]:
        """What trains together: a value on each axis but the learning rate and the seed, and its learning rates.

        >>> spec = Sweep(depths=[4, 8], hyperparameters={"weight_decay": [0.1, 1]})
        >>> spec.groups[0][0], len(spec.groups), len(dataclasses.replace(spec, search="random", points=8).groups)
        ({'rule': 'completep', 'width': 64, 'depth': 4, 'weight_decay': 0.1}, 4, 16)
        """
        cells = self.cells
        if self.search != "random":
            return [(cell, tuple(self.lrs)) for cell in cells]
        found: list[tuple[dict[str, Any], tuple[float, ...]]] = []
        for cell in cells:
            for point in self.drawn:
                others = {name: value for name, value in point.items() if name != "lr"}
                found.append((cell | others, (point["lr"],)))
        return found

    @property
    def size_axes(self) -> tuple[str, ...]:
        """Names of the axes that are sizes."""
        sizes = ("width", "depth", "batch_size", "steps", *self.sizes)
        return tuple(name for name in self.axes if name in sizes)

    @property
    def trials(self) -> int:
        """How many trials the grid has."""
        axes = self.axes
        if not self.paired:
            return math.prod(map(len, axes.values()))
        return len(self.cells) * len(axes["lr"]) * len(axes["seed"])

    @property
    def cells(self) -> list[dict[str, Any]]:
        """What is trained at every learning rate with every seed: a value on each other axis, in their order.

        >>> Sweep(widths=[16, 32], depths=[2, 4], paired=True).cells[1]
        {'rule': 'completep', 'width': 32, 'depth': 4}
        """
        axes = {name: values for name, values in self.axes.items() if name not in ("lr", "seed")}
        cells = [dict(zip(axes, values, strict=True)) for values in itertools.product(*axes.values())]
        if not self.paired:
            return cells
        path = self._path
        return [cell for cell in cells if tuple(cell[name] for name in self._long_sizes) in path]

    @property
    def shortens(self) -> bool:
        """Whether a trial of fewer steps is a shorter one: a command need not hear of steps."""
        return self.command is None or "{steps}" in self.command

    def only(self, cell: Mapping[str, Any]) -> Sweep:
        """The sweep with one value on each of those axes.

        >>> Sweep(depths=[4, 8]).only({"depth": 8}).axes["depth"]
        (8,)
        """
        spent = self.spending(cell)
        changes: dict[str, Any] = {"paired": False, "budget_axis": "steps", "steps": spent.steps}
        if "batch_size" not in cell:
            changes["batch_size"] = spent.batch_size
        if self.budget != "none":
            # One size alone would be its own base.
            base = self._base_spending
            changes["base_sizes"] = {**self.base_sizes, "batch_size": base.batch_size, "steps": base.steps}
        fields = {"width": "widths", "depth": "depths", "batch_size": "batch_sizes"}
        sizes, tuned = dict(self.sizes), dict(self.hyperparameters)
        for name, value in cell.items():
            if name == "rule":
                changes["rule"] = (value,)
            elif name in fields:
                changes[fields[name]] = (value,)
            elif name != "steps":
                (sizes if name in sizes else tuned)[name] = (value,)
        return dataclasses.replace(self, sizes=sizes, hyperparameters=tuned, **changes)

    @property
    def _long_sizes(self) -> list[str]:
        """The size axes with several values."""
        return [name for name in self.size_axes if len(self.axes[name]) > 1]

    @property
    def _path(self) -> set[tuple[Any, ...]]:
        """The sizes of a path, as they go together."""
        return set(zip(*(self.axes[name] for name in self._long_sizes), strict=True))

    def _check_search(self) -> None:
        if self.search is not None and self.search not in SEARCHES:
            raise unknown("`search`", str(self.search), SEARCHES)
        if self.search == "random":
            self._check_points()
        elif self.points is not None or self.linear != ():
            name = "points" if self.points is not None else "linear"
            raise InvalidValueError(f'`{name}` is for a random search: give it with search="random"')
        lengths = {name: len(self.axes[name]) for name in self._long_sizes}
        if self.paired and len(set(lengths.values())) > 1:
            counts = ", ".join(f"{count} of {name}" for name, count in lengths.items())
            raise InvalidValueError(f"`paired` sizes need as many values on every axis, got {counts}")

    def _check_points(self) -> None:
        """Ranges that points can be drawn from."""
        self._set("linear", tuple(_items("linear", self.linear)))
        for name in self.linear:
            if name not in self.hyperparameters:
                raise unknown("hyperparameter of this sweep", str(name), self.hyperparameters)
        if len(self.lrs) < 2:
            raise InvalidValueError(
                "a random search draws the learning rate too: give `lrs` its least and its greatest"
            )
        for name, values in self.hyperparameters.items():
            if isinstance(values[0], str):
                raise InvalidValueError(
                    f"`hyperparameters` {name} has texts: a random search draws numbers; use a grid"
                )
            if name not in self.linear and not values[0] > 0:
                raise InvalidValueError(
                    f"`hyperparameters` {name} is drawn in its logarithm, which {values[0]} has none of: begin above "
                    "0, or name it in `linear`"
                )
        if self.points is not None:
            self._set("points", _count("points", self.points))

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
        **others: Any,
    ) -> AnyTrial:
        """One trial as its parts.

        Of a model: `.model()`, `.plan`, `.batches()`, `.loss(output, y)`; a plain loop over these gives the stored
        curve. Of a training function: what it is called with.

        Args:
            rule, width, depth, lr, seed: Which; one that the sweep has a single value of may be left out. Values that
                the sweep does not have are fine.
            data: Folder of the data sets; by default `$ISOSCALE_DATA`.
            device: Where its model and batches are.
            **others: Values of the sweep's other axes, likewise.

        Raises:
            InvalidValueError: An axis with several values that is left out, one that the sweep does not have, or a
                value that makes no sense.
            PlanError: The rule cannot be applied to the model.

        >>> trial = Sweep(widths=[16], depths=[2, 4], steps=3).trial(depth=4, lr=0.125, seed=0)
        >>> trial, len(list(trial.batches()))
        (Trial(rule=completep, width=16, depth=4, lr=0.125, seed=0), 3)
        """
        from isoscale.runs.trainers import registry

        given = others | {"rule": rule, "width": width, "depth": depth, "lr": lr, "seed": seed}
        axes = self.axes
        if self.search == "random":
            axes = axes | self._at_point(lr)
        for name, value in given.items():
            if value is not None and name not in axes:
                raise unknown("axis of this sweep", name, axes)
        cell = {name: _one(name, given.get(name), values) for name, values in axes.items()}
        if not (self.is_foreign and cell["rule"] == NO_RULE):
            cell["rule"] = _rule(cell["rule"])
        for name in self.size_axes:
            if name not in self.sizes:
                cell[name] = whole(name, cell[name])
        cell["lr"] = number("lr", cell["lr"], above=0)
        cell["seed"] = whole("seed", cell["seed"], least=0)
        return registry.trial(self, cell, data, device)

    def _at_point(self, lr: float | None) -> dict[str, tuple[Any, ...]]:
        """The values that hyperparameters may have in one trial: those of its point, if it is at one."""
        at = [point for point in self.drawn if point["lr"] == lr]
        if at:
            return {name: (value,) for name, value in at[0].items() if name != "lr"}
        return {name: tuple(values) for name, values in self.hyperparameters.items()}

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
        with needed("sweep", by="writing TOML"):
            import tomli_w

        return tomli_w.dumps(self.to_mapping())

    def to_mapping(self) -> dict[str, Any]:
        """Plain values that `from_mapping` turns back into an equal sweep."""
        values = {}
        for f in dataclasses.fields(self):
            value = getattr(self, f.name)
            # An axis that is not there is not written, nor what the user's code does not have.
            if f.name in ("batches", "eval_batches", "dataset") and not isinstance(value, (str, type(None))):
                # Tensors are no plain values: these cannot be read back.
                values[f.name] = _plain(value) if callable(value) else f"{type(value).__name__} in memory"
            elif value is not None and value not in ((), ""):
                values[f.name] = _plain(value)
        return values


def _one(name: str, value: Any, values: Any) -> Any:
    """The value given, or the only one that there is."""
    if value is not None:
        return value
    if len(values) != 1:
        raise InvalidValueError(f"`{name}` must be given: the sweep has {', '.join(map(str, values))}")
    return values[0]


def _lengths(steps: object) -> int | tuple[int, ...]:
    """One length, or several as an axis; one alone is none, so that its trials are those of the plain number."""
    if isinstance(steps, (str, bytes, Mapping)) or not isinstance(steps, Iterable):
        return whole("steps", steps)
    lengths = _distinct("steps", [whole("steps", length) for length in _items("steps", steps)])
    return lengths if len(lengths) > 1 else lengths[0]


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
        # A whole number may be too large for a float.
        shown = value if isinstance(value, int) and value > 0 else float(value)  # pyrefly: ignore[bad-argument-type]
        raise InvalidValueError(f"`lrs` must be positive and finite, got {shown}") from None


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


def _check_pattern(pattern: object) -> None:
    if not isinstance(pattern, str):
        raise InvalidTypeError(f"`loss_pattern` must be a regular expression, got {pattern!r}")
    try:
        groups = re.compile(pattern).groups
    except re.error as error:
        raise InvalidValueError(f"`loss_pattern` is no regular expression: {error}: {pattern}") from error
    if groups < 1:
        raise InvalidValueError(f"`loss_pattern` has no group that is the loss, as r'loss ([0-9.]+)' has: {pattern}")


def _axis_value(name: str, value: object) -> int | float | str:
    """One value of an axis of the user's own: a finite number or a text."""
    if isinstance(value, str):
        return value
    if isinstance(value, numbers.Integral) and not isinstance(value, bool):
        return whole(name, value, least=-LARGEST)
    return number(name, value)


def _distinct(name: str, values: list[Any]) -> tuple[Any, ...]:
    """The values in order; numbers sorted, so that equal grids are equal however they were typed."""
    if not values:
        raise InvalidValueError(f"`{name}` is empty: give at least one")
    if len(set(values)) < len(values):
        raise InvalidValueError(f"`{name}` has a value twice: {', '.join(map(str, values))}")
    texts = [value for value in values if isinstance(value, str)]
    if texts and len(texts) < len(values):
        raise InvalidTypeError(f"`{name}` has numbers and texts: {', '.join(map(repr, values))}")
    return tuple(values) if texts else tuple(sorted(values))


def _plain(value: Any) -> Any:
    if callable(value):
        from isoscale.runs.trainers.fingerprint import reference

        return reference(value)
    if isinstance(value, Mapping):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in value]
    return value
