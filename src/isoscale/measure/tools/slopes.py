"""Exponents over sizes, with intervals and verdicts."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from isoscale.stats.least_squares import least_squares, t_quantile
from isoscale.stats.summary import LEVEL

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
        half = t_quantile(self.freedom, level) * self.se
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
