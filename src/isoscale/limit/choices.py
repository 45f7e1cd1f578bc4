"""What is chosen for the user: depths, precision, particles, replicas, rank tolerance, and the plan they make."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Sequence
from typing import TypeVar

import torch

from isoscale.errors import InvalidValueError
from isoscale.limit import inputs
from isoscale.limit.network import Problem
from isoscale.limit.particles import Plan, least_particles

T = TypeVar("T")

REPLICAS, SAMPLED = (8, 32), 4096
"""Replicas run by default: fewest and most, and the particles that they have together in between. Variance falls as
1 / (particles x replicas) whichever grows, bias and time a particle are lowest with few replicas of many particles."""

TRIAL = 512
"""Particles that `solve` starts with: the fewest whose bias does not show beside 8 replicas' standard error, and at the
default tolerance often enough. If not, the trial has told how many are."""

SINGLE = 1e-4
"""The finest tolerance for which float32 is enough: it moves losses by about 5e-6."""

LADDER = (8, 16, 32)
"""Depths that are extrapolated, at horizon <= 1; longer horizons take finer layers."""


def choose_depths(depth: int | None, ladder: Sequence[int] | None, horizon: float) -> tuple[int, ...]:
    """The depths to run: the one asked for, or the ladder to infinity."""
    if depth is not None:
        if ladder is not None:
            raise InvalidValueError("`ladder` is the way to infinite depth: leave out `depth`, or `ladder`")
        return (inputs.count("depth", depth, 1),)
    if ladder is None:
        finer = 2 ** math.ceil(math.log2(max(1.0, horizon)))
        return tuple(finer * rung for rung in LADDER)
    rungs = tuple(inputs.count("ladder", rung, 1) for rung in ladder)
    if len(rungs) < 2 or any(b % a or a == b for a, b in itertools.pairwise(rungs)):
        raise InvalidValueError(f"`ladder` must hold two or more depths, each dividing the next, got {list(ladder)}")
    return rungs


def choose_dtype(dtype: str | None, tolerance: float) -> str:
    """The one asked for, or the fastest that is exact enough."""
    if dtype is None:
        return "float32" if tolerance >= SINGLE else "float64"
    return dtype


def choose_particles(particles: int | None, problem: Problem) -> int:
    """The particles asked for, or enough for a first trial and for the bases of the whole run with room to spare."""
    least = least_particles(problem)
    if particles is None:
        return max(TRIAL, 64 * math.ceil(1.5 * least / 64))
    if inputs.count("particles", particles, 1) < least:
        raise InvalidValueError(
            f"`particles` must be >= {least} for {problem.samples} samples and {problem.steps} steps, got {particles}"
        )
    if particles % 2:
        raise InvalidValueError(f"`particles` must be even, as each replica also runs in two halves, got {particles}")
    return particles


def choose_replicas(particles: int) -> int:
    """Enough for a standard error that can be trusted, fewer of large ones."""
    least, most = REPLICAS
    return max(least, min(most, SAMPLED // particles))


def choose_rank_tolerance(rank_tolerance: float | None, tolerance: float) -> float:
    """The rank tolerance asked for, or one that is invisible at the tolerance."""
    if rank_tolerance is None:
        return min(1e-5, 1e-2 * tolerance)
    return inputs.positive("rank_tolerance", rank_tolerance, zero=True)


def choose_plan(
    problem: Problem,
    depths: tuple[int, ...],
    particles: int | None,
    replicas: int | None,
    *,
    seed: int,
    tolerance: float = 1e-3,
    rank_tolerance: float | None = None,
    times: tuple[int, ...] = (),
    finer: tuple[int, int] = (1, 1),
    least_replicas: int = 2,
) -> Plan:
    """The plan asked for, completed by what suits the problem.

    Args:
        problem: What is trained.
        depths: Those of `Plan`.
        particles: n of each replica; None: chosen.
        replicas: Repetitions; None: chosen.
        seed: Of the noise.
        tolerance: Standard error that the rank tolerance is to be invisible at.
        rank_tolerance: None: chosen.
        times: Those of `Plan`.
        finer: How many times the usual particles and replicas to choose.
        least_replicas: Fewer are refused.
    """
    n = choose_particles(particles, problem) if particles is not None else finer[0] * choose_particles(None, problem)
    return Plan(
        particles=n,
        replicas=(
            finer[1] * choose_replicas(n) if replicas is None else inputs.count("replicas", replicas, least_replicas)
        ),
        depths=depths,
        times=times,
        rank_tolerance=choose_rank_tolerance(rank_tolerance, tolerance),
        seed=inputs.count("seed", seed, 0),
    )


def with_precision(dtype: str | None, tolerance: float, work: Callable[[str], T]) -> T:
    """`work` in the precision asked for, or in the fastest that is exact enough and can do it.

    Raises:
        InvalidValueError: The precision asked for is too coarse.
    """
    try:
        return work(choose_dtype(dtype, tolerance))
    except torch.linalg.LinAlgError as error:  # rounding made a Gram matrix indefinite
        if dtype is not None:
            raise InvalidValueError(f"`dtype` {dtype} is too coarse for this run: leave it out") from error
        return work("float64")
