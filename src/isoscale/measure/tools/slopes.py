"""Exponents over sizes, with intervals and verdicts."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from isoscale.stats.intervals import LEVEL

if TYPE_CHECKING:
    import pandas as pd

# An exponent further than this from what is expected is a failure, if chance does not explain it: 0.2 is a change by
# 15 % at each doubling. Theory's own corrections at finite size are smaller, its failures 0.5 or more.
TOLERANCE = 0.2

_SYMBOL = {"width": "n", "depth": "L"}


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
        from scipy import stats

        half = float(stats.t.ppf((1 + level) / 2, self.freedom)) * self.se if self.freedom > 0 else math.nan
        return self.exponent - half, self.exponent + half

    def verdict(self, expected: float, axis: str, comparisons: int = 1) -> str:
        """ "stable", or what becomes of the quantity as the size grows.

        Among many comparisons the interval is that of Bonferroni, so that a table without a failure shows one in
        5 % of the cases.
        """
        if math.isnan(self.exponent):
            return "not measured"
        if math.isinf(self.exponent):
            return "explodes beyond all numbers"
        low, high = self.interval(1 - (1 - LEVEL) / comparisons)
        if abs(self.exponent - expected) <= TOLERANCE or low <= expected <= high:
            return "stable"
        how = "explodes" if self.exponent > expected else "vanishes"
        return f"{how} like {_SYMBOL[axis]}^{self.exponent:.2g}"


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
    x = np.asarray(sizes, float)
    regressors = [np.log(x)] + ([1 / x] if correction and len(x) >= 4 else [])
    design = np.stack([r - r.mean() for r in regressors], axis=1)  # (sizes, regressors)
    y = np.log(values)
    y = y - y.mean(0)  # one intercept a seed
    solution = np.linalg.lstsq(design, y.mean(1), rcond=None)[0]
    seeds = y.shape[1]
    freedom = y.size - seeds - len(regressors)
    residual = float(((y - (design @ solution)[:, None]) ** 2).sum())
    unit = float(np.linalg.inv(design.T @ design)[0, 0]) / seeds
    se = math.sqrt(residual / freedom * unit) if freedom > 0 else math.nan
    return Slope(exponent=float(solution[0]), se=se, freedom=freedom)


def judged(rows: Sequence[tuple[dict[str, Any], Slope, float]]) -> Iterator[dict[str, Any]]:
    """Rows of a table: what was fitted, the slope and the expectation, with a verdict on each."""
    comparisons = sum(not math.isnan(slope.exponent) for _, slope, _ in rows)
    for named, slope, expected in rows:
        low, high = slope.interval()
        yield named | {
            "exponent": slope.exponent,
            "low": low,
            "high": high,
            "expected": expected,
            "verdict": slope.verdict(expected, named["axis"], comparisons),
        }


def undecided(table: pd.DataFrame) -> Iterator[str]:
    """A sentence on the rows that pass only because their intervals are wide."""
    far = (table["exponent"] - table["expected"]).abs() > TOLERANCE
    count = int((far & (table["verdict"] == "stable")).sum())
    if count:
        yield (
            f"{count} of {len(table)} exponents are further than {TOLERANCE:g} from what is expected, but no further "
            "than chance explains: more seeds or sizes would tell"
        )
