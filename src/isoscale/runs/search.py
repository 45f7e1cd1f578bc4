"""Where the best learning rate of one curve lies: coarse to fine over log2 of the learning rate.

1. *Pilot*: one seed, a quarter of the steps, an octave apart. Rates that diverge there, or are far from the best, are
   never trained in full. Where the pilot has two valleys, the first seed trains both bottoms in full, and the better
   one is followed.
2. *Bracket*: every seed in full, half an octave apart, an octave to either side; further where the optimum lies at an
   end, or where the valley is wider than that.
3. *Cliff*: where the optimum is the limit of stability, the gap between the last rate that trained and the first that
   did not is halved, seed by seed, down to an eighth of an octave.
4. *Seeds*: one more at a time while the interval is wider than asked for, if there are more.

The search of another size starts where this one ended (`start`), and trains this one's rate beside its own (`also`).

A full trial that is *hopeless* is stopped after a quarter or half of its steps: the loss has fallen by less than a
share of what the best trial's had fallen by then (`isoscale.training.hopeless`). What was stopped bounds where the
optimum is, as a trial that diverged does; its loss is not used. What a verdict is read off, `also`, is never stopped.

A search says what it wants next and is told what came of it; who trains, and how many searches share the workers, is
none of its business. Rates are remembered by their log2, in octaves.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

import numpy as np
from jaxtyping import Float

from isoscale.errors import InvalidValueError
from isoscale.stats import Curve, Optimum, find_optimum
from isoscale.training.hopeless import Mark, mark

# Rates of a search are 2^(k / 8): a finer search meets the points of a coarser one.
LATTICE = 8
_FINEST = 1 / LATTICE
_OCTAVE = 1.0
_COARSE = 0.5
# How far a pilot reaches on either side of where another size's optimum was.
_REACH = 2.0
# How far a pilot's range is extended when its best rate lies at its end, and where that stops, in octaves.
_EXTENSION = 4.0
LIMITS = (-40.0, 10.0)
_PILOT_SHARE = 4
# Parts of a full trial after which a hopeless one is stopped.
_CHECKED_AFTER = (1 / 4, 1 / 2)
# Bottoms of a pilot that are trained in full.
_BOTTOMS = 2
# A valley that does not show in so many octaves on either side is flat.
_WIDEST = 3.0
# More seeds train this far on either side of the optimum.
_WINDOW = 1.0
# A position is known to so many decimals of an octave: two that differ by less are one.
_DECIMALS = 9

Trial = tuple[float, int]
"""log2 of the learning rate, and the seed."""


@dataclass(frozen=True)
class Request:
    """Trials that a search wants: every learning rate with every seed.

    Attributes:
        lrs, seeds: The trials.
        steps: Length of each.
        marks: Where hopeless ones are stopped; empty if none is.
    """

    lrs: tuple[float, ...]
    seeds: tuple[int, ...]
    steps: int
    marks: tuple[Mark, ...] = ()

    @property
    def trials(self) -> int:
        """How many there are."""
        return len(self.lrs) * len(self.seeds)


@dataclass(frozen=True, eq=False)
class Course:
    """How one trial went.

    Attributes:
        seen: Its losses, step by step, until it ended, diverged or was stopped.
        is_stopped: Whether it was stopped.
    """

    seen: Float[np.ndarray, " steps"]
    is_stopped: bool


@dataclass(kw_only=True)
class Search:
    """An adaptive search for one optimum.

    Args:
        low, high: Learning rates to begin between; extended by four octaves at a time where the best is at an end.
        seeds: That every learning rate near the optimum is trained with.
        steps: Of a full trial.
        start: Optimum of another size: the pilot then covers two octaves to either side instead of the range.
        also: Learning rates to train in full with every seed, whatever the pilot says of them.
        target: Half-width of the optimum's 95 % interval to reach with more seeds, in octaves.
        more_seeds: Seeds to add, one by one, while the interval is wider.
        shortens: Whether a pilot can be shorter than a full trial.
        hopeless: Share of the best trial's progress below which a full trial is stopped; 0: none is.
        pilots_compare: Whether a pilot is the beginning of a full trial, as it is without a schedule.

    `wanted()` is empty when it has ended; `curve` is then what was measured in full.

    >>> search = Search(low=2.0**-4, high=1.0, seeds=(0, 1), steps=40)
    >>> search.wanted()
    [Request(lrs=(0.0625, 0.125, 0.25, 0.5, 1.0), seeds=(0,), steps=10, marks=())]
    """

    low: float
    high: float
    seeds: tuple[int, ...]
    steps: int
    start: float | None = None
    also: tuple[float, ...] = ()
    target: float = 0.125
    more_seeds: tuple[int, ...] = ()
    shortens: bool = True
    hopeless: float = 0.0
    pilots_compare: bool = False
    _requested: list[Request] | None = None
    _pilots: dict[float, float] = field(default_factory=dict)
    _full: dict[Trial, float] = field(default_factory=dict)
    _stopped: set[Trial] = field(default_factory=set)
    # Every trial that was asked for, by its place, its seed and its length: how many steps it took.
    _asked: dict[tuple[float, int, int], int] = field(default_factory=dict)
    # Those of which something came.
    _told: set[tuple[float, int, int]] = field(default_factory=set)
    # The loss and the course of the best trial, of the pilots and of the full ones.
    _best: dict[int, tuple[float, np.ndarray]] = field(default_factory=dict)
    _centre: float | None = None

    def __post_init__(self) -> None:
        finest = _FINEST / 2
        if not self.target >= finest:
            raise InvalidValueError(f"`target` must be at least {finest} octaves, got {self.target}")
        if not 0 < self.low <= self.high < math.inf:
            raise InvalidValueError(f"`low` and `high` must be 0 < low <= high < inf, got {self.low}, {self.high}")
        ends = (_on_lattice(self.low), _on_lattice(self.high))
        if self.start is not None:
            centre = _on_lattice(self.start)
            ends = (centre - _REACH, centre + _REACH)
        self._range = (max(ends[0], LIMITS[0]), min(ends[1], LIMITS[1]))

    # --- ask and tell ---
    def wanted(self) -> list[Request]:
        """What to train next; empty at the end. The same until `tell`."""
        if self._requested is None:
            self._requested = self._next()
            for request in self._requested:
                for place, seed in itertools.product(map(_place, request.lrs), request.seeds):
                    self._asked[place, seed, request.steps] = request.steps
        return self._requested

    def tell(
        self,
        losses: Mapping[tuple[float, int], float],
        steps: int,
        courses: Mapping[tuple[float, int], Course] | None = None,
    ) -> None:
        """What came of a request of so many steps: the loss of each (lr, seed), not finite where the trial diverged.

        Trials that failed are left out, and not asked for again.

        Args:
            losses: The losses; any of a trial that was stopped.
            steps: Of the request.
            courses: How each trial went, where that is known. Without them nothing is stopped.
        """
        self._requested = None
        for (lr, seed), loss in losses.items():
            place = _place(lr)
            self._told.add((place, seed, steps))
            course = courses.get((lr, seed)) if courses else None
            if course is not None:
                self._asked[place, seed, steps] = min(len(course.seen) + 1, steps)
                if course.is_stopped:
                    self._asked[place, seed, steps] = len(course.seen)
                    self._stopped.add((place, seed))
                    loss = math.inf
                elif math.isfinite(loss) and loss < self._best.get(steps, (math.inf,))[0]:
                    self._best[steps] = (loss, course.seen)
            if steps < self.steps:
                self._pilots[place] = loss
                continue
            self._full[place, seed] = loss
            if seed == self.seeds[0]:
                self._pilots.setdefault(place, loss)

    def _next(self) -> list[Request]:
        pilots = self._pilot_places()
        if pilots:
            return [self._request(pilots, self.seeds[:1], self._pilot_steps)]
        also = self._missing(map(_place, self.also), self.seeds, may_stop=False)
        if also:
            return also
        if not any(map(math.isfinite, self._pilots.values())):
            return []
        if self._centre is None:
            bottoms = self._bottoms()
            unknown = self._missing(bottoms, self.seeds[:1]) if len(bottoms) > 1 else []
            if unknown:
                return unknown
            first = self.seeds[0]
            self._centre = min(bottoms, key=lambda place: self._full.get((place, first), math.inf))
            return self._missing(self._bracket(), self.seeds)
        return self._refined(self.optimum)

    # --- what was found ---
    @property
    def curve(self) -> Curve:
        """What was measured in full."""
        places = [place for place, _ in self._full]
        seeds = [seed for _, seed in self._full]
        rates = 2.0 ** np.array(places, float)
        is_stopped = [trial in self._stopped for trial in self._full]
        return Curve.of_runs(rates, np.array(seeds, int), list(self._full.values()), is_stopped)

    @property
    def optimum(self) -> Optimum:
        """The optimum of `curve`."""
        return find_optimum(self.curve)

    @property
    def full_lrs(self) -> list[float]:
        """The learning rates of `curve`; ascending."""
        return [2.0**place for place in sorted({place for place, _ in self._full})]

    @property
    def asked_in_full(self) -> set[tuple[float, int]]:
        """Learning rate and seed of every full trial that was asked for."""
        return {(2.0**place, seed) for place, seed, steps in self._asked if steps == self.steps}

    @property
    def tried(self) -> list[float]:
        """Every learning rate that was trained at, in a pilot or in full; ascending."""
        places = {place for place, _, _ in self._asked}
        return [2.0**place for place in sorted(places)]

    @property
    def trials(self) -> int:
        """How many trials it took."""
        return len(self._asked)

    @property
    def full_trials(self) -> float:
        """The same with each trial counted by the steps that it took: a pilot is a quarter."""
        return sum(self._asked.values()) / self.steps

    @property
    def stopped(self) -> int:
        """How many of them were stopped."""
        return len(self._stopped)

    @property
    def failures(self) -> list[Request]:
        """What was asked for and failed, pilots included; a request for each length and seed."""
        places: dict[tuple[int, int], list[float]] = {}
        for place, seed, steps in self._asked.keys() - self._told:
            places.setdefault((seed, steps), []).append(place)
        return [self._request(places[seed, steps], (seed,), steps) for seed, steps in sorted(places)]

    # --- the pilot ---
    @property
    def _pilot_steps(self) -> int:
        return max(1, self.steps // _PILOT_SHARE) if self.shortens else self.steps

    def _pilot_places(self) -> list[float]:
        """An octave apart over the whole range, then beyond it where that is needed."""
        low, high = self._range
        count = math.floor((high - low) / _OCTAVE) + 1
        octaves = [low + k * _OCTAVE for k in range(count)]
        return self._unasked(octaves) or self._extension()

    def _extension(self) -> list[float]:
        """More of the range where the best pilot is at its end, or none is stable."""
        if self._centre is not None or not self._pilots:
            return []
        low, high = min(self._pilots), max(self._pilots)
        # Where nothing is stable a smaller learning rate may be.
        best = min(self._pilots, key=lambda place: (_finite(self._pilots[place]), place))
        reach = _EXTENSION if self.start is None else _REACH
        beyond: list[float] = []
        if best == low:
            beyond = self._unasked(_outward(low, -_OCTAVE, reach))
        if best == high and not beyond:
            beyond = self._unasked(_outward(high, _OCTAVE, reach))
        return beyond

    def _unasked(self, places: list[float]) -> list[float]:
        return [place for place in places if not self._was_asked(place, self.seeds[0], self._pilot_steps)]

    def _bottoms(self) -> list[float]:
        """The lowest local minima of the pilot, the lowest first."""
        places = sorted(self._pilots)
        losses = [_finite(self._pilots[place]) for place in places]
        # Beyond the ends of what was tried it only rises.
        before = [math.inf, *losses[:-1]]
        after = [*losses[1:], math.inf]
        found = []
        for place, loss, left, right in zip(places, losses, before, after, strict=True):
            # Of several alike the first.
            if math.isfinite(loss) and left > loss <= right:
                found.append((loss, place))
        lowest = sorted(found)[:_BOTTOMS]
        return [place for _, place in lowest]

    # --- every seed in full ---
    def _bracket(self) -> list[float]:
        """Half an octave apart around the centre, up to the first rate at which the pilot diverged or blew up."""
        assert self._centre is not None
        pilots = _trained(self._pilots)
        lost = [place for place, loss in pilots.items() if not math.isfinite(loss) and place > self._centre]
        places = [self._centre + k * _COARSE for k in (-2, -1, 0, 1, 2)]
        # A rate beside one that every seed was trained at tells nothing more.
        known = [_place(lr) for lr in self.also]
        return [
            place
            for place in _within(places)
            if place < min(lost, default=math.inf) and all(abs(place - other) >= _FINEST for other in known)
        ]

    def _refined(self, optimum: Optimum) -> list[Request]:
        """What the optimum still needs: a wider bracket, a narrower gap at the cliff, or more seeds."""
        if optimum.edge:
            return self._beyond(optimum.edge)
        return self._ends(optimum) or self._gaps(optimum) or self._wider(optimum) or self._another_seed(optimum)

    def _beyond(self, edge: str) -> list[Request]:
        """Further where the optimum lies at the end; downwards also where nothing is stable."""
        places = {place for place, _ in self._full}
        if edge == "high":
            beyond = [max(places) + _COARSE]
        else:
            low = min(places)
            beyond = [low - 2 * _COARSE, low - _COARSE]
        return self._missing(_within(beyond), self.seeds)

    def _ends(self, optimum: Optimum) -> list[Request]:
        """Further for single seeds that are best at the end of what they were run at, near everybody's optimum."""
        seeds_at: dict[float, list[int]] = {}
        for seed in self.seeds:
            losses = self._of_seed(seed)
            if not any(map(math.isfinite, losses.values())):
                continue
            best = min(losses, key=lambda place: _finite(losses[place]))
            beyond = {max(losses): best + _COARSE, min(losses): best - _COARSE}.get(best)
            if beyond is not None and abs(best - optimum.log2_lr) <= _REACH:
                seeds_at.setdefault(beyond, []).append(seed)
        return self._of_seeds(seeds_at)

    def _gaps(self, optimum: Optimum) -> list[Request]:
        """The middle of each seed's gap at the cliff, where the cliff decides and the gap is too wide."""
        if not math.isfinite(optimum.cliff) or optimum.cliff - optimum.log2_lr > _OCTAVE:
            return []
        seeds_at: dict[float, list[int]] = {}
        for seed in self.seeds:
            losses = self._of_seed(seed)
            best = min(losses, key=lambda place: _finite(losses[place]), default=math.inf)
            lost = [place for place, loss in losses.items() if not math.isfinite(loss) and place > best]
            first_lost = min(lost, default=math.inf)
            last = max((place for place in losses if place < first_lost), default=-math.inf)
            if _FINEST < first_lost - last < math.inf:
                # On the lattice, as both ends may be of any rate.
                middle = round((last + first_lost) / 2 * LATTICE) / LATTICE
                if last < middle < first_lost:
                    seeds_at.setdefault(middle, []).append(seed)
        return self._of_seeds(seeds_at)

    def _wider(self, optimum: Optimum) -> list[Request]:
        """An octave more on either side where nothing but noise shows: the valley is wider than the bracket."""
        is_open = not math.isfinite(optimum.low + optimum.high)
        if not is_open or len(self.seeds) < 2:
            return []
        stable = [place for (place, _), loss in self._full.items() if math.isfinite(loss)]
        low, high = min(stable), max(stable)
        if high - low >= 2 * _WIDEST:
            return []
        lost = [place for (place, _), loss in self._full.items() if not math.isfinite(loss)]
        beyond = []
        # Beyond what diverged or was stopped there is no need to look.
        if not any(place < low for place in lost):
            beyond.append(low - _OCTAVE)
        if not any(place > low for place in lost if place <= high + _OCTAVE):
            beyond.append(high + _OCTAVE)
        return self._missing(_within(beyond), self.seeds)

    def _another_seed(self, optimum: Optimum) -> list[Request]:
        """Another seed around the optimum, if the interval is too wide and there are more."""
        half = (optimum.high - optimum.low) / 2
        if not self.more_seeds or half <= self.target:
            return []
        another, *others = self.more_seeds
        self.seeds = (*self.seeds, another)
        self.more_seeds = tuple(others)
        around = {place for place, _ in self._full if abs(place - optimum.log2_lr) <= _WINDOW}
        return self._missing(sorted(around), (another,))

    # --- trials ---
    def _was_asked(self, place: float, seed: int, steps: int) -> bool:
        return (place, seed, steps) in self._asked

    def _of_seed(self, seed: int) -> dict[float, float]:
        """What one seed's full trials gave, by place; inf where it diverged or blew up."""
        return _trained({place: loss for (place, other), loss in self._full.items() if other == seed})

    def _of_seeds(self, seeds_at: Mapping[float, list[int]]) -> list[Request]:
        """Full trials of some seeds at each place, within the limits."""
        requests = []
        for place in _within(seeds_at):
            requests += self._missing([place], tuple(seeds_at[place]))
        return requests

    def _missing(
        self,
        places: Iterable[float],
        seeds: tuple[int, ...],
        *,
        may_stop: bool = True,
    ) -> list[Request]:
        """Full trials at those places that were not run; places that miss the same seeds share a request."""
        by_seeds: dict[tuple[int, ...], list[float]] = {}
        for place in places:
            left = tuple(seed for seed in seeds if not self._was_asked(place, seed, self.steps))
            if left:
                by_seeds.setdefault(left, []).append(place)
        marks = self._marks() if may_stop else ()
        return [self._request(found, left, self.steps, marks) for left, found in by_seeds.items()]

    @staticmethod
    def _request(
        places: Iterable[float],
        seeds: tuple[int, ...],
        steps: int,
        marks: tuple[Mark, ...] = (),
    ) -> Request:
        lrs = tuple(2.0**place for place in sorted(places))
        return Request(lrs, seeds, steps, marks)

    def _marks(self) -> tuple[Mark, ...]:
        """Where full trials are stopped, by the best full trial so far; before there is one, by the best pilot."""
        found = []
        for part in _CHECKED_AFTER if self.hopeless else ():
            step = round(part * self.steps)
            _, course = self._best.get(self.steps, self._best_pilot)
            if 1 <= step <= len(course):
                found.append(mark(course, step, self.hopeless))
        return tuple(one for one in found if one is not None)

    @property
    def _best_pilot(self) -> tuple[float, np.ndarray]:
        """Loss and course of the best pilot, if it is the beginning of a full trial; else nothing."""
        nothing = math.inf, np.empty(0)
        return self._best.get(self._pilot_steps, nothing) if self.pilots_compare else nothing


@dataclass(kw_only=True)
class Grid:
    """Every learning rate of a grid with every seed; the interface of `Search`.

    Where the best one lies at an end, or none is stable, the grid goes on if it `extends`: four octaves more at a time
    with the spacing that it has there, within the limits of `Search`.

    >>> grid = Grid(lrs=(0.5, 1.0), seeds=(0, 1), steps=10)
    >>> [request.trials for request in grid.wanted()]
    [4]
    """

    lrs: tuple[float, ...]
    seeds: tuple[int, ...]
    steps: int
    extends: bool = True
    _losses: dict[tuple[float, int], float] = field(default_factory=dict)
    _asked: list[float] = field(default_factory=list)
    _requested: list[Request] | None = None

    def wanted(self) -> list[Request]:
        """As `Search.wanted`."""
        if self._requested is None:
            lrs = self._extension() if self._asked else self.lrs
            self._requested = [Request(lrs, self.seeds, self.steps)] if lrs else []
            self._asked += lrs
        return self._requested

    def tell(
        self,
        losses: Mapping[tuple[float, int], float],
        steps: int,
        courses: Mapping[tuple[float, int], Course] | None = None,
    ) -> None:
        """As `Search.tell`; no trial of a grid is stopped."""
        assert steps == self.steps
        assert not any(course.is_stopped for course in (courses or {}).values())
        self._requested = None
        self._losses.update(losses)

    def _extension(self) -> tuple[float, ...]:
        edge = self.optimum.edge
        if not edge or not self.extends or not self._losses:
            return ()
        places = sorted(map(math.log2, self._asked), reverse=edge == "high")
        # From the end outwards; a single learning rate goes down.
        end, *inner = places
        step = end - inner[0] if inner else -_OCTAVE
        beyond = _outward(end, step, max(_EXTENSION, abs(step)))
        return tuple(2.0**place for place in sorted(beyond))

    @property
    def curve(self) -> Curve:
        """What was measured."""
        lrs = [lr for lr, _ in self._losses]
        seeds = [seed for _, seed in self._losses]
        return Curve.of_runs(np.array(lrs, float), np.array(seeds, int), list(self._losses.values()))

    @property
    def optimum(self) -> Optimum:
        """The optimum of `curve`."""
        return find_optimum(self.curve)

    @property
    def tried(self) -> list[float]:
        """Every learning rate that was trained at; ascending."""
        return sorted(self._asked)

    @property
    def trials(self) -> int:
        """How many trials it took."""
        return len(self._asked) * len(self.seeds)

    @property
    def full_trials(self) -> float:
        """The same: every trial is a full one."""
        return float(self.trials)


def _place(lr: float) -> float:
    return round(math.log2(lr), _DECIMALS)


def _on_lattice(lr: float) -> float:
    return round(math.log2(lr) * LATTICE) / LATTICE


def _trained(losses: Mapping[float, float]) -> dict[float, float]:
    """The losses of one seed by place, inf where it diverged or blew up."""
    places = sorted(losses)
    curve = Curve.of_runs([2.0**place for place in places], [0] * len(places), [losses[place] for place in places])
    return dict(zip(places, curve.loss.tolist(), strict=True))


def _finite(loss: float) -> float:
    """The loss; inf for any that is not finite, so that none compares with NaN."""
    return loss if math.isfinite(loss) else math.inf


def _within(places: Iterable[float]) -> list[float]:
    low, high = LIMITS
    return [place for place in places if low <= place <= high]


def _outward(end: float, step: float, reach: float) -> list[float]:
    """The places that come next beyond an end, in order: `step` apart (downwards if it is negative), as far as `reach`
    and the limits allow."""
    limit = LIMITS[1] if step > 0 else LIMITS[0]
    room = min((limit - end) / step, reach / abs(step))
    # The ends of a grid are logarithms: round-off must not cost the last place.
    count = math.floor(room + 1e-9)
    return [end + number * step for number in range(1, count + 1)]
