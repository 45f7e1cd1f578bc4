"""In residual conv nets the best learning rate falls with the number of blocks like L^-3/2."""

from __future__ import annotations

from typing import TYPE_CHECKING

from isoscale.reproduce import conditions, depth_laws
from isoscale.reproduce.claim import Claim, Ruling, ruling

if TYPE_CHECKING:
    import xarray as xr

# As published (post-activation, neither centred nor normalised), as derived (pre-activation), and with a norm.
_MAIN = {
    "post, he/sqrt(K)": depth_laws.residual(),
    "pre, he/sqrt(K)": depth_laws.residual(block="pre"),
    "post, he, BatchNorm": depth_laws.residual(branch_init="he", norm="batch"),
}
_ALL = _MAIN | {
    "post, he/sqrt(K), centred": depth_laws.residual(centre=True),
    "post, he": depth_laws.residual(branch_init="he"),
    "pre, he": depth_laws.residual(branch_init="he", block="pre"),
}
PRESETS = {
    "quick": depth_laws.preset("quick", _MAIN, minutes=1.6),
    "cpu": depth_laws.preset("cpu", _MAIN, seeds=2, minutes=45),
    "paper": depth_laws.preset("paper", _ALL, minutes=240),
}


def decide(data: xr.Dataset) -> Ruling:
    """-3/2 in every variant."""
    names = conditions.named(data, "exponent, ")
    return ruling([conditions.exponent(data, name, depth_laws.CLAIMED) for name in names])


CLAIM = Claim(
    id="am-2",
    alias="residual-nets",
    sentence="In residual conv nets the best learning rate falls like L^-3/2, L the minimal depth.",
    source="AM-muP, arXiv 2510.04327; MultiPath, arXiv 2602.07494; docs/theory.md, section 6",
    rule=f"in every variant: {depth_laws.RULE}",
    reading="Blocks of one convolution, so that minimal depth and blocks differ by a constant.",
    reason=depth_laws.REASON
    + " With He init and no norm the stream grows with each block, and the optimum follows it.",
    presets=PRESETS,
    measure=depth_laws.measure,
    decide=decide,
)
