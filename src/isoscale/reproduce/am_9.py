"""The depth law under Adam: claimed to be -3/2 as under SGD; the follow-up prints about -1.2."""

from __future__ import annotations

from typing import TYPE_CHECKING

from isoscale.reproduce import conditions, depth_laws
from isoscale.reproduce.claim import Claim, Ruling, ruling

if TYPE_CHECKING:
    import xarray as xr

NETWORKS = {
    "plain, adam": depth_laws.plain(optimizer="adam"),
    "pre, he/sqrt(K), adam": depth_laws.residual(block="pre", optimizer="adam"),
}
PRESETS = {
    "quick": depth_laws.preset("quick", NETWORKS, minutes=1.2),
    "cpu": depth_laws.preset("cpu", NETWORKS, minutes=40),
    "paper": depth_laws.preset("paper", NETWORKS, minutes=140),
}


def decide(data: xr.Dataset) -> Ruling:
    """-3/2 in both."""
    names = conditions.named(data, "exponent, ")
    return ruling([conditions.exponent(data, name, depth_laws.CLAIMED) for name in names])


CLAIM = Claim(
    id="am-9",
    alias="adam",
    sentence="The depth law -3/2 holds under Adam as well.",
    source="AM-muP, arXiv 2510.04327; MultiPath, arXiv 2602.07494 (prints about -1.2); docs/theory.md, section 6",
    rule=f"in both networks: {depth_laws.RULE}",
    reason=depth_laws.REASON
    + " Adam's step does not depend on the gradient's size: the derivation for SGD does not cover it.",
    presets=PRESETS,
    measure=depth_laws.measure,
    decide=decide,
)
