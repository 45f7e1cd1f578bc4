"""`solve`: the law of training at infinite width, at a finite depth or in the limit of infinite depth."""

from __future__ import annotations

import dataclasses
import functools
import math
import time
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from isoscale.checks import whole
from isoscale.limit import activations, inputs, losses, results, two_layer
from isoscale.limit.choices import choose_depths, choose_plan, with_precision
from isoscale.limit.memory import lazy_bytes
from isoscale.limit.network import Problem
from isoscale.limit.particles import Plan, Sample, sample
from isoscale.limit.progress import Progress
from isoscale.limit.results import Arrays
from isoscale.limit.richardson import extrapolate
from isoscale.stats.least_squares import widening
from isoscale.stats.summary import mean_and_se

if TYPE_CHECKING:
    import xarray as xr

MOST_FLOPS = 2e12
MOST_BYTES = 2**33
"""Largest cost that `solve` chooses by itself: some minutes of one core, 8 GiB. Pass `particles` to spend more."""

FAR_OFF = 10
"""Times the tolerance that the error may still be after all that; else the trial is the answer."""

MARGIN = 0.9
"""Share of the tolerance that a trial has to meet, and that further runs aim at: where the tolerance is then met, the
error is within it in 83 % of runs and more (*checked*: tests/limit/test_solve.py)."""

MOST_RUNS = 3
"""The trial, the run that it asks for, and one more if that misses."""


def solve(
    x: Any,
    y: Any,
    steps: int = 10,
    lr: float = 0.15,
    phi: activations.Phi = "tanh",
    horizon: float = 1.0,
    depth: int | None = None,
    particles: int | None = None,
    replicas: int | None = None,
    backward_weights: str = "reused",
    tolerance: float = 1e-3,
    seed: int = 0,
    *,
    train_ends: bool = True,
    loss: losses.Loss = "mse",
    x_test: Any = None,
    batches: Sequence[Sequence[int]] | None = None,
    kernels: inputs.Kernels = True,
    ladder: Sequence[int] | None = None,
    rank_tolerance: float | None = None,
    dtype: str | None = None,
    device: str = "cpu",
    block_depth: int = 1,
    alpha: float = 0.5,
    beta: float = 0.5,
    rule: str | None = None,
    norm: str | None = None,
    optimizer: str = "sgd",
    betas: Sequence[float] | None = None,
    momentum: float = 0.0,
    nesterov: bool = False,
    weight_decay: float = 0.0,
    clip: float | None = None,
    schedule: inputs.Schedule = None,
    progress: Progress = None,
) -> xr.Dataset:
    """Training of the infinitely wide network: Neural Feature Dynamics, or backpropagation's own limit.

    Moment-matched particles (docs/theory.md, section 3): a width-n system whose noise has no sampling error in its
    first moments, repeated over replicas, and free of bias to first order in 1/n wherever that could show. With
    `depth=None` the results at a sequence of depths, which share their noise, are extrapolated in 1/depth to infinite
    depth.

    Blocks of two layers (`block_depth=2`) at infinite depth have one of three limits (docs/theory.md, section 9): under
    depth-mup closed kernel equations, solved without noise; between depth-mup and completep one ordinary differential
    equation; under completep a mean-field equation, sampled. With `depth`, or under depth-mup with `ladder`, blocks of
    any number of layers are particles like those of one.

    Args:
        x: Inputs, shape (samples, features). Their norm is used as given: h_0 = U x / sqrt(features).
        y: Targets, shape (samples,) or (samples, outputs).
        steps: SGD updates; step axes have steps + 1 entries.
        lr: eta, free of width and depth.
        phi: "tanh", "relu", "gelu", "erf" (of slope 1 at 0), "linear" or another of torch's activations by name, an
            elementwise function, or a pair (function, derivative).
        horizon: T: branches are multiplied by sqrt(T / depth).
        depth: Residual blocks; None: infinitely many.
        particles: n of each replica, even; None: as many as `tolerance` needs, within 8 GiB and some minutes.
        replicas: Independent repetitions, at least 2; None: 8 to 32, fewer of larger ones.
        backward_weights: "reused": backpropagation. "independent": NFD, the backward pass has independent weights.
            At infinite width and depth the two differ once training begins (docs/theory.md, section 2).
        tolerance: The standard error requested of the loss, at its worst step.
        seed: The same seed gives the same numbers, and the same noise to both kinds of `backward_weights`.
        train_ends: Whether the input weights U and the readout v are trained too.
        loss: "mse", "cross-entropy" or a function of outputs and targets, as of `simulate`.
        x_test: Inputs whose predictions are carried along, never trained on.
        batches: The sample indices of each step's mini-batch; all samples at each step if None.
        kernels: Whether to record kernels; or the layer times in [0, 1] at which to.
        ladder: The depths to extrapolate from when `depth` is None, each dividing the next.
        rank_tolerance: Directions with less than this share of a vector's squared norm are not sampled on their own;
            None: a hundredth of `tolerance`, at most 1e-5.
        dtype: "float64" or "float32"; None: float32 (twice as fast) if `tolerance` >= 1e-4.
        device: A torch device.
        block_depth: Layers of a residual block.
        alpha, beta, rule, norm, optimizer, betas, momentum, nesterov, weight_decay, clip, schedule: Those of
            `simulate`. At infinite depth depth-mup-corrected has no limit; and optimizers other than SGD, and of
            two-layer blocks `clip`, and a `norm` under completep, are not derived there.
        progress: Called with the fraction done of the run in progress.

    Returns:
        Dataset as `simulate` returns, and a standard error `<name>_se` for each variable: of the replicas, and of the
        extrapolation (what its coarsest depth changes), in quadrature; the bias is kept well below the former. It is
        widened for the replicas being few, so that 1.96 of it hold 95 % of the errors.
        attrs: depths, particles, replicas, rank, seconds, error (the worst loss_se), tolerance, tolerance_met (0 or
        1), ladder_error, diverged_step (-1: none) and the settings. Of two-layer blocks also method; points of the
        equations instead of particles.

    Raises:
        InvalidValueError: A value makes no sense, or the run needs more memory than there is.
        InvalidTypeError: An argument cannot be used.

    >>> limit = solve([[1.0, 0.0], [0.0, 1.0]], [1.0, -1.0], steps=2, depth=4, tolerance=0.02)
    >>> limit.attrs["depths"], limit.attrs["tolerance_met"], float(limit.loss[0].round(4))
    ([4], 1, 0.5)
    """
    begin = time.perf_counter()
    tolerance = inputs.positive("tolerance", tolerance)
    blocks = inputs.architecture(block_depth, alpha, beta, rule, norm)
    make = functools.partial(
        inputs.problem,
        x,
        y,
        x_test=x_test,
        steps=steps,
        lr=lr,
        phi=phi,
        horizon=horizon,
        loss=loss,
        train_ends=train_ends,
        batches=batches,
        blocks=blocks,
        optimizer=optimizer,
        betas=betas,
        momentum=momentum,
        nesterov=nesterov,
        weight_decay=weight_decay,
        clip=clip,
        schedule=schedule,
        device=device,
    )
    if depth is None and optimizer != "sgd":
        inputs.check_extrapolates(make(dtype="float64"))
    reused = inputs.mode(backward_weights)
    settings = functools.partial(results.settings, lr=lr, phi=phi, backward_weights=backward_weights, loss=loss)
    if depth is None and two_layer.is_solved(blocks, ladder):
        problem = make(dtype="float64")
        sampling = two_layer.Sampling(
            tolerance=tolerance,
            particles=particles,
            replicas=replicas,
            ladder=None if ladder is None else tuple(ladder),
            seed=whole("seed", seed, least=0),
        )
        found = two_layer.solve(problem, phi, reused, sampling, kernels, progress)
        attrs = {
            **found.attrs,
            "seconds": time.perf_counter() - begin,
            "tolerance": tolerance,
            "tolerance_met": int(found.error <= tolerance),
            "diverged_step": results.diverged_step(found.diverged),
            **settings(problem),
        }
        return results.dataset(found.values, problem, found.times, attrs)
    depths = choose_depths(depth, ladder, inputs.positive("horizon", horizon))
    # Who sets the particles gets what they give.
    wanted = tolerance if particles is None else math.inf

    def work(dtype: str) -> tuple[Problem, Plan, _Answer]:
        problem = make(dtype=dtype)
        plan = choose_plan(
            problem,
            depths,
            particles,
            replicas,
            seed=seed,
            tolerance=tolerance,
            rank_tolerance=rank_tolerance,
            times=inputs.kernel_layers(kernels, depths[0]),
        )
        return problem, *_to_tolerance(problem, plan, reused, wanted, progress)

    if optimizer == "muon" and dtype is None:
        # The small singular values that it lifts are below float32's rounding.
        dtype = "float64"
    known = inputs.matrix("x", x)
    largest = float((known**2).mean(1).max())
    problem, plan, answer = with_precision(dtype, tolerance, work, largest)
    attrs = {
        "depths": list(plan.depths),
        "particles": plan.particles,
        "replicas": plan.replicas,
        "rank": answer.rank,
        "seconds": time.perf_counter() - begin,
        "error": answer.error,
        "tolerance": tolerance,
        "tolerance_met": int(answer.error <= tolerance),
        "ladder_error": answer.extrapolation_error,
        "diverged_step": results.diverged_step(answer.diverged),
        **settings(problem),
        "seed": seed,
        "dtype": str(problem.gram.dtype).removeprefix("torch."),
    }
    times = np.array(plan.times) / plan.depths[0]
    return results.dataset(answer.values, problem, times, attrs)


@dataclasses.dataclass(frozen=True, kw_only=True)
class _Answer:
    # means and standard errors
    values: Arrays
    # by name: variance of a mean over replicas of one particle each, if it falls as 1 / particles
    variances: Arrays
    # the loss's standard error at its worst step, and the part of it that is the extrapolation's
    error: float
    extrapolation_error: float
    rank: int
    diverged: int | None


def _to_tolerance(
    problem: Problem,
    plan: Plan,
    reused: bool,
    tolerance: float,
    progress: Progress,
) -> tuple[Plan, _Answer]:
    """A trial, and while its error misses the tolerance further runs with as many particles as that needs.

    A trial that only just meets it may owe that to a lucky estimate of its error: it has to by a margin. Further runs
    have the trial's estimate to lean on.
    """
    answers: list[_Answer] = []
    while True:
        answers.append(_solve(problem, plan, reused, progress, answers))
        answer = answers[-1]
        enough = tolerance if len(answers) > 1 else MARGIN * tolerance
        if answer.diverged is not None or answer.error <= enough or len(answers) == MOST_RUNS:
            return plan, answer
        finer = _enough(problem, plan, answer, tolerance)
        if finer.particles == plan.particles:
            return plan, answer
        plan = finer


def _solve(problem: Problem, plan: Plan, reused: bool, progress: Progress, earlier: Sequence[_Answer]) -> _Answer:
    drawn = sample(problem, plan, reused=reused, progress=progress)
    rounding = torch.finfo(problem.gram.dtype).eps
    return _summarise(drawn, plan, rounding, [answer.variances for answer in earlier])


def _summarise(drawn: Sample, plan: Plan, rounding: float, earlier: Sequence[Arrays]) -> _Answer:
    """Means over replicas; errors of the sampling, of the extrapolation and of the arithmetic, in quadrature.

    Args:
        drawn: The replicas.
        plan: How they were run.
        rounding: Of their numbers.
        earlier: Variances of a particle in runs of as many replicas before.
    """
    values: Arrays = {}
    variances: Arrays = {}
    extrapolation_error = 0.0
    runs = 1 + len(earlier)
    wide = widening(runs * (plan.replicas - 1))
    for name in drawn.values[0]:
        levels = [of_depth[name] for of_depth in drawn.values]
        limit, extrapolation = extrapolate(levels, plan.depths)
        mean, own = mean_and_se(limit)
        variances[name] = own**2 * plan.particles
        pooled = sum((before[name] for before in earlier), variances[name]) / runs
        sampling = wide * np.sqrt(pooled / plan.particles)
        # se^2 = sampling^2 + extrapolation^2 + arithmetic^2
        # Where matched moments leave no sampling error at all, replicas agree better than their arithmetic does.
        largest = np.abs(mean).max(where=np.isfinite(mean), initial=0.0)
        arithmetic = rounding * largest
        values[name] = mean
        error = np.hypot(sampling, extrapolation)
        values[f"{name}_se"] = np.hypot(error, arithmetic)
        if name == "loss":
            extrapolation_error = float(extrapolation.max())
    return _Answer(
        values=values,
        variances=variances,
        error=float(values["loss_se"].max()),
        extrapolation_error=extrapolation_error,
        rank=drawn.rank,
        diverged=drawn.diverged,
    )


def _enough(problem: Problem, plan: Plan, answer: _Answer, tolerance: float) -> Plan:
    """The plan with as many particles as bring the error down to the tolerance with a margin, or as may be spent.

    Where what may be spent leaves the tolerance far off, nothing is.
    """
    # The variance falls as 1/n; time and memory grow as n.
    wanted = (answer.error / (MARGIN * tolerance)) ** 2
    one_replica = plan.size(plan.depths[-1], 1, reused=True)
    affordable = min(MOST_FLOPS / plan.flops(problem), MOST_BYTES / lazy_bytes(problem, one_replica))
    if problem.optimizer.moments:
        # Explicit matrices grow as n^2.
        affordable = math.sqrt(affordable)
    if wanted > FAR_OFF**2 * affordable:
        return plan
    particles = int(plan.particles * min(wanted, affordable))
    whole_blocks = 64 * math.ceil(particles / 64)
    n = max(plan.particles, whole_blocks)
    return dataclasses.replace(plan, particles=n)
