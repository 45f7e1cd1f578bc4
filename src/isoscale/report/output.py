"""What a figure and a data set are as files, and writing them together."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import xarray as xr

from isoscale.errors import InvalidValueError, unknown
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


def csv(data: Mapping[str, xr.Dataset]) -> bytes:
    """Data sets as one CSV table: for each what it is called, and each variable's values with their coordinates."""
    import pandas as pd

    tables = []
    for name, dataset in data.items():
        for variable, values in dataset.data_vars.items():
            # A name of its own, or a variable without dimensions would have none in the table.
            table = values.to_dataframe(name="value").reset_index()
            table = table[[*values.dims, "value"]]
            table.insert(0, "variable", str(variable))
            table.insert(0, "data", name)
            tables.append(table)
    return pd.concat(tables, ignore_index=True).to_csv(index=False).encode()


FORMATS = ("csv", "nc", "pdf", "png", "svg")


def write_one(path: Path, figure: Figure, data: Mapping[str, xr.Dataset], *, flag: str = "--report") -> None:
    """Write the figure, or the data, as the file's name says: SVG, PNG, PDF, CSV, or NetCDF of a single data set.

    Raises:
        InvalidValueError: A name that says nothing of these, or NetCDF of several data sets.
    """
    kind = path.suffix.removeprefix(".").lower()
    if kind not in FORMATS:
        raise unknown("kind of file", path.suffix, [f".{known}" for known in FORMATS])
    if kind == "csv":
        content = csv(data)
    elif kind == "nc":
        if len(data) > 1:
            raise InvalidValueError(
                f"one NetCDF file holds one data set, not {len(data)}: name a folder, or a .csv file"
            )
        content = netcdf(next(iter(data.values())))
    else:
        content = drawing.encoded(figure, kind)
    write_all(path.parent, {path.name: content}, flag=flag)


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
