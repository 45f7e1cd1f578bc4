"""Checks of arguments: each returns the value as it is used, or raises the error that names it."""

from __future__ import annotations

import math
import numbers

from isoscale.errors import InvalidTypeError, InvalidValueError

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
