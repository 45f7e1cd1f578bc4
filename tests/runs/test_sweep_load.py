"""Eight writers and eight readers, each a process, on one store: no error, nothing lost, no shard seen in part.

For a few seconds here, for a minute at night.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from isoscale.runs import Store

WRITERS = READERS = 8
SHARD = 4  # trials

SCRIPT = """
import json, multiprocessing, sys, time
import numpy as np
from isoscale.runs import Store, TrialRecord

seconds, path = float(sys.argv[1]), "s.db"

def keys(writer, count):
    return [f"{writer}-{count}-{member}" for member in range(4)]

def write(writer, end):
    count = 0
    with Store(path) as store:
        while count == 0 or time.monotonic() < end:  # one that never gets its turn would not end
            shard = f"{writer}-{count}"
            assert store.acquire(shard)
            store.record(
                TrialRecord(key=key, shard=shard, config="{}", status="done", reason="", versions="{}",
                      curve=np.full(100, writer, "f4"), test_loss=float(count), test_accuracy=0.5)
                for key in keys(writer, count)
            )
            store.release(shard)
            count += 1
    return count

def read(end):
    reads, seen, longest, now = 0, [0] * 8, 0.0, time.monotonic()
    while now < end:
        with Store(path) as store:
            for writer in range(8):
                while found := store.finished(keys(writer, seen[writer])):
                    assert len(found) == 4, found
                    seen[writer] += 1
            assert all(trial.test_loss == 0 for trial in store.read(keys(0, 0)))
            assert sum(row.done for row in store.summary()) >= 4 * sum(seen)
        reads += 1
        longest, now = max(longest, time.monotonic() - now), time.monotonic()
    return reads, longest

def run(task):
    name, number = task
    together.wait()
    end = time.monotonic() + seconds
    return write(number, end) if name == "write" else read(end)

context = multiprocessing.get_context("fork")
together = context.Barrier(16)
with context.Pool(16) as pool:
    tasks = [(name, number) for name in ("write", "read") for number in range(8)]
    results = pool.map(run, tasks, chunksize=1)
json.dump({"written": results[:8], "read": results[8:]}, sys.stdout)
"""


@pytest.mark.parametrize("seconds", [4, pytest.param(60, marks=pytest.mark.nightly)])
def test_eight_writers_and_eight_readers(tmp_path: Path, start: Callable[..., Any], seconds: int):
    (tmp_path / "load.py").write_text(SCRIPT)
    code, out, errors = start([sys.executable, "load.py", str(seconds)]).wait(seconds + 120)
    assert (code, errors) == (0, "")
    found = json.loads(out)
    keys = {
        f"{writer}-{shard}-{member}"
        for writer, shards in enumerate(found["written"])
        for shard in range(shards)
        for member in range(SHARD)
    }
    print(f"{len(keys)} trials written, {sum(reads for reads, _ in found['read'])} reads: {found}")
    with Store(tmp_path / "s.db") as store:
        assert store.finished(keys) == keys
        assert store.count() == len(keys)
        assert store.faults() == []
        assert all(store.acquire(f"{writer}-0") for writer in range(WRITERS))  # every lease was given back
    assert min(found["written"]) > 0
    assert min(reads for reads, _ in found["read"]) > 0
