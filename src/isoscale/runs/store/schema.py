"""The tables of a store and how they changed: `PRAGMA user_version` is the schema, a migration a step upwards.

| schema | what it brought |
| --- | --- |
| 1 | trials and leases |
| 2 | a checksum in every trial |

A migration runs inside the transaction that opens the store, so a killed one leaves the older schema whole. A store
of every released schema is kept under `tests/runs/stores`.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Mapping

from isoscale.errors import StoreError
from isoscale.runs.record import COLUMNS, checksum

SCHEMA = 2

Migration = Callable[[sqlite3.Connection], None]

TABLES = """
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
    created TEXT NOT NULL,
    checksum INTEGER NOT NULL DEFAULT 0
) STRICT;
CREATE TABLE leases (
    shard TEXT PRIMARY KEY,
    owner TEXT NOT NULL,
    beat INTEGER NOT NULL
) STRICT;
"""


def add_checksums(db: sqlite3.Connection) -> None:
    """1 to 2: nobody can say any more whether the older rows are sound, so they are taken as they are."""
    db.execute("ALTER TABLE trials ADD COLUMN checksum INTEGER NOT NULL DEFAULT 0")
    db.create_function("trial_checksum", len(COLUMNS), lambda *values: checksum(values), deterministic=True)
    db.execute(f"UPDATE trials SET checksum = trial_checksum({', '.join(COLUMNS)})")
    db.create_function("trial_checksum", len(COLUMNS), None)


# From each schema to the next.
MIGRATIONS: Mapping[int, Migration] = {1: add_checksums}


def is_newest(db: sqlite3.Connection) -> bool:
    """Whether a file is a store that `bring_up` would leave as it is."""
    (found,) = db.execute("PRAGMA user_version").fetchone()
    return found == SCHEMA and _is_store(db.execute("SELECT type, name FROM sqlite_master").fetchall())


def bring_up(
    db: sqlite3.Connection, path: object, migrations: Mapping[int, Migration] = MIGRATIONS, newest: int = SCHEMA
) -> None:
    """Create the tables of an empty file, or take an older store to the newest schema; call it in a transaction.

    Args:
        db: The open database.
        path: The file, for the errors.
        migrations: What takes each schema to the next.
        newest: The schema to reach.

    Raises:
        StoreError: A database of something else, or of a newer isoscale.
    """
    (found,) = db.execute("PRAGMA user_version").fetchone()
    kinds = db.execute("SELECT type, name FROM sqlite_master").fetchall()
    if not kinds:
        for statement in TABLES.split(";"):
            db.execute(statement)
    elif not found or not _is_store(kinds):
        raise StoreError(f"`{path}` is a database of something else: choose another file with --store")
    elif found > newest:
        raise StoreError(
            f"`{path}` was written by a newer isoscale (store schema {found}, this one reads up to {newest}): "
            "upgrade isoscale, or choose another file with --store"
        )
    else:
        for schema in range(found, newest):
            migrations[schema](db)
    if found != newest:  # a store that may only be read is left alone
        db.execute(f"PRAGMA user_version = {newest}")


def _is_store(kinds: list[tuple[str, str]]) -> bool:
    """Our tables, and neither views nor triggers: those would run somebody else's SQL on every write."""
    return ("table", "trials") in kinds and not any(kind in ("view", "trigger") for kind, _ in kinds)
