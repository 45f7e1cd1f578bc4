"""Least squares: the one solver behind every law that is fitted, and the interval that goes with it.

For y = X b + noise with weights W, of which X has a row for each point and a column for each coefficient,

    sqrt(W) X = Q R           Q with orthonormal columns, R triangular
    b = R^-1 Q' sqrt(W) y
    cov b = s^2 (X' W X)^-1 = s^2 R^-1 R^-T         s^2 = sum W (y - X b)^2 / freedom

Weights need no scale: s^2 comes from the scatter about the fit, so that a law that does not hold shows.
"""

from __future__ import annotations

import functools
import math
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float

from isoscale.errors import InvalidValueError
from isoscale.stats.summary import LEVEL

_ROUNDING = np.finfo(float).eps


@dataclass(frozen=True, kw_only=True)
class LeastSquares:
    """Coefficients and what is known of their errors; every field but the covariance has one entry for each fit.

    Attributes:
        coefficients: b, one row for each column of X.
        variance: s^2; NaN without degrees of freedom.
        unit_covariance: (X' W X)^-1; the covariance of b is `variance` times this.
        freedom: Degrees of freedom, points less coefficients.
    """

    coefficients: Float[np.ndarray, "column ..."]
    variance: Float[np.ndarray, "..."] | float
    unit_covariance: Float[np.ndarray, "column column"]
    freedom: int

    def se(self, column: int) -> Float[np.ndarray, "..."] | float:
        """Standard error of one coefficient; NaN without degrees of freedom."""
        unit = self.unit_covariance[column, column]
        return np.sqrt(self.variance * unit)

    def half_width(self, column: int, level: float = LEVEL) -> Float[np.ndarray, "..."] | float:
        """Half the width of one coefficient's t-based interval; NaN without degrees of freedom."""
        return t_quantile(self.freedom, level) * self.se(column)


def least_squares(
    design: Float[np.ndarray, "point column"],
    y: Float[np.ndarray, "point ..."],
    weights: Float[np.ndarray, " point"] | None = None,
    *,
    absorbed: int = 0,
) -> LeastSquares:
    """Fit y = design @ coefficients.

    Args:
        design: X; a constant is a column of ones.
        y: One value for each point, or several fits side by side, which share X and the weights.
        weights: W, positive, on any scale; None: all equal.
        absorbed: Coefficients that were fitted before, as the means are that were taken off y and X.

    Raises:
        InvalidValueError: Points that do not determine every coefficient.

    >>> fit = least_squares(np.array([[1.0, 0.0], [1.0, 1.0], [1.0, 2.0]]), np.array([1.0, 3.0, 5.0]))
    >>> fit.coefficients.round(6).tolist(), fit.freedom
    ([1.0, 2.0], 1)
    """
    points, columns = design.shape
    if weights is not None:
        root = np.sqrt(weights)
        design = design * root[:, None]
        y = (y.T * root).T
    if points < columns:
        raise InvalidValueError(f"{points} points do not determine {columns} coefficients: give more")

    q, r = np.linalg.qr(design)
    # |R_kk| is what column k has beyond the columns before it; round-off leaves some where there is nothing.
    beyond = np.abs(np.diag(r))
    length = np.linalg.norm(design, axis=0)
    if (beyond <= points * _ROUNDING * length).any():
        raise InvalidValueError(f"the points do not determine {columns} coefficients: give more different ones")
    inverse = np.linalg.inv(r)
    coefficients = inverse @ (q.T @ y)
    freedom = points - columns - absorbed
    residual = y - design @ coefficients
    squares = np.square(residual).sum(0)
    # Without points to spare nothing tells the scatter.
    variance = squares / (freedom if freedom > 0 else math.nan)
    return LeastSquares(
        coefficients=coefficients,
        variance=variance,
        unit_covariance=inverse @ inverse.T,
        freedom=freedom,
    )


@functools.cache
def t_quantile(freedom: int | float, level: float = LEVEL) -> float:
    """Half the width of a t-based interval in standard errors; NaN without degrees of freedom.

    >>> round(t_quantile(4), 3)
    2.776
    """
    from scipy import stats

    if freedom <= 0:
        return math.nan
    quantile = stats.t.ppf((1 + level) / 2, freedom)
    return float(quantile)


def normal_quantile(level: float = LEVEL) -> float:
    """The same for a standard error that is known.

    >>> round(normal_quantile(), 3)
    1.96
    """
    from scipy import stats

    return float(stats.norm.ppf((1 + level) / 2))


def widening(freedom: int | float) -> float:
    """By what a standard error from few replicas is multiplied so that 1.96 of them hold 95 %.

    >>> round(widening(7), 3), round(widening(1000), 3)
    (1.206, 1.001)
    """
    from scipy import stats

    return t_quantile(freedom) / float(stats.norm.ppf((1 + LEVEL) / 2))
