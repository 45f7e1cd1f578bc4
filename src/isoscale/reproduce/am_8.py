"""The minimal depth (the shortest path from input to output) predicts the best learning rate better than the number of
blocks or PathSum."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from isoscale.reproduce import conditions, depth_laws
from isoscale.reproduce.claim import Claim, Ruling, ruling
from isoscale.reproduce.measured import Measured

if TYPE_CHECKING:
    import xarray as xr

    from isoscale.reproduce.work import Work

# Networks whose measures of depth differ by more than a constant: one or two convolutions a block.
NETWORKS = {
    "plain": depth_laws.plain(),
    "pre, one conv a block": depth_laws.residual(block="pre"),
    "pre, two convs a block": depth_laws.residual(block="pre", block_depth=2),
}
MEASURES = {"blocks": "blocks", "effective": "minimal depth", "path_sum": "PathSum"}
PRESETS = {
    "quick": depth_laws.preset("quick", NETWORKS, minutes=2.0),
    "cpu": depth_laws.preset("cpu", NETWORKS, depths=(3, 4, 6, 8, 12, 16), seeds=2, minutes=45),
    "paper": depth_laws.preset("paper", NETWORKS, minutes=200),
}


def measure(settings: Mapping[str, Any], work: Work) -> Measured:
    """How far the law -3/2 in each measure of depth, with a constant a network, misses the optima."""
    found = Measured()
    misses: dict[str, list[float]] = {name: [] for name in MEASURES}
    for name in settings["networks"]:
        law = depth_laws.law_of(settings, name, work)
        depth_laws.report(found, name, law)
        counts = depth_laws.counted(law)
        if not counts.any():
            continue
        logs = np.log2(np.array(law["lr"], float)[counts])
        for column, words in MEASURES.items():
            sizes = np.log2(np.array(law[column], float)[counts])
            offsets = logs - depth_laws.CLAIMED * sizes
            octaves = offsets - offsets.mean()
            misses[column].append(float(np.sqrt(np.mean(octaves**2))))
            panel = f"residuals of -3/2, {name}"
            found.panel(panel, x="blocks", y="octaves off the law", log=False)
            found.line(panel, words, np.array(law["depth"], float)[counts], octaves)
    for column, words in MEASURES.items():
        found.mean(f"miss in octaves, {words}", misses[column])
    for column in ("blocks", "path_sum"):
        found.mean(f"minimal depth misses less than {MEASURES[column]} by", _less(misses[column], misses["effective"]))
    return found


def _less(others: list[float], own: list[float]) -> list[float]:
    return [other - mine for other, mine in zip(others, own, strict=True)]


def decide(data: xr.Dataset) -> Ruling:
    """Less than both rivals, beyond the scatter over networks."""
    names = conditions.named(data, "minimal depth misses less")
    return ruling([conditions.within(data, name, low=0.0) for name in names])


CLAIM = Claim(
    id="am-8",
    alias="which-depth",
    sentence="The minimal depth predicts the best learning rate better than the number of blocks or PathSum do.",
    source="MultiPath, arXiv 2602.07494; PathSum, arXiv 2402.17440; docs/theory.md, section 6",
    rule="rms residual of -3/2 (constant fitted, each network by itself) in minimal depth is below that in blocks and "
    "in PathSum^(1/3), by more than the scatter over networks (95 %).",
    reason=depth_laws.REASON,
    presets=PRESETS,
    measure=measure,
    decide=decide,
)
