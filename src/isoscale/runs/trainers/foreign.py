"""One trial of the user's own code: what determines it, where its log is, and what became of it."""

from __future__ import annotations

import dataclasses
import functools
import itertools
import json
import math
import numbers
import os
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from isoscale.errors import InvalidTypeError, InvalidValueError
from isoscale.runs import worker
from isoscale.runs.keys import digest
from isoscale.runs.record import Status, TrialRecord
from isoscale.runs.spec import NO_RULE, Sweep
from isoscale.runs.trainers.handed import HandedTrial
from isoscale.scaling.budget import NO_BUDGET
from isoscale.training import Member

# How long after its time limit a trial has to come to an end.
_GRACE_SECONDS = 10.0

# Optimizers whose steps are the same in a batched program as torch's, up to round-off: signs and orthogonal factors
# turn round-off into whole steps.
_STACKED = ("sgd", "adam", "adamw")

# Numbers of a trial that have a column of their own in the store.
_COLUMNS = ("test_loss", "test_accuracy")


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """What became of a trial.

    Attributes:
        status, reason: As in `TrialRecord`.
        curve: Loss at each step, as far as it is known.
        numbers: What was measured, by name: "loss" if there is more to it than the curve's end.
    """

    status: Status = "done"
    reason: str = ""
    curve: list[float] = field(default_factory=list)
    numbers: dict[str, float] = field(default_factory=dict)


class Program(Protocol):
    """The user's code, as it travels to a worker.

    Attributes:
        kind: "function", "command" or "module".
        name: What a person calls it: "train.py:train", "train.py".
    """

    @property
    def kind(self) -> str: ...
    @property
    def name(self) -> str: ...

    def run(self, trial: HandedTrial, log: Path, seconds: float | None, count: Callable[[int], None]) -> Outcome:
        """Train one trial; whatever goes wrong in the user's code is an outcome.

        Args:
            trial: Which.
            log: File to which its output is appended.
            seconds: Time limit.
            count: Called with the number of steps finished since its last call.
        """
        ...


@dataclass(frozen=True, kw_only=True)
class ForeignShard:
    """A trial of the user's own code, a shard by itself.

    Attributes:
        program: What trains it.
        members: Its learning rate and seed; empty if nothing is left to run.
        shared: What determines it beside these, by name (`keys.digest`), its code's fingerprint "source" among them.
        store: File beside which its log and its folder are.
        time_limit: Seconds; None: as long as it takes.
    """

    program: Program
    members: tuple[Member, ...]
    shared: Mapping[str, Any]
    store: str
    time_limit: float | None

    @functools.cached_property
    def id(self) -> str:
        """The trial's key: two sweeps that both have it share the lease."""
        (key,) = self.keys
        return key

    @functools.cached_property
    def company(self) -> str | None:
        """What trials have in common that could train together, as one batched program; None if it trains alone."""
        family = self.shared.get("optimizer", {}).get("family")
        if self.program.kind != "module" or self.time_limit is not None or family not in _STACKED:
            return None
        tuned = self.shared["hyperparameters"]
        alike = {name: value for name, value in self.shared.items() if name not in ("rule", "hyperparameters")}
        # Each member has a decay and an eps of its own.
        alike["hyperparameters"] = {n: value for n, value in tuned.items() if n not in ("weight_decay", "eps")}
        return digest(alike)

    @functools.cached_property
    def keys(self) -> tuple[str, ...]:
        """The trial's key."""
        return tuple(digest(self.settings(member)) for member in self.members)

    def settings(self, member: Member) -> dict[str, Any]:
        """Everything that determines the trial, as plain values."""
        return dict(self.shared) | {"lr": member.lr, "seed": member.seed}

    def only(self, keys: set[str]) -> ForeignShard:
        """The shard if its key is in `keys`, else one with nothing to run."""
        return self if keys.issuperset(self.keys) else dataclasses.replace(self, members=())

    @property
    def rule(self) -> str:
        """Name of its rule, "-" if the sweep has none."""
        return self.shared["rule"]

    @functools.cached_property
    def twin(self) -> str | None:
        """What it shares with the trials of other rules at the base's own size, where no rule changes anything.

        Only of a model whose plan isoscale asks for: what a function makes of its rule, nobody else knows.
        """
        base = self.shared.get("base")
        sizes = {name: size for name, size in self.shared["sizes"].items() if name != "batch_size"}
        if base is None or self.rule == NO_RULE or dict(base) != sizes:
            return None
        return digest({name: value for name, value in self.shared.items() if name != "rule"})

    @property
    def label(self) -> str:
        """Which trial, for a person."""
        (member,) = self.members
        shown = {} if self.rule == NO_RULE else {"rule": self.rule}
        shown |= self.shared["sizes"]
        shown |= self.shared["hyperparameters"]
        shown |= {"lr": f"{member.lr:g}", "seed": member.seed}
        words = [f"{name} {value}" for name, value in shown.items()]
        return ", ".join([self.program.name, *words])

    @property
    def note(self) -> str:
        """Which code trains it."""
        version = f", version {self.shared['version']}" if self.shared["version"] else ""
        return f"{self.program.name}{version}, source {self.shared['source'][:8]}"

    @property
    def member_steps(self) -> int:
        """Steps of the trial; of a command, which counts none, as many as that."""
        return self.shared.get("steps", 1)

    @property
    def cost(self) -> float:
        """Larger for what likely takes longer."""
        sizes = self.shared["sizes"]
        return sizes.get("depth", 1) * sizes.get("width", 1) ** 2

    @property
    def hard_limit(self) -> float | None:
        """Seconds after which its worker is ended, for code in it that hears no time limit; a program is not in it."""
        if self.time_limit is None or self.program.kind == "command":
            return None
        return self.time_limit + _GRACE_SECONDS

    @property
    def log(self) -> Path:
        """File of its output."""
        (key,) = self.keys
        return Path(f"{self.store}.logs", f"{key}.log")

    @property
    def folder(self) -> Path:
        """Where it keeps its own files; made when it asks for it."""
        (key,) = self.keys
        return Path(f"{self.store}.trials", key)

    def handed(self, device: str) -> HandedTrial:
        """The trial as the user's code sees it."""
        (member,), (key,) = self.members, self.keys
        return HandedTrial(self.settings(member), key=key, device=device, folder=self.folder)

    def run(self, device: str, progress: Callable[[int], None] | None = None) -> list[TrialRecord]:
        """Train it."""
        self.note_down(f"{time.strftime('%Y-%m-%d %H:%M:%S')}  {self.label}")
        started = time.monotonic()
        outcome = self.program.run(self.handed(device), self.log, self.time_limit, progress or (lambda _: None))
        seconds = time.monotonic() - started
        return [self.recorded(outcome, seconds, json.dumps(worker.versions(device)))]

    def recorded(self, outcome: Outcome, seconds: float, ran: str, note: str = "") -> TrialRecord:
        """The trial's record, and the end of its log.

        Args:
            outcome: What became of it.
            seconds: How long it took.
            ran: JSON of the versions that ran it.
            note: How it was run, for its log.
        """
        (member,) = self.members
        if note:
            self.note_down(f"{time.strftime('%Y-%m-%d %H:%M:%S')}  {self.label}: {note}")
        reason = f": {outcome.reason}" if outcome.reason else ""
        self.note_down(f"{outcome.status} after {seconds:.1f} s{reason}")
        measured = outcome.numbers | {"seconds": round(seconds, 3)}
        columns = {name: measured.pop(name, math.nan) for name in _COLUMNS}
        return worker.record(
            self,
            member,
            ran,
            status=outcome.status,
            reason=outcome.reason,
            curve=np.array(outcome.curve, "f4"),
            numbers=json.dumps(measured),
            **columns,
        )

    def note_down(self, line: str) -> None:
        """Write a line of isoscale's own into the trial's log."""
        self.log.parent.mkdir(parents=True, exist_ok=True)
        _write(self.log, f"--- {line}")


def shards(
    spec: Sweep, program: Program, settings: Mapping[str, Any], source: str, store: str | os.PathLike[str]
) -> list[ForeignShard]:
    """The trials of a sweep, in the order of its axes, each a shard.

    Args:
        spec, program: Of which, and what trains them.
        settings: What determines them beside their axes.
        source: Fingerprint of the code.
        store: File beside which their logs and their folders are.
    """
    seeds, path = spec.axes["seed"], os.path.abspath(store)
    found: list[ForeignShard] = []
    for cell, lrs in spec.groups:
        shared = _shared(spec, program, cell, settings, source)
        for lr, seed in itertools.product(lrs, seeds):
            found.append(_shard(spec, program, Member(lr, seed), shared, path))
    return found


def shard(
    spec: Sweep, program: Program, cell: Mapping[str, Any], settings: Mapping[str, Any], source: str
) -> ForeignShard:
    """One trial of a sweep, for a loop of one's own: beside no store.

    Args:
        spec, program, settings, source: As for `shards`.
        cell: Its value on each axis.
    """
    shared = _shared(spec, program, cell, settings, source)
    return _shard(spec, program, Member(cell["lr"], cell["seed"]), shared, os.path.abspath("isoscale.db"))


def _shard(spec: Sweep, program: Program, member: Member, shared: Mapping[str, Any], store: str) -> ForeignShard:
    return ForeignShard(program=program, members=(member,), shared=shared, store=store, time_limit=spec.time_limit)


def _shared(
    spec: Sweep, program: Program, cell: Mapping[str, Any], settings: Mapping[str, Any], source: str
) -> dict[str, Any]:
    """What determines the trials of a cell beside their learning rates and seeds."""
    size_axes = spec.size_axes
    sizes = {name: cell[name] for name in size_axes if name != "steps"}
    identity: dict[str, Any] = {
        "rule": cell["rule"],
        "sizes": sizes,
        "hyperparameters": {name: cell[name] for name in spec.hyperparameters},
    }
    # A length among several is the trial that it is alone; and so is one that follows from another size.
    if "steps" in cell or spec.budget_axis != "steps":
        spent = spec.spending(cell)
        identity["steps"] = spent.steps
        if "batch_size" not in sizes:
            identity["batch_size"] = spent.batch_size
    # Where a listing of the store looks for them.
    identity |= {name: sizes[name] for name in ("width", "depth", "batch_size") if name in sizes}
    budget = spec.spent(identity.get("batch_size"), identity.get("steps"))
    if budget != NO_BUDGET:
        identity["budget"] = budget.canonical()
    identity |= {"trainer": program.kind, "model": program.name, "version": spec.version or "", "source": source}
    return dict(settings) | identity


# --- what user code gives back ---
def diverged(curve: list[float]) -> Outcome:
    """The outcome of a trial whose next loss after these was not finite."""
    return Outcome(status="diverged", reason=f"loss not finite at step {len(curve)}", curve=[*curve, math.nan])


def measured(value: object, what: str, curve: list[float], axes: Mapping[str, Any]) -> Outcome:
    """The outcome of a trial whose code gave this back.

    Args:
        value: A loss, or a mapping with "loss"; None if the curve says it.
        what: Where it comes from, for the reason: "train returned".
        curve: Loss at each step.
        axes: Names that a further number cannot have.
    """
    if value is None and curve:
        return Outcome(curve=curve)
    try:
        found = _numbers(value, what, axes)
        if "loss" not in found and not curve:
            raise InvalidValueError(f'{what} a mapping without "loss"; it has: {", ".join(found) or "nothing"}')
    except (InvalidValueError, InvalidTypeError) as error:
        return Outcome(status="failed", reason=str(error), curve=curve)
    loss = found.get("loss", 0.0)
    if not math.isfinite(loss):
        return Outcome(status="diverged", reason=f"the loss is {loss}", curve=curve)
    return Outcome(curve=curve, numbers=found)


def as_number(value: object, what: str, noun: str = "a loss") -> float:
    """A loss, or what else should be one, as a number: a plain one, or a tensor or array of one element.

    Raises:
        InvalidTypeError: Anything else.

    >>> as_number(np.float32(0.5), "train returned")
    0.5
    """
    shape = getattr(value, "shape", None)
    if shape is not None and hasattr(value, "item"):
        if math.prod(shape) != 1:
            raise InvalidTypeError(f"{what} a tensor of shape {tuple(shape)}: {noun} is one number")
        # Of a tensor that requires grad this is its value all the same.
        value = value.item()  # pyrefly: ignore[missing-attribute]
    if isinstance(value, bool) or not isinstance(value, numbers.Real):
        shown = repr(value)
        shown = shown if len(shown) < 80 else f"{shown[:80]}..."
        raise InvalidTypeError(f"{what} {shown}: {noun} is one number")
    return float(value)


def _numbers(value: object, what: str, axes: Mapping[str, Any]) -> dict[str, float]:
    if not isinstance(value, Mapping):
        return {"loss": as_number(value, what)}
    found = {}
    for name, number in value.items():
        if name in axes or name in ("status", "curve", "step", "seconds"):
            raise InvalidValueError(f"{what} a number named `{name}`, which is something else: call it otherwise")
        try:
            found[str(name)] = as_number(number, f"{what} under `{name}`")
        except InvalidTypeError:
            if name == "loss":
                raise
            # A path, a text: what is no number cannot be kept beside a loss, and spoils none.
    return found


def _write(log: Path, line: str) -> None:
    with log.open("a", encoding="utf-8", errors="replace") as file:
        file.write(line + "\n")
