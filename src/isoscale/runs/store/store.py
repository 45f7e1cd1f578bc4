"""The store: one row per trial, in SQLite. What a user computed is never lost.

Contract: `record` writes the trials of a shard in one transaction, so a killed process leaves all of them or
none; a finished trial is never written again, one that failed or was stopped may be; any number of processes may
read and write at once. A lease keeps two drivers off the same shard; a lease whose owner is gone is taken over.
"""

from __future__ import annotations

import contextlib
import itertools
import os
import sqlite3
from collections.abc import Iterable, Iterator
from dataclasses import fields

from isoscale.errors import InvalidValueError, StoreError
from isoscale.runs.record import COLUMNS, TrialRecord, from_row, verify
from isoscale.runs.store import export, merge, queries, recover
from isoscale.runs.store.database import Database
from isoscale.runs.store.leases import Leases
from isoscale.runs.store.merge import Merged
from isoscale.runs.store.queries import Filter, Summary
from isoscale.runs.store.recover import Recovered

_KEY, _STATUS = COLUMNS.index("key"), COLUMNS.index("status")

# Recovered trials that are written in one transaction.
_MANY = 500


class Store:
    """A store file, created if it is not there.

    Args:
        path: The SQLite file, on a local disk (SQLite's write-ahead log does not work on network ones).
        must_exist: Raise if there is no such file, instead of creating it.
        read_only: Only read: the file must be there, stays as it is, and may be one that cannot be written.

    Raises:
        StoreError: The file cannot be opened or written, is no store, or has another schema.
    """

    def __init__(self, path: str | os.PathLike[str], *, must_exist: bool = False, read_only: bool = False) -> None:
        must_exist = must_exist or read_only
        if must_exist and not os.path.exists(path):  # Path.exists raises on a name that is too long
            raise StoreError(f"there is no store `{path}`")
        self._database = Database(path, read_only=read_only)
        self._db = self._database.connection
        self._leases = Leases(self._database)
        # Where nothing is written, nothing can be kept twice.
        self._is_index_checked = read_only
        self.path = self._database.path

    def close(self) -> None:
        self._db.close()

    def __enter__(self) -> Store:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    # --- trials ---------------------------------------------------------------------------------------------
    def finished(self, keys: Iterable[str]) -> set[str]:
        """Those of `keys` that need not run again: done or diverged; a trial that failed or was stopped may.

        Raises:
            StoreError: One of them is damaged.
        """
        wanted = set(keys)
        known, found = set(), set()
        with self._database.errors():
            for row in queries.rows(self._db, wanted):
                verify(row)
                if row[_STATUS] in ("done", "diverged"):
                    found.add(row[_KEY])
            if known != wanted:
                self._check_index()
        return found

    def read(self, keys: Iterable[str]) -> list[TrialRecord]:
        """The trials with those keys that the store has, in no order.

        Raises:
            StoreError: One of them is damaged.
        """
        with self._database.errors():
            return [from_row(row) for row in queries.rows(self._db, keys)]

    def trials(self, chosen: Filter | None = None) -> Iterator[TrialRecord]:
        """Every trial, or those that a filter takes, one after the other in the order in which they came.

        Raises:
            StoreError: One of them is damaged.
        """
        with self._database.errors():
            for row in queries.select(self._db, chosen or Filter()):
                yield from_row(row)

    def record(self, trials: Iterable[TrialRecord]) -> None:
        """Write trials, all or none; those already finished stay as they are."""
        with self._database.errors(), self._database.transaction():
            queries.record(self._db, trials)

    def _check_index(self) -> None:
        """Once: what the index of keys misses would run again, and stand in the store twice."""
        if not self._is_index_checked:
            queries.check_index(self._db)
            self._is_index_checked = True

    # --- maintenance ----------------------------------------------------------------------------------------
    def summary(self) -> list[Summary]:
        """What the store holds: one row for each model, data set, optimizer, length and rule.

        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder, Store(f"{folder}/s.db") as store:
        ...     store.summary()
        []
        """
        with self._database.errors():
            return queries.summary(self._db)

    def count(self, chosen: Filter | None = None) -> int:
        """How many trials there are, or how many a filter takes."""
        with self._database.errors():
            return queries.count(self._db, chosen or Filter())

    def export(self, path: str | os.PathLike[str]) -> int:
        """Write every trial to a table, by the ending of `path`: `.csv`, `.nc` (NetCDF) or `.parquet`.

        One row per trial: `key`, `status`, `reason`, its settings, `loss` (mean of the last tenth of the steps),
        `test_loss`, `test_accuracy`, what else the user's code measured (`numbers`, JSON) and what ran it; in NetCDF
        and Parquet also its `curve`. The file appears whole or not at all. Parquet needs
        `pip install 'isoscale[parquet]'`.

        Returns:
            How many trials.

        Raises:
            InvalidValueError: Another ending, no pyarrow, or a place that cannot be written.
            StoreError: A trial is damaged.
        """
        return export.export(self.trials(), path, self.path)

    def merge(self, *paths: str | os.PathLike[str]) -> Merged:
        """Take over the trials of other stores, all or none.

        Equal keys are the same trial: what is finished here stays; a trial that failed gives way to one that was
        stopped, and both to a finished one.
        A trial that is finished in both with other numbers is a conflict; it stays as it is here and is named.

        Raises:
            StoreError: One of the stores is not there, or is damaged.
        """
        with contextlib.ExitStack() as stack:
            others = []
            for path in paths:
                other = stack.enter_context(Store(path, read_only=True))
                others.append((str(other.path), other.trials()))
            with self._database.errors(), self._database.transaction():
                self._check_index()
                return merge.merge(self._db, others)

    def prune(self, chosen: Filter) -> int:
        """Delete the trials that a filter takes, and give their space back to the disk if nobody else is writing.

        Returns:
            How many were deleted.

        Raises:
            InvalidValueError: A filter that takes everything.
        """
        # A filter without a field would delete every trial that anybody computed.
        if not any(getattr(chosen, field.name) for field in fields(chosen)):
            raise InvalidValueError(
                "say what to prune: a status, rule, model, data set or optimizer; delete the file for all"
            )
        with self._database.errors():
            with self._database.transaction():
                deleted = queries.delete(self._db, chosen)
            with contextlib.suppress(sqlite3.OperationalError):  # locked, or no room for the copy: later then
                self._db.execute("VACUUM")
        return deleted

    def faults(self) -> list[str]:
        """What is wrong with the file and with which trials; empty if nothing is."""
        with self._database.errors():
            return queries.faults(self._db)

    @staticmethod
    def salvage(path: str | os.PathLike[str], to: str | os.PathLike[str]) -> Recovered:
        """Copy what can be read of a damaged store into a new one; the damaged file is not touched.

        Raises:
            StoreError: There is no such file, `to` is there already or cannot be written, or nothing of a store
                is left.
        """
        if os.path.lexists(to):
            raise StoreError(f"`{to}` is there already: choose a new file, nothing is overwritten")
        saved: set[str] = set()
        with recover.damaged(path) as found, Store(to) as store:
            trials = found.sound()
            while batch := list(itertools.islice(trials, _MANY)):
                store.record(batch)
                saved.update(trial.key for trial in batch)
            lost = (found.keys | found.bad) - saved
        return Recovered(len(saved), tuple(sorted(lost)))

    # --- leases ---------------------------------------------------------------------------------------------
    def acquire(self, shard: str) -> bool:
        """Take the lease of a shard, if it is free, ours, or its owner is gone."""
        return self._leases.acquire(shard)

    def heartbeat(self) -> None:
        """Show that this process still holds its leases; call it every few seconds."""
        self._leases.heartbeat()

    def release(self, shard: str) -> None:
        """Give a lease back."""
        self._leases.release(shard)

    def release_all(self) -> None:
        """Give back every lease that this store holds."""
        self._leases.release_all()
