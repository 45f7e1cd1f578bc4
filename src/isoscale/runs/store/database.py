"""One open store file: waiting for locks, transactions that hold or leave nothing, and errors in words."""

from __future__ import annotations

import contextlib
import os
import shlex
import sqlite3
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from isoscale.errors import StoreError
from isoscale.runs.record import DamagedRowError
from isoscale.runs.store import schema

# How long another process may hold the file before that is an error; a shard's record takes milliseconds.
LOCK_SECONDS = 60.0
_LOCK_POLL_SECONDS = 0.003

# The low byte of SQLite's error codes is the error; what is above says only where it came from.
_PRIMARY = 0xFF


class Database:
    """A store file, open, its tables created if the file was empty.

    Args:
        path: The file, on a local disk.
        read_only: The file stays as it is, down to its schema, and may be one that cannot be written.

    Attributes:
        path: The same.
        connection: What SQL is executed on.

    Raises:
        StoreError: The file cannot be opened or written, is no store, or has another schema.
    """

    def __init__(self, path: str | os.PathLike[str], *, read_only: bool = False) -> None:
        self.path = Path(path)
        with self.errors():
            if read_only:
                self._open_for_reading()
            else:
                self._open(self.path, self._set_up)

    def _open(self, name: str | Path, set_up: Callable[[], None], **options: bool) -> None:
        self.connection = sqlite3.connect(name, timeout=LOCK_SECONDS, isolation_level=None, **options)
        try:
            # A store comes from anywhere: functions that its schema names are not to run.
            self.connection.execute("PRAGMA trusted_schema = OFF")
            set_up()
        except BaseException:
            self.connection.close()
            raise

    def _open_for_reading(self) -> None:
        uri = self.path.absolute().as_uri()
        try:
            # With mode=ro, SQLite would leave files of its own beside a store that it can write.
            self._open(f"{uri}?mode=rw", self._set_up_reading, uri=True)
            return
        except sqlite3.OperationalError as error:
            is_unwritable = error.sqlite_errorcode & _PRIMARY in (sqlite3.SQLITE_READONLY, sqlite3.SQLITE_CANTOPEN)
            if not is_unwritable or not self.path.is_file():
                raise
            log = Path(f"{self.path}-wal")
            if log.exists() and log.stat().st_size:
                raise StoreError(
                    f"cannot read the store `{self.path}`: its newest trials stand in `{log}`, which SQLite reads only "
                    "where it can write beside it. Copy both files to one folder of your own"
                ) from error
        # SQLite shares a store through files beside it, and there can be none. Nor can there be anybody who writes.
        self._open(f"{uri}?immutable=1", self._set_up_reading, uri=True)

    def _set_up_reading(self) -> None:
        schema.cover(self.connection, self.path)
        self.connection.execute("PRAGMA query_only = ON")

    def _set_up(self) -> None:
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
                    is_busy = error.sqlite_errorcode & _PRIMARY == sqlite3.SQLITE_BUSY
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
