"""The store under load: writers and readers at once on one file, and a store of a hundred thousand trials.

First, processes write and read one store for some seconds, and everything that was written must be there. Then
trials as a sweep records them fill a store, and what a user does with it is timed: list, check what a finished
sweep still misses, gather it, judge it and write the report, check for damage, export, salvage. Exits with 1 if
anything was lost, or if a target is missed: listing, resume check and report in 10 s each, 1 GiB of memory.
"""

from __future__ import annotations

import json
import multiprocessing
import resource
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import tyro
from rich.console import Console
from rich.table import Table

from isoscale import report
from isoscale.runs import Store, Sweep, TrialRecord, driver, log2_grid, result
from isoscale.runs.trainers.registry import AnyShard
from isoscale.studies import transfer as hp_transfer

OUT = Console()
MOST_SECONDS, MOST_GIB = 10.0, 1.0


@dataclass(frozen=True)
class Benchmark:
    """What to do to a store."""

    seconds: float = 60.0
    """How long writers and readers run."""
    writers: int = 8
    readers: int = 8
    seeds: int = 125
    """Of the large store: 2 rules x 4 depths x 100 learning rates x seeds."""

    def run(self) -> int:
        with tempfile.TemporaryDirectory() as folder:
            lost = self._together(Path(folder))
            slow = self._large(Path(folder))
        return 1 if lost or slow else 0

    def _together(self, folder: Path) -> int:
        path = folder / "together.db"
        context = multiprocessing.get_context("spawn")
        together = context.Barrier(self.writers + self.readers)
        with context.Pool(self.writers + self.readers, _start, (together,)) as pool:
            written = [pool.apply_async(_write, (path, k, self.seconds)) for k in range(self.writers)]
            read = [pool.apply_async(_read, (path, self.seconds)) for _ in range(self.readers)]
            counts, reads = [task.get() for task in written], sum(task.get() for task in read)
        keys = {f"{writer}-{k}" for writer, count in enumerate(counts) for k in range(count)}
        with Store(path) as store:
            lost = len(keys - store.finished(keys)) + len(store.faults()) + abs(store.count() - len(keys))
        OUT.print(
            f"{self.writers} writers and {self.readers} readers, {self.seconds:.0f} s: {len(keys):,} shards written "
            f"({len(keys) / self.seconds:,.0f}/s), {reads:,} reads, {lost} lost or damaged"
        )
        return lost

    def _large(self, folder: Path) -> bool:
        spec = Sweep(rule=["sp", "completep"], depths=[4, 8, 16, 32], lrs=log2_grid(-12.375, 0, 8), seeds=self.seeds)
        path, plan = folder / "large.db", driver.prepare(spec)
        with Store(path) as store:
            for shard in plan:
                store.record(
                    [_trial(shard, key, member) for key, member in zip(shard.keys, shard.members, strict=True)]
                )
        table = Table(
            "what",
            "seconds",
            "of a core",
            "target",
            title=f"{spec.trials:,} trials, {path.stat().st_size / 1e6:.0f} MB",
        )
        steps: dict[str, tuple[Callable[[Store], Any], float | None]] = {
            "open and list": (lambda store: store.summary(), MOST_SECONDS),
            "resume check": (lambda store: driver.missing(driver.prepare(spec), store), MOST_SECONDS),
            "gather, judge, report": (lambda store: _report(spec, plan, store, folder), MOST_SECONDS),
            "check": (lambda store: store.faults(), None),
            "export csv": (lambda store: store.export(folder / "all.csv"), None),
        }
        late = False
        for name, (step, most) in steps.items():
            late |= _row(table, name, lambda step=step: _opened(path, step), most)
        gib = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
        _cut(path)
        _row(table, "salvage of the first half", lambda: Store.salvage(path, folder / "rescued.db"), None)
        OUT.print(table)
        OUT.print(f"largest memory of this process before the salvage: {gib:.2f} GiB, of {MOST_GIB:.0f}")
        return late or gib > MOST_GIB


def _start(together: Any) -> None:
    """Called by each process before its one task."""
    together.wait()


def _write(path: Path, writer: int, seconds: float) -> int:
    count, end = 0, time.monotonic() + seconds
    with Store(path) as store:
        while time.monotonic() < end:
            key = f"{writer}-{count}"
            assert store.acquire(key)
            store.record([_made(key, "{}", np.full(100, writer, "f4"))])
            store.release(key)
            count += 1
    return count


def _read(path: Path, seconds: float) -> int:
    count, end = 0, time.monotonic() + seconds
    with Store(path) as store:
        while time.monotonic() < end:
            store.summary()
            store.finished([f"{writer}-{count}" for writer in range(8)])
            count += 1
            time.sleep(0.05)
    return count


def _trial(shard: AnyShard, key: str, member: Any) -> TrialRecord:
    away = np.log2(member.lr) + 4 + 0.01 * member.seed
    curve = (2.3 - (2.2 - 0.02 * away**2) * np.linspace(0, 1, shard.config.steps)).astype("f4")
    return _made(key, json.dumps(shard.settings(member), sort_keys=True), curve)


def _made(key: str, config: str, curve: np.ndarray) -> TrialRecord:
    versions = json.dumps({"isoscale": "0.1.0", "torch": "2.6.0", "python": "3.11", "device": "cpu", "threads": "1"})
    return TrialRecord(
        key=key, shard="s", config=config, status="done", reason="", curve=curve, test_loss=1.0, test_accuracy=0.5,
        versions=versions,
    )  # fmt: skip


def _report(spec: Sweep, plan: Sequence[AnyShard], store: Store, folder: Path) -> None:
    spec, axis = hp_transfer.asked(spec, {"depth": 4})
    found = hp_transfer.of_sweep(result.gather(spec, plan, store), axis)
    report.write(found.data, folder / "report")


def _cut(path: Path) -> None:
    with path.open("r+b") as file:
        file.truncate(path.stat().st_size // 2)


def _opened(path: Path, step: Callable[[Store], Any]) -> None:
    with Store(path) as store:
        step(store)


def _row(table: Table, name: str, step: Callable[[], Any], most: float | None) -> bool:
    """Time a step; whether it took too long. On a busy machine, the core's time says what the step costs."""
    started, busy = time.perf_counter(), time.process_time()
    step()
    seconds, of_a_core = time.perf_counter() - started, time.process_time() - busy
    table.add_row(name, f"{seconds:.2f}", f"{of_a_core:.2f}", "" if most is None else f"{most:.0f}")
    return most is not None and seconds > most


if __name__ == "__main__":
    sys.exit(tyro.cli(Benchmark).run())
