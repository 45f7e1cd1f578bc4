"""The gap between a backward pass that reuses the forward pass's weights and one of independent weights.

The gradient-independence assumption replaces them by an independent copy (docs/theory.md, section 2). At
initialisation the two
agree in the limit of infinite width; in training they approach different limits, at any depth. Here both run with the
same noise, so their difference has a much smaller error than either.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from isoscale.limit import activations, inputs
from isoscale.limit.choices import choose_plan, depth_sequence
from isoscale.limit.network import Problem
from isoscale.limit.particles import Plan, sample
from isoscale.limit.progress import Progress, portion
from isoscale.limit.richardson import append_limit
from isoscale.stats.summary import mean_and_se

if TYPE_CHECKING:
    import xarray as xr

DESCRIPTIONS = {
    "gap": "loss with independent minus loss with reused backward weights",
    "prediction_gap": "prediction with independent minus prediction with reused backward weights",
    "loss_independent": "loss with independent backward weights",
    "loss_reused": "loss with reused backward weights",
}


def independence_gap(
    x: Any,
    y: Any,
    horizons: Sequence[float] = (0.5, 1.0, 2.0),
    depths: Sequence[float] = (8, 16, 32, math.inf),
    steps: int = 10,
    lr: float = 0.15,
    phi: activations.Phi = "tanh",
    particles: int | None = None,
    replicas: int | None = None,
    seed: int = 0,
    *,
    train_ends: bool = True,
    loss: str = "mse",
    dtype: str = "float64",
    device: str = "cpu",
    progress: Progress = None,
) -> xr.Dataset:
    """The gap between independent and reused backward weights at infinite width, with error bars.

    `x`, `y`, `steps`, `lr`, `phi`, `train_ends`, `loss` and `device` are those of `solve`.

    Args:
        horizons: Values of T.
        depths: Numbers of residual blocks, each finite one dividing the next; math.inf: extrapolated in 1/depth from
            the finest three.
        particles: n of each replica; None: chosen as `solve` does at first.
        replicas: Repetitions that the errors come from; None: twice what `solve` chooses.
        seed: Both modes, all horizons and depths share the noise of this seed.
        dtype: "float64" or "float32".
        progress: Called with the fraction done.

    Returns:
        Dataset: gap(horizon, depth, step) = loss(independent) - loss(reused), prediction_gap(horizon, depth, step,
        sample[, output]) likewise, the losses loss_independent and loss_reused, and `<name>_se` of each. NaN where a
        run diverged.

    >>> result = independence_gap([[1.0]], [1.0], horizons=[1.0], depths=[2, 4], steps=2, lr=0.5)
    >>> result.gap.dims, bool((abs(result.gap) > 10 * result.gap_se).sel(step=1).all())
    (('horizon', 'depth', 'step'), True)
    """
    import xarray as xr

    # Infinite depth needs two finite ones to be extrapolated from.
    infinite = math.inf in depths
    least = 2 if infinite else 1
    blocks: list[Any] = [depth for depth in depths if depth != math.inf]
    finite = depth_sequence("depths", blocks, least)
    horizons = [inputs.positive("horizons", horizon) for horizon in horizons]
    by_horizon = []
    for i, horizon in enumerate(horizons):
        problem = inputs.problem(
            x,
            y,
            steps=steps,
            lr=lr,
            phi=phi,
            horizon=horizon,
            loss=loss,
            train_ends=train_ends,
            dtype=dtype,
            device=device,
        )
        plan = choose_plan(problem, finite, particles, replicas, seed=seed, more_replicas=2)
        part = portion(progress, i, 1, len(horizons))
        by_horizon.append(_gap(problem, plan, infinite, part))
    dims = ("horizon", "depth", "step", "sample", "output")
    variables = {}
    for name in by_horizon[0]:
        value = np.stack([gaps[name] for gaps in by_horizon])
        description = DESCRIPTIONS[name.removesuffix("_se")]
        labels = {"units": "1", "long_name": description}
        variables[name] = (dims[: value.ndim], value, labels)
    all_depths = [float(depth) for depth in finite]
    if infinite:
        all_depths.append(math.inf)
    coords = {
        "horizon": horizons,
        "depth": all_depths,
        "step": list(range(steps + 1)),
    }
    attrs = {
        "particles": plan.particles,
        "replicas": plan.replicas,
        "lr": float(lr),
        "phi": activations.name(phi),
        "seed": seed,
    }
    return xr.Dataset(variables, coords=coords, attrs=attrs)


def _gap(problem: Problem, plan: Plan, infinite: bool, progress: Progress) -> dict[str, np.ndarray]:
    """All variables of one horizon, depth first."""
    loss = {}
    prediction = {}
    for i, mode in enumerate(inputs.MODES):
        half = portion(progress, i, 1, len(inputs.MODES))
        drawn = sample(problem, plan, reused=mode == "reused", progress=half)
        loss[mode] = [values["loss"] for values in drawn.values]
        prediction[mode] = [values["prediction"] for values in drawn.values]
        if infinite:
            loss[mode] = append_limit(loss[mode], plan.depths)
            prediction[mode] = append_limit(prediction[mode], plan.depths)
    # Replicas of both modes share their noise: differences are taken replica by replica, and then their error.
    replicas = {
        "gap": _differences(loss),
        "prediction_gap": _differences(prediction),
        "loss_independent": loss["independent"],
        "loss_reused": loss["reused"],
    }
    out = {}
    for name, levels in replicas.items():
        out[name], out[f"{name}_se"] = _means_and_errors(levels)
    if problem.outputs == 1:
        for name in ("prediction_gap", "prediction_gap_se"):
            out[name] = out[name][..., 0]
    return out


def _means_and_errors(levels: list[np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
    """Mean over replicas and its standard error at each depth."""
    means = []
    errors = []
    for values in levels:
        mean, error = mean_and_se(values)
        means.append(mean)
        errors.append(error)
    return np.stack(means), np.stack(errors)


def _differences(levels: dict[str, list[np.ndarray]]) -> list[np.ndarray]:
    """Independent minus reused, at each depth."""
    pairs = zip(levels["independent"], levels["reused"], strict=True)
    return [independent - reused for independent, reused in pairs]
