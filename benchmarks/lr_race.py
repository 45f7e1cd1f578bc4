"""How far a raced learning rate is from a swept one: the error that `isoscale lr` quotes, measured.

Truth is a sweep of each network: a pilot of one seed an octave apart, then learning rates half an octave apart around
its best, three seeds each, and the vertex of a parabola fitted to the logarithm of the mean loss. The race runs with a
seed that the sweep has not seen. Its rates, steps and rules were chosen on the networks of `DEVELOPMENT` alone; the
table holds those of `EVALUATION`, on which nothing was chosen. Finished work is kept in a file and not run twice.

    ISOSCALE_DATA=data python benchmarks/lr_race.py --write
"""

from __future__ import annotations

import dataclasses
import functools
import json
import math
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
import torch.nn.functional as F
import tyro
from rich.console import Console

from isoscale import data, measure, models
from isoscale.data import Dataset
from isoscale.scaling.optimizers import OptimizerFamily
from isoscale.training import Member, Optimizer, TrialConfig, train
from isoscale.training.config import as_taken, batch_order

OPTIMIZERS: tuple[OptimizerFamily, ...] = ("sgd", "adamw")
STEPS = 256
BATCH = 32
SEEDS = (0, 1, 2)
# Octaves, log2 of the learning rate, of the pilot; it takes one seed and a quarter of the steps.
PILOT = {"sgd": range(-12, 4), "adamw": range(-15, 1)}
# Half octaves on either side of the pilot's best, and how many more at an end where the loss still falls.
REACH = 4
MORE = 3
# Loss of a trial: the mean over the last tenth of its steps, as in `isoscale.measure.confirm_lr`.
COUNTED = STEPS // 10

Set = Literal["development", "evaluation"]


@dataclass(frozen=True, kw_only=True)
class Network:
    """One kind of network, at two depths."""

    name: str
    model: str
    options: Mapping[str, Any] = field(default_factory=dict)
    width: int
    depths: tuple[int, int]
    dataset: str
    dataset_options: Mapping[str, Any] = field(default_factory=dict)

    def data(self) -> Dataset:
        return _loaded(self.dataset, tuple(self.dataset_options.items()))


_CIFAR = {"dataset": "cifar10", "dataset_options": {"batches": (1, 2), "pool": 4}}
_TEXT = {"dataset": "text", "dataset_options": {"context": 32}}

DEVELOPMENT = (
    Network(name="mlp relu", model="residual-mlp", width=32, depths=(4, 16), dataset="digits"),
    Network(
        name="mlp relu one-layer, layer norm",
        model="residual-mlp",
        options={"block_depth": 1, "norm": "layer"},
        width=48,
        depths=(2, 8),
        **_CIFAR,
    ),
    Network(
        name="mlp tanh",
        model="residual-mlp",
        options={"phi": "tanh"},
        width=32,
        depths=(2, 8),
        dataset="mnist",
    ),
    Network(name="conv relu", model="conv-net", options={"init": "he"}, width=16, depths=(2, 4), dataset="digits"),
    Network(
        name="conv resnet post",
        model="conv-resnet",
        options={"branch_init": "he/sqrt(K)"},
        width=16,
        depths=(2, 4),
        dataset="digits",
    ),
    Network(
        name="gpt relu, rms norm",
        model="gpt",
        options={"phi": "relu", "norm": "rms"},
        width=32,
        depths=(1, 3),
        **_TEXT,
    ),
)

EVALUATION = (
    Network(name="mlp relu", model="residual-mlp", width=64, depths=(3, 12), dataset="fashion-mnist"),
    Network(
        name="mlp gelu three-layer",
        model="residual-mlp",
        options={"phi": "gelu", "block_depth": 3},
        width=48,
        depths=(3, 12),
        dataset="fashion-mnist",
    ),
    Network(
        name="mlp relu, layer norm",
        model="residual-mlp",
        options={"norm": "layer"},
        width=64,
        depths=(3, 12),
        **_CIFAR,
    ),
    Network(
        name="mlp tanh one-layer, rms norm",
        model="residual-mlp",
        options={"phi": "tanh", "block_depth": 1, "norm": "rms"},
        width=48,
        depths=(3, 12),
        **_CIFAR,
    ),
    Network(
        name="conv gelu",
        model="conv-net",
        options={"phi": "gelu", "init": "he"},
        width=16,
        depths=(3, 5),
        **_CIFAR,
    ),
    Network(
        name="conv resnet pre",
        model="conv-resnet",
        options={"block": "pre", "branch_init": "he/sqrt(K)"},
        width=16,
        depths=(2, 5),
        **_CIFAR,
    ),
    Network(
        name="conv resnet post, batch norm",
        model="conv-resnet",
        options={"branch_init": "he/sqrt(K)", "norm": "batch"},
        width=16,
        depths=(2, 5),
        **_CIFAR,
    ),
    Network(name="gpt gelu, layer norm", model="gpt", width=32, depths=(2, 4), **_TEXT),
    Network(name="vit", model="vit", options={"patch": 2}, width=32, depths=(2, 4), **_CIFAR),
)
SETS: dict[Set, tuple[Network, ...]] = {"development": DEVELOPMENT, "evaluation": EVALUATION}


@functools.cache
def _loaded(name: str, options: tuple[tuple[str, Any], ...]) -> Dataset:
    """The real data where $ISOSCALE_DATA is set, else a synthetic set of that kind."""
    if name in ("digits", "text") or os.environ.get("ISOSCALE_DATA"):
        found = data.load(name, **dict(options))
    else:
        found = data.load("synthetic", size=8, channels=3 if name == "cifar10" else 1, train=8192, test=512)
    # Training losses are what is compared; the ensemble's look at the test split need not cost time.
    return dataclasses.replace(found, test_x=found.test_x[:1], test_y=found.test_y[:1])


@dataclass(frozen=True)
class Cell:
    """One network at one depth under one optimizer."""

    network: Network
    depth: int
    optimizer: OptimizerFamily

    @property
    def key(self) -> str:
        told = dataclasses.asdict(self.network)
        return json.dumps([told, self.depth, self.optimizer, STEPS, BATCH], sort_keys=True)

    def data(self) -> Dataset:
        return as_taken(self.network.model, self.network.data())

    def losses(self, octaves: Sequence[float], seeds: Sequence[int], steps: int = STEPS) -> list[list[float]]:
        """Final losses, for each learning rate a list over seeds; infinite where a trial diverged."""
        taken = self.data()
        config = TrialConfig(
            model=self.network.model,
            model_args=self.network.options,
            width=self.network.width,
            depth=self.depth,
            base_width=self.network.width,
            base_depth=self.depth,
            rule="sp",
            optimizer=Optimizer(family=self.optimizer),
            steps=steps,
            batch_size=BATCH,
        )
        members = [Member(2.0**octave, seed) for octave in octaves for seed in seeds]
        curve = train(config, members, taken).curve
        final = curve[:, -max(1, steps // 10) :].mean(1)
        final = np.where(np.isfinite(final), final, math.inf)
        return final.reshape(len(octaves), len(seeds)).tolist()

    def batches(self, seed: int, count: int) -> list[tuple[torch.Tensor, torch.Tensor]]:
        taken = self.data()
        order = batch_order(len(taken.train_x), BATCH, count, seed)
        return [(taken.train_x[rows], taken.train_y[rows]) for rows in order]

    def make(self, seed: int) -> torch.nn.Module:
        taken = self.data()
        return models.build(
            self.network.model,
            self.network.options,
            in_shape=taken.in_shape,
            out_features=taken.classes,
            width=self.network.width,
            depth=self.depth,
            seed=seed,
        )


def cross_entropy(output: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    return F.cross_entropy(output.flatten(0, -2), y.flatten())


def cells(chosen: Set) -> Iterator[Cell]:
    for network in SETS[chosen]:
        for depth in network.depths:
            for optimizer in OPTIMIZERS:
                yield Cell(network, depth, optimizer)


class Memory:
    """What was computed, by name, in a JSON file."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.known: dict[str, Any] = json.loads(path.read_text()) if path.exists() else {}

    def get(self, key: str, compute: Callable[[], Any]) -> Any:
        if key not in self.known:
            self.known[key] = compute()
            written = self.path.with_suffix(".part")
            written.write_text(json.dumps(self.known))
            written.replace(self.path)
        return self.known[key]


# --- the swept optimum ---
@dataclass(frozen=True)
class Truth:
    """log2 of the best learning rate, the loss there, and whether it lies at an end of what could be swept."""

    octave: float
    loss: float
    at_edge: bool


def swept(cell: Cell, memory: Memory) -> dict[float, list[float]]:
    """Losses over seeds by octave, wide enough to have the lowest inside."""
    pilot = list(PILOT[cell.optimizer])
    first = memory.get(f"pilot {cell.key}", lambda: cell.losses(pilot, SEEDS[:1], STEPS // 4))
    start = pilot[int(np.argmin([losses[0] for losses in first]))]
    table: dict[float, list[float]] = {}
    wanted = [start + half / 2 for half in range(-REACH, REACH + 1)]
    while wanted:
        octaves = list(wanted)
        rows = memory.get(f"sweep {octaves} {cell.key}", functools.partial(cell.losses, octaves, SEEDS))
        table |= zip(octaves, rows, strict=True)
        wanted = _beyond(table)
    return dict(sorted(table.items()))


def _beyond(table: Mapping[float, Sequence[float]]) -> list[float]:
    """Further octaves, where the lowest loss has fewer than two neighbours on a side."""
    octaves = sorted(table)
    means = [np.mean(table[octave]) for octave in octaves]
    best = int(np.argmin(means))
    if best < 2:
        return [octaves[0] - half / 2 for half in range(MORE, 0, -1)]
    if best > len(octaves) - 3 and np.isfinite(means[-1]):
        return [octaves[-1] + half / 2 for half in range(1, MORE + 1)]
    return []


def fitted(table: Mapping[float, Sequence[float]]) -> Truth:
    """Vertex of the least-squares parabola of the log loss over an octave on either side of its lowest."""
    octaves = np.array(sorted(table))
    means = np.array([np.mean(table[octave]) for octave in octaves])
    best = int(means.argmin())
    centre = octaves[best]
    # Half again the lowest loss is a slope or a cliff, where no parabola holds.
    near = (abs(octaves - centre) <= 1) & (means <= 1.5 * means[best])
    # Towards a learning rate that diverges nothing is extrapolated.
    has_cliff = best + 1 < len(means) and not np.isfinite(means[best + 1])
    if near.sum() < 3:
        return Truth(float(centre), float(means[best]), True)
    a, b, c = np.polyfit(octaves[near] - centre, np.log(means[near]), 2)
    if a <= 0:
        return Truth(float(centre), float(means[best]), has_cliff)
    shift = float(np.clip(-b / (2 * a), -0.5, 0.0 if has_cliff else 0.5))
    loss = math.exp(a * shift**2 + b * shift + c)
    return Truth(float(centre) + shift, min(loss, float(means[best])), has_cliff)


@dataclass(frozen=True)
class Benchmark:
    """What to measure."""

    set: Set = "evaluation"
    memory: Path = Path("lr-race.json")
    """Where finished work is kept."""


def main() -> None:
    torch.set_num_threads(1)
    torch.set_flush_denormal(True)
    chosen = tyro.cli(Benchmark, description=__doc__)
    memory = Memory(chosen.memory)
    out = Console(width=160)
    for cell in cells(chosen.set):
        truth = fitted(swept(cell, memory))
        out.print(cell.network.name, cell.depth, cell.optimizer, truth)


if __name__ == "__main__":
    main()
