"""How much it matters whether the backward pass reuses the forward pass's weights (THEORY section 2).

The gradient-independence assumption replaces them by an independent copy. At initialisation the two agree in the
limit of infinite width; in training they approach different limits, at any depth. Here both run with the same noise,
so their difference has a much smaller error than either.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from isoscale.errors import InvalidValueError
from isoscale.limit import activations, inputs
from isoscale.limit.choices import choose_plan
from isoscale.limit.memory import check_memory, lazy_bytes
from isoscale.limit.network import Problem
from isoscale.limit.particles import Plan, Progress, Sample, mean_and_error, sample
from isoscale.limit.richardson import extrapolate

if TYPE_CHECKING:
    import xarray as xr

RUNGS = 3
"""Depths that infinite depth is extrapolated from: the finest ones."""


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

    Args:
        x: Inputs, shape (samples, features).
        y: Targets, shape (samples,) or (samples, outputs).
        horizons: Values of T.
        depths: Numbers of residual blocks, each finite one dividing the next; math.inf: extrapolated in 1/depth.
        steps: SGD updates.
        lr: eta.
        phi: The activation, as in `solve`.
        particles: n of each replica; None: chosen as `solve` does at first.
        replicas: Repetitions that the errors come from; None: twice what `solve` chooses.
        seed: Both modes, all horizons and depths share the noise of this seed.
        train_ends: Whether U and v are trained too.
        loss: "mse" or "cross-entropy".
        dtype: "float64" or "float32".
        device: A torch device.
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

    finite, infinite = _depths(depths)
    horizons = [inputs.positive("horizons", h) for h in horizons]
    cells = []
    for i, horizon in enumerate(horizons):
        problem = inputs.problem(
            x, y, steps=steps, lr=lr, phi=phi, horizon=horizon, loss=loss, train_ends=train_ends, batches=None,
            dtype=dtype, device=device,
        )  # fmt: skip
        plan = choose_plan(problem, finite, particles, replicas, seed=seed, finer=(1, 2))
        part = None if progress is None else _part(progress, i, len(horizons))
        cells.append(_gap(problem, plan, infinite, part))
    names = ("horizon", "depth", "step", "sample", "output")
    variables = {
        name: (
            names[: np.ndim(value)],
            value,
            {"units": "1", "long_name": DESCRIPTIONS[name.removesuffix("_se")]},
        )
        for name, value in {key: np.stack([cell[key] for cell in cells]) for key in cells[0]}.items()
    }
    coords = {
        "horizon": horizons,
        "depth": [*map(float, finite), *[math.inf] * infinite],
        "step": range(steps + 1),
    }
    attrs = {
        "particles": plan.particles,
        "replicas": plan.replicas,
        "lr": float(lr),
        "phi": activations.name(phi),
        "seed": seed,
    }
    return xr.Dataset(variables, coords={k: list(v) for k, v in coords.items()}, attrs=attrs)


DESCRIPTIONS = {
    "gap": "loss with independent minus loss with reused backward weights",
    "prediction_gap": "prediction with independent minus prediction with reused backward weights",
    "loss_independent": "loss with independent backward weights",
    "loss_reused": "loss with reused backward weights",
}


def _gap(problem: Problem, plan: Plan, infinite: bool, progress: Progress) -> dict[str, np.ndarray]:
    """All variables of one horizon, depth first."""
    biggest = plan.size(plan.depths[-1], plan.group, reused=True)
    check_memory(lazy_bytes(problem, biggest), "Use fewer `particles`, smaller `depths` or fewer steps.")
    first, second = (None, None) if progress is None else (_part(progress, i, 2) for i in range(2))
    independent = _by_depth(sample(problem, plan, reused=False, progress=first), plan, infinite)
    reused = _by_depth(sample(problem, plan, reused=True, progress=second), plan, infinite)
    replicas = {
        "gap": [a["loss"] - b["loss"] for a, b in zip(independent, reused, strict=True)],
        "prediction_gap": [a["prediction"] - b["prediction"] for a, b in zip(independent, reused, strict=True)],
        "loss_independent": [a["loss"] for a in independent],
        "loss_reused": [b["loss"] for b in reused],
    }
    out = {}
    for name, values in replicas.items():
        both = [mean_and_error(value) for value in values]
        mean, error = (np.stack([b[i] for b in both]) for i in range(2))
        single = name == "prediction_gap" and problem.outputs == 1
        out[name], out[f"{name}_se"] = (mean[..., 0], error[..., 0]) if single else (mean, error)
    return out


def _by_depth(drawn: Sample, plan: Plan, infinite: bool) -> list[dict[str, np.ndarray]]:
    """What the replicas recorded at each depth, infinite depth last."""
    values = [dict(v) for v in drawn.values]
    if infinite:
        finest, rungs = drawn.values[-RUNGS:], plan.depths[-RUNGS:]
        values.append({name: extrapolate([v[name] for v in finest], rungs)[0] for name in finest[0]})
    return values


def _depths(depths: Sequence[float]) -> tuple[tuple[int, ...], bool]:
    finite = tuple(sorted({inputs.count("depths", d, 1) for d in depths if d != math.inf}))
    infinite = math.inf in depths
    if len(finite) < 1 + infinite or any(b % a for a, b in itertools.pairwise(finite)):
        raise InvalidValueError(
            f"`depths` must hold depths that divide one another, two or more for infinite depth, got {list(depths)}"
        )
    return finite, infinite


def _part(progress: Any, i: int, of: int) -> Any:
    return lambda fraction: progress((i + fraction) / of)
