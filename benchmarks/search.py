"""What an adaptive search costs and how often its verdict is right, on landscapes whose truth is known.

Each replication searches the base (pilot, bracket, cliff) and then the target, started from the base's optimum, with
the base's rate trained there; the verdict is that of `isoscale.stats.judge`. Beside it, the grid of one octave between
2^-10 and 2^0 that the same verdict would be read off.

    python benchmarks/search.py --replications 200 --seed 1
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import tyro
from rich.console import Console
from rich.table import Table

from isoscale.runs.search import Grid, Search
from isoscale.stats import Limits, judge
from isoscale.stats.simulated import FAMILIES, Family, Landscape, landscapes
from verdict import DRIFT, holds  # pyrefly: ignore[missing-import]

STEPS = 100
GRID = tuple(2.0**k for k in range(-10, 1))


@dataclass(frozen=True)
class Benchmark:
    """What to simulate."""

    replications: int = 200
    seed: int = 1
    """Of every draw."""
    seeds: tuple[int, ...] = (3, 5)
    """Seeds that every search trains with."""


def run(search: Search | Grid, land: Landscape) -> None:
    """Train what the search asks for."""
    while requests := search.wanted():
        for request in requests:
            losses = {}
            for lr in request.lrs:
                for seed in request.seeds:
                    losses[lr, seed] = land.loss(lr, seed, is_short=request.steps < STEPS)
            search.tell(losses, request.steps)


@dataclass
class Tally:
    """What became of the replications of one row."""

    trials: list[float]
    widths: list[float]
    covered: int
    answers: dict[str, int]
    false_yes: int = 0
    false_no: int = 0


def searched(family: Family, seeds: int, settings: Benchmark, *, adaptive: bool) -> Tally:
    """All replications of one family."""
    rng = np.random.default_rng([settings.seed, seeds, int(adaptive), FAMILIES.index(family)])
    tally = Tally([], [], 0, {"transfers": 0, "does not transfer": 0, "cannot tell": 0})
    limit = Limits().regret
    for _ in range(settings.replications):
        drift = float(rng.uniform(-DRIFT, DRIFT))
        base, target, truth = landscapes(family, seeds=seeds, drift=drift, rng=rng)
        numbers = tuple(range(seeds))
        if adaptive:
            first: Search | Grid = Search(low=GRID[0], high=GRID[-1], seeds=numbers, steps=STEPS)
            run(first, base)
            found = first.optimum
            inside = not found.edge
            second: Search | Grid = Search(
                low=GRID[0],
                high=GRID[-1],
                seeds=numbers,
                steps=STEPS,
                start=2.0**found.log2_lr if inside else None,
                also=(2.0**found.rate,) if inside else (),
            )
        else:
            first = Grid(lrs=GRID, seeds=numbers, steps=STEPS, extends=False)
            run(first, base)
            second = Grid(lrs=GRID, seeds=numbers, steps=STEPS, extends=False)
        run(second, target)
        verdict = judge(first.curve, second.curve)
        numbers_ = verdict.numbers
        tally.trials.append((first.full_trials + second.full_trials) / 2)
        tally.widths.append((numbers_.drift_high - numbers_.drift_low) / 2)
        tally.covered += holds(numbers_.drift_low, truth.drift, numbers_.drift_high)
        tally.answers[verdict.answer] += 1
        regret = truth.regret(numbers_.rate) if math.isfinite(numbers_.rate) else math.nan
        tally.false_yes += verdict.answer == "transfers" and regret > limit
        is_fine = regret <= limit and truth.lost(numbers_.rate) == 0
        tally.false_no += verdict.answer == "does not transfer" and is_fine
    return tally


def main(settings: Benchmark) -> None:
    table = Table(
        "family",
        "seeds",
        "search",
        "trials per optimum",
        "drift ± octaves",
        "covers",
        "open",
        "yes / no / cannot tell",
        "false yes",
        "false no",
    )
    for family in FAMILIES:
        for seeds in settings.seeds:
            for adaptive in (False, True):
                tally = searched(family, seeds, settings, adaptive=adaptive)
                known = [width for width in tally.widths if math.isfinite(width)]
                table.add_row(
                    family.name,
                    str(seeds),
                    "adaptive" if adaptive else "grid",
                    f"{np.mean(tally.trials):.1f} (most {max(tally.trials):.1f})",
                    f"{np.median(known):.2f}" if known else "open",
                    f"{tally.covered / settings.replications:.2f}",
                    f"{1 - len(known) / settings.replications:.2f}",
                    " / ".join(str(count) for count in tally.answers.values()),
                    str(tally.false_yes),
                    str(tally.false_no),
                )
    Console(width=140).print(table)
    Console().print(f"{settings.replications} replications a row, seed {settings.seed}")


if __name__ == "__main__":
    main(tyro.cli(Benchmark))
