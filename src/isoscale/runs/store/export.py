"""Trials as one table, one row per trial, for programs that know nothing of isoscale.

Written a thousand trials at a time (NetCDF, which needs its sizes first, excepted), and put in place when whole.
"""

from __future__ import annotations

import csv
import itertools
import os
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from isoscale.checks import whole
from isoscale.errors import InvalidValueError, StoreError
from isoscale.extras import needed
from isoscale.files import replacing
from isoscale.runs.record import DamagedRowError, TrialRecord

_MANY = 1000

# What was trained, from a trial's settings; `model_args` and the optimizer's numbers are in `config`.
_NAMES = ("model", "dataset", "data", "rule", "optimizer")
_WHOLES = ("width", "depth", "base_width", "base_depth", "seed", "steps", "batch_size")
_NUMBERS = ("lr", "loss", "test_loss", "test_accuracy")
COLUMNS = ("key", "status", "reason", *_NAMES, *_WHOLES, *_NUMBERS, "numbers", "created", "versions", "config")

# What a trial of the user's own code may be without.
_OPTIONAL = ("width", "depth", "base_width", "base_depth", "steps", "batch_size")


def export(trials: Iterable[TrialRecord], path: str | os.PathLike[str], origin: object) -> int:
    """Write trials to a table (`Store.export`).

    Args:
        trials: What to write.
        path: The file; its ending says the format.
        origin: The store that they come from, for the errors.

    Returns:
        How many.
    """
    writers = {".csv": _csv, ".nc": _netcdf, ".parquet": _parquet}
    ending = Path(path).suffix.lower()
    if ending not in writers:
        raise InvalidValueError(f"`{path}`: the ending says the format, one of {', '.join(writers)}")
    with replacing(path) as scratch:
        return writers[ending](_rows(trials, origin), scratch)


def _csv(rows: Iterator[dict[str, Any]], path: Path) -> int:
    count = 0
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, COLUMNS, extrasaction="ignore")  # all but the curve
        writer.writeheader()
        for row in rows:
            writer.writerow(row)
            count += 1
    return count


def _parquet(rows: Iterator[dict[str, Any]], path: Path) -> int:
    with needed("parquet", by="Parquet"):
        import pyarrow as pa
        from pyarrow import parquet
    columns = []
    for name in COLUMNS:
        if name in _WHOLES:
            columns.append((name, pa.int64()))
        elif name in _NUMBERS:
            columns.append((name, pa.float64()))
        else:
            columns.append((name, pa.string()))
    columns.append(("curve", pa.list_(pa.float32())))
    schema = pa.schema(columns)
    count = 0
    with parquet.ParquetWriter(path, schema) as writer:
        while batch := list(itertools.islice(rows, _MANY)):
            writer.write_table(pa.Table.from_pylist(batch, schema))
            count += len(batch)
    return count


def _netcdf(rows: Iterator[dict[str, Any]], path: Path) -> int:
    import xarray as xr

    trials = list(rows)
    data = xr.Dataset()
    for name in COLUMNS:
        data[name] = ("trial", _column(name, [row[name] for row in trials]))
    longest = max((len(row["curve"]) for row in trials), default=0)
    curves = np.full((len(trials), longest), np.nan, "f4")
    for curve, row in zip(curves, trials, strict=True):
        curve[: len(row["curve"])] = row["curve"]
    # A dimension of length 0 is NetCDF 3's word for one without an end.
    if longest:
        data["curve"] = (("trial", "step"), curves)
    for name in {"loss", "test_loss", "curve"} & set(data):
        data[name].attrs["units"] = "nats"
    path.write_bytes(bytes(data.to_netcdf(engine="scipy")))
    return len(trials)


def _column(name: str, values: list[Any]) -> np.ndarray:
    if name in _NUMBERS:
        return np.array(values, float)
    if None in values:
        return np.array([np.nan if value is None else value for value in values], float)
    if name in _WHOLES:
        # NetCDF 3 has no 64-bit integers; as floats, large seeds are exact up to 2^53.
        largest = max(map(abs, values), default=0)
        return np.array(values, float if largest > np.iinfo("i4").max else "i4")
    # The bytes of UTF-8: NetCDF 3 has no text, and fixed-width Unicode would take four bytes a letter.
    return np.array([value.encode() for value in values], "S" if any(values) else "S1")


def _rows(trials: Iterable[TrialRecord], origin: object) -> Iterator[dict[str, Any]]:
    """The columns of each trial, and its curve."""
    for trial in trials:
        row: dict[str, Any] = {name: getattr(trial, name, None) for name in COLUMNS}
        row |= {"loss": trial.final_loss, "curve": trial.curve}
        try:
            row |= _settings(trial)
        except (DamagedRowError, KeyError, TypeError, ValueError, OverflowError) as error:
            raise StoreError(
                f"`{origin}`: trial {trial.key} has settings that no isoscale wrote: "
                "delete its row of the table `trials` to export the others"
            ) from error
        yield row


def _settings(trial: TrialRecord) -> dict[str, Any]:
    settings = trial.settings()
    is_own = "trainer" in settings
    optimizer = settings.get("optimizer", {"family": ""}) if is_own else settings["optimizer"]
    settings["optimizer"] = optimizer["family"]
    row: dict[str, Any] = {"lr": float(settings["lr"])}
    for name in _NAMES:
        row[name] = str(settings.get(name, ""))
        row[name].encode()  # JSON can hold halves of letters, which no file can
    for name in _WHOLES:
        is_left_out = is_own and name in _OPTIONAL and name not in settings
        row[name] = None if is_left_out else whole(name, settings[name], least=0)
    return row
