"""What a driver does about a cluster that changes under it; Ray is played by an object, its head by a socket."""

from __future__ import annotations

import logging
import socket
import threading
import types
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from isoscale.errors import ClusterError, InvalidValueError
from isoscale.runs.engines import cluster, cluster_view
from isoscale.runs.engines.cluster_view import View

NEEDS = {"CPU": 1.0, "GPU": 0.5}


class Ray:
    """A cluster of nodes; what `ray.nodes` does can be replaced."""

    exceptions = types.SimpleNamespace(RayError=type("RayError", (Exception,), {}))
    no_client = types.SimpleNamespace(is_connected=lambda: False)
    util = types.SimpleNamespace(client=types.SimpleNamespace(ray=no_client))

    def __init__(self) -> None:
        self.head = socket.create_server(("127.0.0.1", 0))
        self.address = "{}:{}".format(*self.head.getsockname())
        self.nodes: Callable[[], list[dict[str, Any]]] = lambda: []

    def has(self, *nodes: dict[str, float]) -> None:
        self.nodes = lambda: [{"Alive": True, "Resources": node} for node in nodes]

    def is_initialized(self) -> bool:
        return True

    def get_runtime_context(self) -> Any:
        return types.SimpleNamespace(gcs_address=self.address)


@pytest.fixture
def ray() -> Iterator[Ray]:
    played = Ray()
    yield played
    played.head.close()


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Callable[[float], None]:
    """`clock(seconds)` lets that much time pass."""
    now = [1000.0]
    monkeypatch.setattr(cluster_view, "time", types.SimpleNamespace(monotonic=lambda: now[0]))

    def pass_(seconds: float) -> None:
        now[0] += seconds

    return pass_


def test_what_a_shard_needs_is_on_one_node(ray: Ray):
    ray.has({"CPU": 8, "GPU": 2}, {"CPU": 16}, {"CPU": 1, "GPU": 4}, {})
    view = View(ray, NEEDS)
    view.look()
    assert view.slots == 4 + 0 + 1 + 0
    found = [{"Alive": True, "Resources": {"CPU": 3.0}}, {"Alive": False, "Resources": {"CPU": 5.0}}]
    ray.nodes = lambda: found
    cpus = View(ray, {"CPU": 1.0})
    cpus.look()
    assert cpus.slots == 3


def test_the_cluster_is_asked_once_a_second(ray: Ray, clock: Callable[[float], None]):
    ray.has({"CPU": 2})
    view = View(ray, {"CPU": 1.0})
    view.look()
    ray.has({"CPU": 5})
    view.look()
    assert view.slots == 2
    clock(1.1)
    view.look()
    assert view.slots == 5


def test_a_node_that_nobody_replaces(ray: Ray, clock: Callable[[float], None], caplog: pytest.LogCaptureFixture):
    """One warning, and the whole patience again when a node has been there in between."""
    view = View(ray, NEEDS)
    ray.has({"CPU": 4})
    for _ in range(3):
        view.look()
        clock(cluster_view.ROOM_SECONDS / 3)
    assert [record.levelno for record in caplog.records] == [logging.WARNING]
    assert "no node of the Ray cluster has 1 CPU and 0.5 GPU: waiting 60 s for one" in caplog.text
    ray.has({"CPU": 4, "GPU": 1})
    view.look()
    ray.has({"CPU": 4})
    clock(cluster_view.ROOM_SECONDS)
    view.look()
    clock(2)
    with pytest.raises(ClusterError, match=r"had 1 CPU and 0\.5 GPU for 62 s.*finished is kept.*or choose another"):
        view.look()
    assert not view.is_lost


def test_a_head_that_is_away_for_a_while(ray: Ray, clock: Callable[[float], None]):
    ray.has({"CPU": 2})
    view = View(ray, {"CPU": 1.0})
    view.look()
    host, port = ray.head.getsockname()
    ray.head.close()
    clock(cluster_view.HEAD_SECONDS)
    view.look()
    assert view.slots == 0  # nothing is given to a cluster without a head
    ray.head = socket.create_server((host, port), reuse_port=False)
    clock(1.1)
    view.look()
    assert view.slots == 2
    ray.head.close()
    for seconds in (2, cluster_view.HEAD_SECONDS):
        view.look()
        clock(seconds)
    with pytest.raises(ClusterError, match=f"{ray.address}` has not answered for 20 s.*finished is kept"):
        view.look()
    assert view.is_lost


def test_a_head_that_listens_and_does_not_answer(ray: Ray, monkeypatch: pytest.MonkeyPatch):
    """A call that blocks for ever does not block the driver."""
    never = threading.Event()
    ray.nodes = lambda: never.wait(30) and []  # pyrefly: ignore[bad-assignment]
    monkeypatch.setattr(cluster_view, "HEAD_SECONDS", 0.2)
    view = View(ray, NEEDS)
    with pytest.raises(ClusterError, match="has not answered"):
        view.look()
    never.set()
    assert view.is_lost


def test_an_error_of_the_head_is_no_answer(ray: Ray, clock: Callable[[float], None]):
    def fail() -> Any:
        raise ray.exceptions.RayError("unavailable")

    ray.has({"CPU": 2})
    view = View(ray, {"CPU": 1.0})
    view.look()
    ray.nodes = fail
    clock(1.1)
    view.look()
    assert (view.slots, view.is_lost) == (0, False)


def test_what_a_call_raises_is_raised(ray: Ray):
    with pytest.raises(ZeroDivisionError):
        View(ray, NEEDS).within(lambda: 1 // 0)
    assert View(ray, NEEDS).within(max, 1, 2) == 2


@pytest.mark.parametrize(
    ("address", "is_one"),
    [
        (None, True),
        ("auto", True),
        ("{address}", True),
        ("localhost:{port}", True),
        ("127.0.0.1:1", False),
        ("nobody.invalid:1", False),
        ("ray://127.0.0.1:{port}", False),
    ],
)
def test_another_address_than_that_of_the_connection_is_refused(
    ray: Ray, monkeypatch: pytest.MonkeyPatch, address: str | None, is_one: bool
):
    """A sweep meant for one cluster does not run on another."""
    monkeypatch.setattr(cluster, "_ray", lambda: ray)
    if address is not None:
        address = address.format(address=ray.address, port=ray.address.rpartition(":")[2])
    if is_one:
        assert cluster.connect(address) is False
        return
    with pytest.raises(InvalidValueError, match=f"connected to the Ray cluster at `{ray.address}` already, not to"):
        cluster.connect(address)
