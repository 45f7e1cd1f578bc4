"""Transfer by an adaptive search, on training functions whose losses are known in closed form."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from isoscale import Sweep, log2_grid, sweep, transfer
from isoscale.runs import driver
from isoscale.runs.engines import engine as engines
from isoscale.runs.result import STATUS
from isoscale.testing import InlineEngine

OFFSETS = np.random.default_rng(0).normal(0, 0.05, 64)


def loss_of(
    optimum: Callable[[Any], float], floor: Callable[[Any], float] = lambda trial: 1.0
) -> Callable[[Any], float]:
    """Log loss is a parabola over log2(lr), whose vertex depends on the trial; 1 % more for each eighth fewer steps."""

    def train(trial: Any) -> float:
        x = math.log2(trial.lr) - optimum(trial) - OFFSETS[trial.seed]
        return floor(trial) * math.exp(0.05 * x**2) * (1 + 0.01 * (40 - trial.steps) / 5)

    return train


@pytest.fixture
def ran(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """Sweeps run in this process; the shards that ran."""
    replacement = type("Engine", (InlineEngine,), {"ran": []})
    monkeypatch.setattr(engines, "LocalEngine", replacement)
    return replacement.ran


def spec(train: Callable[[Any], float], **changes: Any) -> Sweep:
    settings: dict[str, Any] = {
        "train": train,
        "version": "1",
        "depths": [4, 8],
        "lrs": log2_grid(-10, 0),
        "seeds": 3,
        "steps": 40,
    }
    return Sweep(**(settings | changes))


def test_the_optimum_is_found_at_every_size_and_judged(tmp_path: Path, ran: list[Any]):
    deeper_is_better = loss_of(lambda trial: -6.0, lambda trial: 2.0 / trial.depth)
    found = transfer(spec(deeper_is_better, depths=[4, 8, 16]), store=tmp_path / "s.db")
    assert found.answer == "Yes."
    np.testing.assert_allclose(np.log2(found.data["optimal_lr"]), -6, atol=0.15)
    assert found.next_run is None
    # A grid of the same range has 11 rates at each of three sizes.
    assert len(ran) < 3 * 11 * 3 * 0.7


def test_run_again_it_trains_nothing(tmp_path: Path, ran: list[Any]):
    asked = spec(loss_of(lambda trial: -6.0))
    first = transfer(asked, store=tmp_path / "s.db")
    ran.clear()
    again = transfer(asked, store=tmp_path / "s.db")
    assert ran == []
    assert again.reasons == first.reasons
    np.testing.assert_array_equal(again.data["optimal_lr"], first.data["optimal_lr"])


def test_what_else_the_store_holds_changes_nothing(tmp_path: Path, ran: list[Any]):
    asked = spec(loss_of(lambda trial: -6.0 + (trial.depth == 8) * 3))
    alone = transfer(asked, store=tmp_path / "alone.db")
    # Every rate that was trained at one of the sizes, at both of them.
    rates = alone.result.data["lr"].values.tolist()
    sweep(spec(asked.train, lrs=rates, search="grid"), store=tmp_path / "shared.db")
    shared = transfer(asked, store=tmp_path / "shared.db")
    assert alone.result.count("missing") == shared.result.count("missing") > 0
    for name in ("optimal_lr", "drift_low", "regret_high", "rate_used"):
        np.testing.assert_array_equal(shared.data[name], alone.data[name])


def test_a_drift_is_measured_and_costs(tmp_path: Path, ran: list[Any]):
    found = transfer(spec(loss_of(lambda trial: -6.0 + (trial.depth == 8) * 3)), store=tmp_path / "s.db")
    assert found.answer == "No."
    drift = found.data.sel(rule="-", depth=8)
    assert float(drift["drift"]) == pytest.approx(3, abs=0.2)
    assert float(drift["drift_low"]) < 3 < float(drift["drift_high"])
    # exp(0.05 * 3^2) - 1
    assert float(drift["regret"]) == pytest.approx(0.568, rel=0.1)


def test_a_net_that_ends_worse_than_its_base_is_no_yes(tmp_path: Path, ran: list[Any]):
    worse = loss_of(lambda trial: -6.0, lambda trial: float(trial.depth))
    found = transfer(spec(worse), store=tmp_path / "s.db")
    assert found.answer == "No."
    assert "worse than depth 4" in found.reasons["-"]


def test_what_is_not_trained_is_missing_and_not_diverged(tmp_path: Path, ran: list[Any]):
    found = transfer(spec(loss_of(lambda trial: -6.0 + trial.depth / 4)), store=tmp_path / "s.db")
    status = found.data["status"].values
    assert set(np.unique(status)) == {STATUS["done"], STATUS["missing"]}
    assert np.isnan(found.data["loss"].values[status == STATUS["missing"]]).all()
    assert found.data.attrs["trials"] == (status == STATUS["done"]).sum()


def test_until_decided_runs_what_would_tell(tmp_path: Path, ran: list[Any]):
    """A regret near the limit is told from it by more seeds."""
    noise = np.random.default_rng(1).normal(0, 0.05, 64)

    def train(trial: Any) -> float:
        x = math.log2(trial.lr) + 6 + (trial.depth == 8) * 0.3
        return math.exp(0.05 * x**2 + noise[trial.seed] * (trial.depth == 8) * x)

    asked = spec(train, seeds=2)
    first = transfer(asked, store=tmp_path / "s.db")
    assert first.verdicts == {"-": "cannot tell"}
    assert first.next_run is not None
    assert first.next_run.trials == len(first.next_run.lrs) * len(first.next_run.seeds)
    decided = transfer(asked, until_decided=True, store=tmp_path / "s.db")
    assert decided.verdicts["-"] != "cannot tell"
    assert decided.next_run is None


def test_a_path_of_sizes(tmp_path: Path, ran: list[Any]):
    train = loss_of(lambda trial: -6.0 + math.log2(trial.width / 8) * 0.1)
    asked = spec(train, widths=[8, 16, 32], depths=[2, 4, 8])
    found = transfer(asked, base={"width": 8, "depth": 2}, store=tmp_path / "s.db")
    assert found.axis == "size"
    assert found.data["size"].values.tolist() == ["width 8, depth 2", "width 16, depth 4", "width 32, depth 8"]
    assert found.answer == "Yes."
    assert {(shard.shared["sizes"]["width"], shard.shared["sizes"]["depth"]) for shard in ran} == {
        (8, 2),
        (16, 4),
        (32, 8),
    }


def test_sizes_of_the_users_own(tmp_path: Path, ran: list[Any]):
    train = loss_of(lambda trial: -6.0)
    found = transfer(spec(train, depths=[], sizes={"experts": [2, 4]}), store=tmp_path / "s.db")
    assert (found.axis, found.base, found.answer) == ("experts", 2, "Yes.")


def test_the_best_hyperparameter_counts(tmp_path: Path, ran: list[Any]):
    train = loss_of(lambda trial: -6.0, lambda trial: 1 + trial.hyperparameters["weight_decay"])
    asked = spec(train, hyperparameters={"weight_decay": [0.0, 0.5]})
    found = transfer(asked, store=tmp_path / "s.db")
    assert found.answer == "Yes."
    np.testing.assert_allclose(found.data["best_loss"], 1, rtol=0.01)


def test_workers_stay_between_the_rounds(tmp_path: Path, ran: list[Any], monkeypatch: pytest.MonkeyPatch):
    opened = []
    before = driver.Session._engine_for

    def counted(self: driver.Session, shards: int) -> Any:
        engine = before(self, shards)
        opened.append(engine)
        return engine

    monkeypatch.setattr(driver.Session, "_engine_for", counted)
    # All seeds of the first full round are shards of their own: the engine is opened anew for more of them only.
    transfer(spec(loss_of(lambda trial: -6.0)), store=tmp_path / "s.db")
    assert len(opened) >= 4
    assert len({id(engine) for engine in opened}) <= 2


def test_all_that_diverges_is_an_answer(tmp_path: Path, ran: list[Any]):
    found = transfer(spec(lambda trial: math.nan, seeds=2), store=tmp_path / "s.db")
    assert found.answer == "Cannot tell."
    assert "not trainable at depth 4" in found.reasons["-"] or "nothing was run" in found.reasons["-"]


def test_an_adaptive_sweep_has_the_optima_of_the_searches(tmp_path: Path, ran: list[Any]):
    asked = spec(loss_of(lambda trial: -6.0 + trial.depth / 8), search="adaptive")
    found = driver.sweep(asked, store=tmp_path / "s.db")
    best = found.optima().set_index("depth")["lr"]
    np.testing.assert_allclose(np.log2(best), [-5.5, -5], atol=0.2)
    assert found.count("missing") > 0
