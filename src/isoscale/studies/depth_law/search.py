"""Where the best learning rate of one network at one depth lies: coarse to fine over log2 of the learning rate.

A pilot, one seed for a quarter of the steps and an octave apart, finds the valley: learning rates that diverge there
or are far from the best are never trained in full. Around its bottom all seeds train in full, half an octave apart,
until the minimum is inside; then the gaps beside the minimum are halved until the optimum is known well enough, and
where it is the seeds that disagree, more seeds are trained if they are allowed.

A search says what it wants next and is told what came of it; who trains, and how many searches share the workers, is
none of its business.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, TypeVar

import numpy as np
import xarray as xr

from isoscale import stats as laws
from isoscale.errors import InvalidValueError
from isoscale.stats.summary import seed_mean

# Learning rates are 2^(k / LATTICE), k the position on the lattice: a finer search meets the points of a coarser one.
LATTICE = 8
_OCTAVE = LATTICE
_COARSE = LATTICE // 2
# How far a range is extended when its best learning rate lies at its end, and where that stops.
_EXTENSION = 4 * _OCTAVE
LIMITS = (-40 * _OCTAVE, 10 * _OCTAVE)
_PILOT_SHARE = 4
# More seeds train this far on either side of the optimum.
_WINDOW = _OCTAVE

# A position on the lattice; a learning rate of a grid may lie between.
Position = TypeVar("Position", int, float)


@dataclass(frozen=True)
class Request:
    """Trials that a search wants: every learning rate with every seed.

    Attributes:
        lrs, seeds: The trials.
        steps: Length of each.
    """

    lrs: tuple[float, ...]
    seeds: tuple[int, ...]
    steps: int

    @property
    def trials(self) -> int:
        return len(self.lrs) * len(self.seeds)


@dataclass(kw_only=True)
class Search:
    """An adaptive search for one optimum.

    Args:
        low, high: Learning rates to begin between; extended by four octaves at a time where the best is at an end.
        seeds: That every learning rate near the optimum is trained with.
        steps: Of a full trial.
        target: Half-width of the optimum's 95 % interval to reach, in octaves; also half the largest gap beside it.
        more_seeds: Seeds to add, one by one, while the interval is wider.

    `wanted()` is None when it has ended; `loss` is then what was measured in full.

    >>> search = Search(low=2.0**-4, high=1.0, seeds=(0, 1), steps=40)
    >>> search.wanted()
    Request(lrs=(0.0625, 0.125, 0.25, 0.5, 1.0), seeds=(0,), steps=10)
    """

    low: float
    high: float
    seeds: tuple[int, ...]
    steps: int
    target: float = 0.125
    more_seeds: tuple[int, ...] = ()
    _ran: set[tuple[int, int, int]] = field(default_factory=set)
    _requested: Request | None = None
    _pilots: dict[int, float] = field(default_factory=dict)
    _full: dict[int, dict[int, float]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        finest = 0.5 / LATTICE
        if not self.target >= finest:
            raise InvalidValueError(f"`target` must be at least {finest} octaves, got {self.target}")
        if self.steps < _PILOT_SHARE:
            raise InvalidValueError(f"`steps` of an adaptive search must be >= {_PILOT_SHARE}, got {self.steps}")
        if not 0 < self.low <= self.high < math.inf:
            raise InvalidValueError(f"`low` and `high` must be 0 < low <= high < inf, got {self.low}, {self.high}")
        self._range = (_nearest(self.low), _nearest(self.high))

    # --- ask and tell ---
    def wanted(self) -> Request | None:
        """What to train next; None at the end. The same until `tell`."""
        if self._requested is None:
            self._requested = self._next()
        return self._requested

    def _next(self) -> Request | None:
        pilots = self._pilot_positions()
        if pilots:
            # One seed, a quarter of the steps.
            return _request(pilots, self.seeds[:1], self.steps // _PILOT_SHARE)
        if not any(map(math.isfinite, self._pilots.values())):
            return None
        full = self._full_positions()
        # Asked for more seeds, `_full_positions` has added one to `self.seeds`.
        return _request(full, self.seeds, self.steps) if full else None

    def tell(self, loss: xr.DataArray) -> None:
        """What came of `wanted()`: the objective over (lr, seed), NaN where a trial diverged."""
        request = self._requested
        assert request is not None
        self._requested = None
        for lr in request.lrs:
            position = _nearest(lr)
            values = {}
            for seed in request.seeds:
                values[seed] = float(loss.sel(lr=lr, seed=seed))
                self._ran.add((position, seed, request.steps))
            if request.steps < self.steps:
                self._pilots[position] = values[self.seeds[0]]
            else:
                of_seed = self._full.setdefault(position, {})
                of_seed.update(values)

    # --- what was found ---
    @property
    def loss(self) -> xr.DataArray:
        """The objective over (lr, seed) of learning rates that every seed was trained at in full."""
        losses = self._full
        positions = self._complete()
        if not positions:
            # No pilot was stable: that is known of one seed only.
            positions = sorted(self._pilots)
            losses = {}
            for position, loss in self._pilots.items():
                losses[position] = dict.fromkeys(self.seeds, loss)
        table = []
        for position in positions:
            of_seed = losses[position]
            table.append([of_seed[seed] for seed in self.seeds])
        coords = {
            "lr": _lrs(positions),
            "seed": list(self.seeds),
        }
        return xr.DataArray(table, coords, dims=("lr", "seed"))

    @property
    def trials(self) -> int:
        """How many trials it took."""
        return len(self._ran)

    @property
    def full_trials(self) -> float:
        """The same with each trial counted by its length: a pilot is a quarter."""
        counted = 0.0
        for _, _, steps in self._ran:
            counted += steps / self.steps
        return counted

    # --- the pilot ---
    def _pilot_positions(self) -> list[int]:
        low, high = self._range
        octaves = range(low, high + 1, _OCTAVE)
        missing = [position for position in octaves if position not in self._pilots]
        return missing or self._extension()

    def _extension(self) -> list[int]:
        """More of the range where the best pilot is at its end, or none is stable."""
        if self._full:
            return []
        low = min(self._pilots)
        high = max(self._pilots)
        best = self._best_pilot()
        beyond: list[int] = []
        # Where nothing is stable, `best` is the lowest: a smaller learning rate may be.
        if best == low:
            beyond = _outward(low, -_OCTAVE)
        if best == high and not beyond:
            beyond = _outward(high, _OCTAVE)
        return beyond

    def _best_pilot(self) -> int:
        """Where the pilot's loss is least; the lowest position where none is stable."""
        best = min(self._pilots)
        least = math.inf
        for position, loss in self._pilots.items():
            # No comparison with NaN holds: a pilot that diverged is never the best.
            if loss < least:
                best, least = position, loss
        return best

    # --- the valley ---
    def _full_positions(self) -> list[int]:
        """The next learning rates to train in full; none when the optimum is known."""
        if not self._full:
            best = self._best_pilot()
            low, high = best - _OCTAVE, best + _OCTAVE
            return _within(range(low, high + 1, _COARSE))
        optimum = laws.optimal_lr(self.loss)
        edge = str(optimum["at_edge"].item())
        if edge:
            return self._beyond(edge)
        return self._halved() or self._more_seeds(optimum)

    def _beyond(self, edge: str) -> list[int]:
        """Two more points where the minimum lies at the end; downwards also where nothing is stable."""
        complete = self._complete()
        if edge == "high":
            end = complete[-1]
            return _within([end + _COARSE, end + 2 * _COARSE])
        end = complete[0]
        return _within([end - 2 * _COARSE, end - _COARSE])

    def _halved(self) -> list[int]:
        """The middles of the gaps on either side of the minimum that are wider than the target asks for."""
        complete = self._complete()
        means = seed_mean(self.loss.values)
        at = int(np.nanargmin(means))
        # The minimum is known to half the gap beside it, or to the lattice.
        widest = max(1, 2 * self.target * LATTICE)
        middles = []
        for left, right in itertools.pairwise(complete[at - 1 : at + 2]):
            if right - left > widest:
                middles.append((left + right) // 2)
        return middles

    def _more_seeds(self, optimum: xr.Dataset) -> list[int]:
        """Another seed around the optimum, if the seeds disagree on it and there are more."""
        complete = self._complete()
        if not self.more_seeds or half_width(optimum) <= self.target:
            return []
        another, *others = self.more_seeds
        self.seeds = (*self.seeds, another)
        self.more_seeds = tuple(others)
        lr = float(optimum["lr"])
        centre = LATTICE * math.log2(lr)
        around = []
        for position in complete:
            if abs(position - centre) <= _WINDOW:
                around.append(position)
        return around

    def _complete(self) -> list[int]:
        """Where every seed was trained in full."""
        complete = []
        for position, losses in self._full.items():
            if losses.keys() >= set(self.seeds):
                complete.append(position)
        return sorted(complete)


@dataclass(kw_only=True)
class Exhaustive:
    """Every learning rate of a grid with every seed, as published; the interface of `Search`.

    Where the best one lies at an end, or none is stable, the grid goes on: four octaves more at a time with the
    spacing that it has there, within the limits of `Search`.

    >>> grid = Exhaustive(lrs=(0.5, 1.0), seeds=(0, 1), steps=10)
    >>> grid.wanted().trials
    4
    """

    lrs: tuple[float, ...]
    seeds: tuple[int, ...]
    steps: int
    _loss: xr.DataArray | None = None

    def wanted(self) -> Request | None:
        lrs = self.lrs
        if self._loss is not None:
            lrs = self._extension(self._loss)
        return Request(lrs, self.seeds, self.steps) if lrs else None

    def _extension(self, loss: xr.DataArray) -> tuple[float, ...]:
        optimum = laws.optimal_lr(loss)
        edge = str(optimum["at_edge"].item())
        if not edge:
            return ()
        positions = LATTICE * np.log2(loss["lr"].values)
        if edge == "high":
            positions = positions[::-1]
        # From the end outwards; a single learning rate goes down.
        end, *inner = positions.tolist()
        step = end - inner[0] if inner else -float(_OCTAVE)
        beyond = _outward(end, step)
        return tuple(_lrs(beyond))

    def tell(self, loss: xr.DataArray) -> None:
        loss = loss.transpose("lr", "seed")
        if self._loss is not None:
            loss = xr.concat([self._loss, loss], "lr")
        self._loss = loss.sortby("lr")

    @property
    def loss(self) -> xr.DataArray:
        assert self._loss is not None
        return self._loss

    @property
    def trials(self) -> int:
        return 0 if self._loss is None else self._loss.size

    @property
    def full_trials(self) -> float:
        return float(self.trials)


def half_width(optimum: xr.Dataset | Mapping[str, Any]) -> float:
    """Half the width of an optimum's interval, in octaves."""
    low = float(optimum["lr_low"])
    high = float(optimum["lr_high"])
    return 0.5 * math.log2(high / low)


def _nearest(lr: float) -> int:
    """The position on the lattice: k of 2^(k / LATTICE)."""
    octaves = math.log2(lr)
    return round(octaves * LATTICE)


def _lrs(positions: Iterable[float]) -> list[float]:
    return [2 ** (position / LATTICE) for position in positions]


def _request(positions: Iterable[int], seeds: tuple[int, ...], steps: int) -> Request:
    lrs = _lrs(positions)
    return Request(tuple(lrs), seeds, steps)


def _outward(end: Position, step: Position) -> list[Position]:
    """The positions that come next beyond an end of a range, in order: `step` apart (downwards if it is negative),
    over four octaves or one step, and within the limits."""
    limit = LIMITS[1] if step > 0 else LIMITS[0]
    most = max(_EXTENSION / abs(step), 1)
    room = min((limit - end) / step, most)
    # The ends of a grid are logarithms: round-off must not cost the last position.
    count = math.floor(room + 1e-9)
    beyond = [end + number * step for number in range(1, count + 1)]
    return sorted(beyond)


def _within(positions: Iterable[int]) -> list[int]:
    """Those between the limits of the search, in order."""
    low, high = LIMITS
    return sorted(position for position in positions if low <= position <= high)
