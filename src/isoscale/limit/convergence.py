"""How fast finite networks approach the limit, in both modes, and whether the modes approach each other.

Measured laws (THEORY section 2 states what to expect):

    depth error      |loss_L - loss_infinity| at infinite width             1/L, each mode to its own limit
    width error      E (loss_n - loss_infinity)^2 at fixed depth            1/n
    initial gap      rms (gradient kernel, reused - independent), step 0    1/n, flat in depth
    training gap     |loss(independent) - loss(reused)|                     flat in depth: it does not close
"""

from __future__ import annotations

import dataclasses
import functools
import itertools
import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from isoscale import stats as laws
from isoscale.errors import InvalidValueError
from isoscale.limit import activations, inputs, results
from isoscale.limit.choices import choose_plan, with_precision
from isoscale.limit.network import Problem, Size, run
from isoscale.limit.noise import GaussianNoise
from isoscale.limit.particles import Plan, Progress, mean_and_error, sample
from isoscale.limit.results import Arrays
from isoscale.limit.richardson import extrapolate

if TYPE_CHECKING:
    import xarray as xr

MODES = ("reused", "independent")
FINER = (4, 4)
"""Times the usual particles and replicas: with 16 samples and 10 steps the exponents' intervals are about +-0.15."""

TOGETHER = 16384
"""Units of finite networks that are advanced at once."""


def convergence(
    x: Any,
    y: Any,
    depths: Sequence[int] = (4, 8, 16, 32),
    widths: Sequence[int] = (64, 128, 256, 512),
    steps: int = 10,
    lr: float = 0.15,
    phi: activations.Phi = "tanh",
    horizon: float = 1.0,
    particles: int | None = None,
    replicas: int | None = None,
    networks: int = 128,
    seed: int = 0,
    *,
    train_ends: bool = True,
    dtype: str | None = None,
    progress: Progress = None,
) -> xr.Dataset:
    """Errors against depth and width, and the exponents fitted to them.

    Args:
        x: Inputs, shape (samples, features).
        y: Targets, shape (samples,) or (samples, outputs).
        depths: Numbers of blocks, each dividing the next; infinite depth is extrapolated from the finest three.
        widths: Widths of the finite networks, which have the first of `depths` blocks (and for the initial gap
            against depth, the first of `widths` units).
        steps: SGD updates.
        lr: eta.
        phi: The activation, as in `solve`.
        horizon: T.
        particles: n of each replica of the infinitely wide network, even; None: four times what `solve` starts with,
            and as many replicas again: the change from one depth to the next is small.
        replicas: Repetitions, at least 3; None: chosen.
        networks: Finite networks drawn at each width.
        seed: Both modes share the noise of this seed.
        train_ends: Whether U and v are trained too.
        dtype: "float64" or "float32" for the infinitely wide network; None: float32 where it can do it.
        progress: Called with the fraction done.

    Returns:
        Dataset: depth_error(mode, depth) and training_gap(depth), root-mean-square over steps; width_error(mode,
        width), mean square over steps and networks; initial_gap(width) and initial_gap_at_depth(depth),
        root-mean-square over networks, times and samples; each with `_se`; and exponent(law), exponent_low,
        exponent_high (95 %), whose laws are named as in this module's table.
    """
    import xarray as xr

    inputs.count("steps", steps, 1)
    make = functools.partial(
        inputs.problem, x, y, steps=steps, lr=lr, phi=phi, horizon=horizon, loss="mse", train_ends=train_ends,
        batches=None,
    )  # fmt: skip
    problem = make()
    depths, widths = _checked(depths, widths)
    plan = choose_plan(problem, depths, particles, replicas, seed=seed, finer=FINER, least_replicas=3)
    networks = inputs.count("networks", networks, 2)
    tick = _ticker(progress, 2 + 3 * len(widths) + len(depths))
    losses = {
        mode: with_precision(dtype, 1e-3, lambda dtype, mode=mode: _losses(make(dtype=dtype), plan, mode, tick))
        for mode in MODES
    }
    values: dict[str, tuple[tuple[str, ...], np.ndarray]] = {}

    def keep(name: str, dims: tuple[str, ...], pairs: list[Any]) -> None:
        both = np.array(pairs)
        values[name], values[f"{name}_se"] = (dims, both[..., 0]), (dims, both[..., 1])

    keep("depth_error", ("mode", "depth"), [_depth_errors(losses[mode]) for mode in MODES])
    gap = losses["independent"] - losses["reused"]
    keep("training_gap", ("depth",), [_jackknife(v) for v in gap[:-1]])
    limits = {mode: losses[mode][0].mean(0) for mode in MODES}
    finite = [[_width_error(problem, w, depths[0], m, limits[m], networks, seed, tick) for w in widths] for m in MODES]
    keep("width_error", ("mode", "width"), finite)
    keep("initial_gap", ("width",), [_initial_gap(problem, w, depths[0], networks, seed, tick) for w in widths])
    at_depth = [_initial_gap(problem, widths[0], d, networks, seed, tick) for d in depths]
    keep("initial_gap_at_depth", ("depth",), at_depth)
    coords = {"mode": list(MODES), "depth": list(depths), "width": list(widths)}
    attrs = {
        "particles": plan.particles,
        "replicas": plan.replicas,
        "networks": networks,
        "lr": float(lr),
        "seed": seed,
    }
    attrs |= {"horizon": float(horizon), "phi": activations.name(phi), "steps": steps}
    depth_laws = {mode: _depth_law(losses[mode][:-1], depths) for mode in MODES}
    return _with_laws(xr.Dataset(values, coords=coords, attrs=attrs), depth_laws)


def _losses(problem: Problem, plan: Plan, mode: str, tick: Any) -> np.ndarray:
    """Loss (depth, replica, step) of the infinitely wide network, infinite depth last."""
    drawn = sample(problem, plan, reused=mode == "reused")
    losses = [v["loss"] for v in drawn.values]
    tick()
    return np.stack([*losses, extrapolate(losses[-3:], plan.depths[-3:])[0]])


def _depth_errors(losses: np.ndarray) -> list[tuple[float, float]]:
    return [_jackknife(rung - losses[-1]) for rung in losses[:-1]]


def _depth_law(losses: np.ndarray, depths: tuple[int, ...]) -> laws.PowerLaw:
    """Exponent of the error in depth, from what each doubling of depth changes.

    If loss_L = limit + c / L, then (loss_L - loss_M) / (1 - L / M) = c / L: the same law, without the noise of an
    extrapolated limit, which all errors would share. The interval is a jackknife over replicas.
    """
    from scipy import stats

    shrink = np.array([1 - low / high for low, high in itertools.pairwise(depths)])

    def fitted(means: np.ndarray) -> laws.PowerLaw:
        sizes = np.sqrt(np.square(means[:-1] - means[1:]).mean(-1)) / shrink
        return laws.fit_power_law(depths[:-1], sizes)

    count = losses.shape[1]
    left_out = [fitted((losses.sum(1) - losses[:, i]) / (count - 1)).exponent for i in range(count)]
    half = float(np.std(left_out) * np.sqrt(count - 1)) * float(stats.t.ppf(0.975, count - 1))
    found = fitted(losses.mean(1))
    return dataclasses.replace(found, exponent_low=found.exponent - half, exponent_high=found.exponent + half)


def _jackknife(differences: np.ndarray) -> tuple[float, float]:
    """Root-mean-square over steps of the mean over replicas, and its standard error; (replica, step)."""

    def size(curve: np.ndarray) -> float:
        return float(np.sqrt(np.square(curve).mean()))

    count = len(differences)
    left_out = [size((differences.sum(0) - one) / (count - 1)) for one in differences]
    return size(differences.mean(0)), float(np.std(left_out) * np.sqrt(count - 1))


def _networks(problem: Problem, size: Size, count: int, seed: int) -> Arrays:
    """Finite networks exactly in law, a group at a time."""
    group = max(1, min(count, TOGETHER // size.n))
    parts = []
    for first in range(0, count, group):
        part = dataclasses.replace(size, replicas=min(group, count - first))
        parts.append(results.arrays(run(problem, part, GaussianNoise(seed, first)), problem))
    return {name: np.concatenate([p[name] for p in parts]) for name in parts[0]}


def _width_error(
    problem: Problem, width: int, depth: int, mode: str, limit: np.ndarray, count: int, seed: int, tick: Any
) -> tuple[float, float]:
    """Mean square over steps and networks of the loss's distance from the infinitely wide network's."""
    found = _networks(problem, Size(n=width, depth=depth, reused=mode == "reused"), count, seed)
    tick()
    return _mean(np.square(found["loss"] - limit).mean(1))


def _initial_gap(problem: Problem, width: int, depth: int, count: int, seed: int, tick: Any) -> tuple[float, float]:
    """Root-mean-square difference of the modes' gradient kernels before training, with common noise."""
    start = dataclasses.replace(problem, shares=problem.shares[:0])
    size = Size(n=width, depth=depth, kernel_layers=(0,))
    kernels = [
        _networks(start, dataclasses.replace(size, reused=reused), count, seed)["gradient_kernel"]
        for reused in (True, False)
    ]
    tick()
    square, error = _mean(np.square(kernels[0] - kernels[1]).mean((1, 2, 3, 4)))
    return math.sqrt(square), error / (2 * math.sqrt(square))


def _mean(values: np.ndarray) -> tuple[float, float]:
    mean, error = mean_and_error(values)
    return float(mean), float(error)


def _with_laws(data: xr.Dataset, depth_laws: dict[str, laws.PowerLaw]) -> xr.Dataset:
    """Add the fitted exponents."""
    fits = {}
    for mode in MODES:
        fits[f"depth error, {mode}"] = depth_laws[mode]
        fits[f"width error, {mode}"] = _fit(data.sel(mode=mode), "width_error", "width")
    fits["initial gap, width"] = _fit(data, "initial_gap", "width")
    fits["initial gap, depth"] = _fit(data, "initial_gap_at_depth", "depth")
    fits["training gap, depth"] = _fit(data, "training_gap", "depth")
    data = data.assign_coords(law=list(fits))
    for field in ("exponent", "exponent_low", "exponent_high"):
        data[field] = ("law", [getattr(fit, field) for fit in fits.values()])
    return data


def _fit(data: xr.Dataset, name: str, axis: str) -> laws.PowerLaw:
    return laws.fit_power_law(data[axis].values, data[name].values, data[f"{name}_se"].values)


def _checked(depths: Sequence[int], widths: Sequence[int]) -> tuple[tuple[int, ...], tuple[int, ...]]:
    rungs = tuple(sorted({inputs.count("depths", d, 1) for d in depths}))
    if len(rungs) < 3 or any(b % a for a, b in itertools.pairwise(rungs)):
        raise InvalidValueError(f"`depths` must hold three or more depths, each dividing the next, got {list(depths)}")
    sizes = tuple(sorted({inputs.count("widths", w, 1) for w in widths}))
    if len(sizes) < 2:
        raise InvalidValueError(f"`widths` must hold two or more widths, got {list(widths)}")
    return rungs, sizes


def _ticker(progress: Progress, total: int) -> Any:
    done = iter(range(1, total + 1))
    return lambda: None if progress is None else progress(next(done) / total)
