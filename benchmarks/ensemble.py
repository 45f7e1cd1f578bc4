"""Trials per second: the ensemble engine against a plain PyTorch loop over the same trials.

Both run in this process on one thread, in turn, so that a busy machine slows both; the ratio is the median over
repetitions. The plain loop is what a user would write: a module, torch.optim, one trial after another. Then
whole shards on one worker process and on two.
"""

from __future__ import annotations

import concurrent.futures
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
import tyro
from rich.console import Console
from rich.table import Table

from isoscale import data
from isoscale.runs.engines.local import LocalEngine
from isoscale.runs.shards import Shard
from isoscale.runs.worker import source
from isoscale.training import Member, Optimizer, TrialConfig, train
from isoscale.training.config import batch_order

DIGITS = data.load("digits").flatten()
TARGETS = {32: 4.0, 64: 2.0, 128: 0.95, 256: 0.95, 512: 0.95}
MEMBERS = tuple(Member(2.0**k, seed) for k in range(-12, -4) for seed in range(4))


@dataclass(frozen=True)
class Benchmark:
    """What to time."""

    widths: tuple[int, ...] = (32, 64, 128, 256, 512)
    depths: tuple[int, ...] = (4, 16)
    repetitions: int = 5
    batch_size: int = 64


def plain_loop(config: TrialConfig, members: tuple[Member, ...]) -> None:
    for member in members:
        plan = config.plan(DIGITS.in_shape, DIGITS.classes, lr=member.lr)
        model, plan = config.build(DIGITS.in_shape, DIGITS.classes, member.seed, plan)
        optimizer = torch.optim.SGD(plan.param_groups())
        losses = []
        for batch in batch_order(len(DIGITS.train_x), config.batch_size, config.steps, member.seed):
            loss = torch.nn.functional.cross_entropy(model(DIGITS.train_x[batch]), DIGITS.train_y[batch])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            losses.append(loss.detach())
        torch.stack(losses)
        with torch.no_grad():
            model(DIGITS.test_x)


def seconds(work: Callable[[], object]) -> float:
    started = time.perf_counter()
    work()
    return time.perf_counter() - started


def configured(width: int, depth: int, batch_size: int, steps: int) -> TrialConfig:
    return TrialConfig(
        width=width,
        depth=depth,
        base_width=width,
        base_depth=4,
        rule="depth-mup",
        optimizer=Optimizer(),
        steps=steps,
        batch_size=batch_size,
    )


def against_loop(table: Table, options: Benchmark) -> None:
    for width in options.widths:
        for depth in options.depths:
            # Fewer steps and members where they are costly; whole stacks in any case.
            steps = max(3, min(60, 30 * 16 * 64**2 // (depth * width**2)))
            members = MEMBERS if width < 256 else MEMBERS[:8]
            run = configured(width, depth, options.batch_size, steps)
            train(run, members, DIGITS)
            pairs = [
                (seconds(lambda: plain_loop(run, members)), seconds(lambda: train(run, members, DIGITS)))  # noqa: B023
                for _ in range(options.repetitions)
            ]
            ratios = [loop / ours for loop, ours in pairs]
            member_steps = len(members) * steps
            table.add_row(
                f"{width}",
                f"{depth}",
                *(f"{member_steps / statistics.median(times):,.0f}" for times in zip(*pairs, strict=True)),
                f"{statistics.median(ratios):.2f}  ({min(ratios):.2f} to {max(ratios):.2f})",
                f"{TARGETS.get(width, 1.0)}",
            )


def on_workers(count: int, shards: list[Shard]) -> float:
    """Seconds for the shards on warm workers."""
    with LocalEngine(len(shards), count) as engine:
        warm = replace(shards[0], config=replace(shards[0].config, steps=1))
        concurrent.futures.wait([engine.submit(warm, slot) for slot in range(count)])
        return seconds(
            lambda: concurrent.futures.wait([engine.submit(shard, slot) for slot, shard in enumerate(shards)])
        )


def main() -> None:
    options = tyro.cli(Benchmark)
    torch.set_num_threads(1)
    torch.set_flush_denormal(True)
    console = Console()
    table = Table("width", "depth", "loop", "isoscale", "ratio: median (min to max)", "target", box=None)
    table.title = f"Steps of a trial per second, batch {options.batch_size}, SGD, one thread"
    against_loop(table, options)
    console.print(table)
    where, _ = source("digits", None, (), "residual-mlp")
    runs = [configured(64, 8, options.batch_size, 60 + k) for k in range(8)]
    shards = [Shard(run, MEMBERS, where, run.plan(where.in_shape, where.classes)) for run in runs]
    ratios = [on_workers(1, shards) / on_workers(2, shards) for _ in range(3)]
    spread = f"({min(ratios):.2f} to {max(ratios):.2f})"
    console.print(f"Two worker processes against one: {statistics.median(ratios):.2f}  {spread}, target 1.7")


if __name__ == "__main__":
    main()
