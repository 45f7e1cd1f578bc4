"""One open store file: waiting for locks, transactions that hold or leave nothing, and errors in words."""

from __future__ import annotations

import contextlib
import os
import shlex
import sqlite3
import time
from collections.abc import Iterator
from pathlib import Path

from isoscale.errors import StoreError
from isoscale.runs.record import DamagedRowError
from isoscale.runs.store import schema

# How long another process may hold the file before that is an error; a shard's record takes milliseconds.
LOCK_SECONDS = 60.0
_LOCK_POLL_SECONDS = 0.003


class Database:
    """A store file, open, its tables created if the file was empty.

    Args:
        path: The file, on a local disk.

    Attributes:
        path: The same.
        connection: What SQL is executed on.

    Raises:
        StoreError: The file cannot be opened or written, is no store, or has another schema.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = Path(path)
        with self.errors():
            self.connection = sqlite3.connect(self.path, timeout=LOCK_SECONDS, isolation_level=None)
            try:
                self._set_up()
            except BaseException:
                self.connection.close()
                raise

    def _set_up(self) -> None:
        # A store comes from anywhere: functions that its schema names are not to run.
        self.connection.execute("PRAGMA trusted_schema = OFF")
        if not schema.is_current(self.connection):  # else nobody waits for those who write
            # One transaction: another driver may be creating the same file right now.
            with self.transaction():
                schema.create(self.connection, self.path)
        self._execute_patiently("PRAGMA journal_mode = WAL")
        # A shard took seconds to train: the disk has it before anybody is told that it is done.
        self.connection.execute("PRAGMA synchronous = FULL")

    @contextlib.contextmanager
    def transaction(self) -> Iterator[None]:
        """All that is written in the block, or nothing."""
        self._execute_patiently("BEGIN IMMEDIATE")
        try:
            yield
            self.connection.execute("COMMIT")
        except BaseException:
            # SQLite rolls back by itself on a full disk; a second rollback would hide the first error.
            if self.connection.in_transaction:
                self.connection.execute("ROLLBACK")
            raise

    def _execute_patiently(self, statement: str) -> None:
        """Execute what needs a lock that another process may have.

        SQLite does not wait for some locks at all, and asks for the others less and less often: of many writers a
        few would take turns, and the rest would wait until their time is over. Here all ask equally often.
        """
        end = time.monotonic() + LOCK_SECONDS
        self.connection.execute("PRAGMA busy_timeout = 0")
        try:
            while True:
                try:
                    self.connection.execute(statement)
                    return
                except sqlite3.OperationalError as error:
                    # The low byte is the error; what is above says only where it came from.
                    is_busy = error.sqlite_errorcode & 0xFF == sqlite3.SQLITE_BUSY
                    if not is_busy or time.monotonic() > end:
                        raise
                time.sleep(_LOCK_POLL_SECONDS)
        finally:
            self.connection.execute(f"PRAGMA busy_timeout = {1000 * LOCK_SECONDS:.0f}")

    @contextlib.contextmanager
    def errors(self) -> Iterator[None]:
        """SQLite's errors and damaged rows as a `StoreError` that names the file and the way out."""
        try:
            yield
        except DamagedRowError as error:
            raise StoreError(f"`{self.path}`: {error}. {self._recovery()}") from error
        except (sqlite3.Error, UnicodeDecodeError) as error:  # the latter of a message that quotes damaged text
            code = getattr(error, "sqlite_errorcode", sqlite3.SQLITE_CORRUPT)
            if code == sqlite3.SQLITE_CORRUPT:
                remedy = self._recovery()
            else:
                remedy = "free the disk, repair the permissions, or choose another file with --store"
            raise StoreError(
                f"cannot use the store `{self.path}`: {error}. Nothing that it holds was changed; {remedy}"
            ) from error

    def _recovery(self) -> str:
        command = shlex.join(["isoscale", "store", "salvage", str(self.path), "rescued.db"])
        return f"`{command}` copies all that can be read; go on with --store rescued.db"
