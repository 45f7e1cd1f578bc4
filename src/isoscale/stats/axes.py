"""What is asked of labelled losses before anything is read off them: their dimensions, and axes that are in order."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from isoscale.errors import InvalidTypeError, InvalidValueError

if TYPE_CHECKING:
    import xarray as xr

# Two values of an axis nearer than this, in factors of two, are one value with round-off: no grid is that fine.
_SAME = 1e-9


def need_dims(loss: xr.DataArray, *dims: str, name: str = "loss") -> None:
    """Raise InvalidValueError unless `loss` has those dimensions and something along each."""
    for dim in dims:
        if dim not in loss.dims:
            has = loss.dims
            raise InvalidValueError(f"`{name}` needs the dimension {dim!r}, it has {has}")
        if loss.sizes[dim] == 0:
            raise InvalidValueError(f"`{name}` is empty along {dim!r}: give one {dim} or more")


def ascending(loss: xr.DataArray, axis: str, *, name: str = "loss") -> xr.DataArray:
    """`loss` in ascending order of `axis` and of `seed`, whatever order it came in.

    Args:
        loss: Has both dimensions.
        axis: "lr" or "depth"; its values must be positive, finite and distinct.
        name: What the user calls `loss`.

    Raises:
        InvalidValueError, InvalidTypeError: Values of the axis that are none, or two that are the same.
    """
    need_dims(loss, axis, "seed", name=name)
    what = f"`{axis}` of `{name}`"
    given = loss[axis].values
    try:
        values = given.astype(float)
    except (TypeError, ValueError):
        raise InvalidTypeError(f"{what} must hold numbers, got {given.tolist()}") from None
    is_usable = np.isfinite(values) & (values > 0)
    if not is_usable.all():
        bad = values[~is_usable].tolist()
        raise InvalidValueError(f"{what} must be positive and finite, got {bad}: leave those out")
    values.sort()
    steps = np.diff(np.log2(values))
    is_repeated = steps < _SAME
    if is_repeated.any():
        higher = values[1:]
        repeated = higher[is_repeated].tolist()
        raise InvalidValueError(
            f"{what} must be distinct, got {repeated} more than once: "
            f"where grids were joined, keep one run of each {axis} and seed"
        )
    return loss.sortby([axis, "seed"])
