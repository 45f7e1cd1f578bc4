"""How far a raced learning rate is from a swept one: the error that `isoscale lr` quotes, measured.

Truth is a sweep of each network: a pilot of one seed an octave apart, then learning rates half an octave apart around
its best, three seeds each, and the vertex of a parabola fitted to the logarithm of the mean loss. The race runs with
seeds that the sweep has not seen, and the network trains at what it recommends. Rates, steps and rules of the race
were chosen on the networks of `DEVELOPMENT` and `USED`; the table holds those of `EVALUATION`, on which nothing was.
Finished work is kept in a file and not run twice. `--write` writes the page and the numbers that `isoscale lr` quotes.

    ISOSCALE_DATA=data python benchmarks/lr_race.py --write
"""

from __future__ import annotations

import csv
import dataclasses
import functools
import gzip
import io
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
from rich.table import Table

from isoscale import data, measure, models
from isoscale.data import Dataset
from isoscale.scaling.optimizers import OptimizerFamily
from isoscale.training import Member, Optimizer, TrialConfig, train
from isoscale.training.config import as_taken, batch_order

OPTIMIZERS: tuple[OptimizerFamily, ...] = ("sgd", "adamw")
STEPS = 256
BATCH = 32
SEEDS = (0, 1, 2)
RACE_SEEDS = {"development": (100, 101), "used": (200, 201), "evaluation": (300, 301)}
# Octaves, log2 of the learning rate, of the pilot; it takes one seed and a quarter of the steps.
PILOT = {"sgd": range(-12, 4), "adamw": range(-15, 1)}
# Half octaves on either side of the pilot's best, and how many more at an end where the loss still falls.
REACH = 4
MORE = 3
HAS_DATA = bool(os.environ.get("ISOSCALE_DATA"))
RESAMPLES = 2000
# Goals, and what counts as no regret.
MEDIAN, SHARE, COST, TOLERANCE = 0.4, 0.9, 330, 0.02

Set = Literal["development", "used", "evaluation"]


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

# An earlier race was measured on these; then a race was chosen on them.
USED = (
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
EVALUATION = (
    Network(
        name="mlp gelu, rms norm",
        model="residual-mlp",
        options={"phi": "gelu", "norm": "rms"},
        width=48,
        depths=(4, 10),
        dataset="fashion-mnist",
    ),
    Network(
        name="mlp tanh three-layer",
        model="residual-mlp",
        options={"phi": "tanh", "block_depth": 3},
        width=48,
        depths=(2, 6),
        **_CIFAR,
    ),
    Network(
        name="mlp relu one-layer",
        model="residual-mlp",
        options={"block_depth": 1},
        width=64,
        depths=(6, 20),
        dataset="digits",
    ),
    Network(
        name="mlp relu, layer norm",
        model="residual-mlp",
        options={"norm": "layer"},
        width=40,
        depths=(2, 8),
        dataset="mnist",
    ),
    Network(
        name="conv tanh",
        model="conv-net",
        options={"phi": "tanh"},
        width=16,
        depths=(2, 6),
        dataset="digits",
    ),
    Network(
        name="conv resnet pre, batch norm",
        model="conv-resnet",
        options={"block": "pre", "branch_init": "he/sqrt(K)", "norm": "batch"},
        width=12,
        depths=(3, 6),
        dataset="digits",
    ),
    Network(
        name="gpt gelu, rms norm",
        model="gpt",
        options={"norm": "rms"},
        width=48,
        depths=(1, 3),
        dataset="text",
        dataset_options={"context": 16},
    ),
    Network(
        name="vit relu",
        model="vit",
        options={"patch": 2, "phi": "relu"},
        width=48,
        depths=(1, 3),
        dataset="digits",
    ),
)
SETS: dict[Set, tuple[Network, ...]] = {"development": DEVELOPMENT, "used": USED, "evaluation": EVALUATION}


@functools.cache
def _loaded(name: str, options: tuple[tuple[str, Any], ...]) -> Dataset:
    """The real data where $ISOSCALE_DATA is set, else a synthetic set of that kind."""
    if name == "digits" or HAS_DATA:
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
        # The last loss alone would be that of one batch: a tenth of the steps, as in `isoscale.measure.confirm_lr`.
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
        # There is no text without a folder.
        if network.dataset == "text" and not HAS_DATA:
            continue
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
    """log2 of the best learning rate, the loss there, and whether the next half octave up diverges."""

    octave: float
    loss: float
    at_cliff: bool


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
        return Truth(float(centre), float(means[best]), has_cliff)
    a, b, c = np.polyfit(octaves[near] - centre, np.log(means[near]), 2)
    if a <= 0:
        return Truth(float(centre), float(means[best]), has_cliff)
    shift = float(np.clip(-b / (2 * a), -0.5, 0.0 if has_cliff else 0.5))
    loss = math.exp(a * shift**2 + b * shift + c)
    return Truth(float(centre) + shift, min(loss, float(means[best])), has_cliff)


# --- the race ---
@dataclass(frozen=True)
class Result:
    """One race against the truth.

    Attributes:
        octaves: log2 of the recommended learning rate over the swept optimum.
        regret: Mean loss at the recommended learning rate over the swept optimum's, minus 1; infinite where one of
            the sweep's seeds diverges at it.
        steps: What the race cost.
        max_update_octaves: As `octaves`, of the AM-muP estimate.
    """

    cell: Cell
    truth: Truth
    seed: int
    lr: float
    octaves: float
    regret: float
    steps: int
    max_update_octaves: float

    @property
    def is_good(self) -> bool:
        return abs(self.octaves) <= 1 or self.regret <= TOLERANCE


def raced(cell: Cell, seed: int) -> dict[str, float]:
    """Octaves that the race and the AM-muP estimate recommend, and the race's cost."""
    batches = cell.batches(seed, measure.RACE_BATCHES)
    found = measure.race_lr(cell.make, batches, cross_entropy, optimizer=cell.optimizer, seeds=[seed])
    assert found.max_update is not None
    return {
        "octave": math.log2(found.lr),
        "steps": found.steps,
        "max_update": math.log2(found.max_update.lr),
    }


def result(cell: Cell, truth: Truth, seed: int, memory: Memory) -> Result:
    race = memory.get(f"race {seed} {cell.key}", lambda: raced(cell, seed))
    octaves = [race["octave"]]
    (losses,) = memory.get(f"sweep {octaves} {cell.key}", lambda: cell.losses(octaves, SEEDS))
    return Result(
        cell=cell,
        truth=truth,
        seed=seed,
        lr=2.0 ** race["octave"],
        octaves=race["octave"] - truth.octave,
        regret=float(np.mean(losses)) / truth.loss - 1,
        steps=int(race["steps"]),
        max_update_octaves=race["max_update"] - truth.octave,
    )


def errors(results: Sequence[Result]) -> dict[str, measure.RaceError]:
    """By optimizer."""
    found: dict[str, measure.RaceError] = {}
    for optimizer in OPTIMIZERS:
        own = [one for one in results if one.cell.optimizer == optimizer]
        sizes = np.array([abs(one.octaves) for one in own])
        alone = np.array([abs(one.max_update_octaves) for one in own])
        found[optimizer] = measure.RaceError(
            optimizer=optimizer,
            networks=len({one.cell.key for one in own}),
            races=len(own),
            steps=STEPS,
            median=_rounded(np.median(sizes)),
            nine_in_ten=_rounded(np.quantile(sizes, 0.9, method="higher")),
            worst=_rounded(sizes.max()),
            good=_rounded(np.mean([one.is_good for one in own])),
            max_update_median=_rounded(np.median(alone)),
            max_update_nine_in_ten=_rounded(np.quantile(alone, 0.9, method="higher")),
            max_update_worst=_rounded(alone.max()),
        )
    return found


def _rounded(value: Any) -> float:
    return round(float(value), 2)


# --- the page ---
# Of each cell, the sweep's losses over seeds by octave.
Tables = Sequence[tuple[Cell, Mapping[float, Sequence[float]]]]


def page(results: Sequence[Result], found: Mapping[str, measure.RaceError], tables: Tables) -> str:
    """docs/results/lr-without-a-sweep.md."""
    lines = [
        "# A learning rate without a sweep",
        "",
        _summary(results, found),
        "",
        "    ISOSCALE_DATA=data python benchmarks/lr_race.py --write",
        "",
        _how(results),
        "",
        "| | goal | SGD | AdamW |",
        "| --- | --- | --- | --- |",
        *_goals(results, found),
        "",
        "In brackets 95 % bootstrap intervals over the networks. The swept optima, of three seeds, err as well.",
        "",
        _misses(results),
        "",
        _limits(tables),
        "",
        "An octave is a factor of two. *Regret*: loss at that learning rate over the swept optimum's, minus 1, both "
        "over the sweep's seeds; below 0 where the fitted optimum is not quite the best. "
        "AM-muP: the maximal-update learning rate from the same seed and batch, by itself.",
    ]
    for optimizer, title in zip(OPTIMIZERS, ("SGD", "AdamW"), strict=True):
        lines += [
            "",
            f"## {title}",
            "",
            "| network | depth | swept optimum | race (seed) | octaves | regret | AM-muP: octaves |",
            "| --- | --- | --- | --- | --- | --- | --- |",
        ]
        for one in results:
            if one.cell.optimizer == optimizer:
                lines.append(_row(one))
    return "\n".join(lines) + "\n"


def _summary(results: Sequence[Result], found: Mapping[str, measure.RaceError]) -> str:
    parts: list[str] = []
    for optimizer, title in zip(OPTIMIZERS, ("SGD", "AdamW"), strict=True):
        error = found[optimizer]
        parts.append(
            f"{title}: {error.median} octaves off in the median, {error.nine_in_ten} or less in nine of ten, "
            f"{error.worst} at worst (AM-muP alone: {error.max_update_median}, {error.max_update_nine_in_ten}, "
            f"{error.max_update_worst}); within one octave or {TOLERANCE:.0%} of the loss in {error.good:.0%}."
        )
    steps = [one.steps for one in results]
    return (
        f"A race of learning rates (`isoscale lr`, `isoscale.measure.race_lr`) costs {min(steps)} to {max(steps)} "
        f"training steps, mean {np.mean(steps):.0f}. How far its answer is from a swept optimum: " + " ".join(parts)
    )


def _how(results: Sequence[Result]) -> str:
    depths = len({(one.cell.network.name, one.cell.depth) for one in results})
    networks = len({one.cell.network.name for one in results})
    return (
        f"Measured on {networks} networks at two depths, {depths} in all, in their standard parametrization, "
        f"batch {BATCH}, race seeds {_listed(RACE_SEEDS['evaluation'])}. Swept optimum: {STEPS} steps, "
        "learning rates half an octave apart, loss averaged over the last tenth of the steps and over seeds "
        f"{_listed(SEEDS)}; vertex of the least-squares parabola of the log loss within an octave of the lowest. "
        "A learning rate at which one seed diverges counts as divergent; † marks an optimum half an octave below one. "
        "Data: 8x8 images of the 20,000 training images of CIFAR-10 that batches 1 and 2 hold, the images of "
        "Fashion-MNIST and MNIST that are in the folder, digits, and Tiny Shakespeare by characters. The race's rates, "
        f"steps and rules were chosen on {len(DEVELOPMENT) + len(USED)} other networks and other seeds (`DEVELOPMENT` "
        "and `USED` in the script; on the latter an earlier race had been measured). "
        "The swept losses are in [lr-without-a-sweep-runs.csv.gz](lr-without-a-sweep-runs.csv.gz). "
        f"torch {torch.__version__.split('+')[0]}."
    )


def _goals(results: Sequence[Result], found: Mapping[str, measure.RaceError]) -> Iterator[str]:
    diverged: list[str] = []
    for optimizer in OPTIMIZERS:
        own = [one for one in results if one.cell.optimizer == optimizer]
        count = sum(not math.isfinite(one.regret) for one in own)
        diverged.append(f"{_met(count == 0)} {count} of {len(own)}")
    cells = [found[optimizer] for optimizer in OPTIMIZERS]
    median_cells: list[str] = []
    share_cells: list[str] = []
    for error in cells:
        low, high = _interval(results, error.optimizer, lambda own: np.median([abs(one.octaves) for one in own]))
        median_cells.append(f"{_met(error.median <= MEDIAN)} {error.median} [{low:.2f}, {high:.2f}]")
        low, high = _interval(results, error.optimizer, lambda own: np.mean([one.is_good for one in own]))
        share_cells.append(f"{_met(error.good >= SHARE)} {error.good:.0%} [{low:.0%}, {high:.0%}]")
    medians = " | ".join(median_cells)
    shares = " | ".join(share_cells)
    yield f"| median, octaves | at most {MEDIAN} | {medians} |"
    yield f"| within one octave or {TOLERANCE:.0%} regret | in {SHARE:.0%} | {shares} |"
    yield f"| a seed of the sweep diverges at the recommended rate | never | {' | '.join(diverged)} |"
    costs: list[str] = []
    for optimizer in OPTIMIZERS:
        most = max(one.steps for one in results if one.cell.optimizer == optimizer)
        costs.append(f"{_met(most <= COST)} {most}")
    yield f"| cost at most, in training steps | {COST}, 1 % of 33 trials of 1,000 steps | {' | '.join(costs)} |"


def _misses(results: Sequence[Result]) -> str:
    """The networks on which a race was neither near nor good enough."""
    missed: dict[str, list[str]] = {}
    for one in results:
        if not one.is_good:
            name = f"{one.cell.network.name}, depth {one.cell.depth}, {one.cell.optimizer}"
            missed.setdefault(name, []).append(f"{one.octaves:+.2f} octaves and {_percent(one.regret)}")
    if not missed:
        return f"Every race is within one octave or {TOLERANCE:.0%} regret."
    listed = "; ".join(f"{name} ({', '.join(places)})" for name, places in missed.items())
    return f"Neither within one octave nor {TOLERANCE:.0%} regret: {listed}."


def _limits(tables: Tables) -> str:
    """How well a sweep itself knows its optimum, and how much depends on it."""
    parts: list[str] = []
    for optimizer, title in zip(OPTIMIZERS, ("SGD", "AdamW"), strict=True):
        own = [table for cell, table in tables if cell.optimizer == optimizer]
        apart = np.median([one for table in own for one in _scatter(table)])
        wide = np.median([_within(table) for table in own])
        parts.append(f"{title}: {apart:.2f} octaves, and {wide:.1f} octaves wide")
    return (
        "What can be asked of one seed: how far the optimum of one of the sweep's seeds is from that of its other two, "
        f"median, and how wide the rates are that end within {TOLERANCE:.0%} of the best, median over networks. "
        + "; ".join(parts)
        + "."
    )


def _scatter(table: Mapping[float, Sequence[float]]) -> Iterator[float]:
    """Octaves from the optimum of each seed to that of the others."""
    for place in range(len(SEEDS)):
        one = {octave: [losses[place]] for octave, losses in table.items()}
        others = {octave: [*losses[:place], *losses[place + 1 :]] for octave, losses in table.items()}
        yield abs(fitted(one).octave - fitted(others).octave)


def _within(table: Mapping[float, Sequence[float]]) -> float:
    """Octaves of the learning rates that end within the tolerance of the best; they are half an octave apart."""
    means = np.array([np.mean(losses) for losses in table.values()])
    return float(np.sum(means <= (1 + TOLERANCE) * means.min())) / 2


def _interval(
    results: Sequence[Result],
    optimizer: str,
    statistic: Callable[[Sequence[Result]], Any],
) -> tuple[float, float]:
    """95 % bootstrap interval over networks, whose races stay together."""
    by_cell: dict[str, list[Result]] = {}
    for one in results:
        if one.cell.optimizer == optimizer:
            by_cell.setdefault(one.cell.key, []).append(one)
    groups = list(by_cell.values())
    generator = np.random.default_rng(0)
    drawn: list[float] = []
    for _ in range(RESAMPLES):
        picked = generator.integers(len(groups), size=len(groups))
        drawn.append(float(statistic([one for index in picked for one in groups[index]])))
    low, high = np.quantile(drawn, [0.025, 0.975])
    return float(low), float(high)


def _met(is_met: bool) -> str:
    return "met:" if is_met else "missed:"


def _row(one: Result) -> str:
    mark = " †" if one.truth.at_cliff else ""
    cells = [
        one.cell.network.name,
        f"{one.cell.depth}",
        f"{2.0**one.truth.octave:.3g}{mark}",
        f"{one.lr:.3g} ({one.seed})",
        f"{one.octaves:+.2f}",
        _percent(one.regret),
        f"{one.max_update_octaves:+.2f}",
    ]
    return f"| {' | '.join(cells)} |"


def _percent(regret: float) -> str:
    if not math.isfinite(regret):
        return "diverges"
    # No "-0.0%".
    return f"{round(regret, 3) + 0.0:.1%}" if regret < 10 else "> 1000%"


def _listed(seeds: Sequence[int]) -> str:
    return ", ".join(str(seed) for seed in seeds)


def write(results: Sequence[Result], tables: Tables) -> None:
    """The page, its runs, and the numbers that the package quotes."""
    root = Path(__file__).parent.parent
    found = errors(results)
    numbers = {name: dataclasses.asdict(error) for name, error in found.items()}
    quoted = root / "src/isoscale/measure/race_error.json"
    quoted.write_text(json.dumps(numbers, indent=2) + "\n", encoding="utf-8")
    folder = root / "docs/results"
    (folder / "lr-without-a-sweep.md").write_text(page(results, found, tables), encoding="utf-8")
    text = io.StringIO()
    rows = csv.writer(text, lineterminator="\n")
    rows.writerow(["network", "depth", "optimizer", "log2_lr", "seed", "loss"])
    for cell, table in tables:
        for octave, losses in table.items():
            for seed, loss in zip(SEEDS, losses, strict=True):
                rows.writerow([cell.network.name, cell.depth, cell.optimizer, octave, seed, f"{loss:.6g}"])
    packed = gzip.compress(text.getvalue().encode(), mtime=0)
    (folder / "lr-without-a-sweep-runs.csv.gz").write_bytes(packed)


@dataclass(frozen=True)
class Benchmark:
    """What to measure."""

    set: Set = "evaluation"
    memory: Path = Path("lr-race.json")
    """Where finished work is kept."""
    write: bool = False
    """Write the page in docs/results and the numbers in the package, of the evaluation set."""


def main() -> int:
    torch.set_num_threads(1)
    torch.set_flush_denormal(True)
    chosen = tyro.cli(Benchmark, description=__doc__)
    memory = Memory(chosen.memory)
    out = Console(width=160)
    table = Table("network", "depth", "optimizer", "swept", "race", "octaves", "regret", "AM-muP: octaves", "steps")
    results: list[Result] = []
    tables: list[tuple[Cell, dict[float, list[float]]]] = []
    for cell in cells(chosen.set):
        losses = swept(cell, memory)
        tables.append((cell, losses))
        truth = fitted(losses)
        for seed in RACE_SEEDS[chosen.set]:
            one = result(cell, truth, seed, memory)
            results.append(one)
            row = [cell.network.name, f"{cell.depth}", cell.optimizer, f"{2.0**truth.octave:.3g}", f"{one.lr:.3g}"]
            row += [f"{one.octaves:+.2f}", _percent(one.regret), f"{one.max_update_octaves:+.2f}", f"{one.steps}"]
            table.add_row(*row)
    out.print(table)
    for error in errors(results).values():
        out.print(error)
    if chosen.write:
        if chosen.set != "evaluation" or not HAS_DATA:
            out.print("`--write` writes the evaluation set, on which nothing was chosen, on the data of $ISOSCALE_DATA")
            return 2
        write(results, tables)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
