"""The user's own training function: one call, one trial."""

from __future__ import annotations

import contextlib
import hashlib
import math
import os
import random
import signal
import sys
import threading
import traceback
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType
from typing import Any

import numpy as np
import torch

from isoscale.errors import DataError, InvalidTypeError, InvalidValueError
from isoscale.runs.spec import Sweep
from isoscale.runs.trainers import fingerprint, foreign
from isoscale.runs.trainers.foreign import ForeignShard, Outcome
from isoscale.runs.trainers.handed import HandedTrial
from isoscale.training.memory import is_out_of_memory
from isoscale.user_code import described, digest_of_file, load

# A curve is kept in single precision: a loss beyond that is not finite there.
_LARGEST = float(np.finfo("f4").max)


def shards(spec: Sweep, store: str | os.PathLike[str]) -> list[ForeignShard]:
    """The trials of a sweep, each a shard.

    Raises:
        InvalidValueError: The function is not there, or cannot be sent to a worker.
    """
    program, source = _program(spec)
    settings = _settings(spec)
    return [foreign.shard(spec, program, cell, settings, source, store) for cell in foreign.cells(spec)]


def trial(spec: Sweep, cell: Mapping[str, Any], device: str) -> HandedTrial:
    """One trial of a sweep, as its function is called with."""
    program, source = _program(spec)
    one = foreign.shard(spec, program, foreign.sorted_out(spec, cell), _settings(spec), source, "isoscale.db")
    return one.handed(device)


def _settings(spec: Sweep) -> dict[str, Any]:
    """What determines a trial beside its axes."""
    optimizer: dict[str, Any] = {"family": spec.optimizer, "weight_decay": spec.weight_decay, "eps": spec.eps}
    if spec.momentum is not None:
        optimizer["momentum"] = spec.momentum
    if spec.betas != Sweep.betas:
        optimizer["betas"] = list(spec.betas)
    return {"optimizer": optimizer, "steps": spec.steps, "batch_size": spec.batch_size}


def _program(spec: Sweep) -> tuple[FunctionProgram, str]:
    """The function as it travels, and its source's fingerprint."""
    train = spec.train
    if isinstance(train, str):
        path, _, attribute = train.rpartition(":")
        found = load(train).value
        name = f"{os.path.basename(path)}:{attribute}"
        program = FunctionProgram(name, where=train)
        if path.endswith(".py"):
            where = f"{os.path.abspath(path)}:{attribute}"
            program = FunctionProgram(name, where=where, file_digest=digest_of_file(path))
        return program, fingerprint.of_function(found)
    assert train is not None
    return FunctionProgram(fingerprint.name(train), pickled=_pickled(train)), fingerprint.of_function(train)


def _pickled(train: Callable[..., Any]) -> bytes:
    import cloudpickle

    try:
        return cloudpickle.dumps(train)
    except Exception as error:
        raise InvalidValueError(
            f"{fingerprint.name(train)} cannot be sent to a worker: {described(error)}. Make what it needs inside of "
            'it, or give it as "file.py:function"'
        ) from error


@dataclass(frozen=True)
class FunctionProgram:
    """A training function, as it travels to a worker.

    Attributes:
        name: What a person calls it.
        where: "/path/file.py:train" or "pkg.module:train"; empty if the function itself travels.
        file_digest: Of that file, when the sweep began.
        pickled: The function, of a script, a notebook or a module, if it was handed over as it is.
    """

    name: str
    where: str = ""
    file_digest: str = ""
    pickled: bytes = field(default=b"", repr=False)

    kind = "function"

    def run(self, trial: HandedTrial, log: Path, seconds: float | None, count: Callable[[int], None]) -> Outcome:
        """Call the function with the trial (`foreign.Program.run`)."""
        # Before anything of the user's runs: a file that changed ends the sweep and no trial.
        self._check_file()
        curve: list[float] = []
        try:
            with _captured(log), _seeded(trial.seed), _alarm(seconds):
                return self._train(trial, curve, count)
        except _TimeIsUp:
            place = f" at step {len(curve)}" if curve else ""
            return Outcome(status="failed", reason=f"the time limit of {seconds:g} s passed{place}", curve=curve)
        except (Exception, SystemExit) as error:
            with log.open("a", encoding="utf-8", errors="replace") as file:
                traceback.print_exception(error, file=file)
            # Memory that another trial holds now is free later: the driver tries again.
            if is_out_of_memory(error):
                raise
            return Outcome(status="failed", reason=described(error), curve=curve)

    def _train(self, trial: HandedTrial, curve: list[float], count: Callable[[int], None]) -> Outcome:
        axes = trial.sizes | trial.hyperparameters
        function = _function(self.where, self.file_digest, self.pickled)
        returned = function(trial)
        if not isinstance(returned, Iterator):
            return foreign.measured(returned, f"{self.name} returned", curve, axes)
        while True:
            try:
                value = next(returned)
            except StopIteration as end:
                return foreign.measured(end.value, f"{self.name} yielded no loss and returned", curve, axes)
            try:
                loss = foreign.as_number(value, f"{self.name} yielded")
            except InvalidTypeError as error:
                _close(returned)
                return Outcome(status="failed", reason=f"{error} (step {len(curve)})", curve=curve)
            count(1)
            # False for NaN too.
            is_finite = abs(loss) <= _LARGEST
            curve.append(loss if is_finite else math.nan)
            if not is_finite:
                _close(returned)
                return Outcome(status="diverged", reason=f"loss not finite at step {len(curve) - 1}", curve=curve)

    def _check_file(self) -> None:
        if not self.file_digest or _is_loaded(self.where, self.file_digest):
            return
        path = self.where.rpartition(":")[0]
        try:
            found = digest_of_file(path)
        except OSError as error:
            raise DataError(f"{path} cannot be read by a worker: {error.strerror}") from error
        if found != self.file_digest:
            raise DataError(f"{path} changed while the sweep ran. What finished is kept: start the sweep again")


# What this process has loaded: a worker trains many trials of one function.
_loaded: dict[str, Callable[..., Any]] = {}


def _is_loaded(where: str, digest: str) -> bool:
    return where + digest in _loaded


def _function(where: str, digest: str, pickled: bytes) -> Callable[..., Any]:
    key = where + digest if where else hashlib.sha256(pickled).hexdigest()
    if key not in _loaded:
        _loaded[key] = load(where).value if where else _unpickled(pickled)
    return _loaded[key]


def _unpickled(pickled: bytes) -> Callable[..., Any]:
    # Not of a file: these bytes came from the driver through the pipe of its own worker.
    import cloudpickle

    return cloudpickle.loads(pickled)


def _close(generator: Iterator[Any]) -> None:
    """End a generator, so that what it opened is closed; what it raises then is too late to matter."""
    with contextlib.suppress(Exception):
        getattr(generator, "close", lambda: None)()


# --- surroundings of a call ---
class _TimeIsUp(BaseException):
    """Not an Exception: training loops may catch those."""


@contextlib.contextmanager
def _alarm(seconds: float | None) -> Iterator[None]:
    """Raise `_TimeIsUp` in the block when its time is over, where the system can: in a main thread of Unix."""
    usable = hasattr(signal, "setitimer") and threading.current_thread() is threading.main_thread()
    if seconds is None or not usable:
        yield
        return

    def ring(number: int, frame: FrameType | None) -> None:
        raise _TimeIsUp

    before = signal.signal(signal.SIGALRM, ring)
    # Rung again and again: code that catches everything hears the next one.
    signal.setitimer(signal.ITIMER_REAL, seconds, 1.0)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


@contextlib.contextmanager
def _seeded(seed: int) -> Iterator[None]:
    """Everybody's generators begin with the trial's seed, whatever this process ran before; and are put back."""
    before = random.getstate(), np.random.get_state(), torch.get_rng_state()  # noqa: NPY002  what users draw from
    random.seed(seed)
    np.random.seed(seed % 2**32)  # noqa: NPY002
    torch.manual_seed(seed)
    try:
        yield
    finally:
        random.setstate(before[0])
        np.random.set_state(before[1])  # noqa: NPY002
        torch.set_rng_state(before[2])


@contextlib.contextmanager
def _captured(log: Path) -> Iterator[None]:
    """All that the block prints goes to the log, from Python, from libraries and from the processes it starts."""
    with log.open("a", buffering=1, encoding="utf-8", errors="replace") as file, contextlib.ExitStack() as stack:
        for number, stream in ((1, sys.stdout), (2, sys.stderr)):
            with contextlib.suppress(OSError, ValueError):
                stream.flush()
            try:
                kept = os.dup(number)
            except OSError:  # this process has no such output
                continue
            stack.callback(os.close, kept)
            stack.callback(os.dup2, kept, number)
            os.dup2(file.fileno(), number)
        stack.enter_context(contextlib.redirect_stdout(file))
        stack.enter_context(contextlib.redirect_stderr(file))
        yield
