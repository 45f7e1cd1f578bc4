"""At initialisation a network of width n and depth L is within O(1/n) (mean square) and O(1/L) of its infinite limit,
uniformly in depth, so that the two limits commute."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from isoscale import limit
from isoscale.limit.pair_kernels import all_pairs
from isoscale.reproduce import conditions, inputs
from isoscale.reproduce.claim import Claim, Preset, Ruling, ruling
from isoscale.reproduce.measured import Measured

if TYPE_CHECKING:
    import xarray as xr

    from isoscale.reproduce.work import Work

_SHARED = {"dataset": "digits", "samples": 4, "phi": "tanh", "horizon": 1.0, "seed": 0}
PRESETS = {
    "quick": Preset(
        minutes=0.7,
        settings=_SHARED | {"widths": (32, 64, 128, 256), "depths": (4, 8, 16, 32), "draws": 100},
    ),
    "cpu": Preset(
        minutes=14,
        settings=_SHARED
        | {
            "widths": (64, 128, 256, 512, 1024),
            "depths": (4, 8, 16, 32, 64, 128),
            "draws": 200,
        },
    ),
    "paper": Preset(
        minutes=120,
        gibibytes=8,
        needs_gpu=True,
        settings=_SHARED
        | {
            "widths": (512, 1024, 2048, 4096),
            "depths": (8, 16, 32, 64, 128, 256),
            "draws": 400,
        },
    ),
}


def measure(settings: Mapping[str, Any], work: Work) -> Measured:
    """Kernels of many networks at every width and depth, against the kernel equations at infinite size."""
    x, y = inputs.problem(settings, work.data)
    infinite = limit.closed_form.initial_kernels(x, settings["phi"], settings["horizon"]).stream[-1]
    widths, depths = settings["widths"], settings["depths"]
    # Spread over networks and mean square distance from the limit, at every width and depth.
    variance = np.zeros((len(widths), len(depths)))
    square = np.zeros_like(variance)
    for i, width in enumerate(widths):
        for j, depth in enumerate(depths):
            size = {"width": width, "depth": depth}
            kernels = work.part(
                f"width {width}, depth {depth}",
                {**settings, **size},
                lambda size=size: _kernels(x, y, settings, **size),
            )
            offsets = np.array(kernels) - infinite
            variance[i, j] = offsets.var(0, ddof=1).mean()
            square[i, j] = np.square(offsets).mean()
    # At infinite width the kernels of a finite depth follow a recursion: no noise of a network hides the distance.
    distance = []
    for depth in depths:
        offsets = _infinitely_wide(x, settings, depth) - infinite
        distance.append(float(np.sqrt(np.square(offsets).mean())))

    found = Measured()
    found.panel("spread over networks", x="width n", y="variance of <h, h>")
    for j in (0, len(depths) - 1):
        found.line("spread over networks", f"depth {depths[j]}", widths, variance[:, j])
        found.law(f"exponent of the variance in width, depth {depths[j]}", widths, variance[:, j])
    found.law("exponent of the variance in depth", depths, variance[-1])
    found.panel("infinite width", x="depth L", y="|<h, h> - limit|, rms")
    found.line("infinite width", "exact", depths, distance)
    found.law("exponent of the distance in depth", depths, distance)
    # Width and depth grow together.
    together = range(min(len(widths), len(depths)))
    diagonal = [float(square[k, k]) for k in together]
    along = [widths[k] for k in together]
    found.panel("width and depth together", x="width n, depth with it", y="mean square distance")
    found.line("width and depth together", "n and L double", along, diagonal)
    found.law("exponent of the mean square when both grow", along, diagonal)
    return found


def _kernels(x: Any, y: Any, settings: Mapping[str, Any], width: int, depth: int) -> list[Any]:
    """<h, h> at the end of every network's stream."""
    kernels = []
    for network in range(settings["draws"]):
        run = limit.simulate(
            x,
            y,
            width=width,
            depth=depth,
            steps=0,
            phi=settings["phi"],
            horizon=settings["horizon"],
            seed=settings["seed"] + network,
            kernels=[1.0],
        )
        kernels.append(run["stream_kernel"].values[0, 0].tolist())
    return kernels


def _infinitely_wide(x: Any, settings: Mapping[str, Any], depth: int) -> np.ndarray:
    """<h, h> at the end of the stream: C_{l+1} = C_l + (T / L) E[phi(h_l) phi(h_l)] with h_l Gaussian."""
    kernel = x @ x.T / x.shape[1]
    for _ in range(depth):
        kernel = kernel + settings["horizon"] / depth * all_pairs(settings["phi"], kernel).value
    return kernel


def decide(data: xr.Dataset) -> Ruling:
    """1/n at both depths, flat in depth, 1/L, and together."""
    parts = [
        conditions.exponent(data, name, -1.0) for name in conditions.named(data, "exponent of the variance in width")
    ]
    parts.append(conditions.exponent(data, "exponent of the variance in depth", 0.0))
    parts.append(conditions.exponent(data, "exponent of the distance in depth", -1.0))
    parts.append(conditions.exponent(data, "exponent of the mean square when both grow", -1.0))
    return ruling(parts)


CLAIM = Claim(
    id="nfd-1",
    alias="initial-error",
    sentence="At initialisation finite networks are within O(1/n) and O(1/L) of their limit, uniformly in depth, and "
    "the two limits commute.",
    source="NFD, arXiv 2512.21075; docs/theory.md, sections 1 to 3",
    rule="variance ~ n^-1 at the smallest and the largest depth, flat in depth; distance at infinite width ~ L^-1; "
    "mean square ~ n^-1 when width and depth double together.",
    reading="Read as: kernels <h, h> at the end of the stream; error 1/n is the mean square over networks.",
    presets=PRESETS,
    measure=measure,
    decide=decide,
)
