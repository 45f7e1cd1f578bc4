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
import shlex
import socket
import sqlite3
import time
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from isoscale.errors import StoreError
from isoscale.runs.record import COLUMNS, DamagedRowError, TrialRecord, from_row, verify
from isoscale.runs.store import schema, upkeep
from isoscale.runs.store.schema import SCHEMA as SCHEMA
from isoscale.runs.store.upkeep import Filter, Merged, Salvaged, Summary

# A lease is dead when its beat has stood still that long by the watcher's own clock: no two machines' clocks,
# and no clock that was set back, are ever compared.
_LEASE_SECONDS = 30.0

_ROW = ", ".join((*COLUMNS, "checksum"))

_KEY, _STATUS = COLUMNS.index("key"), COLUMNS.index("status")

_RECORD = (
    f"INSERT INTO trials ({_ROW}) VALUES ({', '.join('?' * (len(COLUMNS) + 1))}) ON CONFLICT (key) DO UPDATE SET "
    + ", ".join(f"{name} = excluded.{name}" for name in (*COLUMNS, "checksum") if name != "key")
    + " WHERE status = 'failed'"
)

# How long another process may hold the file before that is an error; a shard's record takes milliseconds.
_LOCK_SECONDS = 60.0
_LOCK_POLL_SECONDS = 0.003

# Two drivers in one process are two owners.
_serial = itertools.count()


class Store:
    """A store file, created if it is not there.

    Args:
        path: The SQLite file, on a local disk (SQLite's write-ahead log does not work on network ones).
        must_exist: Raise if there is no such file, instead of creating it.

    Raises:
        StoreError: The file cannot be opened or written, is no store, or comes from a newer isoscale.
    """

    def __init__(self, path: str | os.PathLike[str], *, must_exist: bool = False) -> None:
        self.path = Path(path)
        if must_exist and not os.path.exists(path):  # Path.exists raises on a name that is too long
            raise StoreError(f"there is no store `{path}`")
        self._seen: dict[str, tuple[str, int, float]] = {}
        self._owner = f"{socket.gethostname()}:{os.getpid()}:{_started(os.getpid())}:{next(_serial)}"
        with self._errors():
            self._db = sqlite3.connect(self.path, timeout=_LOCK_SECONDS, isolation_level=None)
            try:
                self._open()
            except BaseException:
                self._db.close()
                raise

    def _open(self) -> None:
        # A store comes from anywhere: functions that its schema names are not to run.
        self._db.execute("PRAGMA trusted_schema = OFF")
        if not schema.is_newest(self._db):  # else nobody waits for those who write
            # One transaction: another driver may be creating the same file right now.
            with self._write():
                schema.bring_up(self._db, self.path)
        self._patiently("PRAGMA journal_mode = WAL")
        # A shard took seconds to train: the disk has it before anybody is told that it is done.
        self._db.execute("PRAGMA synchronous = FULL")

    def close(self) -> None:
        self._db.close()

    def __enter__(self) -> Store:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    # --- trials ---------------------------------------------------------------------------------------------
    def finished(self, keys: Iterable[str]) -> set[str]:
        """Those of `keys` that need not run again: done or diverged; a failed trial is tried again.

        Raises:
            StoreError: One of them is damaged.
        """
        with self._intact():
            rows = self._rows(keys)
            return {row[_KEY] for row in rows if verify(row) is None and row[_STATUS] != "failed"}

    def read(self, keys: Iterable[str]) -> list[TrialRecord]:
        """The trials with those keys that the store has, in no order.

        Raises:
            StoreError: One of them is damaged.
        """
        with self._intact():
            return list(map(from_row, self._rows(keys)))

    def trials(self, chosen: Filter | None = None) -> Iterator[TrialRecord]:
        """Every trial, or those that a filter takes, one after the other in the order in which they came.

        Raises:
            StoreError: One of them is damaged.
        """
        with self._errors(), self._intact():
            yield from map(from_row, upkeep.select(self._db, chosen or Filter()))

    def record(self, trials: Iterable[TrialRecord]) -> None:
        """Write trials, all or none; those already finished stay as they are."""
        now = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
        with self._errors(), self._write():
            self._db.executemany(_RECORD, (trial.row(trial.created or now) for trial in trials))

    def _rows(self, keys: Iterable[str]) -> Iterator[Sequence]:
        # One JSON argument holds any number of keys; bound variables are limited to 32,766.
        # Keys are hashes: rows in the order of their numbers are read from one end of the file to the other.
        places = "SELECT wanted.rowid FROM trials AS wanted WHERE wanted.key IN (SELECT value FROM json_each(?))"
        query = f"SELECT {_ROW} FROM trials WHERE rowid IN ({places})"
        with self._errors():
            yield from self._db.execute(query, (json.dumps(list(keys)),))

    @contextlib.contextmanager
    def _intact(self) -> Iterator[None]:
        try:
            yield
        except DamagedRowError as error:
            raise StoreError(f"`{self.path}`: {error}. {self._rescue()}") from error

    # --- upkeep ---------------------------------------------------------------------------------------------
    def summary(self) -> list[Summary]:
        """What the store holds: a row for each model, data set, optimizer, length and rule.

        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder, Store(f"{folder}/s.db") as store:
        ...     store.summary()
        []
        """
        with self._errors():
            return upkeep.summary(self._db)

    def export(self, path: str | os.PathLike[str]) -> int:
        """Write every trial to a table, by the ending of `path`: `.csv`, `.nc` (NetCDF) or `.parquet`.

        A row a trial: `key`, `status`, `reason`, its settings, `loss` (mean of the last tenth of the steps),
        `test_loss`, `test_accuracy` and what ran it; in NetCDF and Parquet also its `curve`. The file appears
        whole or not at all. Parquet needs `pip install 'isoscale[parquet]'`.

        Returns:
            How many trials.

        Raises:
            InvalidValueError: Another ending, no pyarrow, or a place that cannot be written.
            StoreError: A trial is damaged.
        """
        from isoscale.runs.store.export import export

        return export(self, path)

    def merge(self, *paths: str | os.PathLike[str]) -> Merged:
        """Take over the trials of other stores, all or none.

        Equal keys are the same trial: what is finished here stays, a failed trial gives way to a finished one.
        A trial that is finished in both with other numbers is a conflict; it stays as it is here and is named.

        Raises:
            StoreError: One of the stores is not there, or is damaged.
        """
        with contextlib.ExitStack() as stack:
            others = [stack.enter_context(Store(path, must_exist=True)) for path in paths]
            merged = upkeep.Merger(self)
            with self._errors(), self._write():
                for other in others:
                    for trial in other.trials():
                        merged.take(trial, str(other.path))
            return merged.result()

    def count(self, chosen: Filter | None = None) -> int:
        """How many trials there are, or how many a filter takes."""
        with self._errors():
            return upkeep.count(self._db, chosen or Filter())

    def prune(self, chosen: Filter) -> int:
        """Delete the trials that a filter takes, and give their space back to the disk if nobody else is writing.

        Returns:
            How many were deleted.

        Raises:
            InvalidValueError: A filter that takes everything.
        """
        upkeep.refuse_everything(chosen)
        with self._errors():
            with self._write():
                deleted = upkeep.delete(self._db, chosen)
            with contextlib.suppress(sqlite3.OperationalError):  # locked, or no room for the copy: later then
                self._db.execute("VACUUM")
        return deleted

    def faults(self) -> list[str]:
        """What is wrong with the file and with which trials; empty if nothing is."""
        with self._errors():
            return upkeep.faults(self._db)

    @staticmethod
    def salvage(path: str | os.PathLike[str], to: str | os.PathLike[str]) -> Salvaged:
        """Copy what can be read of a damaged store into a new one; the damaged file is not touched.

        Raises:
            StoreError: There is no such file, `to` is there already or cannot be written, or nothing of a store
                is left.
        """
        from isoscale.runs.store.salvage import salvage

        return salvage(path, to)

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
        with self._errors(), self._write():
            self._db.execute("UPDATE leases SET beat = beat + 1 WHERE owner = ?", (self._owner,))

    def release(self, shard: str) -> None:
        """Give a lease back."""
        with self._errors(), self._write():
            self._db.execute("DELETE FROM leases WHERE shard = ? AND owner = ?", (shard, self._owner))

    def release_all(self) -> None:
        """Give back every lease that this store holds."""
        with self._errors(), self._write():
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
        self._patiently("BEGIN IMMEDIATE")
        try:
            yield
            self._db.execute("COMMIT")
        except BaseException:
            # SQLite rolls back by itself on a full disk; a second rollback would hide the first error.
            if self._db.in_transaction:
                self._db.execute("ROLLBACK")
            raise

    def _patiently(self, statement: str) -> None:
        """Execute what needs a lock that another process may have.

        SQLite does not wait for some locks at all, and asks for the others less and less often: of many writers a
        few would take turns, and the rest would wait until their time is over. Here all ask equally often.
        """
        end = time.monotonic() + _LOCK_SECONDS
        self._db.execute("PRAGMA busy_timeout = 0")
        try:
            while True:
                try:
                    self._db.execute(statement)
                    return
                except sqlite3.OperationalError as error:
                    if error.sqlite_errorcode & 0xFF != sqlite3.SQLITE_BUSY or time.monotonic() > end:
                        raise
                time.sleep(_LOCK_POLL_SECONDS)
        finally:
            self._db.execute(f"PRAGMA busy_timeout = {1000 * _LOCK_SECONDS:.0f}")

    @contextlib.contextmanager
    def _errors(self) -> Iterator[None]:
        try:
            yield
        except (sqlite3.Error, UnicodeDecodeError) as error:  # of a message that quotes damaged text
            damaged = getattr(error, "sqlite_errorcode", sqlite3.SQLITE_CORRUPT) == sqlite3.SQLITE_CORRUPT
            remedy = "free the disk, mend the permissions, or choose another file with --store"
            raise StoreError(
                f"cannot use the store `{self.path}`: {error}. Nothing that it holds was changed; "
                f"{self._rescue() if damaged else remedy}"
            ) from error

    def _rescue(self) -> str:
        rescue = shlex.join(["isoscale", "store", "salvage", str(self.path), "rescued.db"])
        return f"`{rescue}` copies all that can be read; go on with --store rescued.db"


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
