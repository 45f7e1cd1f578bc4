"""What the base's learning rate does at the target: drift in octaves, regret in loss, seeds that it loses.

The *rate used* is what the base hands on: its optimum, or half an octave below its median cliff where the loss falls
up to the cliff. Its *regret* is the target's loss there less the loss at the rate that the target itself would hand
on, seed by seed, so that what a seed does to both cancels.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float

from isoscale.stats.curve import SAME, Curve
from isoscale.stats.least_squares import normal_quantile, t_quantile
from isoscale.stats.optimum import Interval, Optimum, t_interval
from isoscale.stats.summary import LEVEL, standard_error

# Standard error of a median over that of a mean.
_OF_MEDIAN = math.sqrt(math.pi / 2)
# Places between the ends of the measured rates at which another rate is compared with the one used.
_PLACES = 9


@dataclass(frozen=True, kw_only=True)
class Transferred:
    """A rate of the base at the target. Rates are log2, losses those of the runs; NaN where nothing is known.

    Attributes:
        rate: The rate used.
        drift, drift_low, drift_high: Octaves from the base's optimum to the target's; NaN on a side that is open.
        loss: Mean loss at the rate used, over the target's seeds that train there; inf if none does.
        loss_base: Mean loss of the base at the rate used.
        loss_tuned: Mean loss of the target at the rate that it would hand on itself.
        regret, regret_low, regret_high: Their difference over the same seeds, not below 0; `regret_high` is NaN where
            the target's optimum lies at an edge.
        worse, worse_low, worse_high: Loss at the rate used less the base's own loss, with its interval.
        lost: Share of the target's seeds that diverge at the rate used; NaN if it was run with none.
        unknown: Share of the target's seeds that were not run there, nor at both neighbours.
        is_measured: Whether every seed was run at that very rate.
        is_noise: Whether scatter between seeds, rather than the place of the target's optimum, sets the interval.
        seeds: How many seeds the regret is of.
    """

    rate: float
    drift: float
    drift_low: float
    drift_high: float
    loss: float
    loss_base: float
    loss_tuned: float
    regret: float
    regret_low: float
    regret_high: float
    worse: float
    worse_low: float
    worse_high: float
    lost: float
    unknown: float
    is_measured: bool
    is_noise: bool
    seeds: int


def transferred(
    base: Curve,
    target: Curve,
    at_base: Optimum,
    at_target: Optimum,
    level: float = LEVEL,
) -> Transferred:
    """The base's rate at the target, from the runs of both and what `find_optimum` found in them."""
    drift, drift_low, drift_high = _drift(base, target, at_base, at_target, level)
    there = target.losses_at(at_base.rate, at_target.curvature)
    own = target.losses_at(at_target.rate, at_target.curvature)
    # What the target itself would use may lie in the gap before the cliff: then the best that was measured stands in.
    own = np.where(np.isnan(own), _lowest(target), own)
    is_pair = np.isfinite(there) & np.isfinite(own)
    regret, regret_low, regret_high, is_noise = _regret(there[is_pair] - own[is_pair], own[is_pair], at_target, level)
    is_located = math.isfinite(at_target.low + at_target.high)
    if not is_located and not at_target.edge and math.isfinite(regret_high):
        # Where the target's optimum is hidden by noise, any other rate may be the better one.
        regret_high = max(regret_high, _hidden(target, there, level))

    known = there[~np.isnan(there)]
    trained = known[np.isfinite(known)]
    lost = float(np.isinf(known).mean()) if len(known) else math.nan
    loss = float(trained.mean()) if len(trained) else math.nan
    if loss < at_target.loss:
        # Read off a curve between two rates; the best that was measured is what the table holds beside it.
        loss = at_target.loss
    if lost == 1:
        loss = math.inf
        # Where nothing trains, there is nothing to compare with.
        regret = regret_low = regret_high = math.inf if at_target.edge != "none" else math.nan
    base_loss = base.losses_at(at_base.rate, at_base.curvature)
    base_loss = np.where(np.isnan(base_loss), _lowest(base), base_loss)
    worse = _difference(base, target, base_loss, there, level=level)
    return Transferred(
        rate=at_base.rate,
        drift=drift,
        drift_low=drift_low,
        drift_high=drift_high,
        loss=loss,
        loss_base=float(base_loss[np.isfinite(base_loss)].mean()) if np.isfinite(base_loss).any() else math.nan,
        loss_tuned=float(own[is_pair].mean()) if is_pair.any() else at_target.loss,
        regret=regret,
        regret_low=regret_low,
        regret_high=regret_high,
        worse=worse.mean,
        worse_low=worse.mean - worse.half,
        worse_high=worse.mean + worse.half,
        lost=lost,
        unknown=1 - len(known) / target.seeds if target.seeds else 1.0,
        is_measured=_is_measured(target, at_base.rate),
        is_noise=is_noise,
        seeds=int(is_pair.sum()),
    )


def _drift(
    base: Curve,
    target: Curve,
    at_base: Optimum,
    at_target: Optimum,
    level: float,
) -> tuple[float, float, float]:
    """Octaves between the optima; an end is open where an optimum is open on the side that would move it."""
    resolution = math.hypot(at_base.resolution, at_target.resolution)
    error = math.hypot(at_base.error, at_target.error)
    found = _difference(base, target, at_base.by_seed, at_target.by_seed, resolution, error, level)
    if at_base.edge == "none" or at_target.edge == "none":
        return math.nan, math.nan, math.nan
    drift = found.mean
    if at_base.edge or at_target.edge:
        drift = at_target.log2_lr - at_base.log2_lr
    is_open_low = math.isnan(at_target.low) or math.isnan(at_base.high)
    is_open_high = math.isnan(at_target.high) or math.isnan(at_base.low)
    low = math.nan if is_open_low else found.mean - found.half
    high = math.nan if is_open_high else found.mean + found.half
    return drift, low, high


def _regret(
    differences: Float[np.ndarray, " seed"],
    own: Float[np.ndarray, " seed"],
    at_target: Optimum,
    level: float,
) -> tuple[float, float, float, bool]:
    """Mean difference and its interval, not below 0; whether the seeds' scatter is more than the optimum's place."""
    if not len(differences):
        return math.nan, math.nan, math.nan, True
    found = t_interval(differences, level=level)
    loss = float(np.abs(own).mean())
    # The target's own rate is known to its standard error, before a cliff no better than half a gap.
    optima = at_target.by_seed[np.isfinite(at_target.by_seed)]
    error = float(standard_error(optima[None], axis=1)[0])
    off = max(normal_quantile(level) * math.hypot(error, at_target.error), at_target.resolution)
    along = below = 0.0
    if at_target.is_limit:
        # Along a slope that is an error of either sign, ...
        along = abs(at_target.slope) * _OF_MEDIAN * off * loss
    else:
        # ... at the bottom of a parabola the truth lies lower.
        below = at_target.curvature * off**2 * loss
    half = math.hypot(found.half, along)
    low, high = found.mean - half, found.mean + half + below
    if at_target.edge:
        # Beyond the edge the loss may fall further.
        low, high = found.mean - found.half, math.nan
    is_noise = not found.half < along + below
    return (
        max(found.mean, 0.0),
        max(low, 0.0) if not math.isnan(low) else low,
        max(high, 0.0) if not math.isnan(high) else high,
        is_noise,
    )


def _hidden(target: Curve, there: Float[np.ndarray, " seed"], level: float) -> float:
    """By how much another measured rate could be better than the one used: the largest upper end over the rates."""
    # The rates that every seed was run between.
    low = float(target.least(target.log2_lr).max())
    high = float(target.greatest(target.log2_lr).min())
    ends = [0.0]
    for place in np.linspace(low, high, _PLACES):
        other = target.losses_at(float(place))
        is_pair = np.isfinite(there) & np.isfinite(other)
        found = t_interval(there[is_pair] - other[is_pair], level=level)
        if math.isfinite(found.half):
            ends.append(found.mean + found.half)
    return max(ends)


def _difference(
    base: Curve,
    target: Curve,
    of_base: Float[np.ndarray, " seed_of_base"],
    of_target: Float[np.ndarray, " seed_of_target"],
    resolution: float = 0.0,
    error: float = 0.0,
    level: float = LEVEL,
) -> Interval:
    """Target less base: over pairs of equal seeds if most seeds have one (t), else over all seeds (Welch)."""
    _, in_base, in_target = np.intersect1d(base.names, target.names, return_indices=True)
    of_pair = of_base[in_base], of_target[in_target]
    is_pair = np.isfinite(of_pair[0]) & np.isfinite(of_pair[1])
    pairs = of_pair[1][is_pair] - of_pair[0][is_pair]
    first, second = of_base[np.isfinite(of_base)], of_target[np.isfinite(of_target)]
    if len(pairs) and 2 * len(pairs) >= min(len(first), len(second)):
        return t_interval(pairs, resolution, error, level)
    counts = len(first), len(second)
    if min(counts) == 0:
        return Interval(math.nan, math.nan, 0)
    mean = float(second.mean() - first.mean())
    if min(counts) < 2:
        return Interval(mean, math.nan, min(counts))
    variances = [float(values.var(ddof=1)) / len(values) for values in (first, second)]
    total = sum(variances)
    if total == 0:
        return Interval(mean, math.hypot(resolution, normal_quantile(level) * error), min(counts))
    squares = [variance**2 / (count - 1) for variance, count in zip(variances, counts, strict=True)]
    freedom = total**2 / sum(squares)
    spread = t_quantile(freedom, level) * math.sqrt(total)
    half = math.hypot(max(spread, resolution), normal_quantile(level) * error)
    return Interval(mean, half, min(counts))


def _lowest(curve: Curve) -> Float[np.ndarray, " seed"]:
    """Least loss of each seed."""
    return curve.least(curve.loss)


def _is_measured(curve: Curve, log2_lr: float) -> bool:
    is_there = np.abs(curve.log2_lr - log2_lr) <= SAME
    return int(is_there.sum()) == curve.seeds
