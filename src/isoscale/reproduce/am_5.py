"""BatchNorm and dropout change the constant of the depth law and not its exponent."""

from __future__ import annotations

from typing import TYPE_CHECKING

from isoscale.reproduce import conditions, depth_laws
from isoscale.reproduce.claim import Claim, Ruling, ruling

if TYPE_CHECKING:
    import xarray as xr

NETWORKS = {
    "neither": depth_laws.plain(),
    "BatchNorm": depth_laws.plain(norm="batch"),
    "dropout": depth_laws.plain(dropout=0.1),
}
PRESETS = {
    "quick": depth_laws.preset("quick", NETWORKS, minutes=1.8),
    "cpu": depth_laws.preset("cpu", NETWORKS, seeds=2, minutes=45),
    "paper": depth_laws.preset("paper", NETWORKS, minutes=180),
}


def decide(data: xr.Dataset) -> Ruling:
    """-3/2 with both."""
    names = ["exponent, BatchNorm", "exponent, dropout"]
    return ruling([conditions.exponent(data, name, depth_laws.CLAIMED) for name in names])


CLAIM = Claim(
    id="am-5",
    alias="prefactor",
    sentence="BatchNorm and dropout change the constant of the depth law, not its exponent -3/2.",
    source="AM-muP, arXiv 2510.04327; docs/theory.md, section 6",
    rule=f"with BatchNorm and with dropout: {depth_laws.RULE}",
    reading="MultiPath (arXiv 2602.07494) itself prints -1.70 with BatchNorm.",
    reason=depth_laws.REASON,
    presets=PRESETS,
    measure=depth_laws.measure,
    decide=decide,
)
