"""What `isoscale limit` says: losses with their errors, verdicts, and the distance of a finite network."""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from rich.console import Console

from isoscale.errors import InvalidValueError

if TYPE_CHECKING:
    import numpy as np
    import xarray as xr


def sizes(text: str) -> dict[str, int]:
    """ "width=512,depth=8" as numbers.

    >>> sizes("width=512,depth=8")
    {'width': 512, 'depth': 8}
    """
    found = dict(re.findall(r"(width|depth)=(\d+)", text))
    if set(found) != {"width", "depth"} or re.sub(r"(width|depth)=\d+,?", "", text):
        raise InvalidValueError(f"sizes are written width=512,depth=8, got {text!r}")
    return {name: int(value) for name, value in found.items()}


def finite_networks(
    x: np.ndarray,
    y: np.ndarray,
    size: dict[str, int],
    networks: int,
    settings: dict[str, Any],
    progress: Callable[[float], None],
) -> xr.Dataset:
    """Mean loss of finite networks over seeds, with its standard error."""
    import xarray as xr

    from isoscale import limit

    losses = []
    for seed in range(networks):
        asked: dict[str, Any] = settings | size | {"seed": settings["seed"] + seed, "kernels": False}
        run = limit.simulate(x, y, **asked)
        losses.append(run["loss"])
        progress((seed + 1) / networks)
    every = xr.concat(losses, dim="network")
    return xr.Dataset({"loss": every.mean("network"), "loss_se": every.std("network", ddof=1) / networks**0.5})


def verdict(runs: dict[str, xr.Dataset], out: Console) -> None:
    reused, independent = runs["reused"], runs["independent"]
    difference = independent["loss"] - reused["loss"]
    step = int(abs(difference).argmax("step"))
    se = float((reused["loss_se"][step] ** 2 + independent["loss_se"][step] ** 2) ** 0.5)
    out.print(f"The two versions differ most at step {step}, by {plus_minus(float(difference[step]), se)} in the loss.")
    for mode, run in runs.items():
        if run.attrs.get("diverged_step", -1) >= 0:
            out.print(f"{mode}: diverged at step {run.attrs['diverged_step']}")
        elif not run.attrs.get("tolerance_met", 1):
            error, asked = run.attrs["error"], run.attrs["tolerance"]
            out.print(f"{mode}: standard error {error:.2g}, not the {asked:.2g} asked for")


def distance(limit: xr.Dataset, at_depth: xr.Dataset, finite: xr.Dataset, size: dict[str, int], out: Console) -> None:
    """How far a finite network is from the limit, and how much of that is depth, how much width."""
    total, depth, width = (
        abs(float(a["loss"][-1] - b["loss"][-1])) for a, b in ((finite, limit), (at_depth, limit), (finite, at_depth))
    )
    if not math.isfinite(total + depth + width):
        out.print("A run diverged: there is no distance to the limit at the last step.")
        return
    se = float((finite["loss_se"][-1] ** 2 + limit["loss_se"][-1] ** 2) ** 0.5)
    out.print(
        f"Width {size['width']}, depth {size['depth']} is {plus_minus(total, se)} from the limit at the last step: "
        f"depth makes {depth:.4f} of it, width {width:.4f}. Doubling the depth would gain about {depth / 2:.4f}."
    )


def plus_minus(value: float, se: float) -> str:
    return f"{value:.4f} ± {se:.4f}" if math.isfinite(value) else "diverged"
