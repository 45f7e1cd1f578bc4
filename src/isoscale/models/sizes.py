"""Sizes that a model can have, checked before it is built."""

from __future__ import annotations

from collections.abc import Sequence

from isoscale.errors import InvalidTypeError, InvalidValueError

# The deepest networks in print have ten thousand layers. More is a slip of the pen, and its modules alone would fill
# the memory before anything is computed.
_MOST_BLOCKS = 10_000


def check_sizes(**sizes: int) -> None:
    """Raise unless every size is a whole number of at least 1, and `depth` at most 10,000; the message names it."""
    for name, value in sizes.items():
        if isinstance(value, bool) or not isinstance(value, int):
            raise InvalidTypeError(f"`{name}` must be a whole number, got {value!r}")
        if value < 1:
            raise InvalidValueError(f"`{name}` must be >= 1, got {value}")
        if name == "depth" and value > _MOST_BLOCKS:
            raise InvalidValueError(f"`depth` must be at most {_MOST_BLOCKS:,} blocks, got {value:,}")


def check_rate(name: str, value: float) -> None:
    """Raise unless `value` is a number in [0, 1)."""
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise InvalidTypeError(f"`{name}` must be a number, got {value!r}")
    if not 0 <= value < 1:
        raise InvalidValueError(f"`{name}` must be in [0, 1), got {value}")


def check_flags(**flags: bool) -> None:
    """Raise unless every flag is True or False: text would count as true, whatever it says."""
    for name, value in flags.items():
        if not isinstance(value, bool):
            raise InvalidTypeError(f"`{name}` must be true or false, got {value!r}")


def checked_shape(in_shape: Sequence[int], what: str, dims: Sequence[int]) -> tuple[int, ...]:
    """`in_shape` as a tuple of a channel count and as many sizes as one of `dims` says.

    Raises:
        InvalidTypeError: Not a sequence of whole numbers.
        InvalidValueError: Too few or too many of them, or one below 1.
    """
    if not isinstance(in_shape, Sequence) or isinstance(in_shape, str):
        raise InvalidTypeError(f"`in_shape` must be {what}, got {in_shape!r}")
    shape = tuple(in_shape)
    if len(shape) - 1 not in dims:
        raise InvalidValueError(f"`in_shape` must be {what}, got {shape}")
    for size in shape:
        check_sizes(in_shape=size)
    return shape
