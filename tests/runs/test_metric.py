"""A metric of the user's: measured on held-out batches, kept beside the loss, and what trials are judged by."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import isoscale
from isoscale.errors import InvalidTypeError, InvalidValueError
from isoscale.runs import Sweep, sweep
from isoscale.runs.trainers import stack

BUILT_IN: dict[str, Any] = {"widths": [8], "depths": [1], "lrs": [2.0**-4, 2.0**5], "seeds": 2, "steps": 8}
OWN: dict[str, Any] = {"widths": [4, 8], "lrs": [2.0**-8, 2.0**-6, 2.0**-4], "seeds": 2, "steps": 6, "rule": "mup"}


def make(width: int) -> nn.Module:
    return nn.Sequential(nn.Linear(4, width), nn.Tanh(), nn.Linear(width, 3))


def samples(seed: int, count: int) -> tuple[Tensor, Tensor]:
    x = torch.randn(count, 4, generator=torch.Generator().manual_seed(seed))
    return x, x[:, :3].argmax(1)


def batches(trial: Any) -> Any:
    for step in range(trial.steps):
        yield samples(1000 * trial.seed + step, 16)


HELD_OUT = [samples(-1, 40), samples(-2, 40)]


def error_rate(output: Tensor, y: Tensor) -> Tensor:
    return (output.argmax(-1) != y).float().mean()


def score(output: Tensor, y: Tensor) -> float:
    """Rises, and is no tensor."""
    return -float(F.cross_entropy(output, y))


def plain(output: Tensor, y: Tensor) -> Tensor:
    return F.cross_entropy(output, y)


@pytest.fixture
def run(inline: Any, tmp_path: Path) -> Callable[..., isoscale.SweepResult]:
    def swept(**changes: Any) -> isoscale.SweepResult:
        given = (
            changes if "dataset" in changes else {"model": make, "batches": batches, "loss_fn": plain} | OWN | changes
        )
        return sweep(Sweep(**given), store=tmp_path / "s.db")

    return swept


def test_of_isoscales_own_networks(run: Callable[..., Any]):
    """In stacks, and where trials diverged; the share of right answers is measured anyway."""
    found = run(dataset="digits", metric=error_rate, better="lower", **BUILT_IN)
    done = found.data["status"].values == 0
    assert 0 < done.sum() < done.size
    wrong, right = found.data["error_rate"].values, found.data["test_accuracy"].values
    np.testing.assert_allclose(wrong[done] + right[done], 1, rtol=1e-6)
    assert np.isnan(wrong[~done]).all()
    assert found.optima()["error_rate"].notna().any()


def test_of_a_model_of_ones_own(run: Callable[..., Any]):
    """The mean over the held-out batches, kept beside the loss; the curves are those without it."""
    found = run(eval_batches=HELD_OUT, metric=plain, better="lower")
    np.testing.assert_array_equal(found.data["plain"], found.data["test_loss"])
    without = run(eval_batches=HELD_OUT)
    np.testing.assert_array_equal(found.loss, without.loss)
    assert "plain" not in without.data


def test_trials_that_train_together_are_measured_as_alone(run: Callable[..., Any], monkeypatch: pytest.MonkeyPatch):
    alone = run(eval_batches=HELD_OUT, metric=score, better="higher", version="alone")
    monkeypatch.setattr(stack, "LEAST_STEPS", 1)
    monkeypatch.setattr(stack, "_SIGN_OF_GAIN", 0.0)
    monkeypatch.setattr(stack, "_GAIN", 0.0)
    together = run(eval_batches=HELD_OUT, metric=score, better="higher", version="together")
    assert any("together" in versions for versions in together.versions)
    np.testing.assert_allclose(together.data["score"], alone.data["score"], rtol=1e-4)


def test_the_verdict_is_the_metrics(run: Callable[..., Any], inline: Any, tmp_path: Path):
    """Minus a loss, of which higher is better, is judged as that loss is, by `transfer` and by `judge`."""
    spec = {"eval_batches": HELD_OUT, "metric": score, "better": "higher"}
    result = run(**spec)
    table = result.runs_table()
    falling = isoscale.judge(table.assign(loss=-table["score"]).drop(columns="score"))
    asked = dataclasses.replace(result.spec, search="grid")
    for found in (isoscale.judge(result), isoscale.transfer(asked, store=tmp_path / "s.db")):
        assert found.data.attrs["quantity"] == "score"
        for name in ("regret", "drift", "optimal_lr", "best_loss"):
            np.testing.assert_array_equal(found.data[name].values, falling.data[name].values)
        assert "of the score" in found.data["reason"].values[0] or "end of" in found.data["reason"].values[0]
    cell = isoscale.report.by_size(found.data, "mup").loc[0, "score: tuned"]
    assert cell.startswith("-")
    assert isoscale.judge(result, better="lower").data.attrs["better"] == "lower"


def test_a_table_with_a_column_of_accuracies():
    rows = []
    for width in (16, 64):
        for place in range(-6, 1):
            for seed in range(3):
                accuracy = 0.9 - 0.02 * (place + 3) ** 2 + 0.001 * seed + width / 1e4
                rows.append({"width": width, "lr": 2.0**place, "seed": seed, "accuracy": accuracy})
    found = isoscale.judge(rows, columns={"loss": "accuracy"}, better="higher")
    assert found.answer == "Yes."
    assert "of the accuracy" in found.reasons["-"]
    assert isoscale.judge(rows, columns={"loss": "accuracy"}, better="lower").answer == "Cannot tell."
    with pytest.raises(InvalidValueError, match="`accuracy` sounds like a score"):
        isoscale.judge(rows, columns={"loss": "accuracy"})


def test_the_metric_is_part_of_the_key(run: Callable[..., Any], inline: Any):
    run(eval_batches=HELD_OUT)
    for metric in (plain, score):
        before = len(inline.ran)
        run(eval_batches=HELD_OUT, metric=metric, better="lower")
        assert len(inline.ran) - before == 12
    before = len(inline.ran)
    run(eval_batches=HELD_OUT, metric=score, better="higher")
    assert len(inline.ran) == before, "which values are better is a question, and no other trial"


def test_a_metric_that_is_no_number(run: Callable[..., Any]):
    small = {"lrs": [0.01], "widths": [4], "seeds": 1, "eval_batches": HELD_OUT, "better": "lower"}
    lost = run(metric=lambda output, y: math.nan, version="1", **small)
    assert lost.count("diverged") == 1
    (reason,) = run(metric=lambda output, y: "high", version="2", **small).reasons
    assert "`metric` metric returned 'high': a metric is one number" in reason
    (reason,) = run(metric=lambda output, y: output, version="3", **small).reasons
    assert "a tensor of shape (40, 3)" in reason
    (reason,) = run(metric=plain, **small | {"eval_batches": lambda: iter(())}).reasons
    assert "`eval_batches` has no batch" in reason


def test_batches_without_an_end_are_refused_where_they_are_held_out(
    run: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr("isoscale.runs.trainers.module._MOST_HELD_OUT", 5)

    def endless() -> Any:
        while True:
            yield HELD_OUT[0]

    (reason,) = run(lrs=[0.01], widths=[4], seeds=1, eval_batches=endless).reasons
    assert "`eval_batches` has no end: it has more than 5 batches" in reason


@pytest.mark.parametrize(
    ("given", "error", "said"),
    [
        ({"metric": score}, InvalidValueError, "`metric` needs `better`"),
        ({"better": "lower"}, InvalidValueError, "give it one"),
        ({"metric": 3, "better": "lower"}, InvalidTypeError, "must be a function"),
        ({"metric": score, "better": "up"}, InvalidValueError, "no `better` named 'up'"),
        ({"train": make, "metric": score, "better": "lower"}, InvalidValueError, "give it back as the loss"),
        ({"metric": "m.py:loss", "better": "lower"}, InvalidValueError, "cannot be called `loss`"),
        (
            {"model": make, "batches": batches, "loss_fn": plain, "metric": score, "better": "lower"},
            InvalidValueError,
            "give it `eval_batches`",
        ),
    ],
)
def test_what_makes_no_sense_is_refused(given: dict[str, Any], error: type[Exception], said: str):
    with pytest.raises(error, match=said):
        Sweep(**given)
