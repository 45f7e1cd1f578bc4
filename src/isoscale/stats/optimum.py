"""Where one size trains best: the optimum of each seed, and a t-interval over the seeds.

Near its optimum log loss is a parabola over u = log2(lr) - centre, whose curvature is one number for all seeds
while each seed has a level and a slope of its own:

    log loss of seed s = a_s + b_s u + c u^2        optimum of seed s: centre - b_s / 2c

Least squares over the runs near the centre give all of them at once; the centre then moves to the mean of the
optima. Where the next rate up diverged before the parabola turns, or was stopped as hopeless, the seed's optimum is
the cliff itself: between the last rate that trained and the first that did not. Half of that gap is the seed's
*resolution*, 0 elsewhere. The interval over n seeds with standard deviation s is

    mean +- sqrt(max(t s / sqrt(n), resolution)^2 + (z error)^2)

with the standard error of the parabola's vertex, from what the fit leaves, so that a form that does not hold shows.

How often it covers the truth is measured: docs/verdict.md.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal, NamedTuple

import numpy as np
from jaxtyping import Bool, Float

from isoscale.stats.curve import SAME, Curve
from isoscale.stats.least_squares import normal_quantile, t_quantile
from isoscale.stats.summary import LEVEL, standard_error

Edge = Literal["", "low", "high", "none"]

# Octaves to either side of the centre that are fitted; the next one where nothing but noise shows in the last.
WINDOWS = (1.5, 3.0, 6.0)
# A coefficient is seen when it is so many standard errors.
_SEEN = 6.0
_SKEWED = 2.0
# The centre has settled when it moves by less, in octaves; it is given so many moves.
_SETTLED = 0.05
_MOVES = 5
# Where the loss falls up to a cliff, octaves below the median cliff of the rate to hand on.
MARGIN = 0.5


@dataclass(frozen=True, kw_only=True)
class Optimum:
    """What the runs of one size tell about its best learning rate. Rates are log2, distances octaves.

    Attributes:
        log2_lr: The optimum; a bound where `edge` is "low" or "high"; next to a cliff the last rate that trained.
        low, high: Its interval; NaN on a side that is open: at an edge, or with one seed.
        se: Half of the interval in standard errors of a normal law, to weigh fits with; NaN if it is open.
        edge: "" inside the measured rates, "low" or "high" at their end, "none" if no rate trains most seeds.
        loss, loss_se: Mean over seeds at the optimum and its standard error; never below the least loss measured.
        rate: The rate to hand on: the optimum, or half an octave below the median cliff if that is less.
        cliff: Median over seeds of the rate between the last that trained and the first that did not; NaN where most
            seeds have none above their optimum.
        is_limit: Whether the loss falls up to the cliff, so that the optimum is the limit of stability.
        by_seed: The optimum of each seed of the curve; NaN where its runs do not tell.
        resolution: Mean over seeds of half the gap that holds the optimum; 0 away from cliffs.
        error: Standard error of the vertex, from what the fit leaves; 0 where the cliff is the limit.
        curvature, curvature_se: c, of log loss per octave^2, and its standard error; 0 where it is not seen.
        slope: Of the mean log loss per octave at `rate`.
        seeds: How many seeds the interval is of.
    """

    log2_lr: float
    low: float
    high: float
    se: float
    edge: Edge
    loss: float
    loss_se: float
    rate: float
    cliff: float
    is_limit: bool
    by_seed: Float[np.ndarray, " seed"]
    resolution: float
    error: float
    curvature: float
    curvature_se: float
    slope: float
    seeds: int


class Interval(NamedTuple):
    """A mean over seeds, the half-width of its interval (NaN with one seed), and how many seeds it is of."""

    mean: float
    half: float
    seeds: int


def t_interval(
    values: Float[np.ndarray, " seed"],
    resolution: float = 0.0,
    error: float = 0.0,
    level: float = LEVEL,
) -> Interval:
    """Mean of the values that are numbers, with a t-interval no narrower than what cannot be resolved, and wider by
    the error of the fit.

    >>> found = t_interval(np.array([1.0, 2.0, 3.0]))
    >>> found.mean, round(found.half, 3)
    (2.0, 2.484)
    """
    known = values[np.isfinite(values)]
    count = len(known)
    if count == 0:
        return Interval(math.nan, math.nan, 0)
    mean = float(known.mean())
    if count == 1:
        return Interval(mean, math.nan, 1)
    spread = t_quantile(count - 1, level) * float(known.std(ddof=1)) / math.sqrt(count)
    return Interval(mean, math.hypot(max(spread, resolution), normal_quantile(level) * error), count)


def find_optimum(curve: Curve, level: float = LEVEL) -> Optimum:
    """The optimum of a curve, whatever its runs are: nothing measured is an answer, too.

    >>> runs = [(2.0**k, seed, 1 + 0.1 * (k + 3 - 0.2 * seed) ** 2) for k in range(-6, 0) for seed in range(3)]
    >>> lrs, seeds, losses = zip(*runs, strict=True)
    >>> found = find_optimum(Curve.of_runs(lrs, seeds, losses))
    >>> round(found.log2_lr, 1), found.low < -2.8 < found.high
    (-2.8, True)
    """
    ends = _ends(curve)
    trains = np.isfinite(ends.lowest)
    if 2 * trains.sum() <= curve.seeds:
        return _nothing(curve)
    fit = _settled(curve, ends)
    optima, halves, is_limit = _by_seed(fit, ends)
    is_known = np.isfinite(optima)
    resolution = float(halves[is_known].mean())
    at_limit = bool(2 * is_limit.sum() > trains.sum())
    fit_error = 0.0 if at_limit else fit.error
    found = t_interval(optima, resolution, fit_error, level)
    edge = _edge(curve, ends, found.mean)
    cliff = _cliff(ends)

    # Next to a cliff the gap is not entered: the last rate that trained stands for it.
    trained = np.where(is_limit, ends.last_stable, optima)
    log2_lr = float(trained[is_known].mean())
    if edge:
        log2_lr = float(curve.log2_lr.min() if edge == "low" else curve.log2_lr.max())
    rate = log2_lr
    if not edge and math.isfinite(cliff):
        rate = min(found.mean, cliff - MARGIN)

    is_located = (fit.is_curved or at_limit) and len(np.unique(curve.log2_lr)) > 1
    low = found.mean - found.half if is_located and edge != "low" else math.nan
    high = found.mean + found.half if is_located and edge != "high" else math.nan
    losses = ends.lowest if at_limit else curve.losses_at(log2_lr, fit.curvature)
    losses = losses[np.isfinite(losses)]
    if 2 * len(losses) <= trains.sum():
        losses = ends.lowest[trains]
    return Optimum(
        log2_lr=log2_lr,
        low=low,
        high=high,
        se=(high - low) / (2 * normal_quantile(level)),
        edge=edge,
        loss=max(float(losses.mean()), float(ends.lowest.min())),
        loss_se=float(standard_error(losses[None], axis=1)[0]),
        rate=rate,
        cliff=cliff,
        is_limit=at_limit,
        by_seed=optima,
        resolution=resolution,
        error=fit_error,
        curvature=fit.curvature if fit.is_curved else 0.0,
        curvature_se=fit.curvature_se if fit.is_curved else 0.0,
        slope=fit.slope + 2 * fit.curvature * (rate - fit.centre),
        seeds=found.seeds,
    )


def _nothing(curve: Curve) -> Optimum:
    """No rate trains most seeds."""
    nan = math.nan
    return Optimum(
        log2_lr=nan,
        low=nan,
        high=nan,
        se=nan,
        edge="none",
        loss=nan,
        loss_se=nan,
        rate=nan,
        cliff=nan,
        is_limit=False,
        by_seed=np.full(curve.seeds, nan),
        resolution=0.0,
        error=0.0,
        curvature=0.0,
        curvature_se=0.0,
        slope=0.0,
        seeds=0,
    )


# --- what each seed's runs say by themselves ---
class _Ends(NamedTuple):
    """Of each seed: its least loss (inf if none trained), the rate of it, and the two rates that enclose its cliff."""

    lowest: Float[np.ndarray, " seed"]
    best: Float[np.ndarray, " seed"]
    last_stable: Float[np.ndarray, " seed"]
    # The first rate above the best that diverged or was stopped; inf where none was.
    first_lost: Float[np.ndarray, " seed"]


def _ends(curve: Curve) -> _Ends:
    lowest = curve.least(curve.loss)
    is_lowest = curve.is_stable & (curve.loss == lowest[curve.seed])
    # Of rates that are equally good the middle.
    first = curve.least(np.where(is_lowest, curve.log2_lr, np.inf))
    last = curve.greatest(np.where(is_lowest, curve.log2_lr, -np.inf))
    best = np.where(np.isfinite(lowest), (first + np.where(np.isfinite(last), last, 0.0)) / 2, np.inf)
    is_lost = ~curve.is_stable & (curve.log2_lr > best[curve.seed])
    first_lost = curve.least(np.where(is_lost, curve.log2_lr, np.inf))
    is_before = curve.is_stable & (curve.log2_lr < first_lost[curve.seed])
    last_stable = curve.greatest(np.where(is_before, curve.log2_lr, -np.inf))
    return _Ends(lowest, best, last_stable, first_lost)


def _edge(curve: Curve, ends: _Ends, optimum: float) -> Edge:
    """At which end of the measured rates the optimum lies; one rate alone has no ends."""
    least, most = curve.log2_lr.min(), curve.log2_lr.max()
    if most - least <= SAME:
        return ""
    best = ends.best[np.isfinite(ends.lowest)]
    is_low = best <= least + SAME
    is_high = best >= most - SAME
    if 2 * is_low.sum() >= len(best) or optimum < least:
        return "low"
    if 2 * is_high.sum() >= len(best) or optimum > most:
        return "high"
    return ""


def _cliff(ends: _Ends) -> float:
    """Median over seeds of the middle of the gap that holds the cliff; NaN if most seeds have none."""
    # A seed that trains nowhere has its cliff below everything.
    trains = np.isfinite(ends.lowest)
    last_stable = np.where(trains, ends.last_stable, 0.0)
    middles = np.where(trains, (last_stable + ends.first_lost) / 2, -np.inf)
    middles = np.sort(middles)
    last = len(middles) - 1
    lower, upper = middles[last // 2], middles[(last + 1) // 2]
    # Of an even number the lower one where the upper has no cliff.
    median = (lower + upper) / 2 if np.isfinite(upper) else lower
    return float(median) if math.isfinite(median) else math.nan


# --- one shape for all seeds ---
class _Fit(NamedTuple):
    """Least squares around a centre; the slopes are those at the centre."""

    centre: float
    window: float
    curvature: float
    curvature_se: float
    skew: float
    slopes: Float[np.ndarray, " seed"]
    slope: float
    # Standard error of the vertex.
    error: float
    # Whether the curvature is positive and more than noise; whether it or the mean slope is.
    is_curved: bool
    is_seen: bool


def _settled(curve: Curve, ends: _Ends) -> _Fit:
    """The fit whose centre is the mean of the optima that it finds."""
    logs = _logs(curve)
    trains = np.isfinite(ends.lowest)
    least, most = curve.log2_lr.min(), curve.log2_lr.max()
    centre = float(np.median(ends.best[trains]))
    fit = _around(curve, logs, centre)
    for _ in range(_MOVES):
        optima, _, _ = _by_seed(fit, ends)
        known = optima[np.isfinite(optima)]
        if not len(known):
            break
        moved = min(max(float(known.mean()), least), most)
        if abs(moved - centre) < _SETTLED:
            break
        centre = moved
        again = _around(curve, logs, centre)
        if fit.is_seen and not again.is_seen:
            break
        fit = again
    return fit


def _around(curve: Curve, logs: Float[np.ndarray, " run"], centre: float) -> _Fit:
    """The narrowest window in which more than noise shows; the widest if none does."""
    for window in WINDOWS:
        fit = _least_squares(curve, logs, centre, window)
        if fit.is_seen:
            break
    return fit


def _least_squares(curve: Curve, logs: Float[np.ndarray, " run"], centre: float, window: float) -> _Fit:
    """Fit a_s + b_s u + c u^2 + d u^3: level and slope of each seed are eliminated, then c and d are those of all."""
    u = curve.log2_lr - centre
    used = (curve.is_stable & (np.abs(u) <= window + SAME)).astype(float)
    count = curve.total(used)

    def centred(values: Float[np.ndarray, " run"]) -> Float[np.ndarray, " run"]:
        mean = curve.total(used * values) / np.maximum(count, 1.0)
        return used * (values - mean[curve.seed])

    x = centred(u)
    x_x = curve.total(x * x)
    has_slope = (count >= 2) & (x_x > SAME)
    x_x = np.where(has_slope, x_x, 1.0)

    def along(values: Float[np.ndarray, " run"]) -> Float[np.ndarray, " seed"]:
        return curve.total(x * values) / x_x

    def left(values: Float[np.ndarray, " run"], slopes: Float[np.ndarray, " seed"]) -> Float[np.ndarray, " run"]:
        return (values - slopes[curve.seed] * x) * has_slope[curve.seed]

    # What the seed's own line leaves of u^2, of u^3 and of the losses.
    raw = [centred(u**2), centred(u**3), centred(logs)]
    lines = [along(values) for values in raw]
    square, cube, y = (left(values, slopes) for values, slopes in zip(raw, lines, strict=True))
    total = float(square @ square)
    if total <= SAME:
        slopes = np.where(has_slope, lines[2], np.nan)
        slope = float(slopes[has_slope].mean()) if has_slope.any() else 0.0
        return _Fit(centre, window, 0.0, 0.0, 0.0, slopes, slope, 0.0, False, False)

    freedom = float((count - 2)[has_slope].sum()) - 1
    curvature = float(square @ y) / total
    rest = y - curvature * square
    variance = float(rest @ rest) / freedom if freedom > 0 else 0.0

    # A third power where it is more than noise.
    overlap = float(square @ cube) / total
    own = cube - overlap * square
    total_own = float(own @ own)
    skew = 0.0
    if freedom > 1 and total_own > SAME:
        found = float(own @ y) / total_own
        rest = rest - found * own
        variance_left = float(rest @ rest) / (freedom - 1)
        if abs(found) > _SKEWED * math.sqrt(variance_left / total_own) + SAME:
            skew, variance = found, variance_left
            curvature -= skew * overlap
    slopes = lines[2] - curvature * lines[0] - skew * lines[1]
    slopes = np.where(has_slope, slopes, np.nan)
    slope = float(slopes[has_slope].mean())
    slope_se = math.sqrt(variance / float(x_x[has_slope].sum()))
    curvature_se = math.sqrt(variance / total)
    is_curved = curvature > _SEEN * curvature_se + SAME
    is_sloped = abs(slope) > _SEEN * slope_se + SAME
    error = slope_se / (2 * curvature) if is_curved else 0.0
    return _Fit(centre, window, curvature, curvature_se, skew, slopes, slope, error, is_curved, is_curved or is_sloped)


def _turns(fit: _Fit) -> Float[np.ndarray, " seed"]:
    """Octaves from the centre to where each seed's curve turns, within the window; the mean slope stands in."""
    slopes = np.where(np.isnan(fit.slopes), fit.slope, fit.slopes)
    # b + 2 c u + 3 d u^2 = 0, the root that is -b / 2c without skew.
    below_root = fit.curvature**2 - 3 * fit.skew * slopes
    turns_at_all = below_root >= 0
    root = np.sqrt(np.where(turns_at_all, below_root, 0.0))
    under = np.where(turns_at_all, fit.curvature + root, 0.0)
    # Downhill to the end of the window where it does not turn.
    turn = -slopes / np.maximum(under, SAME)
    return np.clip(turn, -fit.window, fit.window)


def _by_seed(
    fit: _Fit,
    ends: _Ends,
) -> tuple[Float[np.ndarray, " seed"], Float[np.ndarray, " seed"], Bool[np.ndarray, " seed"]]:
    """Each seed's optimum (NaN if unknown), half of the gap that holds it, and whether its cliff is the limit."""
    has_cliff = np.isfinite(ends.first_lost)
    if fit.is_seen:
        optima = fit.centre + _turns(fit)
        is_own = np.isfinite(fit.slopes)
    else:
        is_last = ends.best >= ends.last_stable - SAME
        optima = np.where(has_cliff & is_last, np.inf, ends.best)
        is_own = np.isfinite(ends.lowest)
    is_limit = has_cliff & (optima > ends.last_stable)
    top = np.minimum(optima, ends.first_lost)
    last_stable = np.where(is_limit, ends.last_stable, 0.0)
    middle = (last_stable + top) / 2
    half = (top - last_stable) / 2
    optima = np.where(is_own, optima, np.nan)
    return np.where(is_limit, middle, optima), np.where(is_limit, half, 0.0), is_limit


def _logs(curve: Curve) -> Float[np.ndarray, " run"]:
    """Log losses; where some have none, losses in units of their spread."""
    losses = curve.loss[curve.is_stable]
    logs = np.zeros(len(curve.loss))
    if (losses > 0).all():
        logs[curve.is_stable] = np.log(losses)
        return logs
    spread = float(np.ptp(losses)) or 1.0
    logs[curve.is_stable] = losses / spread
    return logs
