"""Rates at which finite networks approach the limit, in both modes, and whether the modes approach each other.

Measured laws (docs/theory.md, section 2 states what to expect):

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
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from isoscale import stats as laws
from isoscale.checks import whole
from isoscale.errors import InvalidValueError
from isoscale.limit import activations, inputs, results
from isoscale.limit.choices import choose_plan, depth_sequence, with_precision
from isoscale.limit.network import Problem, Size, run
from isoscale.limit.noise import GaussianNoise
from isoscale.limit.particles import Plan, groups, sample
from isoscale.limit.progress import Progress
from isoscale.limit.results import Arrays
from isoscale.limit.richardson import append_limit
from isoscale.stats.least_squares import t_quantile
from isoscale.stats.summary import mean_and_se

if TYPE_CHECKING:
    import xarray as xr

MODES = ("reused", "independent")

MORE_PARTICLES = 4
MORE_REPLICAS = 4
"""Times the usual particles and replicas: with 16 samples and 10 steps the exponents' intervals are about +-0.15."""

TOLERANCE = 1e-3
"""Standard error of the losses that the precision is chosen for."""


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

    `x`, `y`, `steps`, `lr`, `phi`, `horizon` and `train_ends` are those of `solve`; the loss is "mse".

    Args:
        depths: Numbers of blocks, each dividing the next; infinite depth is extrapolated from the finest three.
        widths: Widths of the finite networks, which have the first of `depths` blocks (and for the initial gap
            against depth, the first of `widths` units).
        particles: n of each replica of the infinitely wide network, even; None: four times what `solve` starts with,
            and as many replicas again: the change from one depth to the next is small.
        replicas: Repetitions, at least 3; None: chosen.
        networks: Finite networks drawn at each width.
        seed: Both modes share the noise of this seed.
        dtype: "float64" or "float32" for the infinitely wide network; None: float32 where it can do it.
        progress: Called with the fraction done.

    Returns:
        Dataset: depth_error(mode, depth) and training_gap(depth), root-mean-square over steps; width_error(mode,
        width), mean square over steps and networks; initial_gap(width) and initial_gap_at_depth(depth),
        root-mean-square over networks, times and samples; each with `_se`; and exponent(law), exponent_low,
        exponent_high (95 %), whose laws are named as in this module's table.

        An exponent fitted over few depths is not the rate: an error c1/L + c2/L^2 with c2 < 0, exactly of rate 1, looks
        like L^-0.85. So from four depths on both terms are fitted too: c1(mode), c2_over_c1(mode) with _low and _high
        (95 %), chi_squared(mode) of the fit on the attribute degrees_of_freedom, and chi_squared_of_one_term(mode) of
        c1/L alone on one more.
    """
    import xarray as xr

    whole("steps", steps)
    make = functools.partial(
        inputs.problem,
        x,
        y,
        steps=steps,
        lr=lr,
        phi=phi,
        horizon=horizon,
        loss="mse",
        train_ends=train_ends,
    )
    problem = make()
    depths = depth_sequence("depths", depths, 3)
    widths = _checked_widths(widths)
    plan = choose_plan(
        problem,
        depths,
        particles,
        replicas,
        seed=seed,
        more_particles=MORE_PARTICLES,
        more_replicas=MORE_REPLICAS,
        least_replicas=3,
    )
    networks = whole("networks", networks, least=2)
    # a part each: the infinitely wide network of each mode, its width error, and both initial gaps
    total = 2 + 3 * len(widths) + len(depths)
    tick = _ticker(progress, total)

    losses = {}
    for mode in MODES:
        work = functools.partial(_losses, make, plan, mode)
        losses[mode] = with_precision(dtype, TOLERANCE, work)
        tick()
    # loss_L - loss_infinity of each mode, and loss(independent) - loss(reused) at each finite depth
    depth_errors = []
    for mode in MODES:
        errors = losses[mode][:-1] - losses[mode][-1]
        depth_errors.append(_jackknives(errors))
    gaps = losses["independent"] - losses["reused"]
    training_gaps = _jackknives(gaps[:-1])

    # E (loss_n - loss_infinity)^2 at the coarsest depth
    width_errors = []
    for mode in MODES:
        coarsest = losses[mode][0]
        limit = coarsest.mean(0)
        of_mode = []
        for width in widths:
            size = Size(n=width, depth=depths[0], reused=mode == "reused")
            of_mode.append(_width_error(problem, size, limit, networks, seed))
            tick()
        width_errors.append(of_mode)

    # Before training the modes agree up to O(1/n) at any depth: seen against width at the coarsest depth, and against
    # depth at the smallest width.
    by_width = [(width, depths[0]) for width in widths]
    by_depth = [(widths[0], depth) for depth in depths]
    initial_gaps = _initial_gaps(problem, by_width, networks, seed, tick)
    initial_gaps_at_depth = _initial_gaps(problem, by_depth, networks, seed, tick)

    data = xr.Dataset(
        {
            **_with_error("depth_error", ("mode", "depth"), depth_errors),
            **_with_error("training_gap", ("depth",), training_gaps),
            **_with_error("width_error", ("mode", "width"), width_errors),
            **_with_error("initial_gap", ("width",), initial_gaps),
            **_with_error("initial_gap_at_depth", ("depth",), initial_gaps_at_depth),
        },
        coords={"mode": list(MODES), "depth": list(depths), "width": list(widths)},
        attrs={
            "particles": plan.particles,
            "replicas": plan.replicas,
            "networks": networks,
            "lr": float(lr),
            "seed": seed,
            "horizon": float(horizon),
            "phi": activations.name(phi),
            "steps": steps,
        },
    )
    depth_laws = {}
    for mode in MODES:
        finite = losses[mode][:-1]
        depth_laws[mode] = _depth_law(finite, depths)
    data = _with_laws(data, depth_laws)
    if len(depths) > 3:
        data = _with_two_terms(data, {mode: losses[mode][:-1] for mode in MODES}, depths)
    return data


# --- infinite width, against depth --------------------------------------------------------------------------


def _losses(make: Callable[..., Problem], plan: Plan, mode: str, dtype: str) -> np.ndarray:
    """Loss (depth, replica, step) of the infinitely wide network, infinite depth last."""
    drawn = sample(make(dtype=dtype), plan, reused=mode == "reused")
    levels = [values["loss"] for values in drawn.values]
    return np.stack(append_limit(levels, plan.depths))


def _depth_law(losses: np.ndarray, depths: tuple[int, ...]) -> laws.PowerLaw:
    """Exponent of the error in depth, from what each doubling of depth changes.

    If loss_L = limit + c / L, then (loss_L - loss_M) / (1 - L / M) = c / L: the same law, without the noise of an
    extrapolated limit, which all errors would share. The interval is a jackknife over replicas.
    """

    sizes = np.array(depths, dtype=float)
    # 1 - L / M
    shrink = 1 - sizes[:-1] / sizes[1:]

    def fitted(means: np.ndarray) -> laws.PowerLaw:
        # rms over steps of (loss_L - loss_M) / (1 - L / M), at each L
        changes = means[:-1] - means[1:]
        errors = np.sqrt(np.square(changes).mean(-1)) / shrink
        return laws.fit_power_law(depths[:-1], errors)

    count = losses.shape[1]
    total = losses.sum(1)
    left_out = []
    for i in range(count):
        without = (total - losses[:, i]) / (count - 1)
        left_out.append(fitted(without).exponent)
    error = _jackknife_error(left_out)
    half = error * t_quantile(count - 1)
    found = fitted(losses.mean(1))
    return dataclasses.replace(
        found,
        exponent_low=found.exponent - half,
        exponent_high=found.exponent + half,
    )


@dataclasses.dataclass(frozen=True)
class _TwoTerms:
    """limit + c1/L + c2/L^2, and how well that and limit + c1/L fit."""

    c1: float
    ratio: float
    chi_squared: float
    chi_squared_of_one_term: float


def _two_terms(losses: np.ndarray, depths: tuple[int, ...]) -> tuple[_TwoTerms, float]:
    """Both terms of the error in depth (depth, replica, step), and the standard error of c2/c1 by the jackknife.

    The losses of all steps are read along the one direction in which they change with depth.
    """
    means = losses.mean(1)
    change = means[0] - means[-1]
    along = losses @ (change / np.linalg.norm(change))  # (depth, replica)
    count = along.shape[1]
    covariance = np.cov(along) / count
    inverse = 1 / np.array(depths, dtype=float)
    powers = np.vander(inverse, 3, increasing=True)

    def fitted(values: np.ndarray) -> _TwoTerms:
        coefficients, both = _generalised_fit(powers, values, covariance)
        _, one = _generalised_fit(powers[:, :2], values, covariance)
        return _TwoTerms(coefficients[1], coefficients[2] / coefficients[1], both, one)

    total = along.sum(1)
    left_out = [fitted((total - along[:, i]) / (count - 1)).ratio for i in range(count)]
    return fitted(along.mean(1)), _jackknife_error(left_out)


def _generalised_fit(design: np.ndarray, values: np.ndarray, covariance: np.ndarray) -> tuple[np.ndarray, float]:
    """Coefficients and chi squared of a least-squares fit to correlated values."""
    # Whitened by the root of the covariance, the values are independent and of variance 1.
    root = np.linalg.cholesky(covariance + 1e-14 * np.trace(covariance) * np.eye(len(covariance)))
    white, target = np.linalg.solve(root, design), np.linalg.solve(root, values)
    coefficients, *_ = np.linalg.lstsq(white, target, rcond=None)
    return coefficients, float(np.square(white @ coefficients - target).sum())


def _jackknives(differences: np.ndarray) -> list[tuple[float, float]]:
    """`_jackknife` at each depth; (depth, replica, step)."""
    return [_jackknife(of_depth) for of_depth in differences]


def _jackknife(differences: np.ndarray) -> tuple[float, float]:
    """Root-mean-square over steps of the mean over replicas, and its standard error; (replica, step)."""

    def size(curve: np.ndarray) -> float:
        return float(np.sqrt(np.square(curve).mean()))

    count = len(differences)
    total = differences.sum(0)
    left_out = []
    for one in differences:
        without = (total - one) / (count - 1)
        left_out.append(size(without))
    return size(differences.mean(0)), _jackknife_error(left_out)


def _jackknife_error(left_out: list[float]) -> float:
    """Standard error of a statistic of R replicas, from its values with one replica left out each."""
    # se^2 = (R - 1) / R sum_i (left_out_i - mean)^2
    count = len(left_out)
    return float(np.std(left_out) * np.sqrt(count - 1))


# --- finite networks ----------------------------------------------------------------------------------------


def _networks(problem: Problem, size: Size, count: int, seed: int) -> Arrays:
    """Finite networks exactly in law, a group at a time."""
    parts = []
    for first, replicas in groups(count, size.n):
        group = dataclasses.replace(size, replicas=replicas)
        history = run(problem, group, GaussianNoise(seed, first))
        parts.append(results.arrays(history, problem))
    return results.concatenate(parts)


def _width_error(problem: Problem, size: Size, limit: np.ndarray, count: int, seed: int) -> tuple[float, float]:
    """Mean square over steps and networks of the loss's distance from the infinitely wide network's."""
    losses = _networks(problem, size, count, seed)["loss"]
    squares = np.square(losses - limit).mean(1)
    return _mean(squares)


def _initial_gaps(
    problem: Problem,
    sizes: Sequence[tuple[int, int]],
    count: int,
    seed: int,
    tick: Callable[[], None],
) -> list[tuple[float, float]]:
    """`_initial_gap` at each width and depth, of the gradient kernel at the lowest layer."""
    gaps = []
    for width, depth in sizes:
        # Sampled lazily, both modes can have the same noise.
        size = Size(n=width, depth=depth, explicit=False, kernel_layers=(0,))
        gaps.append(_initial_gap(problem, size, count, seed))
        tick()
    return gaps


def _initial_gap(problem: Problem, size: Size, count: int, seed: int) -> tuple[float, float]:
    """Root-mean-square difference of the modes' gradient kernels before training, with common noise."""
    before_training = dataclasses.replace(problem, batch_weights=problem.batch_weights[:0])
    kernels = {}
    for mode in MODES:
        of_mode = dataclasses.replace(size, reused=mode == "reused")
        kernels[mode] = _networks(before_training, of_mode, count, seed)["gradient_kernel"]
    difference = kernels["reused"] - kernels["independent"]
    squares = np.square(difference).mean((1, 2, 3, 4))
    square, error = _mean(squares)
    # d sqrt(square) = d square / (2 sqrt(square))
    root = math.sqrt(square)
    return root, error / (2 * root)


def _mean(values: np.ndarray) -> tuple[float, float]:
    mean, error = mean_and_se(values)
    return float(mean), float(error)


# --- the result ---------------------------------------------------------------------------------------------


def _with_error(
    name: str, dims: tuple[str, ...], pairs: Sequence[Any]
) -> dict[str, tuple[tuple[str, ...], np.ndarray]]:
    """A variable and its standard error, from pairs of the two."""
    both = np.array(pairs)
    return {
        name: (dims, both[..., 0]),
        f"{name}_se": (dims, both[..., 1]),
    }


def _with_laws(data: xr.Dataset, depth_laws: dict[str, laws.PowerLaw]) -> xr.Dataset:
    """Add the fitted exponents."""
    fits = {}
    for mode in MODES:
        fits[f"depth error, {mode}"] = depth_laws[mode]
        of_mode = data.sel(mode=mode)
        fits[f"width error, {mode}"] = _fit(of_mode, "width_error", "width")
    fits["initial gap, width"] = _fit(data, "initial_gap", "width")
    fits["initial gap, depth"] = _fit(data, "initial_gap_at_depth", "depth")
    fits["training gap, depth"] = _fit(data, "training_gap", "depth")
    data = data.assign_coords(law=list(fits))
    for field in ("exponent", "exponent_low", "exponent_high"):
        data[field] = ("law", [getattr(fit, field) for fit in fits.values()])
    return data


def _with_two_terms(data: xr.Dataset, losses: dict[str, np.ndarray], depths: tuple[int, ...]) -> xr.Dataset:
    """Add the two-term fits of the error in depth."""
    names = ("c1", "c2_over_c1", "c2_over_c1_low", "c2_over_c1_high", "chi_squared", "chi_squared_of_one_term")
    rows = []
    for mode in MODES:
        found, error = _two_terms(losses[mode], depths)
        half = error * t_quantile(losses[mode].shape[1] - 1)
        ends = found.ratio - half, found.ratio + half
        rows.append((found.c1, found.ratio, *ends, found.chi_squared, found.chi_squared_of_one_term))
    for name, values in zip(names, zip(*rows, strict=True), strict=True):
        data[name] = ("mode", np.array(values))
    data.attrs["degrees_of_freedom"] = len(depths) - 3
    return data


def _fit(data: xr.Dataset, name: str, axis: str) -> laws.PowerLaw:
    sizes = data[axis].values
    values = data[name].values
    errors = data[f"{name}_se"].values
    return laws.fit_power_law(sizes, values, errors)


def _checked_widths(widths: Sequence[int]) -> tuple[int, ...]:
    sizes = {whole("widths", width) for width in widths}
    if len(sizes) < 2:
        raise InvalidValueError(f"`widths` must hold two or more widths, got {list(widths)}")
    return tuple(sorted(sizes))


def _ticker(progress: Progress, total: int) -> Callable[[], None]:
    """A function that reports one more of `total` equal parts each time."""
    done = itertools.count(1)

    def tick() -> None:
        if progress is not None:
            progress(next(done) / total)

    return tick
