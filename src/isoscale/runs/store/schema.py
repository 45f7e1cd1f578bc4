"""The tables of a store. `PRAGMA user_version` says which schema a file has; there is one that this isoscale reads."""

from __future__ import annotations

import sqlite3

from isoscale.errors import StoreError

SCHEMA = 4

_TRIALS = """
CREATE TABLE trials (
    key TEXT PRIMARY KEY,
    shard TEXT NOT NULL,
    config TEXT NOT NULL,
    status TEXT NOT NULL CHECK (status IN ('done', 'diverged', 'stopped', 'failed')),
    reason TEXT NOT NULL,
    curve BLOB NOT NULL,
    test_loss REAL,
    test_accuracy REAL,
    versions TEXT NOT NULL,
    created TEXT NOT NULL,
    checksum INTEGER NOT NULL DEFAULT 0,
    numbers TEXT NOT NULL DEFAULT ''
) STRICT;
"""
TABLES = f"""{_TRIALS}
CREATE TABLE leases (
    shard TEXT PRIMARY KEY,
    owner TEXT NOT NULL,
    beat INTEGER NOT NULL
) STRICT;
"""


# A constraint is changed by copying the table. The checksum of a row without numbers is what it was before there were
# any; rows keep their numbers, in the order of which trials are listed.
_COLUMNS = "rowid, key, shard, config, status, reason, curve, test_loss, test_accuracy, versions, created, checksum"
_COPIES = {
    2: f"INSERT INTO trials ({_COLUMNS}) SELECT {_COLUMNS} FROM before",
    3: f"INSERT INTO trials ({_COLUMNS}, numbers) SELECT {_COLUMNS}, numbers FROM before",
}
# What is only read stays as it is.
_COVERS = {2: "CREATE TEMP VIEW trials AS SELECT rowid AS rowid, *, '' AS numbers FROM main.trials", 3: ""}


def is_current(db: sqlite3.Connection) -> bool:
    """Whether a file is a store that `create` would leave as it is."""
    return _version(db) == SCHEMA and _is_store(_objects(db))


def create(db: sqlite3.Connection, path: object) -> None:
    """Create the tables of an empty file, or upgrade those of the schemas before; call it in a transaction.

    Args:
        db: The open database.
        path: The file, for the errors.

    Raises:
        StoreError: A database of something else, or a store of another schema.
    """
    objects = _objects(db)
    if not objects:
        for statement in TABLES.split(";"):
            db.execute(statement)
        db.execute(f"PRAGMA user_version = {SCHEMA}")
        return
    found = _known(db, path, objects)
    if found != SCHEMA:
        db.execute("ALTER TABLE trials RENAME TO before")
        db.execute(_TRIALS)
        db.execute(_COPIES[found])
        db.execute("DROP TABLE before")
        db.execute(f"PRAGMA user_version = {SCHEMA}")


def cover(db: sqlite3.Connection, path: object) -> None:
    """Give an empty file, or one of the schema before, the tables of this one for this connection alone.

    Args, Raises: As for `create`.
    """
    objects = _objects(db)
    db.execute("PRAGMA temp_store = MEMORY")
    if not objects:
        for statement in TABLES.split(";"):
            db.execute(statement.replace("CREATE TABLE", "CREATE TEMP TABLE"))
        return
    found = _known(db, path, objects)
    # SQLite looks for a name among what is temporary first.
    if found != SCHEMA:
        db.execute(_COVERS[found])


def _known(db: sqlite3.Connection, path: object, objects: list[tuple[str, str]]) -> int:
    """The schema of a store that this isoscale reads.

    Raises:
        StoreError: It is none.
    """
    found = _version(db)
    if not found or not _is_store(objects):
        raise StoreError(f"`{path}` is a database of something else: choose another file with --store")
    if found > SCHEMA:
        raise StoreError(
            f"`{path}` was written by a newer isoscale (store schema {found}, this one reads {SCHEMA}): "
            "upgrade isoscale, or choose another file with --store"
        )
    if found < SCHEMA and found not in _COPIES:
        raise StoreError(
            f"`{path}` was written by an older isoscale (store schema {found}, this one reads {SCHEMA}): "
            "choose another file with --store, and the same sweep runs again"
        )
    return found


def _version(db: sqlite3.Connection) -> int:
    (found,) = db.execute("PRAGMA user_version").fetchone()
    return found


def _objects(db: sqlite3.Connection) -> list[tuple[str, str]]:
    """Type and name of everything that the file defines."""
    return db.execute("SELECT type, name FROM sqlite_master").fetchall()


def _is_store(objects: list[tuple[str, str]]) -> bool:
    """Our tables, and neither views nor triggers: those would run somebody else's SQL on every write."""
    foreign = [name for kind, name in objects if kind in ("view", "trigger")]
    return ("table", "trials") in objects and not foreign
