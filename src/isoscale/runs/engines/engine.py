"""Where shards run: an engine takes shards and hands back futures; a backend says which engine, and what it has.

The driver knows nothing else of an engine: it submits, waits, asks for the result, and submits again what was lost.
Only the driver writes the store.
"""

from __future__ import annotations

import concurrent.futures
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, Protocol, Self

from isoscale.checks import usable_device, whole
from isoscale.errors import InvalidTypeError, InvalidValueError
from isoscale.runs.engines.local import LocalEngine, cores
from isoscale.runs.record import TrialRecord
from isoscale.runs.trainers.registry import Work

ENGINES = ("local", "ray")


class Engine(Protocol):
    """Runs shards; a context manager that ends what it started."""

    @property
    def capacity(self) -> int:
        """How many shards to submit before the first comes back."""
        ...

    def submit(self, shard: Work, index: int) -> concurrent.futures.Future:
        """Start a shard as soon as there is room; `index` is where `member_steps` counts it."""
        ...

    def result(self, future: concurrent.futures.Future) -> list[TrialRecord]:
        """The trials of a finished shard.

        Raises:
            WorkerLostError: The worker died.
            NotStartedError: No worker took it.
            Exception: What the worker raised.
        """
        ...

    def repair(self) -> None:
        """Called now and then while waiting."""
        ...

    def member_steps(self) -> Sequence[int]:
        """How many member-steps each shard has done; empty if the engine cannot tell."""
        ...

    def __enter__(self) -> Self: ...
    def __exit__(self, *exception: object) -> None: ...


class Backend(Protocol):
    """What a sweep runs on.

    Attributes:
        engine: "local" or "ray".
    """

    engine: ClassVar[str]

    @property
    def workers(self) -> int | None:
        """How many shards train at once; None if nobody said so and the cluster was not asked."""
        ...

    @property
    def device(self) -> str:
        """Where each shard trains; of a cluster that was not asked, as it was given."""
        ...

    def connect(self) -> None:
        """Ask what there is; before, no cluster is connected to and none is started.

        Raises:
            InvalidValueError: No such cluster, or not with that device.
        """
        ...

    def open(self, shards: int) -> Engine:
        """The engine, for that many shards; connect first."""
        ...

    def close(self) -> None:
        """End what `connect` began."""
        ...


@dataclass(frozen=True, kw_only=True)
class LocalBackend:
    """The processes of this machine.

    Attributes:
        workers: How many train at once.
        device: Where.
    """

    engine: ClassVar[str] = "local"

    workers: int
    device: str

    def connect(self) -> None:
        """There is nothing to connect to."""

    def open(self, shards: int) -> Engine:
        return LocalEngine(shards, self.workers, self.device, gpus(self.device))

    def close(self) -> None:
        """The engine ends its processes itself."""


def choose(
    engine: str = "local",
    workers: int | None = None,
    device: str = "auto",
    address: str | None = None,
    gpu_share: float = 1.0,
) -> Backend:
    """The backend that the arguments of `isoscale.sweep` mean, not connected: no cluster is asked or started.

    Raises:
        InvalidValueError, InvalidTypeError: No such engine or device, or a number that makes no sense.
    """
    if engine not in ENGINES:
        raise InvalidValueError(f"`engine` must be one of {', '.join(ENGINES)}, got {engine!r}")
    if isinstance(gpu_share, bool) or not isinstance(gpu_share, (int, float)):
        raise InvalidTypeError(f"`gpu_share` must be a number, got {gpu_share!r}")
    if not 0 < gpu_share <= 1:
        raise InvalidValueError(f"`gpu_share` must be above 0 and at most 1, got {gpu_share}")
    limit = None if workers is None else whole("workers", workers)
    if engine == "ray":
        from isoscale.runs.engines.cluster import RayBackend

        return RayBackend(limit, device, address, gpu_share)
    if address is not None:
        raise InvalidValueError("`engine_address` is where a cluster is: give it with engine='ray'")
    device = resolve_device(device)
    room = cores()
    if device.startswith("cuda"):
        # Shares are fractions such as 0.1, whose multiples round down.
        room = math.floor(gpus(device) / gpu_share + 1e-9)
    return LocalBackend(workers=limit or max(1, room), device=device)


def resolve_device(device: str) -> str:
    """The device that "auto" means here; other names as they are."""
    import torch

    if device == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    usable_device(device)
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
