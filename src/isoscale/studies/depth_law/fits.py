"""The law fitted to optima over depth, and how well each measure of depth predicts depths that the fit has not seen."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from jaxtyping import Float

from isoscale import stats as laws
from isoscale.errors import InvalidValueError
from isoscale.studies.depth_law.published import CLAIM

Floats = Sequence[float] | np.ndarray

# The papers' zero-shot protocol: depths to fit, range of depths to predict (docs/theory.md, section 6).
SEGMENTS = {
    "3,4 to 5-9": ((3, 4), (5, 9)),
    "10,11 to 12-16": ((10, 11), (12, 16)),
    "18,20 to 22-30": ((18, 20), (22, 30)),
}

# Each measure of depth is fitted with an exponent of its own and with the claimed one.
_EXPONENTS = {"fitted": None, "claimed": CLAIM}

_LAW = ("exponent", "exponent_low", "exponent_high", "coefficient", "r2", "points")


def law_of(depths: Floats, lrs: Floats, lrs_se: Floats | None = None) -> dict[str, float]:
    """Exponent with interval, R^2 and curvature (with interval) of lr against depth; NaN where points are too few.

    `lrs_se` are the learning rates' standard errors, which weigh them.
    """
    found = dict.fromkeys((*_LAW, "curvature", "curvature_low", "curvature_high"), math.nan)
    found["points"] = len(depths)
    if len(depths) >= 2:
        law = laws.fit_power_law(depths, lrs, lrs_se)
        for name in _LAW:
            found[name] = getattr(law, name)
    if len(depths) >= 3:
        bend = laws.fit_curvature(depths, lrs, lrs_se)
        found["curvature"] = bend.per_octave
        found["curvature_low"] = bend.low
        found["curvature_high"] = bend.high
    return found


class Prediction:
    """A law fitted to some depths: with its own exponent, or with the claimed one and a fitted constant.

    >>> law = Prediction([1.0, 2.0], [4.0, 2.0])
    >>> round(law(4.0), 6), round(Prediction([1.0], [8.0], exponent=-1.5)(4.0), 6)
    (1.0, 1.0)
    """

    def __init__(self, depths: Floats, lrs: Floats, exponent: float | None = None) -> None:
        if exponent is None:
            law = laws.fit_power_law(depths, lrs)
            self.exponent = law.exponent
            self.coefficient = law.coefficient
        else:
            # log coefficient = mean of log lr - exponent log depth
            logs = np.log(lrs) - exponent * np.log(depths)
            self.exponent = exponent
            self.coefficient = math.exp(float(logs.mean()))

    def __call__(self, depth: float) -> float:
        return float(self.coefficient * depth**self.exponent)

    def octaves_off(self, depth: float, lr: float) -> float:
        """How far the prediction lies above a measured learning rate, in octaves: log2(predicted / measured)."""
        ratio = self(float(depth)) / float(lr)
        return math.log2(ratio)


def out_of_sample(
    measures: Mapping[str, Float[np.ndarray, " depth"]], lrs: Float[np.ndarray, " depth"]
) -> list[dict[str, Any]]:
    """Error at the deepest optimum of laws fitted to all others, in octaves (predicted above measured is positive).

    One row per measure of depth, with its own exponent and with the claimed one of docs/theory.md, section 6.
    """
    found = []
    for name, depths in measures.items():
        for law, exponent in _EXPONENTS.items():
            prediction = Prediction(depths[:-1], lrs[:-1], exponent)
            found.append(
                {
                    "measure": name,
                    "law": law,
                    "exponent": prediction.exponent,
                    "octaves": prediction.octaves_off(depths[-1], lrs[-1]),
                }
            )
    return found


def segments(
    blocks: Float[np.ndarray, " depth"],
    measures: Mapping[str, Float[np.ndarray, " depth"]],
    lrs: Float[np.ndarray, " depth"],
) -> list[dict[str, Any]]:
    """The papers' segments: fit the first depths, predict the others; mean and largest error in octaves."""
    found = []
    for segment, (sources, (low, high)) in SEGMENTS.items():
        is_fitted = np.isin(blocks, sources)
        is_unseen = (low <= blocks) & (blocks <= high)
        if is_fitted.sum() < len(sources) or not is_unseen.any():
            continue
        for name, depths in measures.items():
            for law, exponent in _EXPONENTS.items():
                prediction = Prediction(depths[is_fitted], lrs[is_fitted], exponent)
                unseen = zip(depths[is_unseen], lrs[is_unseen], strict=True)
                errors = np.abs([prediction.octaves_off(depth, lr) for depth, lr in unseen])
                found.append(
                    {
                        "segment": segment,
                        "measure": name,
                        "law": law,
                        "exponent": prediction.exponent,
                        "octaves": errors.mean(),
                        "worst": errors.max(),
                        "depths": len(errors),
                    }
                )
    return found


def check_depths(depths: Sequence[int]) -> None:
    """Raise InvalidValueError unless there are depths enough for a law."""
    if len(depths) < 3:
        raise InvalidValueError(f"a depth law needs three `depths` or more, got {', '.join(map(str, depths))}")
