"""What the maximal-update learning rate costs, in training steps (forward, backward, SGD) of the same network.

Both run in this process on one thread, in turn, so that a busy machine slows both; the ratio is the median over
repetitions. It holds one gradient (a training step but for the update) and one forward-mode pass, which is dearer than
a forward pass: each map multiplies the activations by two matrices and their changes by one.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
import tyro
from rich.console import Console
from rich.table import Table
from torch import Tensor, nn

from isoscale.measure import max_update_lr
from isoscale.models import ResidualMLP

TARGET = 5.0


@dataclass(frozen=True)
class Benchmark:
    """What to time."""

    repetitions: int = 15
    batch_size: int = 64
    quick: bool = False
    """Small networks and few repetitions."""


def convolutions(depth: int, channels: int) -> nn.Module:
    """The paper's plain CNN: circular 3x3 convolutions and ReLUs, pooling, readout."""
    layers: list[nn.Module] = []
    for index in range(depth):
        inputs = channels if index else 3
        layers += [
            nn.Conv2d(inputs, channels, 3, padding=1, padding_mode="circular", bias=False),
            nn.ReLU(inplace=True),
        ]
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(channels, 10))


def cases(options: Benchmark) -> dict[str, tuple[nn.Module, Tensor]]:
    n = options.batch_size
    generator = torch.Generator().manual_seed(0)
    pixels, images, tokens = (torch.randn(n, *s, generator=generator) for s in ((64,), (3, 16, 16), (16, 64)))
    found: dict[str, tuple[nn.Module, Tensor]] = {
        f"residual-mlp, width {width}, depth {depth}": (ResidualMLP(64, 10, width, depth), pixels)
        for width, depth in (((64, 4), (64, 16)) if options.quick else ((64, 4), (64, 32), (256, 8), (256, 64)))
    }
    found |= {
        f"cnn, {channels} channels, depth {depth}": (convolutions(depth, channels), images)
        for channels, depth in (((8, 4),) if options.quick else ((16, 4), (64, 10)))
    }
    layer = nn.TransformerEncoderLayer(64, 4, 256, dropout=0.0, batch_first=True, norm_first=True)
    encoder = nn.TransformerEncoder(layer, 2 if options.quick else 6, enable_nested_tensor=False)
    return found | {"transformer, width 64": (nn.Sequential(encoder, nn.Flatten(), nn.Linear(1024, 10)), tokens)}


def seconds(work: Callable[[], object]) -> float:
    started = time.perf_counter()
    work()
    return time.perf_counter() - started


def ratios(model: nn.Module, x: Tensor, repetitions: int) -> tuple[list[float], list[float]]:
    """Milliseconds of a training step, and the learning rate's cost in steps, for each repetition."""
    y = torch.arange(len(x)) % 10
    optimizer = torch.optim.SGD(model.parameters(), lr=0.0)

    def step() -> None:
        optimizer.zero_grad()
        F.cross_entropy(model(x), y).backward()
        optimizer.step()

    def measure() -> None:
        max_update_lr(model, F.cross_entropy, (x, y))

    step(), measure()
    pairs = [(seconds(step), seconds(measure)) for _ in range(repetitions)]
    return [1e3 * plain for plain, _ in pairs], [ours / plain for plain, ours in pairs]


def main() -> None:
    options = tyro.cli(Benchmark)
    torch.set_num_threads(1)
    table = Table("network", "training step, ms", "max_update_lr, steps: median (min to max)", "target", box=None)
    table.title = f"Cost of max_update_lr, batch {options.batch_size}, one thread"
    for name, (model, x) in cases(options).items():
        times, costs = ratios(model, x, 5 if options.quick else options.repetitions)
        shown = f"{statistics.median(costs):.2f}  ({min(costs):.2f} to {max(costs):.2f})"
        table.add_row(name, f"{statistics.median(times):.2f}", shown, f"<= {TARGET:g}")
    Console().print(table)


if __name__ == "__main__":
    main()
