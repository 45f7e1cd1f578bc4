"""What a figure and a data set are as files, and writing them together."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import xarray as xr

from isoscale.report import drawing
from isoscale.report.files import write_all

if TYPE_CHECKING:
    from matplotlib.figure import Figure

LARGEST = np.iinfo("int32").max


def images(name: str, figure: Figure, kinds: Iterable[str] = ("svg", "png")) -> dict[str, bytes]:
    """The files of a figure: SVG for pages, PNG for everything else, and PDF for papers if asked for."""
    return {f"{name}.{kind}": drawing.encoded(figure, kind) for kind in kinds}


def svg(figure: Figure) -> str:
    """A figure as an SVG element, for a page or a notebook."""
    text = drawing.encoded(figure, "svg").decode()
    # What stands before the element is for files.
    return text[text.index("<svg") :]


def netcdf(data: xr.Dataset) -> bytes:
    """The data as a NetCDF 3 file, which `xarray.load_dataset` reads back.

    NetCDF 3 has no 64-bit integers: coordinates that need them (seeds may) become floats, exact up to 2^53.
    """
    as_floats = {}
    for name, values in data.coords.items():
        if _is_large(values):
            as_floats[name] = values.astype(float)
    return bytes(data.assign_coords(as_floats).to_netcdf(engine="scipy"))


def _is_large(values: xr.DataArray) -> bool:
    """Whether integers among the values do not fit 32 bits."""
    is_integer = values.dtype.kind in "iu"
    return is_integer and bool((abs(values.astype(float)) > LARGEST).any())


def write_figures(
    folder: Path, figures: Mapping[str, Figure], data: Mapping[str, xr.Dataset], *, flag: str = "--report"
) -> list[Path]:
    """Write figures as SVG and PNG and data sets as NetCDF, whole or not at all (`write_all`); the paths written."""
    files: dict[str, bytes] = {}
    for name, figure in figures.items():
        files |= images(name, figure)
    for name, dataset in data.items():
        files[f"{name}.nc"] = netcdf(dataset)
    write_all(folder, files, flag=flag)
    return [folder / name for name in files]
