"""Is the transfer worth it? How fast the cost of a transferred learning rate vanishes against what size brings.

With the size n, the least loss L_n, its learning rate lr_n and the curvature c_n of the loss over log2(lr),

    L_n - L_inf ~ n^-alpha        log2(lr_n / lr_inf) ~ n^-beta        c_n ~ n^gamma

a rate that was tuned at n costs about c_n (log2(lr_n / lr_inf))^2 ~ n^(gamma - 2 beta) against a gap n^-alpha. The
ratio goes like n^kappa with kappa = alpha - 2 beta + gamma: kappa < 0 means that tuning a small model is cheaper than
tuning the large one (docs/verdict.md).
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from jaxtyping import Float
from numpy.typing import ArrayLike

from isoscale.errors import InvalidValueError
from isoscale.stats.least_squares import normal_quantile
from isoscale.stats.optimum import Optimum
from isoscale.stats.summary import LEVEL

# Exponents that are tried.
_EXPONENTS = np.linspace(0.02, 4.0, 400)


class Exponent(NamedTuple):
    """An exponent and its 95 % interval; NaN where nothing moves, or on a side that is open."""

    value: float
    low: float
    high: float


@dataclass(frozen=True)
class Worth:
    """How fast a transfer pays.

    Attributes:
        alpha, beta, gamma: Exponents of the loss gap, of the optimum's drift and of the curvature.
        kappa: alpha - 2 beta + gamma.
        words: "fast": the cost vanishes faster than the gap (kappa < 0). "useful": it vanishes, but not faster.
            "not": it does not vanish. "cannot tell" where an interval holds both.
    """

    alpha: Exponent
    beta: Exponent
    gamma: Exponent
    kappa: Exponent
    words: str


def worth_of_optima(optima: Mapping[float, Optimum] | Mapping[int, Optimum]) -> Worth:
    """Exponents from the optima of three sizes or more, as `find_optimum` gives them; bounds are left out.

    Raises:
        InvalidValueError: Fewer than three sizes have an optimum with an interval.
    """
    inside = {size: one for size, one in optima.items() if not one.edge and math.isfinite(one.se)}
    found = list(inside.values())
    loss = np.array([one.loss for one in found])
    return worth(
        list(inside),
        loss=loss,
        loss_se=[one.loss_se for one in found],
        log2_lr=[one.log2_lr for one in found],
        log2_lr_se=[one.se for one in found],
        # Of log loss to that of the loss.
        curvature=loss * [one.curvature for one in found],
        curvature_se=loss * [one.curvature_se for one in found],
    )


def worth(
    sizes: ArrayLike,
    *,
    loss: ArrayLike,
    loss_se: ArrayLike,
    log2_lr: ArrayLike,
    log2_lr_se: ArrayLike,
    curvature: ArrayLike,
    curvature_se: ArrayLike,
) -> Worth:
    """Exponents from what was measured at three sizes or more.

    Args:
        sizes: Distinct and positive, three or more.
        loss, log2_lr, curvature: The least loss, log2 of its learning rate, curvature of the loss per octave^2.
        loss_se, log2_lr_se, curvature_se: Their standard errors, positive: the intervals come from them.

    Raises:
        InvalidValueError: Fewer than three sizes, or standard errors that are not positive.

    >>> n = np.array([4.0, 8, 16, 32])
    >>> tiny = np.full(4, 1e-5)
    >>> found = worth(n, loss=1 + 1 / n, loss_se=tiny, log2_lr=-3 + 2 / n, log2_lr_se=tiny,
    ...               curvature=np.ones(4), curvature_se=tiny)
    >>> round(found.alpha.value, 1), round(found.beta.value, 1), round(found.kappa.value, 1), found.words
    (1.0, 1.0, -1.0, 'fast')
    """
    n = np.asarray(sizes, float)
    if len(n) < 3 or len(np.unique(n)) < len(n) or (n <= 0).any():
        raise InvalidValueError(f"`sizes` must hold three different positive sizes or more, got {n.tolist()}")
    alpha = _approach(n, *_measured("loss", n, loss, loss_se))
    beta = _approach(n, *_measured("log2_lr", n, log2_lr, log2_lr_se))
    gamma = _growth(n, *_measured("curvature", n, curvature, curvature_se))
    kappa = _sum((1.0, alpha), (-2.0, beta), (1.0, gamma))
    cost = _sum((-2.0, beta), (1.0, gamma))
    return Worth(alpha, beta, gamma, kappa, _words(kappa, cost, beta))


def _measured(
    name: str,
    n: Float[np.ndarray, " size"],
    values: ArrayLike,
    errors: ArrayLike,
) -> tuple[Float[np.ndarray, " size"], Float[np.ndarray, " size"]]:
    y, se = np.asarray(values, float), np.asarray(errors, float)
    if y.shape != n.shape or se.shape != n.shape or not np.isfinite(y).all():
        raise InvalidValueError(f"`{name}` must hold a finite number and an error for each size, got {y.tolist()}")
    if not (np.isfinite(se) & (se > 0)).all():
        raise InvalidValueError(f"`{name}_se` must be positive and finite, got {se.tolist()}")
    return y, se


def _approach(
    n: Float[np.ndarray, " size"],
    y: Float[np.ndarray, " size"],
    se: Float[np.ndarray, " size"],
) -> Exponent:
    """Exponent of y = limit + amplitude n^-exponent: least chi^2, and where it grows by the normal law's square."""
    allowed = normal_quantile(LEVEL) ** 2
    constant = np.average(y, weights=se**-2)
    about_constant = float((((y - constant) / se) ** 2).sum())
    squares = _chi2(n[:, None] ** -_EXPONENTS, y[:, None], se[:, None])
    best = int(squares.argmin())
    if about_constant - squares[best] <= allowed:
        # Nothing moves by more than noise.
        return Exponent(math.nan, math.nan, math.nan)
    within = np.flatnonzero(squares - squares[best] <= allowed)
    # The next exponents that were tried on either side are excluded.
    last = len(_EXPONENTS) - 1
    low, high = max(within[0] - 1, 0), min(within[-1] + 1, last)
    return Exponent(
        float(_EXPONENTS[best]),
        float(_EXPONENTS[low]) if low > 0 else math.nan,
        float(_EXPONENTS[high]) if high < last else math.nan,
    )


def _chi2(
    x: Float[np.ndarray, "size exponent"],
    y: Float[np.ndarray, "size 1"],
    se: Float[np.ndarray, "size 1"],
) -> Float[np.ndarray, " exponent"]:
    """Sum of squared residuals in standard errors about the line through y over each x."""
    weights = se**-2 / (se**-2).sum()
    x = x - (weights * x).sum(0)
    y = y - (weights * y).sum(0)
    slope = (weights * x * y).sum(0) / (weights * x * x).sum(0)
    return (((y - slope * x) / se) ** 2).sum(0)


def _growth(
    n: Float[np.ndarray, " size"],
    y: Float[np.ndarray, " size"],
    se: Float[np.ndarray, " size"],
) -> Exponent:
    """Exponent of y = coefficient n^exponent, with an interval from the standard errors."""
    if (y <= 0).any():
        return Exponent(math.nan, math.nan, math.nan)
    weights = (y / se) ** 2
    x = np.log(n) - np.average(np.log(n), weights=weights)
    information = float((weights * x * x).sum())
    slope = float((weights * x * np.log(y)).sum()) / information
    half = normal_quantile(LEVEL) / math.sqrt(information)
    return Exponent(slope, slope - half, slope + half)


def _sum(*terms: tuple[float, Exponent]) -> Exponent:
    """A weighted sum of independent exponents; the two sides add in squares, an open one stays open."""
    value = sum(factor * one.value for factor, one in terms)
    down = up = 0.0
    for factor, one in terms:
        below, above = one.value - one.low, one.high - one.value
        if factor < 0:
            below, above = above, below
        down = math.hypot(down, factor * below)
        up = math.hypot(up, factor * above)
    return Exponent(value, value - down, value + up)


def _words(kappa: Exponent, cost: Exponent, beta: Exponent) -> str:
    if math.isnan(beta.value):
        return "cannot tell: the optimum does not move by more than noise"
    if kappa.high < 0:
        return "fast"
    if cost.low >= 0:
        return "not"
    if cost.high < 0 and kappa.low > 0:
        return "useful"
    return "cannot tell"
