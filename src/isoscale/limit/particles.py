"""Replicas of the moment-matched particle system at one or several depths, with common noise.

n particles have a bias of O(1/n). A replica that runs three times, with its n particles and with each half of them, is
free of it: 2 M(n) - (M(n/2) + M'(n/2)) / 2, whose variance is 1.0 to 1.2 times that of M(n), as the halves share the
whole's noise (*checked*). That doubles the cost, and pays only where many replicas bring the standard error down to
the bias: their ratio is about sqrt(replicas / particles) (*checked*: tanh, 4 samples, 10 steps).
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator

from isoscale.checks import check_memory
from isoscale.errors import InvalidValueError
from isoscale.limit import results
from isoscale.limit.memory import lazy_bytes, record_bytes
from isoscale.limit.network import History, Problem, Size, Workspace, run
from isoscale.limit.noise import HalvedNoise, QuasiNoise
from isoscale.limit.progress import Progress, portion
from isoscale.limit.results import Arrays

TOGETHER = 16384
"""Particles (or units of finite networks) advanced at once, over all replicas of a group: enough to hide call
overhead."""

PER_REPLICA = 64
"""Particles a replica, for each replica, from which on the bias is below a fifth of the standard error."""

PER_REPLICA_DEEP = 256
"""The same for blocks of two layers and more, whose bias is larger (*checked*: two layers, 512 particles, erf and tanh:
2.3e-4 +- 0.3e-4 of the loss, beside 6e-4 of standard error of eight replicas)."""


MOST_FLOPS_EVER = 1e18
"""Cost of a run beyond which it is a slip: years of one core."""


def group_size(replicas: int, n: int) -> int:
    """Replicas of n particles that are advanced together."""
    return max(1, min(replicas, TOGETHER // n))


def groups(replicas: int, n: int) -> Iterator[tuple[int, int]]:
    """The groups of replicas that are advanced together: first replica and size of each."""
    size = group_size(replicas, n)
    for first in range(0, replicas, size):
        yield first, min(size, replicas - first)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Plan:
    """Sampling of the n = infinity law: equal plans with equal seeds share their noise, whatever the mode."""

    particles: int
    replicas: int
    # increasing, each a divisor of the last
    depths: tuple[int, ...]
    # layers of the coarsest depth at which kernels are recorded
    times: tuple[int, ...]
    rank_tolerance: float
    seed: int
    # particles for each replica from which on the bias does not show
    per_replica: int = PER_REPLICA

    @property
    def unbiased(self) -> bool:
        """Whether the bias would show, so that the halves are to run too."""
        return self.particles < self.per_replica * self.replicas

    def size(self, depth: int, replicas: int, *, reused: bool, parts: int = 1) -> Size:
        """Of a run at one depth, with whole replicas or with parts of them."""
        finer = depth // self.depths[0]
        return Size(
            n=self.particles // parts,
            depth=depth,
            replicas=replicas * parts,
            reused=reused,
            matched=True,
            tolerance=self.rank_tolerance,
            kernel_layers=tuple(finer * layer for layer in self.times),
        )

    def flops(self, problem: Problem) -> float:
        """About what it costs (docs/theory.md, section 3): 14 n rank^2 flops a layer, twice with the halves."""
        rank = problem.samples * (problem.steps + 1)
        factor = 28.0 if self.unbiased else 14.0
        a_particle = factor * rank**2
        if problem.optimizer.moments:
            # forward, backward and the gradient of an explicit matrix, in all steps: 6 n^2 flops a query
            a_particle += factor / 14 * 6 * self.particles * rank
        return problem.architecture.layers * self.replicas * self.particles * a_particle * sum(self.depths)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Sample:
    """Record of the replicas: at each depth, arrays with replicas first."""

    values: tuple[Arrays, ...]
    rank: int
    diverged: int | None


def least_particles(problem: Problem) -> int:
    """Below this, half of them cannot hold noise orthogonal to all that it is uncorrelated with in the limit."""
    basis = problem.samples * (problem.steps + 1)
    # beside the other direction's basis: the noise itself, h or phi' g, and v; with room to spare
    others = (4 + problem.outputs) * problem.samples + problem.outputs
    return 2 * (basis + others)


def sample(problem: Problem, plan: Plan, *, reused: bool, progress: Progress = None) -> Sample:
    """Run all replicas at all depths.

    Raises:
        InvalidValueError: It needs more memory than there is, or years.
    """
    together = group_size(plan.replicas, plan.particles)
    largest = plan.size(plan.depths[-1], together, reused=reused)
    check_memory(
        lazy_bytes(problem, largest),
        "Use fewer `particles`, a smaller depth, fewer steps, or dtype='float32'.",
    )
    # Once in parts, and once put together.
    runs = 2 * plan.replicas * len(plan.depths)
    check_memory(record_bytes(problem, len(plan.times), runs), "Use fewer `replicas`, or record fewer `kernels`.")
    if plan.flops(problem) > MOST_FLOPS_EVER:
        raise InvalidValueError(
            f"this run takes about {plan.flops(problem):.0e} operations, years of a core: use fewer `replicas`, fewer "
            "`particles`, a smaller depth or fewer steps"
        )
    # work is counted in replicas x layers
    total = plan.replicas * sum(plan.depths)
    done = 0
    parts: list[list[Arrays]] = [[] for _ in plan.depths]
    ranks: list[int] = []
    diverged: list[int] = []
    workspace = Workspace()
    for group in groups(plan.replicas, plan.particles):
        _, replicas = group
        for level, depth in enumerate(plan.depths):
            work = replicas * depth
            part = portion(progress, done, work, total)
            values, histories = _group(problem, plan, group, depth, reused, part, workspace)
            parts[level].append(values)
            for history in histories:
                ranks.append(history.rank)
                if history.diverged is not None:
                    diverged.append(history.diverged)
            done += work
    return Sample(
        values=tuple(results.concatenate(of_level) for of_level in parts),
        rank=max(ranks),
        diverged=min(diverged, default=None),
    )


def _group(
    problem: Problem,
    plan: Plan,
    group: tuple[int, int],
    depth: int,
    reused: bool,
    progress: Progress,
    workspace: Workspace,
) -> tuple[Arrays, list[History]]:
    """A group (its first replica, its size) at one depth, free of the bias of order 1/n if the plan says so."""
    first, replicas = group

    def noise() -> QuasiNoise:
        finest = plan.depths[-1]
        return QuasiNoise(
            plan.seed,
            first,
            layers=finest,
            gram=problem.gram,
            refinement=finest // depth,
        )

    size = plan.size(depth, replicas, reused=reused)
    whole = run(problem, size, noise(), progress, workspace)
    values = results.arrays(whole, problem)
    if not plan.unbiased:
        return values, [whole]
    half_size = plan.size(depth, replicas, reused=reused, parts=2)
    halves = run(problem, half_size, HalvedNoise(noise()), None, workspace)
    # 2 M(n) - (M(n/2) + M'(n/2)) / 2
    unbiased = {}
    for name, of_halves in results.arrays(halves, problem).items():
        pairs = of_halves.reshape(replicas, 2, *of_halves.shape[1:])
        unbiased[name] = 2 * values[name] - pairs.mean(1)
    return unbiased, [whole, halves]
