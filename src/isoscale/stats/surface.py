"""Losses over several hyperparameters at scattered points, brought to where all but one of them are held.

No two points of a random search differ in one hyperparameter alone. Near the optimum log loss is a quadratic

    log loss of seed s at u = a_s + b' u + u' C u

over the logarithms u of all of them, and what a point's other coordinates v cost beyond those of a reference v* is
read off it: the point's loss there is its own less that. What the quadratic does not explain stays in the losses, as
noise, so that a form that does not hold shows.
"""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Int

# Share of the runs, the best ones, that are near enough to the optimum for a quadratic.
_NEAR = 0.5
# Places at which the least loss along one axis is worked out.
_KNOTS = 65


@dataclass(frozen=True)
class Surface:
    """A quadratic through the log losses of the best runs.

    Attributes:
        centre, scale: Mean and range of the points, to whose unit they are brought.
        coefficients: Of the columns of `_columns`.
        low, high: The box of all points, in that unit.
        is_near: Which runs it is fitted to.
    """

    centre: Float[np.ndarray, " axis"]
    scale: Float[np.ndarray, " axis"]
    coefficients: Float[np.ndarray, " column"]
    low: Float[np.ndarray, " axis"]
    high: Float[np.ndarray, " axis"]
    is_near: np.ndarray

    def at(self, points: Float[np.ndarray, "run axis"]) -> Float[np.ndarray, " run"]:
        """Log loss at points, less the level of a seed."""
        return _columns((points - self.centre) / self.scale) @ self.coefficients

    def least(self, held: int, points: Float[np.ndarray, "run axis"]) -> Float[np.ndarray, " run"]:
        """The least log loss that other coordinates have, where one is held as it is at each point."""
        values = points[:, held]
        # A smooth function of the one that is held, however many points there are.
        knots = np.linspace(values.min(), values.max(), _KNOTS)
        best = np.tile(self.centre, (_KNOTS, 1))
        best[:, held] = knots
        best = np.array([self._descended(point, held) for point in best])
        return np.interp(values, knots, self.at(best))

    def optimum(self, start: Float[np.ndarray, " axis"]) -> Float[np.ndarray, " axis"]:
        """The point of the least log loss in the box, downhill from a start."""
        return self._descended(start, None)

    def _descended(self, start: Float[np.ndarray, " axis"], held: int | None) -> Float[np.ndarray, " axis"]:
        """Coordinates of the least log loss in the box, downhill from a start; one of them may stay."""
        from scipy.optimize import minimize

        first = (start - self.centre) / self.scale
        low, high = self.low.copy(), self.high.copy()
        if held is not None:
            low[held] = high[held] = first[held]
        found = minimize(
            lambda u: float((_columns(u[None]) @ self.coefficients)[0]),
            np.clip(first, low, high),
            bounds=list(zip(low, high, strict=True)),
            method="L-BFGS-B",
        )
        return self.centre + found.x * self.scale


def fit_surface(
    points: Float[np.ndarray, "run axis"],
    seed: Int[np.ndarray, " run"],
    loss: Float[np.ndarray, " run"],
) -> Surface | None:
    """The quadratic through the best runs; None if they are too few or too much alike to tell the axes apart, or have
    losses or hyperparameters without a logarithm.

    Args:
        points: Logarithms of the hyperparameters.
        seed: Number of each run's seed, from 0.
        loss: Not finite where a run diverged.
    """
    is_stable = np.isfinite(loss)
    if not np.isfinite(points).all() or not is_stable.any() or (loss[is_stable] <= 0).any():
        return None
    seeds = int(seed.max()) + 1
    axes = points.shape[1]
    columns = axes + axes * (axes + 1) // 2
    # One degree of freedom for each axis is the least from which noise can be told.
    needed = columns + seeds + axes
    stable = int(is_stable.sum())
    if stable < needed:
        return None
    near = max(needed, math.ceil(_NEAR * stable))
    logs = np.log(np.where(is_stable, loss, np.inf))
    is_near = np.zeros(len(loss), bool)
    is_near[np.argsort(logs, kind="stable")[:near]] = True

    centre = points[is_near].mean(0)
    scale = np.ptp(points, axis=0) / 2
    scale = np.where(scale > 0, scale, 1.0)
    unit = (points - centre) / scale
    levels = np.eye(seeds)[seed]
    design = np.hstack([_columns(unit), levels])[is_near]
    found, _, rank, _ = np.linalg.lstsq(design, logs[is_near], rcond=None)
    if rank < design.shape[1]:
        return None
    return Surface(centre, scale, found[:columns], unit.min(0), unit.max(0), is_near)


def _columns(unit: Float[np.ndarray, "run axis"]) -> Float[np.ndarray, "run column"]:
    """Powers and products of the coordinates up to the second degree, without the constant."""
    axes = unit.shape[1]
    squares = [unit[:, i] * unit[:, j] for i, j in itertools.combinations_with_replacement(range(axes), 2)]
    return np.column_stack([unit, *squares])
