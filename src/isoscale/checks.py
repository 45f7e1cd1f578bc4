"""Checks of arguments: each returns the value as it is used, or raises the error that names it."""

from __future__ import annotations

import math
import numbers
import os
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING

from isoscale.errors import InvalidTypeError, InvalidValueError

if TYPE_CHECKING:
    import torch

# SQLite and NumPy hold no larger whole numbers.
LARGEST = 2**63 - 1


def whole(name: str, value: object, *, least: int = 1) -> int:
    """`value` as an int of at least `least`.

    Raises:
        InvalidTypeError: Not a whole number (a bool is none).
        InvalidValueError: Too small, or more than 64 bits.

    >>> whole("steps", 3)
    3
    """
    if isinstance(value, bool) or not isinstance(value, numbers.Integral):
        raise InvalidTypeError(f"`{name}` must be a whole number, got {value!r}")
    number = int(value)
    if abs(number) > LARGEST:  # not shown: Python writes out no number of more than 4,300 digits
        raise InvalidValueError(f"`{name}` must be a number of 64 bits")
    if number < least:
        raise InvalidValueError(f"`{name}` must be >= {least}, got {number}")
    return number


def number(name: str, value: object, *, least: float = -math.inf, above: float = -math.inf) -> float:
    """`value` as a finite float, at least `least` and greater than `above`.

    Raises:
        InvalidTypeError: Not a number (a bool is none).
        InvalidValueError: Not finite, or out of range.

    >>> number("eps", 1, above=0)
    1.0
    """
    if isinstance(value, bool) or not isinstance(value, numbers.Real):
        raise InvalidTypeError(f"`{name}` must be a number, got {value!r}")
    try:
        found = float(value)
    except OverflowError:
        raise InvalidValueError(f"`{name}` must be a number that a float holds") from None
    if not math.isfinite(found):
        raise InvalidValueError(f"`{name}` must be finite, got {found}")
    if found < least:
        raise InvalidValueError(f"`{name}` must be >= {least:g}, got {found}")
    if found <= above:
        raise InvalidValueError(f"`{name}` must be > {above:g}, got {found}")
    return found


def share(name: str, value: object) -> float:
    """`value` as a number in [0, 1), as momentum and betas are.

    >>> share("momentum", 0.9)
    0.9
    """
    found = number(name, value)
    if not 0 <= found < 1:
        raise InvalidValueError(f"`{name}` must be in [0, 1), got {found}")
    return found


def seeds(value: object) -> list[int]:
    """`seeds` as a list: a number n means 0 .. n - 1.

    Raises:
        InvalidTypeError: Neither a number nor a sequence.
        InvalidValueError: No seed at all.

    >>> seeds(3), seeds([5, 7])
    ([0, 1, 2], [5, 7])
    """
    if isinstance(value, (bool, str)) or not isinstance(value, (int, Sequence)):
        raise InvalidTypeError(f"`seeds` must be a number of seeds or a list of them, got {value!r}")
    found = list(range(value)) if isinstance(value, int) else list(value)
    if not found:
        raise InvalidValueError(f"`seeds` must name one seed or more, got {value!r}")
    return found


def sizes(name: str, values: Sequence[int] | None) -> list[int] | None:
    """`widths` or `depths` as rising, distinct whole numbers; None stays None.

    Raises:
        InvalidTypeError: Something in it is no whole number (a bool is none).
        InvalidValueError: A number below 1, or none at all.

    >>> sizes("widths", [64, 32, 64])
    [32, 64]
    """
    if values is None:
        return None
    for value in values:
        if isinstance(value, bool) or not isinstance(value, int):
            raise InvalidTypeError(f"`{name}` must hold whole numbers, got {value!r}")
        if value < 1:
            raise InvalidValueError(f"`{name}` must hold numbers >= 1, got {value}")
    if not values:
        raise InvalidValueError(f"`{name}` must hold one size or more, got []")
    return sorted(set(values))


def usable_device(device: str | torch.device) -> torch.device:
    """`device`, if torch can compute on it here and hand back what it found.

    Raises:
        InvalidValueError: There is none of that name, or it holds no numbers (`meta`).

    >>> usable_device("cpu").type
    'cpu'
    """
    import torch

    try:
        torch.zeros(1, device=device).cpu()
        return torch.device(device)
    except (RuntimeError, AssertionError, TypeError) as error:
        said = str(error).splitlines()[0]
        raise InvalidValueError(f"`device` {str(device)!r} cannot be used: {said}") from error


def available_bytes() -> int:
    """Memory that can be taken without swapping; without psutil, all that there is."""
    try:
        import psutil
    except ModuleNotFoundError:
        if not hasattr(os, "sysconf"):  # Windows, which does not say without psutil
            return sys.maxsize
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return psutil.virtual_memory().available


def check_memory(needed: int, remedy: str) -> None:
    """Raise before a run that cannot fit."""
    available = available_bytes()
    if needed > available:
        need = needed / 2**30
        have = available / 2**30
        raise InvalidValueError(
            f"this run needs about {need:.1f} GiB and the machine has {have:.1f} GiB free. {remedy}"
        )
