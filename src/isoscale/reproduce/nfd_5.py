"""The covariance of forward and backward vectors stays nondegenerate in training: its smallest eigenvalue does not fall
with the width."""

from __future__ import annotations

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

# At t = 1 the backward vector is the readout, the same for every sample: degenerate by definition.
_SHARED = {"dataset": "digits", "lr": 0.15, "phis": ("tanh", "relu"), "times": (0.0, 0.25, 0.5, 0.75)}
PRESETS = {
    "quick": Preset(
        minutes=0.1,
        settings=_SHARED | {"samples": 4, "steps": 4, "depth": 8, "widths": (128, 256, 512, 1024), "seeds": 5},
    ),
    "cpu": Preset(
        minutes=30,
        gibibytes=2,
        settings=_SHARED | {"samples": 6, "steps": 10, "depth": 16, "widths": (512, 1024, 2048, 4096), "seeds": 5},
    ),
    "paper": Preset(
        minutes=120,
        gibibytes=16,
        settings=_SHARED | {"samples": 16, "steps": 20, "depth": 32, "widths": (512, 1024, 2048, 4096), "seeds": 10},
    ),
}


def measure(settings: Mapping[str, Any], work: Work) -> Measured:
    """The smallest eigenvalue over all steps and layer times, network by network."""
    x, y = inputs.problem(settings, work.data)
    widths = settings["widths"]
    found = Measured()
    found.panel("over all steps and layers", x="width n", y="smallest eigenvalue")
    for phi in settings["phis"]:
        means, errors = [], []
        for width in widths:
            values = work.part(
                f"{phi}, width {width}",
                {**settings, "phi": phi, "width": width},
                lambda phi=phi, width=width: _eigenvalues(x, y, settings, phi, width),
            )
            mean, error = mean_and_se(np.array(values))
            means.append(float(mean))
            errors.append(float(error))
        found.line("over all steps and layers", phi, widths, means, errors)
        found.law(f"exponent in width, {phi}", widths, means, errors)
        # The last width's values are those of the loop's end.
        found.mean(f"smallest eigenvalue at width {widths[-1]}, {phi}", values)
    return found


def _eigenvalues(x: Any, y: Any, settings: Mapping[str, Any], phi: str, width: int) -> list[float]:
    smallest = []
    for seed in range(settings["seeds"]):
        run = limit.simulate(
            x,
            y,
            width=width,
            depth=settings["depth"],
            steps=settings["steps"],
            lr=settings["lr"],
            phi=phi,
            seed=seed,
            kernels=settings["times"],
        )
        smallest.append(float(limit.smallest_eigenvalue(run).min()))
    return smallest


def decide(data: xr.Dataset) -> Ruling:
    """Positive at the largest width, and not on its way to zero."""
    parts = [conditions.exponent(data, name, 0.0) for name in conditions.named(data, "exponent in width")]
    for name in conditions.named(data, "smallest eigenvalue"):
        parts.append(conditions.within(data, name, low=0.0))
    return ruling(parts)


CLAIM = Claim(
    id="nfd-5",
    alias="nondegeneracy",
    sentence="The covariance of all forward and backward vectors stays nondegenerate throughout training.",
    source="NFD, arXiv 2512.21075; docs/theory.md, section 2",
    rule="the smallest eigenvalue over all steps and layer times is positive at the largest width and flat in width.",
    reading="Layer times up to 0.75: at t = 1 the backward vector is the readout, the same for every sample.",
    presets=PRESETS,
    measure=measure,
    decide=decide,
)
