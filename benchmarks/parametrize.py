"""What a plan costs: a training step against the plain model's, and seconds to plan a large model.

A plan changes no forward and adds no hook, so a step can only cost more by its number of parameter groups: torch's
optimizers step group by group. All models take steps in turn, in another order each time, in this process on one
thread, and processor time is counted, so that a busy machine spoils little; the ratio is the median over
repetitions. mup's model (its readout, MuAdam) stands beside.
"""

from __future__ import annotations

import itertools
import statistics
import time
import warnings
from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
import tyro
from rich.console import Console
from rich.table import Table
from torch import Tensor, nn

import isoscale
from isoscale.models import ResidualMLP

FEATURES, CLASSES = 64, 10
Step = Callable[[], object]


@dataclass(frozen=True)
class Benchmark:
    """What to time."""

    widths: tuple[int, ...] = (64, 256, 1024)
    depth: int = 4
    batch_size: int = 64
    repetitions: int = 40
    quick: bool = False
    """Fewer repetitions, and planning a model of a tenth of the size."""


# --- a training step --------------------------------------------------------------------------------------
def stepper(model: nn.Module, optimizer: torch.optim.Optimizer, batch: tuple[Tensor, Tensor]) -> Step:
    def step() -> None:
        loss = F.cross_entropy(model(batch[0]), batch[1])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()

    return step


def plain(width: int, depth: int) -> tuple[nn.Module, torch.optim.Optimizer]:
    model = ResidualMLP(FEATURES, CLASSES, width, depth)
    return model, torch.optim.Adam(model.parameters(), lr=1e-4)


def ours(width: int, depth: int) -> tuple[nn.Module, torch.optim.Optimizer]:
    model, base = (ResidualMLP(FEATURES, CLASSES, w, d) for w, d in ((width, depth), (16, 2)))
    inputs = (torch.zeros(1, FEATURES),)
    plan = isoscale.parametrize(model, base, "completep", torch.optim.Adam, lr=1e-4, example_inputs=inputs)
    return model, torch.optim.Adam(plan.param_groups())


def grouped(width: int, depth: int) -> tuple[nn.Module, torch.optim.Optimizer]:
    """The plain model in as many groups as the plan's, all alike: what groups cost in torch itself."""
    model, planned = ours(width, depth)
    groups = [{"params": group["params"]} for group in planned.param_groups]
    return model, torch.optim.Adam(groups, lr=1e-4)


def mups(width: int, depth: int) -> tuple[nn.Module, torch.optim.Optimizer]:
    import mup

    def make(width: int) -> nn.Module:
        model = ResidualMLP(FEATURES, CLASSES, width, depth)
        model.readout = mup.MuReadout(width, CLASSES, bias=False)
        return model

    model = make(width)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        mup.set_base_shapes(model, make(16), delta=make(32))
    return model, mup.MuAdam(model.parameters(), lr=1e-4)


def installed(name: str) -> bool:
    try:
        __import__(name)
    except ImportError:
        return False
    return True


def seconds(work: Step, steps: int) -> float:
    started = time.process_time()
    for _ in range(steps):
        work()
    return time.process_time() - started


def in_turn(works: dict[str, Step], steps: int, repetitions: int) -> list[dict[str, float]]:
    orders = list(itertools.permutations(works))
    return [{name: seconds(works[name], steps) for name in orders[i % len(orders)]} for i in range(repetitions)]


def time_steps(options: Benchmark, table: Table) -> None:
    makers = {"plain": plain, "isoscale": ours, "grouped": grouped} | ({"mup": mups} if installed("mup") else {})
    repetitions = options.repetitions // 4 if options.quick else options.repetitions
    batch = (torch.randn(options.batch_size, FEATURES), torch.randint(CLASSES, (options.batch_size,)))
    for width in options.widths:
        made = {name: make(width, options.depth) for name, make in makers.items()}
        works = {name: stepper(*pair, batch) for name, pair in made.items()}
        steps = max(1, 20 * 64 // width)
        for work in works.values():
            seconds(work, 3)
        rounds = in_turn(works, steps, repetitions)
        table.add_row(
            f"{width}",
            f"{len(made['isoscale'][1].param_groups)}",
            f"{1e3 * statistics.median(times['plain'] for times in rounds) / steps:.2f}",
            *(ratio([times[name] / times["plain"] for times in rounds]) for name in works if name != "plain"),
        )


def ratio(ratios: list[float]) -> str:
    low, middle, high = statistics.quantiles(ratios, n=4)
    return f"{middle:.3f}  ({low:.3f} to {high:.3f})"


# --- planning a large model -------------------------------------------------------------------------------
def llama(width: int, layers: int) -> nn.Module:
    """A Llama on the meta device; 2048 wide and 16 deep with 32,000 tokens it has 1.2 billion parameters."""
    import transformers

    config = transformers.LlamaConfig(
        hidden_size=width,
        intermediate_size=4 * width,
        num_hidden_layers=layers,
        num_attention_heads=width // 64,
        num_key_value_heads=width // 64,
        vocab_size=32_000,
    )
    with torch.device("meta"):
        return transformers.LlamaForCausalLM(config)


def time_planning(console: Console, quick: bool) -> None:
    if not installed("transformers"):
        console.print("Planning a Llama: skipped, transformers is not installed")
        return
    model, base = llama(*((768, 4) if quick else (2048, 16))), llama(256, 2)
    inputs = {"input_ids": torch.zeros(1, 16, dtype=torch.long), "use_cache": False}
    started = time.perf_counter()
    plan = isoscale.parametrize(model, base, "completep", "adamw", lr=1e-3, example_inputs=inputs)
    groups = plan.param_groups()
    took = time.perf_counter() - started
    size = sum(parameter.numel() for parameter in model.parameters())
    console.print(
        f"Planning a Llama of {size / 1e9:.2f} billion parameters on the meta device: {took:.1f} s (target: 10 s), "
        f"{len(plan.entries)} tensors in {len(groups)} groups"
    )


def main() -> None:
    options = tyro.cli(Benchmark)
    torch.set_num_threads(1)
    torch.set_flush_denormal(True)
    console = Console()
    beside = ["mup"] if installed("mup") else []
    table = Table("width", "groups", "plain, ms", "isoscale", "plain in as many groups", *beside, box=None)
    table.title = (
        f"A training step of Adam, depth {options.depth}, batch {options.batch_size}, one thread; "
        "ratios to plain: median (quartiles)"
    )
    time_steps(options, table)
    console.print(table)
    if not beside:
        console.print("mup beside: skipped, mup is not installed")
    time_planning(console, options.quick)


if __name__ == "__main__":
    main()
