"""A call of the user's training code: seeded, timed, its output in a log, and its end turned into an outcome."""

from __future__ import annotations

import contextlib
import os
import random
import signal
import sys
import threading
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path
from types import FrameType
from typing import Any

import numpy as np
import torch

from isoscale.errors import InvalidTypeError
from isoscale.runs.trainers import foreign
from isoscale.runs.trainers.foreign import Outcome
from isoscale.runs.trainers.handed import HandedTrial
from isoscale.training.memory import is_out_of_memory
from isoscale.user_code import described

# A curve is kept in single precision: a loss beyond that is not finite there.
LARGEST = float(np.finfo("f4").max)


def outcome(
    train: Callable[[HandedTrial], Any],
    name: str,
    trial: HandedTrial,
    log: Path,
    seconds: float | None,
    count: Callable[[int], None],
) -> Outcome:
    """What becomes of a trial that `train` trains.

    Args:
        train: Returns a loss, or a mapping with one, or yields a loss a step.
        name: What a person calls it.
        trial, log, seconds, count: As for `foreign.Program.run`.

    Raises:
        Exception: It ran out of memory, which another trial may hold now.
    """
    curve: list[float] = []
    try:
        with captured(log), seeded(trial.seed), _alarm(seconds):
            return _trained(train, name, trial, curve, count)
    except _TimeIsUp:
        place = f" at step {len(curve)}" if curve else ""
        return Outcome(status="failed", reason=f"the time limit of {seconds:g} s passed{place}", curve=curve)
    except (Exception, SystemExit) as error:
        with log.open("a", encoding="utf-8", errors="replace") as file:
            traceback.print_exception(error, file=file)
        # The driver tries again, later.
        if is_out_of_memory(error):
            raise
        return Outcome(status="failed", reason=described(error), curve=curve)


def _trained(
    train: Callable[[HandedTrial], Any],
    name: str,
    trial: HandedTrial,
    curve: list[float],
    count: Callable[[int], None],
) -> Outcome:
    axes = trial.sizes | trial.hyperparameters
    returned = train(trial)
    if not isinstance(returned, Iterator):
        return foreign.measured(returned, f"{name} returned", curve, axes)
    while True:
        try:
            value = next(returned)
        except StopIteration as end:
            return foreign.measured(end.value, f"{name} yielded no loss and returned", curve, axes)
        try:
            loss = foreign.as_number(value, f"{name} yielded")
        except InvalidTypeError as error:
            _close(returned)
            return Outcome(status="failed", reason=f"{error} (step {len(curve)})", curve=curve)
        count(1)
        # True of NaN too.
        if not abs(loss) <= LARGEST:
            _close(returned)
            return foreign.diverged(curve)
        curve.append(loss)


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


def generators() -> tuple[Any, ...]:
    """Where everybody's generators of random numbers are: Python's, NumPy's, torch's and its GPUs'."""
    of_gpus = torch.cuda.get_rng_state_all() if torch.cuda.is_initialized() else []
    return random.getstate(), np.random.get_state(), torch.get_rng_state(), of_gpus  # noqa: NPY002  users draw from it


def put_back(state: tuple[Any, ...]) -> None:
    """Everybody's generators go on from there."""
    of_python, of_numpy, of_torch, of_gpus = state
    random.setstate(of_python)
    np.random.set_state(of_numpy)  # noqa: NPY002
    torch.set_rng_state(of_torch)
    for number, of_gpu in enumerate(of_gpus):
        torch.cuda.set_rng_state(of_gpu, number)


def seed_torch(seed: int) -> None:
    """Torch's generators begin with the seed."""
    if torch.accelerator.is_available():
        torch.manual_seed(seed)
    else:
        # `torch.manual_seed` keeps it for accelerators that are not there, each with the call's stack written out.
        torch.default_generator.manual_seed(seed)


@contextlib.contextmanager
def seeded(seed: int) -> Iterator[None]:
    """Everybody's generators begin with the trial's seed, whatever this process ran before; and are put back."""
    before = generators()
    random.seed(seed)
    np.random.seed(seed % 2**32)  # noqa: NPY002
    seed_torch(seed)
    try:
        yield
    finally:
        put_back(before)


@contextlib.contextmanager
def captured(log: Path) -> Iterator[None]:
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
