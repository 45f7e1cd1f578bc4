"""At night: copies of a store that is being written, workers that die as they start, sweeps that overlap, surroundings.

Each asserts the same: nothing is lost, nothing runs twice where it need not, and the numbers are the same bits.
"""

from __future__ import annotations

import os
import random
import shutil
import signal
import sys
import textwrap
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from isoscale.errors import StoreError
from isoscale.runs import Store, Sweep, SweepResult, sweep

pytestmark = pytest.mark.nightly

SPEC = Sweep(rule=["mup", "completep"], widths=[8], depths=[1, 2, 3], lrs=[0.0625, 0.125], seeds=2, steps=200)

SCRIPT = """
import isoscale
result = isoscale.sweep(isoscale.Sweep(**{mapping!r}), store="s.db", workers={workers})
print(result.count("done"))
"""


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> SweepResult:
    """The sweep when nothing happens to it."""
    return sweep(SPEC, store=tmp_path_factory.mktemp("whole") / "s.db", workers=2)


def _same(a: SweepResult, b: SweepResult) -> None:
    np.testing.assert_equal(a.data.to_dict(), b.data.to_dict())


def _script(spec: Sweep, workers: int) -> str:
    return SCRIPT.format(mapping=spec.to_mapping(), workers=workers)


def test_copies_at_random_moments(whole: SweepResult, tmp_path: Path, start: Callable[..., Any]):
    """The database and its log, copied one after the other as a backup would: an error of ours, or true trials."""
    chance = random.Random(0)
    process = start(_script(SPEC, 2))
    copies: list[Path] = []
    while process.family() and len(copies) < 76:
        time.sleep(chance.uniform(0.0, 0.25))
        folder = tmp_path / f"copy {len(copies)}"
        folder.mkdir()
        for name in ("s.db", "s.db-wal"):
            if (tmp_path / name).exists():
                shutil.copyfile(tmp_path / name, folder / name)
        copies.append(folder / "s.db")
    assert process.wait(120)[0] == 0
    with Store(tmp_path / "s.db") as store:
        final = {record.key: record for record in store.trials()}
    read = 0
    for path in copies:
        if not path.exists():
            continue
        try:
            with Store(path) as store:
                found = list(store.trials())
        except StoreError:
            continue
        read += 1
        for record in found:
            assert record.curve.tobytes() == final[record.key].curve.tobytes()
    assert read > len(copies) // 2
    _same(sweep(SPEC, store=copies[-1], workers=2), whole)


def test_workers_that_die_as_they_start(whole: SweepResult, tmp_path: Path, start: Callable[..., Any]):
    """A shard that no process had a hand on is charged nothing."""
    process = start(_script(SPEC, 4))
    killed: set[int] = set()
    while len(killed) < 4:
        assert process.family(), "the sweep ended before its workers were killed"
        for pid in process.workers():
            if pid not in killed and len(killed) < 4:
                os.kill(pid, signal.SIGKILL)
                killed.add(pid)
        time.sleep(0.01)
    code, out, errors = process.wait(180)
    assert (code, out) == (0, f"{SPEC.trials}\n"), errors
    _same(sweep(SPEC, store=tmp_path / "s.db"), whole)


def test_three_sweeps_that_overlap(tmp_path: Path, start: Callable[..., Any]):
    """Three drivers and one store: what two of them ask for is trained once."""
    specs = [
        Sweep(**(SPEC.to_mapping() | {"depths": depths, "rule": rule}))
        for depths, rule in (([1, 2], "mup"), ([2, 3], ["mup", "completep"]), ([1, 3], ["completep", "mup"]))
    ]
    alone = [sweep(spec, store=tmp_path / f"alone {number}.db") for number, spec in enumerate(specs)]
    processes = [start(_script(spec, 2)) for spec in specs]
    for process, spec in zip(processes, specs, strict=True):
        assert process.wait(180) == (0, f"{spec.trials}\n", "")
    for spec, expected in zip(specs, alone, strict=True):
        _same(sweep(spec, store=tmp_path / "s.db"), expected)
    with Store(tmp_path / "s.db") as store:
        keys = Counter(record.key for record in store.trials())
        assert store.faults() == []
    assert set(keys.values()) == {1}


# What a user's shell or program may have set, and must not change a number.
VARIABLES: dict[str, dict[str, str]] = {
    "C locale": {"LC_ALL": "C", "LANG": "C", "PYTHONUTF8": "0"},
    "German locale": {"LC_ALL": "de_DE.UTF-8"},
    "hash seed": {"PYTHONHASHSEED": "123"},
    "optimised": {"PYTHONOPTIMIZE": "2"},
    "unbuffered": {"PYTHONUNBUFFERED": "1"},
    "three threads": {"OMP_NUM_THREADS": "3", "MKL_NUM_THREADS": "3"},
    "narrow terminal": {"COLUMNS": "20", "NO_COLOR": "1", "TERM": "dumb"},
    "no home": {"HOME": "/nonexistent", "XDG_CACHE_HOME": "/nonexistent"},
    "another zone": {"TZ": "Pacific/Kiritimati"},
    "development mode": {"PYTHONDEVMODE": "1", "PYTHONWARNINGS": "default"},
    "no bytecode": {"PYTHONDONTWRITEBYTECODE": "1"},
}
STATEMENTS: dict[str, str] = {
    "float64 by default": "torch.set_default_dtype(torch.float64)",
    "no gradients": "torch.set_grad_enabled(False)",
    "a seed of one's own": "torch.manual_seed(7); numpy.random.seed(7); random.seed(7)",
    "one thread": "torch.set_num_threads(1)",
    "deterministic": "torch.use_deterministic_algorithms(True)",
    "errors of numpy": "numpy.seterr(all='raise')",
    "decimals": "numpy.set_printoptions(precision=2); torch.set_printoptions(precision=1)",
    "warnings off": "import warnings; warnings.simplefilter('ignore')",
    "logging on": "import logging; logging.basicConfig(level=logging.ERROR)",
    "deep recursion": "sys.setrecursionlimit(20000)",
}
CALLS: dict[str, str] = {
    "asyncio": "import asyncio\nasync def call(): return go()\nresult = asyncio.run(call())",
    "a thread": (
        "import threading\nfound = []\nthread = threading.Thread(target=lambda: found.append(go()))\n"
        "thread.start(); thread.join()\nresult = found[0]"
    ),
    "no_grad": "with torch.no_grad():\n    result = go()",
    "inference_mode": "with torch.inference_mode():\n    result = go()",
    "autocast": "with torch.autocast('cpu', dtype=torch.bfloat16):\n    result = go()",
    "a warning filter": "import warnings\nwith warnings.catch_warnings():\n    result = go()",
}
SURROUNDED = """
import random, sys
import numpy, torch
import isoscale
{statement}
def go():
    return isoscale.sweep(isoscale.Sweep(**{mapping!r}), store="s.db", workers=1)
{call}
"""


@pytest.mark.parametrize("name", [*VARIABLES, *STATEMENTS, *CALLS])
def test_the_surroundings_change_no_number(name: str, tmp_path: Path, start: Callable[..., Any]):
    spec = Sweep(rule="completep", widths=[8], depths=[1, 2], lrs=[0.0625], seeds=2, steps=20)
    expected = sweep(spec, store=tmp_path / "plain.db", workers=1)
    program = SURROUNDED.format(
        statement=STATEMENTS.get(name, ""), call=CALLS.get(name, "result = go()"), mapping=spec.to_mapping()
    )
    (tmp_path / "program.py").write_text(textwrap.dedent(program), encoding="utf-8")
    settings = [f"{key}={value}" for key, value in VARIABLES.get(name, {}).items()]
    code, _, errors = start(["env", *settings, sys.executable, "program.py"]).wait(120)
    assert code == 0, errors
    _same(sweep(spec, store=tmp_path / "s.db"), expected)
