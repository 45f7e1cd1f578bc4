"""Conv nets: the ensemble engine against a plain PyTorch loop, and the three ways to stack them.

Everything runs in this process on one thread, in turn, so that a busy machine slows all of it; a ratio is the
median over repetitions. First whole training, against the loop that a user would write: torch's own layers with
`padding_mode="circular"`, torch.optim, one trial after another. Then one step of a stack of bare layers: members
one by one, as one grouped convolution, and by `torch.func.vmap`; this is why `isoscale.training.ensemble` stacks
small images and trains members of large ones one at a time.
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

from isoscale import data, models
from isoscale.data import Dataset
from isoscale.models.circular import circular_conv
from isoscale.training import Member, Optimizer, TrialConfig, stack, train
from isoscale.training.config import batch_order
from isoscale.training.ensemble import members_at_once

TARGET = 1.5


@dataclass(frozen=True)
class Benchmark:
    """What to time."""

    width: int = 16
    depth: int = 6
    batch_size: int = 64
    sizes: tuple[int, ...] = (8, 16, 32)
    """Sides of the images."""
    members: int = 8
    steps: int = 8
    """Enough that what is done once a trial (building, the test set) weighs little, as in a real one."""
    repetitions: int = 5
    quick: bool = False
    """Small images, one repetition: to see that it runs."""


def plain_net(channels: int, width: int, depth: int, classes: int) -> nn.Module:
    """The network as a user would write it."""
    layers: list[nn.Module] = []
    for fan_in in [channels, *[width] * (depth - 1)]:
        layers += [nn.Conv2d(fan_in, width, 3, padding=1, padding_mode="circular", bias=False), nn.ReLU()]
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(width, classes, bias=False))


def plain_loop(config: TrialConfig, members: list[Member], images: Dataset) -> None:
    for member in members:
        torch.manual_seed(member.seed)
        model = plain_net(images.in_shape[0], config.width, config.depth, images.classes)
        optimizer = torch.optim.SGD(model.parameters(), lr=member.lr)
        for batch in batch_order(len(images.train_x), config.batch_size, config.steps, member.seed):
            loss = F.cross_entropy(model(images.train_x[batch]), images.train_y[batch])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        with torch.no_grad():
            model(images.test_x)


def seconds(work: Callable[[], object]) -> float:
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def ratios(works: dict[str, Callable[[], object]], repetitions: int) -> dict[str, list[float]]:
    """Of each repetition, the first one's time over each one's."""
    for work in works.values():
        work()
    found: dict[str, list[float]] = {name: [] for name in works}
    for _ in range(repetitions):
        times = {name: seconds(work) for name, work in works.items()}
        first = next(iter(times.values()))
        for name, taken in times.items():
            found[name].append(first / taken)
    return found


def spread(values: list[float]) -> str:
    return f"{statistics.median(values):.2f}  ({min(values):.2f} to {max(values):.2f})"


def training(table: Table, options: Benchmark) -> None:
    for size in options.sizes:
        images = data.load("synthetic", size=size, channels=3, train=4 * options.batch_size, test=options.batch_size)
        config = TrialConfig(
            model="conv-net",
            width=options.width,
            depth=options.depth,
            base_width=options.width,
            base_depth=options.depth,
            rule="sp",
            optimizer=Optimizer(),
            steps=options.steps,
            batch_size=options.batch_size,
        )
        members = [Member(2.0**-8, seed) for seed in range(options.members)]
        works = {
            "loop": lambda r=config, m=members, i=images: plain_loop(r, m, i),
            "isoscale": lambda r=config, m=members, i=images: train(r, m, i),
        }
        found = ratios(works, options.repetitions)["isoscale"]
        table.add_row(f"{size}x{size}", f"{members_at_once(config, images)}", spread(found), f"{TARGET}")


def ways(table: Table, options: Benchmark) -> None:
    for size in options.sizes:
        sizes = {"width": options.width, "depth": options.depth}
        nets = [models.build("conv-net", in_shape=(3, size, size), out_features=10, **sizes) for _ in range(4)]
        x = torch.randn(4, options.batch_size, 3, size, size, generator=torch.Generator().manual_seed(0))
        stacked = stack(nets)
        weights = [parameter.detach() for parameter in stacked.parameters()]
        step = torch.func.vmap(torch.func.grad(one_member))
        works = {
            "one by one": lambda n=nets, x=x: [gradient(net, each) for net, each in zip(n, x, strict=True)],
            "grouped": lambda s=stacked, x=x: gradient(s, x),
            "vmap": lambda w=weights, x=x, f=step: f(w, x),
        }
        found = ratios(works, options.repetitions)
        table.add_row(f"{size}x{size}", spread(found["grouped"]), spread(found["vmap"]))


def gradient(model: nn.Module, x: Tensor) -> None:
    torch.autograd.grad(model(x).square().sum(), list(model.parameters()))


def one_member(weights: list[Tensor], x: Tensor) -> Tensor:
    *convolutions, readout = weights
    for weight in convolutions:
        x = torch.relu(circular_conv(x, weight))
    return (x.mean((2, 3)) @ readout.T).square().sum()


def main() -> None:
    options = tyro.cli(Benchmark)
    if options.quick:
        options = Benchmark(sizes=(8,), depth=2, members=2, steps=1, repetitions=1)
    torch.set_num_threads(1)
    torch.set_flush_denormal(True)
    console = Console()
    where = f"{options.width} channels, depth {options.depth}, batch {options.batch_size}, one thread"
    table = Table("image", "members at once", "loop / isoscale: median (min to max)", "target", box=None)
    table.title = f"Training {options.members} trials, SGD: {where}"
    training(table, options)
    console.print(table)
    table = Table("image", "one by one / grouped", "one by one / vmap", box=None)
    table.title = f"Gradients of 4 members: {where}"
    ways(table, options)
    console.print(table)


if __name__ == "__main__":
    main()
