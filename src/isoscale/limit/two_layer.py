"""Residual blocks of two layers at infinite width and depth: which limit there is, and its solution.

    h_l = h_{l-1} + a W2_l phi(W1_l N(h_{l-1})),    a = sqrt(T) L^-beta,    learning rates of W1 and W2 ~ L^(2 beta - 1)

Under SGD the rule of docs/theory.md, section 4, with a multiplier L^-alpha and a last init L^(alpha - beta) is the same
training for every alpha: beta alone says which limit there is (section 9.2).
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence

import numpy as np

from isoscale.checks import whole
from isoscale.errors import InvalidValueError
from isoscale.limit import inputs, kernel_equations, lazy_ode, mean_field
from isoscale.limit.activations import Phi
from isoscale.limit.blocks import Architecture, DepthRule
from isoscale.limit.choices import choose_depths
from isoscale.limit.inputs import Kernels
from isoscale.limit.kernel_equations import Equations, Solution
from isoscale.limit.memory import check_words
from isoscale.limit.network import Problem, own_setting
from isoscale.limit.optimizers import path_of
from isoscale.limit.pair_kernels import kernels_of
from isoscale.limit.particles import Plan
from isoscale.limit.progress import Progress
from isoscale.limit.results import Arrays, arrays
from isoscale.limit.richardson import extrapolate
from isoscale.stats.least_squares import widening
from isoscale.stats.summary import mean_and_se

# Points in layer time: the answer with so many is compared with the next.
_POINTS = (6, 8, 12, 16, 24)

# Of the mean-field equation: neurons of each layer that a first run has, and the most that `solve` takes by itself.
_NEURONS, _MOST_NEURONS, _REPLICAS = 512, 2**15, 8


@dataclasses.dataclass(frozen=True, kw_only=True)
class Sampling:
    """What a sampled answer needs, as given to `solve`."""

    tolerance: float
    particles: int | None
    replicas: int | None
    ladder: tuple[int, ...] | None
    seed: int


@dataclasses.dataclass
class Found:
    """Values with errors, the loss's error at its worst step, layer times, and attributes of the result."""

    values: Arrays
    error: float
    times: np.ndarray
    attrs: dict[str, object]
    diverged: int | None


def is_solved(blocks: Architecture, ladder: Sequence[int] | None) -> bool:
    """Whether the limit of infinite depth has equations of its own; else particles at a ladder of depths reach it.

    Raises:
        InvalidValueError: It has no limit, or no known one.
    """
    beta = blocks.rule.beta
    if blocks.rule.corrected:
        raise InvalidValueError(
            "depth-mup-corrected has no limit at a fixed learning rate: the first step changes the output like "
            "sqrt(L), and with independent backward weights the gradients grow like sqrt(L) from the second step on. "
            "At a rate ~ L^-1/2 it has one, that of depth-mup with the inner maps alone trained, where they no longer "
            "move by themselves: the correction undoes itself (docs/theory.md, section 9). Use depth-mup or completep, "
            "or give a finite `depth`"
        )
    if 0.5 < beta < 1 and ladder is not None:
        raise InvalidValueError(
            f"no ladder reaches the limit at beta = {beta:g}: errors fall like L^-{2 * beta - 1:g} and "
            f"L^-{2 - 2 * beta:g}. Leave out `ladder`: the limit itself, the same for every beta between 1/2 and 1, is "
            "solved exactly"
        )
    if blocks.layers > 2 and (ladder is None or beta != 0.5):
        raise InvalidValueError(
            f"at infinite depth `block_depth` must be 1 or 2, got {blocks.layers}: of deeper blocks the equations are "
            "not solved here. Give a finite `depth`, or with depth-mup a `ladder` of depths to extrapolate from"
        )
    return blocks.layers == 2 and (ladder is None or beta == 1)


def solve(problem: Problem, phi: Phi, reused: bool, sampling: Sampling, kernels: Kernels, progress: Progress) -> Found:
    """The limit that this beta has."""
    with own_setting(problem.gram.device):
        return _solve(problem, phi, reused, sampling, kernels, progress)


def _solve(problem: Problem, phi: Phi, reused: bool, sampling: Sampling, kernels: Kernels, progress: Progress) -> Found:
    beta = problem.architecture.rule.beta
    if problem.optimizer.clip is not None:
        raise InvalidValueError(
            "`clip` is not solved for blocks of two layers at infinite depth: leave it out, give a finite `depth`, or "
            "with depth-mup a `ladder`"
        )
    if beta == 1:
        _check_mean_field(problem, reused)
        return _sampled(problem, sampling, kernels, progress)
    if beta > 0.5 and not reused:
        raise InvalidValueError(
            "with 1/2 < `beta` < 1 the limit is known for reused backward weights: backward_weights='reused'"
        )
    return _equations(problem, phi, reused, sampling.tolerance, kernels, progress)


# --- solved to rounding ---
def has_equations(problem: Problem) -> bool:
    """Whether the limit of infinite depth is that of `kernel_equations`."""
    blocks, optimizer = problem.architecture, problem.optimizer
    return blocks.layers == 2 and blocks.rule == DepthRule() and optimizer.is_linear and optimizer.clip is None


def rough_loss(problem: Problem, phi: Phi, reused: bool, *, points: int, converged: float, frozen: bool) -> float:
    """The loss after the last step by the kernel equations, about; inf if training diverges.

    Args:
        problem: One that `has_equations`.
        phi: Its activation.
        reused: Whether the backward pass uses the forward pass's weights.
        points: In layer time.
        converged: The last change at which an equation counts as solved.
        frozen: Whether to solve the limit at 1/2 < beta < 1 in its place, where branches do not move by themselves:
            far cheaper, and of the same order.
    """
    with own_setting(problem.gram.device):
        equations = _equations_of(problem, phi, reused)
        if frozen:
            found = lazy_ode.integrate(equations, points, converged=converged)
        else:
            dtype = np.float64 if phi == "relu" else np.float32
            found = kernel_equations.integrate(equations, points, converged=converged, dtype=dtype)
    return math.inf if found.diverged is not None else float(found.loss[-1])


def _equations_of(problem: Problem, phi: Phi, reused: bool) -> Equations:
    # What each step leaves in each later one's weights.
    check_words(2 * (problem.steps + 1) ** 2, "Use fewer steps.")
    norm, optimizer = problem.architecture.norm, problem.optimizer
    return Equations(
        problem=problem,
        kernels=kernels_of(phi, norm),
        path=path_of(optimizer.rates, optimizer.momentum, optimizer.weight_decay, nesterov=optimizer.nesterov),
        reused=reused,
        normed=norm is not None,
    )


def _equations(
    problem: Problem, phi: Phi, reused: bool, tolerance: float, kernels: Kernels, progress: Progress
) -> Found:
    """With more and more points in layer time, until two answers agree."""
    equations = _equations_of(problem, phi, reused)
    solver = kernel_equations if problem.architecture.rule.beta == 0.5 else lazy_ode
    times = _times(kernels)
    before: Solution | None = None
    error = math.nan
    for points in _POINTS:
        found = solver.integrate(equations, points, progress)
        if before is not None:
            error = float(np.nanmax(np.abs(found.loss - before.loss), initial=0.0))
            if error <= min(tolerance, 1e-6) or found.diverged is not None:
                break
        before = found
    values: Arrays = {}
    fine, coarse = _labelled(found, problem, times), _labelled(before or found, problem, times)
    for name, value in fine.items():
        values[name] = value
        values[f"{name}_se"] = np.abs(value - coarse[name])
    attrs: dict[str, object] = {"method": "kernel equations", "points": points, "error": error}
    if solver is lazy_ode:
        attrs["method"] = "ordinary differential equation"
    return Found(values=values, error=error, times=times, attrs=attrs, diverged=found.diverged)


def _times(kernels: Kernels) -> np.ndarray:
    """Layer times at which kernels are wanted."""
    if isinstance(kernels, bool):
        return np.linspace(0, 1, 9) if kernels else np.zeros(0)
    layers = inputs.kernel_layers(kernels, 1024)
    return np.array(layers) / 1024


def _labelled(found: Solution, problem: Problem, times: np.ndarray) -> Arrays:
    """What `results.dataset` takes; kernels by the polynomial through their points."""
    from scipy.interpolate import BarycentricInterpolator

    trained = problem.trained
    out: Arrays = {"loss": found.loss, "prediction": found.prediction[:, :trained]}
    if problem.samples > trained:
        out["test_prediction"] = found.prediction[:, trained:]
    if len(times):
        kernels = {
            "feature_kernel": found.features[..., :trained, :trained],
            "stream_kernel": found.stream[..., :trained, :trained],
            "gradient_kernel": found.gradient[..., :trained, :trained],
            "cross_kernel": found.cross[..., :trained, :trained],
            "displacement": found.displacement[..., :trained],
        }
        for name, value in kernels.items():
            out[name] = np.moveaxis(BarycentricInterpolator(found.time, np.moveaxis(value, 1, 0))(times), 0, 1)
    return out


# --- sampled ---
def _check_mean_field(problem: Problem, reused: bool) -> None:
    if problem.architecture.norm is not None:
        raise InvalidValueError(
            "`norm` is not derived for completep at infinite depth: leave it out, use depth-mup, or give a finite "
            "`depth`"
        )
    if not reused:
        raise InvalidValueError(
            "under completep the limit is known for reused backward weights: backward_weights='reused'"
        )


def _sampled(problem: Problem, sampling: Sampling, kernels: Kernels, progress: Progress) -> Found:
    """A first sample of the populations, and a larger one if its error misses the tolerance."""
    depths = choose_depths(None, sampling.ladder, problem.horizon)
    neurons = _NEURONS
    if sampling.particles is not None:
        neurons = whole("particles", sampling.particles, least=2)
        if neurons & (neurons - 1):
            raise InvalidValueError(f"`particles` must be a power of two here, got {neurons}")
    replicas = whole("replicas", sampling.replicas or _REPLICAS, least=2)
    layers = inputs.kernel_layers(kernels, depths[0])
    while True:
        plan = Plan(
            particles=neurons, replicas=replicas, depths=depths, times=layers, rank_tolerance=0.0, seed=sampling.seed
        )
        values, sampling_error, ladder_error, diverged = _populations(problem, plan, progress)
        error = math.hypot(sampling_error, ladder_error)
        misses = sampling.particles is None and diverged is None and sampling_error > 0.8 * sampling.tolerance
        if not misses or neurons >= _MOST_NEURONS:
            break
        # Of Sobol points the error falls faster than like the root of their number.
        wanted = neurons * (sampling_error / (0.8 * sampling.tolerance)) ** 1.3
        neurons = min(_MOST_NEURONS, max(2 * neurons, 2 ** math.ceil(math.log2(wanted))))
    attrs: dict[str, object] = {
        "method": "mean-field equation",
        "depths": list(depths),
        "particles": neurons,
        "replicas": replicas,
        "error": error,
        "ladder_error": ladder_error,
    }
    return Found(values=values, error=error, times=np.array(layers) / depths[0], attrs=attrs, diverged=diverged)


def _populations(problem: Problem, plan: Plan, progress: Progress) -> tuple[Arrays, float, float, int | None]:
    """All depths of the ladder, extrapolated; errors of the loss by sampling and by the ladder."""
    by_depth: list[Arrays] = []
    diverged: list[int] = []
    for depth in plan.depths:
        finer = depth // plan.depths[0]
        population = mean_field.Population(
            layers=depth,
            neurons=plan.particles,
            replicas=plan.replicas,
            seed=plan.seed + depth,
            kernel_layers=tuple(finer * layer for layer in plan.times),
        )
        history = mean_field.run(problem, population, progress)
        by_depth.append(arrays(history, problem))
        if history.diverged is not None:
            diverged.append(history.diverged)
    values: Arrays = {}
    errors = {"sampling": 0.0, "ladder": 0.0}
    for name in by_depth[0]:
        limit, extrapolation = extrapolate([of_depth[name] for of_depth in by_depth], plan.depths)
        mean, sampled = mean_and_se(limit)
        sampled = widening(plan.replicas - 1) * sampled
        values[name], values[f"{name}_se"] = mean, np.hypot(sampled, extrapolation)
        if name == "loss":
            errors = {"sampling": float(np.nanmax(sampled)), "ladder": float(np.nanmax(extrapolation))}
    return values, errors["sampling"], errors["ladder"], min(diverged, default=None)
