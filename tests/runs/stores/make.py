"""Writes the fixture of the store that this isoscale writes: `python tests/runs/stores/make.py`.

Run it once, when a schema or the numerics are new, and never again: what later versions must open is the file that was
written then.
"""

from __future__ import annotations

from pathlib import Path

from isoscale.runs import Store, Sweep, driver, worker
from isoscale.runs.keys import NUMERICS
from isoscale.runs.store.schema import SCHEMA

SPEC = Sweep(rule="depth-mup", widths=[8], depths=[1, 2], lrs=[0.125, 1e6], seeds=1, steps=20)


def main() -> None:
    path = Path(__file__).parent / f"schema-{SCHEMA}-numerics-{NUMERICS}.sqlite"
    with Store(path) as store:
        first, second = driver.prepare(SPEC)
        store.record(worker.run(first, "cpu"))
        store.record(worker.failures(second, "worker process died (exit code -9), 3 times", "cpu"))
        store._db.execute("PRAGMA journal_mode = DELETE")


if __name__ == "__main__":
    main()
