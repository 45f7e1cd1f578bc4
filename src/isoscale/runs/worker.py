"""What a worker does with a shard: read its data, train it, hand back plain arrays. It never writes the store."""

from __future__ import annotations

import functools
import json
import math
import platform
from collections.abc import Callable
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from isoscale import data
from isoscale.data import Dataset, cache
from isoscale.data.dataset import ARRAYS
from isoscale.runs.keys import Source, digest
from isoscale.runs.record import TrialRecord
from isoscale.training import Member, as_taken

if TYPE_CHECKING:
    from isoscale.runs.trainers.registry import AnyShard, Work


def run(shard: Work, device: str, progress: Callable[[int], None] | None = None) -> list[TrialRecord]:
    """Train a shard.

    Raises:
        DataError: The data or the code is not what it was when the sweep began.
        InvalidValueError: A model or batch size that cannot be.
    """
    return shard.run(device, progress)


def pin() -> None:
    """Arithmetic as every worker does it, on this machine or on another."""
    # However many workers there are, sums are taken in the same order; and small products wait for no thread.
    torch.set_num_threads(1)
    # Weights of a diverging member pass through denormals, which the CPU multiplies a hundred times slower.
    torch.set_flush_denormal(True)


def versions(device: str) -> dict[str, str]:
    """What a result's numbers may depend on, for the record."""
    return {
        "isoscale": _installed(),
        "torch": torch.__version__,
        "python": platform.python_version(),
        "device": _device_name(device),
        "threads": str(torch.get_num_threads()),
    }


@functools.cache
def _installed() -> str:
    # Each look reads and parses a file.
    return metadata.version("isoscale")


def _device_name(device: str) -> str:
    # A driver that records what failed on a cluster may have no GPU itself.
    has_gpu = device.startswith("cuda") and torch.cuda.is_available()
    return torch.cuda.get_device_name(device) if has_gpu else device


@functools.lru_cache(maxsize=4)
def source(
    name: str | Dataset, folder: str | None, args: tuple[tuple[str, Any], ...], model: str
) -> tuple[Source, Dataset]:
    """A data set as a model takes it and shards refer to it, with its fingerprint taken now; read once a process.

    One that is in memory is kept in the cache folder, where workers find it.
    """
    if isinstance(name, Dataset):
        name, folder = "arrays", str(kept(name))
    dataset = as_taken(model, read(name, folder, args))
    shape = tuple(dataset.in_shape)
    found = Source(name, folder, dict(args), dataset.fingerprint, dataset.note, shape, dataset.classes)
    return found, dataset


def kept(dataset: Dataset) -> Path:
    """The folder of a data set's arrays in the cache folder, written unless it is there.

    Raises:
        DataError: It cannot be written.
    """
    size = sum(getattr(dataset, name).nbytes for name in ARRAYS)
    return cache.folder("arrays", dataset.fingerprint, dataset.note, size, dataset.save)


@functools.lru_cache(maxsize=1)
def read(name: str, folder: str | None, args: tuple[tuple[str, Any], ...]) -> Dataset:
    """A data set; models of one kind take the same tensors, and trials of one process share them."""
    return data.load(name, folder, **dict(args))


def failures(shard: AnyShard, reason: str, device: str) -> list[TrialRecord]:
    """The record of a shard that could not run."""
    ran, nothing = json.dumps(versions(device)), np.empty(0, "f4")
    failed: dict[str, Any] = {"status": "failed", "reason": reason, "test_loss": math.nan, "test_accuracy": math.nan}
    return [record(shard, member, ran, curve=nothing, **failed) for member in shard.members]


def record(shard: AnyShard, member: Member, ran: str, **result: Any) -> TrialRecord:
    """The record of one trial of a shard.

    Args:
        shard, member: Which.
        ran: JSON of the versions that ran it.
        **result: The other fields of `TrialRecord`.
    """
    settings = shard.settings(member)
    config = json.dumps(settings, sort_keys=True)
    return TrialRecord(key=digest(settings), shard=shard.id, config=config, versions=ran, **result)
