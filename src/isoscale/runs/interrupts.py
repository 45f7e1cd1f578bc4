"""Ctrl-C where it does no harm: the driver's at the end of a turn, a worker's never."""

from __future__ import annotations

import contextlib
import signal
import threading
from collections.abc import Callable, Iterator
from types import FrameType


@contextlib.contextmanager
def held_back() -> Iterator[Callable[[], None]]:
    """Keep Ctrl-C until the function that this yields is called; a second one does not wait.

    Python raises KeyboardInterrupt between any two instructions: also while a future's lock is taken, which then
    nobody gives back and the pool's threads wait for, or between the beginning of a transaction and its end.
    Whoever handles SIGINT in another way, and every thread but the main one, keeps what is there.
    """
    if (
        threading.current_thread() is not threading.main_thread()
        or signal.getsignal(signal.SIGINT) is not signal.default_int_handler
    ):
        yield lambda: None
        return
    came = False

    def note(number: int, frame: FrameType | None) -> None:
        nonlocal came
        if came:
            signal.default_int_handler(number, frame)
        came = True

    def let_through() -> None:
        if came:
            raise KeyboardInterrupt

    signal.signal(signal.SIGINT, note)
    try:
        yield let_through
    finally:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    let_through()


@contextlib.contextmanager
def unseen() -> Iterator[None]:
    """What starts here never sees Ctrl-C, which a terminal sends to every process: ending a worker is the driver's."""
    if not hasattr(signal, "pthread_sigmask"):
        yield
        return
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
