"""A learning rate from a short race instead of a sweep.

Estimates from one step see the initialisation, while the best learning rate is set by the next tens of steps: each is
one to two octaves (factors of two) off, and no constant mends it. So they only say where to look. Learning rates an
octave apart around their median start from the same weights, see the same batches and train for a few steps; those
around the best go on, and the best of those for longer still. Where the loss is flat several are as good as each
other, their order is noise, and the middle of them is the best guess. So the answer is their mean, in the logarithm of
the learning rate, weighted by how near each one's loss is to the lowest; it is tried for as long as the second heat
and recommended if it trains. How far that is from a swept optimum was measured: `race_error`.
"""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from importlib import resources
from typing import NamedTuple

import numpy as np
import torch

from isoscale.errors import InvalidValueError
from isoscale.measure.max_update import MaxUpdate, max_update_lr
from isoscale.measure.tools.building import Factory, check_finite_data, checked_batches
from isoscale.measure.tools.experiment import Experiment, Progress
from isoscale.measure.tools.heats import Group, Heats
from isoscale.measure.tools.line import along_step
from isoscale.measure.tools.notes import notes_on
from isoscale.measure.tools.passes import Batch, LossFn, call, one_number, parameters
from isoscale.scaling.optimizers import FAMILIES, OptimizerFamily, family_of

# Chosen on the networks of benchmarks/lr_race.py that its page does not show, and on no others.
_OCTAVES = range(-4, 4)
_FIRST_STEPS = 6
# The second heat has the best of the first, so many octaves below it and so many above. More above: where a network
# starts too sharp, a large learning rate overshoots first and is the better one later.
_BELOW, _ABOVE, _SECOND_STEPS = 2, 3, 16
_FINALISTS, _LAST_STEPS = 4, 56
# Of all heats but the first the last part of the steps counts.
_COUNTED = 1 / 2
# Losses that differ by less are as good as each other: a share of the loss itself, and, while little is learned, of
# what was learned.
_CLOSE, _CLOSE_IN_PROGRESS = 0.01, 0.05
# So many octaves beside a learning rate that was trained for the whole race no other is tried.
_SAME = 0.1
# Where steps do not shrink with the gradient the best learning rate falls as training goes on: between the end of a
# race and 256 steps by half an octave.
_LATER = {"linear": 0.0, "entrywise": -0.5, "spectral": -0.5}

# How often a heat may move on, where its best is at an end or nothing trains.
_MOVES = 4

# A training step is one forward pass and a backward pass of about twice its work.
_PASSES_PER_STEP = 3

RACE_BATCHES = _LAST_STEPS
"""How many batches a race has a use for."""


class Heat(NamedTuple):
    """Learning rates that started together, ascending.

    Attributes:
        steps: Of each, from the beginning: those that go on from another heat have some behind them.
        lrs: Learning rates.
        losses: Mean over seeds and over the steps that count: all of a first heat, the second half of any other;
            infinite where a seed diverged.
    """

    steps: int
    lrs: tuple[float, ...]
    losses: tuple[float, ...]


@dataclass(frozen=True, kw_only=True)
class Race:
    """A recommended learning rate, and how it was found.

    Attributes:
        lr: The recommended learning rate; NaN if no learning rate lowers the loss.
        loss: What it reached in the last heat; NaN likewise.
        untrained_loss: The untrained network's loss on the batches that count in the longest heat.
        estimates: Learning rates from the first step alone, by name: "AM-muP", "line-search minimum" and
            "line-search return"; those that exist, each the geometric mean over seeds.
        centre: Their median, around which the race began.
        heats: What ran, in that order; the last is the recommended rate's own if that was no rate of another heat.
        steps: What it all cost, in training steps of one network; a forward pass counts a third.
        max_update: The AM-muP estimate with its parts; None if it does not exist.
        notes: What a reader should know: batch statistics, dropout, missing estimates, too few batches.
    """

    lr: float
    loss: float
    untrained_loss: float
    estimates: dict[str, float]
    centre: float
    heats: tuple[Heat, ...]
    steps: int
    max_update: MaxUpdate | None
    notes: tuple[str, ...]


def race_lr(
    make_model: Factory,
    batches: Sequence[Batch],
    loss_fn: LossFn,
    *,
    optimizer: OptimizerFamily = "sgd",
    seeds: int | Sequence[int] = 1,
    progress: Progress | None = None,
) -> Race:
    """Recommend a learning rate after about 300 training steps.

    Small networks race as one stack by `torch.func.vmap`. Large ones, and those that it does not take, race one after
    the other and begin each heat again, which takes about 420.

    Args:
        make_model: Called with `seed` if it takes one. Its networks train in the mode in which it makes them.
        batches: (x, y) pairs, used in turn; 56 different ones or more are best.
        loss_fn: loss_fn(model(x), y) is the loss, one number.
        optimizer: "sgd", "adam", "adamw", "sign" or "muon" as in `confirm_lr`, with torch's defaults and without
            weight decay.
        seeds: How many (0, 1, ...) or which, of initialisation and dropout. Each costs a whole race. The measured
            error is that of one.
        progress: Called with the share that is done.

    Returns:
        `Race`. Its learning rate was trained itself: one at which the loss diverges, or ends no lower than the
        untrained network's, is never recommended.

    Raises:
        InvalidValueError: Another optimizer, one that does not step the model, data or an initial loss or gradient
            that is not finite, nothing that can be trained, or one network for all seeds.
        InvalidTypeError: A loss that is not one number; `batches` of another type.

    >>> make = lambda: torch.nn.Linear(4, 1, bias=False)
    >>> x, y = torch.eye(4), torch.ones(4, 1)
    >>> found = race_lr(make, [(x, y)], lambda f, y: (f - y).square().sum() / 2)     # |w - 1|^2 / 2: the best is 1
    >>> round(found.lr, 1), found.loss < 1e-6 < found.untrained_loss
    (1.0, True)
    """
    pairs = checked_batches(batches)
    check_finite_data(pairs)
    experiment = Experiment.of(
        make_model,
        pairs,
        loss_fn,
        seeds=seeds,
        optimizer=family_of(optimizer),
        progress=progress,
    )
    experiment.check_seeds({})
    run = _Running(experiment)
    estimates = run.estimates()
    centre = float(np.median([math.log2(estimate) for estimate in estimates.values()]))
    run.report(0.05)
    first = run.first_heat(centre)
    run.report(0.25)
    last, bar = run.last_heats(first)
    run.report(0.9)
    lr, loss = run.recommended(last, bar)
    run.report(1.0)
    return Race(
        lr=lr,
        loss=loss,
        untrained_loss=bar,
        estimates=estimates,
        centre=2.0**centre,
        heats=tuple(run.heats),
        steps=run.steps,
        max_update=run.max_update,
        notes=tuple(run.notes()),
    )


@dataclass
class _Runners:
    """Learning rates that began together, and still run: octaves, a group for each seed, and how far they are."""

    octaves: list[float]
    groups: list[Group]
    steps: int = 0


class _Running:
    """A race while it runs; learning rates are octaves, their log2, here."""

    def __init__(self, experiment: Experiment) -> None:
        self.experiment = experiment
        self.trainer = Heats(experiment)
        self.heats: list[Heat] = []
        self.max_update: MaxUpdate | None = None
        self.missing: list[str] = []
        self._passes = 0
        self._runners: list[_Runners] = []

    @property
    def steps(self) -> int:
        """The cost so far, in training steps."""
        return math.ceil(self._passes / _PASSES_PER_STEP)

    def report(self, share: float) -> None:
        if self.experiment.progress:
            self.experiment.progress(share)

    # --- where to look ---
    def estimates(self) -> dict[str, float]:
        """What the first step alone says of the learning rate."""
        experiment = self.experiment
        seeds = experiment.seeds
        found: dict[str, float] = {}
        try:
            self.max_update = max_update_lr(
                lambda seed: experiment.build(seed),
                experiment.loss_fn,
                experiment.batches[0],
                optimizer=experiment.family.name,
                seeds=seeds,
            )
        except InvalidValueError as error:
            # A loss that is not finite is refused below; all else leaves the other two estimates.
            self.missing.append(f"no AM-muP estimate: {error}")
        else:
            found["AM-muP"] = self.max_update.lr
            # A gradient, and a forward-mode derivative that costs about as much.
            self._passes += 2 * _PASSES_PER_STEP * len(seeds)
        lines = [along_step(experiment, seed, found.get("AM-muP")) for seed in seeds]
        for line in lines:
            self._passes += _PASSES_PER_STEP + line.passes
        minima = [math.log2(line.minimum) for line in lines if line.minimum > 0]
        returns = [math.log2(line.back) for line in lines if line.back > 0]
        if minima:
            found["line-search minimum"] = 2.0 ** float(np.mean(minima))
        if returns:
            found["line-search return"] = 2.0 ** float(np.mean(returns))
        if not found:
            raise InvalidValueError(
                "no learning rate lowers the loss at the first step: is its gradient zero? Is the readout initialised "
                "to zero, or the model without an effect on the loss?"
            )
        return found

    # --- heats ---
    def first_heat(self, centre: float) -> dict[float, float]:
        """Losses by octave: further ones where the best is at an end, lower ones where all diverge."""
        table: dict[float, float] = {}
        todo = [centre + octave for octave in _OCTAVES]
        for _ in range(_MOVES + 1):
            self._start(todo, beside=True)
            table |= self._advance(_FIRST_STEPS, counted=_FIRST_STEPS)
            octaves = sorted(table)
            best = min(octaves, key=table.__getitem__)
            reach = len(_OCTAVES) // 2
            if not math.isfinite(table[best]) or best == octaves[0]:
                todo = [octaves[0] - octave for octave in range(reach, 0, -1)]
            elif best == octaves[-1]:
                todo = [best + octave for octave in range(1, reach + 1)]
            else:
                break
        return table

    def last_heats(self, first: dict[float, float]) -> tuple[dict[float, float], float]:
        """Losses of the best octaves that end below the untrained network's loss, and that loss."""
        bar = self._untrained(range(_LAST_STEPS - _counted(_LAST_STEPS), _LAST_STEPS))
        self._keep(_around_best(first))
        second = self._advance(_SECOND_STEPS)
        finalists = _best(second, _FINALISTS)
        self._keep(finalists)
        for _ in range(_MOVES + 1):
            table = self._advance(_LAST_STEPS)
            trained = {octave: loss for octave, loss in table.items() if loss < bar}
            if trained:
                break
            # What looked well for a few steps diverges later: lower then.
            finalists = [finalists[0] - octave for octave in range(_FINALISTS, 0, -1)]
            self._start(finalists)
        return trained, bar

    def recommended(self, last: dict[float, float], bar: float) -> tuple[float, float]:
        """The middle of the best, moved to where the optimum is later, if it trains; else the best that did."""
        if not last:
            return math.nan, math.nan
        best = min(last, key=last.__getitem__)
        wanted = _middle(last, bar) + _LATER[self.experiment.family.answer]
        if abs(wanted - best) < _SAME:
            return 2.0**best, last[best]
        self._start([wanted])
        (loss,) = self._advance(_SECOND_STEPS).values()
        if loss < bar:
            return 2.0**wanted, loss
        return 2.0**best, last[best]

    def _start(self, octaves: Sequence[float], *, beside: bool = False) -> None:
        """Begin with learning rates, in place of those that ran before or beside them."""
        if not beside:
            self._runners.clear()
        lrs = [2.0**octave for octave in octaves]
        groups = [self.trainer.start(lrs, seed) for seed in self.experiment.seeds]
        self._runners.append(_Runners(list(octaves), groups))

    def _keep(self, octaves: Sequence[float]) -> None:
        """Go on with those alone."""
        for runners in list(self._runners):
            runners.octaves = [octave for octave in runners.octaves if octave in octaves]
            if not runners.octaves:
                self._runners.remove(runners)
                continue
            for group in runners.groups:
                group.keep([2.0**octave for octave in runners.octaves])

    def _advance(self, until: int, *, counted: int | None = None) -> dict[float, float]:
        """Train those that are not as far yet up to that step; their losses over the last steps, by octave."""
        counted = counted or _counted(until)
        found: dict[float, float] = {}
        for runners in self._runners:
            if runners.steps >= until:
                continue
            scores: list[np.ndarray] = []
            for group in runners.groups:
                before = group.spent
                curves = group.advance(until)
                scores.append(curves[:, -counted:].mean(1))
                self._passes += _PASSES_PER_STEP * (group.spent - before)
            runners.steps = until
            # One seed that diverges rules a learning rate out.
            means = np.mean(scores, axis=0)
            losses = np.where(np.isfinite(means), means, np.inf).tolist()
            found |= zip(runners.octaves, losses, strict=True)
        found = dict(sorted(found.items()))
        lrs = tuple(2.0**octave for octave in found)
        self.heats.append(Heat(until, lrs, tuple(found.values())))
        return found

    def _untrained(self, numbers: range) -> float:
        """Mean loss of the initial networks on the batches of those steps."""
        experiment = self.experiment
        count = len(experiment.batches)
        losses: list[float] = []
        for seed in experiment.seeds:
            model = experiment.build(seed)
            params = parameters(model)
            by_batch: dict[int, float] = {}
            for which in sorted({number % count for number in numbers}):
                x, y = experiment.batches[which]
                with torch.no_grad():
                    output = call(model, params, (x,), seed)
                    by_batch[which] = float(one_number(experiment.loss_fn(output, y)))
            self._passes += len(by_batch)
            losses += [by_batch[number % count] for number in numbers]
        return float(np.mean(losses))

    # --- what to know ---
    def notes(self) -> list[str]:
        notes = notes_on(self.experiment.build(self.experiment.seeds[0]))
        notes += self.missing
        if self.trainer.why_alone:
            notes.append(f"learning rates raced one after the other, because {self.trainer.why_alone}")
        count = len(self.experiment.batches)
        if count < RACE_BATCHES:
            batches = "1 batch" if count == 1 else f"{count} batches"
            notes.append(f"{batches} for {RACE_BATCHES} steps, used again in turn: what is found is how fast they fit")
        return notes


def _counted(steps: int) -> int:
    """How many of the last steps of a heat count."""
    return round(_COUNTED * steps)


def _best(table: dict[float, float], count: int) -> list[float]:
    """The octaves of the lowest losses, ascending."""
    ranked = sorted(table, key=table.__getitem__)
    return sorted(ranked[:count])


def _around_best(table: dict[float, float]) -> list[float]:
    """The octaves that go on after the first heat, ascending."""
    finite = [octave for octave in sorted(table) if math.isfinite(table[octave])]
    if not finite:
        return sorted(table)[: _BELOW + _ABOVE + 1]
    best = finite.index(min(finite, key=table.__getitem__))
    last = min(best + _ABOVE, len(finite) - 1)
    # What is missing above is taken from below.
    first = max(last - _BELOW - _ABOVE, 0)
    return finite[first : last + 1]


def _middle(table: dict[float, float], untrained: float) -> float:
    """Mean octave, each weighted by how close its loss is to the lowest; `untrained` is above all of them."""
    octaves = np.array(list(table))
    losses = np.array(list(table.values()))
    lowest = float(losses.min())
    close = min(_CLOSE * abs(lowest), _CLOSE_IN_PROGRESS * (untrained - lowest))
    if close == 0:
        return float(octaves[losses == lowest].mean())
    with np.errstate(over="ignore", under="ignore"):
        weights = np.exp((lowest - losses) / close)
    return float(np.average(octaves, weights=weights))


# --- how far off it is ---
@dataclass(frozen=True, kw_only=True)
class RaceError:
    """How far recommended learning rates were from swept optima, in octaves (factors of two).

    Attributes:
        optimizer: Under which it was measured.
        networks: How many networks, each at one depth.
        races: How many races, each of one seed.
        steps: Of each trial of the sweeps.
        median, worst: Of |log2(recommended / swept)|.
        nine_in_ten: The ninth decile: nine of ten races are as close or closer.
        good: Share of races within one octave or within 2 % of the swept optimum's loss.
        max_update_median, max_update_nine_in_ten, max_update_worst: Of the AM-muP estimate alone.
    """

    optimizer: str
    networks: int
    races: int
    steps: int
    median: float
    nine_in_ten: float
    worst: float
    good: float
    max_update_median: float
    max_update_nine_in_ten: float
    max_update_worst: float


def race_error(optimizer: OptimizerFamily) -> RaceError | None:
    """The measured error of `race_lr` under an optimizer; None where it was not measured.

    Source: docs/results/lr-without-a-sweep.md, written by benchmarks/lr_race.py together with the numbers here. Adam
    without weight decay is AdamW.

    >>> race_error("adam") == race_error("adamw"), race_error("muon")
    (True, None)
    """
    text = resources.files("isoscale.measure").joinpath("race_error.json").read_text(encoding="utf-8")
    rows = json.loads(text)
    name = "adamw" if optimizer == "adam" else FAMILIES[family_of(optimizer)].name
    return RaceError(**rows[name]) if name in rows else None
