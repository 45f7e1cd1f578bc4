"""The learning rate of shallow networks and the exponent -3/2 give that of deeper ones without a sweep."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from isoscale.reproduce import conditions, depth_laws
from isoscale.reproduce.claim import Claim, Part, Ruling, ruling
from isoscale.reproduce.measured import Measured
from isoscale.studies.depth_law.fits import SEGMENTS, Prediction

if TYPE_CHECKING:
    import xarray as xr

    from isoscale.reproduce.work import Work

NETWORKS = {"plain": depth_laws.plain(), "pre, he/sqrt(K)": depth_laws.residual(block="pre")}

# The depths of the papers' segments that each preset can afford.
_QUICK = (3, 4, 5, 7)
_CPU = (3, 4, 5, 7, 9, 10, 11, 12, 14, 16)
PRESETS = {
    "quick": depth_laws.preset("quick", NETWORKS, depths=_QUICK, minutes=1.2),
    "cpu": depth_laws.preset("cpu", NETWORKS, depths=_CPU, minutes=40),
    "paper": depth_laws.preset("paper", NETWORKS, minutes=120),
}


def measure(settings: Mapping[str, Any], work: Work) -> Measured:
    """Errors of the papers' segments, in octaves, depth by depth."""
    found = Measured()
    for name in settings["networks"]:
        law = depth_laws.law_of(settings, name, work)
        depth_laws.report(found, name, law)
        counts = depth_laws.counted(law)
        depths, lrs = np.array(law["depth"], float)[counts], np.array(law["lr"], float)[counts]
        for segment in SEGMENTS:
            errors = _errors(depths, lrs, segment)
            if errors:
                found.panel("claimed law, fitted to a segment's first depths", x="depth L", y="octaves off", log=False)
                line = f"{name}, {segment}"
                found.line("claimed law, fitted to a segment's first depths", line, list(errors), list(errors.values()))
                found.mean(f"mean error in octaves, {line}", [abs(error) for error in errors.values()])
    return found


def _errors(depths: Any, lrs: Any, segment: str) -> dict[float, float]:
    """Octaves by which -3/2 from the segment's first depths misses each later one."""
    sources, (low, high) = SEGMENTS[segment]
    is_fitted = np.isin(depths, sources)
    is_unseen = (low <= depths) & (depths <= high)
    if is_fitted.sum() < len(sources):
        return {}
    law = Prediction(depths[is_fitted], lrs[is_fitted], depth_laws.CLAIMED)
    return {
        float(depth): law.octaves_off(depth, lr) for depth, lr in zip(depths[is_unseen], lrs[is_unseen], strict=True)
    }


def decide(data: xr.Dataset) -> Ruling:
    """Within half an octave on average."""
    names = conditions.named(data, "mean error in octaves")
    parts = [conditions.within(data, name, high=0.5) for name in names]
    if not parts:
        parts = [Part("every segment", None, "none has both its first depths and a later one among those that count")]
    return ruling(parts)


CLAIM = Claim(
    id="am-7",
    alias="zero-shot",
    sentence="With the exponent -3/2 and the best learning rates of two shallow depths, those of deeper networks are "
    "predicted without a sweep, segment by segment.",
    source="AM-muP, arXiv 2510.04327; docs/theory.md, section 6, protocol",
    rule="in every segment ({3, 4} to 5-9, {10, 11} to 12-16, {18, 20} to 22-30) the mean error over its unseen depths "
    "is at most half an octave, with its 95 % interval; depths at chance or at a bound do not count, as in am-1.",
    reason=depth_laws.REASON,
    presets=PRESETS,
    measure=measure,
    decide=decide,
)
