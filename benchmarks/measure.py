"""What measuring costs, and how near the learning rate without a sweep comes to that of a sweep.

cost: `max_update_lr` in training steps (forward, backward, SGD) of the same network. Both run in this process on one
thread, in turn, so that a busy machine slows both; the ratio is the median over repetitions. It holds one gradient (a
training step but for the update) and one forward-mode pass, which is dearer than a forward pass: each map multiplies
the activations by two matrices and their changes by one.

audit: seconds of the audit of residual MLPs of width 256.

rates: the learning rate of `max_update_lr` (seeds x 4 batches) against the best of a sweep over 16 octaves, by the
mean loss of the last tenth of its steps. Nothing is tuned between the two.
"""

from __future__ import annotations

import math
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np
import torch
import torch.nn.functional as F
import tyro
import xarray as xr
from rich.console import Console
from rich.table import Table
from torch import Tensor, nn

from isoscale import data, models
from isoscale import stats as laws
from isoscale.measure import audit, max_update_lr
from isoscale.models import ResidualMLP

TARGET, AUDIT_TARGET = 5.0, 60.0
Batch = tuple[Tensor, Tensor]


@dataclass(frozen=True)
class Benchmark:
    """What to time."""

    repetitions: int = 15
    batch_size: int = 64
    quick: bool = False
    """Small networks, few repetitions, short sweeps."""
    parts: tuple[Literal["cost", "audit", "rates"], ...] = ("cost", "audit", "rates")
    """What to run."""
    threads: int = 1
    """Threads of torch in the audit; the rest runs on one."""
    seeds: int = 3
    """Of the audit and of the learning rates."""
    steps: int = 100
    """Of each run of a sweep."""


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


def show_cost(options: Benchmark, console: Console) -> None:
    table = Table("network", "training step, ms", "max_update_lr, steps: median (min to max)", "target", box=None)
    table.title = f"Cost of max_update_lr, batch {options.batch_size}, one thread"
    for name, (model, x) in cases(options).items():
        times, costs = ratios(model, x, 5 if options.quick else options.repetitions)
        shown = f"{statistics.median(costs):.2f}  ({min(costs):.2f} to {max(costs):.2f})"
        table.add_row(name, f"{statistics.median(times):.2f}", shown, f"<= {TARGET:g}")
    console.print(table)


# --- audit ---
def show_audit(options: Benchmark, console: Console) -> None:
    depths = [4, 8, 16, 32] if options.quick else [4, 8, 16, 32, 64]
    batch = batches_of("residual-mlp", options, 1)[0]
    torch.set_num_threads(options.threads)

    def make(depth: int, seed: int) -> nn.Module:
        return ResidualMLP(64, 10, width=256, depth=depth, seed=seed)

    for rule in ("completep", "depth-mup"):
        taken = seconds(lambda rule=rule: audit(make, batch, F.cross_entropy, depths=depths, rule=rule, seeds=3))
        console.print(
            f"Audit, residual-mlp of width 256, depths {depths}, 3 seeds, {rule}: {taken:.1f} s on {options.threads} "
            f"thread(s) (target <= {AUDIT_TARGET:g} s)"
        )
    torch.set_num_threads(1)


# --- learning rates ---
NETWORKS: dict[str, tuple[str, dict[str, Any], dict[str, int]]] = {
    "residual-mlp, 1 map a block": ("residual-mlp", {"block_depth": 1}, {"width": 64, "depth": 6}),
    "residual-mlp, 2 maps a block": ("residual-mlp", {"block_depth": 2}, {"width": 64, "depth": 6}),
    "conv-net": ("conv-net", {}, {"width": 16, "depth": 4}),
    "conv-resnet, post": ("conv-resnet", {"block": "post"}, {"width": 16, "depth": 4}),
    "conv-resnet, pre": ("conv-resnet", {"block": "pre"}, {"width": 16, "depth": 4}),
    "gpt": ("gpt", {}, {"width": 32, "depth": 2}),
    "vit": ("vit", {}, {"width": 32, "depth": 2}),
}
SYMBOLS, CONTEXT = 32, 16


def batches_of(name: str, options: Benchmark, count: int) -> list[Batch]:
    """Digits; for a language model a noisy chain, whose next symbol follows from the last in 9 of 10 cases."""
    generator = torch.Generator().manual_seed(0)
    size = options.batch_size
    if models.takes(name) == "tokens":
        return [chain(size // 4, generator) for _ in range(count)]
    found = data.load("digits")
    rows = torch.randperm(len(found.train_x), generator=generator)
    picked = [rows.roll(-size * index)[:size] for index in range(count)]
    flat = models.takes(name) == "features"
    return [(found.train_x[r].flatten(1) if flat else found.train_x[r], found.train_y[r]) for r in picked]


def chain(size: int, generator: torch.Generator) -> Batch:
    symbols = torch.randint(SYMBOLS, (size, CONTEXT + 1), generator=generator)
    follows = torch.rand(size, CONTEXT, generator=generator) < 0.9
    for place in range(CONTEXT):
        told = (3 * symbols[:, place] + 1) % SYMBOLS
        symbols[:, place + 1] = torch.where(follows[:, place], told, symbols[:, place + 1])
    return symbols[:, :-1], symbols[:, 1:]


def cross_entropy(output: Tensor, y: Tensor) -> Tensor:
    return F.cross_entropy(output.flatten(0, -2), y.flatten())


def maker(name: str, model_options: dict[str, Any], sizes: dict[str, int]) -> Callable[[int], nn.Module]:
    tokens = models.takes(name) == "tokens"
    shape, outputs = ((CONTEXT,), SYMBOLS) if tokens else ((1, 8, 8), 10)
    return lambda seed: models.build(name, model_options, in_shape=shape, out_features=outputs, seed=seed, **sizes)


def final_loss(model: nn.Module, optimizer: torch.optim.Optimizer, batches: Sequence[Batch], steps: int) -> float:
    losses: list[float] = []
    for step in range(steps):
        x, y = batches[step % len(batches)]
        optimizer.zero_grad()
        loss = cross_entropy(model(x), y)
        loss.backward()
        optimizer.step()
        losses.append(float(loss.detach()))
        if not math.isfinite(losses[-1]):
            return math.nan
    return float(np.mean(losses[-max(1, steps // 10) :]))


def swept(make: Callable[[int], nn.Module], batches: Sequence[Batch], family: str, options: Benchmark) -> xr.Dataset:
    """The best learning rate of 17, an octave apart."""
    lrs = 2.0 ** np.arange(-11, 6) if family == "sgd" else 2.0 ** np.arange(-15, 2)
    classes = {"sgd": torch.optim.SGD, "adam": torch.optim.Adam}
    table = np.zeros((len(lrs), options.seeds))
    for row, lr in enumerate(lrs):
        for seed in range(options.seeds):
            model = make(seed)
            table[row, seed] = final_loss(model, classes[family](model.parameters(), lr=lr), batches, options.steps)
    return laws.optimal_lr(xr.DataArray(table, {"lr": lrs, "seed": range(options.seeds)}))


def show_rates(options: Benchmark, console: Console) -> None:
    columns = ("network", "optimizer", "without a sweep", "best of a sweep (95 %)", "ratio, octaves", "sweep's cost")
    table = Table(*columns, box=None)
    table.title = f"Learning rate without a sweep, {options.steps} steps, {options.seeds} seeds"
    for family in ("sgd", "adam"):
        octaves = []
        for name, (model, model_options, sizes) in NETWORKS.items():
            make, batches = maker(model, model_options, sizes), batches_of(model, options, 20)
            started = time.perf_counter()
            found = max_update_lr(make, cross_entropy, batches[:4], optimizer=family, seeds=options.seeds)
            between = time.perf_counter()
            best = swept(make, batches, family, options)
            cost = (time.perf_counter() - between) / (between - started)
            octaves.append(math.log2(found.lr / float(best.lr)))
            interval = f"{float(best.lr):.3g} ({float(best.lr_low):.2g} to {float(best.lr_high):.2g})"
            row = f"{found.lr:.3g} ± {found.lr_se:.1g}", interval, f"{octaves[-1]:+.1f}", f"{cost:.0f} x"
            table.add_row(name, family, *row)
        table.add_row("median of |octaves|", family, "", "", f"{statistics.median(map(abs, octaves)):.1f}", "")
    console.print(table)


def main() -> None:
    options = tyro.cli(Benchmark)
    if options.quick:
        options = replace(options, seeds=2, steps=30)
    torch.set_num_threads(1)
    shows = {"cost": show_cost, "audit": show_audit, "rates": show_rates}
    for part in options.parts:
        shows[part](options, Console())


if __name__ == "__main__":
    main()
