"""What a worker does with a shard: read its data, train it, hand back plain arrays. It never writes the store."""

from __future__ import annotations

import functools
import json
import math
import platform
from collections.abc import Callable
from importlib import metadata
from typing import Any

import numpy as np
import torch

from isoscale import data
from isoscale.data import Dataset
from isoscale.errors import DataError
from isoscale.runs.keys import Source, digest
from isoscale.runs.record import TrialRecord
from isoscale.runs.shards import Shard
from isoscale.training import Member, Outcome, as_taken, train


def run(shard: Shard, device: str, progress: Callable[[int], None] | None = None) -> list[TrialRecord]:
    """Train a shard.

    Raises:
        DataError: The data is not what it was when the sweep began.
        InvalidValueError: A model or batch size that cannot be.
    """
    data = load(shard)
    outcome = train(shard.config, shard.members, data, plan=shard.plan, device=device, progress=progress)
    return _trials(shard, outcome, device)


def pin() -> None:
    """Arithmetic as every worker does it, on this machine or on another."""
    # However many workers there are, sums are taken in the same order; and small products wait for no thread.
    torch.set_num_threads(1)
    # Weights of a diverging member pass through denormals, which the CPU multiplies a hundred times slower.
    torch.set_flush_denormal(True)


def versions(device: str) -> dict[str, str]:
    """What a result's numbers may depend on, for the record."""
    return {
        "isoscale": metadata.version("isoscale"),
        "torch": torch.__version__,
        "python": platform.python_version(),
        "device": _device_name(device),
        "threads": str(torch.get_num_threads()),
    }


def _device_name(device: str) -> str:
    # A driver that records what failed on a cluster may have no GPU itself.
    has_gpu = device.startswith("cuda") and torch.cuda.is_available()
    return torch.cuda.get_device_name(device) if has_gpu else device


def load(shard: Shard) -> Dataset:
    """The data of a shard.

    Raises:
        DataError: It is not what it was when the sweep began.
    """
    wanted = shard.source
    found, dataset = source(wanted.name, wanted.folder, tuple(wanted.args.items()), shard.config.model)
    if found.fingerprint != wanted.fingerprint:
        raise DataError(
            f"data set {wanted.name} changed while the sweep ran: fingerprint {found.fingerprint}, "
            f"expected {wanted.fingerprint}. Start the sweep again"
        )
    return dataset


@functools.lru_cache(maxsize=4)
def source(name: str, folder: str | None, args: tuple[tuple[str, Any], ...], model: str) -> tuple[Source, Dataset]:
    """A data set as a model takes it and shards refer to it, with its fingerprint taken now; read once a process."""
    dataset = as_taken(model, _read(name, folder, args))
    shape = tuple(dataset.in_shape)
    found = Source(name, folder, dict(args), dataset.fingerprint, dataset.note, shape, dataset.classes)
    return found, dataset


@functools.lru_cache(maxsize=1)
def _read(name: str, folder: str | None, args: tuple[tuple[str, Any], ...]) -> Dataset:
    """Models of one kind take the same tensors: several in one plan share them."""
    return data.load(name, folder, **dict(args))


def _trials(shard: Shard, outcome: Outcome, device: str) -> list[TrialRecord]:
    ran = json.dumps(versions(device))
    numbers = (outcome.curve, outcome.diverged_at, outcome.test_loss, outcome.test_accuracy)
    return [
        _trial(
            shard,
            member,
            ran,
            status="done" if step < 0 else "diverged",
            reason="" if step < 0 else f"loss not finite at step {step}",
            curve=curve,
            test_loss=float(test_loss),
            test_accuracy=float(test_accuracy),
        )
        for member, curve, step, test_loss, test_accuracy in zip(shard.members, *numbers, strict=True)
    ]


def failures(shard: Shard, reason: str, device: str) -> list[TrialRecord]:
    """The record of a shard that could not run."""
    ran, nothing = json.dumps(versions(device)), np.empty(0, "f4")
    failed: dict[str, Any] = {"status": "failed", "reason": reason, "test_loss": math.nan, "test_accuracy": math.nan}
    return [_trial(shard, member, ran, curve=nothing, **failed) for member in shard.members]


def _trial(shard: Shard, member: Member, ran: str, **result: Any) -> TrialRecord:
    settings = shard.settings(member)
    config = json.dumps(settings, sort_keys=True)
    return TrialRecord(key=digest(settings), shard=shard.id, config=config, versions=ran, **result)
