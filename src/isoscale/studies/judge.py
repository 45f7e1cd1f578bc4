"""The verdict of `transfer`, asked of runs that exist already: somebody else's table, a study, a sweep."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from isoscale.errors import InvalidValueError, unknown
from isoscale.runs.result import STATUS
from isoscale.runs.table import HYPERPARAMETERS, SIZES, Runs
from isoscale.stats import Curve, Limits, Verdict
from isoscale.studies.judged import Axis, NextRun, Size, attributes, dataset, judge_rule, next_run
from isoscale.studies.transfer import Transfer

if TYPE_CHECKING:
    import pandas as pd
    import xarray as xr

# A figure of more learning rates shows them at three digits: no eye tells more apart.
_MOST_RATES = 2000


def judge(
    runs: Any,
    *,
    size: str | None = None,
    hyperparameter: str = "lr",
    base: int | None = None,
    hold: Mapping[str, Any] | None = None,
    columns: Mapping[str, str] | None = None,
    limits: Limits | None = None,
) -> Transfer:
    """Whether the optimum of the small model serves the large one, read off finished runs.

    Args:
        runs: Anything that `isoscale.Runs.read` takes: a CSV, Parquet or JSON-lines file, a DataFrame, a W&B export, an
            Optuna study, the result of a sweep. Scattered learning rates and missing seeds are fine.
        size: The column of sizes, "width", "depth", ...; by default the one that has several values.
        hyperparameter: What was tuned, "lr" or another positive number.
        base: The tuned size; the smallest by default.
        hold: Values of other columns to keep, such as `{"weight_decay": 0.1}`; what is not held and has several
            values is minimised over, run by run, and said.
        columns: As for `Runs.read`.
        limits: What still counts as a transfer.

    Returns:
        `Transfer`, as of `isoscale.transfer`; `notes` in its attributes say what was guessed.

    Raises:
        InvalidValueError, InvalidTypeError, DataError: Runs that cannot be read, one size only, a base that was not
            run.

    >>> import pandas as pd
    >>> rows = [(w, 2.0**k, s, 1 + 0.1 * (k + 3) ** 2 - w / 999) for w in (8, 16) for k in range(-6, 0) for s in (0, 1)]
    >>> judge(pd.DataFrame(rows, columns=["width", "lr", "seed", "loss"])).answer
    'Yes.'
    """
    started = time.monotonic()
    found = Runs.read(runs, columns)
    notes = list(found.notes)
    table = _held(found.table, hold or {})
    size = _size(table, size)
    if hyperparameter not in table:
        raise unknown("hyperparameter", hyperparameter, [str(name) for name in table if name in HYPERPARAMETERS])
    _check_positive(table, hyperparameter)
    table, said = _reduced(table, size, hyperparameter)
    notes += said

    axis = _axis(table, size, base)
    limits = limits or Limits()
    verdicts: dict[str, dict[Size, Verdict]] = {}
    runs_to_do: list[NextRun] = []
    for rule, of_rule in table.groupby("rule", sort=False):
        name = str(rule)
        curves = {each: _curve(of_rule[of_rule[size] == each], hyperparameter) for each in axis.sizes}
        verdicts[name] = judge_rule(curves, axis, limits)
        run = next_run(name, verdicts[name][axis.target], curves, axis)
        if run is not None:
            runs_to_do.append(run)
    data = dataset(verdicts, axis).merge(_trials(table, axis, hyperparameter))
    data.attrs = _attributes(data, axis, limits, hyperparameter, notes, table)
    data.attrs["seconds"] = time.monotonic() - started
    return Transfer(data, None, axis.name, axis.base, tuple(runs_to_do))


# --- which runs ---
def _held(table: pd.DataFrame, hold: Mapping[str, Any]) -> pd.DataFrame:
    for name, value in hold.items():
        if name not in table:
            raise unknown("column to hold", name, table.columns)
        kept = table[table[name] == value]
        if kept.empty:
            values = ", ".join(map(str, sorted(table[name].unique())[:10]))
            raise InvalidValueError(f"`hold` {name} {value} is no value of the runs: {values}")
        table = kept
    return table


def _size(table: pd.DataFrame, size: str | None) -> str:
    """The column of sizes: the one asked for, or the only one with several values."""
    if size is not None:
        if size not in table:
            raise unknown("size", size, [str(name) for name in table if name not in ("rule", "seed", "loss")])
        if table[size].nunique() < 2:
            raise InvalidValueError(f"`size` {size} has one value only, {table[size].iloc[0]}: a verdict compares two")
        return size
    many = [name for name in SIZES if name in table and table[name].nunique() > 1]
    if len(many) != 1:
        what = f"several of the columns {', '.join(many)}" if many else "no size with several values"
        raise InvalidValueError(f"the runs have {what}: say which with `size`, and `hold` the others")
    return many[0]


def _check_positive(table: pd.DataFrame, hyperparameter: str) -> None:
    values = table[hyperparameter].to_numpy(float)
    if not (np.isfinite(values) & (values > 0)).all():
        bad = values[~(values > 0)][:5].tolist()
        raise InvalidValueError(f"`{hyperparameter}` must be positive to be compared in octaves, got {bad}")


def _reduced(table: pd.DataFrame, size: str, hyperparameter: str) -> tuple[pd.DataFrame, list[str]]:
    """One loss for each rule, size, hyperparameter and seed: the least over the other settings, the mean of repeats."""
    notes = []
    key = ["rule", size, hyperparameter, "seed"]
    others = [str(name) for name in table if name not in (*key, "loss")]
    varied = [name for name in others if table[name].nunique(dropna=False) > 1]
    repeated = table.duplicated([*key, *varied], keep=False)
    if repeated.any():
        spread = table[repeated].groupby([*key, *varied], dropna=False)["loss"].nunique()
        differ = int((spread > 1).sum())
        words = f"{int(repeated.sum())} runs repeat a setting and seed"
        notes.append(f"{words}; their mean is taken ({differ} settings have losses that differ)")
        table = table.groupby([*key, *varied], sort=False, dropna=False)[["loss"]].mean().reset_index()
    if varied:
        notes.append(f"minimised over {', '.join(varied)}: `hold` a value to compare at it")
        table = table.groupby(key, sort=False)[["loss"]].min().reset_index()
    return table[[*key, "loss"]], notes


def _axis(table: pd.DataFrame, size: str, base: int | None) -> Axis:
    sizes = sorted(table[size].unique().tolist())
    small = sizes[0] if base is None else base
    if small not in sizes:
        known = ", ".join(map(str, sizes))
        raise InvalidValueError(f"`base` {size} {base} is not among the sizes of the runs: {known}")
    return Axis(size, sizes, small)


def _curve(of_size: pd.DataFrame, hyperparameter: str) -> Curve:
    return Curve.of_runs(
        of_size[hyperparameter].to_numpy(float),
        of_size["seed"].to_numpy(),
        of_size["loss"].to_numpy(float),
    )


# --- for the report ---
def _trials(table: pd.DataFrame, axis: Axis, hyperparameter: str) -> xr.Dataset:
    """`loss` and `status` over (rule, <axis>, lr, seed); what was not run is missing."""
    import pandas as pd

    lrs = table[hyperparameter].to_numpy(float)
    if len(np.unique(lrs)) > _MOST_RATES:
        digits = 2 - np.floor(np.log10(lrs))
        lrs = np.round(lrs * 10.0**digits) / 10.0**digits
    drawn = pd.DataFrame(
        {"rule": table["rule"], axis.name: table[axis.name], "lr": lrs, "seed": table["seed"], "loss": table["loss"]}
    )
    loss = drawn.groupby(["rule", axis.name, "lr", "seed"], sort=True)["loss"].mean().to_xarray()
    rules = list(dict.fromkeys(table["rule"]))
    loss = loss.sel(rule=rules).transpose("rule", axis.name, "lr", "seed")
    status = np.where(np.isnan(loss.values), STATUS["missing"], STATUS["done"])
    status = np.where(np.isinf(loss.values), STATUS["diverged"], status).astype(np.int8)
    found = loss.where(np.isfinite(loss)).to_dataset()
    found["status"] = (loss.dims, status)
    return found


def _attributes(
    data: xr.Dataset,
    axis: Axis,
    limits: Limits,
    hyperparameter: str,
    notes: list[str],
    table: pd.DataFrame,
) -> dict[str, Any]:
    diverged = int(np.isinf(table["loss"].to_numpy(float)).sum())
    what = "learning rate" if hyperparameter == "lr" else hyperparameter
    return attributes(data, axis, limits, what) | {
        "hyperparameter": hyperparameter,
        "notes": json.dumps(notes),
        "model": "",
        "dataset": "",
        "optimizer": "",
        "dataset_note": "",
        "versions": "{}",
        "spec": "",
        "trials": len(table),
        "diverged": diverged,
        "failed": 0,
    }
