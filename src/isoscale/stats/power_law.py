"""Power laws by least squares in log-log."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from jaxtyping import Float

from isoscale.errors import InvalidTypeError, InvalidValueError
from isoscale.stats.least_squares import least_squares

if TYPE_CHECKING:
    from numpy.typing import ArrayLike

# A point whose weight is this share of the heaviest one's has none: the reciprocal, its variance, would overflow.
_WEIGHTLESS = 1e-200


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
        power = np.asarray(x, float) ** self.exponent
        return self.coefficient * power


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
    log_x, log_y = _points("a power law", x, y, least=2)
    weights = _weights(y_se, log_x, log_y, least=2)

    # log y = constant + exponent log x, counted from the heaviest point: weights of any range then cost no digits.
    origin = np.argmax(weights)
    along = log_x - log_x[origin]
    up = log_y - log_y[origin]
    ones = np.ones_like(along)
    design = np.stack([ones, along], axis=1)
    found = least_squares(design, up, weights)
    offset, exponent = found.coefficients.tolist()
    half = float(found.half_width(1))
    constant = log_y[origin] + offset - exponent * log_x[origin]
    with np.errstate(over="ignore"):
        coefficient = np.exp(constant)
    return PowerLaw(
        exponent=exponent,
        exponent_low=exponent - half,
        exponent_high=exponent + half,
        coefficient=float(coefficient),
        r2=_r2(up, design @ found.coefficients, weights),
        points=len(log_x),
    )


def _r2(
    values: Float[np.ndarray, " n"],
    fitted: Float[np.ndarray, " n"],
    weights: Float[np.ndarray, " n"],
) -> float:
    """R^2 = 1 - (scatter about the law) / (scatter about the mean)."""
    if np.ptp(values) == 0:
        return math.nan
    mean = weights @ values
    about_law = weights @ (values - fitted) ** 2
    about_mean = weights @ (values - mean) ** 2
    # A fitted constant explains as much as the mean does; only round-off says less.
    if about_law >= about_mean:
        return 0.0
    return float(1 - about_law / about_mean)


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


def fit_curvature(x: ArrayLike, y: ArrayLike, y_se: ArrayLike | None = None) -> Curvature:
    """Least squares of a parabola in log-log: is it a power law at all?

    Args:
        x, y: Positive numbers, at least three different x.
        y_se: Standard errors of y, as for `fit_power_law`.

    Raises:
        InvalidValueError: Not enough points, or numbers that have no logarithm.

    >>> fit_curvature([1, 2, 4], [1.0, 0.5, 0.125]).per_octave     # exponent -1, then -2
    -1.0
    """
    log_x, log_y = _points("curvature", x, y, least=3)
    weights = _weights(y_se, log_x, log_y, least=3)
    octaves = log_x / math.log(2)
    # log2 y = a u^2 + b u + c, and the slope 2 a u + b grows by 2 a with each octave.
    design = np.vander(octaves - octaves.mean(), 3)
    found = least_squares(design, log_y / math.log(2), weights)
    change = 2 * float(found.coefficients[0])
    half = 2 * float(found.half_width(0))
    # Round-off of a curve that is straight is no curvature.
    change = round(change, 12)
    return Curvature(
        per_octave=change,
        low=change - half,
        high=change + half,
        points=len(log_x),
    )


def _points(
    what: str,
    x: ArrayLike,
    y: ArrayLike,
    *,
    least: int,
) -> tuple[Float[np.ndarray, " n"], Float[np.ndarray, " n"]]:
    """log x and log y of points with so many different x or more."""
    log_x = _logs("x", x)
    log_y = _logs("y", y)
    different = len(np.unique(log_x))
    if len(log_x) != len(log_y) or different < least:
        words = {2: "two", 3: "three"}[least]
        raise InvalidValueError(
            f"{what} needs as many `y` as `x` and {words} different `x`, got {x!r}, {y!r}",
        )
    return log_x, log_y


def _weights(
    y_se: ArrayLike | None,
    log_x: Float[np.ndarray, " n"],
    log_y: Float[np.ndarray, " n"],
    *,
    least: int,
) -> Float[np.ndarray, " n"]:
    """Weights (y / y_se)^2, the reciprocal of log y's variance, whose sum is 1; all equal without errors."""
    points = len(log_y)
    if y_se is None:
        return np.full(points, 1 / points)
    log_se = _logs("y_se", y_se)
    if len(log_se) != points:
        raise InvalidValueError(f"`y_se` must hold an error for each of {points} points, got {y_se!r}")
    log_weights = 2 * (log_y - log_se)
    # From the largest down: none overflows.
    weights = np.exp(log_weights - log_weights.max())
    weighed = log_x[weights > _WEIGHTLESS]
    if len(np.unique(weighed)) < least:
        raise InvalidValueError(f"`y_se` leaves weight to fewer than {least} different `x`, got {y_se!r}")
    return weights / weights.sum()


def _logs(name: str, values: ArrayLike) -> Float[np.ndarray, " n"]:
    """Logarithms of what must be positive."""
    if np.ma.is_masked(values):
        # What is masked has a number behind it, which was not meant.
        raise InvalidValueError(f"`{name}` of a power law has masked entries: leave those points out")
    try:
        array = np.asarray(values, float)
    except (TypeError, ValueError):
        raise InvalidTypeError(f"`{name}` of a power law must be numbers, got {values!r}") from None
    is_usable = np.isfinite(array) & (array > 0)
    if array.ndim != 1 or not is_usable.all():
        raise InvalidValueError(f"`{name}` of a power law must be positive and finite, got {values!r}")
    return np.log(array)
