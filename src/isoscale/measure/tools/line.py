"""The loss along an optimizer's first step: where it is lowest, and where it is back at its start.

Along the step d the loss is f(lr) = L(w + lr d). Of a quadratic loss with curvature c along the gradient step the
lowest point is lr = 1 / c and the return 2 / c, the largest stable learning rate.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import cast

from scipy.optimize import brentq, minimize_scalar
from torch import Tensor, no_grad

from isoscale.measure.steps import optimizer_step
from isoscale.measure.tools.experiment import Experiment
from isoscale.measure.tools.passes import call, check_finite, loss_gradient, one_number, parameters

# How far from its start a search walks, in octaves, and how exactly it ends.
_FARTHEST = 40
_RESOLUTION = 0.05


@dataclass(frozen=True)
class Line:
    """What the loss does along one step.

    Attributes:
        start: Loss before the step.
        minimum: Learning rate at which it is lowest; NaN if the step lowers it nowhere.
        back: Learning rate beyond that at which it is back at its start; NaN if it never is.
        passes: Forward passes.
    """

    start: float
    minimum: float
    back: float
    passes: int


def along_step(experiment: Experiment, seed: int, near: float | None) -> Line:
    """The loss of the first batch along the first step of a network.

    Args:
        experiment: With the optimizer.
        seed: Of the network and of dropout.
        near: A learning rate to start from; None: that at which no tensor changes by more than its own size.

    Raises:
        InvalidValueError: A loss or gradient that is not finite.
    """
    model = experiment.build(seed)
    batch = experiment.batches[0]
    loss, grads = loss_gradient(model, experiment.loss_fn, batch, seed)
    check_finite(loss, grads)
    families = experiment.families(model)
    own = [name for name, family in families.items() if family == experiment.family.name]
    steps = optimizer_step(grads, experiment.family.name, hidden=own)
    params = parameters(model)
    start = float(loss)
    passes = 0

    def excess(octave: float) -> float:
        """f - f(0) at 2^octave; infinite where the loss is not finite."""
        nonlocal passes
        passes += 1
        moved = dict(params)
        for name, step in steps.items():
            moved[name] = params[name] + 2.0**octave * step
        x, y = batch
        with no_grad():
            found = float(one_number(experiment.loss_fn(call(model, moved, (x,), seed), y)))
        return found - start if math.isfinite(found) else math.inf

    origin = math.log2(near if near is not None else _own_size(params, steps))
    lowest = _lowest(excess, origin)
    if lowest is None:
        return Line(start, math.nan, math.nan, passes)
    back = _back(excess, lowest)
    return Line(start, 2.0**lowest, math.nan if back is None else 2.0**back, passes)


def _own_size(params: dict[str, Tensor], steps: dict[str, Tensor]) -> float:
    """The smallest |w| / |d| over the tensors that have both; 1 if none has."""
    ratios: list[float] = []
    for name, step in steps.items():
        size = float(params[name].norm())
        length = float(step.norm())
        if size > 0 and length > 0:
            ratios.append(size / length)
    return min(ratios, default=1.0)


def _lowest(excess: Callable[[float], float], origin: float) -> float | None:
    """The nearest lowest point, first an octave at a time."""
    at, here = origin, excess(origin)
    above = excess(at + 1)
    if above < here:
        for _ in range(_FARTHEST):
            at, here = at + 1, above
            above = excess(at + 1)
            if not above < here:
                break
    else:
        for _ in range(_FARTHEST):
            below = excess(at - 1)
            if below >= here and here < 0:
                break
            at, here = at - 1, below
    if not here < 0:
        return None
    found = minimize_scalar(
        lambda octave: min(excess(octave), -here),
        bounds=(at - 1, at + 1),
        method="bounded",
        options={"xatol": _RESOLUTION},
    )
    return float(found.x) if found.fun <= here else at


def _back(excess: Callable[[float], float], lowest: float) -> float | None:
    """Where the loss is back at its start, first an octave at a time."""
    at, here = lowest, excess(lowest)
    for _ in range(_FARTHEST):
        above = excess(at + 1)
        if above >= 0:
            # An infinite loss has no place on a line; its size does not matter.
            root = brentq(lambda octave: min(excess(octave), -here), at, at + 1, xtol=_RESOLUTION)
            return cast(float, root)
        at = at + 1
    return None
