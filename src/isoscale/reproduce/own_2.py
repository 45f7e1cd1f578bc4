"""The best learning rate of a deep network approaches that of the infinite one, which can be computed and used."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from isoscale import limit
from isoscale.reproduce import conditions, inputs
from isoscale.reproduce.claim import Claim, Preset, Ruling, ruling
from isoscale.reproduce.measured import Measured
from isoscale.stats.summary import mean_and_se

if TYPE_CHECKING:
    import xarray as xr

    from isoscale.reproduce.work import Work

_SHARED = {"dataset": "digits", "phis": ("tanh", "relu"), "horizon": 1.0, "seeds": 4}
PRESETS = {
    "quick": Preset(
        minutes=1.1,
        settings=_SHARED | {"samples": 3, "steps": 3, "depths": (2, 4, 8, 16), "particles": 96, "replicas": 6},
    ),
    "cpu": Preset(
        minutes=45,
        gibibytes=2,
        settings=_SHARED | {"samples": 6, "steps": 6, "depths": (2, 4, 8, 16, 32), "particles": 256, "replicas": 12},
    ),
    "paper": Preset(
        minutes=240,
        gibibytes=16,
        settings=_SHARED
        | {"samples": 16, "steps": 20, "depths": (2, 4, 8, 16, 32, 64), "particles": 2048, "replicas": 16},
    ),
}


def measure(settings: Mapping[str, Any], work: Work) -> Measured:
    """The optimum at every depth and at infinity, and what the infinite network's rate costs a finite one."""
    x, y = inputs.problem(settings, work.data)
    depths = settings["depths"]
    found = Measured()
    for phi in settings["phis"]:
        start: float | None = None
        best = {}
        # The infinite network last: each search begins where the one before ended.
        for depth in (*depths, None):
            best[depth] = work.part(
                f"{phi}, depth {depth or 'infinite'}",
                {**settings, "phi": phi, "depth": depth},
                lambda phi=phi, depth=depth, start=start: _optimum(x, y, settings, phi, depth, start),
            )
            start = best[depth]["lr"]
        end = best[None]
        # Share of the loss that the infinite network's rate costs, by depth and seed: both rates see the same noise.
        of_depths = []
        for depth in depths:
            rates = {"lr": end["lr"], "least": best[depth]["lr"]}
            of_depths.append(
                work.part(
                    f"{phi}, depth {depth}, rate of infinity",
                    {**settings, "phi": phi, "depth": depth, **rates},
                    lambda phi=phi, depth=depth, rates=rates: _costs(x, y, settings, phi, depth, **rates),
                )
            )
        costs = np.array(of_depths)
        found_at = [best[depth] for depth in (*depths, None)]
        found.panel("best learning rate", x="depth L", y="learning rate", log=True)
        found.line(
            "best learning rate",
            phi,
            [*depths, np.inf],
            [rate["lr"] for rate in found_at],
            low=[rate["low"] for rate in found_at],
            high=[rate["high"] for rate in found_at],
        )
        distance = [abs(math.log2(best[depth]["lr"] / end["lr"])) for depth in depths]
        found.panel("distance to the limit's", x="depth L", y="octaves")
        found.line("distance to the limit's", phi, depths, distance)
        found.law(f"exponent of the distance in depth, {phi}", depths, distance)
        found.panel("cost of the limit's rate", x="depth L", y="share of the loss", log=False)
        middle, error = mean_and_se(costs.T)
        found.line("cost of the limit's rate", phi, depths, middle, error)
        deepest = depths[-1]
        # How far the search locates an optimum: to both sides at both depths.
        slack = math.log2(end["high"] / end["low"]) / 2 + math.log2(best[deepest]["high"] / best[deepest]["low"]) / 2
        drift = math.log2(end["lr"] / best[deepest]["lr"])
        found.quantity(f"octaves from depth {deepest} to infinity, {phi}", drift, drift - slack, drift + slack)
        found.mean(f"cost at depth {deepest}, {phi}", costs[-1].tolist())
    return found


def _optimum(
    x: Any, y: Any, settings: Mapping[str, Any], phi: str, depth: int | None, start: float | None
) -> dict[str, float]:
    best = limit.optimal_lr(
        x, y, steps=settings["steps"], depth=depth, start=start, seed=0, **_options(settings, phi, depth)
    )
    return {
        "lr": float(best["lr"]),
        "low": float(best["lr_low"]),
        "high": float(best["lr_high"]),
    }


def _costs(x: Any, y: Any, settings: Mapping[str, Any], phi: str, depth: int, lr: float, least: float) -> list[float]:
    """(loss at lr - loss at least) / loss at least, seed by seed; infinite where lr diverges."""
    costs = []
    for seed in range(settings["seeds"]):
        losses = []
        for rate in (lr, least):
            run = limit.solve(
                x,
                y,
                steps=settings["steps"],
                depth=depth,
                lr=rate,
                seed=seed,
                kernels=False,
                **_options(settings, phi, depth),
            )
            losses.append(float(run["loss"][-1]))
        cost = losses[0] / losses[1] - 1
        costs.append(cost if math.isfinite(cost) else math.inf)
    return costs


def _options(settings: Mapping[str, Any], phi: str, depth: int | None) -> dict[str, Any]:
    return {
        "phi": phi,
        "horizon": settings["horizon"],
        "particles": settings["particles"],
        "replicas": settings["replicas"],
        "ladder": settings["depths"][-3:] if depth is None else None,
    }


def decide(data: xr.Dataset) -> Ruling:
    """Within a quarter octave at the deepest network, and at most 2 % of the loss."""
    parts = []
    for name in conditions.named(data, "octaves from depth"):
        parts.append(conditions.within(data, name, -0.25, 0.25))
    for name in conditions.named(data, "cost at depth"):
        parts.append(conditions.within(data, name, high=0.02))
    return ruling(parts)


CLAIM = Claim(
    id="own-2",
    alias="optimum-at-infinity",
    sentence="The best learning rate approaches that of the infinite network, which can be computed without training "
    "and serves the finite ones.",
    source="isoscale.limit.optimal_lr; docs/theory.md, section 3",
    rule="at the deepest network the optimum is within a quarter octave of the infinite one's, and the infinite one's "
    "rate costs at most 2 % of the loss.",
    reading="At infinite width, depth-muP, blocks of one layer, full-batch SGD; optimum of the final loss. "
    "The search's noise is that of seed 0; the cost is measured again with seeds of its own, the same for both rates.",
    reason="near its optimum the loss is flat, so that its place is known less well than what a rate costs: more "
    "particles would tell.",
    presets=PRESETS,
    measure=measure,
    decide=decide,
)
