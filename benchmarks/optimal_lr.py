"""The best learning rate at infinite size against that of tuned finite networks, and what each costs.

    python benchmarks/optimal_lr.py --data FOLDER --datasets mnist cifar10

Blocks of two layers behind RMSNorm, erf, mse on even against odd classes, full-batch SGD. The finite networks are plain
PyTorch in float32 with autograd, as a user would tune them: their losses at the last step, averaged over seeds, on a
walk in octaves from a rate that the limit has no part in, then on a grid of eighths of an octave about the best; the
optimum is the vertex of the parabola through the best and its neighbours. Its interval is that of the seeds' own.
Times are processor times of one thread.
"""

from __future__ import annotations

import math
import time
from dataclasses import dataclass

import numpy as np
import torch
import tyro
from torch import Tensor

from isoscale import data
from isoscale.limit import optimal_lr
from isoscale.stats.least_squares import t_quantile

_START = 2.0**-4


@dataclass(frozen=True, kw_only=True)
class Arguments:
    """What is compared."""

    datasets: tuple[str, ...] = ("digits",)
    """Data sets."""
    data: str | None = None
    """Their folder."""
    samples: int = 16
    """Training samples."""
    steps: int = 20
    """SGD steps."""
    width: int = 1024
    """Of the finite networks."""
    depth: int = 16
    """Their blocks."""
    seeds: int = 4
    """Networks at each rate."""


class Network(torch.nn.Module):
    """The residual network of docs/theory.md, section 9.1, under depth-mup."""

    def __init__(self, features: int, width: int, depth: int, seed: int) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(seed)

        def normal(*shape: int, scale: float = 1.0) -> torch.nn.Parameter:
            return torch.nn.Parameter(scale * torch.randn(*shape, generator=generator))

        self.inner = torch.nn.ParameterList(normal(width, width, scale=width**-0.5) for _ in range(depth))
        self.outer = torch.nn.ParameterList(normal(width, width, scale=width**-0.5) for _ in range(depth))
        self.inputs, self.readout = normal(features, width, scale=features**-0.5), normal(width)
        self.features, self.width, self.multiplier = features, width, depth**-0.5

    def forward(self, x: Tensor) -> Tensor:
        h = x @ self.inputs
        for first, second in zip(self.inner, self.outer, strict=True):
            z = h * (h.square().mean(1, keepdim=True) + 1e-12).rsqrt() @ first.T
            h = h + self.multiplier * torch.erf(math.sqrt(math.pi) / 2 * z) @ second.T
        return h @ self.readout / self.width

    def groups(self, lr: float) -> list[dict[str, object]]:
        """Parameters with the learning rates of docs/theory.md, section 9.1."""
        ends = {"params": [self.readout], "lr": lr * self.width}
        # Entries of U / sqrt(d), where U has the learning rate of the readout.
        first = {"params": [self.inputs], "lr": lr * self.width / self.features}
        return [{"params": [*self.inner, *self.outer], "lr": lr}, ends, first]


def final_loss(x: Tensor, y: Tensor, arguments: Arguments, lr: float, seed: int) -> float:
    """After the last step; inf if training diverges."""
    network = Network(x.shape[1], arguments.width, arguments.depth, seed)
    optimizer = torch.optim.SGD(network.groups(lr))
    for _ in range(arguments.steps):
        loss = (network(x) - y).square().mean() / 2
        if not loss.isfinite():
            return math.inf
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    with torch.no_grad():
        last = float((network(x) - y).square().mean() / 2)
    return last if math.isfinite(last) else math.inf


def vertex(octaves: np.ndarray, losses: np.ndarray) -> float:
    """Of the parabola through the least loss and its neighbours; the best itself at an end."""
    place = int(losses.argmin())
    if not 0 < place < len(losses) - 1 or not np.isfinite(losses[place - 1 : place + 2]).all():
        return float(octaves[place])
    left, here, right = losses[place - 1 : place + 2]
    return float(octaves[place] + (octaves[1] - octaves[0]) * (left - right) / (2 * (left - 2 * here + right)))


def tuned(x: Tensor, y: Tensor, arguments: Arguments) -> tuple[float, float, int]:
    """log2 of the best rate, half of its 95 % interval, and the networks trained."""
    losses: dict[float, np.ndarray] = {}

    def of(octave: float) -> float:
        if octave not in losses:
            runs = [final_loss(x, y, arguments, 2.0**octave, seed) for seed in range(arguments.seeds)]
            losses[octave] = np.array(runs)
        return float(losses[octave].mean())

    here = math.log2(_START)
    while of(here + 1) < of(here):
        here += 1
    while of(here - 1) < of(here):
        here -= 1
    grid = here + np.arange(-8, 9) / 8
    means = np.array([of(octave) for octave in grid])
    seeds = np.array([vertex(grid, np.array([losses[octave][i] for octave in grid])) for i in range(arguments.seeds)])
    half = t_quantile(arguments.seeds - 1) * float(seeds.std(ddof=1)) / math.sqrt(arguments.seeds)
    return vertex(grid, means), half, len(losses) * arguments.seeds


def main(arguments: Arguments) -> None:
    torch.set_num_threads(1)
    for name in arguments.datasets:
        found = data.load(name, arguments.data).flatten()
        x = found.train_x[: arguments.samples].double()
        x = x / x.square().mean(1, keepdim=True).sqrt()
        y = torch.where(found.train_y[: arguments.samples] % 2 == 0, 1.0, -1.0)
        begin = time.process_time()
        best = optimal_lr(x, y.double(), steps=arguments.steps, block_depth=2, norm="rms", phi="erf")
        of_limit = time.process_time() - begin
        begin = time.process_time()
        octave, half, networks = tuned(x.float(), y, arguments)
        of_networks = time.process_time() - begin
        apart = octave - math.log2(float(best.lr))
        low, high = float(best.lr_low), float(best.lr_high)
        print(f"{name}: infinite size {float(best.lr):.4g} [{low:.4g}, {high:.4g}] in {of_limit:.1f} s")
        print(
            f"    width {arguments.width}, depth {arguments.depth}: {2**octave:.4g}, {apart:+.3f} +- {half:.3f} octaves"
            f" away in {of_networks:.0f} s ({networks} networks), {of_networks / of_limit:.1f} times as long",
            flush=True,
        )


if __name__ == "__main__":
    main(tyro.cli(Arguments))
