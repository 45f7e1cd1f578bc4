"""What a trial spends: a budget axis holds what it says, and a trial of it is the trial that it is alone."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from isoscale import models
from isoscale.errors import DataError, InvalidValueError
from isoscale.runs import Sweep
from isoscale.runs.spending import BUDGET_AXES, near_tokens

TINY: dict[str, Any] = {"depths": [2], "widths": [8], "lrs": [0.1], "seeds": 1}

octaves = st.lists(st.integers(0, 5), min_size=2, max_size=4, unique=True)


def spendings(spec: Sweep) -> list[Any]:
    return [spec.spending(cell) for cell in spec.cells]


@given(octaves, st.integers(1, 9))
def test_tokens_are_the_same_at_every_batch_size(sizes, of_smallest):
    batch_sizes = [2**size for size in sizes]
    steps = of_smallest * 32
    spec = Sweep(**TINY, batch_sizes=batch_sizes, steps=steps, budget_axis="tokens")
    assert [spent.batch_size for spent in spendings(spec)] == sorted(batch_sizes)
    assert {spent.tokens for spent in spendings(spec)} == {steps * min(batch_sizes)}
    assert spec.longest == steps


@given(octaves)
def test_tokens_are_the_same_at_every_length(sizes):
    lengths = [10 * 2**size for size in sizes]
    spec = Sweep(**TINY, steps=lengths, batch_size=64, budget_axis="tokens")
    assert [spent.steps for spent in spendings(spec)] == sorted(lengths)
    assert {spent.tokens for spent in spendings(spec)} == {64 * min(lengths)}
    assert spec.largest_batch == 64


@given(octaves, st.integers(1, 64))
def test_at_fixed_steps_tokens_grow_with_the_batch(sizes, steps):
    spec = Sweep(**TINY, batch_sizes=[2**size for size in sizes], steps=steps)
    assert {spent.steps for spent in spendings(spec)} == {steps}


@pytest.mark.parametrize(("model", "width"), [("residual-mlp", 8), ("gpt", 16), ("vit", 16), ("conv-resnet", 8)])
def test_tokens_per_parameter_are_the_same_at_every_size(model, width):
    spec = Sweep(
        **TINY | {"widths": [width, 2 * width], "depths": [1, 3]},
        model=model,
        steps=50,
        batch_size=4,
        budget_axis="tokens-per-parameter",
    )
    of_base = models.hidden_parameters(model, {}, width=width, depth=1)
    for cell in spec.cells:
        parameters = models.hidden_parameters(model, {}, width=cell["width"], depth=cell["depth"])
        # To within half a step.
        assert abs(spec.spending(cell).tokens - 200 * parameters / of_base) <= 2
    assert spec.spending(spec.cells[0]).tokens == 200


@given(st.floats(1, 1e6), st.integers(1, 512))
def test_rounded_samples_are_the_nearest(tokens, batch_size):
    spent = near_tokens(tokens, batch_size=batch_size)
    assert abs(spent.tokens - tokens) <= batch_size / 2 or spent.steps == 1


@pytest.mark.parametrize("axis", BUDGET_AXES)
@pytest.mark.parametrize("changes", [{"batch_sizes": [8, 16], "steps": 6}, {"steps": [3, 6], "batch_size": 16}])
def test_a_trial_is_the_one_that_it_is_alone(axis, changes):
    spec = Sweep(**TINY, **changes, dataset="synthetic", budget_axis=axis, optimizer="adamw", budget="completed-p")
    for cell in spec.cells:
        at = {name: cell[name] for name in spec.size_axes}
        trial, alone = spec.trial(**at), spec.only(cell).trial()
        assert trial.key == alone.key
        assert trial.plan.to_dict() == alone.plan.to_dict()
        assert len(list(trial.batches())) == spec.spending(cell).steps


def seen(trial: Any) -> float:
    assert trial.steps * trial.batch_size == 64
    return 1.0


def test_a_function_is_told_what_to_spend():
    from isoscale.runs.trainers import registry

    for changes in ({"batch_sizes": [8, 16], "steps": 8}, {"steps": [4, 8], "batch_size": 16}):
        spec = Sweep(train=seen, lrs=[0.1], seeds=1, budget_axis="tokens", **changes)
        shards = registry.prepare(spec, None, "unused.db")
        for shard, cell in zip(shards, spec.cells, strict=True):
            handed = shard.handed("cpu")
            assert handed.steps * handed.batch_size == 64
            (alone,) = registry.prepare(spec.only(cell), None, "unused.db")
            assert (alone.handed("cpu").steps, alone.handed("cpu").batch_size) == (handed.steps, handed.batch_size)


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"budget_axis": "token"}, "Nearest: tokens"),
        ({"budget_axis": "tokens"}, "give several of one"),
        ({"budget_axis": "tokens", "batch_sizes": [8, 16], "steps": [1, 2]}, "nothing left that could follow"),
        ({"budget_axis": "tokens", "batch_sizes": [8, 48], "steps": 100}, "`batch_size` 48 does not divide"),
        ({"budget_axis": "tokens", "steps": [100, 300], "batch_size": 64}, "`steps` 300 does not divide"),
        ({"budget_axis": "tokens-per-parameter", "train": seen, "depths": [], "widths": []}, "`paired`"),
        ({"budget_axis": "tokens", "command": "run {lr}", "batch_sizes": [8, 16]}, "batch_size"),
    ],
)
def test_bad_budget_axes(changes, says):
    given_ = {} if "command" in changes else TINY
    with pytest.raises(InvalidValueError, match=says):
        Sweep(**given_ | {"lrs": [0.1], "seeds": 1} | changes)


@pytest.mark.parametrize("betas", [(0.9, 1.0), (-0.1, 0.9), (1.5, 0.9)])
def test_betas_outside_their_range(betas):
    spec = Sweep(**TINY, dataset="synthetic", optimizer="adamw", betas=betas)
    with pytest.raises(InvalidValueError, match="`betas` must be in"):
        spec.trial()


def test_a_batch_larger_than_the_data():
    from isoscale.runs.trainers import registry

    spec = Sweep(**TINY, dataset="digits", steps=[1, 512], batch_size=2**16, budget_axis="tokens")
    with pytest.raises((InvalidValueError, DataError), match="1438 training samples of digits, got 65536"):
        registry.prepare(spec, None, "unused.db")
