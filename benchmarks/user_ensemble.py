"""A user's own models in trials per second: isoscale's choice of batched ensembles against a plain PyTorch loop.

Both run in this process on one thread, in turn, and so do the models; the ratio is the median over these pairs, of the
processor's time, which other programs hardly lengthen. The plain loop is what a user would write without isoscale: a
module, torch.optim, one trial after another, and no plan. isoscale's time has everything in it: plans, the measurement
of what pays, and what comes back untrained and trains alone. Exits with 1 if a target is missed.
"""

from __future__ import annotations

import contextlib
import itertools
import os
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
import tyro
from rich.console import Console
from rich.table import Table
from torch import Tensor, nn

from isoscale import Sweep, log2_grid
from isoscale.runs.trainers import module, stack
from isoscale.runs.trainers.foreign import ForeignShard

TARGETS = {32: 3.0}
WORDS, LENGTH, HEAD = 64, 16, 16


@dataclass(frozen=True)
class Benchmark:
    """What to time."""

    widths: tuple[int, ...] = (32, 64, 128)
    models: tuple[str, ...] = ("mlp", "gpt")
    steps: int = 100
    seeds: int = 4
    """At the first width; at the others, which gain less and take longer, there is one."""
    batch_sizes: dict[str, int] = field(default_factory=lambda: {"mlp": 64, "gpt": 4})
    repetitions: int = 3


def mlp(width: int) -> nn.Module:
    return nn.Sequential(
        nn.Linear(16, width), nn.ReLU(), nn.Linear(width, width), nn.ReLU(), nn.Linear(width, width), nn.ReLU(),
        nn.Linear(width, 10),
    )  # fmt: skip


class Block(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.qkv, self.out = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.up, self.down = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)

    def forward(self, x: Tensor) -> Tensor:
        heads = self.qkv(self.norm1(x)).unflatten(2, (3, -1, HEAD)).permute(2, 0, 3, 1, 4)
        mixed = F.scaled_dot_product_attention(heads[0], heads[1], heads[2], is_causal=True)
        x = x + self.out(mixed.transpose(1, 2).flatten(2))
        return x + self.down(F.gelu(self.up(self.norm2(x))))


class Gpt(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.tokens, self.places = nn.Embedding(WORDS, width), nn.Embedding(LENGTH, width)
        self.blocks = nn.Sequential(Block(width), Block(width))
        self.norm, self.head = nn.LayerNorm(width), nn.Linear(width, WORDS)

    def forward(self, index: Tensor) -> Tensor:
        x = self.tokens(index) + self.places(torch.arange(index.shape[1]))
        return self.head(self.norm(self.blocks(x)))


def vectors(trial: Any) -> Iterator[tuple[Tensor, Tensor]]:
    generator = torch.Generator().manual_seed(trial.seed)
    while True:
        x = torch.randn(trial.batch_size, 16, generator=generator)
        yield x, x[:, :10].argmax(1)


def sentences(trial: Any) -> Iterator[tuple[Tensor, Tensor]]:
    generator = torch.Generator().manual_seed(trial.seed)
    while True:
        first = torch.randint(WORDS, (trial.batch_size, 1), generator=generator)
        index = (first + 3 * torch.arange(LENGTH + 1)) % WORDS
        yield index[:, :-1], index[:, 1:]


def entropy(output: Tensor, y: Tensor) -> Tensor:
    return F.cross_entropy(output.flatten(0, -2), y.flatten())


MODELS: dict[str, tuple[Any, Any]] = {"mlp": (mlp, vectors), "gpt": (Gpt, sentences)}


def plain_loop(spec: Sweep, shards: list[ForeignShard]) -> None:
    for shard in shards:
        trial = shard.handed("cpu")
        torch.manual_seed(trial.seed)
        model = spec.model(trial.width)
        optimizer = torch.optim.AdamW(model.parameters(), lr=trial.lr)
        batches = spec.batches(trial)
        losses = []
        for _ in range(trial.steps):
            x, y = next(batches)
            loss = entropy(model(x), y)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            losses.append(loss.detach())
        torch.stack(losses)


def ours(shards: list[ForeignShard]) -> int:
    """Trains all, as the driver does with one worker; returns how many went together."""
    left, most, largest = list(shards), stack.MOST, 1
    while left:
        work = stack.joined(left[:most])
        finished = {record.key for record in work.run("cpu")}
        if len(finished) < len(work.members):
            most = len(finished)
        largest = max(largest, len(finished))
        left = [shard for shard in left if shard.id not in finished]
    return largest


def seconds(work: Callable[[], object]) -> float:
    started = time.process_time()
    work()
    return time.process_time() - started


class Pair(NamedTuple):
    """Seconds of both, in turn, for the same trials."""

    loop: float
    own: float
    together: int
    steps: int


def pair(name: str, width: int, options: Benchmark, folder: str) -> Pair:
    make, batches = MODELS[name]
    spec = Sweep(
        model=make,
        batches=batches,
        loss_fn=entropy,
        rule="mup",
        widths=[width],
        base_width=32,
        lrs=log2_grid(-13, -6),
        seeds=options.seeds if width == options.widths[0] else 1,
        steps=options.steps,
        batch_size=options.batch_sizes[name],
    )
    shards = module.shards(spec, None, os.path.join(folder, "s.db"))
    # As in a fresh worker, which has measured and read nothing.
    stack._measured.clear()
    module._readings.clear()
    loop = seconds(lambda: plain_loop(spec, shards))
    began = time.process_time()
    together = ours(shards)
    return Pair(loop, time.process_time() - began, together, len(shards) * options.steps)


def main() -> int:
    options = tyro.cli(Benchmark, description=__doc__)
    torch.set_num_threads(1)
    torch.set_flush_denormal(True)
    pairs: dict[tuple[str, int], list[Pair]] = {}
    with tempfile.TemporaryDirectory() as folder, contextlib.chdir(folder):
        for _ in range(options.repetitions):
            for name, width in itertools.product(options.models, options.widths):
                pairs.setdefault((name, width), []).append(pair(name, width, options, folder))
    table = Table(
        "model", "width", "trials", "loop", "isoscale", "together", "ratio: median (min to max)", "target", box=None
    )
    table.title = f"Steps of a trial per second of the processor, AdamW, {options.steps} steps each, one thread"
    missed = False
    for (name, width), found in pairs.items():
        ratios = [one.loop / one.own for one in found]
        median, target = statistics.median(ratios), TARGETS.get(width, 0.95)
        missed |= median < target
        first = found[0]
        table.add_row(
            name,
            f"{width}",
            f"{first.steps // options.steps}",
            f"{first.steps / statistics.median(one.loop for one in found):,.0f}",
            f"{first.steps / statistics.median(one.own for one in found):,.0f}",
            ", ".join(sorted({f"{one.together}" for one in found})),
            f"{median:.2f}  ({min(ratios):.2f} to {max(ratios):.2f})",
            f"{target}",
        )
    Console(width=120).print(table)
    return 1 if missed else 0


if __name__ == "__main__":
    raise SystemExit(main())
