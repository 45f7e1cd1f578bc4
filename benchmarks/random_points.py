"""How often verdicts on random points of two hyperparameters are right, on losses whose truth is known.

Learning rate and weight decay are Sobol points of a square, as in `search="random"`. The loss is that of a family of
`benchmarks/verdict.py` along the learning rate, times a bowl along the decay, tilted against the rate. Both questions
are asked: with the decay at its best for each rate, and held at the base's best. Columns are those of that benchmark;
the truth along the learning rate does not depend on the decay but for the tilt, which moves both sizes alike.

    python benchmarks/random_points.py --replications 100 --seed 7
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import pandas as pd
import tyro
from rich.console import Console
from rich.table import Table
from scipy.stats import qmc

from isoscale.stats import Limits, judge
from isoscale.stats.simulated import FAMILIES, Family, Landscape, landscapes
from isoscale.studies.along import Along, Others, curves
from isoscale.studies.judged import Axis
from verdict import DRIFT, Counts, holds

AXIS = Axis("depth", [4, 32], 4)
ALONG = Along("lr", ("weight_decay",))
# Log loss per squared octave of decay, and per octave of rate and of decay.
BOWL, TILT = 0.02, 0.01


@dataclass(frozen=True)
class Benchmark:
    """What to simulate."""

    replications: int = 100
    seed: int = 7
    seeds: int = 3
    points: tuple[int, ...] = (16, 32)
    others: tuple[Others, ...] = ("best", "held")


def runs(size: int, landscape: Landscape, seeds: int, points: np.ndarray, best: float) -> pd.DataFrame:
    """The runs of one size: every point with every seed."""
    rows = []
    for rate, decay in points:
        lr, octaves = 2.0**rate, decay - best
        factor = math.exp(BOWL * octaves**2 + TILT * octaves * (rate + 5))
        for seed in range(seeds):
            rows.append(("-", size, lr, 2.0**decay, seed, factor * landscape.loss(lr, seed)))
    return pd.DataFrame(rows, columns=["rule", "depth", "lr", "weight_decay", "seed", "loss"])


def replicate(
    counts: Counts, family: Family, points: int, seeds: int, others: Others, rng: np.random.Generator
) -> None:
    """Draw one pair of sizes and count what the verdict makes of it."""
    base, target, pair = landscapes(family, seeds=seeds, drift=rng.uniform(-DRIFT, DRIFT), rng=rng)
    square = qmc.Sobol(2, seed=rng).random(points) * (11, 8) + (-10.5, -8)
    best = -4 + rng.uniform(-0.5, 0.5)
    table = pd.concat([runs(4, base, seeds, square, best), runs(32, target, seeds, square, best)])
    of_size, _ = curves(table, AXIS, ALONG, others)
    found = judge(of_size[4], of_size[32])
    numbers = found.numbers
    counts.optimum += holds(found.target.low, pair.optima[1], found.target.high)
    counts.drift += holds(numbers.drift_low, pair.drift, numbers.drift_high)
    counts.opened += math.isnan(numbers.drift_low + numbers.drift_high)
    counts.yes += found.answer == "transfers"
    counts.no += found.answer == "does not transfer"
    if not math.isfinite(numbers.regret):
        return
    truth = pair.regret(numbers.rate)
    counts.regrets += 1
    unit = numbers.loss_tuned
    counts.regret += holds(numbers.regret_low / unit, truth, numbers.regret_high / unit)
    limit = Limits().regret
    counts.false_yes += found.answer == "transfers" and truth > limit
    counts.false_no += found.answer == "does not transfer" and truth <= limit and pair.lost(numbers.rate) == 0


def main(chosen: Benchmark) -> None:
    table = Table(title=f"{chosen.replications} replications a cell, {chosen.seeds} seeds, seed {chosen.seed}")
    names = ("optimum", "drift", "regret", "open", "yes", "no", "false yes", "false no")
    for name in ("family", "points", "others", *names):
        table.add_column(name)
    for number, family in enumerate(FAMILIES):
        for points in chosen.points:
            for others in chosen.others:
                rng = np.random.default_rng([chosen.seed, number, points])
                counts = Counts()
                for _ in range(chosen.replications):
                    replicate(counts, family, points, chosen.seeds, others, rng)
                shares = [counts.optimum, counts.drift, counts.regret, counts.opened]
                shares += [counts.yes, counts.no, counts.false_yes, counts.false_no]
                of = [chosen.replications] * len(shares)
                of[2] = max(counts.regrets, 1)
                cells = [f"{share / total:.2f}" for share, total in zip(shares, of, strict=True)]
                table.add_row(family.name, str(points), others, *cells)
    Console(width=120).print(table)


if __name__ == "__main__":
    main(tyro.cli(Benchmark))
