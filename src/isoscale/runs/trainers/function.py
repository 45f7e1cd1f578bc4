"""The user's own training function: one call, one trial."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from isoscale.runs.keys import NUMERICS
from isoscale.runs.spec import Sweep
from isoscale.runs.trainers import calls, foreign
from isoscale.runs.trainers.code import Code, code
from isoscale.runs.trainers.foreign import ForeignShard, Outcome
from isoscale.runs.trainers.handed import HandedTrial


def shards(spec: Sweep, store: str | os.PathLike[str]) -> list[ForeignShard]:
    """The trials of a sweep, each a shard.

    Raises:
        InvalidValueError: The function is not there, or cannot be sent to a worker.
    """
    program = _program(spec)
    return foreign.shards(spec, program, called_with(spec), program.code.source, store)


def trial(spec: Sweep, cell: Mapping[str, Any], device: str) -> HandedTrial:
    """One trial of a sweep, as its function is called with."""
    program = _program(spec)
    return foreign.shard(spec, program, cell, called_with(spec), program.code.source).handed(device)


def called_with(spec: Sweep) -> dict[str, Any]:
    """What determines a trial beside its axes."""
    optimizer: dict[str, Any] = {"family": spec.optimizer, "weight_decay": spec.weight_decay, "eps": spec.eps}
    if spec.momentum is not None:
        optimizer["momentum"] = spec.momentum
    if spec.betas != Sweep.betas:
        optimizer["betas"] = list(spec.betas)
    # The plan that a trial asks for depends on isoscale too.
    return {"numerics": NUMERICS, "optimizer": optimizer, "steps": spec.longest, "batch_size": spec.batch_size}


def _program(spec: Sweep) -> FunctionProgram:
    assert spec.train is not None
    return FunctionProgram(code(spec.train))


@dataclass(frozen=True)
class FunctionProgram:
    """A training function, as it travels to a worker."""

    code: Code

    kind = "function"

    @property
    def name(self) -> str:
        """What a person calls it."""
        return self.code.name

    def run(self, trial: HandedTrial, log: Path, seconds: float | None, count: Callable[[int], None]) -> Outcome:
        """Call the function with the trial (`foreign.Program.run`)."""
        # Before anything of the user's runs: a file that changed ends the sweep and no trial.
        self.code.check()
        return calls.outcome(self._train, self.name, trial, log, seconds, count)

    def _train(self, trial: HandedTrial) -> Any:
        train = self.code.value()
        return train(trial)
