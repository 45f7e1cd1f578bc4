"""Larger is better with diminishing returns: the loss approaches its limit like c/L in depth and c/n in width, each
doubling brings half of what the last one did, and the trend ends at the limit's own loss."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from isoscale import limit, stats
from isoscale.reproduce import conditions, inputs
from isoscale.reproduce.claim import Claim, Preset, Ruling, ruling
from isoscale.reproduce.measured import Measured
from isoscale.stats.summary import mean_and_se

if TYPE_CHECKING:
    import xarray as xr

    from isoscale.reproduce.work import Work

_SHARED = {"dataset": "digits", "phi": "tanh", "lr": 0.15}
PRESETS = {
    "quick": Preset(
        minutes=0.4,
        settings=_SHARED
        | {
            "samples": 4,
            "steps": 5,
            "depths": (2, 4, 8, 16, 32),
            "particles": 256,
            "replicas": 12,
            "widths": (16, 32, 64, 128),
            "draws": 150,
        },
    ),
    "cpu": Preset(
        minutes=30,
        gibibytes=2,
        settings=_SHARED
        | {
            "samples": 8,
            "steps": 8,
            "depths": (2, 4, 8, 16, 32, 64),
            "particles": 512,
            "replicas": 16,
            "widths": (16, 32, 64, 128, 256),
            "draws": 400,
        },
    ),
    "paper": Preset(
        minutes=180,
        gibibytes=16,
        settings=_SHARED
        | {
            "samples": 32,
            "steps": 20,
            "depths": (2, 4, 8, 16, 32, 64, 128),
            "particles": 4096,
            "replicas": 16,
            "widths": (64, 128, 256, 512, 1024),
            "draws": 400,
        },
    ),
}


def measure(settings: Mapping[str, Any], work: Work) -> Measured:
    """Loss after the last step against depth at infinite width, and against width at the smallest depth."""
    x, y = inputs.problem(settings, work.data)
    depths = settings["depths"]
    solved = work.part("all depths", settings, lambda: _solved(x, y, settings))
    *values, end = solved["loss"]
    *errors, end_se = solved["loss_se"]
    losses = dict(zip(depths, values, strict=True))

    found = Measured()
    found.panel("loss against depth", x="depth L", y="training loss", log=False)
    found.line("loss against depth", "infinite width", [*depths, np.inf], [*values, end], [*errors, end_se])
    above = np.abs(np.array(values) - end)
    found.panel("distance to the limit", x="depth L, or width n", y="|loss - limit|")
    # All depths share their noise: the errors of the losses are not those of their differences.
    found.line("distance to the limit", "in depth", depths, above)
    found.law("exponent in depth, from the second on", depths[1:], above[1:])
    returns = stats.diminishing_returns(losses, end, loss_se=errors, limit_se=end_se)
    for name in ("gain", "share"):
        ends = [float(returns[f"{name}{suffix}"][-1]) for suffix in ("", "_low", "_high")]
        found.quantity(f"{name} of doubling depth {depths[-1]}", *ends)
    gains = np.abs(np.diff(values))
    found.panel("what a doubling brings", x="depth L", y="|loss(L) - loss(2 L)|")
    found.line("what a doubling brings", "measured", depths[:-1], gains)
    found.quantity("loss at infinite depth", end, end - 1.96 * end_se, end + 1.96 * end_se)

    distances, distances_se = [], []
    for width in settings["widths"]:
        drawn = work.part(
            f"width {width}",
            {**settings, "width": width},
            lambda width=width: _simulated(x, y, settings, width),
        )
        mean, error = mean_and_se(np.array(drawn))
        distances.append(abs(float(mean) - losses[depths[1]]))
        distances_se.append(float(np.hypot(error, errors[1])))
    found.line("distance to the limit", "in width", settings["widths"], distances, distances_se)
    found.law("exponent in width", settings["widths"], distances, distances_se)
    return found


def _solved(x: Any, y: Any, settings: Mapping[str, Any]) -> dict[str, Any]:
    """Loss after the last step at infinite width and its error, at every depth and at infinity, with common noise."""
    both = limit.independence_gap(
        x,
        y,
        horizons=(1.0,),
        depths=(*settings["depths"], np.inf),
        steps=settings["steps"],
        lr=settings["lr"],
        phi=settings["phi"],
        particles=settings["particles"],
        replicas=settings["replicas"],
    )
    last = both.sel(horizon=1.0).isel(step=-1)
    return {"loss": last["loss_reused"].values, "loss_se": last["loss_reused_se"].values}


def _simulated(x: Any, y: Any, settings: Mapping[str, Any], width: int) -> list[float]:
    """Losses of finite networks after the last step."""
    losses = []
    for seed in range(settings["draws"]):
        run = limit.simulate(
            x,
            y,
            width=width,
            depth=settings["depths"][1],
            steps=settings["steps"],
            lr=settings["lr"],
            phi=settings["phi"],
            seed=seed,
            kernels=False,
        )
        losses.append(float(run["loss"][-1]))
    return losses


def decide(data: xr.Dataset) -> Ruling:
    """1/L and 1/n to the limit, whose loss is not zero."""
    parts = [
        conditions.exponent(data, "exponent in depth, from the second on", -1.0),
        conditions.exponent(data, "exponent in width", -1.0),
        conditions.within(data, "loss at infinite depth", low=0.0),
    ]
    return ruling(parts)


CLAIM = Claim(
    id="nfd-6",
    alias="returns",
    sentence="Larger networks are better with diminishing returns: the loss approaches that of the infinite network "
    "like 1/L and 1/n, and the trend ends there.",
    source="NFD, arXiv 2512.21075; docs/theory.md, sections 2 and 3",
    rule="distance to the limit ~ L^-1 from the second depth on (infinite width) and ~ n^-1 in the mean over "
    "networks (second depth); the limit's loss is above 0 by more than its error, so that it is what ends the trend.",
    reason="in width, the mean loss over networks is nearer to the limit than its error: more networks would tell. In "
    "depth, c2/L^2 bends the power law at the smallest depths (nfd-2 fits both terms).",
    presets=PRESETS,
    measure=measure,
    decide=decide,
)
