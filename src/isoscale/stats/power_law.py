"""Power laws by least squares in log-log."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from jaxtyping import Float

from isoscale.errors import InvalidValueError
from isoscale.stats.intervals import LEVEL

if TYPE_CHECKING:
    from numpy.typing import ArrayLike


@dataclass(frozen=True)
class PowerLaw:
    """y = coefficient * x^exponent, with a 95 % interval of the exponent.

    Attributes:
        exponent, exponent_low, exponent_high: Slope in log-log; the interval is NaN with two points.
        coefficient: y at x = 1.
        r2: Share of the variance of log y that the law explains; NaN if y is constant.
        points: How many points were fitted.
    """

    exponent: float
    exponent_low: float
    exponent_high: float
    coefficient: float
    r2: float
    points: int

    def __call__(self, x: Any) -> Any:
        """The law's value at x."""
        return self.coefficient * np.asarray(x, float) ** self.exponent


def fit_power_law(x: ArrayLike, y: ArrayLike, y_se: ArrayLike | None = None) -> PowerLaw:
    """Least squares in log-log, with a t-based interval.

    Args:
        x, y: Positive numbers, at least two different x.
        y_se: Standard errors of y: points are weighted by (y / y_se)^2. The interval still comes from the
            scatter about the law, so that a law that does not hold shows.

    Raises:
        InvalidValueError: Not enough points, or numbers that have no logarithm.

    >>> law = fit_power_law([1, 2, 4], [3.0, 1.5, 0.75])
    >>> round(law.exponent, 6), round(law.coefficient, 6), law.points
    (-1.0, 3.0, 3)
    """
    from scipy import stats

    log_x, log_y = _logs("x", x), _logs("y", y)
    if len(log_x) != len(log_y) or len(np.unique(log_x)) < 2:
        raise InvalidValueError(f"a power law needs as many `y` as `x` and two different `x`, got {x!r}, {y!r}")
    weights = np.ones_like(log_y) if y_se is None else np.exp(-2 * (_logs("y_se", y_se) - log_y))
    weights = weights / weights.sum()
    centred = log_x - weights @ log_x
    spread = weights @ centred**2
    slope = float(weights @ (centred * log_y) / spread)
    intercept = float(weights @ (log_y - slope * log_x))
    residual = weights @ (log_y - intercept - slope * log_x) ** 2
    total = weights @ (log_y - weights @ log_y) ** 2
    freedom = len(log_x) - 2
    se = math.sqrt(residual / spread / freedom) if freedom else math.nan
    half = float(stats.t.ppf((1 + LEVEL) / 2, freedom)) * se if freedom else math.nan
    r2 = 1 - residual / total if total > 0 else math.nan
    return PowerLaw(slope, slope - half, slope + half, math.exp(intercept), float(r2), len(log_x))


@dataclass(frozen=True)
class Curvature:
    """By how much a law's exponent changes each time x doubles, with a 95 % interval; 0 for a power law.

    Attributes:
        per_octave, low, high: The change; the interval is NaN with three points.
        points: How many points were fitted.
    """

    per_octave: float
    low: float
    high: float
    points: int

    @property
    def bent(self) -> bool:
        """Whether the interval excludes a power law."""
        return self.low > 0 or self.high < 0


def fit_curvature(x: ArrayLike, y: ArrayLike) -> Curvature:
    """Least squares of a parabola in log-log: is it a power law at all?

    Args:
        x, y: Positive numbers, at least three different x.

    Raises:
        InvalidValueError: Not enough points, or numbers that have no logarithm.

    >>> fit_curvature([1, 2, 4], [1.0, 0.5, 0.125]).per_octave     # exponent -1, then -2
    -1.0
    """
    from scipy import stats

    log_x, log_y = _logs("x", x) / math.log(2), _logs("y", y) / math.log(2)
    if len(log_x) != len(log_y) or len(np.unique(log_x)) < 3:
        raise InvalidValueError(f"curvature needs as many `y` as `x` and three different `x`, got {x!r}, {y!r}")
    basis = np.vander(log_x - log_x.mean(), 3)
    solution = np.linalg.lstsq(basis, log_y)[0]
    freedom = len(log_x) - 3
    half = math.nan
    if freedom:
        variance = float(np.sum((log_y - basis @ solution) ** 2)) / freedom
        half = float(stats.t.ppf((1 + LEVEL) / 2, freedom)) * math.sqrt(variance * np.linalg.inv(basis.T @ basis)[0, 0])
    # The slope of c u^2 grows by 2 c with each octave.
    value = round(2 * float(solution[0]), 12)
    return Curvature(value, value - 2 * half, value + 2 * half, len(log_x))


def _logs(name: str, values: ArrayLike) -> Float[np.ndarray, " n"]:
    array = np.asarray(values, float)
    if array.ndim != 1 or not (np.isfinite(array).all() and (array > 0).all()):
        raise InvalidValueError(f"`{name}` of a power law must be positive and finite, got {values!r}")
    return np.log(array)
