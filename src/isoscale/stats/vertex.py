"""Where loss curves over log2(lr) have their lowest point: the vertex of the quadratic around the smallest loss."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Shaped


class Vertices(NamedTuple):
    """Lowest points of curves; `edge` is "", "low", "high" (of the grid) or "none" (no stable learning rate)."""

    log2_lr: Float[np.ndarray, "*curve"]
    loss: Float[np.ndarray, "*curve"]
    edge: Shaped[np.ndarray, "*curve"]
    cliff: Float[np.ndarray, "*curve"]  # log2 of the next learning rate up if it diverged, else NaN


def vertices(log2_lrs: Float[np.ndarray, " lr"], curves: Float[np.ndarray, "*curve lr"]) -> Vertices:
    """Vertex of the quadratic around each curve's smallest loss, kept within half a grid step of it.

    A loss that is not finite belongs to a learning rate that diverged.
    """
    found = _vertices(log2_lrs, curves.reshape(-1, len(log2_lrs)))
    return Vertices(*(part.reshape(curves.shape[:-1]) for part in found))


def _vertices(log2_lrs: Float[np.ndarray, " lr"], curves: Float[np.ndarray, "curve lr"]) -> Vertices:
    stable = np.isfinite(curves)
    best, last = np.where(stable, curves, np.inf).argmin(-1), len(log2_lrs) - 1
    is_end = [(best == end) & (last > 0) for end in (0, last)]
    edge = np.select([~stable.any(-1), *is_end], ["none", "low", "high"], "")
    above = np.minimum(best + 1, last)
    cliff = np.where((edge == "") & ~_at(stable, above), log2_lrs[above], np.nan)
    shift, loss = _parabola(log2_lrs, curves, best, is_cliff=np.isfinite(cliff))
    is_bound = edge != ""
    loss = np.where(is_bound, _at(curves, best), loss)
    shift = np.where(is_bound, np.where(edge == "none", np.nan, 0.0), shift)
    return Vertices(log2_lrs[best] + shift, np.where(edge == "none", np.nan, loss), edge, cliff)


def _parabola(
    log2_lrs: np.ndarray, curves: np.ndarray, best: np.ndarray, *, is_cliff: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """How far the vertex is from the smallest loss, and the loss there; the smallest itself without two neighbours."""
    away = np.where(np.isfinite(curves), np.abs(log2_lrs - log2_lrs[best][..., None]), np.inf)
    around = np.argsort(away, axis=-1, kind="stable")[..., :3]
    if around.shape[-1] < 3:
        return np.zeros(best.shape), _at(curves, best)
    # The parabola a x^2 + b x + c through the best point, at x = 0, and its two nearest neighbours.
    x1, x2 = np.moveaxis(log2_lrs[around[..., 1:]] - log2_lrs[best][..., None], -1, 0)
    c, y1, y2 = np.moveaxis(np.take_along_axis(curves, around, -1), -1, 0)
    with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
        a = ((y2 - c) / x2 - (y1 - c) / x1) / (x2 - x1)
        b = (y1 - c) / x1 - a * x1
        half_step = np.minimum(np.abs(x1), np.abs(x2)) / 2
        x = np.minimum(np.maximum(-b / (2 * a), -half_step), np.where(is_cliff, 0.0, half_step))
        x = np.where(a > 0, x, 0.0)
        loss = a * x**2 + b * x + c
    has_neighbours = np.isfinite(curves).sum(-1) >= 3
    return np.where(has_neighbours, x, 0.0), np.where(has_neighbours, loss, _at(curves, best))


def interpolate(
    log2_lrs: Float[np.ndarray, " lr"], curves: Float[np.ndarray, "*curve lr"], at: Float[np.ndarray, "*curve"]
) -> Float[np.ndarray, "*curve"]:
    """Loss of each curve at a learning rate of the grid's range; inf if the nearest one of the grid diverged."""
    above = np.clip(np.searchsorted(log2_lrs, at), min(1, len(log2_lrs) - 1), len(log2_lrs) - 1)
    below = np.maximum(above - 1, 0)
    step = np.where(above == below, 1.0, log2_lrs[above] - log2_lrs[below])
    share = np.where(above == below, 0.0, (at - log2_lrs[below]) / step)
    low, high = _at(curves, below), _at(curves, above)
    nearest = np.where(share > 0.5, high, low)
    between = np.isfinite(low) & np.isfinite(high)
    return np.where(between, (1 - share) * low + share * high, np.where(np.isfinite(nearest), nearest, np.inf))


def _at(values: np.ndarray, index: np.ndarray) -> np.ndarray:
    return np.take_along_axis(values, index[..., None], -1)[..., 0]
