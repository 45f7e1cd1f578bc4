"""One trial's result, and the row of the store that keeps it.

A row has a checksum over all of its other columns: SQLite has none of its own, and a bit that flips inside a
curve would otherwise be read back as a loss.
"""

from __future__ import annotations

import itertools
import json
import math
import struct
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from types import NoneType
from typing import Any, Literal, get_args

import numpy as np
from jaxtyping import Float

Status = Literal["done", "diverged", "stopped", "failed"]

# In the order of the table; `checksum` comes last.
COLUMNS = (
    "key", "shard", "config", "status", "reason", "curve", "test_loss", "test_accuracy", "versions", "created",
    "numbers",
)  # fmt: skip

_STATUSES = get_args(Status)

# What a checksum covers beside the texts and the curve: eight lengths and two numbers.
_FIXED = struct.Struct("<8q2d")

# Of a row: texts, the curve, two numbers that may be missing, texts, the checksum.
_TYPES = set()
for _numbers in itertools.product((float, NoneType), repeat=2):
    _TYPES.add((str, str, str, str, str, bytes, *_numbers, str, str, str, int))


class DamagedRowError(ValueError):
    """A row that is not what was written."""


@dataclass(frozen=True, kw_only=True)
class TrialRecord:
    """One trial's result.

    Attributes:
        key, shard, config: What it is (`isoscale.runs.shards`); config is JSON.
        status: "done", "diverged" (a loss that was not finite), "stopped" (hopeless before its end: its loss would have
            been at least bad) or "failed" (it could not run).
        reason: Why it diverged, was stopped or failed; empty when done.
        curve: Training loss at each step, NaN from divergence or its stop on; empty when failed.
        test_loss, test_accuracy: After training; NaN unless done.
        versions: JSON of the versions that ran it.
        created: When it was recorded, UTC; empty if it is not in a store yet.
        numbers: JSON of what the user's code measured besides, by name; "loss" if it said its final loss itself, and
            "seconds", the time that it took. Empty for isoscale's own networks.
    """

    key: str
    shard: str
    config: str
    status: Status
    reason: str
    curve: Float[np.ndarray, " steps"]
    test_loss: float
    test_accuracy: float
    versions: str
    created: str = ""
    numbers: str = ""

    @property
    def measured(self) -> dict[str, float]:
        """What the user's code measured besides, by name."""
        return json.loads(self.numbers) if self.numbers else {}

    @property
    def seen(self) -> Float[np.ndarray, " steps"]:
        """The losses before the trial diverged or was stopped."""
        return self.curve[np.isfinite(self.curve)]

    @property
    def final_loss(self) -> float:
        """What the user's code said, else mean training loss of the last tenth of the steps; NaN unless it is done."""
        if self.status != "done":
            return math.nan
        if self.numbers and "loss" in self.measured:
            return self.measured["loss"]
        if not len(self.curve):
            return math.nan
        tail = self.curve[-max(1, len(self.curve) // 10) :]
        # What `tail.mean` does, without what it does besides: there may be a hundred thousand of these.
        return float(np.add.reduce(tail, dtype=np.float64) / len(tail))

    def settings(self) -> dict[str, Any]:
        """`config` as plain values.

        Raises:
            DamagedRowError: It is not a JSON object.
        """
        try:
            value = json.loads(self.config)
        except (ValueError, RecursionError) as error:
            raise DamagedRowError(f"trial {self.key} is damaged: its settings are not JSON: {error}") from error
        if not isinstance(value, dict):
            raise DamagedRowError(f"trial {self.key} is damaged: its settings are not a JSON object")
        return value

    def row(self, created: str) -> tuple:
        """The columns of the store's table, checksum included."""
        values = (
            self.key,
            self.shard,
            self.config,
            self.status,
            self.reason,
            _as_bytes(self.curve),
            _as_real(self.test_loss),
            _as_real(self.test_accuracy),
            self.versions,
            created,
            self.numbers,
        )
        return (*values, checksum(values))

    def same_result(self, other: TrialRecord) -> bool:
        """Whether two runs of one trial gave the same numbers, bit by bit."""
        return self._result() == other._result()

    def _result(self) -> tuple[str, bytes, bytes, str]:
        """As bytes, in which NaN equals NaN; how long it took is no part of it."""
        measured = self.measured
        measured.pop("seconds", None)
        tested = struct.pack("<2d", self.test_loss + 0.0, self.test_accuracy + 0.0)
        return self.status, _as_bytes(self.curve), tested, json.dumps(measured, sort_keys=True)


def from_row(row: Sequence[Any]) -> TrialRecord:
    """The trial of a row of `COLUMNS` and its checksum.

    Raises:
        DamagedRowError: The row is not what `TrialRecord.row` made.
    """
    verify(row)
    key, shard, config, status, reason, curve, test_loss, test_accuracy, versions, created, measured, _ = row
    return TrialRecord(
        key=key,
        shard=shard,
        config=config,
        status=status,
        reason=reason,
        curve=np.frombuffer(curve, "<f4"),
        test_loss=math.nan if test_loss is None else test_loss,
        test_accuracy=math.nan if test_accuracy is None else test_accuracy,
        versions=versions,
        created=created,
        numbers=measured,
    )


def verify(row: Sequence[Any]) -> None:
    """Raise DamagedRowError unless a row, checksum included, is what `TrialRecord.row` made."""
    if not _has_types(row) or not _fits(row):
        name = row[0] if isinstance(row[0], str) else repr(row[0])
        raise DamagedRowError(f"trial {name} is damaged: its checksum does not fit")


def _fits(row: Sequence[Any]) -> bool:
    *values, written = row
    if checksum(values) == written:
        return True
    # isoscale 0.1 summed over the sign of a zero, which SQLite does not keep.
    signs = [(number, -0.0) if number == 0 else (number,) for number in values[6:8]]
    possible = [[*values[:6], *tested, *values[8:]] for tested in itertools.product(*signs)]
    return written in map(checksum, possible)


def checksum(values: Sequence[Any]) -> int:
    """CRC-32 over a row's values, and over their lengths, so that nothing moves from one to the next unseen."""
    key, shard, config, status, reason, curve, test_loss, test_accuracy, versions, created, measured = values
    texts = (key, shard, config, status, reason, versions, created)
    test_loss = math.nan if test_loss is None else test_loss
    test_accuracy = math.nan if test_accuracy is None else test_accuracy
    fixed = _FIXED.pack(*map(len, texts), len(curve), test_loss, test_accuracy)
    # One CRC over all three, each going on where the one before ended.
    crc = zlib.crc32(fixed)
    crc = zlib.crc32("".join(texts).encode(), crc)
    crc = zlib.crc32(curve, crc)
    # Rows without it have the checksum that they had before there was such a column.
    return zlib.crc32(measured.encode(), crc)


def _has_types(row: Sequence[Any]) -> bool:
    if tuple(map(type, row)) not in _TYPES:
        return False
    status, curve = row[3], row[5]
    return status in _STATUSES and len(curve) % 4 == 0


def _as_real(number: float) -> float | None:
    """As SQLite gives it back: it has no NaN, and no zero below zero."""
    return None if math.isnan(number) else number + 0.0


def _as_bytes(curve: Float[np.ndarray, " steps"]) -> bytes:
    return np.asarray(curve, "<f4").tobytes()
