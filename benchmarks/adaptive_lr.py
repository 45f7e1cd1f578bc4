"""The adaptive search for the best learning rate against the 80-point grid, for the same interval.

For each network and depth the grid of the papers' size, 80 learning rates over 13.2 octaves with every seed, gives an
optimum and the half-width of its 95 % interval over seeds. The search is then asked for that half-width, and may use
more seeds to reach it. Its trials are counted whole: a pilot of a quarter of the steps counts as one.
"""

from __future__ import annotations

import math
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import tyro
from isoscale.studies.depth_law.search import LATTICE, Exhaustive, Search, half_width
from rich.console import Console
from rich.table import Table

from isoscale import stats as laws
from isoscale.runs import Sweep, log2_grid
from isoscale.studies.depth_law.runs import Curve, run_searches

TARGET = 1 / 3
_LRS = log2_grid(-13, 1 / 6, 6)


@dataclass(frozen=True)
class Benchmark:
    """What to search."""

    width: int = 8
    depths: tuple[int, ...] = (3, 6)
    steps: int = 30
    seeds: int = 3
    most_seeds: int = 6
    workers: int = 1
    quick: bool = False
    """One depth and a few steps: to see that it runs."""


def curves(chosen: Benchmark) -> dict[Curve, Sweep]:
    models = {
        "conv-net": {"init": "he"},
        "conv-resnet": {"branch_init": "he/sqrt(K)", "block": "pre"},
        "residual-mlp": {"block_depth": 2},
    }
    return {
        Curve(model, depth): Sweep(
            model=model,
            model_args=args,
            rule="sp",
            widths=[chosen.width],
            depths=[depth],
            lrs=_LRS,
            seeds=chosen.seeds,
            steps=8 if chosen.quick else chosen.steps,
            batch_size=32,
        )
        for model, args in models.items()
        for depth in chosen.depths[: 1 if chosen.quick else None]
    }


def adaptive(spec: Sweep, grid: Exhaustive, most_seeds: int) -> Search:
    """A search for the grid's own half-width."""
    best = laws.optimal_lr(grid.loss)
    target = max(half_width(best), 0.5 / LATTICE) if best.at_edge.item() == "" else 0.125
    more = tuple(range(len(grid.seeds), most_seeds))
    ends = {"low": spec.lrs[0], "high": spec.lrs[-1]}
    return Search(**ends, seeds=grid.seeds, steps=spec.steps, target=target, more_seeds=more)


def run(chosen: Benchmark) -> tuple[Table, float, float]:
    """The table; trials and half-width of the search over those of the grid."""
    specs = curves(chosen)
    grids = {
        curve: Exhaustive(lrs=tuple(spec.lrs), seeds=tuple(range(chosen.seeds)), steps=spec.steps)
        for curve, spec in specs.items()
    }
    with tempfile.TemporaryDirectory() as folder:
        places = {"workers": chosen.workers, "device": "cpu"}
        run_searches(specs, grids, store=Path(folder, "grid.db"), **places)
        searches = {curve: adaptive(spec, grids[curve], chosen.most_seeds) for curve, spec in specs.items()}
        run_searches(specs, searches, store=Path(folder, "search.db"), **places)
    return _table(grids, searches)


def _table(grids: Mapping[Curve, Exhaustive], searches: Mapping[Curve, Search]) -> tuple[Table, float, float]:
    columns = ("network", "depth", "grid: lr", "± octaves", "trials", "search: lr", "± octaves", "trials", "seeds")
    table = Table(*columns, "apart, octaves")
    widths = []
    for curve, search in searches.items():
        grid, (theirs, ours) = grids[curve], (laws.optimal_lr(of.loss) for of in (grids[curve], search))
        halves = [half_width(best) for best in (theirs, ours)]
        widths.append(halves)
        apart = math.log2(float(ours.lr) / float(theirs.lr))
        cells = [curve.network, f"{curve.depth}", f"{float(theirs.lr):.4g}", f"{halves[0]:.2f}", f"{_published(grid)}"]
        cells += [f"{float(ours.lr):.4g}", f"{halves[1]:.2f}", f"{search.trials}", f"{search.loss.sizes['seed']}"]
        table.add_row(*cells, f"{apart:+.2f}")
    share = sum(search.trials for search in searches.values()) / sum(_published(grid) for grid in grids.values())
    # An interval may shrink to nothing where all seeds agree; a sixteenth of an octave is the finest step.
    floor = 0.5 / LATTICE
    ratios = [math.log(max(ours, floor) / max(theirs, floor)) for theirs, ours in widths if theirs == theirs]
    return table, share, math.exp(float(np.mean(ratios)))


def _published(grid: Exhaustive) -> int:
    """Trials of the grid itself: what it took to extend it must not make the search look better."""
    return len(grid.lrs) * len(grid.seeds)


def main() -> int:
    chosen = tyro.cli(Benchmark, description=__doc__)
    out = Console(width=120)
    table, share, width = run(chosen)
    out.print(table)
    passed = share <= TARGET and (width <= 1.1 or chosen.quick)
    out.print(f"trials {share:.0%} of the grid's (target {TARGET:.0%}), interval {width:.2f} times the grid's")
    out.print("passed" if passed else "FAILED")
    return 0 if passed else 1


if __name__ == "__main__":
    raise SystemExit(main())
