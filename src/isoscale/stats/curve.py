"""A loss curve as scattered runs: learning rate, seed and loss of each, whatever sweep or file they came from.

A run that diverged has the loss inf; a run that did not happen is not there. A run that *blew up*, whose loss is many
times that of every lower rate, diverged, too: that its numbers are still finite is a matter of its length, and no
smooth curve leads there. A run that was stopped because it was hopeless would have ended badly, nobody knows how badly:
it bounds where the optimum is, and is no loss. Grids become curves by `Curve.of_grid`.
"""

from __future__ import annotations

import functools
import math
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float, Int, Shaped

from isoscale.errors import InvalidValueError

# Two rates nearer than this, in octaves, are one rate with round-off: no sweep is that fine.
SAME = 1e-9

# A run blew up if its loss is more than so many times that of every lower rate of its seed.
BLOWN_UP = 100.0

# More than the logarithms of two floats can differ by, and less than the logarithm of any.
_APART = 2000.0
_NOTHING = -1000.0


@dataclass(frozen=True, eq=False)
class Curve:
    """Runs of one size, in ascending order of seed and then of learning rate.

    Attributes:
        log2_lr: log2 of each run's learning rate.
        seed: Number of each run's seed in `names`.
        loss: Final loss; inf where the run diverged, blew up or was stopped.
        is_stopped: Whether it was stopped before its end.
        names: The seeds as the user calls them, ascending and distinct; each has one run or more.

    >>> curve = Curve.of_runs(lr=[0.25, 0.5, 0.5], seed=[7, 7, 3], loss=[1.0, float("nan"), 2.0])
    >>> curve.names.tolist(), curve.loss.tolist()
    ([3, 7], [2.0, 1.0, inf])
    """

    log2_lr: Float[np.ndarray, " run"]
    seed: Int[np.ndarray, " run"]
    loss: Float[np.ndarray, " run"]
    is_stopped: Bool[np.ndarray, " run"]
    names: Shaped[np.ndarray, " seed"]

    @classmethod
    def of_runs(cls, lr: object, seed: object, loss: object, is_stopped: object = False) -> Curve:
        """Runs in any order; a loss that is not finite is a run that diverged.

        Args:
            lr: Learning rates, positive and finite.
            seed: Anything that sorts; one for each run.
            loss: Final losses. Runs of the same rate and seed are averaged.
            is_stopped: Whether each was stopped before its end; its loss does not count.

        Raises:
            InvalidValueError: Arrays of different lengths, or rates that are none.
        """
        rates = np.asarray(lr, float).ravel()
        seeds = np.asarray(seed).ravel()
        losses = np.asarray(loss, float).ravel()
        if not len(rates) == len(seeds) == len(losses):
            counts = f"{len(rates)}, {len(seeds)} and {len(losses)}"
            raise InvalidValueError(f"`lr`, `seed` and `loss` must have one entry for each run, got {counts}")
        is_usable = np.isfinite(rates) & (rates > 0)
        if not is_usable.all():
            bad = rates[~is_usable].tolist()
            raise InvalidValueError(f"`lr` must be positive and finite, got {bad}: leave those out")
        stopped = np.broadcast_to(np.asarray(is_stopped, bool), rates.shape)
        return cls._sorted(np.log2(rates), seeds, np.where(stopped, np.inf, losses), stopped)

    @classmethod
    def of_grid(
        cls,
        log2_lrs: Float[np.ndarray, " lr"],
        seeds: Shaped[np.ndarray, " seed"],
        loss: Float[np.ndarray, "lr seed"],
    ) -> Curve:
        """Every rate with every seed; NaN where a run diverged."""
        rates, count = len(log2_lrs), len(seeds)
        return cls._sorted(
            np.tile(log2_lrs, count),
            np.repeat(seeds, rates),
            loss.T.ravel(),
            np.zeros(loss.size, bool),
        )

    @classmethod
    def _sorted(
        cls,
        log2_lr: Float[np.ndarray, " run"],
        seeds: Shaped[np.ndarray, " run"],
        losses: Float[np.ndarray, " run"],
        is_stopped: Bool[np.ndarray, " run"],
    ) -> Curve:
        names, seed = np.unique(seeds, return_inverse=True)
        losses = np.where(np.isfinite(losses), losses, np.inf)
        order = np.lexsort((log2_lr, seed))
        log2_lr, seed, losses, is_stopped = log2_lr[order], seed[order], losses[order], is_stopped[order]
        # Repeated runs become one; their mean is inf if any of them diverged.
        is_other = np.ones(len(order), bool)
        is_other[1:] = (np.diff(seed) > 0) | (np.diff(log2_lr) > SAME)
        if not is_other.all():
            run = np.cumsum(is_other) - 1
            losses = np.bincount(run, losses) / np.bincount(run)
            is_stopped = np.bincount(run, is_stopped) > 0
            log2_lr, seed = log2_lr[is_other], seed[is_other]
        losses = np.where(_is_blown_up(seed, losses), np.inf, losses)
        return cls(log2_lr, seed, losses, is_stopped, names)

    @property
    def seeds(self) -> int:
        """How many seeds there are."""
        return len(self.names)

    @functools.cached_property
    def is_stable(self) -> np.ndarray:
        """Whether each run finished."""
        return np.isfinite(self.loss)

    @functools.cached_property
    def _starts(self) -> Int[np.ndarray, " seed"]:
        """Where each seed's runs begin."""
        return np.searchsorted(self.seed, np.arange(self.seeds))

    def least(self, values: Float[np.ndarray, " run"]) -> Float[np.ndarray, " seed"]:
        """The least value of each seed."""
        if not self.seeds:
            return np.empty(0)
        return np.minimum.reduceat(values, self._starts)

    def greatest(self, values: Float[np.ndarray, " run"]) -> Float[np.ndarray, " seed"]:
        """The greatest value of each seed."""
        return -self.least(-values)

    def total(self, values: Float[np.ndarray, " run"]) -> Float[np.ndarray, " seed"]:
        """The sum of each seed's values."""
        if not self.seeds:
            return np.empty(0)
        return np.bincount(self.seed, values, minlength=self.seeds)

    def losses_at(self, log2_lr: float, curvature: float = 0.0) -> Float[np.ndarray, " seed"]:
        """Each seed's loss at a learning rate: measured there, or between the measured neighbours.

        Between two neighbours l and h, log loss is their straight line bent by what is known of the curvature,

            y = (1 - share) y_l + share y_h - curvature (x - x_l) (x_h - x),

        which is exact for a parabola a + b x + curvature x^2 and goes through both.

        Args:
            log2_lr: Where.
            curvature: Of log loss per octave^2, as `Optimum.curvature`.

        Returns:
            inf where the seed diverged there, or at both neighbours; NaN where nothing is known: beyond the measured
            rates, where the neighbour above diverged, or where the run was stopped.
        """
        is_below = self.log2_lr <= log2_lr + SAME
        below = self._starts + self.total(is_below.astype(float)).astype(int) - 1
        ends = np.append(self._starts[1:], len(self.seed)) - 1
        is_known = below >= self._starts
        low = np.maximum(below, self._starts)
        high = np.minimum(low + 1, ends)
        x_low, x_high = self.log2_lr[low], self.log2_lr[high]
        y_low, y_high = self.loss[low], self.loss[high]
        is_there = is_known & (np.abs(x_low - log2_lr) <= SAME)
        is_between = is_known & (high > low) & np.isfinite(y_low) & np.isfinite(y_high)
        # What diverged at a lower rate, and at the next one up, diverges between them.
        is_lost = is_known & (high > low) & np.isinf(y_low) & np.isinf(y_high)
        is_lost &= ~(self.is_stopped[low] | self.is_stopped[high])

        with np.errstate(divide="ignore", invalid="ignore"):
            share = (log2_lr - x_low) / (x_high - x_low)
            between = _between(y_low, y_high, share)
            bend = curvature * (log2_lr - x_low) * (x_high - log2_lr)
            between = between - np.abs(between) * -np.expm1(-bend)
        losses = np.where(is_between, between, np.nan)
        losses = np.where(is_lost, np.inf, losses)
        measured = np.where(self.is_stopped[low], np.nan, y_low)
        return np.where(is_there, measured, losses)


def _is_blown_up(seed: Int[np.ndarray, " run"], losses: Float[np.ndarray, " run"]) -> Bool[np.ndarray, " run"]:
    """Of runs in ascending order of seed and learning rate; none where a loss has no logarithm.

    >>> _is_blown_up(np.zeros(5, int), np.array([2.0, 0.5, 1e4, 1e9, 3.0])).tolist()
    [False, False, True, True, False]
    """
    if not len(losses) or not (losses > 0).all():
        return np.zeros(len(losses), bool)
    logs = np.log(losses)
    # The greatest finite loss up to each run of its seed: seeds are kept apart by what is added.
    shift = _APART * seed
    so_far = np.maximum.accumulate(np.where(np.isfinite(logs), logs, _NOTHING) + shift) - shift
    limit = np.full(len(losses), np.inf)
    has_lower = (np.diff(seed) == 0) & (so_far[:-1] > _NOTHING + 1)
    limit[1:] = np.where(has_lower, so_far[:-1] + math.log(BLOWN_UP), np.inf)
    # What follows the first of a seed is measured against the same rates as that one.
    is_blown_up = np.isfinite(logs) & (logs > limit)
    places = np.flatnonzero(is_blown_up)
    _, firsts = np.unique(seed[places], return_index=True)
    for first in places[firsts]:
        later = slice(first, np.searchsorted(seed, seed[first], side="right"))
        is_blown_up[later] |= np.isfinite(logs[later]) & (logs[later] > limit[first])
    return is_blown_up


def _between(
    low: Float[np.ndarray, " seed"],
    high: Float[np.ndarray, " seed"],
    share: Float[np.ndarray, " seed"],
) -> Float[np.ndarray, " seed"]:
    """Losses on the straight line of log loss; of the loss itself where it has no logarithm."""
    straight = (1 - share) * low + share * high
    has_log = (low > 0) & (high > 0)
    safe_low = np.where(has_log, low, 1.0)
    safe_high = np.where(has_log, high, 1.0)
    logs = (1 - share) * np.log(safe_low) + share * np.log(safe_high)
    return np.where(has_log, np.exp(logs), straight)
