"""Replicas of the moment-matched particle system at one or several depths, with common noise.

n particles have a bias of O(1/n). A replica that runs three times, with its n particles and with each half of them, is
free of it: 2 M(n) - (M(n/2) + M'(n/2)) / 2, whose variance is 1.0 to 1.2 times that of M(n), as the halves share the
whole's noise (*checked*). That doubles the cost, and pays only where many replicas bring the standard error down to
the bias: their ratio is about sqrt(replicas / particles) (*checked*: tanh, 4 samples, 10 steps).
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

import numpy as np

from isoscale.limit import results
from isoscale.limit.network import History, Problem, Size, Workspace, run
from isoscale.limit.noise import HalvedNoise, QuasiNoise
from isoscale.limit.results import Arrays

TOGETHER = 16384
"""Particles advanced at once, over all replicas of a group: enough to hide call overhead."""

PER_REPLICA = 64
"""Particles a replica, for each replica, from which on the bias is below a fifth of the standard error."""

Progress = Callable[[float], None] | None


@dataclasses.dataclass(frozen=True, kw_only=True)
class Plan:
    """How to sample the n = infinity law: equal plans with equal seeds share their noise, whatever the mode."""

    particles: int
    replicas: int
    depths: tuple[int, ...]  # increasing, each a divisor of the last
    times: tuple[int, ...]  # layers of the coarsest depth at which kernels are recorded
    rank_tolerance: float
    seed: int

    @property
    def unbiased(self) -> bool:
        """Whether the bias would show, so that the halves are to run too."""
        return self.particles < PER_REPLICA * self.replicas

    @property
    def group(self) -> int:
        """Replicas advanced together."""
        return max(1, min(self.replicas, TOGETHER // self.particles))

    def size(self, depth: int, replicas: int, *, reused: bool, parts: int = 1) -> Size:
        """Of a run at one depth, with whole replicas or with parts of them."""
        return Size(
            n=self.particles // parts,
            depth=depth,
            replicas=replicas * parts,
            reused=reused,
            matched=True,
            tolerance=self.rank_tolerance,
            kernel_layers=tuple(t * depth // self.depths[0] for t in self.times),
        )

    def flops(self, problem: Problem) -> float:
        """About what it costs (THEORY section 3)."""
        rank = problem.samples * (problem.steps + 1)
        return (28.0 if self.unbiased else 14.0) * self.replicas * self.particles * rank**2 * sum(self.depths)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Sample:
    """What the replicas recorded: at each depth, arrays with replicas first."""

    values: tuple[Arrays, ...]
    rank: int
    diverged: int | None


def least_particles(problem: Problem) -> int:
    """Below this, half of them cannot hold noise orthogonal to all that it is uncorrelated with in the limit."""
    rank = problem.samples * (problem.steps + 1)
    return 2 * (rank + (4 + problem.outputs) * problem.samples + problem.outputs)


def sample(problem: Problem, plan: Plan, *, reused: bool, progress: Progress = None) -> Sample:
    """Run all replicas at all depths."""
    done, total = 0.0, float(plan.replicas * sum(plan.depths))
    runs: list[list[Arrays]] = [[] for _ in plan.depths]
    rank, diverged, workspace = 0, [], Workspace()
    for first in range(0, plan.replicas, plan.group):
        replicas = min(plan.group, plan.replicas - first)
        for i, depth in enumerate(plan.depths):
            share = _share(progress, done / total, replicas * depth / total)
            values, histories = _replicas(problem, plan, (first, replicas), depth, reused, share, workspace)
            runs[i].append(values)
            rank = max(rank, *(history.rank for history in histories))
            diverged += [history.diverged for history in histories if history.diverged is not None]
            done += replicas * depth
    values = tuple({name: np.concatenate([r[name] for r in group]) for name in group[0]} for group in runs)
    return Sample(values=values, rank=rank, diverged=min(diverged, default=None))


def _replicas(
    problem: Problem,
    plan: Plan,
    group: tuple[int, int],
    depth: int,
    reused: bool,
    progress: Progress,
    workspace: Workspace,
) -> tuple[Arrays, tuple[History, ...]]:
    """A group (its first replica, its size) at one depth, free of the bias of order 1/n if the plan says so."""
    first, replicas = group

    def noise() -> QuasiNoise:
        finest = plan.depths[-1]
        return QuasiNoise(plan.seed, first, layers=finest, gram=problem.gram, refinement=finest // depth)

    whole = run(problem, plan.size(depth, replicas, reused=reused), noise(), progress, workspace)
    values = results.arrays(whole, problem)
    if not plan.unbiased:
        return values, (whole,)
    halves = run(problem, plan.size(depth, replicas, reused=reused, parts=2), HalvedNoise(noise()), None, workspace)
    pairs = {name: v.reshape(replicas, 2, *v.shape[1:]).mean(1) for name, v in results.arrays(halves, problem).items()}
    return {name: 2 * v - pairs[name] for name, v in values.items()}, (whole, halves)


def mean_and_error(values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The mean over replicas (first axis) and its standard error."""
    return values.mean(0), values.std(0, ddof=1) / np.sqrt(len(values))


def _share(progress: Progress, before: float, share: float) -> Progress:
    return None if progress is None else lambda fraction: progress(before + share * fraction)
