"""isoscale's own networks: the trials of one rule and size train together, as one batched program."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from typing import Any

from isoscale.data import Dataset
from isoscale.errors import DataError, InvalidValueError
from isoscale.runs import shards as shards_
from isoscale.runs import worker
from isoscale.runs.keys import Metric
from isoscale.runs.record import Status, TrialRecord
from isoscale.runs.shards import Shard
from isoscale.runs.spec import Sweep
from isoscale.runs.trainers import foreign
from isoscale.runs.trainers.code import code
from isoscale.runs.trial import Trial
from isoscale.training import Outcome, train
from isoscale.training.hopeless import stopped_words


def shards(spec: Sweep, data: str | None) -> list[Shard]:
    """The shards of a sweep, after its data and model were seen to be usable."""
    source, dataset = worker.source(spec.dataset, data, tuple(spec.dataset_args.items()), spec.model)
    batch_size = spec.largest_batch
    if batch_size > len(dataset.train_x):
        raise InvalidValueError(
            f"`batch_size` must be at most the {len(dataset.train_x)} training samples of {dataset.name}, "
            f"got {batch_size}"
        )
    return shards_.make(spec, source, _metric(spec))


def trial(spec: Sweep, cell: Mapping[str, Any], data: str | None, device: str) -> Trial:
    """One trial of a sweep."""
    source, dataset = worker.source(spec.dataset, data, tuple(spec.dataset_args.items()), spec.model)
    settings = dict(cell)
    lr, seed = settings.pop("lr"), settings.pop("seed")
    return Trial(shards_.config_of(spec, **settings), lr, seed, source, dataset, device, _metric(spec))


def _metric(spec: Sweep) -> Metric | None:
    return None if spec.metric is None else Metric(spec.quantity.name, code(spec.metric))


def run(shard: Shard, device: str, progress: Callable[[int], None] | None = None) -> list[TrialRecord]:
    """Train a shard.

    Raises:
        DataError: The data is not what it was when the sweep began.
        InvalidValueError: A model or batch size that cannot be.
    """
    data = load(shard)
    outcome = train(
        shard.config,
        shard.members,
        data,
        plan=shard.plan,
        metric=None if shard.metric is None else _measuring(shard.metric),
        device=device,
        progress=progress,
        marks=shard.marks,
    )
    return _records(shard, outcome, device)


def _measuring(metric: Metric) -> Callable[[Any, Any], float]:
    """The metric as a number.

    Raises:
        DataError: Its file is not what it was when the sweep began.
    """
    metric.code.check()
    measure = metric.code.value()
    return lambda output, y: foreign.as_number(measure(output, y), f"`metric` {metric.name} returned", "a metric")


def load(shard: Shard) -> Dataset:
    """The data of a shard.

    Raises:
        DataError: It is not what it was when the sweep began.
    """
    wanted = shard.source
    found, dataset = worker.source(wanted.name, wanted.folder, tuple(wanted.args.items()), shard.config.model)
    if found.fingerprint != wanted.fingerprint:
        raise DataError(
            f"data set {wanted.name} changed while the sweep ran: fingerprint {found.fingerprint}, "
            f"expected {wanted.fingerprint}. Start the sweep again"
        )
    return dataset


def _records(shard: Shard, outcome: Outcome, device: str) -> list[TrialRecord]:
    ran = json.dumps(worker.versions(device))
    found = []
    for number, member in enumerate(shard.members):
        status, reason = _end(outcome, number)
        numbers = ""
        if shard.metric is not None and status == "done":
            numbers = json.dumps({shard.metric.name: float(outcome.metric[number])})
        record = worker.record(
            shard,
            member,
            ran,
            status=status,
            reason=reason,
            curve=outcome.curve[number],
            test_loss=float(outcome.test_loss[number]),
            test_accuracy=float(outcome.test_accuracy[number]),
            numbers=numbers,
        )
        found.append(record)
    return found


def _end(outcome: Outcome, number: int) -> tuple[Status, str]:
    """How a member's training ended, and why."""
    if outcome.stopped_at[number] >= 0:
        return "stopped", stopped_words(outcome.curve[number], int(outcome.stopped_at[number]))
    if outcome.diverged_at[number] >= 0:
        return "diverged", f"loss not finite at step {outcome.diverged_at[number]}"
    return "done", ""
