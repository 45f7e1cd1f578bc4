"""Trials of the user's code that an earlier version of it trained: asked about, never mixed in silence."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from isoscale.errors import InvalidValueError
from isoscale.runs.keys import digest
from isoscale.runs.store.queries import Filter
from isoscale.runs.store.store import Store
from isoscale.runs.trainers.foreign import ForeignShard

if TYPE_CHECKING:
    from isoscale.runs.trainers.registry import AnyShard


def settled(plan: Sequence[AnyShard], store: str | os.PathLike[str], *, reuse: bool, fresh: bool) -> Sequence[AnyShard]:
    """The plan, with the trials of earlier code in place of those that are missing if they are to be reused.

    Args:
        plan: Shards of a sweep.
        store: The store's file.
        reuse: Count what earlier code trained.
        fresh: Train it again.

    Raises:
        InvalidValueError: The store has trials of earlier code, and neither was asked for; or both were.
    """
    if reuse and fresh:
        raise InvalidValueError("`reuse` counts earlier trials, `fresh` trains them again: give one of them")
    if fresh or not os.path.exists(store):
        return plan
    foreign = [shard for shard in plan if isinstance(shard, ForeignShard)]
    if not foreign:
        return plan
    with Store(store, read_only=True) as opened:
        finished = opened.finished([shard.id for shard in foreign])
        left = [shard for shard in foreign if shard.id not in finished]
        earlier = _earlier(opened, {shard.program.name for shard in left})
    changed = {shard.id: earlier[_cell(shard)] for shard in left if _cell(shard) in earlier}
    if not changed:
        return plan
    if not reuse:
        name = foreign[0].program.name
        raise InvalidValueError(
            f"{name} changed: of these {len(foreign)} trials, `{store}` has {len(changed)} that its earlier source "
            "trained. Count them with reuse=True (--reuse), train them again with fresh=True (--fresh), or tell the "
            "two apart with version="
        )
    found = []
    for shard in plan:
        if isinstance(shard, ForeignShard) and shard.id in changed:
            shard = dataclasses.replace(shard, shared=dict(shard.shared) | {"source": changed[shard.id]})
        found.append(shard)
    return found


def _earlier(store: Store, names: set[str]) -> dict[str, str]:
    """Fingerprint of the code that trained each cell last, of those that finished."""
    found = {}
    if names:
        for trial in store.trials(Filter(model=sorted(names), status=("done", "diverged"))):
            settings = trial.settings()
            if "source" in settings:
                found[_without_source(settings)] = settings["source"]
    return found


def _cell(shard: ForeignShard) -> str:
    (member,) = shard.members
    return _without_source(shard.settings(member))


def _without_source(settings: Mapping[str, Any]) -> str:
    """What a trial is, whatever code trained it."""
    return digest({name: value for name, value in settings.items() if name != "source"})
