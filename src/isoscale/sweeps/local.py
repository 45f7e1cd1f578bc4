"""Engine on this machine: a worker process a core, a thread each."""

from __future__ import annotations

import concurrent.futures
import contextlib
import multiprocessing
import os
import sys
import types
from collections.abc import Iterator, Sequence
from ctypes import c_int64
from multiprocessing.context import SpawnContext, SpawnProcess
from typing import Any

import torch
from pebble import ProcessExpired, ProcessPool

from isoscale.sweeps import worker
from isoscale.sweeps.shards import Shard
from isoscale.sweeps.store import Trial

_progress: Any = None


class WorkerLostError(Exception):
    """The process that ran a shard died; the shard itself may be all right."""


class LocalEngine:
    """Runs shards in worker processes; a worker that dies loses its shard and nothing else.

    Args:
        slots: How many shards will be submitted at most.
        workers: Processes; by default a core each, on a GPU one.
        device: Where they train.
    """

    def __init__(self, slots: int, workers: int | None = None, device: str = "cpu") -> None:
        self.device = device
        self.workers = workers or (cores() if device == "cpu" else 1)
        # One counter a shard, written by its worker alone and without a lock: a killed worker cannot hold one.
        self._counters = multiprocessing.get_context("spawn").RawArray(c_int64, slots)
        threads = max(1, cores() // self.workers)
        self._pool = ProcessPool(
            self.workers, context=_Spawn(), initializer=_start_worker, initargs=(self._counters, threads)
        )

    def submit(self, shard: Shard, slot: int) -> concurrent.futures.Future:
        """Start a shard as soon as a worker is free."""
        self._counters[slot] = 0
        return self._pool.schedule(_run, args=(shard, self.device, slot))

    def result(self, future: concurrent.futures.Future) -> list[Trial]:
        """The trials of a finished shard.

        Raises:
            WorkerLostError: Its worker died.
            Exception: What the worker raised.
        """
        try:
            return future.result()
        except ProcessExpired as error:
            raise WorkerLostError(f"worker process died (exit code {error.exitcode})") from error

    def member_steps(self) -> Sequence[int]:
        """How many member-steps each slot has done."""
        return list(self._counters)

    def __enter__(self) -> LocalEngine:
        return self

    def __exit__(self, exception: object, *_: object) -> None:
        if exception:
            self._pool.stop()
        else:
            self._pool.close()
        self._pool.join()


def cores() -> int:
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _start_worker(counters: Any, threads: int) -> None:
    global _progress
    _progress = counters
    torch.set_num_threads(threads)
    # Weights of a diverging member pass through denormals, which the CPU multiplies a hundred times slower.
    torch.set_flush_denormal(True)


def _run(shard: Shard, device: str, slot: int) -> list[Trial]:
    def count(member_steps: int) -> None:
        _progress[slot] += member_steps

    return worker.run(shard, device, count)


class _Worker(SpawnProcess):
    """A spawned process that does not run the user's main module again.

    Workers need nothing from it, and without this a script that calls `isoscale.sweep` outside
    `if __name__ == "__main__":` would start itself over and over.
    """

    @staticmethod
    def _Popen(process_obj: Any) -> Any:
        with _no_main_module():
            return SpawnProcess._Popen(process_obj)  # pyrefly: ignore[missing-attribute]


class _Spawn(SpawnContext):
    Process = _Worker


@contextlib.contextmanager
def _no_main_module() -> Iterator[None]:
    main = sys.modules["__main__"]
    sys.modules["__main__"] = types.ModuleType("__main__")
    try:
        yield
    finally:
        sys.modules["__main__"] = main
