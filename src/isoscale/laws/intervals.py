"""What the laws' intervals have in common."""

from __future__ import annotations

from typing import TYPE_CHECKING

from isoscale.errors import InvalidValueError

if TYPE_CHECKING:
    import xarray as xr

LEVEL = 0.95
RESAMPLES = 1000


def need_dims(loss: xr.DataArray, *dims: str) -> None:
    """Raise InvalidValueError unless `loss` has those dimensions."""
    for dim in dims:
        if dim not in loss.dims:
            raise InvalidValueError(f"`loss` needs the dimension {dim!r}, it has {tuple(loss.dims)}")
