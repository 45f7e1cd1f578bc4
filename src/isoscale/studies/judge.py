"""The verdict of `transfer`, asked of runs that exist already: somebody else's table, a study, a sweep."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from isoscale.errors import InvalidValueError, unknown
from isoscale.runs.table import HYPERPARAMETERS, SETTINGS, SIZES, Runs, is_score
from isoscale.stats import Better, Limits, Quantity
from isoscale.studies.along import Along, tuned_columns, usable
from isoscale.studies.judged import Axis, attributes, dataset, judge_table, trials_dataset, tuned_dataset
from isoscale.studies.transfer import Transfer

if TYPE_CHECKING:
    import pandas as pd

# Columns of every table of runs.
_NO_SIZES = ("rule", "seed", "loss")


def judge(
    runs: Any,
    *,
    size: str | None = None,
    hyperparameter: str = "lr",
    base: int | None = None,
    hold: Mapping[str, Any] | None = None,
    columns: Mapping[str, str] | None = None,
    better: Better | None = None,
    limits: Limits | None = None,
) -> Transfer:
    """Whether the optimum of the small model serves the large one, read off finished runs.

    Args:
        runs: Anything that `isoscale.Runs.read` takes: a CSV, Parquet or JSON-lines file, a DataFrame, a W&B export, an
            Optuna study, the result of a sweep. Scattered learning rates and missing seeds are fine. Columns go by
            their names in the runs or by isoscale's, "n_embd" or "width".
        size: The column of sizes, "width", "depth", "batch_size", "steps", "tokens", ...; by default the one that has
            several values. Without a column of tokens these are the samples seen, batch_size x steps.
        hyperparameter: What the question is about, "lr" or another positive number. Of beta1, beta2 and momentum
            the octaves are those of 1 - beta.
        base: The tuned size; the smallest by default.
        hold: Values of other columns to keep, such as `{"weight_decay": 0.1}`; what is not held and has several
            values is minimised over, run by run, and said. Of further hyperparameters `Transfer.tuned` has a verdict
            on each, with the others held at the base's best, too.
        columns: As for `Runs.read`.
        better: Which losses are, "lower" or "higher", as of an accuracy; of a sweep what it says, else "lower", unless
            the column's name sounds like a score.
        limits: What still counts as a transfer.

    Returns:
        `Transfer`, as of `isoscale.transfer`; `notes` in its attributes say what was guessed.

    Raises:
        InvalidValueError, InvalidTypeError, DataError: Runs that cannot be read, one size only, a base that was not
            run, a score of which nobody said that higher is better.

    >>> import pandas as pd
    >>> rows = [(w, 2.0**k, s, 1 + 0.1 * (k + 3) ** 2 - w / 999) for w in (8, 16) for k in range(-6, 0) for s in (0, 1)]
    >>> judge(pd.DataFrame(rows, columns=["width", "lr", "seed", "loss"])).answer
    'Yes.'
    """
    import pandas as pd

    started = time.monotonic()
    hold = hold or {}
    asked = [name for name in (size, hyperparameter, *hold) if name is not None]
    found = Runs.read(runs, columns, wanted=[name for name in asked if name not in (columns or {})])
    size = size and found.called(size)
    hyperparameter = found.called(hyperparameter)
    hold = {found.called(name): value for name, value in hold.items()}
    notes = list(found.notes)
    table = found.table
    if "tokens" not in table and "tokens" in (size, *hold):
        table = _with_tokens(table)
        notes.append("`tokens` is batch_size x steps: samples seen, not what each is made of")
    table = _held(table, hold)
    is_said = better is not None or (hasattr(runs, "quantity") and not isinstance(runs, Runs))
    if not is_said and is_score(found.quantity.name):
        raise InvalidValueError(
            f"`{found.quantity.name}` sounds like a score: say better='higher', or 'lower' if less of it is better"
        )
    quantity = Quantity(found.quantity.name, better or found.quantity.better)
    if quantity.better == "higher":
        # What diverged is the worst there is, whichever way is better.
        table = table.assign(loss=np.where(np.isfinite(table["loss"]), -table["loss"], np.inf))
    size = _size(table, size)
    if hyperparameter not in table:
        raise unknown("hyperparameter", hyperparameter, [str(name) for name in table if name in HYPERPARAMETERS])
    tuned = tuned_columns(table)
    table, said = _reduced(table, size, [hyperparameter, *(name for name in tuned if name != hyperparameter)])
    notes += said

    for name in (size, hyperparameter):
        if not pd.api.types.is_numeric_dtype(table[name]):
            raise InvalidValueError(f"`{name}` holds words: a question is about numbers, such as {', '.join(SIZES)}")

    axis = _axis(table, size, base)
    limits = limits or Limits()
    along = Along(hyperparameter, tuple(name for name in tuned if name != hyperparameter))
    judged = judge_table(table, axis, along, limits, quantity=quantity)
    others = tuned_dataset(table, axis, tuned, tuned, limits, quantity=quantity) if len(tuned) > 1 else None
    table, _ = usable(table, hyperparameter)
    data = dataset(judged.verdicts, axis).merge(trials_dataset(table, axis, along))
    data.attrs = attributes(data, axis, limits, along, notes + judged.notes, others, quantity) | _about(table)
    data.attrs["seconds"] = time.monotonic() - started
    return Transfer(data, None, axis.name, axis.base, tuple(judged.next_runs), others)


# --- which runs ---
def _with_tokens(table: pd.DataFrame) -> pd.DataFrame:
    missing = [name for name in ("batch_size", "steps") if name not in table]
    if missing:
        raise InvalidValueError(
            f"`tokens` is no column of the runs, nor is {' or '.join(missing)}, of which it could be the product"
        )
    return table.assign(tokens=table["batch_size"] * table["steps"])


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
            known = [str(name) for name in table if name not in (*_NO_SIZES, *HYPERPARAMETERS, *SETTINGS)]
            raise unknown("size", size, known)
        if table[size].nunique() < 2:
            raise InvalidValueError(f"`size` {size} has one value only, {table[size].iloc[0]}: a verdict compares two")
        return size
    many = [name for name in SIZES if name in table and table[name].nunique() > 1]
    if len(many) != 1:
        what = f"several of the columns {', '.join(many)}" if many else "no size with several values"
        raise InvalidValueError(f"the runs have {what}: say which with `size`, and `hold` the others")
    return many[0]


def _reduced(table: pd.DataFrame, size: str, tuned: Sequence[str]) -> tuple[pd.DataFrame, list[str]]:
    """One loss for each rule, size, tuned setting and seed: the least over all else, the mean of repeats."""
    notes = []
    key = ["rule", size, *tuned, "seed"]
    others = [str(name) for name in table if name not in (*key, "loss")]
    varied = [name for name in others if table[name].nunique(dropna=False) > 1]
    # What has one value at each size is no choice that the least loss could be taken over.
    following = [name for name in varied if table.groupby(size)[name].nunique(dropna=False).max() == 1]
    varied = [name for name in varied if name not in following]
    if following:
        notes.append(f"{', '.join(following)} changes with {size}: a verdict on {size} is one on both")
    repeated = table.duplicated([*key, *varied], keep=False)
    if repeated.any():
        spread = table[repeated].groupby([*key, *varied], dropna=False)["loss"].nunique()
        differ = int((spread > 1).sum())
        words = f"{int(repeated.sum())} runs repeat a setting and seed"
        notes.append(f"{words}; their mean is taken ({differ} settings have losses that differ)")
        table = table.groupby([*key, *varied], sort=False, dropna=False)[["loss"]].mean().reset_index()
    over = [*tuned[1:], *varied]
    if over:
        notes.append(f"minimised over {', '.join(over)}: `hold` a value to compare at it")
    if varied:
        table = table.groupby(key, sort=False, dropna=False)[["loss"]].min().reset_index()
    return table[[*key, "loss"]], notes


def _axis(table: pd.DataFrame, size: str, base: int | None) -> Axis:
    sizes = sorted(table[size].unique().tolist())
    small = sizes[0] if base is None else base
    if small not in sizes:
        known = ", ".join(map(str, sizes))
        raise InvalidValueError(f"`base` {size} {base} is not among the sizes of the runs: {known}")
    return Axis(size, sizes, small)


def _about(table: pd.DataFrame) -> dict[str, Any]:
    """What is known of how somebody else's runs were made."""
    return {
        "model": "",
        "dataset": "",
        "optimizer": "",
        "dataset_note": "",
        "versions": "{}",
        "spec": "",
        "trials": len(table),
        "diverged": int(np.isinf(table["loss"].to_numpy(float)).sum()),
        "failed": 0,
    }
