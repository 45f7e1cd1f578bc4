"""Trials of a model of the user's that train together, as one batched program, where that pays; else one at a time.

Whether it pays is measured on the trials themselves, by a few steps of one alone, of a few together and of all of them
together. The losses of these steps are compared too: a model that is not the same in company trains alone. What was
decided, and why, stands in each trial's log.
"""

from __future__ import annotations

import copy
import json
import math
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from isoscale.errors import InvalidValueError
from isoscale.graph.swapping import restored, swapped
from isoscale.parametrization.plan import Plan
from isoscale.runs import worker
from isoscale.runs.record import TrialRecord
from isoscale.runs.trainers import calls, foreign
from isoscale.runs.trainers.foreign import ForeignShard, Outcome
from isoscale.runs.trainers.handed import HandedTrial
from isoscale.runs.trainers.module import ModuleProgram, ModuleTrial
from isoscale.training import Member
from isoscale.training.memory import is_out_of_memory
from isoscale.training.module_stack import ModuleStack
from isoscale.training.steppers import added, clipped, stepper
from isoscale.user_code import described

# More than that gain little by one more, and are lost together if they are interrupted.
MOST = 32

# A measurement takes some twenty steps of a trial: it is not made for less than twenty times as many.
LEAST_STEPS = 400

# Steps of a measurement; the first of them warms up and is not counted.
_PROBE = 4

# How many train together first: where these gain nothing, more do not either.
_FEW = 4

# Gains that are believed: of a few together, which would grow with their number, and of what is then chosen.
_SIGN_OF_GAIN, _GAIN = 1.1, 1.15

# What trains together is lost together when the sweep is ended: at most about so many seconds, of each worker, unless
# even a few take longer.
_LONGEST = 600.0

# Numbers in all copies of the parameters: more of them leave the caches, and copies of large models fill the memory.
_NUMBERS = 2**24

# Round-off of a few steps is far below, another computation far above.
_TOLERANCE = 1e-3

_LOOK_EVERY = 10

# A member's batches are drawn some at a time, since its generators are put in place for it: at most so many, and bytes.
_BLOCK, _BLOCK_BYTES = 16, 2**20

# How many train together of what this process has measured, by what they have in common.
_measured: dict[str, int] = {}


class AloneError(InvalidValueError):
    """Trials that do not train together, and why."""


@dataclass(frozen=True)
class Stack:
    """Trials that are tried together.

    Attributes:
        shards: The trials, alike in all that shapes depend on (`ForeignShard.company`).
    """

    shards: tuple[ForeignShard, ...]

    @property
    def id(self) -> str:
        """That of the first of them."""
        return self.shards[0].id

    @property
    def members(self) -> tuple[Member, ...]:
        """Learning rate and seed of each."""
        return tuple(member for shard in self.shards for member in shard.members)

    @property
    def member_steps(self) -> int:
        """Steps of all of them."""
        return sum(shard.member_steps for shard in self.shards)

    @property
    def hard_limit(self) -> float | None:
        """Trials with a time limit train alone."""
        return None

    def run(self, device: str, progress: Callable[[int], None] | None = None) -> list[TrialRecord]:
        """Train as many as pay together, or the first of them alone; the others do not come back."""
        count = progress or (lambda _: None)
        counted = 0

        def counting(steps: int) -> None:
            nonlocal counted
            counted += steps
            count(steps)

        log = self.shards[0].log
        log.parent.mkdir(parents=True, exist_ok=True)
        started = time.monotonic()
        try:
            with calls.captured(log):
                group = _trained([shard.handed(device) for shard in self.shards], self.shards[0], counting)
                outcomes = group.outcomes()
        except AloneError as error:
            why = str(error)
        except (Exception, SystemExit) as error:
            why = described(error)
            if is_out_of_memory(error) and len(self.shards) > 2:
                why = ""
        else:
            seconds = (time.monotonic() - started) / len(outcomes)
            return [
                shard.recorded(outcome, seconds, _versions(device, group), group.note)
                for shard, outcome in zip(self.shards, outcomes, strict=False)
            ]
        count(-counted)
        if not why:
            # Outside of the handler, whose error keeps every tensor alive.
            return Stack(self.shards[: len(self.shards) // 2]).run(device, progress)
        company = self.shards[0].company
        assert company is not None
        _measured[company] = 1
        for shard in self.shards:
            shard.note_down(f"trains alone: {why}")
        return self.shards[0].run(device, progress)


def joined(shards: Sequence[ForeignShard]) -> ForeignShard | Stack:
    """One trial as it is, several as a stack."""
    return shards[0] if len(shards) == 1 else Stack(tuple(shards))


def _versions(device: str, group: _Group) -> str:
    """Sums of a batched program are taken in another order than those of one model."""
    return json.dumps(worker.versions(device) | {"together": str(len(group.members))})


# --- how many pay ---
def _trained(trials: Sequence[HandedTrial], shard: ForeignShard, count: Callable[[int], None]) -> _Group:
    """The first of the trials, as many as train fastest together, after their last step.

    Raises:
        AloneError: One alone is not slower.
        Exception: What the user's code raises, or what `torch.vmap` does not take.
    """
    program, company = shard.program, shard.company
    assert isinstance(program, ModuleProgram)
    assert company is not None
    known = _measured.get(company)
    if known == 1:
        raise AloneError("as was measured before")
    if known is not None:
        group = _Group(program, trials[:known], count)
    else:
        group = _fastest(program, trials, count)
        if len(group.members) < len(trials):
            _measured[company] = len(group.members)
        elif len(trials) == MOST:
            _measured[company] = MOST
    group.advance(trials[0].steps)
    return group


def _fastest(program: ModuleProgram, trials: Sequence[HandedTrial], count: Callable[[int], None]) -> _Group:
    """The group that takes least for each of its members, by a measurement, and where that left it."""
    alone = _Alone(program, trials[0])
    most = min(len(trials), _NUMBERS // max(1, alone.numbers))
    if most < 2:
        raise AloneError(f"a model of {alone.numbers:,} parameters fills the processor by itself")
    # One measurement is enough for hardly more than a few.
    few = most if most < 2 * _FEW else _FEW
    best = _probed(program, trials[:few], alone, count)
    if alone.seconds < _SIGN_OF_GAIN * best.seconds_of_one:
        raise AloneError(f"{few} together take {best.seconds_of_one / alone.seconds:.2f} times as long for each")
    if few < most:
        larger = _probed(program, trials[:most], alone, count)
        best = larger if larger.seconds_of_one <= best.seconds_of_one else best
    gain = alone.seconds / best.seconds_of_one
    if gain < _GAIN:
        raise AloneError(f"{len(best.members)} together are only {gain:.2f} times as fast as one after another")
    timely = max(few, int(_LONGEST / max(best.seconds_of_one * trials[0].steps, 1e-9)))
    if timely < len(best.members):
        best = _probed(program, trials[:timely], alone, count)
        gain = alone.seconds / best.seconds_of_one
    best.note = f"trained together with {len(best.members) - 1} others, each {gain:.1f} times as fast as alone"
    return best


def _probed(
    program: ModuleProgram, trials: Sequence[HandedTrial], alone: _Alone, count: Callable[[int], None]
) -> _Group:
    group = _Group(program, trials, count)
    group.advance(_PROBE)
    alone.compare(group)
    return group


class _Alone:
    """The first steps of a trial by itself.

    Attributes:
        seconds: Of a step.
        numbers: How many parameters its model has.
    """

    def __init__(self, program: ModuleProgram, trial: HandedTrial) -> None:
        clock = _clock(trial.device)
        times: list[float] = []
        self._losses: list[float] = []
        with calls.seeded(trial.seed):
            parts = program.trial(trial)
            model = parts.model()
            before = {name: buffer.clone() for name, buffer in model.named_buffers()}
            steps = program.descend(model, parts)
            for _ in range(_PROBE):
                began = clock()
                self._losses.append(next(steps))
                times.append(clock() - began)
        self.seconds = min(times[1:])
        self.numbers = sum(param.numel() for param in model.parameters())
        self._buffers = dict(model.named_buffers())
        self._buffers_before = before

    def compare(self, group: _Group) -> None:
        """Raise AloneError if the first member of a group went another way."""
        in_company = [float(losses[0]) for losses in group.curve[:_PROBE]]
        for step, (own, other) in enumerate(zip(self._losses, in_company, strict=True)):
            if not _is_close(own, other):
                raise AloneError(f"in company its loss at step {step} is {other:.6g}, alone {own:.6g}")
        # A forward that replaces a buffer, rather than writing into it, is not seen by a stack. What is written follows
        # the parameters, of which one without a gradient, a bias below a batch norm, is moved by round-off.
        for name, buffer in self._buffers.items():
            moved = (buffer.double() - self._buffers_before[name].double()).norm()
            apart = (buffer.double() - group.stack.buffers[name][0].double()).norm()
            if apart > 0.25 * moved + 1e-6 * buffer.double().norm():
                raise AloneError(f"in company its buffer `{name}` has other numbers")


def _is_close(one: float, other: float) -> bool:
    if not math.isfinite(one):
        return not math.isfinite(other)
    return math.isclose(one, other, rel_tol=_TOLERANCE, abs_tol=1e-6)


def _clock(device: str) -> Callable[[], float]:
    """Seconds of this process: what else the machine does is not counted. A GPU's are those of the wall."""
    if not device.startswith("cuda"):
        return time.process_time

    def now() -> float:
        torch.cuda.synchronize(device)
        return time.perf_counter()

    return now


# --- a group ---
class _Start:
    """Where the trials of one rule, seed and further hyperparameters begin, whatever their learning rate.

    Attributes:
        model: With its initial weights.
        plan: At learning rate 1.
        generators: Of random numbers, as they are when the first batch is drawn.
    """

    model: nn.Module
    plan: Plan

    def __init__(self, program: ModuleProgram, trial: HandedTrial) -> None:
        with calls.seeded(trial.seed):
            parts = program.trial(trial.at_lr(1.0))
            self.model = parts.model()
            self.plan = parts.plan
            calls.seed_torch(trial.seed)
            self.generators = calls.generators()


class _Member:
    """One trial of a group."""

    def __init__(self, program: ModuleProgram, trial: HandedTrial, start: _Start) -> None:
        self.trial, self.start = trial, start
        self.parts: ModuleTrial = program.trial(trial)
        self._generators = start.generators
        self._source = self.parts.batches()
        self._drawn: deque[tuple[Any, Any]] = deque()
        self._left = trial.steps * program.loop.accumulate

    def batch(self) -> tuple[Any, Any]:
        """The next one; drawn as if nobody else drew from the global generators."""
        if not self._drawn:
            self.with_generators(self._draw)
        return self._drawn.popleft()

    def _draw(self) -> None:
        self._drawn.append(next(self._source))
        size = max(1, _bytes(self._drawn[0]))
        more = min(_BLOCK, _BLOCK_BYTES // size, self._left) - 1
        for _ in range(more):
            self._drawn.append(next(self._source))
        self._left -= len(self._drawn)

    def with_generators(self, work: Callable[[], Any]) -> Any:
        """Do something with the trial's own generators in place of the global ones, and remember where they are."""
        before = calls.generators()
        calls.put_back(self._generators)
        try:
            return work()
        finally:
            self._generators = calls.generators()
            calls.put_back(before)


class _Group:
    """Trials in training as one batched program.

    Attributes:
        members: The trials.
        stack: Their models.
        curve: The losses of all of them before each step, (members,).
        note: For their logs.
    """

    def __init__(self, program: ModuleProgram, trials: Sequence[HandedTrial], count: Callable[[int], None]) -> None:
        self._program, self._count = program, count
        starts: dict[Any, _Start] = {}
        self.members: list[_Member] = []
        for trial in trials:
            key = (trial.rule, trial.seed, json.dumps(trial.hyperparameters))
            if key not in starts:
                starts[key] = _Start(program, trial)
            self.members.append(_Member(program, trial, starts[key]))
        self.stack = ModuleStack([member.start.model for member in self.members])
        planned = {id(start): {entry.name: entry for entry in start.plan.entries} for start in starts.values()}
        self._steppers = []
        for name, param in self.stack.trained.items():
            entries = [planned[id(member.start)][name] for member in self.members]
            self._steppers.append(stepper(param.detach(), entries, [trial.lr for trial in trials]))
        self.curve: list[Tensor] = []
        self.note = f"trained together with {len(trials) - 1} others, as was measured before"
        self._clock = _clock(trials[0].device)
        self._times: list[float] = []

    @property
    def seconds_of_one(self) -> float:
        """Seconds of a step, for each member: the fastest, as whatever disturbs a step makes it slower."""
        return min(self._times[1:]) / len(self.members)

    def advance(self, until: int) -> None:
        """Train up to that step, or until all have diverged."""
        steps = self.members[0].trial.steps
        while len(self.curve) < until:
            is_timed = len(self.curve) < _PROBE
            began = self._clock() if is_timed else 0.0
            self._step(len(self.curve), steps)
            if is_timed:
                self._times.append(self._clock() - began)
            self._count(len(self.members))
            if len(self.curve) % _LOOK_EVERY == 0 and not self.curve[-1].isfinite().any():
                break

    def _step(self, step: int, steps: int) -> None:
        loop = self._program.loop
        if loop.has_schedule:
            for one in self._steppers:
                one.scale_lr(loop.lr_factor(step, steps))
        grads: list[Tensor | None] = []
        total: list[Tensor] = []
        for _ in range(loop.accumulate):
            batches = [member.batch() for member in self.members]
            x, y = together(batches)
            losses = self.stack.losses(self._loss, x, y, is_shared=False)
            if step == 0 and not total:
                self._check(batches, losses)
            losses = losses / loop.accumulate
            total.append(losses.detach())
            grads = added(grads, self.stack.gradients(losses))
        if loop.clip is not None:
            grads = clipped(grads, loop.clip, len(self.members))
        for one, grad in zip(self._steppers, grads, strict=True):
            # As torch's optimizers do, a tensor without a gradient is left as it is.
            if grad is not None:
                one.step(grad)
        self.curve.append(sum(total[1:], total[0]))

    def _loss(self, model: nn.Module, x: Any, y: Any) -> Tensor:
        return self._program.loss(model, self.members[0].parts, x, y)

    @torch.no_grad()
    def _check(self, batches: Sequence[tuple[Any, Any]], losses: Tensor) -> None:
        """Raise AloneError if a member has another loss by itself: models may differ in more than their tensors."""
        for member, (x, y), loss in zip(self.members, batches, losses, strict=True):
            model = member.start.model
            own_buffers = {name: buffer.clone() for name, buffer in model.named_buffers()}
            with restored(model), swapped(model, own_buffers):
                alone = float(self._program.loss(model, member.parts, x, y))
            if not _is_close(alone, float(loss)):
                raise AloneError(f"{member.trial} has a first loss of {float(loss):.6g} in company, {alone:.6g} alone")

    def outcomes(self) -> list[Outcome]:
        """What became of each member."""
        table = torch.stack(self.curve, dim=1).double().cpu().numpy()
        return [self._outcome(number, row.tolist()) for number, row in enumerate(table)]

    def _outcome(self, number: int, curve: list[float]) -> Outcome:
        member, program = self.members[number], self._program
        for step, loss in enumerate(curve):
            if not abs(loss) <= calls.LARGEST:
                return foreign.diverged(curve[:step])
        model = copy.deepcopy(member.start.model)
        self.stack.write(number, model)
        found = member.with_generators(lambda: program.evaluated(model, member.parts))
        axes = member.trial.sizes | member.trial.hyperparameters
        return program.judged(foreign.measured(found, f"{program.name} yielded no loss and returned", curve, axes))


def together(batches: Sequence[Any]) -> Any:
    """The batches of all members as one, each tensor with a new first axis.

    Raises:
        AloneError: They hold something else than tensors.

    >>> x, y = together([(torch.zeros(2), torch.ones(1)), (torch.ones(2), torch.ones(1))])
    >>> x.shape, y.shape
    (torch.Size([2, 2]), torch.Size([2, 1]))
    """
    first = batches[0]
    if isinstance(first, Tensor):
        return torch.stack(list(batches))
    if isinstance(first, Mapping):
        return {name: together([batch[name] for batch in batches]) for name in first}
    if isinstance(first, (tuple, list)):
        return tuple(together(parts) for parts in zip(*batches, strict=True))
    raise AloneError(f"its batches hold {type(first).__name__}, not tensors alone")


def _bytes(value: Any) -> int:
    return sum(tensor.nbytes for tensor in _tensors(value))


def _tensors(value: Any) -> Iterator[Tensor]:
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, Mapping):
        for item in value.values():
            yield from _tensors(item)
    elif isinstance(value, (tuple, list)):
        for item in value:
            yield from _tensors(item)
