"""Exponents over sizes, with intervals and verdicts."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from isoscale import checks
from isoscale.errors import InvalidValueError
from isoscale.stats.least_squares import least_squares, t_quantile
from isoscale.stats.summary import LEVEL

if TYPE_CHECKING:
    import pandas as pd

SAME = "the same at every size"
UNDECIDED = "not decided at these sizes"
DEPENDS = "depends on the size"
Answer = Literal["the same at every size", "not decided at these sizes", "depends on the size"]
"""What a table of effects says as a whole."""

_SYMBOL = {"width": "n", "depth": "L"}

# How the verdict on an effect begins that cannot be told from none.
UNCLEAR = "not decided"


@dataclass(frozen=True, kw_only=True)
class Thresholds:
    """When an effect is taken to depend on the size.

    Attributes:
        tolerance: An exponent no further than this from what is expected is none: 0.2 is a change by 15 % at each
            doubling.
        failure: The failures that theory knows are this far from it or further. Where an effect may be chance or the
            end of something that dies out, an interval that stays below this shows that it is no failure.
        level: Of the intervals. A table without a failure shows one by chance in a share 1 - level of the cases.
    """

    tolerance: float = 0.2
    failure: float = 0.5
    level: float = LEVEL

    def __post_init__(self) -> None:
        checks.number("tolerance", self.tolerance, above=0)
        checks.number("failure", self.failure, above=self.tolerance)
        checks.number("level", self.level, above=0)
        if self.level >= 1:
            raise InvalidValueError(f"`level` must be below 1, got {self.level}")

    @property
    def statement(self) -> str:
        """Them, in words."""
        return (
            f"An effect fails if its exponent is further than {self.tolerance:g} from what is expected (--tolerance), "
            "overall, between the largest two sizes and in the limit, and chance does not explain it "
            f"({self.level:.0%} over all effects, --level); it may be one while {self.failure:g} is in its interval "
            "(--failure)."
        )


@dataclass(frozen=True, kw_only=True)
class Effect:
    """One quantity of one module or role along one axis.

    Attributes:
        named: What it is: its columns in the table, "axis" among them.
        sizes: Two or more.
        values: (sizes, seeds).
        expected: Its exponent if the network trains alike at every size.
        may_vanish: Whether a smaller exponent is fine as well.
        noise: What the size of the initial noise, by itself, makes of the effect, up to a constant: (sizes, seeds).
            Under a rule whose branches start small, noise of size L^(1/2 - b) dies out beside what is constant; until
            it has, a norm divides by less at every size, and effects grow. None where no norm does.
    """

    named: dict[str, Any]
    sizes: Sequence[float]
    values: np.ndarray
    expected: float
    may_vanish: bool = False
    noise: np.ndarray | None = None


@dataclass(frozen=True, kw_only=True)
class Slope:
    """y ~ size^exponent.

    Attributes:
        exponent: Least squares in log-log with one intercept a seed; infinite if y overflows somewhere, NaN if it was
            not measured or is 0.
        se: Its standard error, from the scatter about the law; NaN without points to spare.
        freedom: Degrees of freedom of that error.
    """

    exponent: float
    se: float
    freedom: int

    def interval(self, level: float = LEVEL) -> tuple[float, float]:
        """The t-based interval of that level."""
        half = t_quantile(self.freedom, level) * self.se
        return self.exponent - half, self.exponent + half


def fit(sizes: Sequence[float], values: np.ndarray, *, correction: bool = False) -> Slope:
    """Fit over sizes.

    Args:
        sizes: Two or more.
        values: (sizes, seeds).
        correction: Let y differ from the power law by a factor exp(c / size), as networks far from the limit do:
            less bias, more error. Needs four sizes; with fewer the plain law is fitted.

    >>> round(fit([1, 2, 4], np.array([[1.0], [2.0], [4.0]])).exponent, 6)
    1.0
    """
    if np.isnan(values).all() or (values == 0).any():
        return Slope(exponent=math.nan, se=math.nan, freedom=0)
    if not np.isfinite(values).all():
        return Slope(exponent=math.inf, se=math.nan, freedom=0)
    seeds = values.shape[1]
    x = np.asarray(sizes, float)
    regressors = [np.log(x)]
    if correction and len(x) >= 4:
        regressors.append(1 / x)
    # log y = exponent log x (+ c / x) + an intercept for each seed, which goes with the means over the sizes.
    centred = [regressor - regressor.mean() for regressor in regressors]
    design = np.stack(centred, axis=1)  # (sizes, regressors)
    log_y = np.log(values)
    log_y = log_y - log_y.mean(0)
    # One row for each size and seed.
    rows = np.repeat(design, seeds, axis=0)
    found = least_squares(rows, log_y.ravel(), absorbed=seeds)
    return Slope(exponent=float(found.coefficients[0]), se=float(found.se(0)), freedom=found.freedom)


def judged(effects: Sequence[Effect], thresholds: Thresholds, *, crowded: bool = False) -> pd.DataFrame:
    """The table: for each effect its exponent, the interval, and a verdict.

    Args:
        effects: At least one.
        thresholds: When an exponent is one.
        crowded: Whether the batch has too many positions for the narrowest network (`notes.crowded`).
    """
    import pandas as pd

    slopes = [fit(effect.sizes, effect.values) for effect in effects]
    comparisons = sum(math.isfinite(slope.exponent) for slope in slopes)
    # Among many comparisons the interval is Bonferroni's.
    level = 1 - (1 - thresholds.level) / max(1, comparisons)
    rows = []
    for effect, slope in zip(effects, slopes, strict=True):
        low, high = slope.interval(thresholds.level)
        row = {
            "exponent": slope.exponent,
            "low": low,
            "high": high,
            "expected": effect.expected,
            "verdict": _verdict(effect, slope, thresholds, level, crowded),
        }
        rows.append(effect.named | row)
    return pd.DataFrame(rows)


def _verdict(effect: Effect, slope: Slope, thresholds: Thresholds, level: float, crowded: bool) -> str:
    """ "stable", what becomes of the effect as the size grows, or why that cannot be told.

    Args:
        effect, slope: It, and its exponent over all sizes.
        thresholds: When an exponent is one.
        level: Of the interval that chance alone rarely leaves, in a table of so many effects.
        crowded: As for `judged`.
    """
    tolerance = thresholds.tolerance
    if math.isnan(slope.exponent):
        return "not measured"
    if math.isinf(slope.exponent):
        return "explodes beyond all numbers"
    off = slope.exponent - effect.expected
    if abs(off) <= tolerance or (effect.may_vanish and off < 0):
        return "stable"
    if len(effect.sizes) < 3:
        return f"{UNCLEAR}: two sizes show no trend"
    sign = math.copysign(1, off)

    def least(*exponents: float) -> float:
        """By how much each of them is off, in the direction of the whole."""
        return min(sign * (exponent - effect.expected) for exponent in exponents)

    low, high = slope.interval(thresholds.level)
    is_small = effect.expected - thresholds.failure < low and high < effect.expected + thresholds.failure
    low, high = _with_error_over_seeds(slope, effect).interval(level)
    if math.isnan(low) or low <= effect.expected <= high:
        return "stable" if is_small else f"{UNCLEAR}: chance explains it"
    # An effect of finite size, c / size, dies out; a failure is as large between the largest sizes, and in the limit.
    trend = Trend.of(effect.sizes, effect.values)
    if least(trend.last, trend.limit) <= tolerance:
        return "stable" if is_small else f"{UNCLEAR}: it dies out"
    if off > 0 and effect.noise is not None:
        without = Trend.of(effect.sizes, effect.values / effect.noise)
        if least(without.overall, without.last, without.limit) <= tolerance:
            return f"{UNCLEAR}: the initial noise dies out"
    # With P positions in the batch an update of width n is of size (1 + c P / n)^(1/2).
    if crowded and effect.named["axis"] == "width" and -0.5 - tolerance < off < 0:
        return f"{UNCLEAR}: too many positions"
    how = "explodes" if off > 0 else "vanishes"
    return f"{how} like {_SYMBOL[effect.named['axis']]}^{slope.exponent:.2g}"


def _with_error_over_seeds(slope: Slope, effect: Effect) -> Slope:
    """The slope with an error that knows nothing of the law: from what is left of log y beside its means over seeds
    and over sizes. What bends the law is left to `Trend`. One seed has the scatter about the law only."""
    sizes, seeds = effect.values.shape
    if seeds == 1:
        return slope
    log_y = np.log(effect.values)
    left = log_y - log_y.mean(0) - log_y.mean(1, keepdims=True) + log_y.mean()
    freedom = (sizes - 1) * (seeds - 1)
    x = np.log(np.asarray(effect.sizes, float))
    spread = np.square(x - x.mean()).sum() * seeds
    variance = np.square(left).sum() / freedom
    return replace(slope, se=math.sqrt(variance / spread), freedom=freedom)


@dataclass(frozen=True)
class Trend:
    """An exponent over all sizes, between the largest two, and in the limit: y = size^exponent exp(c / size)."""

    overall: float
    last: float
    limit: float

    @classmethod
    def of(cls, sizes: Sequence[float], values: np.ndarray) -> Trend:
        """Of three sizes or more; values are (sizes, seeds)."""
        order = np.argsort(sizes)
        # The mean over seeds, (sizes,).
        log_y = np.log(values[order]).mean(1)
        ordered = np.asarray(sizes, float)[order]
        x = np.log(ordered)
        centred = x - x.mean()
        design = np.stack([np.ones_like(x), x, 1 / ordered], axis=1)
        coefficients, *_ = np.linalg.lstsq(design, log_y)
        return cls(
            overall=float(centred @ log_y / np.square(centred).sum()),
            last=float((log_y[-1] - log_y[-2]) / (x[-1] - x[-2])),
            limit=float(coefficients[1]),
        )


def failures(table: pd.DataFrame) -> pd.DataFrame:
    """The rows that depend on the size."""
    return table[table["verdict"].str.match("explodes|vanishes")]


def unclear(table: pd.DataFrame) -> pd.DataFrame:
    """The rows of which that cannot be told."""
    return table[table["verdict"].str.startswith(UNCLEAR)]


def answer(table: pd.DataFrame) -> Answer:
    """What the rows say together."""
    if len(failures(table)):
        return DEPENDS
    return UNDECIDED if len(unclear(table)) else SAME


def undecided(table: pd.DataFrame) -> Iterator[str]:
    """A sentence on the rows that cannot be told."""
    count = len(unclear(table))
    if count:
        yield f"{count} of {len(table)} exponents are not decided: more seeds or sizes would tell"
