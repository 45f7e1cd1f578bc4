"""The local engine without processes, for tests of what drives it."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import Future

from isoscale.runs import TrialRecord, worker
from isoscale.runs.shards import Shard


class InlineEngine:
    """The local engine's interface without processes: a shard runs when it is submitted."""

    capacity = 2
    ran: list[Shard]
    run_shard = staticmethod(worker.run)

    def __init__(self, slots: int, workers: int, device: str, gpus: int) -> None:
        self.device = device

    def submit(self, shard: Shard, slot: int) -> Future:
        self.ran.append(shard)
        future: Future = Future()
        try:
            future.set_result(self.run_shard(shard, self.device))
        except Exception as error:
            future.set_exception(error)
        return future

    def result(self, future: Future) -> list[TrialRecord]:
        return future.result()

    def repair(self) -> None: ...

    def member_steps(self) -> Sequence[int]:
        return []

    def __enter__(self) -> InlineEngine:
        return self

    def __exit__(self, *_: object) -> None: ...
