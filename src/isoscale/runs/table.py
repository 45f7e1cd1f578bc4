"""Finished runs as a table, whoever trained them: what each was run with, and the loss that it ended at.

Column names and units differ from logger to logger. They are guessed, and every guess is said in `Runs.notes`.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from isoscale.errors import DataError, InvalidTypeError, InvalidValueError, MissingExtraError, unknown
from isoscale.extras import needed
from isoscale.files import replacing
from isoscale.runs.spec import NO_RULE
from isoscale.stats.quantity import Quantity

if TYPE_CHECKING:
    import pandas as pd

# What a column may be called, the surest name first. Compared without case, prefix and punctuation.
_NAMES: dict[str, tuple[str, ...]] = {
    "lr": ("lr", "learning_rate", "base_lr", "peak_lr", "max_lr", "eta"),
    "loss": (
        "loss",
        "final_loss",
        "val_loss",
        "valid_loss",
        "validation_loss",
        "eval_loss",
        "test_loss",
        "train_loss",
        "training_loss",
        "value",
    ),
    "rule": ("rule", "parametrization", "parameterization", "scaling_rule"),
    "seed": ("seed", "random_seed", "run_seed"),
    "status": ("status", "state"),
    "width": ("width", "n_embd", "d_model", "hidden_size", "hidden_dim", "embed_dim", "n_embed", "dim"),
    "depth": ("depth", "n_layer", "n_layers", "num_layers", "num_hidden_layers", "layers", "blocks", "n_blocks"),
    "batch_size": ("batch_size", "batch", "global_batch_size", "train_batch_size"),
    "steps": ("steps", "max_steps", "num_steps", "iterations", "max_iters"),
    "tokens": ("tokens", "num_tokens", "train_tokens"),
    "weight_decay": ("weight_decay", "wd"),
    "momentum": ("momentum",),
    "beta1": ("beta1", "adam_beta1"),
    "beta2": ("beta2", "adam_beta2"),
    "eps": ("eps", "epsilon", "adam_eps"),
    "warmup": ("warmup", "warmup_steps", "warmup_ratio"),
    "init_scale": ("init_scale", "init_std", "initializer_range"),
    "dropout": ("dropout",),
    "optimizer": ("optimizer", "optim"),
    "model": ("model", "model_name", "arch", "architecture"),
    "dataset": ("dataset", "data"),
    "schedule": ("schedule", "lr_schedule", "scheduler", "lr_scheduler_type"),
}
# Exponents of a learning rate, and their base.
_EXPONENTS = {"log2_lr": 2.0, "log10_lr": 10.0}
_PREFIXES = ("config.", "config/", "config_", "params_", "params.", "summary.", "summary/", "user_attrs_", "hparams/")

SIZES = ("width", "depth", "batch_size", "steps", "tokens")
HYPERPARAMETERS = ("lr", "weight_decay", "momentum", "beta1", "beta2", "eps", "warmup", "init_scale", "dropout")
# What tells settings apart, beside sizes and hyperparameters.
SETTINGS = ("optimizer", "model", "dataset", "schedule")

# Words of a column's name that say whether more is better.
_SCORES = ("acc", "accuracy", "auc", "auroc", "bleu", "f1", "iou", "map", "psnr", "r2", "reward", "rouge", "score")
_LOSSES = ("err", "error", "loss", "perplexity", "ppl")

# Words for how a run ended; anything else is said.
_ENDED = {
    "done": "done",
    "finished": "done",
    "complete": "done",
    "completed": "done",
    "success": "done",
    "diverged": "diverged",
    "nan": "diverged",
    "failed": "failed",
    "fail": "failed",
    "crashed": "failed",
    "killed": "failed",
    "running": "failed",
    "pruned": "failed",
    "waiting": "failed",
}
_READERS = {".csv": "csv", ".tsv": "tsv", ".parquet": "parquet", ".jsonl": "jsonl", ".ndjson": "jsonl", ".json": "json"}
# So many rows are named in a message.
_SHOWN = 5


@dataclass(frozen=True, repr=False)
class Runs:
    """Finished runs, one row each.

    Attributes:
        table: DataFrame with `rule` ("-" where there was none), `seed`, `loss` (inf where the run diverged) and the
            sizes, hyperparameters and settings that were found. Runs that failed are not in it.
        notes: What was guessed, left out or averaged.
        quantity: What the losses are, if a column that is not called like one was given, or a sweep with a metric.
        renamed: What the table calls each column of the source that it calls otherwise.

    >>> import pandas as pd
    >>> runs = Runs.read(pd.DataFrame({"n_embd": [64, 128], "learning_rate": [0.1, 0.2], "val_loss": [2.0, 1.5]}))
    >>> runs.table.columns.tolist(), runs.notes[0]
    (['rule', 'seed', 'loss', 'lr', 'width'], '`loss` is read from `val_loss`, `lr` from `learning_rate`, `width` \
from `n_embd`')
    """

    table: pd.DataFrame
    notes: tuple[str, ...]
    quantity: Quantity = field(default_factory=Quantity)
    renamed: Mapping[str, str] = field(default_factory=dict)

    @classmethod
    def read(cls, source: Any, columns: Mapping[str, str] | None = None, *, wanted: Iterable[str] = ()) -> Runs:
        """Runs from a file, a DataFrame, a list of mappings, an Optuna study or a `SweepResult`.

        Args:
            source: A path (.csv, .tsv, .parquet, .jsonl, .json), also of a W&B export; a pandas DataFrame, its named
                index levels among its columns; columns or rows as mappings; an `optuna.Study`; `Runs`.
            columns: What a column is called where the guess is wrong: `{"lr": "learning_rate"}`. Names that isoscale
                does not know become sizes or hyperparameters of the user's own: `{"experts": "n_experts"}`.
            wanted: Columns of the source that are kept even if isoscale does not know them.

        Raises:
            DataError: A file that cannot be read, or has no runs.
            InvalidValueError, InvalidTypeError: Columns that are not there, rates that are none, numbers that are none.
        """
        if isinstance(source, Runs):
            return source
        # A sweep says what it is judged by.
        quantity = getattr(source, "quantity", Quantity())
        given = {} if quantity == Quantity() else {"loss": quantity.name}
        return _Reader(_frame(source), given | dict(columns or {}), quantity, tuple(wanted)).runs()

    def called(self, column: str) -> str:
        """What the table calls a column of the source.

        >>> import pandas as pd
        >>> Runs.read(pd.DataFrame({"n_embd": [64, 128], "lr": [0.1, 0.2], "loss": [2.0, 1.5]})).called("n_embd")
        'width'
        """
        return self.renamed.get(column, column)

    def to_csv(self, path: str | os.PathLike[str]) -> None:
        """Write the table, whole or not at all."""
        with replacing(path) as scratch:
            self.table.to_csv(scratch, index=False)

    def __len__(self) -> int:
        return len(self.table)

    def __repr__(self) -> str:
        """How many there are, and of what."""
        return f"<Runs: {len(self)} with {', '.join(map(str, self.table.columns))}>"

    def _repr_html_(self) -> str:
        return self.table.to_html(index=False, escape=True, max_rows=20)


def _frame(source: Any) -> pd.DataFrame:
    """Any source as a DataFrame with the columns that it came with."""
    import pandas as pd

    if isinstance(source, pd.DataFrame):
        # Grouping moves columns into the index.
        levels = [level for level in source.index.names if level is not None and level not in source.columns]
        return source.reset_index(levels).reset_index(drop=True)
    if isinstance(source, (str, os.PathLike)):
        return _file(Path(source))
    # An Optuna study, which need not be installed, and a sweep say themselves what they hold.
    if hasattr(source, "trials_dataframe"):
        return source.trials_dataframe()
    if hasattr(source, "runs_table"):
        return source.runs_table()
    if isinstance(source, Iterable) and not isinstance(source, (bytes, Mapping)):
        rows = list(source)
        if all(isinstance(row, Mapping) for row in rows):
            return pd.DataFrame(rows)
    if isinstance(source, Mapping):
        try:
            return pd.DataFrame(dict(source))
        except ValueError as error:
            raise InvalidTypeError(f"`runs` must be columns of equal length: {error}") from error
    raise InvalidTypeError(
        "`runs` must be a path, a DataFrame, columns or rows as mappings, an Optuna study or the result of a sweep, "
        f"got {type(source).__name__}"
    )


def _file(path: Path) -> pd.DataFrame:
    import pandas as pd

    kind = _READERS.get(path.suffix.lower())
    if kind is None:
        raise InvalidValueError(f"`{path}` must end in {', '.join(_READERS)}")
    readers: dict[str, Any] = {
        "csv": pd.read_csv,
        "tsv": lambda file: pd.read_csv(file, sep="\t"),
        "parquet": _parquet,
        "jsonl": lambda file: pd.read_json(file, lines=True),
        "json": pd.read_json,
    }
    try:
        return readers[kind](path)
    except FileNotFoundError:
        raise DataError(f"`{path}` does not exist") from None
    except MissingExtraError:
        raise
    except (OSError, ValueError, UnicodeError) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise DataError(f"`{path}` cannot be read as {kind}: {reason}") from error


def _parquet(path: Path) -> pd.DataFrame:
    import pandas as pd

    with needed("parquet", by="Parquet"):
        import pyarrow  # noqa: F401  pandas' own error for a missing one is a page long
    return pd.read_parquet(path, engine="pyarrow")


class _Reader:
    """One frame's way to a table: names, numbers, outcomes, then what repeats."""

    def __init__(
        self, frame: pd.DataFrame, columns: dict[str, str], quantity: Quantity, wanted: tuple[str, ...]
    ) -> None:
        self.frame = frame
        self.given = columns
        self.quantity = quantity
        self.wanted = wanted
        self.notes: list[str] = []

    def runs(self) -> Runs:
        import pandas as pd

        if self.frame.empty:
            raise DataError("`runs` has no rows")
        found = self._names()
        self._say_names(found)
        columns: dict[str, Any] = {}
        for name, column in found.items():
            if name not in ("loss", "status", "rule", "seed"):
                columns[name] = self._values(name, column)
        count = len(self.frame)
        rules = self.frame[found["rule"]].astype(str).to_numpy() if "rule" in found else np.full(count, NO_RULE)
        loss, is_failed = self._outcomes(found)
        table = pd.DataFrame({"rule": rules, "seed": self._seeds(found, columns, rules), "loss": loss, **columns})
        table = self._without(table, is_failed)
        if table.empty:
            raise DataError("`runs` has no run that ended: all of them failed")
        renamed = {str(column): name for name, column in found.items() if name != column}
        return Runs(table.reset_index(drop=True), tuple(self.notes), self._quantity(found["loss"]), renamed)

    def _quantity(self, column: str) -> Quantity:
        """What the losses are: by the name of a column that is not called like a loss."""
        is_loss = _plain(str(column)) in _NAMES["loss"]
        return self.quantity if is_loss else Quantity(str(column), self.quantity.better)

    # --- names ---
    def _names(self) -> dict[str, str]:
        """Our name of each column that is used."""
        plain: dict[str, str] = {}
        for column in self.frame.columns:
            plain.setdefault(_plain(str(column)), column)
        found: dict[str, str] = {}
        for name, column in self.given.items():
            if column not in self.frame.columns:
                raise unknown("column", column, map(str, self.frame.columns))
            found[name] = column
        taken = set(found.values())
        for name, spellings in _NAMES.items():
            known = [plain[spelling] for spelling in spellings if spelling in plain and plain[spelling] not in taken]
            if name not in found and known:
                found[name] = known[0]
                if name == "loss" and len(known) > 1:
                    others = ", ".join(f"`{column}`" for column in known[1:])
                    self.notes.append(f"`loss` could also be {others}: give columns={{'loss': ...}} to change it")
        for exponent in _EXPONENTS:
            if "lr" not in found and exponent in plain:
                found["lr"] = plain[exponent]
        for column in self.wanted:
            if column in self.frame.columns and column not in (*found, *found.values()):
                found[column] = column
        for name in ("lr", "loss"):
            if name not in found and not (name == "lr" and self.given):
                columns = ", ".join(map(str, self.frame.columns))
                way_out = f"say which with columns={{'{name}': ...}}"
                raise InvalidValueError(f"no column of `runs` looks like `{name}`: {way_out}; it has {columns}")
        return found

    def _say_names(self, found: Mapping[str, str]) -> None:
        renamed = [(name, column) for name, column in found.items() if name != column and name not in self.given]
        if renamed:
            renamed.sort(key=lambda pair: list(_NAMES).index(pair[0]) if pair[0] != "loss" else -1)
            words = [f"`{name}` from `{column}`" for name, column in renamed]
            first, *others = words
            self.notes.insert(0, ", ".join([first.replace(" from ", " is read from "), *others]))

    # --- numbers ---
    def _values(self, name: str, column: str) -> np.ndarray:
        values = self.frame[column]
        if name in SETTINGS or (name in self.wanted and name not in _NAMES and _holds_words(values)):
            return values.astype(str).to_numpy()
        numbers = self._numbers(name, column)
        base = _EXPONENTS.get(_plain(column)) if name == "lr" else None
        if base is not None:
            numbers = base**numbers
        if name in SIZES:
            self._refuse(name, ~(np.isfinite(numbers) & (numbers >= 1)), "a size of 1 or more")
        if name == "lr":
            is_bad = ~(np.isfinite(numbers) & (numbers > 0))
            hint = "positive and finite (where the column holds exponents: columns={'log2_lr': ...}, or 10**lr before)"
            self._refuse(name, is_bad, hint)
        is_count = name in SIZES or name not in _NAMES
        if is_count and np.isfinite(numbers).all() and (numbers == np.round(numbers)).all():
            return numbers.astype(int)
        return numbers

    def _numbers(self, name: str, column: str) -> np.ndarray:
        import pandas as pd

        values = self.frame[column]
        numbers = pd.to_numeric(values, errors="coerce")
        is_text = numbers.isna() & values.notna() & ~values.astype(str).str.lower().isin(["nan", "inf", "-inf"])
        self._refuse(name, is_text.to_numpy(), "a number")
        return numbers.to_numpy(float)

    def _refuse(self, name: str, is_bad: np.ndarray, what: str) -> None:
        if is_bad.any():
            rows = np.flatnonzero(is_bad)
            shown = ", ".join(str(row + 1) for row in rows[:_SHOWN])
            more = f" and {len(rows) - _SHOWN} more" if len(rows) > _SHOWN else ""
            raise InvalidValueError(f"`{name}` must be {what}: it is not in row {shown}{more} of the runs")

    # --- outcomes ---
    def _outcomes(self, found: Mapping[str, str]) -> tuple[np.ndarray, np.ndarray]:
        """Losses, inf where a run diverged; and which runs failed, of which nothing is known."""
        loss = self._numbers("loss", found["loss"])
        is_finite = np.isfinite(loss)
        is_failed = np.zeros(len(loss), bool)
        is_lost = ~is_finite
        if "status" in found:
            ended = self._ended(found["status"])
            is_failed = ended == "failed"
            is_lost = (ended == "diverged") | (~is_finite & ~is_failed)
        elif is_lost.any():
            count = int(is_lost.sum())
            self.notes.append(f"{count} runs without a finite loss are taken as diverged: there is no status column")
        return np.where(is_lost, np.inf, loss), is_failed

    def _ended(self, column: str) -> np.ndarray:
        words = self.frame[column].astype(str).str.lower().str.split(".").str[-1]
        ended = words.map(_ENDED)
        strange = sorted(words[ended.isna()].unique())
        if strange:
            self.notes.append(f"`status` {', '.join(strange[:_SHOWN])} is not known: taken as done")
        return ended.fillna("done").to_numpy(str)

    def _seeds(self, found: Mapping[str, str], columns: Mapping[str, Any], rules: np.ndarray) -> np.ndarray:
        """The seeds; without a column, runs of the same setting are numbered."""
        import pandas as pd

        if "seed" in found:
            seeds = self.frame[found["seed"]]
            return seeds.fillna(-1).to_numpy()
        self.notes.append("there is no seed column: runs of the same setting count as seeds of their own")
        settings = pd.DataFrame({"rule": rules, **columns})
        return settings.groupby(list(settings.columns), dropna=False).cumcount().to_numpy()

    def _without(self, table: pd.DataFrame, is_failed: np.ndarray) -> pd.DataFrame:
        if is_failed.any():
            self.notes.append(f"{int(is_failed.sum())} runs that failed or did not end are left out")
        return table[~is_failed]


def _holds_words(values: pd.Series) -> bool:
    """Whether no value of a column is a number."""
    import pandas as pd

    return bool(pd.to_numeric(values, errors="coerce").isna().all() and values.notna().any())


def is_score(column: str) -> bool:
    """Whether a column sounds like a number of which more is better.

    >>> is_score("val/Accuracy"), is_score("eval_top1_acc"), is_score("accuracy_loss"), is_score("val_bpc")
    (True, True, False, False)
    """
    words = _plain(column).split("_")
    return any(word in _SCORES for word in words) and not any(word in _LOSSES for word in words)


def _plain(column: str) -> str:
    """A column's name without case, prefix and punctuation.

    >>> _plain("config.Learning-Rate"), _plain("params_lr"), _plain("val/loss")
    ('learning_rate', 'lr', 'val_loss')
    """
    name = column.strip().lower()
    for prefix in _PREFIXES:
        name = name.removeprefix(prefix)
    for mark in " -/.":
        name = name.replace(mark, "_")
    return name
