"""Taking over the trials of other stores."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable
from dataclasses import dataclass

from isoscale.runs.record import Status, TrialRecord, from_row
from isoscale.runs.store import queries

# How much is known of a trial: what knows more stays.
_KNOWN: dict[Status, int] = {"failed": 0, "stopped": 1, "diverged": 2, "done": 2}


@dataclass(frozen=True)
class Merged:
    """What a merge did.

    Attributes:
        added: Trials that this store did not have, or knew less of: it had failed or was stopped.
        same: Trials that both had with the same result.
        conflicts: "KEY in PATH: ..." for each trial finished in both with other numbers; this store's stays.
    """

    added: int
    same: int
    conflicts: tuple[str, ...]


def merge(db: sqlite3.Connection, others: Iterable[tuple[str, Iterable[TrialRecord]]]) -> Merged:
    """Keep each trial unless this store has a better one; call it in a transaction.

    Args:
        db: The open store.
        others: Name and trials of each of the others.
    """
    added, same = 0, 0
    conflicts = []
    for origin, trials in others:
        for theirs in trials:
            mine = [from_row(row) for row in queries.rows(db, [theirs.key])]
            known = _KNOWN[mine[0].status] if mine else -1
            if known < _KNOWN[theirs.status]:
                queries.record(db, [theirs])
                added += 1
            elif known < 2 or known > _KNOWN[theirs.status] or mine[0].same_result(theirs):
                same += 1
            else:
                conflicts.append(f"{theirs.key} in {origin}: {_ended(mine[0])} here; {_ended(theirs)} there")
    return Merged(added, same, tuple(conflicts))


def _ended(trial: TrialRecord) -> str:
    if trial.status != "done":
        return trial.status
    return f"loss {trial.final_loss:.9g}, test loss {trial.test_loss:.9g}"
