"""What can be recovered of a store that a disk, a copy or a flipped bit has damaged.

Works on a copy of the file. Rows are read in the order of the table as long as that goes; from a page that cannot
be read on, row by row, each by its own number, so that only what stands on damaged pages is lost. A row counts if
its checksum fits.
"""

from __future__ import annotations

import contextlib
import itertools
import os
import shutil
import sqlite3
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from isoscale.errors import StoreError
from isoscale.runs.record import COLUMNS, DamagedRowError, TrialRecord, from_row

_MAGIC = b"SQLite format 3\0"

# No row is smaller: its key, its settings and the names of its columns' types take more.
_SMALLEST_ROW = 64

_COLUMNS = (*COLUMNS, "checksum")

# A store of the schema before has no such column.
_NEW = "numbers"

# How damage shows: an error of SQLite's, one whose message quotes damaged text, a number out of all range.
_DAMAGE = (sqlite3.Error, UnicodeDecodeError, OverflowError)


@dataclass(frozen=True)
class Recovered:
    """What could be recovered of a damaged store.

    Attributes:
        saved: Trials that are in the new store, each with its checksum found right.
        lost: What is known of the others: a key each where it can still be read.
    """

    saved: int
    lost: tuple[str, ...]


@contextlib.contextmanager
def damaged(path: str | os.PathLike[str]) -> Iterator[DamagedTrials]:
    """The trials of a damaged store, read from a copy that is deleted when the block ends.

    Raises:
        StoreError: There is no such file, no room for a copy, or nothing of a store is left.
    """
    if not os.path.isfile(path):
        raise StoreError(f"there is no store `{path}`")
    with tempfile.TemporaryDirectory(prefix="isoscale-recover-") as folder:
        try:
            copy = _copy(Path(path), Path(folder))
        except OSError as error:
            raise StoreError(
                f"cannot copy `{path}` to `{folder}`: {error.strerror}. Make room there, or set TMPDIR"
            ) from error
        db = sqlite3.connect(copy, isolation_level=None)
        try:
            yield DamagedTrials(db, copy.stat().st_size)
        except _DAMAGE as error:
            raise StoreError(
                f"nothing can be read of `{path}`: {error}. It is no store, or too little is left: run the same "
                "sweep again with another file"
            ) from error
        finally:
            db.close()


def _copy(path: Path, folder: Path) -> Path:
    """The file and its write-ahead log; a damaged first word would hide all that follows it."""
    copy = folder / "store"
    shutil.copyfile(path, copy)
    log = Path(f"{path}-wal")
    if log.exists():
        shutil.copyfile(log, f"{copy}-wal")
    with copy.open("r+b") as file:
        file.write(_MAGIC)
    return copy


class DamagedTrials:
    """The trials of a damaged database that can still be read.

    Attributes:
        keys: What the index knows, as far as it can be read: it stands on other pages than the rows.
        bad: Keys, or numbers, of rows that were read and were not sound.
    """

    def __init__(self, db: sqlite3.Connection, size: int) -> None:
        self._db = db
        self._last = size // _SMALLEST_ROW
        db.execute("PRAGMA trusted_schema = OFF")
        # Without this, a file shorter than its header says is refused as a whole.
        db.execute("PRAGMA writable_schema = ON")
        # Text that is no UTF-8 is damage in one row, not the end of all of them.
        db.text_factory = lambda text: text.decode("utf-8", "replace")
        columns = {row[1] for row in db.execute("PRAGMA table_info(trials)")}
        if not set(_COLUMNS) - {_NEW} <= columns:
            raise sqlite3.DatabaseError("there is no table of trials as this isoscale writes it")
        self._row = ", ".join("''" if name == _NEW and name not in columns else name for name in _COLUMNS)
        self.bad: set[str] = set()
        self.keys = self._indexed_keys()

    def sound(self) -> Iterator[TrialRecord]:
        """Each trial that can be read and is what was written, once."""
        given: set[str] = set()
        for number, *row in itertools.chain(self._by_number(), self._by_key(given)):
            try:
                trial = from_row(row)
            except DamagedRowError:
                self.bad.add(row[0] if isinstance(row[0], str) else f"row {number}")
                continue
            if trial.key not in given:
                given.add(trial.key)
                yield trial

    def _indexed_keys(self) -> set[str]:
        keys: set[str] = set()
        with contextlib.suppress(*_DAMAGE):
            for (key,) in self._db.execute("SELECT key FROM trials INDEXED BY sqlite_autoindex_trials_1 ORDER BY key"):
                keys.add(str(key))
        return keys

    def _by_key(self, given: set[str]) -> Iterator[tuple]:
        """Rows that the walk along the numbers missed: a flipped bit can make it jump."""
        query = f"SELECT rowid, {self._row} FROM trials WHERE key = ?"
        for key in sorted(self.keys - given):
            with contextlib.suppress(*_DAMAGE):
                yield from self._db.execute(query, (key,)).fetchmany(1)

    def _by_number(self) -> Iterator[tuple]:
        number = 0
        query = f"SELECT rowid, {self._row} FROM trials WHERE rowid >= ? ORDER BY rowid"
        while number <= self._last:
            try:
                # On a damaged page numbers may go backwards, and a page may lead back to itself.
                for row in itertools.islice(self._db.execute(query, (number,)), self._last):
                    number = max(number, row[0] + 1)
                    yield row
                return
            except _DAMAGE:
                number, row = self._next(number)
                if row:
                    yield row

    def _next(self, number: int) -> tuple[int, tuple | None]:
        """The next row that can be read by its own number, and the number after it."""
        query = f"SELECT rowid, {self._row} FROM trials WHERE rowid = ?"
        for candidate in range(number, self._last + 1):
            try:
                row = self._db.execute(query, (candidate,)).fetchone()
            except _DAMAGE:
                continue
            if row:
                return candidate + 1, row
        return self._last + 1, None
