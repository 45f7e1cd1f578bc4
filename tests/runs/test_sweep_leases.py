"""Leases: two drivers never hold a shard at once, and a driver that is gone holds nothing for long."""

from __future__ import annotations

import os
import signal
import socket
import sqlite3
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from isoscale.runs import Store
from isoscale.runs.store.leases import LEASE_SECONDS


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    with Store(tmp_path / "s.db") as store:
        yield store


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Callable[[float], None]:
    """`clock(seconds)` lets that much time pass."""
    now = [1000.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])

    def pass_(seconds: float) -> None:
        now[0] += seconds

    return pass_


def _lease(store: Store, owner: str, heartbeat: int = 0) -> None:
    """A lease that some other driver wrote."""
    db = sqlite3.connect(store.path, isolation_level=None)
    db.execute("INSERT OR REPLACE INTO leases VALUES ('shard', ?, ?)", (owner, heartbeat))
    db.close()


def test_a_lease_has_one_holder(store: Store):
    with Store(store.path) as other:
        assert store.acquire("shard")
        assert store.acquire("shard")  # its own again
        assert not other.acquire("shard")
        assert other.acquire("another shard")


def test_nobody_gives_back_a_lease_of_another(store: Store):
    with Store(store.path) as other, Store(store.path) as third:
        store.acquire("shard")
        other.release("shard")
        assert not third.acquire("shard")


def test_a_killed_driver_holds_nothing(store: Store, start: Callable[..., Any], until: Callable[..., bool]):
    process = start(f"""
        import time
        from isoscale.runs.store.store import Store
        store = Store({str(store.path)!r})
        store.acquire("shard")
        open("ready", "w").close()
        time.sleep(60)
    """)
    assert until((store.path.parent / "ready").exists, 30)
    assert not store.acquire("shard")
    process.signal(signal.SIGKILL)
    assert until(lambda: store.acquire("shard"), 5)  # a zombie at first: nobody waited for it yet


def test_a_process_number_used_again_is_another_process(store: Store):
    """The number is alive, but its process started at another time."""
    _lease(store, f"{socket.gethostname()}:{os.getpid()}:12345:0")
    assert store.acquire("shard")


@pytest.mark.parametrize("owner", ["", "nonsense", "HOST:x:1:2", "HOST:1", "HOST:-1:2:0", b"\xff:1:2:0"])
def test_a_damaged_lease_is_named_and_stops_nobody_for_long(
    store: Store, clock: Callable[[float], None], owner: str | bytes
):
    if isinstance(owner, bytes):
        _lease(store, "")
        store._db.execute("UPDATE leases SET owner = CAST(? AS TEXT)", (owner,))
    else:
        _lease(store, owner.replace("HOST", socket.gethostname()))
    (fault,) = store.faults()
    assert "the lease of shard shard is damaged" in fault
    assert not store.acquire("shard")
    clock(LEASE_SECONDS + 1)
    assert store.acquire("shard")
    assert store.faults() == []


def test_a_lease_on_another_machine_whose_heartbeat_stands_still_is_taken_over_in_time(
    store: Store, clock: Callable[[float], None]
):
    _lease(store, "elsewhere:1:2:0")
    for _ in range(3):
        assert not store.acquire("shard")
        clock(LEASE_SECONDS / 3)
    assert not store.acquire("shard")
    clock(1)
    assert store.acquire("shard")


def test_a_lease_on_another_machine_whose_heartbeat_moves_is_never_taken_over(
    store: Store, clock: Callable[[float], None]
):
    for heartbeat in range(100):
        _lease(store, "elsewhere:1:2:0", heartbeat)
        assert not store.acquire("shard")
        clock(0.9 * LEASE_SECONDS)


def test_a_driver_that_shows_itself_keeps_its_lease(store: Store, clock: Callable[[float], None]):
    with Store(store.path) as other:
        store.acquire("shard")
        for _ in range(10):
            assert not other.acquire("shard")
            store.heartbeat()
            clock(0.9 * LEASE_SECONDS)
        other.heartbeat()  # its own leases only
        assert not other.acquire("shard")
        clock(2 * LEASE_SECONDS)
        assert other.acquire("shard")


def test_a_new_lease_has_its_whole_time(store: Store, clock: Callable[[float], None]):
    """What a watcher saw of an earlier holder says nothing about the next."""
    _lease(store, "elsewhere:1:2:0")
    assert not store.acquire("shard")
    clock(LEASE_SECONDS - 1)
    _lease(store, "third:1:2:0")
    assert not store.acquire("shard")
    clock(LEASE_SECONDS - 1)
    assert not store.acquire("shard")
