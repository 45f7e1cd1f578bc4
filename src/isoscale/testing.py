"""For tests of code that uses isoscale: sweeps without processes, and networks to try things on.

    with isoscale.testing.inline() as engine:
        isoscale.sweep(spec, store=tmp_path / "s.db")     # in this process, in seconds, under the debugger
    assert len(engine.ran) == 2

Nothing here is imported by the rest of isoscale.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future
from typing import TypeVar

import torch
from torch import Tensor, nn

from isoscale.runs import TrialRecord, worker
from isoscale.runs.engines import engine
from isoscale.runs.shards import Shard

Network = TypeVar("Network", bound=nn.Module)


class InlineEngine:
    """The local engine's interface without processes: a shard runs when it is submitted.

    Attributes:
        ran: The shards that were submitted, in order.
        run_shard: What runs one: `run_shard(shard, device)`, which a test may replace by something that fails.
    """

    capacity = 2
    ran: list[Shard]
    run_shard = staticmethod(worker.run)

    def __init__(self, slots: int, workers: int, device: str, gpus: int) -> None:
        self.device = device

    def submit(self, shard: Shard, slot: int) -> Future:
        self.ran.append(shard)
        future: Future = Future()
        try:
            future.set_result(self.run_shard(shard, self.device))
        except Exception as error:
            future.set_exception(error)
        return future

    def result(self, future: Future) -> list[TrialRecord]:
        return future.result()

    def repair(self) -> None: ...

    def member_steps(self) -> Sequence[int]:
        return []

    def __enter__(self) -> InlineEngine:
        return self

    def __exit__(self, *_: object) -> None: ...


@contextlib.contextmanager
def inline() -> Iterator[type[InlineEngine]]:
    """Sweeps on this machine run in this process while the block lasts, whatever `workers` says.

    Yields:
        The engine; its `ran` lists the shards.

    >>> import isoscale
    >>> from tempfile import TemporaryDirectory
    >>> spec = isoscale.Sweep(widths=[8], depths=[1, 2], lrs=[0.1], seeds=1, steps=2)
    >>> with TemporaryDirectory() as folder, inline() as engine:
    ...     result = isoscale.sweep(spec, store=f"{folder}/s.db")
    >>> result.count("done"), len(engine.ran)
    (2, 2)
    """
    replacement = type("InlineEngine", (InlineEngine,), {"ran": []})
    before = engine.LocalEngine
    engine.LocalEngine = replacement
    try:
        yield replacement
    finally:
        engine.LocalEngine = before


# --- specimen networks ---
class Residual(nn.Module):
    """A residual network as many are written: a norm, a branch of two linear layers, a sum; (batch, 5) -> (batch, 3).

    Args:
        width: Of the residual stream; branches are twice as wide.
        depth: Residual blocks.
    """

    def __init__(self, width: int, depth: int) -> None:
        super().__init__()
        self.embed = nn.Linear(5, width)
        branches = []
        for _ in range(depth):
            branch = nn.Sequential(
                nn.LayerNorm(width), nn.Linear(width, 2 * width), nn.ReLU(), nn.Linear(2 * width, width)
            )
            branches.append(branch)
        self.branches = nn.ModuleList(branches)
        self.head = nn.Linear(width, 3)

    def forward(self, x: Tensor) -> Tensor:
        h = self.embed(x)
        for branch in self.branches:
            h = h + branch(h)
        return self.head(h)


class TwoTowers(nn.Module):
    """Two inputs that meet in a product, and no residual stream; pairs of (batch, 5) -> (batch, 1).

    Args:
        width: Of both towers.
        depth: Hidden layers of each.
    """

    def __init__(self, width: int, depth: int) -> None:
        super().__init__()
        self.towers = nn.ModuleList(_plain(width, depth) for _ in range(2))

    def forward(self, x: Tensor, other: Tensor) -> Tensor:
        first, second = self.towers
        return (first(x) * second(other)).mean(-1, keepdim=True)


def _plain(width: int, depth: int) -> nn.Sequential:
    layers: list[nn.Module] = [nn.Linear(5, width)]
    for _ in range(depth):
        layers += [nn.ReLU(), nn.Linear(width, width)]
    return nn.Sequential(*layers)


def residual(width: int = 8, depth: int = 2, seed: int = 0) -> Residual:
    """A `Residual` with weights drawn from the seed; torch's own generator is left as it was.

    >>> import isoscale
    >>> plan = isoscale.parametrize(residual(16), base=residual(8), lr=0.01, example_inputs=(features(),))
    >>> plan.ratios["width"]
    2.0
    """
    return _seeded(lambda: Residual(width, depth), seed)


def two_towers(width: int = 8, depth: int = 1, seed: int = 0) -> TwoTowers:
    """A `TwoTowers` with weights drawn from the seed."""
    return _seeded(lambda: TwoTowers(width, depth), seed)


def features(samples: int = 8, seed: int = 0) -> Tensor:
    """Inputs for the specimens, (samples, 5), standard normal."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(samples, 5, generator=generator)


def _seeded(make: Callable[[], Network], seed: int) -> Network:
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return make()
