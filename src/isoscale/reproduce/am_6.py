"""The depth law holds in 1-D conv nets."""

from __future__ import annotations

from typing import TYPE_CHECKING

from isoscale.reproduce import conditions, depth_laws
from isoscale.reproduce.claim import Claim, Ruling, ruling

if TYPE_CHECKING:
    import xarray as xr

NETWORKS = {"1-D": depth_laws.plain(dims=1)}
PRESETS = {
    "quick": depth_laws.preset("quick", NETWORKS, minutes=0.6),
    "cpu": depth_laws.preset("cpu", NETWORKS, minutes=20),
    "paper": depth_laws.preset("paper", NETWORKS, minutes=60),
}


def decide(data: xr.Dataset) -> Ruling:
    """-3/2."""
    return ruling([conditions.exponent(data, "exponent, 1-D", depth_laws.CLAIMED)])


CLAIM = Claim(
    id="am-6",
    alias="sequences",
    sentence="In plain 1-D conv nets, too, the best learning rate is kappa L^-3/2.",
    source="AM-muP, arXiv 2510.04327; docs/theory.md, section 6",
    rule=depth_laws.RULE,
    reading="Images are read row by row as one sequence.",
    reason=depth_laws.REASON,
    presets=PRESETS,
    measure=depth_laws.measure,
    decide=decide,
)
