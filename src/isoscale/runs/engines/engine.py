"""Where shards run: an engine takes shards and hands back futures; a site says which engine, and what it has.

The driver knows nothing else of an engine: it submits, waits, asks for the result, and submits again what was lost.
Only the driver writes the store.
"""

from __future__ import annotations

import concurrent.futures
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol, Self

from isoscale.checks import whole
from isoscale.errors import InvalidTypeError, InvalidValueError
from isoscale.runs.engines.local import LocalEngine, cores
from isoscale.runs.record import TrialRecord
from isoscale.runs.shards import Shard

ENGINES = ("local", "ray")


class Engine(Protocol):
    """Runs shards; a context manager that ends what it started."""

    @property
    def capacity(self) -> int:
        """How many shards to submit before the first comes back."""
        ...

    def submit(self, shard: Shard, slot: int) -> concurrent.futures.Future:
        """Start a shard as soon as there is room; `slot` is its place in `member_steps`."""
        ...

    def result(self, future: concurrent.futures.Future) -> list[TrialRecord]:
        """The trials of a finished shard; raises `WorkerLostError` if the worker died, else what it raised."""
        ...

    def mend(self) -> None:
        """Called now and then while waiting."""
        ...

    def member_steps(self) -> Sequence[int]:
        """How many member-steps each slot has done; empty if the engine cannot tell."""
        ...

    def __enter__(self) -> Self: ...
    def __exit__(self, *exception: object) -> None: ...


@dataclass(frozen=True, kw_only=True)
class Site:
    """Where a sweep runs.

    Attributes:
        engine: "local" or "ray".
        workers: How many shards train at once, as far as is known now.
        device: Where each trains.
        limit: `workers` as it was asked for, or None: all that there is.
        gpu_share: Share of a GPU that a shard takes.
        owned: Whether this site connected to the cluster, and so disconnects.
    """

    engine: str
    workers: int
    device: str
    limit: int | None = None
    gpu_share: float = 1.0
    owned: bool = False

    def open(self, slots: int) -> Engine:
        """The engine, for that many shards."""
        if self.engine == "local":
            return LocalEngine(slots, self.workers, self.device, gpus(self.device))
        from isoscale.runs.engines.cluster import RayEngine

        return RayEngine(self.limit, self.device, self.gpu_share)

    def close(self) -> None:
        """Disconnect from the cluster, if this site connected to it."""
        if self.owned:
            from isoscale.runs.engines import cluster

            cluster.disconnect()


def find(
    engine: str = "local",
    workers: int | None = None,
    device: str = "auto",
    address: str | None = None,
    gpu_share: float = 1.0,
) -> Site:
    """The site that the arguments of `isoscale.sweep` mean.

    Raises:
        InvalidValueError, InvalidTypeError: No such engine, device or cluster, or a number that makes no sense.
    """
    if engine not in ENGINES:
        raise InvalidValueError(f"`engine` must be one of {', '.join(ENGINES)}, got {engine!r}")
    if isinstance(gpu_share, bool) or not isinstance(gpu_share, (int, float)):
        raise InvalidTypeError(f"`gpu_share` must be a number, got {gpu_share!r}")
    if not 0 < gpu_share <= 1:
        raise InvalidValueError(f"`gpu_share` must be above 0 and at most 1, got {gpu_share}")
    limit = None if workers is None else whole("workers", workers)
    if engine == "ray":
        return _on_ray(limit, device, address, gpu_share)
    if address is not None:
        raise InvalidValueError("`engine_address` is where a cluster is: give it with engine='ray'")
    device = resolve_device(device)
    seats = math.floor(gpus(device) / gpu_share + 1e-9) if device.startswith("cuda") else cores()
    return Site(engine=engine, workers=limit or max(1, seats), device=device, gpu_share=gpu_share)


def _on_ray(limit: int | None, device: str, address: str | None, gpu_share: float) -> Site:
    from isoscale.runs.engines import cluster

    owned = cluster.connect(address)
    device = cluster.resolve_device(device)
    workers = limit or cluster.seats(device, gpu_share)
    return Site(engine="ray", workers=workers, device=device, limit=limit, gpu_share=gpu_share, owned=owned)


def resolve_device(device: str) -> str:
    """The device that "auto" means here; other names as they are."""
    import torch

    if device == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    try:
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:
        raise InvalidValueError(f"`device` {device!r} cannot be used: {str(error).splitlines()[0]}") from error
    return device


def usable_here(device: str) -> str:
    """The device, or the CPU where only a cluster has it: for a guess at the cost, which is then too high."""
    try:
        return resolve_device(device)
    except InvalidValueError:
        return "cpu"


def gpus(device: str) -> int:
    """How many GPUs of this machine a device name means: "cuda" all of them, "cuda:1" one, "cpu" none."""
    import torch

    if not device.startswith("cuda"):
        return 0
    return torch.cuda.device_count() if device == "cuda" else 1
