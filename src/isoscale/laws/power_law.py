"""Power laws by least squares in log-log."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from jaxtyping import Float

from isoscale.errors import InvalidValueError
from isoscale.laws.intervals import LEVEL

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


def _logs(name: str, values: ArrayLike) -> Float[np.ndarray, " n"]:
    array = np.asarray(values, float)
    if array.ndim != 1 or not (np.isfinite(array).all() and (array > 0).all()):
        raise InvalidValueError(f"`{name}` of a power law must be positive and finite, got {values!r}")
    return np.log(array)
