"""`isoscale transfer` where there is little or nothing to judge: an answer or "cannot tell", and no number that was not
measured."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from isoscale.runs.engines import engine as engine_
from isoscale.testing import InlineEngine

Run = Callable[..., tuple[int, str, str]]

SMALL = "--widths 8 --depths 1 2 --steps 4 --rule completep --batch-size 8"


@pytest.fixture
def engine(monkeypatch: pytest.MonkeyPatch) -> type[InlineEngine]:
    """Trials run in this process; `.ran` lists the shards."""
    engine = type("Engine", (InlineEngine,), {"ran": []})
    monkeypatch.setattr(engine_, "LocalEngine", engine)
    return engine


@pytest.fixture
def answered(isoscale: Run, tmp_path: Path, engine: type[InlineEngine]) -> Callable[[str], dict[str, Any]]:
    """The JSON of the only rule; the same numbers stand in the report."""

    def run(flags: str) -> dict[str, Any]:
        code, out, errors = isoscale("transfer", *SMALL.split(), *flags.split(), "--json")
        assert (code, errors) == (0, "")
        found = json.loads(out, parse_constant=pytest.fail)  # NaN and Infinity are no JSON
        assert (tmp_path / "isoscale-report" / "index.html").exists()
        (of_rule,) = found["rules"].values()
        return of_rule | {"next_runs": found["next_runs"]}

    return run


def test_one_seed_has_no_interval(answered: Callable[[str], dict[str, Any]]):
    found = answered("--search grid --lrs 0.001 0.01 0.1 1 --seeds 1")
    assert found["verdict"] in ("cannot tell", "does not transfer")
    for name in ("optimal_lr_low", "optimal_lr_high", "drift_low", "drift_high"):
        assert set(found[name].values()) == {None}


def test_one_learning_rate_has_no_optimum(answered: Callable[[str], dict[str, Any]]):
    found = answered("--search grid --lrs 0.01")
    assert (found["verdict"], found["reason"]) == ("cannot tell", "one learning rate was run at depth 1")
    assert found["drift_low"]["2"] is found["drift_high"]["2"] is None
    assert found["next_runs"]


def test_nothing_trains(answered: Callable[[str], dict[str, Any]]):
    found = answered("--search grid --norm none --optimizer sgd --lrs 1e20 1e25")
    assert found["verdict"] == "cannot tell"
    assert "most seeds diverge at every rate" in found["reason"]
    assert found["rate_used"] is None
    for name in ("optimal_lr", "drift", "regret", "best_loss", "loss_transferred"):
        assert set(found[name].values()) == {None}, name


def test_equal_losses_have_no_optimum(answered: Callable[[str], dict[str, Any]]):
    """Steps too small to change a weight: every rate ends at the same loss."""
    found = answered("--search grid --norm none --optimizer sgd --lrs 1e-30 2e-30 4e-30 8e-30 --seeds 2")
    assert found["drift_low"]["2"] is found["drift_high"]["2"] is None
    assert found["regret"]["2"] in (0, None)


def test_a_search_of_two_sizes(isoscale: Run, engine: type[InlineEngine]):
    flags = [*SMALL.split(), "--log2-lr", "-8", "-2", "--seeds", "2"]
    code, first, errors = isoscale("transfer", *flags)
    assert (code, errors) == (0, "")
    assert first.splitlines()[1].startswith("Adaptive search, about 32 trials, about ")
    engine.ran.clear()
    code, again, errors = isoscale("transfer", *flags)
    assert (code, errors, engine.ran) == (0, "", [])
    # All but what it would have cost, and where the report says how long it took.
    assert again.splitlines()[1:] == first.splitlines()[2:]


def test_a_path_of_widths_and_depths(isoscale: Run, tmp_path: Path, engine: type[InlineEngine]):
    sizes = ["--widths", "4", "8", "16", "--depths", "1", "2", "4", "--paired", "--steps", "4", "--batch-size", "8"]
    flags = [*sizes, "--rule", "completep", "--search", "grid", "--lrs", "0.001", "0.01", "0.1", "--seeds", "2"]
    code, out, errors = isoscale("transfer", *flags)
    assert (code, errors) == (0, "")
    assert "Does the learning rate of width 4, depth 1 serve width 16, depth 4?" in out
    page = (tmp_path / "isoscale-report" / "index.html").read_text()
    assert "width 8, depth 2" in page
    # Labels have no logarithm.
    assert "no law along a path" in page


@pytest.mark.parametrize("value", [np.nan, np.inf])
@pytest.mark.parametrize("split", ["train", "test"])
def test_data_that_are_no_numbers_are_refused_by_name(isoscale: Run, tmp_path: Path, value: float, split: str):
    folder = tmp_path / "data"
    folder.mkdir()
    for part in ("train", "test"):
        x = np.ones((16, 5), np.float32)
        x[3, 2] = value if part == split else 0.5
        np.save(folder / f"{part}_x.npy", x)
        np.save(folder / f"{part}_y.npy", np.arange(16) % 2)
    flags = [*SMALL.split(), "--dataset", "arrays", "--data", str(folder)]
    code, _, errors = isoscale("transfer", *flags)
    assert code == 2
    assert errors.startswith("error: ")
    assert errors.count("\n") == 1
    assert f"{split}_x" in errors
    assert not (tmp_path / "isoscale.db").exists()
    assert not (tmp_path / "isoscale-report").exists()
