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

# The papers' zero-shot protocol: depths to fit, range of depths to predict (THEORY.md section 6).
SEGMENTS = {
    "3,4 to 5-9": ((3, 4), (5, 9)),
    "10,11 to 12-16": ((10, 11), (12, 16)),
    "18,20 to 22-30": ((18, 20), (22, 30)),
}

_LAW = ("exponent", "exponent_low", "exponent_high", "coefficient", "r2", "points")


def law_of(depths: Floats, lrs: Floats) -> dict[str, float]:
    """Exponent with interval, R^2 and curvature (with interval) of lr against depth; NaN where points are too few."""
    found = dict.fromkeys((*_LAW, "curvature", "curvature_low", "curvature_high"), math.nan)
    found["points"] = len(depths)
    if len(depths) >= 2:
        law = laws.fit_power_law(depths, lrs)
        found |= {name: getattr(law, name) for name in _LAW}
    if len(depths) >= 3:
        bend = laws.fit_curvature(depths, lrs)
        found |= {"curvature": bend.per_octave, "curvature_low": bend.low, "curvature_high": bend.high}
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
            self.exponent, self.coefficient = law.exponent, law.coefficient
        else:
            logs = np.log(np.asarray(lrs)) - exponent * np.log(np.asarray(depths))
            self.exponent, self.coefficient = exponent, math.exp(float(logs.mean()))

    def __call__(self, depth: float) -> float:
        return float(self.coefficient * depth**self.exponent)


def out_of_sample(
    measures: Mapping[str, Float[np.ndarray, " depth"]], lrs: Float[np.ndarray, " depth"]
) -> list[dict[str, Any]]:
    """Error at the deepest optimum of laws fitted to all others, in octaves (predicted above measured is positive).

    A row for each measure of depth, with its own exponent and with the claimed one of THEORY.md section 6.
    """
    found = []
    for name, depths in measures.items():
        for law, exponent in (("fitted", None), ("claimed", CLAIM)):
            seen = depths[:-1], lrs[:-1]
            law_at = Prediction(*seen, exponent)
            error = math.log2(law_at(float(depths[-1])) / float(lrs[-1]))
            found.append({"measure": name, "law": law, "exponent": law_at.exponent, "octaves": error})
    return found


def segments(
    blocks: Float[np.ndarray, " depth"],
    measures: Mapping[str, Float[np.ndarray, " depth"]],
    lrs: Float[np.ndarray, " depth"],
) -> list[dict[str, Any]]:
    """The papers' segments: fit the first depths, predict the others; mean and largest error in octaves."""
    found = []
    for segment, (sources, (low, high)) in SEGMENTS.items():
        fit, unseen = np.isin(blocks, sources), (blocks >= low) & (blocks <= high)
        if fit.sum() < len(sources) or not unseen.any():
            continue
        for name, depths in measures.items():
            for law, exponent in (("fitted", None), ("claimed", CLAIM)):
                law_at = Prediction(depths[fit], lrs[fit], exponent)
                errors = np.abs([math.log2(law_at(d) / lr) for d, lr in zip(depths[unseen], lrs[unseen], strict=True)])
                row = {"segment": segment, "measure": name, "law": law, "exponent": law_at.exponent}
                found.append(row | {"octaves": errors.mean(), "worst": errors.max(), "depths": int(unseen.sum())})
    return found


def check_depths(depths: Sequence[int]) -> None:
    """Raise InvalidValueError unless there are depths enough for a law."""
    if len(depths) < 3:
        raise InvalidValueError(f"a depth law needs three `depths` or more, got {', '.join(map(str, depths))}")
