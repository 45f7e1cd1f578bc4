"""Engine on this machine: one worker process per core, one thread each."""

from __future__ import annotations

import concurrent.futures
import contextlib
import multiprocessing
import os
import sys
import tempfile
import threading
import time
import types
from collections.abc import Iterator, Sequence
from concurrent.futures.process import BrokenProcessPool
from ctypes import c_int64
from multiprocessing.context import SpawnContext, SpawnProcess
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, NamedTuple

from isoscale.errors import ClusterError
from isoscale.extras import needed
from isoscale.runs import interrupts, worker
from isoscale.runs.record import TrialRecord
from isoscale.runs.trainers.registry import Work

if TYPE_CHECKING:
    from pebble import ProcessPool

_CLAIM_SECONDS = 0.05

# How many pools may die one after the other without one process that took a shard.
_MOST_STARTS = 10

_progress: Any = None
_claimed: _Claim | None = None


class WorkerLostError(Exception):
    """The process that ran a shard died; the shard itself may be all right."""


class NotStartedError(Exception):
    """No process ever had the shard: whatever died, it was not the shard's doing."""


class LocalEngine:
    """Runs shards in worker processes; a worker that dies loses its shard and nothing else.

    Args:
        shards: How many will be submitted at most.
        workers: How many processes.
        device: Where they train.
        gpus: With "cuda", how many GPUs the processes share out among themselves.
    """

    def __init__(self, shards: int, workers: int, device: str = "cpu", gpus: int = 0) -> None:
        self.device, self.workers, self._shards = device, workers, shards
        # One entry for each worker, which claims it; empty where all of them train on `device`.
        self._devices: list[str] = []
        if device == "cuda" and gpus > 1:
            for number in range(workers):
                self._devices.append(f"cuda:{number % gpus}")
        self._locks = tempfile.TemporaryDirectory(prefix="isoscale-gpus-")
        # One counter per shard, written by its worker alone and without a lock: a killed worker cannot hold one.
        self._counters = multiprocessing.get_context("spawn").RawArray(c_int64, shards)
        self._futures: set[concurrent.futures.Future] = set()
        self._vain_starts = 0
        self._pool = self._new_pool()

    @property
    def capacity(self) -> int:
        """Every worker busy and one shard ready for each; more would only keep other drivers waiting."""
        return 2 * self.workers

    def submit(self, shard: Work, index: int) -> concurrent.futures.Future:
        """Start a shard as soon as a worker is free."""
        self._counters[index] = 0
        self.repair()
        try:
            future = self._pool.schedule(_run, args=(shard, self.device, index), timeout=shard.hard_limit)
        except RuntimeError:  # the pool broke this very moment
            future = concurrent.futures.Future()
            future.set_exception(BrokenProcessPool())
        self._futures.add(future)
        return future

    def result(self, future: concurrent.futures.Future) -> list[TrialRecord]:
        """The trials of a finished shard.

        Raises:
            WorkerLostError: Its worker died.
            NotStartedError: No worker took it.
            TimeoutError: It heard no time limit, and its worker was ended.
            Exception: What the worker raised.
        """
        from pebble import ProcessExpired

        self._futures.discard(future)
        if not isinstance(future.exception(), BrokenProcessPool):
            self._vain_starts = 0
        try:
            return future.result()
        except TimeoutError as error:
            raise TimeoutError("the time limit passed, and the function heard nothing: its worker was ended") from error
        except ProcessExpired as error:
            raise WorkerLostError(f"worker process died (exit code {error.exitcode})") from error
        except BrokenProcessPool as error:
            raise NotStartedError from error

    def repair(self) -> None:
        """Start a new pool if pebble gave up this one, as it does when a worker dies while none has a shard.

        Call it now and then while waiting.

        Raises:
            ClusterError: Workers die again and again before they take a shard.
        """
        if self._pool.active:
            return
        self._vain_starts += 1
        if self._vain_starts == _MOST_STARTS:
            raise ClusterError(
                f"the worker processes died {_MOST_STARTS} times before one of them took a shard. What finished is "
                "kept. See what ends them (memory, a limit on processes), then run the same command again"
            )
        self._pool.join()
        for future in self._futures:
            if not future.done():
                future.set_exception(BrokenProcessPool())
        self._pool = self._new_pool()

    def member_steps(self) -> Sequence[int]:
        """How many member-steps each shard has done."""
        return list(self._counters)

    def __enter__(self) -> LocalEngine:
        return self

    def __exit__(self, *exception: object) -> None:
        if any(exception):
            self._pool.stop()
        else:
            self._pool.close()
        self._pool.join()
        self._locks.cleanup()

    def _new_pool(self) -> ProcessPool:
        with needed("sweep", by="the local engine"):
            from pebble import ProcessPool

        return ProcessPool(
            min(self.workers, self._shards),
            context=_Spawn(),
            initializer=_start_worker,
            initargs=(self._counters, self._locks.name, self._devices),
        )


def cores() -> int:
    """Cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def _start_worker(counters: Any, folder: str, devices: Sequence[str]) -> None:
    global _progress, _claimed
    _progress = counters
    worker.pin()
    if devices:
        _claimed = _claim(folder, devices)
    threading.Thread(target=_end_with_driver, daemon=True).start()


def _end_with_driver() -> None:
    """A worker whose driver was killed must not go on training: nobody would take its result."""
    driver = multiprocessing.parent_process()
    assert driver is not None
    driver.join()
    os._exit(1)


def _run(shard: Work, device: str, index: int) -> list[TrialRecord]:
    def count(member_steps: int) -> None:
        _progress[index] += member_steps

    if _claimed is not None:
        device = _claimed.device
    return worker.run(shard, device, count)


class _Claim(NamedTuple):
    """A GPU of this process's own; the lock on the file ends with the process, however it ends."""

    device: str
    file: IO[bytes]


def _claim(folder: str, devices: Sequence[str]) -> _Claim:
    """The first entry that no living worker has."""
    import fcntl  # where there are several GPUs, there is a Unix

    while True:
        for number, device in enumerate(devices):
            file = Path(folder, str(number)).open("ab")  # noqa: SIM115  held until the process ends
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                file.close()
            else:
                return _Claim(device, file)
        time.sleep(_CLAIM_SECONDS)  # one that died has not been buried yet


class _Worker(SpawnProcess):
    """A spawned process that does not run the user's main module again.

    Workers need nothing from it, and without this a script that calls `isoscale.sweep` outside
    `if __name__ == "__main__":` would start itself over and over.
    """

    @staticmethod
    def _Popen(process_obj: Any) -> Any:
        with _no_main_module(), interrupts.unseen():
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
