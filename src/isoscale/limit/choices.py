"""Settings that are chosen for the user: depths, precision, particles, replicas, rank tolerance, and their plan."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Sequence
from typing import TypeVar

import torch

from isoscale.checks import whole
from isoscale.errors import InvalidValueError
from isoscale.limit import inputs
from isoscale.limit.network import Problem
from isoscale.limit.particles import PER_REPLICA, PER_REPLICA_DEEP, Plan, least_particles

T = TypeVar("T")

FEWEST_REPLICAS = 8
MOST_REPLICAS = 32
PARTICLES_TOGETHER = 4096
"""Replicas run by default: between the fewest and the most, so many that they have this many particles together.
Variance falls as 1 / (particles x replicas) whichever grows, bias and time a particle are lowest with few replicas of
many particles."""

TRIAL = 512
"""Particles that `solve` starts with: the fewest whose bias does not show beside 8 replicas' standard error, and at the
default tolerance often enough. If not, the trial has shown how many are."""

COARSEST_RANK_TOLERANCE = 1e-5
"""Rank tolerance at tolerances of 1e-3 and coarser."""

MUON_RANK_TOLERANCE = 1e-7
"""Rank tolerance under Muon, which lifts small singular values of the gradients to those of the rest."""

FLOAT32_TOLERANCE = 1e-4
"""The finest tolerance for which float32 is enough: it moves losses by about 5e-6 for inputs of |x|^2 = features, and
by more in proportion to |x|^2."""

DEPTHS = (8, 16, 32)
"""Depths that are extrapolated, at horizon <= 1; longer horizons take finer layers."""


def depth_sequence(name: str, depths: Sequence[int], least: int, *, ordered: bool = False) -> tuple[int, ...]:
    """Depths that can share noise: increasing, each a divisor of the next.

    Args:
        name: Argument that an error names.
        depths: Numbers of blocks.
        least: Fewer of them are refused.
        ordered: Whether they must come in increasing order; else they are sorted, and repetitions dropped.
    """
    levels = [whole(name, depth) for depth in depths]
    if not ordered:
        levels = sorted(set(levels))
    nested = True
    for coarse, fine in itertools.pairwise(levels):
        if fine <= coarse or fine % coarse:
            nested = False
    if len(levels) < least or not nested:
        number = {1: "one", 2: "two", 3: "three"}[least]
        raise InvalidValueError(
            f"`{name}` must hold {number} or more depths, each dividing the next, got {list(depths)}"
        )
    return tuple(levels)


def choose_depths(depth: int | None, ladder: Sequence[int] | None, horizon: float) -> tuple[int, ...]:
    """The depths to run: the one requested, or the sequence that is extrapolated to infinity."""
    if depth is not None:
        if ladder is not None:
            raise InvalidValueError("`ladder` is the way to infinite depth: leave out `depth`, or `ladder`")
        return (whole("depth", depth),)
    if ladder is not None:
        return depth_sequence("ladder", ladder, 2, ordered=True)
    # The series in 1/L is one in T/L: refine by the power of two that makes up for the horizon.
    doublings = math.ceil(math.log2(max(1.0, horizon)))
    return tuple(2**doublings * level for level in DEPTHS)


def choose_particles(particles: int | None, problem: Problem) -> int:
    """The particles requested, or enough for a first trial and for the bases of the whole run with room to spare."""
    least = least_particles(problem)
    if particles is None:
        return max(TRIAL, 64 * math.ceil(1.5 * least / 64))
    n = whole("particles", particles)
    if n < least:
        raise InvalidValueError(
            f"`particles` must be >= {least} for {problem.samples} samples and {problem.steps} steps, got {n}"
        )
    if n % 2:
        raise InvalidValueError(f"`particles` must be even, as each replica also runs in two halves, got {n}")
    return n


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
    more_particles: int = 1,
    more_replicas: int = 1,
    least_replicas: int = 2,
) -> Plan:
    """The plan requested, completed by what suits the problem.

    Args:
        problem: Network and training.
        depths: Those of `Plan`.
        particles: n of each replica; None: chosen.
        replicas: Repetitions; None: chosen.
        seed: Of the noise.
        tolerance: Standard error that the rank tolerance is to be invisible at.
        rank_tolerance: None: chosen.
        times: Those of `Plan`.
        more_particles: How many times the usual particles to choose.
        more_replicas: How many times the usual replicas to choose.
        least_replicas: Fewer are refused.
    """
    n = choose_particles(particles, problem)
    if particles is None:
        n *= more_particles
    if replicas is None:
        # Enough for a standard error that can be trusted, fewer of large ones.
        usual = max(FEWEST_REPLICAS, min(MOST_REPLICAS, PARTICLES_TOGETHER // n))
        replicas = more_replicas * usual
    if rank_tolerance is None:
        # Invisible at the tolerance: directions that are dropped lose their noise and keep their mean.
        rank_tolerance = min(COARSEST_RANK_TOLERANCE, 1e-2 * tolerance)
        if problem.optimizer.name == "muon":
            rank_tolerance = min(rank_tolerance, MUON_RANK_TOLERANCE)
    return Plan(
        particles=n,
        replicas=whole("replicas", replicas, least=least_replicas),
        depths=depths,
        times=times,
        rank_tolerance=inputs.positive("rank_tolerance", rank_tolerance, zero=True),
        seed=whole("seed", seed, least=0),
        per_replica=PER_REPLICA if problem.architecture.layers == 1 else PER_REPLICA_DEEP,
    )


def with_precision(dtype: str | None, tolerance: float, work: Callable[[str], T], square: float = 1.0) -> T:
    """`work` in the precision requested, or in the fastest that is exact enough and can do it.

    Args:
        dtype: The precision requested; None: chosen.
        tolerance: Error of the losses that is to be seen.
        work: What is done in a precision.
        square: The largest |x|^2 / features of the inputs.

    Raises:
        InvalidValueError: The precision requested is too coarse.
    """
    chosen = dtype
    if chosen is None:
        is_coarse = tolerance >= FLOAT32_TOLERANCE * max(1.0, square)
        chosen = "float32" if is_coarse else "float64"
    try:
        return work(chosen)
    except torch.linalg.LinAlgError as error:  # rounding made a Gram matrix indefinite
        if dtype is not None:
            raise InvalidValueError(f"`dtype` {dtype} is too coarse for this run: leave it out") from error
        return work("float64")
