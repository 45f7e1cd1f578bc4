"""Where the best learning rate of one network at one depth lies: coarse to fine over log2 of the learning rate.

A pilot, one seed for a quarter of the steps and an octave apart, finds the valley: learning rates that diverge there
or are far from the best are never trained in full. Around its bottom all seeds train in full, half an octave apart,
until the minimum is inside; then the gaps beside the minimum are halved until the optimum is known well enough, and
where it is the seeds that disagree, more seeds are trained if they are allowed.

A search says what it wants next and is told what came of it; who trains, and how many searches share the workers, is
none of its business.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeVar

import numpy as np
import xarray as xr

from isoscale import stats as laws
from isoscale.errors import InvalidValueError
from isoscale.stats.summary import seed_mean

# Learning rates are 2^(k / LATTICE): a finer search meets the points of a coarser one.
LATTICE = 8
_OCTAVE, _COARSE = LATTICE, LATTICE // 2
# How far a range is extended when its best learning rate lies at its end, and where that stops.
_EXTENSION = 4 * _OCTAVE
LIMITS = (-40 * _OCTAVE, 10 * _OCTAVE)
_PILOT_SHARE = 4
# More seeds train this far on either side of the optimum.
_WINDOW = _OCTAVE

# Where a learning rate stands on the lattice; one of a grid may stand between.
Place = TypeVar("Place", int, float)


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
    _asked: Request | None = None
    _pilots: dict[int, float] = field(default_factory=dict)
    _full: dict[int, dict[int, float]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if not 2 * self.target >= 1 / LATTICE:
            raise InvalidValueError(f"`target` must be at least {0.5 / LATTICE} octaves, got {self.target}")
        if self.steps < _PILOT_SHARE:
            raise InvalidValueError(f"`steps` of an adaptive search must be >= {_PILOT_SHARE}, got {self.steps}")
        self._range = (round(math.log2(self.low) * LATTICE), round(math.log2(self.high) * LATTICE))

    # --- asking and telling ---
    def wanted(self) -> Request | None:
        """What to train next; None at the end. The same until `tell`."""
        if self._asked is None:
            self._asked = self._next()
        return self._asked

    def _next(self) -> Request | None:
        if places := self._pilot_places():
            return self._request(places, self.seeds[:1], self.steps // _PILOT_SHARE)
        if not any(map(math.isfinite, self._pilots.values())):
            return None
        places = self._full_places()
        return self._request(places, self.seeds, self.steps) if places else None

    def tell(self, loss: xr.DataArray) -> None:
        """What came of `wanted()`: the objective over (lr, seed), NaN where a trial diverged."""
        request, self._asked = self._asked, None
        assert request is not None
        for lr in request.lrs:
            place = round(math.log2(lr) * LATTICE)
            values = {seed: float(loss.sel(lr=lr, seed=seed)) for seed in request.seeds}
            self._ran |= {(place, seed, request.steps) for seed in request.seeds}
            if request.steps < self.steps:
                self._pilots[place] = values[self.seeds[0]]
            else:
                self._full.setdefault(place, {}).update(values)

    # --- what was found ---
    @property
    def loss(self) -> xr.DataArray:
        """The objective over (lr, seed) of learning rates that every seed was trained at in full."""
        places = self._complete()
        if not places:  # no pilot was stable: that is known of one seed only
            places = sorted(self._pilots)
            table = [[self._pilots[place]] * len(self.seeds) for place in places]
        else:
            table = [[self._full[place][seed] for seed in self.seeds] for place in places]
        coords = {"lr": [2 ** (place / LATTICE) for place in places], "seed": list(self.seeds)}
        return xr.DataArray(np.array(table), coords, dims=("lr", "seed"))

    @property
    def trials(self) -> int:
        """How many trials it took."""
        return len(self._ran)

    @property
    def full_trials(self) -> float:
        """The same with each trial counted by its length: a pilot is a quarter."""
        return sum(steps / self.steps for _, _, steps in self._ran)

    # --- the pilot ---
    def _pilot_places(self) -> list[int]:
        low, high = self._range
        missing = [place for place in range(low, high + 1, _OCTAVE) if place not in self._pilots]
        return missing or self._extension()

    def _extension(self) -> list[int]:
        """More of the range where the best pilot is at its end, or none is stable."""
        if self._full:
            return []
        stable = {place: loss for place, loss in self._pilots.items() if math.isfinite(loss)}
        low, high = min(self._pilots), max(self._pilots)
        best = min(stable, key=lambda place: stable[place]) if stable else low
        return (best == low and _outward(low, -_OCTAVE)) or (best == high and _outward(high, _OCTAVE)) or []

    # --- the valley ---
    def _full_places(self) -> list[int]:
        """The next learning rates to train in full; none when the optimum is known."""
        if not self._full:
            best = min(self._pilots, key=lambda place: _or_infinite(self._pilots[place]))
            return _within(best + offset for offset in range(-_OCTAVE, _OCTAVE + 1, _COARSE))
        complete = self._complete()
        optimum = laws.optimal_lr(self.loss)
        edge = str(optimum.at_edge.item())
        if edge:
            return self._beyond(complete, edge)
        return self._halved(complete) or self._more_seeds(complete, optimum)

    def _beyond(self, complete: list[int], edge: str) -> list[int]:
        """Two more points where the minimum lies at the end; downwards also where nothing is stable."""
        end, sign = (complete[-1], 1) if edge == "high" else (complete[0], -1)
        return _within((end + sign * _COARSE, end + 2 * sign * _COARSE))

    def _halved(self, complete: list[int]) -> list[int]:
        """The middles of the gaps on either side of the minimum that are wider than the target asks for."""
        means = seed_mean(self.loss.values)
        at = int(np.nanargmin(means))
        gaps = [(complete[at - 1], complete[at]), (complete[at], complete[at + 1])]
        return [(left + right) // 2 for left, right in gaps if right - left > max(1, 2 * self.target * LATTICE)]

    def _more_seeds(self, complete: list[int], optimum: xr.Dataset) -> list[int]:
        """Another seed around the optimum, if the seeds disagree on it and there are more."""
        if not self.more_seeds or half_width(optimum) <= self.target:
            return []
        self.seeds, self.more_seeds = (*self.seeds, self.more_seeds[0]), self.more_seeds[1:]
        centre = math.log2(float(optimum.lr)) * LATTICE
        return [place for place in complete if abs(place - centre) <= _WINDOW]

    def _complete(self) -> list[int]:
        return sorted(place for place, losses in self._full.items() if set(self.seeds) <= set(losses))

    def _request(self, places: Sequence[int], seeds: tuple[int, ...], steps: int) -> Request:
        return Request(tuple(2 ** (place / LATTICE) for place in places), seeds, steps)


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
        lrs = self.lrs if self._loss is None else self._extension(self._loss)
        return Request(lrs, self.seeds, self.steps) if lrs else None

    def _extension(self, loss: xr.DataArray) -> tuple[float, ...]:
        edge = str(laws.optimal_lr(loss).at_edge.item())
        if not edge:
            return ()
        places = LATTICE * np.log2(loss["lr"].values)
        end, neighbour = (places[-1], places[-2:-1]) if edge == "high" else (places[0], places[1:2])
        step = end - neighbour[0] if neighbour.size else -_OCTAVE
        return tuple(2 ** (place / LATTICE) for place in _outward(float(end), float(step)))

    def tell(self, loss: xr.DataArray) -> None:
        loss = loss.transpose("lr", "seed")
        self._loss = (loss if self._loss is None else xr.concat([self._loss, loss], "lr")).sortby("lr")

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
    return 0.5 * math.log2(float(optimum["lr_high"]) / float(optimum["lr_low"]))


def _outward(end: Place, step: Place) -> list[Place]:
    """The places that come next beyond an end of a range, in order: `step` apart (downwards if it is negative), over
    four octaves or one step, and within the limits."""
    limit = LIMITS[1] if step > 0 else LIMITS[0]
    room = min((limit - end) / step, max(_EXTENSION / abs(step), 1))
    # The ends of a grid are logarithms: round-off must not cost the last place.
    return sorted(end + count * step for count in range(1, math.floor(room + 1e-9) + 1))


def _within(places: Iterable[int]) -> list[int]:
    return sorted(place for place in places if LIMITS[0] <= place <= LIMITS[1])


def _or_infinite(loss: float) -> float:
    return loss if math.isfinite(loss) else math.inf
