"""A law along batch or steps, on a landscape whose optimum is known; and what is refused."""

from __future__ import annotations

import dataclasses
import math
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import pytest

import isoscale
from isoscale.errors import InvalidValueError
from isoscale.studies.published import exponents
from isoscale.studies.size_law import SizeLaw, law_of, predictions, size_law
from isoscale.studies.transfer import said_of_lengths

BATCHES = (8, 16, 32, 64)
EXPONENT = {"batch": 0.5, "tokens": -0.3}


def train(trial: Any) -> float:
    """Log loss is a parabola over log2(lr); its vertex moves like batch^0.5 samples^-0.3, and from seed to seed."""
    rng = np.random.default_rng([trial.seed, trial.batch_size, trial.steps])
    octaves = EXPONENT["batch"] * math.log2(trial.batch_size / 8)
    octaves += EXPONENT["tokens"] * math.log2(trial.batch_size * trial.steps / 512)
    vertex = -6 + octaves + 0.05 * rng.standard_normal()
    return math.exp(0.1 * (math.log2(trial.lr) - vertex) ** 2)


def sweep(**changes: Any) -> isoscale.Sweep:
    lrs = isoscale.log2_grid(-9, -3)
    settings = {"train": train, "lrs": lrs, "seeds": 3, "search": "grid", "optimizer": "adamw"}
    return isoscale.Sweep(**settings | changes)


@pytest.fixture(scope="module")
def law(engine: Any, store: str) -> SizeLaw:
    return size_law(sweep(batch_sizes=BATCHES, steps=64, budget_axis="tokens"), store=store)


def test_the_exponent_and_what_it_leaves(law: SizeLaw):
    of = law.data.isel(rule=0)
    assert float(of["exponent"]) == pytest.approx(0.5, abs=0.08)
    low, high = float(of["exponent_low"]), float(of["exponent_high"])
    assert of["tokens"].values.tolist() == [512] * 4
    assert (law.runs["batch_size"] * law.runs["steps"] == law.runs["tokens"]).all()
    assert set(law.runs["steps"]) == {64, 32, 16, 8}
    assert set(law.published["published"]) >= {"none", "sqrt-batch", "completed-p", "nanochat"}
    for row in law.published.to_dict("records"):
        assert row["verdict"] == ("survives" if low <= row["exponent"] <= high else "excluded")


def test_the_largest_size_from_the_smaller_ones(law: SizeLaw):
    rows = law.zero_shot.set_index("method")
    fitted, unchanged = rows.loc["fitted"], rows.loc["unchanged"]
    assert abs(fitted["octaves"]) < 0.3
    assert unchanged["octaves"] == pytest.approx(-1.5, abs=0.3)
    assert unchanged["octaves_low"] < unchanged["octaves"] < unchanged["octaves_high"]
    # exp(0.1 u^2) - 1 at u = 1.5, less what the nearest rate of the grid costs.
    assert unchanged["regret"] == pytest.approx(0.25, abs=0.15)
    assert unchanged["regret_low"] > 0
    assert abs(fitted["regret"]) < 0.05


@pytest.mark.parametrize(
    ("changes", "exponent"),
    [({"batch_sizes": BATCHES, "steps": 64}, 0.2), ({"steps": [16, 32, 64, 128], "batch_size": 32}, -0.3)],
)
def test_what_stays_fixed_changes_the_exponent(engine: Any, store: str, changes: dict[str, Any], exponent: float):
    found = size_law(sweep(**changes), store=store)
    assert float(found.data["exponent"].item()) == pytest.approx(exponent, abs=0.08)


def test_a_prediction_sees_nothing_of_the_largest_size(law: SizeLaw):
    from isoscale.stats import find_optimum

    result = law.transfer.result
    assert result is not None
    optima = {cell["batch_size"]: find_optimum(result.curve(cell)) for cell in result.spec.cells}
    published = exponents(result.spec, "batch_size")
    moved = optima | {64: dataclasses.replace(optima[64], log2_lr=3.0)}
    assert predictions(moved, published) == predictions(optima, published)


def test_exponents_of_the_rows():
    """In units of log lr for each doubling of the size: b and t of docs/theory.md, section 8.2, inserted."""
    at = {
        "tokens": sweep(batch_sizes=BATCHES, steps=64, budget_axis="tokens"),
        "steps": sweep(batch_sizes=BATCHES, steps=64),
        "duration": sweep(steps=[16, 32, 64]),
    }
    rows = {"completed-p": (0.5, 0.0, -0.5), "marin": (0.5, 0.2, -0.3), "sqrt-batch": (0.5, 0.5, 0.0)}
    for name, wanted in rows.items():
        axes = {"tokens": "batch_size", "steps": "batch_size", "duration": "steps"}
        found = [next(one.value for one in exponents(at[key], axis) if one.rule == name) for key, axis in axes.items()]
        assert found == pytest.approx(wanted), name


def test_what_a_budget_does_is_not_asked_for_twice():
    spec = sweep(steps=[16, 32, 64], budget="completed-p")
    left = {one.rule: one.value for one in exponents(spec, "steps")}
    assert left["completed-p"] == 0
    assert left["none"] == 0.5


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"batch_sizes": [8, 16]}, "three sizes"),
        ({"depths": [1, 2, 3]}, "isoscale.depth_law"),
        ({"batch_sizes": BATCHES, "hyperparameters": {"dropout": [0.1, 0.2]}}, "leave out `hyperparameters`"),
    ],
)
def test_what_has_no_law(changes: dict[str, Any], says: str):
    with pytest.raises(InvalidValueError, match=says):
        size_law(sweep(**changes))


def test_a_constant_rate_along_lengths_is_said():
    spec = isoscale.Sweep(depths=[1], steps=[2, 4, 8])
    assert "constant in runs of several lengths" in said_of_lengths(spec)[0]
    ends = dataclasses.replace(spec, schedule="cosine")
    # A function has its own schedule, and one length is no question of lengths.
    for other in (ends, sweep(steps=[2, 4, 8]), dataclasses.replace(spec, steps=4)):
        assert said_of_lengths(other) == []


def test_the_exponents_interval_holds_in_95_of_100():
    """Five sizes of three seeds, whose scatter differs from size to size, beside what moves an optimum as a whole."""
    rng = np.random.default_rng(0)
    sizes = 8 * 2.0 ** np.arange(5)
    studies = 1500
    held = 0
    for _ in range(studies):
        scatter = 0.3 * 2 ** rng.uniform(-1, 1, 5)
        seeds = rng.standard_normal((5, 3)) * scatter[:, None] + 0.3 * rng.standard_normal((5, 1))
        log2_lrs = -0.3 * np.log2(sizes) + seeds.mean(axis=1)
        errors = seeds.std(axis=1, ddof=1) / math.sqrt(3)
        found = [SimpleNamespace(edge="", log2_lr=lr, se=se) for lr, se in zip(log2_lrs, errors, strict=True)]
        law = law_of(dict(zip(sizes.tolist(), cast(Any, found), strict=True)))
        held += law["exponent_low"] <= -0.3 <= law["exponent_high"]
    assert held / studies == pytest.approx(0.95, abs=4 * math.sqrt(0.95 * 0.05 / studies))
