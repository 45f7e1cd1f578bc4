"""Trials that are the same but for the name of their rule: at the base's own size every rule changes nothing.

Such a trial runs once, and what came of it is kept under every rule's key.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Sequence

from isoscale.runs.keys import digest
from isoscale.runs.record import TrialRecord
from isoscale.runs.trainers.registry import AnyShard
from isoscale.training import Member


class Twins:
    """The shards of a plan that differ from another one in the name of their rule alone."""

    def __init__(self, plan: Sequence[AnyShard]) -> None:
        self._alike: dict[str, list[AnyShard]] = {}
        for shard in plan:
            if shard.twin is not None:
                self._alike.setdefault(shard.twin, []).append(shard)

    def of(self, shard: AnyShard) -> list[AnyShard]:
        """The shards that a shard's trials are trials of, too."""
        alike = [] if shard.twin is None else self._alike.get(shard.twin, [])
        return [other for other in alike if other.rule != shard.rule]

    def first(self, left: Sequence[AnyShard]) -> list[AnyShard]:
        """What of the shards left must run: no trial that a twin has, finished or among those before it."""
        missing = {(shard.twin, shard.rule, member) for shard in left for member in shard.members}
        had: set[tuple[str | None, Member]] = set()
        for alike in self._alike.values():
            for shard in alike:
                finished = [one for one in shard.members if (shard.twin, shard.rule, one) not in missing]
                had.update((shard.twin, member) for member in finished)
        found = []
        for shard in left:
            if shard.twin is not None:
                members = tuple(member for member in shard.members if (shard.twin, member) not in had)
                had.update((shard.twin, member) for member in members)
                # A shard that is whole stays, and so do the keys that it works out once.
                if members != shard.members:
                    shard = dataclasses.replace(shard, members=members)
            if shard.members:
                found.append(shard)
        return found

    def copies(self, shard: AnyShard, records: Sequence[TrialRecord]) -> list[TrialRecord]:
        """What came of a shard's trials, as trials of its twins."""
        found = []
        others = self.of(shard)
        by_key = {record.key: record for record in records} if others else {}
        for other in others:
            for member in other.members:
                record = by_key.get(digest(shard.settings(member)))
                if record is not None:
                    found.append(_as_of(record, other, member))
        return found


def _as_of(record: TrialRecord, shard: AnyShard, member: Member) -> TrialRecord:
    settings = shard.settings(member)
    config = json.dumps(settings, sort_keys=True)
    return dataclasses.replace(record, key=digest(settings), shard=shard.id, config=config)
