"""What may be told of every trial of a sweep as it is stored: TensorBoard, Weights & Biases, or any function.

A callback is called by the process that runs the sweep, once for each trial, with its record; so it works on every
engine, and no worker waits for it.
"""

from __future__ import annotations

import importlib
import os
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

from isoscale.extras import needed
from isoscale.runs.record import TrialRecord

Callback = Callable[[TrialRecord], None]

# What of a trial's settings is none of its hyperparameters.
_LEFT_OUT = ("numerics", "source", "data", "trainer", "version")


def hyperparameters(record: TrialRecord) -> dict[str, int | float | str]:
    """A trial's sizes, learning rate, seed and other settings, flat: "optimizer.weight_decay" and so on."""
    return _flat({name: value for name, value in record.settings().items() if name not in _LEFT_OUT})


def results(record: TrialRecord) -> dict[str, float]:
    """What was measured after training, by name; NaN of a loss that was not finite."""
    found = {"final_loss": record.final_loss}
    if record.test_loss == record.test_loss:
        found["test_loss"] = record.test_loss
    if record.test_accuracy == record.test_accuracy:
        found["test_accuracy"] = record.test_accuracy
    return found | record.measured


class TensorBoard:
    """Write each trial as a run of TensorBoard: its loss at each step, its hyperparameters and its results.

        isoscale.sweep(spec, callbacks=[isoscale.callbacks.TensorBoard("runs/")])

    Args:
        folder: Where the runs are; a trial's is called by its key in the store.

    Raises:
        InvalidValueError: TensorBoard is not installed.
    """

    def __init__(self, folder: str | os.PathLike[str]) -> None:
        self.folder = Path(folder)
        self._module = _imported("torch.utils.tensorboard", "tensorboard")

    def __call__(self, record: TrialRecord) -> None:
        writer = self._module.SummaryWriter(str(self.folder / record.key))
        try:
            for step, loss in enumerate(record.curve.tolist()):
                writer.add_scalar("loss", loss, step)
            # In the trial's own folder: by default it would be another run.
            settings = hyperparameters(record) | {"status": record.status}
            writer.add_hparams(settings, results(record), run_name=".")
        finally:
            writer.close()


class WandB:
    """Log each trial as a run of Weights & Biases: its loss at each step, its hyperparameters and its results.

        isoscale.sweep(spec, callbacks=[isoscale.callbacks.WandB(project="width")])

    Args:
        project: Its project there.
        **options: Of `wandb.init`: entity, group, tags, mode="offline".

    Raises:
        InvalidValueError: wandb is not installed.
    """

    def __init__(self, project: str, **options: Any) -> None:
        self._options = {"project": project, "reinit": True} | options
        self._module = _imported("wandb", "wandb")

    def __call__(self, record: TrialRecord) -> None:
        # By the trial's key, a run that was logged before is logged over rather than beside.
        run = self._module.init(id=record.key, config=hyperparameters(record), **self._options)
        try:
            for step, loss in enumerate(record.curve.tolist()):
                run.log({"loss": loss}, step=step)
            run.summary.update(results(record) | {"status": record.status})
        finally:
            run.finish()


def _imported(module: str, extra: str) -> ModuleType:
    with needed(extra, by="this callback"):
        return importlib.import_module(module)


def _flat(values: dict[str, Any], prefix: str = "") -> dict[str, int | float | str]:
    """Nested settings by one name each; those of `sizes` and `hyperparameters` by their own."""
    found: dict[str, int | float | str] = {}
    for name, value in values.items():
        if isinstance(value, dict):
            inner = "" if name in ("sizes", "hyperparameters") else f"{prefix}{name}."
            found |= _flat(value, inner)
        elif isinstance(value, (bool, int, float, str)):
            found[prefix + name] = value
        elif value is not None:
            found[prefix + name] = str(value)
    return found
