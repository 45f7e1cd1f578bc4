"""The depth law holds with GELU as with ReLU."""

from __future__ import annotations

from typing import TYPE_CHECKING

from isoscale.reproduce import conditions, depth_laws
from isoscale.reproduce.claim import Claim, Ruling, ruling

if TYPE_CHECKING:
    import xarray as xr

NETWORKS = {"relu": depth_laws.plain(), "gelu": depth_laws.plain(phi="gelu")}
PRESETS = {
    "quick": depth_laws.preset("quick", NETWORKS, minutes=1.2),
    "cpu": depth_laws.preset("cpu", NETWORKS, minutes=35),
    "paper": depth_laws.preset("paper", NETWORKS, minutes=120),
}


def decide(data: xr.Dataset) -> Ruling:
    """-3/2 with both activations."""
    names = conditions.named(data, "exponent, ")
    return ruling([conditions.exponent(data, name, depth_laws.CLAIMED) for name in names])


CLAIM = Claim(
    id="am-4",
    alias="activation",
    sentence="The exponent -3/2 of the depth law is the same with ReLU and with GELU.",
    source="AM-muP, arXiv 2510.04327; docs/theory.md, section 6",
    rule=f"with both activations: {depth_laws.RULE}",
    reason=depth_laws.REASON,
    presets=PRESETS,
    measure=depth_laws.measure,
    decide=decide,
)
