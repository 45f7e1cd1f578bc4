"""Any nn.Module, trained by isoscale's plain loop: one model a trial, its plan's groups in torch's optimizer."""

from __future__ import annotations

import inspect
import itertools
import math
import os
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset, IterableDataset, TensorDataset, default_collate

from isoscale.data.samples import as_array, check_lengths, is_pair_of_arrays
from isoscale.errors import InvalidTypeError, InvalidValueError
from isoscale.parametrization.make_plan import Reading, read
from isoscale.parametrization.plan import Plan
from isoscale.runs import worker
from isoscale.runs.spec import Sweep
from isoscale.runs.trainers import calls, fingerprint, foreign
from isoscale.runs.trainers.code import Code, code, handed
from isoscale.runs.trainers.foreign import ForeignShard, Outcome
from isoscale.runs.trainers.function import called_with
from isoscale.runs.trainers.handed import HandedTrial
from isoscale.training.config import batch_order
from isoscale.training.loop import Loop
from isoscale.training.precision import autocast
from isoscale.training.torch_optimizers import optimizers
from isoscale.user_code import described

# More held-out batches than that are most likely the training's, which have no end.
_MOST_HELD_OUT = 20_000

# So many readings of models a program keeps.
_MOST_READINGS = 64


def shards(spec: Sweep, data: str | None, store: str | os.PathLike[str]) -> list[ForeignShard]:
    """The trials of a sweep, each a shard.

    Raises:
        InvalidValueError: The factory, the batches or the loss are not there, or cannot be sent to a worker.
    """
    program = _program(spec, data)
    return foreign.shards(spec, program, _settings(spec, program), program.source, store)


def trial(spec: Sweep, cell: Mapping[str, Any], data: str | None, device: str) -> ModuleTrial:
    """One trial of a sweep, for a loop of one's own."""
    program = _program(spec, data)
    one = foreign.shard(spec, program, cell, _settings(spec, program), program.source)
    return program.trial(one.handed(device))


def _settings(spec: Sweep, program: ModuleProgram) -> dict[str, Any]:
    """What determines a trial beside its axes: here the base does, which isoscale's own loop makes."""
    settings = called_with(spec) | {"base": dict(program.base), "loop": program.loop.canonical()}
    # Its source is the program's; without a metric a trial is another one, and not one of earlier code.
    return settings if program.metric is None else settings | {"metric": program.metric_name}


def _program(spec: Sweep, data: str | None) -> ModuleProgram:
    base = {name: size for name, size in spec.base_sizes.items() if name in spec.sizes}
    for name, size in (("width", spec.base_width), ("depth", spec.base_depth)):
        if name in spec.axes:
            base[name] = size
    loss_fn = spec.loss_fn
    if spec.batches is None:
        batches, held_out = _of_dataset(spec, data)
        loss_fn = loss_fn or cross_entropy
    else:
        batches = _source(spec.batches, "batches", spec.accumulate)
        held_out = None if spec.eval_batches is None else _source(spec.eval_batches, "eval_batches", 0)
    assert loss_fn is not None  # `Sweep` saw to it
    return ModuleProgram(
        make=code(spec.model),
        batches=batches,
        loss_fn=code(loss_fn),
        held_out=held_out,
        base=base,
        loop=spec.loop,
        metric=None if spec.metric is None else code(spec.metric),
        metric_name=spec.quantity.name,
    )


def _source(given: Any, name: str, accumulate: int) -> Code:
    """Batches by a function, by its place, as they are, or drawn from samples."""
    if is_pair_of_arrays(given):
        x, y = (as_array(f"{name}[{place}]", part) for place, part in enumerate(given))
        check_lengths(x, y)
        given = Samples(TensorDataset(x, y), accumulate)
    elif isinstance(given, Dataset):
        given = Samples(given, accumulate)
    elif isinstance(given, str) or callable(given):
        return code(given)
    else:
        return handed(f"`{name}`", fingerprint.of_value(given), given)
    return handed(f"`{name}`", fingerprint.of_value([vars(given.samples), accumulate]), given)


@dataclass(frozen=True)
class Samples:
    """Batches of samples in memory, in the order of the trial's seed; held-out ones in their own order.

    Attributes:
        samples: A data set of torch's.
        accumulate: Batches in a step; 0 of those that are held out.
    """

    samples: Any
    accumulate: int

    def __call__(self, trial: HandedTrial) -> Iterator[Any]:
        size = trial.batch_size
        if isinstance(self.samples, IterableDataset):
            # These have an order of their own, and no number.
            yield from DataLoader(self.samples, size, drop_last=self.accumulate > 0)
            return
        count = len(self.samples)
        order = torch.arange(count).split(size)
        if self.accumulate:
            order = batch_order(count, size, trial.steps * self.accumulate, trial.seed)
        for rows in order:
            if isinstance(self.samples, TensorDataset):
                yield self.samples[rows]
                continue
            yield default_collate([self._sample(row) for row in rows.tolist()])

    def _sample(self, row: int) -> Any:
        try:
            return self.samples[row]
        except Exception as error:
            raise InvalidValueError(f"sample {row} of `batches` cannot be read: {described(error)}") from error


def _of_dataset(spec: Sweep, data: str | None) -> tuple[Code, Code]:
    """Batches of one of isoscale's data sets, and of its held-out samples."""
    name, folder, args = spec.dataset, data, tuple(spec.dataset_args.items())
    if not isinstance(name, str):
        name, folder = "arrays", str(worker.kept(name))
    found = worker.read(name, folder, args)
    if spec.largest_batch > len(found.train_x):
        raise InvalidValueError(
            f"`batch_size` must be at most the {len(found.train_x)} training samples of {spec.dataset_name}, "
            f"got {spec.largest_batch}"
        )
    # Keys from before batches went on through a step are those of one batch a step.
    many = str(spec.accumulate) if spec.accumulate > 1 else ""
    batches = _Training(name, folder, args, spec.accumulate)
    training = handed(name, f"{found.fingerprint}_Training{many}", batches)
    held_out = handed(name, f"{found.fingerprint}_HeldOut", _HeldOut(name, folder, args))
    return training, held_out


@dataclass(frozen=True)
class _Training:
    """Batches of a data set, in the order in which isoscale's own networks see them."""

    name: str
    folder: str | None
    args: tuple[tuple[str, Any], ...]
    accumulate: int

    def __call__(self, trial: HandedTrial) -> Iterator[tuple[Tensor, Tensor]]:
        found = worker.read(self.name, self.folder, self.args)
        for rows in batch_order(len(found.train_x), trial.batch_size, trial.steps * self.accumulate, trial.seed):
            yield found.train_x[rows], found.train_y[rows]


@dataclass(frozen=True)
class _HeldOut:
    """The held-out samples of a data set."""

    name: str
    folder: str | None
    args: tuple[tuple[str, Any], ...]

    def __call__(self, trial: HandedTrial) -> Iterator[tuple[Tensor, Tensor]]:
        found = worker.read(self.name, self.folder, self.args)
        size = trial.batch_size
        yield from zip(found.test_x.split(size), found.test_y.split(size), strict=True)


def cross_entropy(output: Tensor, y: Tensor) -> Tensor:
    """Mean cross-entropy over the last axis, as isoscale's own networks are trained on."""
    return F.cross_entropy(output.flatten(0, -2), y.flatten())


class ModuleTrial:
    """One trial of a model of the user's, as isoscale's loop trains it.

        model = trial.model()
        optimizer = torch.optim.AdamW(trial.plan.param_groups())
        for x, y in trial.batches():
            loss = trial.loss(model(x), y)
            ...

    Attributes:
        handed: Its sizes, learning rate, seed and the rest.
        loss: loss(model(x), y), one number.
    """

    def __init__(
        self,
        trial: HandedTrial,
        make: Callable[..., Any],
        batches: Any,
        loss_fn: Callable[[Any, Any], Tensor],
        base: Mapping[str, Any],
        loop: Loop,
        readings: dict[str, Reading],
    ) -> None:
        self.handed, self.loss = trial, loss_fn
        self._loop, self._readings = loop, readings
        self._make, self._batches, self._base = make, batches, base
        self._plan: Plan | None = None

    @property
    def plan(self) -> Plan:
        """The plan at the trial's learning rate, bound to the model that was made last."""
        if self._plan is None:
            self.model()
        assert self._plan is not None
        return self._plan

    def model(self) -> nn.Module:
        """A fresh model with the plan's initial weights; the same ones each time."""
        trial = self.handed
        sizes = {name: size for name, size in trial.sizes.items() if name != "batch_size"}
        model = self._made(sizes)
        with calls.seeded(trial.seed):
            x, _ = _pair(next(endless(self._batches, trial)))
            self._plan = trial.parametrize(model, self._reading(model, x))
        return model.to(trial.device)

    def _reading(self, model: nn.Module, x: Any) -> Reading:
        """What the model is beside its base: once for the trials that differ in rule and learning rate alone."""
        key, readings = self.handed.of_model, self._readings
        if key not in readings:
            if len(readings) == _MOST_READINGS:
                del readings[next(iter(readings))]
            readings[key] = read(model, self._made(self._base), x if isinstance(x, Mapping) else inputs(x))
        return readings[key]

    def _made(self, sizes: Mapping[str, Any]) -> nn.Module:
        seed = self.handed.seed
        given = dict(sizes) | ({"seed": seed} if _takes(self._make, "seed") else {})
        # A factory that knows no seed draws from the global generator.
        with calls.seeded(seed):
            model = self._make(**given)
        if not isinstance(model, nn.Module):
            raise InvalidTypeError(f"`model` must make a torch.nn.Module, got {type(model).__name__}")
        return model

    def lr_factor(self, step: int) -> float:
        """What isoscale's loop multiplies the learning rates by at a step, counted from 0."""
        return self._loop.lr_factor(step, self.handed.steps)

    def batches(self) -> Iterator[tuple[Any, Any]]:
        """(x, y) after (x, y), on the trial's device, without an end; the same at every size."""
        for batch in endless(self._batches, self.handed):
            x, y = _pair(batch)
            yield moved(x, self.handed.device), moved(y, self.handed.device)


@dataclass(frozen=True)
class ModuleProgram:
    """A model with its data and its loop, as it travels to a worker.

    Attributes:
        make, batches, loss_fn, held_out: The user's.
        base: Sizes at which the rules change nothing.
        loop: What is done beside the optimizer's steps.
        metric, metric_name: What trials are judged by instead of the loss, and what it is called; None if by the loss.
    """

    make: Code
    batches: Code
    loss_fn: Code
    held_out: Code | None
    base: Mapping[str, Any]
    loop: Loop
    metric: Code | None = None
    metric_name: str = ""
    # What was read of its models, by what they depend on: a trace costs as much as some steps of a small model. A
    # new program reads anew, as code may have changed that no fingerprint sees.
    _readings: dict[str, Reading] = field(default_factory=dict, init=False, compare=False, repr=False)

    kind = "module"

    def __getstate__(self) -> dict[str, Any]:
        return vars(self) | {"_readings": {}}

    @property
    def name(self) -> str:
        """What a person calls it."""
        return self.make.name

    @property
    def source(self) -> str:
        """Fingerprint of all of the code, and of the data that travels."""
        return fingerprint.of_value([one.source for one in self._codes()])

    def _codes(self) -> list[Code]:
        optional = [one for one in (self.held_out, self.metric) if one is not None]
        return [self.make, self.batches, self.loss_fn, *optional]

    def trial(self, trial: HandedTrial) -> ModuleTrial:
        """The parts of a trial."""
        parts = self.make.value(), self.batches.value(), self.loss_fn.value()
        return ModuleTrial(trial, *parts, self.base, self.loop, self._readings)

    def run(self, trial: HandedTrial, log: Path, seconds: float | None, count: Callable[[int], None]) -> Outcome:
        """Train the model (`foreign.Program.run`)."""
        for one in self._codes():
            one.check()
        return self.judged(calls.outcome(self._train, self.name, trial, log, seconds, count))

    def judged(self, outcome: Outcome) -> Outcome:
        """The outcome of a trial; diverged if its metric is not finite."""
        value = outcome.numbers.get(self.metric_name, 0.0)
        if outcome.status != "done" or math.isfinite(value):
            return outcome
        return Outcome(status="diverged", reason=f"`{self.metric_name}` is {value}", curve=outcome.curve)

    def _train(self, trial: HandedTrial) -> Generator[float, None, dict[str, float] | None]:
        parts = self.trial(trial)
        model = parts.model()
        yield from self.descend(model, parts)
        return self.evaluated(model, parts)

    def descend(self, model: nn.Module, parts: ModuleTrial) -> Iterator[float]:
        """Train a model that `parts` made last, and yield the loss before each step."""
        plan, trial = parts.plan, parts.handed
        steppers = optimizers(plan.settings.optimizer, plan.param_groups())
        groups = [group for stepper in steppers for group in stepper.param_groups]
        rates = [group["lr"] for group in groups]
        batches = parts.batches()
        # Models of every size drew differently many numbers: the batches, and the masks of dropout, begin anew.
        calls.seed_torch(trial.seed)
        for step in range(trial.steps):
            factor = parts.lr_factor(step)
            for group, rate in zip(groups, rates, strict=True):
                group["lr"] = rate * factor
            yield self._step(model, steppers, parts, batches)

    def _step(
        self,
        model: nn.Module,
        steppers: Iterable[torch.optim.Optimizer],
        parts: ModuleTrial,
        batches: Iterator[tuple[Any, Any]],
    ) -> float:
        """One step on `accumulate` batches; their mean loss before it."""
        total = 0.0
        for stepper in steppers:
            stepper.zero_grad()
        for x, y in itertools.islice(batches, self.loop.accumulate):
            loss = self.loss(model, parts, x, y) / self.loop.accumulate
            loss.backward()
            total += float(loss.detach())
        if self.loop.clip is not None:
            nn.utils.clip_grad_norm_(model.parameters(), self.loop.clip)
        for stepper in steppers:
            stepper.step()
        return total

    def loss(self, model: nn.Module, parts: ModuleTrial, x: Any, y: Any) -> Tensor:
        """The model's loss on a batch, in the loop's precision."""
        with autocast(self.loop, parts.handed.device):
            return parts.loss(called(model, x), y)

    @torch.no_grad()
    def evaluated(self, model: nn.Module, parts: ModuleTrial) -> dict[str, float] | None:
        """Mean loss and metric over the held-out batches, by name; None if there are none.

        Raises:
            InvalidValueError: They have no end, or with a metric not a single one.
            InvalidTypeError: The metric is no number.
        """
        if self.held_out is None:
            return None
        model.eval()
        held_out, trial = self.held_out.value(), parts.handed
        metric = None if self.metric is None else self.metric.value()
        found = held_out
        if callable(held_out):
            found = held_out(trial) if inspect.signature(held_out).parameters else held_out()
        losses, values = [], []
        for batch in found:
            if len(losses) == _MOST_HELD_OUT:
                raise InvalidValueError(f"`eval_batches` has no end: it has more than {_MOST_HELD_OUT:,} batches")
            x, y = (moved(one, trial.device) for one in _pair(batch))
            with autocast(self.loop, trial.device):
                output = called(model, x)
                losses.append(float(parts.loss(output, y)))
                if metric is not None:
                    value = metric(output, y)
                    values.append(foreign.as_number(value, f"`metric` {self.metric_name} returned", "a metric"))
        measured = {"test_loss": sum(losses) / len(losses) if losses else math.nan}
        if metric is not None:
            if not values:
                raise InvalidValueError("`eval_batches` has no batch to measure the metric on")
            measured[self.metric_name] = sum(values) / len(values)
        return measured


# --- batches ---
def endless(source: Any, trial: HandedTrial) -> Iterator[Any]:
    """Batches without an end: the source again and again; a function is called with the trial if it takes one.

    Raises:
        InvalidValueError: It has no batch.
    """
    while True:
        found = source
        if callable(source):
            found = source(trial) if inspect.signature(source).parameters else source()
        is_empty = True
        for batch in found:
            is_empty = False
            yield batch
        if is_empty:
            raise InvalidValueError("`batches` has no batch")


def inputs(x: Any) -> tuple[Any, ...]:
    """The model's positional arguments."""
    return tuple(x) if isinstance(x, (tuple, list)) else (x,)


def called(model: nn.Module, x: Any) -> Any:
    """The model's output: of a mapping by name, of a tuple by position, of anything else as it is."""
    return model(**x) if isinstance(x, Mapping) else model(*inputs(x))


def moved(value: Any, device: str) -> Any:
    """The value with its tensors on a device."""
    if isinstance(value, Mapping):
        return {name: moved(item, device) for name, item in value.items()}
    if isinstance(value, (tuple, list)):
        return type(value)(moved(item, device) for item in value)
    return value.to(device) if hasattr(value, "to") else value


def _pair(batch: Any) -> tuple[Any, Any]:
    if not isinstance(batch, (tuple, list)) or len(batch) != 2:
        shown = f"{len(batch)} values" if isinstance(batch, (tuple, list)) else type(batch).__name__
        raise InvalidTypeError(f"`batches` must be pairs (x, y), got {shown}")
    return batch[0], batch[1]


def _takes(make: Callable[..., Any], name: str) -> bool:
    parameters = inspect.signature(make).parameters.values()
    return any(one.name == name or one.kind is one.VAR_KEYWORD for one in parameters)
