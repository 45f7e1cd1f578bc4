"""In plain conv nets the best learning rate falls with depth like L^-3/2."""

from __future__ import annotations

from typing import TYPE_CHECKING

from isoscale.reproduce import conditions, depth_laws
from isoscale.reproduce.claim import Claim, Ruling, ruling

if TYPE_CHECKING:
    import xarray as xr

NETWORKS = {"plain": depth_laws.plain()}
PRESETS = {
    "quick": depth_laws.preset("quick", NETWORKS, minutes=0.6),
    "cpu": depth_laws.preset("cpu", NETWORKS, minutes=20),
    "paper": depth_laws.preset("paper", NETWORKS, minutes=60),
}


def decide(data: xr.Dataset) -> Ruling:
    """-3/2."""
    return ruling([conditions.exponent(data, "exponent, plain", depth_laws.CLAIMED)])


CLAIM = Claim(
    id="am-1",
    alias="plain-nets",
    sentence="In plain 2-D conv nets with circular padding the best learning rate is kappa L^-3/2.",
    source="AM-muP, arXiv 2510.04327; docs/theory.md, section 6",
    rule=depth_laws.RULE,
    reason=depth_laws.REASON,
    presets=PRESETS,
    measure=depth_laws.measure,
    decide=decide,
)
