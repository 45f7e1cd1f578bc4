"""Which driver runs which shard: a lease keeps two drivers off the same one, and outlives no driver for long."""

from __future__ import annotations

import itertools
import os
import re
import socket
import sqlite3
import time
from pathlib import Path

from isoscale.runs.store.database import Database

# A lease is dead when its heartbeat has stood still that long by the watcher's own clock: no two machines' clocks,
# and no clock that was set back, are ever compared.
LEASE_SECONDS = 30.0

# Host, process, its start, and which driver in it; what is no text reads as U+FFFD.
_OWNER = re.compile(r"(?P<host>[^\ufffd]*):(?P<pid>[0-9]+):(?P<started>[0-9]+|alive):[0-9]+", re.DOTALL)

# Two drivers in one process are two owners.
_serial = itertools.count()


class Leases:
    """The leases of a store, as one owner sees them."""

    def __init__(self, database: Database) -> None:
        self._database = database
        pid = os.getpid()
        self._owner = f"{socket.gethostname()}:{pid}:{_started(pid)}:{next(_serial)}"
        # Of each shard that another holds: its owner, its heartbeat, and since when both stand still.
        self._seen: dict[str, tuple[str, int, float]] = {}

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
        if named and named["host"] == socket.gethostname() and _started(int(named["pid"])) != named["started"]:
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
    """When a process of this machine started, "" if it is gone: a number used again is another process."""
    try:
        status = Path(f"/proc/{pid}/stat").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return "" if Path("/proc").is_dir() else _signalled(pid)
    # The name of the program, in parentheses, may hold anything; what follows it is split by spaces.
    state, *fields = status.rsplit(")", 1)[1].split()
    if state in "ZX":
        return ""
    return fields[18]


def _signalled(pid: int) -> str:
    """The same without /proc: alive or gone is all that can be told."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return ""
    except PermissionError:
        pass
    return "alive"
