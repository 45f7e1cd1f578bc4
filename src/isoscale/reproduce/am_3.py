"""Padding changes the constant of the depth law and not its exponent when the image is much larger than the kernel."""

from __future__ import annotations

from typing import TYPE_CHECKING

from isoscale.reproduce import conditions, depth_laws
from isoscale.reproduce.claim import Claim, Ruling, ruling

if TYPE_CHECKING:
    import xarray as xr

NETWORKS = {"circular": depth_laws.plain(), "zero": depth_laws.plain(padding="zero")}
PRESETS = {
    "quick": depth_laws.preset("quick", NETWORKS, minutes=1.2),
    "cpu": depth_laws.preset("cpu", NETWORKS, minutes=35),
    "paper": depth_laws.preset("paper", NETWORKS, minutes=120),
}


def decide(data: xr.Dataset) -> Ruling:
    """-3/2 with both kinds."""
    names = conditions.named(data, "exponent, ")
    return ruling([conditions.exponent(data, name, depth_laws.CLAIMED) for name in names])


CLAIM = Claim(
    id="am-3",
    alias="padding",
    sentence="Zero padding changes the constant of the law eta* = kappa L^-3/2, not its exponent, when the image is "
    "much larger than the kernel.",
    source="AM-muP, arXiv 2510.04327; docs/theory.md, section 6",
    rule=f"with both kinds of padding: {depth_laws.RULE}",
    reason=depth_laws.REASON,
    presets=PRESETS,
    measure=depth_laws.measure,
    decide=decide,
)
