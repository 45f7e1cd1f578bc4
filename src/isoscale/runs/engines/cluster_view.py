"""What a Ray cluster has now, without ever waiting for it.

While the head of a cluster is gone, a call that asks it blocks, and after a minute Ray ends the whole process. So
the head's port is tried first, each call has an end of its own, and a head that stays away is an error in time.
"""

from __future__ import annotations

import concurrent.futures
import logging
import math
import socket
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeVar

from isoscale.errors import ClusterError

_log = logging.getLogger(__name__)

T = TypeVar("T")

_LOOK_SECONDS = 1.0

# A head that restarts is back sooner. Ray itself ends the process after 60 seconds.
HEAD_SECONDS = 20.0

# A node whose place another takes, by hand or by an autoscaler, has this long.
ROOM_SECONDS = 60.0


class View:
    """How many shards a cluster has room for, looked up at most once a second.

    Args:
        ray: The connected module.
        needs: What a shard takes of one node.

    Attributes:
        slots: How many shards it can train at once, by the last look; 0 while the head does not answer.
        is_lost: Whether the head was given up.
    """

    def __init__(self, ray: Any, needs: Mapping[str, float]) -> None:
        self._ray, self._needs = ray, needs
        self._head = ray.get_runtime_context().gcs_address
        self._answered = self._had_room = time.monotonic()
        self._next_look, self._has_warned = 0.0, False
        self.slots, self.is_lost = 0, False

    def look(self) -> None:
        """Look again, if the last look is old.

        Raises:
            ClusterError: The head has been silent, or no node has had what a shard needs, for too long.
        """
        if time.monotonic() < self._next_look:
            return
        found = self._ask() if self._listens() else None
        if found is not None:
            self._answered = time.monotonic()
            self._count(found)
        elif time.monotonic() - self._answered > HEAD_SECONDS:
            raise self._gone()
        else:
            self.slots = 0
        self._next_look = time.monotonic() + _LOOK_SECONDS

    def _ask(self) -> list[dict[str, float]] | None:
        try:
            return self.within(nodes, self._ray)
        except (self._ray.exceptions.RayError, ConnectionError):
            return None

    def within(self, call: Callable[..., T], *args: Any) -> T:
        """What the call returns, if the head lives to answer it.

        Raises:
            ClusterError: No answer in time.
        """
        try:
            return within(HEAD_SECONDS, call, *args)
        except TimeoutError as error:
            raise self._gone() from error

    def _listens(self) -> bool:
        """Whether something listens where the head was."""
        host, _, port = self._head.rpartition(":")
        try:
            with socket.create_connection((host.strip("[]"), int(port)), timeout=_LOOK_SECONDS):
                return True
        except OSError:
            return False

    def _count(self, found: Sequence[Mapping[str, float]]) -> None:
        self.slots = slots(found, self._needs)
        if self.slots:
            self._had_room, self._has_warned = time.monotonic(), False
            return
        wanted = " and ".join(f"{amount:g} {name}" for name, amount in self._needs.items())
        silent = time.monotonic() - self._had_room
        if silent > ROOM_SECONDS:
            raise ClusterError(
                f"no node of the Ray cluster has had {wanted} for {silent:.0f} s, and a shard needs that. What "
                f"finished is kept. Add a node (`ray start --address={self._head}`) or choose another --device, "
                "then run the same command again"
            )
        if not self._has_warned:
            _log.warning("no node of the Ray cluster has %s: waiting %.0f s for one", wanted, ROOM_SECONDS)
        self._has_warned = True

    def _gone(self) -> ClusterError:
        self.is_lost = True
        return ClusterError(
            f"the head of the Ray cluster at `{self._head}` has not answered for {HEAD_SECONDS:.0f} s. What finished "
            "is kept. Start the cluster again (`ray start --head`), then run the same command"
        )


def nodes(ray: Any) -> list[dict[str, float]]:
    """What each node that is alive has."""
    return [node["Resources"] for node in ray.nodes() if node["Alive"]]


def slots(found: Sequence[Mapping[str, float]], needs: Mapping[str, float]) -> int:
    """How many shards fit: what one needs must be on one node.

    >>> slots([{"CPU": 8, "GPU": 2}, {"CPU": 4}], {"CPU": 1, "GPU": 0.5})
    4
    """
    total = 0
    for node in found:
        fits = min(node.get(name, 0.0) / amount for name, amount in needs.items())
        # Shares are fractions such as 0.1, whose multiples round down.
        total += math.floor(fits + 1e-9)
    return total


def is_same(address: str, other: str) -> bool:
    """Whether two addresses, host:port, are one place; a machine's own name for itself is not told from its address.

    >>> is_same("localhost:6379", "10.0.0.5:6379"), is_same("10.0.0.4:6379", "10.0.0.5:6379")
    (True, False)
    """
    host, _, port = address.rpartition(":")
    other_host, _, other_port = other.rpartition(":")
    if port != other_port:
        return False
    found, expected = _numbers(host), _numbers(other_host)
    is_local = any(number.startswith("127.") or number == "::1" for number in found | expected)
    return is_local or not found.isdisjoint(expected)


def _numbers(host: str) -> set[str]:
    """The addresses that a host's name stands for; the name itself where nobody knows it."""
    name = host.strip("[]")
    try:
        return {str(place[0]) for *_, place in socket.getaddrinfo(name, None)}
    except OSError:
        return {name}


def within(seconds: float, call: Callable[..., T], *args: Any) -> T:
    """What a call returns; TimeoutError if it has not by then, and its thread is left to itself."""
    answer: concurrent.futures.Future[T] = concurrent.futures.Future()

    def ask() -> None:
        try:
            answer.set_result(call(*args))
        except BaseException as error:
            answer.set_exception(error)

    threading.Thread(target=ask, daemon=True).start()
    return answer.result(timeout=seconds)
