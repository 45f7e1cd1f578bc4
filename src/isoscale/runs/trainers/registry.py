"""Which way trains a sweep."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from typing import Any

from isoscale.errors import InvalidValueError
from isoscale.runs.shards import Shard
from isoscale.runs.spec import Sweep
from isoscale.runs.trainers import command, ensemble, function, module
from isoscale.runs.trainers.foreign import ForeignShard
from isoscale.runs.trainers.handed import HandedTrial
from isoscale.runs.trainers.module import ModuleTrial
from isoscale.runs.trainers.stack import Stack
from isoscale.runs.trial import Trial

AnyShard = Shard | ForeignShard

# What a worker is given: a shard, or several that are tried together.
Work = AnyShard | Stack

AnyTrial = Trial | HandedTrial | ModuleTrial


def prepare(spec: Sweep, data: str | None, store: str | os.PathLike[str]) -> Sequence[AnyShard]:
    """The shards of a sweep in the order of its axes, after whatever trains them was seen to be usable.

    Args:
        spec: The sweep.
        data: Folder of the data sets.
        store: File beside which the trials of the user's code have their logs and folders.
    """
    if spec.train is not None:
        return function.shards(spec, store)
    if spec.command is not None:
        return command.shards(spec, store)
    if spec.has_own_model:
        return module.shards(spec, data, store)
    return ensemble.shards(spec, data)


def trial(spec: Sweep, cell: Mapping[str, Any], data: str | None, device: str) -> AnyTrial:
    """One trial as its parts (`Sweep.trial`), given a value on every axis."""
    if spec.command is not None:
        raise InvalidValueError(
            "a trial of a command is a program, which has no parts here: `isoscale sweep --dry-run` prints its command"
        )
    if spec.train is not None:
        return function.trial(spec, cell, device)
    if spec.has_own_model:
        return module.trial(spec, cell, data, device)
    return ensemble.trial(spec, cell, data, device)
