"""The store: a row a trial, in SQLite. What a user computed is never lost.

Contract: `record` writes the trials of a shard in one transaction, so a killed process leaves all of them or
none; a finished trial is never written again, a failed one may be; any number of processes may read and write
at once. A lease keeps two drivers off the same shard; a lease whose owner is gone is taken over.
"""

from __future__ import annotations

import contextlib
import itertools
import json
import os
import socket
import sqlite3
import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
from jaxtyping import Float

from isoscale.errors import StoreError

SCHEMA = 1

Status = Literal["done", "diverged", "failed"]

# A lease is dead when its beat has stood still that long by the watcher's own clock: no two machines' clocks,
# and no clock that was set back, are ever compared.
_LEASE_SECONDS = 30.0

# Two drivers in one process are two owners.
_serial = itertools.count()

_TABLES = """
CREATE TABLE trials (
    key TEXT PRIMARY KEY,
    shard TEXT NOT NULL,
    config TEXT NOT NULL,
    status TEXT NOT NULL CHECK (status IN ('done', 'diverged', 'failed')),
    reason TEXT NOT NULL,
    curve BLOB NOT NULL,
    test_loss REAL,
    test_accuracy REAL,
    versions TEXT NOT NULL,
    created TEXT NOT NULL
) STRICT;
CREATE TABLE leases (
    shard TEXT PRIMARY KEY,
    owner TEXT NOT NULL,
    beat INTEGER NOT NULL
) STRICT;
"""


@dataclass(frozen=True, kw_only=True)
class Trial:
    """One trial's result.

    Attributes:
        key, shard, config: What it is (`isoscale.sweeps.shards`); config is JSON.
        status: "done", "diverged" (a loss that was not finite) or "failed" (it could not run).
        reason: Why it diverged or failed; empty when done.
        curve: Training loss at each step, NaN from divergence on; empty when failed.
        test_loss, test_accuracy: After training; NaN unless done.
        versions: JSON of the versions that ran it.
    """

    key: str
    shard: str
    config: str
    status: Status
    reason: str
    curve: Float[np.ndarray, " steps"]
    test_loss: float
    test_accuracy: float
    versions: str


class Store:
    """A store file, created if it is not there.

    Args:
        path: The SQLite file, on a local disk (SQLite's write-ahead log does not work on network ones).

    Raises:
        StoreError: The file cannot be opened or written, is no store, or comes from a newer isoscale.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = Path(path)
        self._seen: dict[str, tuple[str, int, float]] = {}
        self._owner = f"{socket.gethostname()}:{os.getpid()}:{_started(os.getpid())}:{next(_serial)}"
        with self._errors():
            self._db = sqlite3.connect(self.path, timeout=60, isolation_level=None)
            try:
                self._open()
            except BaseException:
                self._db.close()
                raise

    def _open(self) -> None:
        # One transaction: another driver may be creating the same file right now.
        with self._write():
            (schema,) = self._db.execute("PRAGMA user_version").fetchone()
            tables = {name for (name,) in self._db.execute("SELECT name FROM sqlite_master WHERE type = 'table'")}
            if tables and not (schema and "trials" in tables):
                raise StoreError(f"`{self.path}` is a database of something else: choose another file with --store")
            if schema > SCHEMA:
                raise StoreError(
                    f"`{self.path}` was written by a newer isoscale (store schema {schema}, this one reads up to "
                    f"{SCHEMA}): upgrade isoscale, or choose another file with --store"
                )
            if not tables:
                self._create()
        self._db.execute("PRAGMA journal_mode = WAL")
        self._db.execute("PRAGMA synchronous = NORMAL")

    def _create(self) -> None:
        for statement in _TABLES.split(";"):
            self._db.execute(statement)
        self._db.execute(f"PRAGMA user_version = {SCHEMA}")

    def close(self) -> None:
        self._db.close()

    def __enter__(self) -> Store:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    # --- trials ---------------------------------------------------------------------------------------------
    def finished(self, keys: Iterable[str]) -> set[str]:
        """Those of `keys` that need not run again: done or diverged; a failed trial is tried again."""
        rows = self._select("key", keys, "status <> 'failed'")
        return {key for (key,) in rows}

    def read(self, keys: Iterable[str]) -> list[Trial]:
        """The trials with those keys that the store has, in no order."""
        columns = "key, shard, config, status, reason, curve, test_loss, test_accuracy, versions"
        return [_trial(row) for row in self._select(columns, keys, "1")]

    def record(self, trials: Sequence[Trial]) -> None:
        """Write trials, all or none; those already finished stay as they are."""
        created = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
        with self._errors(), self._write():
            self._db.executemany(
                "INSERT INTO trials VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?) ON CONFLICT (key) DO UPDATE SET "
                "status = excluded.status, reason = excluded.reason, curve = excluded.curve, "
                "test_loss = excluded.test_loss, test_accuracy = excluded.test_accuracy, "
                "versions = excluded.versions, created = excluded.created WHERE status = 'failed'",
                [(*_row(trial), created) for trial in trials],
            )

    def _select(self, columns: str, keys: Iterable[str], condition: str) -> list[tuple]:
        # One JSON argument holds any number of keys; bound variables are limited to 32,766.
        query = f"SELECT {columns} FROM trials WHERE key IN (SELECT value FROM json_each(?)) AND {condition}"
        with self._errors():
            return self._db.execute(query, (json.dumps(list(keys)),)).fetchall()

    # --- leases ---------------------------------------------------------------------------------------------
    def acquire(self, shard: str) -> bool:
        """Take the lease of a shard, if it is free, ours, or its owner is gone."""
        with self._errors(), self._write():
            row = self._db.execute("SELECT owner, beat FROM leases WHERE shard = ?", (shard,)).fetchone()
            if row and row[0] != self._owner and not self._is_dead(shard, *row):
                return False
            self._db.execute("INSERT OR REPLACE INTO leases VALUES (?, ?, 0)", (shard, self._owner))
            return True

    def beat(self) -> None:
        """Show that this process still holds its leases; call it every few seconds."""
        with self._errors():
            self._db.execute("UPDATE leases SET beat = beat + 1 WHERE owner = ?", (self._owner,))

    def release(self, shard: str) -> None:
        """Give a lease back."""
        with self._errors():
            self._db.execute("DELETE FROM leases WHERE shard = ? AND owner = ?", (shard, self._owner))

    def release_all(self) -> None:
        """Give back every lease that this store holds."""
        with self._errors():
            self._db.execute("DELETE FROM leases WHERE owner = ?", (self._owner,))

    def _is_dead(self, shard: str, owner: str, beat: int) -> bool:
        host, pid, started, _ = owner.rsplit(":", 3)
        if host == socket.gethostname() and _started(int(pid)) != started:
            return True
        *last, since = self._seen.get(shard, ("", -1, 0.0))
        if [owner, beat] != last:
            self._seen[shard] = (owner, beat, time.monotonic())
            return False
        return time.monotonic() - since > _LEASE_SECONDS

    # --- plumbing -------------------------------------------------------------------------------------------
    @contextlib.contextmanager
    def _write(self) -> Iterator[None]:
        self._db.execute("BEGIN IMMEDIATE")
        try:
            yield
            self._db.execute("COMMIT")
        except BaseException:
            # SQLite rolls back by itself on a full disk; a second rollback would hide the first error.
            if self._db.in_transaction:
                self._db.execute("ROLLBACK")
            raise

    @contextlib.contextmanager
    def _errors(self) -> Iterator[None]:
        try:
            yield
        except sqlite3.Error as error:
            raise StoreError(
                f"cannot use the store `{self.path}`: {error}. Nothing that it holds was changed; free the disk, "
                "mend the permissions, or choose another file with --store"
            ) from error


def _started(pid: int) -> str:
    """When a process of this machine started, "" if it is gone: a number used again is another process."""
    try:
        state, *fields = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
        return "" if state in "ZX" else fields[18]
    except (FileNotFoundError, ProcessLookupError):
        return "" if Path("/proc").is_dir() else _signalled(pid)


def _signalled(pid: int) -> str:
    """The same without /proc: alive or gone is all that can be told."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return ""
    except PermissionError:
        pass
    return "alive"


def _row(trial: Trial) -> tuple:
    curve = np.asarray(trial.curve, "<f4").tobytes()
    return (
        trial.key,
        trial.shard,
        trial.config,
        trial.status,
        trial.reason,
        curve,
        trial.test_loss,
        trial.test_accuracy,
        trial.versions,
    )


def _trial(row: tuple) -> Trial:
    key, shard, config, status, reason, curve, test_loss, test_accuracy, versions = row
    return Trial(
        key=key,
        shard=shard,
        config=config,
        status=status,
        reason=reason,
        curve=np.frombuffer(curve, "<f4"),
        test_loss=_number(test_loss),
        test_accuracy=_number(test_accuracy),
        versions=versions,
    )


def _number(value: float | None) -> float:
    return float("nan") if value is None else value  # SQLite keeps NaN as NULL
