"""What `isoscale.limit` costs: how it grows with the problem, and against explicit networks at the same error.

    python benchmarks/limit.py                  about six minutes on one core
    python benchmarks/limit.py --quick          about one minute
    python benchmarks/limit.py --only memory    one part: growth, depth16, depth32, solve, memory

The comparison: 4 samples, 10 steps, tanh, reused weights. Both sides estimate the loss curve of the infinitely wide
network of this depth; the cost of a given standard error is time x variance, with the variance at the worst step.
Explicit networks are plain PyTorch in float32, one after the other, as a user would run them; their bias of O(1/n)
is a reason to take n large, and is left out of the comparison in their favour.
"""

from __future__ import annotations

import os
import resource
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import torch
import tyro
from torch import Tensor

from isoscale import laws
from isoscale.limit import inputs, solve
from isoscale.limit.network import Problem, Size, run
from isoscale.limit.noise import GaussianNoise

SAMPLES, STEPS, LR = 4, 10, 0.3


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
    """Loss curve of a plain network by the formulas of THEORY section 1: no autograd, updates in place."""
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
        step = problem.lr * error / SAMPLES
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


def particle_cost(problem: Problem, depth: int, n: int, replicas: int, dtype: str) -> tuple[float, float]:
    """Seconds a replica, and the share of the peak of matrix products that its products with the bases reach."""
    size = Size(n=n, depth=depth, replicas=replicas, matched=True, tolerance=1e-5)
    took = seconds(lambda: run(problem, size, GaussianNoise(0, like=problem.gram))) / replicas
    rank = sum(SAMPLES * (k + 0.5) for k in range(STEPS)) + SAMPLES * STEPS / 2
    flops = 2 * 8 * SAMPLES * n * rank * 2 * depth  # eight products with the basis, forward and backward
    return took, flops / took / peak(dtype)


def variance_times_n(problem: Problem, depth: int, n: int = 256, replicas: int = 128) -> float:
    """n x variance of one replica's loss at the worst step: the same for every n."""
    size = Size(n=n, depth=depth, replicas=replicas, matched=True, tolerance=1e-5)
    return n * run(problem, size, GaussianNoise(1, like=problem.gram)).loss.double().var(0).max().item()


def peak(dtype: str) -> float:
    """Flops a second of a large matrix product."""
    a = torch.randn(2048, 2048, dtype=inputs.DTYPES[dtype])
    return 2 * 2048**3 / seconds(lambda: a @ a)


def comparison(depth: int, quick: bool) -> None:
    print(f"depth {depth}: time x variance of the loss curve")
    best = float("inf")
    per_particle = variance_times_n(task(), depth)
    for dtype in ("float64", "float32"):
        problem = task(dtype=dtype)
        for n, replicas in ((256, 32), (1024, 8), (4096, 2), (8192, 1)):
            took, share = particle_cost(problem, depth, n, replicas, dtype)
            product = took * per_particle / n
            best = min(best, product)
            print(
                f"  particles {n:5d} {dtype}  {1e3 * took:8.1f} ms   variance {per_particle / n:.2e}"
                f"   product {product:.2e} s   {share:.1%} of peak"
            )
    for n in (256, 512, 1024) if quick else (256, 512, 1024, 2048, 4096):
        runs = {256: 96, 512: 48, 1024: 24}.get(n, 0)
        took = seconds(lambda n=n: explicit_losses(task(), n, depth, 0), 2)
        if runs:
            curves = torch.stack([explicit_losses(task(), n, depth, s) for s in range(runs)]).double()
            scaled = n * curves.var(0).max().item()
        variance = scaled / n  # beyond 1024, the 1/n law carries on
        note = "" if runs else " (variance by its 1/n law)"
        print(
            f"  explicit  {n:5d} float32  {1e3 * took:8.1f} ms   variance {variance:.2e}"
            f"   product {took * variance:.2e} s   ratio {took * variance / best:7.0f} x{note}"
        )


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
