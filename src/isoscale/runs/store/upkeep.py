"""What is done to whole stores: list, choose, delete, merge, check. SQL over an open database, in one place."""

from __future__ import annotations

import json
import math
import sqlite3
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, fields
from typing import Any, Protocol

from isoscale.errors import InvalidValueError
from isoscale.runs.record import COLUMNS, DamagedRowError, TrialRecord, from_row

_ROW = ", ".join((*COLUMNS, "checksum"))

# A row whose config is no JSON is listed under empty names; what reads it says that it is damaged.
_CONFIG = "CASE WHEN json_valid(config) THEN config ELSE '{}' END"

_SETTINGS = {
    "model": "model",
    "dataset": "dataset",
    "optimizer": "optimizer.family",
    "rule": "rule",
    "steps": "steps",
    "batch_size": "batch_size",
}


@dataclass(frozen=True, kw_only=True)
class Filter:
    """Which trials: those that match every field that is not empty.

    Attributes:
        status: "done", "diverged", "failed".
        rule, model, dataset, optimizer: Names, as `Store.summary` gives them.

    >>> Filter(status=("failed",), rule=("sp",))
    Filter(status=('failed',), rule=('sp',), model=(), dataset=(), optimizer=())
    """

    status: Sequence[str] = ()
    rule: Sequence[str] = ()
    model: Sequence[str] = ()
    dataset: Sequence[str] = ()
    optimizer: Sequence[str] = ()

    def __post_init__(self) -> None:
        for field in fields(self):
            if isinstance(getattr(self, field.name), str):
                raise InvalidValueError(f"`{field.name}` must be a list of names, got {getattr(self, field.name)!r}")

    def condition(self) -> tuple[str, list[str]]:
        """As SQL, with its arguments: names are never part of the SQL."""
        given = {field.name: list(getattr(self, field.name)) for field in fields(self) if getattr(self, field.name)}
        of = {name: name if name == "status" else _setting(_SETTINGS[name]) for name in given}
        terms = [f"{column} IN (SELECT value FROM json_each(?))" for column in of.values()]
        return " AND ".join(terms) or "1", [json.dumps(names) for names in given.values()]


@dataclass(frozen=True, kw_only=True)
class Summary:
    """The trials of one model, data set, optimizer, length and rule.

    Attributes:
        model, dataset, optimizer, rule, steps, batch_size: What they share.
        widths, depths: Sizes.
        lrs, seeds: How many of each.
        done, diverged, failed: How many trials ended so.
        last: When the latest was recorded, UTC.
    """

    model: str
    dataset: str
    optimizer: str
    rule: str
    steps: int
    batch_size: int
    widths: tuple[int, ...]
    depths: tuple[int, ...]
    lrs: int
    seeds: int
    done: int
    diverged: int
    failed: int
    last: str


@dataclass(frozen=True)
class Merged:
    """What a merge did.

    Attributes:
        added: Trials that this store did not have, or had as failed.
        same: Trials that both had with the same result.
        conflicts: "KEY in PATH: ..." for each trial finished in both with other numbers; this store's stays.
    """

    added: int
    same: int
    conflicts: tuple[str, ...]


@dataclass(frozen=True)
class Salvaged:
    """What could be saved of a damaged store.

    Attributes:
        saved: Trials that are in the new store, each with its checksum found right (or, in a store of schema 1,
            its key).
        lost: What is known of the others: a key each where it can still be read.
    """

    saved: int
    lost: tuple[str, ...]


class _Writable(Protocol):
    def read(self, keys: list[str]) -> list[TrialRecord]: ...
    @property
    def _db(self) -> sqlite3.Connection: ...


def summary(db: sqlite3.Connection) -> list[Summary]:
    """The trials, grouped."""
    shared = ", ".join(f"{_setting(path)} AS {name}" for name, path in _SETTINGS.items())
    counts = ", ".join(f"sum(status = '{status}')" for status in ("done", "diverged", "failed"))
    sizes = ", ".join(f"json_group_array(DISTINCT {_setting(name)})" for name in ("width", "depth"))
    grids = ", ".join(f"count(DISTINCT {_setting(name)})" for name in ("lr", "seed"))
    rows = db.execute(
        f"SELECT {shared}, {sizes}, {grids}, {counts}, max(created) FROM trials "
        "GROUP BY 1, 2, 3, 4, 5, 6 ORDER BY 1, 2, 3, 5, 4"
    )
    names = [field.name for field in fields(Summary)]
    return [Summary(**dict(zip(names, map(_listed, names, row), strict=True))) for row in rows]


def _listed(name: str, value: Any) -> Any:
    if name in ("widths", "depths"):
        return tuple(
            sorted(json.loads(str(value)), key=lambda size: (size if isinstance(size, int) else math.inf, str(size)))
        )
    return "?" if value is None else value


def select(db: sqlite3.Connection, chosen: Filter) -> Iterator[tuple]:
    """Rows of the trials that a filter takes."""
    condition, arguments = chosen.condition()
    return iter(db.execute(f"SELECT {_ROW} FROM trials WHERE {condition} ORDER BY rowid", arguments))


def count(db: sqlite3.Connection, chosen: Filter) -> int:
    """How many trials a filter takes."""
    condition, arguments = chosen.condition()
    return db.execute(f"SELECT count(*) FROM trials WHERE {condition}", arguments).fetchone()[0]


def delete(db: sqlite3.Connection, chosen: Filter) -> int:
    """Delete what a filter takes; how many there were."""
    condition, arguments = chosen.condition()
    return db.execute(f"DELETE FROM trials WHERE {condition}", arguments).rowcount


def refuse_everything(chosen: Filter) -> None:
    """A filter without a field would delete every trial that anybody computed."""
    if not any(getattr(chosen, field.name) for field in fields(chosen)):
        raise InvalidValueError(
            "say what to prune: a status, rule, model, data set or optimizer; delete the file for all"
        )


def faults(db: sqlite3.Connection) -> list[str]:
    """What is wrong with the file, then with which trials."""
    try:
        found = [text for (text,) in db.execute("PRAGMA integrity_check(20)") if text != "ok"]
        return found + [fault for row in db.execute(f"SELECT {_ROW} FROM trials") if (fault := _fault(row))]
    except (sqlite3.DatabaseError, UnicodeDecodeError) as error:  # damage that even the check cannot walk past
        return [str(error)]


def _fault(row: tuple) -> str | None:
    try:
        from_row(row).settings()
    except DamagedRowError as error:
        return str(error)
    return None


class Merger:
    """Takes over trials one after the other, and counts."""

    def __init__(self, into: _Writable) -> None:
        self._into = into
        self._added, self._same = 0, 0
        self._conflicts: list[str] = []

    def take(self, trial: TrialRecord, origin: str) -> None:
        """Keep a trial unless this store has a better one."""
        mine = self._into.read([trial.key])
        if not mine or (mine[0].status == "failed" and trial.status != "failed"):
            self._write(trial)
        elif trial.status == "failed" or mine[0].same_result(trial):
            self._same += 1
        else:
            self._conflicts.append(f"{trial.key} in {origin}: {_ended(mine[0])} here; {_ended(trial)} there")

    def result(self) -> Merged:
        return Merged(self._added, self._same, tuple(self._conflicts))

    def _write(self, trial: TrialRecord) -> None:
        places = ", ".join("?" * (len(COLUMNS) + 1))
        self._into._db.execute(f"INSERT OR REPLACE INTO trials ({_ROW}) VALUES ({places})", trial.row(trial.created))
        self._added += 1


def _ended(trial: TrialRecord) -> str:
    if trial.status != "done":
        return trial.status
    return f"loss {trial.final_loss:.9g}, test loss {trial.test_loss:.9g}"


def _setting(path: str) -> str:
    return f"({_CONFIG} ->> '$.{path}')"
