"""How often the verdict's intervals hold the truth, and how often it is wrong, on curves whose truth is known.

Each cell of the table is a family of loss curves, a spacing of learning rates and a number of seeds; each replication
draws the two sizes, with a drift anywhere between -1.5 and 1.5 octaves, and judges them. A false "transfers" has a true
regret above the limit; a false "does not transfer" has one below it and loses no seed in truth.

    python benchmarks/verdict.py --replications 400 --seed 1

prints the table of docs/verdict.md.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import tyro
from rich.console import Console
from rich.table import Table

from isoscale.stats import Limits, Verdict, judge
from isoscale.stats.simulated import FAMILIES, Family, Pair, draw

SPACINGS = {"1": 1.0, "1/2": 0.5, "scattered": None}
SEEDS = (2, 3, 5, 8)
DRIFT = 1.5


@dataclass(frozen=True)
class Benchmark:
    """What to simulate."""

    replications: int = 400
    seed: int = 1
    """Of every draw; the statistics were developed on other seeds."""
    families: tuple[str, ...] = tuple(family.name for family in FAMILIES)


@dataclass
class Counts:
    """What happened in the replications of one cell."""

    optimum: int = 0
    drift: int = 0
    regret: int = 0
    regrets: int = 0
    opened: int = 0
    yes: int = 0
    no: int = 0
    false_yes: int = 0
    false_no: int = 0


def holds(low: float, truth: float, high: float) -> bool:
    """Whether an interval holds the truth; an end that is NaN is open."""
    above = math.isnan(low) or low <= truth + 1e-9
    below = math.isnan(high) or truth <= high + 1e-9
    return above and below


def replicate(counts: Counts, family: Family, spacing: float | None, seeds: int, rng: np.random.Generator) -> None:
    """Draw one pair of sizes and count what the verdict makes of it."""
    pair = draw(family, seeds=seeds, spacing=spacing, drift=rng.uniform(-DRIFT, DRIFT), rng=rng)
    count(counts, pair, judge(pair.base, pair.target))


def count(counts: Counts, pair: Pair, found: Verdict) -> None:
    """Hold a verdict to the truth."""
    numbers = found.numbers
    counts.optimum += holds(found.target.low, pair.optima[1], found.target.high)
    counts.drift += holds(numbers.drift_low, pair.drift, numbers.drift_high)
    counts.opened += math.isnan(numbers.drift_low + numbers.drift_high)
    counts.yes += found.answer == "transfers"
    counts.no += found.answer == "does not transfer"
    if not math.isfinite(numbers.regret):
        # Nothing trains at the rate used, or nothing is known there: there is no regret to speak of.
        return
    truth = pair.regret(numbers.rate)
    counts.regrets += 1
    unit = numbers.loss_tuned
    counts.regret += holds(numbers.regret_low / unit, truth, numbers.regret_high / unit)
    limit = Limits().regret
    counts.false_yes += found.answer == "transfers" and truth > limit
    counts.false_no += found.answer == "does not transfer" and truth <= limit and pair.lost(numbers.rate) == 0


def main(chosen: Benchmark) -> None:
    table = Table(title=f"{chosen.replications} replications a cell, seed {chosen.seed}")
    names = ("optimum", "drift", "regret", "open", "yes", "no", "false yes", "false no")
    for name in ("family", "octaves", "seeds", *names):
        table.add_column(name)
    for number, family in enumerate(FAMILIES):
        if family.name not in chosen.families:
            continue
        for place, (label, spacing) in enumerate(SPACINGS.items()):
            for seeds in SEEDS:
                rng = np.random.default_rng([chosen.seed, number, place, seeds])
                counts = Counts()
                for _ in range(chosen.replications):
                    replicate(counts, family, spacing, seeds, rng)
                shares = [counts.optimum, counts.drift, counts.regret, counts.opened]
                shares += [counts.yes, counts.no, counts.false_yes, counts.false_no]
                of = [chosen.replications] * len(shares)
                of[2] = max(counts.regrets, 1)
                cells = [f"{share / total:.3f}" for share, total in zip(shares, of, strict=True)]
                table.add_row(family.name, label, str(seeds), *cells)
    Console(width=120).print(table)


if __name__ == "__main__":
    main(tyro.cli(Benchmark))
