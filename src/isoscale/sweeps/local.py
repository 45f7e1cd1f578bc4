"""Engine on this machine: a worker process a core, a thread each."""

from __future__ import annotations

import concurrent.futures
import contextlib
import multiprocessing
import os
import signal
import sys
import threading
import types
from collections.abc import Iterator, Sequence
from concurrent.futures.process import BrokenProcessPool
from ctypes import c_int64
from multiprocessing.context import SpawnContext, SpawnProcess
from typing import Any

import torch
from pebble import ProcessExpired, ProcessPool

from isoscale.sweeps import worker
from isoscale.sweeps.shards import Shard
from isoscale.sweeps.spec import whole
from isoscale.sweeps.trial import Trial

_progress: Any = None


class WorkerLostError(Exception):
    """The process that ran a shard died; the shard itself may be all right."""


class LocalEngine:
    """Runs shards in worker processes; a worker that dies loses its shard and nothing else.

    Args:
        slots: How many shards will be submitted at most.
        workers: How many processes.
        device: Where they train.
    """

    def __init__(self, slots: int, workers: int, device: str = "cpu") -> None:
        self.device, self.workers, self._slots = device, workers, slots
        # One counter a shard, written by its worker alone and without a lock: a killed worker cannot hold one.
        self._counters = multiprocessing.get_context("spawn").RawArray(c_int64, slots)
        self._futures: set[concurrent.futures.Future] = set()
        self._pool = self._new_pool()

    def submit(self, shard: Shard, slot: int) -> concurrent.futures.Future:
        """Start a shard as soon as a worker is free."""
        self._counters[slot] = 0
        self.mend()
        try:
            future = self._pool.schedule(_run, args=(shard, self.device, slot))
        except RuntimeError:  # the pool broke this very moment
            future = concurrent.futures.Future()
            future.set_exception(BrokenProcessPool())
        self._futures.add(future)
        return future

    def result(self, future: concurrent.futures.Future) -> list[Trial]:
        """The trials of a finished shard.

        Raises:
            WorkerLostError: Its worker died.
            Exception: What the worker raised.
        """
        self._futures.discard(future)
        try:
            return future.result()
        except ProcessExpired as error:
            raise WorkerLostError(f"worker process died (exit code {error.exitcode})") from error
        except BrokenProcessPool as error:
            raise WorkerLostError("worker process died before it took a shard") from error

    def mend(self) -> None:
        """Start a new pool if pebble gave up this one, as it does when a worker dies while none has a shard.

        Call it now and then while waiting.
        """
        if self._pool.active:
            return
        self._pool.join()
        for future in self._futures:
            if not future.done():
                future.set_exception(BrokenProcessPool())
        self._pool = self._new_pool()

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

    def _new_pool(self) -> ProcessPool:
        return ProcessPool(
            min(self.workers, self._slots),
            context=_Spawn(),
            initializer=_start_worker,
            initargs=(self._counters,),
        )


def worker_count(workers: int | None, device: str) -> int:
    """How many worker processes to run: by default a core each, on a GPU one.

    Raises:
        InvalidValueError, InvalidTypeError: Not a number of processes.
    """
    if workers is None:
        return cores() if device == "cpu" else 1
    return whole("workers", workers)


def cores() -> int:
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _start_worker(counters: Any) -> None:
    global _progress
    _progress = counters
    # However many workers there are, sums are taken in the same order; and small products wait for no thread.
    torch.set_num_threads(1)
    # Weights of a diverging member pass through denormals, which the CPU multiplies a hundred times slower.
    torch.set_flush_denormal(True)
    threading.Thread(target=_end_with_driver, daemon=True).start()


def _end_with_driver() -> None:
    """A worker whose driver was killed must not go on training: nobody would take its result."""
    driver = multiprocessing.parent_process()
    assert driver is not None
    driver.join()
    os._exit(1)


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
        with _no_main_module(), _no_interrupts():
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


@contextlib.contextmanager
def _no_interrupts() -> Iterator[None]:
    """What starts here never sees Ctrl-C, which a terminal sends to every process: ending a worker is the driver's."""
    if not hasattr(signal, "pthread_sigmask"):
        yield
        return
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
