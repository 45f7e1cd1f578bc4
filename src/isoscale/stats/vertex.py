"""Where loss curves over log2(lr) have their lowest point: the vertex of the quadratic around the smallest loss."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Int, Shaped


class Vertices(NamedTuple):
    """Lowest points of curves; `edge` is "", "low", "high" (of the grid) or "none" (no stable learning rate)."""

    log2_lr: Float[np.ndarray, "*curve"]
    loss: Float[np.ndarray, "*curve"]
    edge: Shaped[np.ndarray, "*curve"]
    # log2 of the next learning rate up if it diverged, else NaN.
    cliff: Float[np.ndarray, "*curve"]


def vertices(
    log2_lrs: Float[np.ndarray, " lr"],
    curves: Float[np.ndarray, "*curve lr"],
) -> Vertices:
    """Vertex of the quadratic around each curve's smallest loss, kept within half a grid step of it.

    Args:
        log2_lrs: Ascending.
        curves: A loss that is not finite belongs to a learning rate that diverged.
    """
    # Of a single curve NumPy would give scalars, which are no arrays.
    shape = curves.shape[:-1]
    curves = curves.reshape(-1, len(log2_lrs))
    is_stable = np.isfinite(curves)
    finite = np.where(is_stable, curves, np.inf)
    best = finite.argmin(-1)
    lowest = _at(curves, best)
    edge = _edge(best, is_stable)
    is_inside = edge == ""

    last = len(log2_lrs) - 1
    above = np.minimum(best + 1, last)
    is_stable_above = _at(is_stable, above)
    has_cliff = is_inside & ~is_stable_above
    cliff = np.where(has_cliff, log2_lrs[above], np.nan)

    shift, loss = _parabola(
        log2_lrs,
        curves,
        best,
        has_cliff,
    )
    # At an end of the grid the smallest loss itself is the bound.
    shift = np.where(is_inside, shift, 0.0)
    loss = np.where(is_inside, loss, lowest)
    log2_lr = log2_lrs[best] + shift
    is_nothing = edge == "none"
    return Vertices(
        log2_lr=np.where(is_nothing, np.nan, log2_lr).reshape(shape),
        loss=np.where(is_nothing, np.nan, loss).reshape(shape),
        edge=edge.reshape(shape),
        cliff=cliff.reshape(shape),
    )


def _edge(
    best: Int[np.ndarray, "*curve"],
    is_stable: Bool[np.ndarray, "*curve lr"],
) -> Shaped[np.ndarray, "*curve"]:
    """At which end of the grid each smallest loss lies; one learning rate alone has no ends."""
    last = is_stable.shape[-1] - 1
    has_ends = last > 0
    is_nothing = ~is_stable.any(-1)
    is_low = has_ends & (best == 0)
    is_high = has_ends & (best == last)
    return np.select(
        [is_nothing, is_low, is_high],
        ["none", "low", "high"],
        default="",
    )


def _parabola(
    log2_lrs: Float[np.ndarray, " lr"],
    curves: Float[np.ndarray, "*curve lr"],
    best: Int[np.ndarray, "*curve"],
    has_cliff: Bool[np.ndarray, "*curve"],
) -> tuple[np.ndarray, np.ndarray]:
    """How far the vertex is from the smallest loss, and the loss there; the smallest itself without two neighbours."""
    lowest = _at(curves, best)
    if len(log2_lrs) < 3:
        return np.zeros(best.shape), lowest
    is_stable = np.isfinite(curves)
    centre = log2_lrs[best][..., None]
    distance = abs(log2_lrs - centre)
    distance = np.where(is_stable, distance, np.inf)
    order = np.argsort(distance, axis=-1, kind="stable")
    nearest = order[..., :3]

    # The parabola a x^2 + b x + c through the best point, at x = 0, and its two nearest neighbours.
    x = log2_lrs[nearest] - centre
    y = np.take_along_axis(curves, nearest, -1)
    _, x1, x2 = np.moveaxis(x, -1, 0)
    c, y1, y2 = np.moveaxis(y, -1, 0)
    with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
        # Divided differences: the slopes to both, and what the slope changes between them.
        slope1 = (y1 - c) / x1
        slope2 = (y2 - c) / x2
        a = (slope2 - slope1) / (x2 - x1)
        b = slope1 - a * x1
        # Beyond half a step another point of the grid would be nearer; towards a cliff nothing is extrapolated.
        half_step = np.minimum(abs(x1), abs(x2)) / 2
        highest = np.where(has_cliff, 0.0, half_step)
        vertex = -b / (2 * a)
        vertex = np.clip(vertex, -half_step, highest)
        vertex = np.where(a > 0, vertex, 0.0)
        loss = a * vertex**2 + b * vertex + c
    has_neighbours = is_stable.sum(-1) >= 3
    vertex = np.where(has_neighbours, vertex, 0.0)
    loss = np.where(has_neighbours, loss, lowest)
    return vertex, loss


def interpolate(
    log2_lrs: Float[np.ndarray, " lr"],
    curves: Float[np.ndarray, "*curve lr"],
    at: Float[np.ndarray, "*curve"],
) -> Float[np.ndarray, "*curve"]:
    """Loss of each curve at a learning rate of the grid's range; inf if the nearest one of the grid diverged."""
    last = len(log2_lrs) - 1
    is_stable = np.isfinite(curves)
    losses = np.where(is_stable, curves, np.inf)
    if last == 0:
        return losses[..., 0]
    above = np.searchsorted(log2_lrs, at)
    above = np.clip(above, 1, last)
    below = above - 1
    low = _at(losses, below)
    high = _at(losses, above)
    start = log2_lrs[below]
    step = log2_lrs[above] - start
    share = (at - start) / step
    with np.errstate(invalid="ignore"):
        between = (1 - share) * low + share * high
    nearest = np.where(share > 0.5, high, low)
    is_between = np.isfinite(low) & np.isfinite(high)
    return np.where(is_between, between, nearest)


def _at(
    values: Shaped[np.ndarray, "*curve lr"],
    index: Int[np.ndarray, "*curve"],
) -> Shaped[np.ndarray, "*curve"]:
    """One learning rate's value of each curve."""
    index = index[..., None]
    taken = np.take_along_axis(values, index, -1)
    return taken[..., 0]
