"""What stopping hopeless trials saves a search, and whether its answer stays: built-in networks, with and without.

Every case, one network under one optimizer and rule, is searched at a base and at a deeper size, as `isoscale transfer`
does it, twice: hopeless trials stopped, and every trial to its end. Trials are counted by the steps that they took.
What was stopped is then trained to its end: it was stopped wrongly if it ends within the verdict's limit of regret of
the best of its seed. What was trained is kept, so that a benchmark that was interrupted goes on, and trials that both
searches ask for are trained once.

    python benchmarks/early_stop.py --folder early-stop --page docs/results/early-stopping.md
"""

from __future__ import annotations

import dataclasses
import math
import shutil
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import tyro
from rich.console import Console
from scipy import stats

from isoscale import Sweep, log2_grid, sweep, transfer
from isoscale.runs.result import STATUS
from isoscale.stats import Limits
from isoscale.studies.transfer import Transfer

KINDS: dict[str, dict[str, Any]] = {
    "mlp relu": {
        "model": "residual-mlp",
        "model_args": {"block_depth": 2, "phi": "relu"},
        "widths": [32],
        "depths": [2, 8],
        "dataset": "digits",
    },
    "mlp tanh, one layer": {
        "model": "residual-mlp",
        "model_args": {"block_depth": 1, "phi": "tanh"},
        "widths": [32],
        "depths": [2, 8],
        "dataset": "digits",
    },
    "mlp gelu, layer norm": {
        "model": "residual-mlp",
        "model_args": {"block_depth": 2, "phi": "gelu", "norm": "layer"},
        "widths": [32],
        "depths": [2, 8],
        "dataset": "synthetic",
        "dataset_args": {"accuracy": 0.7, "train": 6400},
    },
    "vit": {
        "model": "vit",
        "model_args": {"patch": 4},
        "widths": [16],
        "depths": [1, 4],
        "dataset": "synthetic",
        "dataset_args": {"size": 8, "channels": 3, "train": 6400, "accuracy": 0.7},
    },
}
LRS = {"sgd": log2_grid(-10, 2), "adamw": log2_grid(-12, 0), "muon": log2_grid(-10, 2)}
# Network, optimizer, rule.
CASES = (
    ("mlp relu", "sgd", "completep"),
    ("mlp relu", "sgd", "depth-mup"),
    ("mlp relu", "sgd", "sp"),
    ("mlp relu", "adamw", "completep"),
    ("mlp relu", "adamw", "mup"),
    ("mlp tanh, one layer", "sgd", "depth-mup"),
    ("mlp tanh, one layer", "sgd", "sp"),
    ("mlp tanh, one layer", "adamw", "depth-mup"),
    ("mlp gelu, layer norm", "sgd", "completep"),
    ("mlp gelu, layer norm", "adamw", "completep"),
    ("mlp gelu, layer norm", "adamw", "sp"),
    ("mlp gelu, layer norm", "muon", "completep"),
    ("vit", "sgd", "completep"),
    ("vit", "adamw", "completep"),
    ("vit", "adamw", "sp"),
)
SEEDS = 3
# Goal, in full-trial equivalents per optimum.
COST = 25


class Optimum(NamedTuple):
    """Octaves, log2 of the learning rate; NaN where an end is open."""

    low: float
    at: float
    high: float


@dataclass(frozen=True, kw_only=True)
class Search:
    """What one search of both sizes found and took.

    Attributes:
        trials, stopped: How many.
        full_trials: As many full trials took as many steps, per optimum.
        optima: At each size.
        verdict: In words.
    """

    trials: int
    stopped: int
    full_trials: float
    optima: list[Optimum]
    verdict: str


@dataclass(frozen=True, kw_only=True)
class Result:
    """Both searches of a case; `wrongly` of the stopped trials would have ended well."""

    case: tuple[str, str, str]
    stopping: Search
    whole: Search
    wrongly: int

    @property
    def moved(self) -> float:
        """Octaves that the optimum of a size moves at most."""
        pairs = zip(self.stopping.optima, self.whole.optima, strict=True)
        return max(abs(one.at - other.at) for one, other in pairs)

    @property
    def is_outside(self) -> bool:
        """Whether some size's optimum of one search is outside of the other's interval."""
        for one, other in zip(self.stopping.optima, self.whole.optima, strict=True):
            if not (_holds(one, other.at) and _holds(other, one.at)):
                return True
        return False


def _holds(interval: Optimum, value: float) -> bool:
    # An open end is NaN and holds whatever lies beyond.
    return not (value < interval.low - 1e-9 or value > interval.high + 1e-9)


def spec(case: tuple[str, str, str], *, early_stop: bool) -> Sweep:
    kind, optimizer, rule = case
    return Sweep(
        **KINDS[kind],
        optimizer=optimizer,
        rule=rule,
        lrs=LRS[optimizer],
        seeds=SEEDS,
        early_stop=early_stop,
    )


def measured(case: tuple[str, str, str], folder: Path) -> Result:
    name = " ".join(case).replace(",", "").replace(" ", "-")
    # A search finds whatever its store holds: each has one of its own, and begins with what was trained before, so that
    # no trial is trained twice; those that were stopped are trained anew, to their end.
    first, second, third = (folder / f"{name}-{part}.db" for part in ("stopping", "whole", "ended"))
    stopping = transfer(spec(case, early_stop=True), limits=Limits(), store=first)
    if not second.exists():
        shutil.copy(first, second)
    whole = transfer(spec(case, early_stop=False), limits=Limits(), store=second)
    if not third.exists():
        shutil.copy(second, third)
    return Result(
        case=case,
        stopping=_search(stopping),
        whole=_search(whole),
        wrongly=_wrongly(case, stopping, third),
    )


def _search(found: Transfer) -> Search:
    assert found.result is not None
    searched = found.result.searched
    assert searched is not None
    of_rule = found.data.isel(rule=0)
    optima: list[Optimum] = []
    for size in found.data[found.axis].values.tolist():
        at = of_rule.sel({found.axis: size})
        ends = [math.log2(float(at[name])) for name in ("optimal_lr_low", "optimal_lr", "optimal_lr_high")]
        optima.append(Optimum(*ends))
    return Search(
        trials=searched.trials,
        stopped=searched.stopped,
        full_trials=searched.full_trials / searched.optima,
        optima=optima,
        verdict=str(of_rule["verdict"].item()),
    )


def _wrongly(case: tuple[str, str, str], stopping: Transfer, store: Path) -> int:
    """How many of the stopped trials end within the limit of regret of the best of their seed and size."""
    assert stopping.result is not None
    data = stopping.result.data.squeeze(drop=True)
    wrongly = 0
    for depth in data["depth"].values.tolist():
        at_depth = data.sel(depth=depth)
        is_stopped = at_depth["status"] == STATUS["stopped"]
        lrs = at_depth["lr"].values[is_stopped.any("seed").values].tolist()
        if not lrs:
            continue
        grid = dataclasses.replace(spec(case, early_stop=False), depths=[depth], lrs=lrs, search="grid")
        to_the_end = sweep(grid, store=store).data["loss"].squeeze(["rule", "width", "depth"], drop=True)
        for lr in lrs:
            for seed in data["seed"].values.tolist():
                if not bool(is_stopped.sel(lr=lr, seed=seed)):
                    continue
                least = float(at_depth["loss"].sel(seed=seed).min())
                # NaN, which is no smaller, where it diverges.
                wrongly += bool(float(to_the_end.sel(lr=lr, seed=seed)) <= least * (1 + Limits().regret))
    return wrongly


# --- the page ---
def page(results: Sequence[Result]) -> str:
    steps = spec(CASES[0], early_stop=True).steps
    share = spec(CASES[0], early_stop=True).hopeless
    sizes: list[str] = []
    for name, kind in KINDS.items():
        base, target = kind["depths"]
        sizes.append(f"{name}: width {kind['widths'][0]}, depths {base} and {target}")
    lines = [
        "# Stopping hopeless trials",
        "",
        "`isoscale transfer` stops a full trial after a quarter or half of its steps if its loss has fallen by less "
        f"than {share:g} of what the best trial's of that size had fallen by then (`early_stop`, `hopeless`). What "
        "that saves, and whether the answer stays:",
        "",
        *_summary(results),
        "",
        "    python benchmarks/early_stop.py --page docs/results/early-stopping.md",
        "",
        f"Each row is a search at a base and at a deeper size, with and without; {SEEDS} seeds, {steps} steps, batch "
        "32. *Cost*: full-trial equivalents per optimum, each trial counted by the steps that it took, with pilots. "
        "*Moved*: octaves (factors of two) by which the optimum of either size differs, at most; † outside of the "
        "other search's 95 % interval. *Wrongly*: stopped trials that, trained to their end, come within "
        f"{Limits().regret:.0%} of the best of their seed.",
        "",
        "| network | optimizer | rule | cost without | with | stopped | wrongly | moved | verdict without | with |",
        "| --- | --- | --- | --- | --- | --- | --- | --- | --- | --- |",
        *(_row(one) for one in results),
        "",
        f"Sizes: {'; '.join(sizes)}. Data: digits for networks without a norm, synthetic for the others.",
    ]
    return "\n".join(lines) + "\n"


def _summary(results: Sequence[Result]) -> Iterator[str]:
    without = np.array([one.whole.full_trials for one in results])
    saved = np.array([1 - one.stopping.full_trials / one.whole.full_trials for one in results])
    some = [one for one in results if one.stopping.stopped]
    stopped = sum(one.stopping.stopped for one in results)
    trials = sum(one.stopping.trials for one in results)
    wrongly = sum(one.wrongly for one in results)
    dear = sum(one.stopping.full_trials > COST for one in results)
    changed = sum(one.stopping.verdict != one.whole.verdict for one in results)
    outside = sum(one.is_outside for one in results)
    yield (
        f"* Cost: {without.mean():.1f} full-trial equivalents per optimum without, "
        f"{np.mean([one.stopping.full_trials for one in results]):.1f} with, mean of {len(results)} cases; "
        f"saved {saved.mean():.0%}, at most {saved.max():.0%}, at least {saved.min():.0%}. With it {dear} of "
        f"{len(results)} cases cost more than the {COST} that a search of {SEEDS} seeds is meant to cost."
    )
    yield "* So little, because a pilot of one seed and a quarter of the steps has left most hopeless rates out before."
    yield f"* {stopped} of {trials} trials were stopped, in {len(some)} of {len(results)} cases."
    if stopped:
        ends = stats.binomtest(wrongly, stopped).proportion_ci(method="wilson")
        yield f"* Stopped wrongly: {wrongly} of {stopped} ({wrongly / stopped:.1%} [{ends.low:.1%}, {ends.high:.1%}])."
    yield (
        f"* Verdicts that differ: {changed} of {len(results)}; optima outside of the other search's interval: in "
        f"{outside} of {len(results)} cases; the largest move is {max(one.moved for one in results):.2f} octaves."
    )


def _row(one: Result) -> str:
    cells = [
        *one.case,
        f"{one.whole.full_trials:.1f}",
        f"{one.stopping.full_trials:.1f}",
        f"{one.stopping.stopped} of {one.stopping.trials}",
        f"{one.wrongly}",
        f"{one.moved:.2f}{' †' if one.is_outside else ''}",
        one.whole.verdict,
        one.stopping.verdict,
    ]
    return f"| {' | '.join(cells)} |"


@dataclass(frozen=True)
class Benchmark:
    """Where things go."""

    folder: Path = Path("early-stop")
    """Keeps the trials."""
    page: Path | None = None
    """Page to write."""


def main(settings: Benchmark) -> None:
    settings.folder.mkdir(exist_ok=True, parents=True)
    out = Console(width=200)
    results: list[Result] = []
    for case in CASES:
        results.append(measured(case, settings.folder))
        out.print(_row(results[-1]))
    out.print("\n".join(_summary(results)))
    if settings.page is not None:
        settings.page.write_text(page(results), encoding="utf-8")


if __name__ == "__main__":
    main(tyro.cli(Benchmark))
