"""Residual blocks of two layers at infinite width and depth: which limit there is, and its solution.

    h_l = h_{l-1} + a W2_l phi(W1_l N(h_{l-1})),    a = sqrt(T) L^-beta,    learning rates of W1 and W2 ~ L^(2 beta - 1)

Under SGD the rule of docs/theory.md, section 4, with a multiplier L^-alpha and a last init L^(alpha - beta) is the same
training for every alpha: beta alone says which limit there is (section 9.2).
"""

from __future__ import annotations

import dataclasses
import math
import re
from collections.abc import Sequence

import numpy as np
from scipy.interpolate import BarycentricInterpolator

from isoscale.checks import number, whole
from isoscale.errors import InvalidValueError, unknown
from isoscale.limit import inputs, kernel_equations, lazy_ode, mean_field
from isoscale.limit.activations import Phi
from isoscale.limit.choices import choose_depths
from isoscale.limit.inputs import Kernels
from isoscale.limit.kernel_equations import Equations, Solution
from isoscale.limit.memory import check_words
from isoscale.limit.network import Problem
from isoscale.limit.optimizers import path_of
from isoscale.limit.pair_kernels import Norm, kernels_of
from isoscale.limit.particles import Plan
from isoscale.limit.progress import Progress
from isoscale.limit.results import Arrays, arrays
from isoscale.limit.richardson import extrapolate
from isoscale.stats.summary import mean_and_se

NORMS = ("rms", "layer")

# Points in layer time: the answer with so many is compared with the next.
_POINTS = (6, 8, 12, 16, 24)

# Of the mean-field equation: neurons of each layer that a first run has, and the most that `solve` takes by itself.
_NEURONS, _MOST_NEURONS, _REPLICAS = 512, 2**15, 8


@dataclasses.dataclass(frozen=True, kw_only=True)
class Training:
    """What is trained beside the data.

    Attributes:
        beta: Of the depth rule.
        norm: Before each branch; None: none.
        rates: Learning rate of each step.
        momentum, weight_decay: Of SGD, the decay decoupled.
        reused: Whether the backward pass uses the forward pass's weights.
    """

    beta: float
    norm: Norm
    rates: np.ndarray
    momentum: float
    weight_decay: float
    reused: bool


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


@dataclasses.dataclass(frozen=True, kw_only=True)
class Blocks:
    """The residual blocks and their optimizer, as far as they are more than one layer under plain SGD."""

    depth: int
    beta: float
    norm: Norm
    momentum: float
    weight_decay: float
    schedule: np.ndarray

    def check(self, depth: int | None) -> None:
        """Raise InvalidValueError for what has no solution here."""
        if self.depth > 2:
            raise InvalidValueError(
                f"`block_depth` must be 1 or 2, got {self.depth}: of deeper blocks the "
                "kernel equations are not solved here"
            )
        if self.depth == 2 and depth is not None:
            raise InvalidValueError("blocks of two layers are solved at infinite depth: leave out `depth`")
        if self.depth == 1:
            given = {
                "beta": self.beta != 0.5,
                "norm": self.norm is not None,
                "momentum": self.momentum != 0,
                "weight_decay": self.weight_decay != 0,
                "schedule": bool((self.schedule != 1).any()),
            }
            names = [name for name, is_given in given.items() if is_given]
            if names:
                raise InvalidValueError(
                    f"`{names[0]}` is for blocks of two layers: give block_depth=2, or leave it out"
                )

    def settings(self) -> dict[str, object]:
        """As attributes."""
        return {
            "block_depth": self.depth,
            "beta": self.beta,
            "norm": self.norm or "none",
            "momentum": self.momentum,
            "weight_decay": self.weight_decay,
            "schedule": self.schedule.tolist(),
        }


def factors_of(schedule: Sequence[float] | None, steps: int) -> np.ndarray:
    """By what each step multiplies the learning rate."""
    if schedule is None:
        return np.broadcast_to(1.0, (steps,))
    factors = np.array([number("schedule", factor, least=0) for factor in schedule])
    if len(factors) != steps:
        raise InvalidValueError(f"`schedule` must hold one factor for each of the {steps} steps, got {len(factors)}")
    return factors


def depth_rule(rule: str | None, alpha: float, beta: float) -> float:
    """beta of a rule by name, or as given.

    Raises:
        InvalidValueError: An unknown rule, one without a limit, or exponents out of range.

    >>> depth_rule("completep", 0.5, 0.5)
    1.0
    """
    if rule is None:
        beta = number("beta", beta)
        alpha = number("alpha", alpha)
        if not 0.5 <= beta <= 1:
            raise InvalidValueError(
                f"`beta` must be in [1/2, 1], got {beta:g}: below, the stream's noise grows with depth"
            )
        if not 0 <= alpha <= 1:
            raise InvalidValueError(f"`alpha` must be in [0, 1], got {alpha:g}")
        return beta
    if rule == "depth-mup-corrected":
        raise InvalidValueError(
            "depth-mup-corrected has no limit at a fixed learning rate: the first step changes the output like "
            "sqrt(L), and with independent backward weights the gradients grow like sqrt(L) from the second step on. "
            "At a rate ~ L^-1/2 it has one, that of depth-mup with the inner maps alone trained, where they no longer "
            "move by themselves: the correction undoes itself (docs/theory.md, section 9). Use depth-mup or completep"
        )
    if match := re.fullmatch(r"residual-family\(([^,()]+),([^,()]+)\)", rule.replace(" ", "")):
        return depth_rule(None, float(match[1]), float(match[2]))
    known = {"depth-mup": 0.5, "completep": 1.0}
    if rule not in known:
        raise unknown("depth rule with a limit", rule, [*known, "residual-family(ALPHA,BETA)"])
    return known[rule]


def solve(
    problem: Problem, phi: Phi, training: Training, sampling: Sampling, kernels: Kernels, progress: Progress
) -> Found:
    """The limit that this beta has."""
    if training.beta == 1:
        _check_mean_field(training)
        return _sampled(problem, training, sampling, kernels, progress)
    if training.beta > 0.5:
        if sampling.ladder is not None:
            raise InvalidValueError(
                f"no ladder reaches the limit at beta = {training.beta:g}: errors fall like "
                f"L^-{2 * training.beta - 1:g} and L^-{2 - 2 * training.beta:g}. Leave out `ladder`: the limit "
                "itself, the same for every beta between 1/2 and 1, is solved exactly"
            )
        if not training.reused:
            raise InvalidValueError(
                "with 1/2 < `beta` < 1 the limit is known for reused backward weights: backward_weights='reused'"
            )
    elif sampling.ladder is not None:
        raise InvalidValueError("the kernel equations are those of infinite depth: leave out `ladder`")
    return _equations(problem, phi, training, sampling.tolerance, kernels, progress)


def norm_of(norm: str | None) -> Norm:
    """The norm of that name."""
    if norm is not None and norm not in NORMS:
        raise unknown("`norm`", norm, NORMS)
    return norm  # type: ignore[return-value]


# --- solved to rounding ---
def _equations(
    problem: Problem, phi: Phi, training: Training, tolerance: float, kernels: Kernels, progress: Progress
) -> Found:
    """With more and more points in layer time, until two answers agree."""
    # What each step leaves in each later one's weights.
    check_words(2 * (problem.steps + 1) ** 2, "Use fewer steps.")
    equations = Equations(
        problem=problem,
        kernels=kernels_of(phi, training.norm),
        path=path_of(training.rates, training.momentum, training.weight_decay),
        reused=training.reused,
        normed=training.norm is not None,
    )
    solver = kernel_equations if training.beta == 0.5 else lazy_ode
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
def _check_mean_field(training: Training) -> None:
    if training.norm is not None:
        raise InvalidValueError("`norm` is not derived for completep at infinite depth: leave it out, or use depth-mup")
    if not training.reused:
        raise InvalidValueError(
            "under completep the limit is known for reused backward weights: backward_weights='reused'"
        )


def _sampled(problem: Problem, training: Training, sampling: Sampling, kernels: Kernels, progress: Progress) -> Found:
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
        values, sampling_error, ladder_error, diverged = _populations(problem, training, plan, progress)
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


def _populations(
    problem: Problem, training: Training, plan: Plan, progress: Progress
) -> tuple[Arrays, float, float, int | None]:
    """All depths of the ladder, extrapolated; errors of the loss by sampling and by the ladder."""
    by_depth: list[Arrays] = []
    diverged: list[int] = []
    for depth in plan.depths:
        finer = depth // plan.depths[0]
        population = mean_field.Population(
            layers=depth,
            neurons=plan.particles,
            replicas=plan.replicas,
            rates=training.rates,
            momentum=training.momentum,
            weight_decay=training.weight_decay,
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
        values[name], values[f"{name}_se"] = mean, np.hypot(sampled, extrapolation)
        if name == "loss":
            errors = {"sampling": float(np.nanmax(sampled)), "ladder": float(np.nanmax(extrapolation))}
    return values, errors["sampling"], errors["ladder"], min(diverged, default=None)
