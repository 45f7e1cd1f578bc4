"""Which driver runs which shard: a lease keeps two drivers off the same one, and outlives no driver for long."""

from __future__ import annotations

import functools
import itertools
import os
import re
import socket
import sqlite3
import time

from isoscale.extras import needed
from isoscale.runs.store.database import Database

# A lease is dead when its heartbeat has stood still that long by the watcher's own clock: no two machines' clocks,
# and no clock that was set back, are ever compared.
LEASE_SECONDS = 30.0

# How far apart two answers to "when did this process start?" may be.
_ROUNDED_SECONDS = 2

# Host, process, its start, and which driver in it; what is no text reads as U+FFFD.
_OWNER = re.compile(r"(?P<host>[^\ufffd]*):(?P<pid>[0-9]+):(?P<started>[0-9]+):[0-9]+", re.DOTALL)

# Two drivers in one process are two owners.
_serial = itertools.count()


class Leases:
    """The leases of a store, as one owner sees them."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._number = next(_serial)
        # Of each shard that another holds: its owner, its heartbeat, and since when both stand still.
        self._seen: dict[str, tuple[str, int, float]] = {}

    @functools.cached_property
    def _owner(self) -> str:
        # Asked for by the first lease: who only reads a store needs no psutil.
        pid = os.getpid()
        return f"{socket.gethostname()}:{pid}:{_started(pid)}:{self._number}"

    def acquire(self, shard: str) -> bool:
        """Take the lease of a shard, if it is free, ours, or its owner is gone."""
        db = self._database.connection
        with self._database.errors(), self._database.transaction():
            row = db.execute("SELECT CAST(owner AS BLOB), beat FROM leases WHERE shard = ?", (shard,)).fetchone()
            if row is not None:
                owner, heartbeat = _text(row[0]), row[1]
                if owner != self._owner and not self._is_dead(shard, owner, heartbeat):
                    return False
            db.execute("INSERT OR REPLACE INTO leases VALUES (?, ?, 0)", (shard, self._owner))
            return True

    def heartbeat(self) -> None:
        """Show that this owner is still there."""
        self._write("UPDATE leases SET beat = beat + 1 WHERE owner = ?", self._owner)

    def release(self, shard: str) -> None:
        """Give a lease back."""
        self._write("DELETE FROM leases WHERE owner = ? AND shard = ?", self._owner, shard)

    def release_all(self) -> None:
        """Give back every lease of this owner."""
        self._write("DELETE FROM leases WHERE owner = ?", self._owner)

    def _write(self, statement: str, *arguments: str) -> None:
        with self._database.errors(), self._database.transaction():
            self._database.connection.execute(statement, arguments)

    def _is_dead(self, shard: str, owner: str, heartbeat: int) -> bool:
        named = _OWNER.fullmatch(owner)
        # The owner of a damaged lease cannot be asked for; it cannot show itself either.
        if named and named["host"] == socket.gethostname():
            started = _started(int(named["pid"]))
            if not _is_same(started, named["started"]):
                return True
        last_owner, last_heartbeat, since = self._seen.get(shard, ("", -1, 0.0))
        if (owner, heartbeat) != (last_owner, last_heartbeat):
            self._seen[shard] = (owner, heartbeat, time.monotonic())
            return False
        return time.monotonic() - since > LEASE_SECONDS


def faults(db: sqlite3.Connection) -> list[str]:
    """Which leases are not what a driver writes."""
    found = []
    for shard, owner in db.execute("SELECT CAST(shard AS BLOB), CAST(owner AS BLOB) FROM leases"):
        if not _OWNER.fullmatch(_text(owner)):
            found.append(f"the lease of shard {_text(shard)} is damaged: its owner {_text(owner)!r} is no process")
    return found


def _text(stored: bytes) -> str:
    """What may be damaged, as far as it is text."""
    return stored.decode("utf-8", "replace")


def _started(pid: int) -> str:
    """When a process of this machine started, in seconds, "" if it is gone."""
    with needed("sweep", by="keeping trials in a store"):
        import psutil

    try:
        process = psutil.Process(pid)
        if process.status() in (psutil.STATUS_ZOMBIE, psutil.STATUS_DEAD):
            return ""
        return str(round(process.create_time()))
    except psutil.Error:
        return ""


def _is_same(started: str, then: str) -> bool:
    """Whether two starts of one number are of one process: a number used again is another process."""
    if not started:
        return False
    # The system counts from a boot whose time of day it rounds, and not always the same way.
    return abs(int(started) - int(then)) <= _ROUNDED_SECONDS
