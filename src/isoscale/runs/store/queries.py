"""The SQL on the trials of a store, over an open database: read, record, choose, count, delete, check."""

from __future__ import annotations

import json
import math
import sqlite3
import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, fields
from typing import Any

from isoscale.errors import InvalidValueError
from isoscale.runs.record import COLUMNS, DamagedRowError, TrialRecord, from_row
from isoscale.runs.store import leases

_COLUMNS = (*COLUMNS, "checksum")
_ROW = ", ".join(_COLUMNS)
_PLACEHOLDERS = ", ".join("?" * len(_COLUMNS))
_UPDATES = ", ".join(f"{name} = excluded.{name}" for name in _COLUMNS if name != "key")

# A finished trial stays as it is; one that failed or was stopped gives way to whatever comes.
_RECORD = (
    f"INSERT INTO trials ({_ROW}) VALUES ({_PLACEHOLDERS}) "
    f"ON CONFLICT (key) DO UPDATE SET {_UPDATES} WHERE status IN ('stopped', 'failed')"
)

# Where each name of a filter or a summary stands in a trial's config.
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
        status: "done", "diverged", "stopped", "failed".
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
            names = getattr(self, field.name)
            if isinstance(names, str):
                raise InvalidValueError(f"`{field.name}` must be a list of names, got {names!r}")

    def condition(self) -> tuple[str, list[str]]:
        """As SQL, with its arguments: names are never part of the SQL."""
        terms, arguments = [], []
        for field in fields(self):
            names = getattr(self, field.name)
            if not names:
                continue
            column = "status" if field.name == "status" else _setting(_SETTINGS[field.name])
            terms.append(f"{column} IN (SELECT value FROM json_each(?))")
            arguments.append(json.dumps(list(names)))
        return " AND ".join(terms) or "1", arguments


@dataclass(frozen=True, kw_only=True)
class Summary:
    """The trials of one model, data set, optimizer, length and rule.

    Attributes:
        model, dataset, optimizer, rule, steps, batch_size: What they share.
        widths, depths: Sizes.
        lrs, seeds: How many of each.
        done, diverged, stopped, failed: How many trials ended so.
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
    stopped: int
    failed: int
    last: str


def rows(db: sqlite3.Connection, keys: Iterable[str]) -> Iterator[tuple]:
    """Rows of the trials with those keys that the store has, in no order."""
    # One JSON argument holds any number of keys; bound variables are limited to 32,766.
    # Keys are hashes: rows in the order of their numbers are read from one end of the file to the other.
    numbers = "SELECT wanted.rowid FROM trials AS wanted WHERE wanted.key IN (SELECT value FROM json_each(?))"
    query = f"SELECT {_ROW} FROM trials WHERE rowid IN ({numbers})"
    # The cursor itself: a generator around it, kept alive by an error, would close it after its database.
    return db.execute(query, (json.dumps(list(keys)),))


def check_index(db: sqlite3.Connection) -> None:
    """Raise DamagedRowError unless the index of keys leads to every trial: one that it misses would be kept twice."""
    entry = "SELECT 1 FROM trials AS entry INDEXED BY sqlite_autoindex_trials_1"
    is_led_to = f"EXISTS ({entry} WHERE entry.key = trials.key AND entry.rowid = trials.rowid)"
    missed = db.execute(f"SELECT key FROM trials NOT INDEXED WHERE NOT {is_led_to}").fetchone()
    if missed:
        raise DamagedRowError(f"the index of its trials is damaged: it does not lead to trial {missed[0]}")


def record(db: sqlite3.Connection, trials: Iterable[TrialRecord]) -> None:
    """Write trials; those already finished stay as they are. Call it in a transaction."""
    now = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
    db.executemany(_RECORD, (trial.row(trial.created or now) for trial in trials))


def select(db: sqlite3.Connection, chosen: Filter) -> Iterator[tuple]:
    """Rows of the trials that a filter takes, in the order in which they came."""
    condition, arguments = chosen.condition()
    return db.execute(f"SELECT {_ROW} FROM trials WHERE {condition} ORDER BY rowid", arguments)


def count(db: sqlite3.Connection, chosen: Filter) -> int:
    """How many trials a filter takes."""
    condition, arguments = chosen.condition()
    (found,) = db.execute(f"SELECT count(*) FROM trials WHERE {condition}", arguments).fetchone()
    return found


def delete(db: sqlite3.Connection, chosen: Filter) -> int:
    """Delete what a filter takes; how many there were."""
    condition, arguments = chosen.condition()
    return db.execute(f"DELETE FROM trials WHERE {condition}", arguments).rowcount


def summary(db: sqlite3.Connection) -> list[Summary]:
    """The trials, grouped."""
    shared = ", ".join(f"{_setting(path)} AS {name}" for name, path in _SETTINGS.items())
    found = db.execute(
        f"SELECT {shared}, "
        f"json_group_array(DISTINCT {_setting('width')}), json_group_array(DISTINCT {_setting('depth')}), "
        f"count(DISTINCT {_setting('lr')}), count(DISTINCT {_setting('seed')}), "
        "sum(status = 'done'), sum(status = 'diverged'), sum(status = 'stopped'), sum(status = 'failed'), max(created) "
        "FROM trials GROUP BY 1, 2, 3, 4, 5, 6 ORDER BY 1, 2, 3, 5, 4"
    )
    groups = []
    for row in found:
        *values, widths, depths, lrs, seeds, done, diverged, stopped, failed, last = row
        known: dict[str, Any] = {}
        for name, value in zip(_SETTINGS, values, strict=True):
            known[name] = "?" if value is None else value
        group = Summary(
            **known,
            widths=_sizes(widths),
            depths=_sizes(depths),
            lrs=lrs,
            seeds=seeds,
            done=done,
            diverged=diverged,
            stopped=stopped,
            failed=failed,
            last=last,
        )
        groups.append(group)
    return groups


def _sizes(text: str) -> tuple[Any, ...]:
    """A JSON list of sizes in order, none for trials that have none.

    What is no number, as only damage or another program writes it, comes last.
    """

    def order(size: Any) -> tuple[float, str]:
        return (size if isinstance(size, int) else math.inf, str(size))

    found = [size for size in json.loads(text) if size is not None]
    return tuple(sorted(found, key=order))


def faults(db: sqlite3.Connection) -> list[str]:
    """What is wrong with the file, then with which trials."""
    found = []
    try:
        for (text,) in db.execute("PRAGMA integrity_check(20)"):
            if text != "ok":
                found.append(text)
        for row in db.execute(f"SELECT {_ROW} FROM trials"):
            try:
                from_row(row).settings()
            except DamagedRowError as error:
                found.append(str(error))
        found += leases.faults(db)
    except (sqlite3.DatabaseError, UnicodeDecodeError) as error:  # damage that even the check cannot walk past
        return [str(error)]
    return found


def _setting(path: str) -> str:
    # A row whose config is no JSON is listed under empty names; what reads it says that it is damaged.
    return f"(CASE WHEN json_valid(config) THEN config ELSE '{{}}' END ->> '$.{path}')"
