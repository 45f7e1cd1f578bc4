"""What `isoscale.limit` costs: how it grows with the problem, and against explicit networks at the same error.

    python benchmarks/limit.py                  about twelve minutes on one core
    python benchmarks/limit.py --quick          about one minute
    python benchmarks/limit.py --only memory    one part: growth, depth16, depth32, solve, memory

The comparison: 4 samples, 10 steps, tanh, reused weights. Both sides estimate the loss curve of the infinitely wide
network of this depth; the cost of a given standard error is time x variance, with the variance at the worst step.
Explicit networks are plain PyTorch in float32, one after the other, as a user would run them. They also have a bias of
O(1/n): time x variance alone grows with n, so the ratio is only fair at an n whose bias the wanted error allows. So
the ratio is given at each n, and the cost of an error of 1e-3 to 1e-4 with the bias counted.
"""

from __future__ import annotations

import cProfile
import os
import pstats
import resource
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Literal

import torch
import tyro
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from isoscale import stats as laws
from isoscale.limit import inputs, solve
from isoscale.limit.network import Problem, Size, Workspace, run
from isoscale.limit.noise import GaussianNoise, QuasiNoise
from isoscale.limit.particles import PER_REPLICA

SAMPLES, STEPS, LR = 4, 10, 0.3
HALVES = 2 * 1.2
"""What running a replica's halves too costs, and what it does to the variance (`isoscale.limit.particles`)."""


def task(samples: int = SAMPLES, steps: int = STEPS, dtype: str = "float32", lr: float = LR) -> Problem:
    x = torch.randn(samples, 8, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    y = torch.tensor([1.0, -1.0] * samples)[:samples]
    return inputs.problem(
        x, y, steps=steps, lr=lr, phi="tanh", horizon=1.0, loss="mse", train_ends=True, batches=None, dtype=dtype
    )


def seconds(work: Callable[[], object], repeats: int = 3) -> float:
    """Processor time of the shortest of a few runs: the machine may be shared."""
    times = []
    for _ in range(repeats):
        begin = time.process_time()
        work()
        times.append(time.process_time() - begin)
    return min(times)


def explicit_losses(problem: Problem, n: int, depth: int, seed: int) -> Tensor:
    """Loss curve of a plain network by the formulas of docs/theory.md, section 1: no autograd, updates in place."""
    generator = torch.Generator().manual_seed(seed)
    root = torch.linalg.cholesky(problem.gram.double() + 1e-12 * torch.eye(SAMPLES)).float()
    h0 = root @ torch.randn(SAMPLES, n, generator=generator)
    v = torch.randn(n, generator=generator)
    weights = [torch.randn(n, n, generator=generator) / n**0.5 for _ in range(depth)]
    s = (problem.horizon / depth) ** 0.5
    losses = []
    for k in range(problem.steps + 1):
        stream, features = [h0], []
        for w in weights:
            features.append(stream[-1].tanh())
            stream.append(torch.addmm(stream[-1], features[-1], w.T, alpha=s))
        error = stream[-1] @ v / n - problem.y[:, 0]
        losses.append(error.square().mean() / 2)
        if k == problem.steps:
            break
        step = float(problem.optimizer.rates[k]) * error / SAMPLES
        g = v.expand(SAMPLES, n)
        for a, w in zip(reversed(features), reversed(weights), strict=True):
            back = (1 - a.square()) * (g @ w)
            w.addmm_((step[:, None] * g).T, a, alpha=-s / n)
            g = g + s * back
        h0 = h0 - problem.gram @ (step[:, None] * g)
        v = v - step @ stream[-1]
    return torch.stack(losses)


def growth(quick: bool) -> None:
    """Fitted exponents of the time in width, depth and steps x samples, where products with the bases dominate.

    In float64, as float32 cannot tell so many directions apart: rounding ends the growth of the bases.
    """
    base, steps = {"n": 8192, "depth": 2}, 10 if quick else 20
    products = [p * steps // 20 for p in (320, 640, 1280)]
    sixteen = {k: task(16, k, "float64", lr=0.1) for k in {steps, *(p // 16 for p in products)}}
    axes = {
        "width": ([4096, 8192, 16384], lambda v: (sixteen[steps], Size(**base | {"n": v}, tolerance=0.0))),
        "depth": ([2, 4, 8], lambda v: (sixteen[steps], Size(**base | {"depth": v}, tolerance=0.0))),
        "steps x samples": (products, lambda v: (sixteen[v // 16], Size(**base, tolerance=0.0))),
    }
    print("cost of one run: exponents of time (float64, no rank truncation)")
    for name, (values, make) in axes.items():
        times, ranks = [], []
        for value in values:
            begin = time.process_time()
            ranks.append(run(*make(value), GaussianNoise(0)).rank)
            times.append(time.process_time() - begin)
        law = laws.fit_power_law(values, times)
        shown = ", ".join(f"{v}: {t:.2f} s (rank {r})" for v, t, r in zip(values, times, ranks, strict=True))
        print(f"  {name:16s} {law.exponent:5.2f}  [{law.exponent_low:.2f}, {law.exponent_high:.2f}]   {shown}")


def peak(dtype: str) -> float:
    """Flops a second of a large matrix product."""
    a = torch.randn(2048, 2048, dtype=inputs.DTYPES[dtype])
    return 2 * 2048**3 / seconds(lambda: a @ a)


KERNELS = {
    "noise": ("noise.py:rows",),
    "activation and derivative": ("<built-in method torch.tanh>", "activations.py:_tanh_derivative"),
    "Gram-Schmidt": ("gaussian.py:_split", "gaussian.py:_polish"),
    "principal directions (eigh)": ("gaussian.py:_directions",),
    "moment matching (projection)": ("gaussian.py:match_moments",),
    "products with the bases": ("gaussian.py:_image",),
    "update": ("gaussian.py:update",),
}
"""Functions whose time, with all that they call, is a kernel's."""


def particles_run(problem: Problem, depth: int, n: int, replicas: int, seed: int, workspace: Workspace) -> Tensor:
    """Losses (replica, step) of matched particles, as `solve` runs them."""
    size = Size(n=n, depth=depth, replicas=replicas, matched=True, tolerance=1e-5)
    noise = QuasiNoise(seed, layers=depth, gram=problem.gram)
    return run(problem, size, noise, workspace=workspace).loss.double()


def kernels(depth: int, n: int = 1024, replicas: int = 16) -> None:
    """Seconds of each kernel, and the share of the matrix-product peak, in float32."""
    problem, workspace = task(), Workspace()
    work = partial(particles_run, problem, depth, n, replicas, 0, workspace)
    took = seconds(work)
    with FlopCounterMode(display=False) as counter:
        work()
    profile = cProfile.Profile(time.process_time)
    profile.runcall(work)
    rows = [(_label(*key), value[3]) for key, value in pstats.Stats(profile).stats.items()]  # pyrefly: ignore[missing-attribute]  typeshed leaves it out
    whole = next(time for label, time in rows if label == "limit.py:particles_run")
    print(f"kernels: {replicas} x {n} particles, float32, {took:.2f} s")
    rest = 1.0
    for name, functions in KERNELS.items():
        share = sum(time for label, time in rows if label in functions) / whole
        rest -= share
        print(f"  {name:30s} {share * took:6.3f} s  {share:5.1%}")
    print(f"  {'the rest (elementwise, small)':30s} {rest * took:6.3f} s  {rest:5.1%}")
    flops = counter.get_total_flops()
    print(f"  matrix products: {flops / 1e9:.1f} Gflop, {flops / took / peak('float32'):.1%} of the peak")


def _label(file: str, line: int, name: str) -> str:
    return name if file == "~" else f"{os.path.basename(file)}:{name}"


def worst_variance(losses: Tensor) -> tuple[float, Tensor]:
    """The variance at the worst step; and what it is in bootstrap samples of the runs at that step."""
    worst = losses[:, losses.var(0).argmax()]
    draws = torch.randint(len(worst), (1000, len(worst)), generator=torch.Generator().manual_seed(0))
    return worst.var().item(), worst[draws].var(1)


@dataclass(frozen=True, eq=False)
class Side:
    """One size of one side of the comparison."""

    n: int
    seconds: float  # a run
    losses: Tensor  # (run, step)

    def product(self) -> tuple[float, Tensor]:
        """Time x variance, and its bootstrap."""
        variance, draws = worst_variance(self.losses)
        return self.seconds * variance, self.seconds * draws

    def show(self, name: str, note: str = "") -> None:
        variance, _ = worst_variance(self.losses)
        print(
            f"  {name:9s} {self.n:5d}  {1e3 * self.seconds:8.1f} ms   variance {variance:.2e} ({len(self.losses)} runs)"
            f"   product {self.product()[0]:.2e} s{note}",
            flush=True,
        )


def measured_particles(depth: int, n: int, replicas: int, groups: int, dtype: str) -> Side:
    problem, workspace, losses, times = task(dtype=dtype), Workspace(), [], []
    for seed in range(groups):
        begin = time.process_time()
        losses.append(particles_run(problem, depth, n, replicas, seed, workspace))
        times.append((time.process_time() - begin) / replicas)
    return Side(n, min(times), torch.cat(losses))


def measured_explicit(depth: int, n: int, runs: int) -> Side:
    losses, times = [], []
    for seed in range(runs):
        begin = time.process_time()
        losses.append(explicit_losses(task(), n, depth, seed).double())
        times.append(time.process_time() - begin)
    return Side(n, min(times), torch.stack(losses))


def comparison(depth: int, quick: bool) -> None:
    """Time x variance on both sides, their ratio, and the cost of a given error when the networks' bias counts."""
    print(f"depth {depth}: time x variance of the loss curve at its worst step")
    kernels(depth)
    sizes = {(1024, "float64"): (16, 2), (256, "float32"): (64, 4), (1024, "float32"): (32, 6)}
    sizes |= {} if quick else {(4096, "float32"): (8, 8)}
    ours = []
    for (n, dtype), (replicas, groups) in sizes.items():
        ours.append(measured_particles(depth, n, replicas, groups, dtype))
        ours[-1].show("particles", f"   {dtype}")
    best = min(ours, key=lambda side: side.product()[0])
    runs = {128: 1000, 256: 150, 512: 60, 1024: 30} | ({} if quick else {2048: 12, 4096: 12})
    theirs = []
    for n, count in runs.items():
        theirs.append(measured_explicit(depth, n, count))
        theirs[-1].show("explicit", f"   ratio {_ratio(theirs[-1], best)}")
    _at_given_error(ours, theirs)


def _ratio(side: Side, best: Side) -> str:
    """With a 95 % interval over both sides' runs."""
    (product, draws), (least, least_draws) = side.product(), best.product()
    low, high = torch.quantile(draws / least_draws, torch.tensor([0.025, 0.975], dtype=torch.float64)).tolist()
    return f"{product / least:.0f} x [{low:.0f}, {high:.0f}]"


def _at_given_error(ours: list[Side], theirs: list[Side]) -> None:
    """Cost of a root-mean-square error e with the bias counted, each side at the cheapest of its sizes.

    Networks: time x variance / (e^2 - bias^2), the bias of width n being b / n with b from the smallest width, whose
    mean is known best. Particles: time x variance / e^2, and what `solve` adds where its bias would show: the halves.
    """
    smallest, finest = theirs[0], ours[-1]
    step = smallest.losses.var(0).argmax()
    bias = (smallest.losses[:, step].mean() - finest.losses[:, step].mean()).item() * smallest.n
    error = (smallest.losses[:, step].std() / len(smallest.losses) ** 0.5).item() * smallest.n
    print(f"  bias of width n at the worst step: ({bias:.2f} +- {error:.2f}) / n")
    for wanted in (1e-3, 3e-4, 1e-4):
        able = [(side, wanted**2 - (bias / side.n) ** 2) for side in theirs]
        costs = [(side.product()[0] / left, side.n) for side, left in able if left > 0]
        cheapest = min(_particle_cost(side, wanted) for side in ours)
        if costs:
            cost, n = min(costs)
            compared = f"explicit {cost:8.0f} s at width {n}: {cost / cheapest:.0f} x"
        else:
            compared = f"no width up to {theirs[-1].n} is near enough to the limit"
        print(f"  error {wanted:.0e}: particles {cheapest:6.2f} s, {compared}")


def _particle_cost(side: Side, wanted: float) -> float:
    replicas = max(2.0, worst_variance(side.losses)[0] / wanted**2)  # one has no standard error
    halves = HALVES if side.n < PER_REPLICA * replicas else 1.0
    return halves * replicas * side.seconds


def solving() -> None:
    """Seconds of `solve` to infinite depth at its default tolerance."""
    print("solve to infinite depth, tolerance 1e-3")
    for samples, steps in ((4, 5), (4, 10), (16, 10)):
        x = torch.randn(samples, 8, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
        y = torch.tensor([1.0, -1.0] * samples)[:samples]
        for mode in ("reused", "independent"):
            begin = time.process_time()
            attrs = solve(x, y, steps, backward_weights=mode, kernels=(0.0, 0.5, 1.0)).attrs
            print(
                f"  {samples:2d} samples {steps:2d} steps {mode:11s} {time.process_time() - begin:6.1f} s"
                f"   {attrs['replicas']} x {attrs['particles']} particles, error {attrs['error']:.1e}"
            )


def memory() -> None:
    """Time and peak memory of 16 samples, 30 steps, depth 64, 4096 particles."""
    problem = task(16, 30, lr=0.1)
    size = Size(n=4096, depth=64, matched=True, tolerance=0.0)
    begin = time.process_time()
    rank = run(problem, size, GaussianNoise(0, like=problem.gram)).rank
    took, peak_kib = time.process_time() - begin, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    print(f"16 samples, 30 steps, depth 64, 4096 particles: {took:.0f} s, rank {rank}, peak {peak_kib / 2**20:.1f} GiB")


PARTS: dict[str, Callable[[bool], None]] = {
    "growth": growth,
    "depth16": lambda quick: comparison(16, quick),
    "depth32": lambda quick: comparison(32, quick),
    "solve": lambda quick: solving(),
    "memory": lambda quick: memory(),
}
QUICK = ("growth", "depth16")


@dataclass(frozen=True)
class Benchmark:
    """What to time."""

    quick: bool = False
    """Fewer repetitions, sizes and parts."""
    only: Literal["growth", "depth16", "depth32", "solve", "memory"] | None = None
    """One part."""


def main() -> None:
    options = tyro.cli(Benchmark)
    torch.set_num_threads(1)
    print(f"torch {torch.__version__}, one thread of {os.cpu_count()}; load {os.getloadavg()[0]:.1f}")
    for name in [options.only] if options.only else QUICK if options.quick else PARTS:
        PARTS[name](options.quick)


if __name__ == "__main__":
    main()
