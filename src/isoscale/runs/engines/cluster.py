"""Engine on a Ray cluster: the same shards as Ray tasks, a core or a share of a GPU each.

Ray only schedules and carries results. It does not retry: the driver does, which counts the tries; and it does not
write: the store stays on the driver's disk. Tasks pin their threads as local workers do, so that the same hardware
gives the same bits.
"""

from __future__ import annotations

import concurrent.futures
import contextlib
import logging
import os
from collections.abc import Sequence
from typing import Any, ClassVar

from isoscale.errors import InvalidValueError
from isoscale.extras import needed
from isoscale.runs import worker
from isoscale.runs.engines import cluster_view
from isoscale.runs.engines.cluster_view import View, within
from isoscale.runs.engines.local import WorkerLostError
from isoscale.runs.record import TrialRecord
from isoscale.runs.trainers.registry import Work

# Ray says goodbye to a head that is gone for about five seconds.
_GOODBYE_SECONDS = 30.0


class RayEngine:
    """Runs shards as Ray tasks; a worker or a node that dies loses the shards that it ran and nothing else.

    Args:
        limit: How many run at once at most; None: as many as the cluster has room for, nodes that join included.
        device: "cpu", or "cuda" for the GPU that Ray gives to the task.
        gpu_share: Share of a GPU that a shard takes.
    """

    def __init__(self, limit: int | None, device: str, gpu_share: float) -> None:
        self.device, self._limit, self._share = device, limit, gpu_share
        # A name of the driver's own device would mean another on every node.
        resources: dict[str, Any] = {"num_gpus": gpu_share} if device == "cuda" else {}
        self._task = _ray().remote(num_cpus=1, max_retries=0, **resources)(_run)
        self._view = View(_ray(), _needs(device, gpu_share))
        self._refs: dict[concurrent.futures.Future, Any] = {}

    @property
    def capacity(self) -> int:
        """One shard ready for each that runs, so that no core waits for the driver; none while the head is silent."""
        most = 2 * self._view.slots
        return min(most, self._limit) if self._limit else most

    def submit(self, shard: Work, index: int) -> concurrent.futures.Future:
        """Start a shard as soon as the cluster has room.

        Raises:
            ClusterError: The head is gone: it keeps what the tasks run.
        """
        ref = self._view.within(self._task.remote, shard, self.device)
        future = ref.future()
        self._refs[future] = ref
        return future

    def result(self, future: concurrent.futures.Future) -> list[TrialRecord]:
        """The trials of a finished shard.

        Raises:
            WorkerLostError: Its worker or its node died, or ran out of memory. Never for one that no worker had yet:
                Ray starts another worker for it.
            Exception: What the task raised.
        """
        errors = _ray().exceptions
        del self._refs[future]
        try:
            return future.result()
        except errors.RayTaskError as error:
            raise error.cause from error
        except errors.RayError as error:
            raise WorkerLostError(f"Ray worker lost ({type(error).__name__})") from error

    def repair(self) -> None:
        """Ray starts workers by itself; what it cannot repair is an error, not a sweep that waits for ever.

        Raises:
            ClusterError: The head is gone, or every node that a shard could run on.
        """
        self._view.look()

    def member_steps(self) -> Sequence[int]:
        """A task on another machine is done or it is not."""
        return []

    def __enter__(self) -> RayEngine:
        return self

    def __exit__(self, *_: object) -> None:
        for ref in self._refs.values():
            with contextlib.suppress(Exception):  # it may be gone with its node
                _ray().cancel(ref, force=True)
        if self._view.is_lost:  # Ray would end this process within the minute, whoever connected it
            disconnect()


class RayBackend:
    """A Ray cluster; nothing is asked of it before `connect`.

    Args:
        limit: How many shards train at once at most; None: as many as the cluster has room for.
        device: "auto", "cpu" or "cuda".
        address: Of the cluster, if it is not the one that `$RAY_ADDRESS` names, nor one started here.
        gpu_share: Share of a GPU that a shard takes.

    Raises:
        InvalidValueError: Ray is not installed, or no such device.
    """

    engine: ClassVar[str] = "ray"

    def __init__(self, limit: int | None, device: str, address: str | None, gpu_share: float) -> None:
        _ray()
        if device not in ("auto", "cpu", "cuda"):
            raise InvalidValueError(f"`device` must be auto, cpu or cuda with engine='ray', got {device!r}")
        self._limit, self._device, self._address, self._share = limit, device, address, gpu_share
        self._workers = limit
        self._is_owner = False

    @property
    def workers(self) -> int | None:
        """As many as were asked for, else as many as the cluster had room for when it was asked."""
        return self._workers

    @property
    def device(self) -> str:
        return self._device

    def connect(self) -> None:
        """Connect to the cluster, and see what it has.

        Raises:
            InvalidValueError: No cluster answers, or it has no GPU and one was asked for.
            ClusterError: It answered, and then no more.
        """
        # Connected twice, it is still the first time that made the connection.
        self._is_owner = connect(self._address) or self._is_owner
        try:
            self._device = resolve_device(self._device)
            self._workers = self._limit or slots(self._device, self._share)
        except BaseException:
            self.close()
            raise

    def open(self, shards: int) -> RayEngine:
        """The engine; the cluster says how many shards it takes at once."""
        return RayEngine(self._limit, self._device, self._share)

    def close(self) -> None:
        """Disconnect, if `connect` made the connection."""
        if self._is_owner:
            disconnect()


def connect(address: str | None) -> bool:
    """Connect this process to the cluster at `address`, else `$RAY_ADDRESS`, else to one started here.

    Returns:
        Whether there was no connection before: whoever made it ends it.

    Raises:
        InvalidValueError: Ray is not installed, no cluster answers, or this process is connected to another one.
    """
    ray = _ray()
    if ray.is_initialized():
        if address is not None:
            _refuse_another(ray, address)
        return False
    address = address or os.environ.get("RAY_ADDRESS") or None
    where: dict[str, Any] = {"address": address or "local"}
    if not address:
        where["include_dashboard"] = False
    try:
        ray.init(**where, logging_level=logging.ERROR, log_to_driver=False)
    except (ConnectionError, RuntimeError, ValueError, OSError) as error:
        ray.shutdown()
        reason = str(error).strip().split("\n")[0]
        raise InvalidValueError(
            f"no Ray cluster at `{address or 'local'}`: {reason}. Start one with `ray start --head` and give its "
            "address (--address, or $RAY_ADDRESS); without an address one is started here"
        ) from error
    return True


def _refuse_another(ray: Any, address: str) -> None:
    """Raise InvalidValueError unless `address` may be the cluster that this process is connected to."""
    if address == "auto":
        return
    connected = ray.get_runtime_context().gcs_address
    # A client's connection does not say which address it was made with.
    is_same = ray.util.client.ray.is_connected() if "://" in address else cluster_view.is_same(address, connected)
    if not is_same:
        raise InvalidValueError(
            f"this process is connected to the Ray cluster at `{connected}` already, not to `{address}`: leave out "
            "the address, or call `ray.shutdown()` first"
        )


def disconnect() -> None:
    """End the connection; a cluster that was started here ends with it."""
    with contextlib.suppress(TimeoutError):
        within(_GOODBYE_SECONDS, _ray().shutdown)


def resolve_device(device: str) -> str:
    """The device of the cluster that "auto" means.

    Raises:
        InvalidValueError: GPUs that the cluster does not have.
    """
    has_gpus = any(node.get("GPU", 0.0) > 0 for node in _nodes())
    if device == "auto":
        return "cuda" if has_gpus else "cpu"
    if device == "cuda" and not has_gpus:
        raise InvalidValueError(
            "`device` 'cuda' cannot be used: the Ray cluster has no GPU: choose --device cpu, or add a node"
        )
    return device


def slots(device: str, gpu_share: float) -> int:
    """How many shards the cluster can train at once, by what it has now."""
    return max(1, cluster_view.slots(_nodes(), _needs(device, gpu_share)))


def _needs(device: str, gpu_share: float) -> dict[str, float]:
    """What a shard takes of one node."""
    needs = {"CPU": 1.0}
    if device == "cuda":
        needs["GPU"] = gpu_share
    return needs


def _nodes() -> list[dict[str, float]]:
    return View(_ray(), {}).within(cluster_view.nodes, _ray())


def _run(shard: Work, device: str) -> list[TrialRecord]:
    worker.pin()
    return worker.run(shard, device)


def _ray() -> Any:
    # Under `uv run`, Ray would build the environment again on every node; read when Ray is imported.
    os.environ.setdefault("RAY_ENABLE_UV_RUN_RUNTIME_ENV", "0")
    # The way of Ray's next versions: a task without GPUs does not have them hidden.
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    with needed("ray", by="`engine` 'ray'"):
        import ray
        import ray.exceptions
    return ray
