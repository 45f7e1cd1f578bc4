"""A store as one table, a row a trial, for programs that know nothing of isoscale.

Written a thousand trials at a time (NetCDF, which needs its sizes first, excepted), and put in place when whole.
"""

from __future__ import annotations

import csv
import itertools
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from isoscale.errors import InvalidValueError, StoreError
from isoscale.files import replacing
from isoscale.runs.record import DamagedRowError, TrialRecord
from isoscale.runs.spec import whole

if TYPE_CHECKING:
    from isoscale.runs.store.store import Store

_MANY = 1000

# Columns whose values say what was trained; `model_args` and the optimizer's numbers are in `config`.
_TEXTS = ("key", "status", "reason", "model", "dataset", "data", "rule", "optimizer")
_WHOLES = ("width", "depth", "base_width", "base_depth", "seed", "steps", "batch_size")
_NUMBERS = ("lr", "loss", "test_loss", "test_accuracy")
_RECORDS = ("created", "versions", "config")
COLUMNS = (*_TEXTS, *_WHOLES, *_NUMBERS, *_RECORDS)


def export(store: Store, path: str | os.PathLike[str]) -> int:
    """Write every trial of a store to a table (`Store.export`)."""
    writers: dict[str, Callable[[Store, Path], int]] = {".csv": _csv, ".nc": _netcdf, ".parquet": _parquet}
    ending = Path(path).suffix.lower()
    if ending not in writers:
        raise InvalidValueError(f"`{path}`: the ending says the format, one of {', '.join(writers)}")
    with replacing(path) as scratch:
        return writers[ending](store, scratch)


def _csv(store: Store, path: Path) -> int:
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, COLUMNS)
        writer.writeheader()
        count = 0
        for trial in store.trials():
            writer.writerow(_row(store, trial))
            count += 1
    return count


def _parquet(store: Store, path: Path) -> int:
    try:
        import pyarrow as pa
        from pyarrow import parquet
    except ImportError as error:
        raise InvalidValueError(
            "Parquet needs pyarrow: pip install 'isoscale[parquet]'. CSV and NetCDF need nothing more"
        ) from error
    types = dict.fromkeys((*_TEXTS, *_RECORDS), pa.string()) | dict.fromkeys(_WHOLES, pa.int64())
    types |= dict.fromkeys(_NUMBERS, pa.float64()) | {"curve": pa.list_(pa.float32())}
    schema = pa.schema([(name, types[name]) for name in (*COLUMNS, "curve")])
    count = 0
    with parquet.ParquetWriter(path, schema) as writer:
        for batch in _batches(store.trials()):
            rows = [_row(store, trial) | {"curve": trial.curve.tolist()} for trial in batch]
            writer.write_table(pa.Table.from_pylist(rows, schema))
            count += len(rows)
    return count


def _netcdf(store: Store, path: Path) -> int:
    import xarray as xr

    trials = list(store.trials())
    rows = [_row(store, trial) for trial in trials]
    data = xr.Dataset({name: ("trial", _column(name, [row[name] for row in rows])) for name in COLUMNS})
    curves = np.full((len(trials), max((len(trial.curve) for trial in trials), default=0)), np.nan, "f4")
    for at, trial in enumerate(trials):
        curves[at, : len(trial.curve)] = trial.curve
    data["curve"] = (("trial", "step"), curves)
    for name in ("loss", "test_loss", "curve"):
        data[name].attrs["units"] = "nats"
    path.write_bytes(bytes(data.to_netcdf(engine="scipy")))
    return len(trials)


def _column(name: str, values: list[Any]) -> np.ndarray:
    if name in _NUMBERS:
        return np.array(values, float)
    if name not in _WHOLES:
        # The bytes of UTF-8: NetCDF 3 has no text, and fixed-width Unicode would take four bytes a letter.
        return np.array([value.encode() for value in values], "S" if any(values) else "S1")
    # NetCDF 3 has no 64-bit integers; as floats, large seeds are exact up to 2^53.
    large = any(abs(value) > np.iinfo("i4").max for value in values)
    return np.array(values, float if large else "i4")


def _row(store: Store, trial: TrialRecord) -> dict[str, Any]:
    """The columns of one trial."""
    try:
        settings = trial.settings()
        settings["optimizer"] = settings["optimizer"]["family"]
        texts = {name: str(settings[name]) for name in _TEXTS if name in settings}
        wholes = {name: whole(name, settings[name], least=0) for name in _WHOLES}
        numbers = {"lr": float(settings["lr"])}
        "".join(texts.values()).encode()  # JSON can hold halves of letters, which no file can
    except (DamagedRowError, KeyError, TypeError, ValueError, OverflowError) as error:
        raise StoreError(f"`{store.path}`: trial {trial.key} has settings that no isoscale wrote") from error
    values = texts | wholes | numbers | {"loss": trial.final_loss}
    return {name: values[name] if name in values else getattr(trial, name, "") for name in COLUMNS}


def _batches(trials: Iterator[TrialRecord]) -> Iterator[list[TrialRecord]]:
    while batch := list(itertools.islice(trials, _MANY)):
        yield batch
