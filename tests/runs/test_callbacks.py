"""Callbacks hear of every trial that ran, once; and a sweep goes on without one that fails."""

from __future__ import annotations

import logging
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

import isoscale
from isoscale.callbacks import TensorBoard, WandB
from isoscale.errors import InvalidValueError
from isoscale.runs import Sweep, TrialRecord, sweep


@pytest.fixture
def record(inline: Any, tiny: Callable[..., Sweep], tmp_path: Path) -> TrialRecord:
    """A trial of isoscale's own, as a callback gets it."""
    found: list[TrialRecord] = []
    sweep(tiny(depths=[1], lrs=[0.125], seeds=[3]), store=tmp_path / "one.db", callbacks=[found.append])
    return found[0]


class Writer:
    """Of what `torch.utils.tensorboard` has, as much as a run needs."""

    said: list[tuple[Any, ...]]

    def __init__(self, folder: str) -> None:
        self.said.append(("open", Path(folder).name))

    def add_scalar(self, *arguments: Any) -> None:
        self.said.append(arguments)

    def add_hparams(self, settings: Any, results: Any, *, run_name: str) -> None:
        self.said.append((settings, results, run_name))

    def close(self) -> None:
        self.said.append(("close",))


def test_tensorboard_gets_the_curve_and_the_hyperparameters(record: TrialRecord, monkeypatch: pytest.MonkeyPatch):
    writer = type("Writer", (Writer,), {"said": []})
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", SimpleNamespace(SummaryWriter=writer))
    TensorBoard("runs")(record)
    opened, *scalars, (settings, results, name), closed = writer.said
    assert (opened, name, closed) == (("open", record.key), ".", ("close",))
    assert scalars == [("loss", loss, step) for step, loss in enumerate(record.curve.tolist())]
    assert settings["lr"] == 0.125
    assert (settings["depth"], settings["seed"], settings["rule"]) == (1, 3, "depth-mup")
    assert (settings["optimizer.family"], settings["status"]) == ("sgd", "done")
    assert results == {
        "final_loss": record.final_loss, "test_loss": record.test_loss, "test_accuracy": record.test_accuracy,
    }  # fmt: skip
    assert not any(isinstance(value, (dict, list, type(None))) for value in settings.values())


def test_wandb_gets_a_run_for_each_trial(inline: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    runs: list[Any] = []

    def init(**options: Any) -> Any:
        run = SimpleNamespace(options=options, losses=[], summary={}, finished=False)
        run.log = lambda values, step: run.losses.append((step, values["loss"]))
        run.finish = lambda: setattr(run, "finished", True)
        runs.append(run)
        return run

    def train(trial: Any) -> Any:
        yield 2.0
        yield 1.0 * trial.sizes["experts"]
        return {"loss": 0.5, "tokens": 7}

    monkeypatch.setitem(sys.modules, "wandb", SimpleNamespace(init=init))
    spec = Sweep(train=train, sizes={"experts": [2, 4]}, lrs=[0.25], seeds=1)
    sweep(spec, store=tmp_path / "s.db", callbacks=[WandB("widths", mode="offline")])
    runs.sort(key=lambda run: run.options["config"]["experts"])
    assert [run.losses for run in runs] == [[(0, 2.0), (1, 2.0)], [(0, 2.0), (1, 4.0)]]
    assert all(run.finished for run in runs)
    first = runs[0]
    assert (first.options["project"], first.options["mode"]) == ("widths", "offline")
    assert (first.options["config"]["experts"], first.options["config"]["lr"]) == (2, 0.25)
    assert (first.summary["loss"], first.summary["tokens"], first.summary["status"]) == (0.5, 7.0, "done")


@pytest.mark.parametrize(
    ("module", "make", "extra"),
    [
        ("torch.utils.tensorboard", lambda: TensorBoard("runs"), "tensorboard"),
        ("wandb", lambda: WandB("p"), "wandb"),
    ],
)
def test_what_is_not_installed_is_said_before_anything_runs(
    monkeypatch: pytest.MonkeyPatch, module: str, make: Callable[[], Any], extra: str
):
    monkeypatch.setitem(sys.modules, module, None)
    hint = rf"pip install 'isoscale\[{extra}\]'"
    with pytest.raises(InvalidValueError, match=hint):
        make()


def test_a_callback_hears_of_what_ran_and_one_that_fails_ends_nothing(
    inline: Any, tiny: Callable[..., Sweep], tmp_path: Path, caplog: pytest.LogCaptureFixture
):
    heard: list[TrialRecord] = []
    calls: list[TrialRecord] = []

    def failing(record: TrialRecord) -> None:
        calls.append(record)
        raise OSError("disk full")

    with caplog.at_level(logging.INFO, "isoscale"):
        found = sweep(tiny(), store=tmp_path / "s.db", callbacks=[failing, heard.append])
    assert found.count("done") == 8
    assert len({record.key for record in heard}) == len(heard) == 8
    assert len(calls) == 1
    assert caplog.text.count("OSError: disk full") == 1
    assert caplog.text.count(": done, loss ") == 8
    sweep(tiny(seeds=3), store=tmp_path / "s.db", callbacks=[heard.append])
    assert len(heard) == 12  # what the store had is no news
    assert isoscale.callbacks.results(heard[0])["final_loss"] == heard[0].final_loss
