"""A verdict on every tuned hyperparameter, on losses whose optimum, drift and regret are known in closed form."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

import isoscale
from isoscale import Sweep, log2_grid, report, transfer
from isoscale.errors import InvalidValueError
from isoscale.runs.engines import engine as engines
from isoscale.testing import InlineEngine

OFFSETS = np.random.default_rng(0).normal(0, 0.05, (8, 2))
# Log loss = A x^2 + B y^2 + C x y in octaves x of the learning rate and y of the weight decay.
A, B, C = 0.03, 0.02, 0.01
MOVED = 2.0  # the weight decay's optimum, from depth 4 to depth 8
DECAYS = [2.0**k for k in range(-5, 1)]


def loss(lr: float, decay: float, depth: int, seed: int) -> float:
    x = math.log2(lr) + 6 - OFFSETS[seed, 0]
    y = math.log2(decay) + 3 - OFFSETS[seed, 1] - MOVED * (depth == 8)
    return (0.9 if depth == 8 else 1.0) * math.exp(A * x**2 + B * y**2 + C * x * y)


def train(trial: Any) -> float:
    return loss(trial.lr, trial.hyperparameters["weight_decay"], trial.depth, trial.seed)


@pytest.fixture
def ran(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """Sweeps run in this process; the shards that ran."""
    replacement = type("Engine", (InlineEngine,), {"ran": []})
    monkeypatch.setattr(engines, "LocalEngine", replacement)
    return replacement.ran


def spec(**changes: Any) -> Sweep:
    settings: dict[str, Any] = {
        "train": train,
        "version": "1",
        "depths": [4, 8],
        "lrs": log2_grid(-8, -4),
        "seeds": 2,
        "steps": 40,
        "hyperparameters": {"weight_decay": DECAYS},
    }
    return Sweep(**(settings | changes))


def check(found: isoscale.studies.transfer.Transfer) -> None:
    """What a joint optimum and held values give, from the quadratic form."""
    tuned = found.tuned
    assert tuned is not None
    at = tuned.sel(depth=8, rule="-")
    # With the weight decay held where it was, its excess of -2 octaves moves the learning rate by -C y / 2 A.
    expected = {("lr", "best"): 0.0, ("lr", "held"): C * MOVED / (2 * A)}
    expected |= {("weight_decay", others): MOVED for others in ("best", "held")}
    for (name, others), drift in expected.items():
        cell = at.sel(hyperparameter=name, others=others)
        assert float(cell["drift"]) == pytest.approx(drift, abs=0.06), (name, others)
    held = float(at["regret"].sel(hyperparameter="weight_decay", others="held"))
    assert held == pytest.approx(0.9 * (math.exp(B * MOVED**2) - 1), rel=0.15)
    verdicts = tuned["verdict"].sel(rule="-")
    assert (verdicts.sel(hyperparameter="lr") == "transfers").all()
    assert (verdicts.sel(hyperparameter="weight_decay") == "does not transfer").all()


@pytest.mark.parametrize("changes", [{"search": "adaptive"}, {"search": "random", "points": 32}], ids=str)
def test_each_hyperparameter_has_its_verdict(tmp_path: Path, ran: list[Any], changes: dict[str, Any]):
    found = transfer(spec(**changes), store=tmp_path / "s.db")
    check(found)
    assert found.answer == "Yes."
    trained = len(ran)
    other = transfer(spec(**changes), store=tmp_path / "s.db", hyperparameter="weight_decay")
    assert other.answer == "No."
    assert other.data.attrs["question"] == "Does the weight_decay of depth 4 serve depth 8?"
    assert len(ran) == trained
    rows = json.loads(found.data.attrs["tuned"])
    assert [(row["hyperparameter"], row["others"]) for row in rows] == [
        ("learning rate", "best"),
        ("learning rate", "held"),
        ("weight_decay", "best"),
        ("weight_decay", "held"),
    ]
    assert len(report.tuned_table(found.data)) == 4


def table() -> pd.DataFrame:
    """Every learning rate with every weight decay."""
    rows = []
    for depth in (4, 8):
        for lr in log2_grid(-9, -3):
            for decay in DECAYS:
                for seed in (0, 1):
                    rows.append((depth, lr, decay, seed, loss(lr, decay, depth, seed)))
    return pd.DataFrame(rows, columns=["depth", "lr", "weight_decay", "seed", "loss"])


def test_a_table_of_a_grid_says_the_same():
    check(isoscale.judge(table()))


def test_values_between_which_there_are_no_octaves():
    """Runs without weight decay count for the other hyperparameters, and not for its own octaves."""
    grid = table()
    none = grid[grid["weight_decay"] == DECAYS[0]].assign(weight_decay=0.0)
    found = isoscale.judge(pd.concat([grid, none]), hyperparameter="weight_decay")
    assert found.answer == "No."
    assert "runs at weight_decay 0 are left out" in found.data.attrs["notes"]


def test_a_memory_counts_by_how_far_it_is_below_one():
    """beta2 0.9, 0.95, 0.975: halving 1 - beta2 is an octave."""
    grid = table().rename(columns={"weight_decay": "beta2"}).query("lr == 2 ** -6")
    # From 1 - 1 / 8 on.
    grid["beta2"] = 1 - grid["beta2"] / 8
    found = isoscale.judge(grid, hyperparameter="beta2")
    at = found.data.sel(rule="-", depth=8)
    assert float(at["drift"]) == pytest.approx(MOVED, abs=0.06)
    assert float(at["optimal_lr"]) == pytest.approx(2.0 ** (-3 + MOVED) / 8, rel=0.1)
    assert found.data.attrs["question"] == "Does the 1 - beta2 of depth 4 serve depth 8?"


def test_questions_about_what_was_not_tuned(tmp_path: Path):
    with pytest.raises(InvalidValueError, match="no tuned hyperparameter named 'beta2'"):
        transfer(spec(), store=tmp_path / "s.db", hyperparameter="beta2")
    with pytest.raises(InvalidValueError, match="has texts, between which there are no octaves"):
        transfer(
            spec(hyperparameters={"kind": ["a", "b"]}, search="grid"), store=tmp_path / "s.db", hyperparameter="kind"
        )
    few = table().drop_duplicates(["lr", "depth", "seed"]).assign(weight_decay=lambda runs: runs["lr"] * 3)
    found = isoscale.judge(few)
    assert "too much alike, to tell lr, weight_decay apart" in found.data.attrs["notes"]


@pytest.mark.parametrize(("points", "answer"), [(16, "Cannot tell."), (32, "Yes.")])
def test_few_scattered_points_tell_nothing(points: int, answer: str):
    rng = np.random.default_rng(0)
    settings = 2.0 ** np.column_stack([rng.uniform(-9, -3, points), rng.uniform(-6, 2, points)])
    rows = []
    for depth in (4, 8):
        for lr, decay in settings:
            for seed in (0, 1):
                rows.append((depth, lr, decay, seed, loss(lr, decay, depth, seed)))
    found = isoscale.judge(pd.DataFrame(rows, columns=["depth", "lr", "weight_decay", "seed", "loss"]))
    assert found.answer == answer
    assert ("16 scattered points of lr and weight_decay at depth 4" in found.reasons["-"]) == (points == 16)


def test_more_points_add_to_those_that_there_are(tmp_path: Path, ran: list[Any]):
    for points in (8, 16):
        isoscale.sweep(spec(search="random", points=points, depths=[4]), store=tmp_path / "s.db")
    assert len(ran) == 16 * 2
    found = isoscale.sweep(spec(search="random", points=16), store=tmp_path / "s.db")
    table = found.runs_table()
    assert len(table) == 2 * 16 * 2
    # The same points at every size.
    by_depth = [of["weight_decay"].tolist() for _, of in table.groupby("depth")]
    assert by_depth[0] == by_depth[1]
    assert len(set(by_depth[0])) == 16


def test_lengths_are_a_size(tmp_path: Path, ran: list[Any]):
    """Half the optimum for four times the steps; one length alone is the trial that it is among others."""

    def by_length(trial: Any) -> float:
        x = math.log2(trial.lr) + 6 + 0.5 * math.log2(trial.steps / 40) - OFFSETS[trial.seed, 0]
        return (40 / trial.steps) ** 0.1 * math.exp(A * x**2)

    asked = spec(train=by_length, steps=[40, 80, 160], depths=[], hyperparameters={}, lrs=log2_grid(-10, -3))
    found = transfer(asked, base={"steps": 40}, store=tmp_path / "s.db")
    assert (found.axis, found.base, found.target) == ("steps", 40, 160)
    drift = found.data["drift"].sel(rule="-")
    np.testing.assert_allclose(drift, [0, -0.5, -1], atol=0.1)
    assert found.result is not None
    trained = found.result.runs_table().query("steps == 160")["lr"].unique().tolist()
    ran.clear()
    alone = spec(train=by_length, steps=[160], depths=[], hyperparameters={}, lrs=trained[:1], seeds=1)
    isoscale.sweep(alone, store=tmp_path / "s.db")
    assert ran == []
