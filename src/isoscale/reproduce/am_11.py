"""The exponent of the depth law does not depend on the width."""

from __future__ import annotations

from typing import TYPE_CHECKING

from isoscale.reproduce import conditions, depth_laws
from isoscale.reproduce.claim import Claim, Ruling, ruling

if TYPE_CHECKING:
    import xarray as xr


def _at(*widths: int) -> dict[str, dict[str, object]]:
    return {f"{width} channels": depth_laws.residual(block="pre", widths=(width,)) for width in widths}


PRESETS = {
    "quick": depth_laws.preset("quick", _at(4, 8, 16), minutes=1.5),
    "cpu": depth_laws.preset("cpu", _at(16, 32, 64), depths=(3, 4, 6, 8, 12, 16), seeds=2, minutes=45),
    "paper": depth_laws.preset("paper", _at(16, 32, 64, 128), minutes=240, gibibytes=40),
}


def decide(data: xr.Dataset) -> Ruling:
    """-3/2 at every width."""
    names = conditions.named(data, "exponent, ")
    return ruling([conditions.exponent(data, name, depth_laws.CLAIMED) for name in names])


CLAIM = Claim(
    id="am-11",
    alias="robust-in-width",
    sentence="The exponent -3/2 is the same at every width.",
    source="AM-muP, arXiv 2510.04327; docs/theory.md, section 6",
    rule=f"at every width: {depth_laws.RULE}",
    reading="In pre-activation residual nets, which learn at every depth.",
    reason=depth_laws.REASON,
    presets=PRESETS,
    measure=depth_laws.measure,
    decide=decide,
)
