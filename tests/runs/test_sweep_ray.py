"""The same sweep on a Ray cluster of three nodes on this machine, while its workers and nodes die."""

from __future__ import annotations

import dataclasses
import json
import logging
import os
import random
import signal
import sqlite3
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from contracts import EngineContract

# Before Ray is imported: its import reads them.
os.environ |= {"RAY_ENABLE_UV_RUN_RUNTIME_ENV": "0", "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0"}
ray = pytest.importorskip("ray", reason="Ray is not installed: pip install 'isoscale[ray]'")

from isoscale import cli  # noqa: E402
from isoscale.errors import ClusterError, DataError, InvalidTypeError, InvalidValueError  # noqa: E402
from isoscale.runs import Store, Sweep, SweepResult, driver, sweep  # noqa: E402
from isoscale.runs.engines import cluster, cluster_view  # noqa: E402
from isoscale.runs.engines.engine import Backend, Engine, choose  # noqa: E402
from isoscale.runs.shards import Shard  # noqa: E402
from isoscale.runs.twins import Twins  # noqa: E402
from isoscale.testing import inline  # noqa: E402

# Ray's own sockets and files are not ours to close.
pytestmark = [
    pytest.mark.filterwarnings("ignore::ResourceWarning"),
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
]

# Shards of about a second: long enough to be killed in the middle.
SPEC = Sweep(rule=["mup", "completep"], widths=[8], depths=[1, 2, 3], lrs=[0.0625, 0.125], seeds=2, steps=250)


@pytest.fixture(scope="module")
def nodes() -> Iterator[Any]:
    """A head and two nodes, a core each, and this process connected to them."""
    from ray.cluster_utils import Cluster

    os.environ["RAY_LOG_TO_STDERR"] = "0"
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 1, "include_dashboard": False})
    for _ in range(2):
        cluster.add_node(num_cpus=1)
    cluster.wait_for_nodes()
    # One connection for all tests: each new one would wait for workers that import torch again.
    ray.init(cluster.address, logging_level=logging.ERROR, log_to_driver=False)
    yield cluster
    ray.shutdown()
    cluster.shutdown()


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory) -> SweepResult:
    """The sweep in this process, when nothing happens to it."""
    with inline():
        return sweep(SPEC, store=tmp_path_factory.mktemp("alone") / "s.db")


@pytest.fixture
def ran(monkeypatch: pytest.MonkeyPatch) -> Counter[str]:
    """How often each shard was submitted."""
    submit, counts = cluster.RayEngine.submit, Counter()

    def spy(self: cluster.RayEngine, shard: Any, index: int) -> Any:
        counts[shard.id] += 1
        return submit(self, shard, index)

    monkeypatch.setattr(cluster.RayEngine, "submit", spy)
    return counts


@pytest.mark.nightly
class TestRayEngine(EngineContract):
    @pytest.fixture(scope="class")
    @classmethod
    def engine(cls, nodes: Any) -> Iterator[Engine]:
        cluster.connect(nodes.address)
        try:
            with cluster.RayEngine(None, "cpu", 1.0) as opened:
                yield opened
        finally:
            cluster.disconnect()


def _on_ray(nodes: Any, store: Path, **run: Any) -> SweepResult:
    return sweep(SPEC, store=store, engine="ray", engine_address=nodes.address, **run)


def _same(a: SweepResult, b: SweepResult) -> None:
    np.testing.assert_equal(a.data.to_dict(), b.data.to_dict())


def _once(do: Callable[[], None], after: int) -> Callable[[Any], None]:
    """A progress callback that does something, once, when that many trials are done."""
    done: list[bool] = []

    def progress(state: Any) -> None:
        if not done and sum(state.done.values()) >= after:
            done.append(True)
            do()

    return progress


def _task_workers() -> list[int]:
    """Processes that run one of our tasks now: Ray names them after it. Those of a node that died linger on."""
    entries = [entry for entry in Path("/proc").iterdir() if entry.name.isdigit()]
    running = [entry for entry in entries if _command(entry).startswith(b"ray::_run")]
    return [int(entry.name) for entry in running if b"raylet" in _command(_parent(entry))]


def _parent(entry: Path) -> Path:
    try:
        return entry.parent / (entry / "stat").read_text().rpartition(")")[2].split()[1]
    except OSError:
        return entry


def _command(entry: Path) -> bytes:
    try:
        return (entry / "cmdline").read_bytes()
    except OSError:
        return b""


def test_no_cluster_there(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    with pytest.raises(InvalidValueError, match=r"no Ray cluster at `nobody\.invalid`"):
        sweep(SPEC, store=tmp_path / "s.db", engine="ray", engine_address="nobody.invalid")
    assert not (tmp_path / "s.db").exists()
    with pytest.raises(InvalidValueError, match="give it with engine='ray'"):
        sweep(SPEC, store=tmp_path / "s.db", engine_address="somewhere")
    with pytest.raises(InvalidValueError, match="`gpu_share` must be above 0 and at most 1, got 2"):
        sweep(SPEC, store=tmp_path / "s.db", gpu_share=2)
    with pytest.raises(InvalidTypeError, match="`gpu_share` must be a number"):
        sweep(SPEC, store=tmp_path / "s.db", gpu_share="half")  # pyrefly: ignore[bad-argument-type]
    monkeypatch.setitem(__import__("sys").modules, "ray", None)
    with pytest.raises(InvalidValueError, match=r"pip install 'isoscale\[ray\]'"):
        sweep(SPEC, store=tmp_path / "s.db", engine="ray")


@pytest.mark.parametrize("workers", [None, 3])
def test_a_dry_run_neither_asks_nor_starts_a_cluster(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], workers: int | None
):
    def refuse(*_: Any, **__: Any) -> None:
        raise AssertionError("a cluster was asked")

    for name in ("init", "nodes", "is_initialized"):
        monkeypatch.setattr(ray, name, refuse)
    monkeypatch.chdir(tmp_path)
    given = ["--workers", str(workers)] if workers else []
    with pytest.raises(SystemExit) as ended:
        cli.main(["sweep", "--steps", "5", "--widths", "8", "--engine", "ray", "--dry-run", *given])
    out, errors = capsys.readouterr()
    assert (ended.value.code, errors) == (0, "")
    assert ("on 3 workers of a Ray cluster" in out) == (workers == 3)
    assert ("on one worker of a Ray cluster (how many it has is not asked" in out) == (workers is None)
    assert list(tmp_path.iterdir()) == []


def test_a_backend_knows_nothing_of_the_cluster_until_it_is_connected(nodes: Any):
    backend = choose("ray", address=nodes.address)
    assert (backend.device, backend.workers) == ("auto", None)
    backend.connect()
    assert (backend.device, backend.workers) == ("cpu", 3)
    backend.close()  # not the one that connected
    assert ray.is_initialized()


def test_the_same_bits_as_local(nodes: Any, alone: SweepResult, ran: Counter[str], tmp_path: Path):
    found = _on_ray(nodes, tmp_path / "s.db")
    _same(found, alone)
    assert set(ran.values()) == {1}
    assert found.versions == alone.versions  # threads among them
    assert found.versions[0]["threads"] == "1"
    ran.clear()
    _same(_on_ray(nodes, tmp_path / "s.db"), alone)
    assert not ran


def _shards() -> int:
    """How many run, each that several rules share once."""
    plan = driver.prepare(SPEC)
    return len(Twins(plan).first(plan))


def test_a_worker_killed(
    nodes: Any, alone: SweepResult, ran: Counter[str], tmp_path: Path, caplog: pytest.LogCaptureFixture
):
    killed: list[int] = []

    def kill() -> None:
        end = time.monotonic() + 20
        while not (pids := _task_workers()) and time.monotonic() < end:
            time.sleep(0.01)
        killed.append(pids[0])
        os.kill(pids[0], signal.SIGKILL)

    found = _on_ray(nodes, tmp_path / "s.db", progress=_once(kill, after=4))
    assert killed
    _same(found, alone)
    assert sum(ran.values()) == _shards() + caplog.text.count("Ray worker lost")
    assert max(ran.values()) == 2


def test_a_node_removed(
    nodes: Any, alone: SweepResult, ran: Counter[str], tmp_path: Path, caplog: pytest.LogCaptureFixture
):
    """What the other nodes ran is not run again; then a node joins and is used."""
    node = nodes.add_node(num_cpus=1)
    nodes.wait_for_nodes()
    found = _on_ray(
        nodes, tmp_path / "s.db", progress=_once(lambda: nodes.remove_node(node, allow_graceful=False), after=4)
    )
    _same(found, alone)
    lost = caplog.text.count("Ray worker lost")
    assert sum(ran.values()) == _shards() + lost
    assert found.count("done") == SPEC.trials
    with Store(tmp_path / "s.db") as store:
        assert store.count() == SPEC.trials


@pytest.mark.nightly
def test_twenty_deaths(nodes: Any, alone: SweepResult, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Workers and nodes, one after the other at random moments; no shard is given up for what was done to it."""
    monkeypatch.setattr(driver, "_TRIES", 100)
    chance, deaths, next_ = random.Random(20), [0], [time.monotonic() + 1]
    spare = [nodes.add_node(num_cpus=1)]
    nodes.wait_for_nodes()

    def kill(_: Any) -> None:
        if time.monotonic() < next_[0] or deaths[0] == 20:
            return
        pids = _task_workers()
        if pids and chance.random() < 0.7:
            os.kill(chance.choice(pids), signal.SIGKILL)
        else:
            nodes.remove_node(spare.pop(), allow_graceful=False)
            spare.append(nodes.add_node(num_cpus=1))
        deaths[0] += 1
        next_[0] = time.monotonic() + chance.uniform(0.1, 2)

    for attempt in range(30):  # until twenty have died
        _same(_on_ray(nodes, tmp_path / f"{attempt}.db", progress=kill), alone)
        if deaths[0] == 20:
            break
    assert deaths[0] == 20
    nodes.remove_node(spare.pop(), allow_graceful=False)


def test_what_a_task_raises_is_raised_here(nodes: Any):
    """The error itself, not Ray's wrapping of it with a traceback of another process."""
    shard = driver.prepare(SPEC)[0]
    assert isinstance(shard, Shard)
    other = dataclasses.replace(shard, source=dataclasses.replace(shard.source, fingerprint="another"))
    with cluster.RayEngine(None, "cpu", 1.0) as engine:
        future = engine.submit(other, 0)
        with pytest.raises(DataError, match=r"digits changed while the sweep ran.*expected another"):
            engine.result(future)
    end = time.monotonic() + 20
    while _task_workers() and time.monotonic() < end:
        time.sleep(0.05)
    assert _task_workers() == []


def _found(*arguments: Any, **options: Any) -> Backend:
    """The backend of these arguments, connected."""
    backend = choose(*arguments, **options)
    backend.connect()
    return backend


def test_what_a_backend_says_of_the_cluster(nodes: Any):
    backend = _found("ray", address=nodes.address)
    assert (backend.device, backend.workers) == ("cpu", len([n for n in ray.nodes() if n["Alive"]]))
    assert _found("ray", workers=7, address=nodes.address).workers == 7
    with pytest.raises(InvalidValueError, match="the Ray cluster has no GPU"):
        _found("ray", device="cuda", address=nodes.address)
    with pytest.raises(InvalidValueError, match="`device` must be auto, cpu or cuda with engine='ray', got 'cuda:1'"):
        _found("ray", device="cuda:1", address=nodes.address)


@pytest.mark.nightly
def test_a_share_of_a_gpu_is_what_a_task_asks_for(nodes: Any):
    """The cluster is told of two GPUs that are not there: enough to see how many tasks Ray lets run."""
    node = nodes.add_node(num_cpus=8, num_gpus=2)
    nodes.wait_for_nodes()
    try:
        assert cluster.resolve_device("auto") == "cuda"
        assert cluster.slots("cuda", 0.25) == 8
        assert cluster.slots("cuda", 1.0) == 2
        assert _found("ray", gpu_share=0.5, address=nodes.address).workers == 4
        assert cluster.RayEngine(None, "cuda", 0.25)._task._default_options["num_gpus"] == 0.25
    finally:
        nodes.remove_node(node, allow_graceful=False)


@pytest.mark.nightly
def test_a_gpu_that_leaves_before_the_first_task(
    nodes: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
):
    """`auto` meant the GPU of a node that then left: what was finished before is there, and nothing waits for ever."""
    first = dataclasses.replace(SPEC, depths=[1], base_depth=1)
    sweep(first, store=tmp_path / "s.db", workers=1)
    node = nodes.add_node(num_cpus=1, num_gpus=1)
    nodes.wait_for_nodes()
    prepare = driver.prepare

    def leave(*arguments: Any) -> Any:
        nodes.remove_node(node, allow_graceful=False)
        return prepare(*arguments)

    monkeypatch.setattr(driver, "prepare", leave)
    monkeypatch.setattr(cluster_view, "ROOM_SECONDS", 3.0)
    with pytest.raises(ClusterError, match=r"has had 1 CPU and 1 GPU for \d+ s.*choose another --device"):
        _on_ray(nodes, tmp_path / "s.db")
    assert "no node of the Ray cluster has 1 CPU and 1 GPU: waiting 3 s" in caplog.text
    with Store(tmp_path / "s.db") as store:
        assert store.count() == first.trials
        assert all(store.acquire(shard.id) for shard in prepare(SPEC))


HEAD = """
import json, pathlib, time
from ray.cluster_utils import Cluster
cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 2, "include_dashboard": False})
(head,) = cluster.head_node.all_processes["gcs_server"]
pathlib.Path("part").write_text(json.dumps([cluster.address, head.process.pid]))
pathlib.Path("part").rename("head")
time.sleep(600)
"""

COMMAND = """
import sys
from isoscale import cli
from isoscale.runs.engines import cluster_view
cluster_view.HEAD_SECONDS = 5.0  # not so long as a user's sweep waits
cli.main(sys.argv[1:])
"""


@pytest.mark.nightly
def test_a_head_that_dies_ends_the_sweep(tmp_path: Path, start: Callable[..., Any], until: Callable[..., bool]):
    """A cluster of its own. Ray itself would end the driver a minute later, with its leases held."""
    start(HEAD)
    assert until((tmp_path / "head").exists, 60)
    address, pid = json.loads((tmp_path / "head").read_text())
    grid = "--widths 8 --depths 1 2 3 4 5 6 7 8 --lrs 0.0625 0.125 --seeds 2 --steps 500 --rule mup completep"
    where = f"--engine ray --address {address} --store s.db --device cpu"
    driver_ = start([sys.executable, "-c", COMMAND, "sweep", *grid.split(), *where.split()])

    def kept() -> int:
        if not (tmp_path / "s.db").exists():
            return 0
        with Store(tmp_path / "s.db") as store:
            return store.count()

    assert until(lambda: kept() >= 8, 60)
    before = kept()
    os.kill(pid, signal.SIGKILL)
    started = time.monotonic()
    code, _, errors = driver_.wait(60)
    assert code == 1
    assert time.monotonic() - started < 45
    assert f"the head of the Ray cluster at `{address}` has not answered for 5 s" in " ".join(errors.split())
    assert "Traceback" not in errors
    assert before <= kept() < 64
    assert kept() % 4 == 0  # whole shards
    with sqlite3.connect(tmp_path / "s.db") as db:
        assert db.execute("SELECT * FROM leases").fetchall() == []
    db.close()


def test_code_of_ones_own_trains_on_ray(nodes: Any, tmp_path: Path):
    """A function travels as it is, a command as its text; a trial that fails is that trial's own business."""
    factor = 3

    def train(trial: Any) -> Any:
        if trial.width == 4:
            raise RuntimeError("not this one")
        for step in range(trial.steps):
            yield factor * trial.width / (step + 1)

    where = {"store": tmp_path / "s.db", "engine": "ray", "engine_address": nodes.address}
    found = sweep(Sweep(train=train, widths=[2, 4], lrs=[0.5], seeds=1, steps=3), **where)
    assert found.data["status"].squeeze().values.tolist() == [0, 2]
    assert found.loss.sel(width=2).item() == 2.0
    assert "RuntimeError: not this one" in found.reasons[0]
    command = Sweep(command="echo loss {width} {lr}", loss_pattern=r"loss (\d+)", widths=[2, 4], lrs=[0.5], seeds=1)
    assert sweep(command, **where).loss.squeeze().values.tolist() == [2, 4]


def test_the_command(nodes: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]):
    """Connects by itself, to the cluster that the environment names; --device, because a node that left takes a while
    to be forgotten, and its GPUs with it. It stands last: workers of its own connection import torch again."""
    ray.shutdown()
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("RAY_ADDRESS", nodes.address)
    grid = "--widths 8 --depths 1 2 --lrs 0.0625 0.125 --seeds 2 --steps 5 --rule sp --device cpu"
    with pytest.raises(SystemExit) as ended:
        cli.main(["sweep", *grid.split(), "--engine", "ray"])
    out, errors = capsys.readouterr()
    assert (ended.value.code, errors) == (0, "")
    assert "of a Ray cluster" in out
    assert "8 trials done" in out
