"""What a measurement works with: data, runner, and parts that are kept, so that a run that was killed goes on."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import isoscale
from isoscale.errors import InvalidValueError
from isoscale.files import replacing

if TYPE_CHECKING:
    from isoscale.runs import Runner

# Called with the name of a part that begins.
Say = Callable[[str], None]


@dataclass(kw_only=True)
class Work:
    """Where a claim is measured and where its parts are kept.

    Attributes:
        claim, preset: What is measured.
        folder: Of the parts, one JSON file each.
        runner: Of sweeps; it has the store, the data folder and the device.
        say: Told what begins.
        seconds: Processor time of all parts, now or when they were first computed.
    """

    claim: str
    preset: str
    folder: Path
    runner: Runner
    say: Say = field(default=lambda _: None)
    seconds: float = 0.0

    @property
    def data(self) -> str | None:
        """Folder of the data sets."""
        return self.runner.data

    def part(self, name: str, settings: Mapping[str, Any], compute: Callable[[], Any]) -> Any:
        """The value of a part, kept as JSON: computed once, read ever after.

        Args:
            name: Unique within the claim.
            settings: All that determines the value beside this version of isoscale.
            compute: Its value, of what JSON has: numbers, text, lists, dictionaries.

        Raises:
            InvalidValueError: The part cannot be written, or not be read back.
        """
        path = self._path(name, settings)
        if not path.exists():
            self.say(name)
            begin = _processor_seconds()
            value = compute()
            kept = {"part": name, "seconds": _processor_seconds() - begin, "value": value}
            text = json.dumps(kept, default=_plain)
            with replacing(path) as scratch:
                path.parent.mkdir(parents=True, exist_ok=True)
                scratch.write_text(text, encoding="utf-8")
        # Read back even if just computed: a resumed run gets the same numbers.
        try:
            kept = json.loads(path.read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise InvalidValueError(
                f"{path} cannot be read: {error}. Delete it, and the part is computed again"
            ) from error
        self.seconds += kept["seconds"]
        return kept["value"]

    def _path(self, name: str, settings: Mapping[str, Any]) -> Path:
        determined_by = [isoscale.__version__, name, settings]
        text = json.dumps(determined_by, sort_keys=True, default=str)
        digest = hashlib.sha256(text.encode()).hexdigest()[:16]
        return self.folder / f"{self.claim}-{self.preset}-{digest}.json"


def _processor_seconds() -> float:
    """Of this process and of the workers that have ended: what else the machine does takes nothing from it."""
    return sum(os.times()[:4])


def _plain(value: Any) -> Any:
    """numpy's arrays and numbers as Python's."""
    return value.tolist()
