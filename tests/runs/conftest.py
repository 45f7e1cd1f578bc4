"""Tiny sweeps, and the driver as a process of its own that can be killed."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import textwrap
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from isoscale import testing
from isoscale.runs import Sweep, TrialRecord
from isoscale.testing import InlineEngine

TINY = {"widths": [8], "depths": [1, 2], "lrs": [0.0625, 0.125], "seeds": 2, "steps": 5, "rule": "depth-mup"}


@pytest.fixture
def tiny() -> Callable[..., Sweep]:
    """A sweep that trains in a moment: `tiny(lrs=[0.1])`."""
    return lambda **changes: Sweep(**(TINY | changes))


@pytest.fixture
def trial() -> Callable[..., TrialRecord]:
    """A trial made by hand: `trial("key", status="failed")`."""

    def make(key: str = "k", **changes: Any) -> TrialRecord:
        values = {
            "shard": "s",
            "config": "{}",
            "status": "done",
            "reason": "",
            "curve": np.array([2.0, 1.0], "f4"),
            "test_loss": 1.5,
            "test_accuracy": 0.5,
            "versions": "{}",
        }
        return TrialRecord(key=key, **(values | changes))

    return make


@pytest.fixture
def inline() -> Iterator[type[InlineEngine]]:
    """Sweeps run in this process; `.ran` lists the shards, `.run_shard` is what runs one."""
    with testing.inline() as engine:
        yield engine


class Process:
    """A script in a session of its own, as a terminal would start it."""

    def __init__(self, script: str | Sequence[str], folder: Path) -> None:
        command = [sys.executable, "-c", textwrap.dedent(script)] if isinstance(script, str) else list(script)
        self._process = subprocess.Popen(
            command,
            cwd=folder,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
            # Workers are found by what their environment says: they may have lost their parent.
            env=os.environ | {"ISOSCALE_TEST_PROCESS": str(id(self))},
        )
        self.pid = self._process.pid
        self._mark = f"ISOSCALE_TEST_PROCESS={id(self)}".encode()

    def family(self) -> list[int]:
        """Every living process that this one started, and itself."""
        return [int(entry.name) for entry in Path("/proc").iterdir() if entry.name.isdigit() and self._owns(entry)]

    def workers(self) -> list[int]:
        """Its worker processes that have started to import."""
        return [pid for pid in self.family() if b"spawn_main" in _read(Path(f"/proc/{pid}/cmdline"))]

    def _owns(self, entry: Path) -> bool:
        # A zombie has no environment any more, so it does not count.
        return self._mark in _read(entry / "environ").split(b"\0")

    def signal(self, number: int) -> None:
        """As `kill -<number>` sends it: to the driver alone."""
        self._process.send_signal(number)

    def interrupt(self) -> None:
        """As a terminal sends Ctrl-C: to the whole group."""
        os.killpg(self.pid, signal.SIGINT)

    def wait(self, seconds: float = 60) -> tuple[int, str, str]:
        """Exit code, output and errors."""
        out, errors = self._process.communicate(timeout=seconds)
        return self._process.returncode, out, errors

    def gone_within(self, seconds: float) -> bool:
        """Whether nothing of the family is left after at most that long."""
        return wait_for(lambda: not self.family(), seconds)

    def end(self) -> None:
        for pid in {self.pid, *self.family()}:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        self._process.communicate()


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError:
        return b""


def wait_for(condition: Callable[[], Any], seconds: float) -> bool:
    end = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > end:
            return False
        time.sleep(0.05)
    return True


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Callable[[str | Sequence[str]], Process]]:
    """Start a Python script or a command in the test's folder; whatever is left is ended after the test."""
    processes: list[Process] = []

    def begin(script: str | Sequence[str]) -> Process:
        processes.append(Process(script, tmp_path))
        return processes[-1]

    yield begin
    for process in processes:
        process.end()


@pytest.fixture
def until() -> Callable[[Callable[[], Any], float], bool]:
    """`until(condition, seconds)`: whether it came true in that time."""
    return wait_for
