"""What isoscale adds to the code of a user's: processor time a trial of a function costs, and that of verdicts on runs.

All of it is the processor's time, which other programs do not lengthen: of a sweep that of the driver and its workers
together, and of two sweeps the difference, so that starting the workers is not counted. Exits with 1 if a target is
missed.
"""

from __future__ import annotations

import os
import statistics
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import tyro
from rich.console import Console
from rich.table import Table

import isoscale
from isoscale import Sweep, log2_grid
from isoscale.runs import Store, TrialRecord, driver, worker


@dataclass(frozen=True)
class Benchmark:
    """How much of each."""

    trials: tuple[int, int] = (80, 880)
    """Trials of the two sweeps."""
    repetitions: int = 3


def bowl(trial: Any) -> float:
    """A function that takes no time."""
    return 1.0 + 0.01 * (np.log2(trial.lr) + 6) ** 2 - 0.001 * trial.width


def spec_of(trials: int, seeds: int) -> Sweep:
    lrs = log2_grid(-10, -3)
    widths = [64 * (1 + k) for k in range(trials // (len(lrs) * seeds))]
    return Sweep(train=bowl, widths=widths, base_width=64, lrs=lrs, seeds=seeds, steps=1, search="grid")


# --- what is timed ---
def of_sweep(trials: int) -> float:
    """Seconds of the processor for a sweep, those of its worker included."""
    with tempfile.TemporaryDirectory() as folder:
        before = os.times()
        isoscale.sweep(spec_of(trials, seeds=5), store=Path(folder) / "s.db", workers=1)
        after = os.times()
    return sum(after[:4]) - sum(before[:4])


def of_a_trial(chosen: Benchmark) -> list[float]:
    few, many = chosen.trials
    return [(of_sweep(many) - of_sweep(few)) / (many - few) for _ in range(chosen.repetitions)]


def runs(count: int) -> pd.DataFrame:
    """Runs of three sizes at scattered rates."""
    rng = np.random.default_rng(0)
    widths = np.repeat([64, 128, 256], count // 3)
    log2_lr = rng.uniform(-10, -3, len(widths))
    best = -6 + 0.1 * rng.standard_normal(len(widths))
    loss = 3 - 0.2 * np.log2(widths / 64) + 0.05 * (log2_lr - best) ** 2
    seeds = rng.integers(0, 5, len(widths))
    return pd.DataFrame({"width": widths, "lr": 2**log2_lr, "seed": seeds, "loss": loss})


def timed(work: Callable[[], Any], repetitions: int) -> list[float]:
    times = []
    for _ in range(repetitions):
        began = time.process_time()
        work()
        times.append(time.process_time() - began)
    return times


def of_a_store(repetitions: int) -> list[float]:
    """Seconds for the verdict on 10,000 trials of a function that a store holds: nothing is left to run."""
    spec = spec_of(10_000, seeds=250)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "s.db"
        ended: dict[str, Any] = {"status": "done", "reason": "", "test_loss": np.nan, "test_accuracy": np.nan}
        rng = np.random.default_rng(0)
        records: list[TrialRecord] = []
        for shard in driver.prepare(spec, store=path):
            (member,) = shard.members
            loss = 1 + 0.01 * (np.log2(member.lr) + 6) ** 2 + 0.001 * rng.standard_normal()
            records.append(worker.record(shard, member, "{}", curve=np.array([loss], "f4"), **ended))
        with Store(path) as store:
            store.record(records)
        return timed(lambda: isoscale.transfer(spec, store=path), repetitions)


def main() -> int:
    chosen = tyro.cli(Benchmark, description=__doc__)
    table = Table("what", "of the processor: median (min to max)", "target", box=None)
    missed = False

    def row(what: str, seconds: list[float], most: float) -> None:
        nonlocal missed
        median = statistics.median(seconds)
        missed |= median > most
        spread = f"({1e3 * min(seconds):,.1f} to {1e3 * max(seconds):,.1f})"
        table.add_row(what, f"{1e3 * median:,.1f} ms  {spread}", f"{1e3 * most:,.0f} ms")

    row("sweep: one more trial of a function", of_a_trial(chosen), 0.005)
    few, many = runs(300), runs(99_999)
    isoscale.judge(few)  # what it imports is imported
    row("judge: 300 runs", timed(lambda: isoscale.judge(few), 5 * chosen.repetitions), 0.05)
    row("judge: 99,999 runs", timed(lambda: isoscale.judge(many), chosen.repetitions), 5.0)
    row("judge: 10,000 stored trials", of_a_store(chosen.repetitions), 2.0)
    Console(width=120).print(table)
    return 1 if missed else 0


if __name__ == "__main__":
    raise SystemExit(main())
