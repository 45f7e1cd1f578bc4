"""A shard's members are what each of them would have been alone, in plain PyTorch."""

import dataclasses

import numpy as np
import pytest
import torch

from isoscale import data
from isoscale.errors import InvalidValueError
from isoscale.scaling.optimizers import FAMILIES
from isoscale.training import Loop, Member, Optimizer, Recipe, ensemble, train
from isoscale.training.config import batch_order

DIGITS = data.load("digits").flatten()

# Round-off of float32 after a few dozen steps below the edge of stability: losses are O(1), each step adds a
# few ulp (6e-8), and stable training does not amplify them.
ROUND_OFF = dict(rtol=2e-5, atol=2e-6)


def recipe(**changes):
    settings = dict(
        width=24,
        depth=6,
        base_width=12,
        base_depth=2,
        rule="completep",
        optimizer=Optimizer(),
        steps=25,
        batch_size=32,
    )
    return Recipe(**(settings | changes))


def members(lrs=(2.0**-7, 2.0**-5, 2.0**-4), seeds=(0, 1, 2)):
    return [Member(lr, seed) for lr in lrs for seed in seeds]


def plain_loop(recipe, member):
    """What a user would write: torch modules, torch.optim on the plan's groups, one trial."""
    plan = recipe.plan(DIGITS.in_shape, DIGITS.classes, lr=member.lr)
    model, plan = recipe.build(DIGITS.in_features, DIGITS.classes, member.seed, plan)
    optimizer = getattr(torch.optim, FAMILIES[recipe.optimizer.family].torch_class)(plan.param_groups())
    rates = [group["lr"] for group in optimizer.param_groups]
    loop, losses = recipe.loop, []
    order = batch_order(len(DIGITS.train_x), recipe.batch_size, recipe.steps * loop.accumulate, member.seed)
    for step, batches in enumerate(order.split(loop.accumulate)):
        for group, rate in zip(optimizer.param_groups, rates, strict=True):
            group["lr"] = rate * loop.lr_factor(step, recipe.steps)
        optimizer.zero_grad()
        losses.append(0.0)
        for batch in batches:
            loss = torch.nn.functional.cross_entropy(model(DIGITS.train_x[batch]), DIGITS.train_y[batch])
            (loss / loop.accumulate).backward()
            losses[-1] += loss.item() / loop.accumulate
        if loop.clip is not None:
            torch.nn.utils.clip_grad_norm_(model.parameters(), loop.clip)
        optimizer.step()
    with torch.no_grad():
        test = torch.nn.functional.cross_entropy(model(DIGITS.test_x), DIGITS.test_y).item()
        accuracy = (model(DIGITS.test_x).argmax(1) == DIGITS.test_y).float().mean().item()
    return losses, test, accuracy


@pytest.mark.parametrize(
    ("optimizer", "scale"),
    [
        (Optimizer(), 1.0),
        (Optimizer(momentum=0.9, weight_decay=1e-3), 0.2),
        (Optimizer(family="adam", eps=1e-6), 0.05),
        (Optimizer(family="adamw", weight_decay=0.1, eps=1e-6), 0.05),
    ],
    ids=["sgd", "momentum", "adam", "adamw"],
)
@pytest.mark.parametrize(
    ("norm", "loop"),
    [
        (None, Loop()),
        ("layer", Loop()),
        ("layer", Loop(schedule="cosine", warmup=0.2, clip=0.5, accumulate=2)),
    ],
    ids=["no norm", "normed", "clipped, accumulated, on a schedule"],
)
def test_trials_are_those_of_plain_torch(optimizer, scale, norm, loop):
    setup = recipe(optimizer=optimizer, model_args={"norm": norm}, loop=loop)
    trials = members([lr * scale for lr in (2.0**-7, 2.0**-5)], seeds=(0, 5))
    outcome = train(setup, trials, DIGITS)
    for index, member in enumerate(trials):
        losses, test, accuracy = plain_loop(setup, member)
        np.testing.assert_allclose(outcome.curve[index], losses, rtol=1e-4, atol=1e-5)
        np.testing.assert_allclose(outcome.test_loss[index], test, rtol=1e-3)
        assert abs(outcome.test_accuracy[index] - accuracy) <= 1 / len(DIGITS.test_y) + 1e-6


def test_a_forward_pass_in_bfloat16_is_that_of_torchs_autocast():
    setup = recipe(loop=Loop(autocast="bfloat16"), steps=3)
    (losses,) = train(setup, [Member(2.0**-5, 0)], DIGITS).curve
    model, _ = setup.build(DIGITS.in_features, DIGITS.classes, 0)
    (batch, *_) = batch_order(len(DIGITS.train_x), setup.batch_size, setup.steps, 0)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        first = torch.nn.functional.cross_entropy(model(DIGITS.train_x[batch]), DIGITS.train_y[batch])
    assert losses[0] == first.item()
    (plain,) = train(recipe(steps=3), [Member(2.0**-5, 0)], DIGITS).curve
    # 2^-8 is what bfloat16 keeps of a number; the weights and their steps keep all of theirs.
    np.testing.assert_allclose(losses, plain, rtol=2.0**-8)
    assert not np.array_equal(losses, plain)


@pytest.mark.parametrize("family", ["sgd", "adam", "sign", "muon"])
def test_alone_as_in_any_shard(family):
    # Signs and orthogonal factors of nearly cancelling gradients turn round-off into whole steps: few steps then.
    setup = recipe(optimizer=Optimizer(family=family), steps=5 if family in ("sign", "muon") else 25)
    trials = members() if family == "sgd" else members((2.0**-10, 2.0**-9, 2.0**-8))
    together = train(setup, trials, DIGITS)
    for index, member in enumerate(trials):
        alone = train(setup, [member], DIGITS)
        np.testing.assert_allclose(alone.curve[0], together.curve[index], **ROUND_OFF)


def test_same_shard_same_bits_whatever_the_order():
    setup, trials = recipe(), members()
    first, again = train(setup, trials, DIGITS), train(setup, trials, DIGITS)
    np.testing.assert_array_equal(first.curve, again.curve)
    backwards = train(setup, trials[::-1], DIGITS)
    np.testing.assert_array_equal(first.curve, backwards.curve[::-1])
    np.testing.assert_array_equal(first.test_loss, backwards.test_loss[::-1])


def test_divergence_is_recorded_and_stays_where_it_arose():
    setup = recipe()
    calm = members()
    wild = [Member(1e3, seed) for seed in (0, 1)]
    outcome = train(setup, calm + wild, DIGITS)
    assert (outcome.diverged_at[: len(calm)] == -1).all()
    assert np.isfinite(outcome.curve[: len(calm)]).all()
    for index in (-1, -2):
        step = outcome.diverged_at[index]
        assert 0 < step < setup.steps
        assert np.isfinite(outcome.curve[index, :step]).all()
        assert np.isnan(outcome.curve[index, step:]).all()
        assert np.isnan(outcome.test_loss[index])
    np.testing.assert_allclose(outcome.curve[: len(calm)], train(setup, calm, DIGITS).curve, **ROUND_OFF)


def test_a_diverged_stack_stops_costing_time(monkeypatch):
    monkeypatch.setattr(ensemble, "stack_size", lambda *_: 2)
    done = []
    setup = recipe(steps=200)
    train(setup, [Member(1e3, 0), Member(2.0**-6, 0), Member(1e3, 1), Member(2.0**-6, 1)], DIGITS, progress=done.append)
    assert 2 * 200 < sum(done) <= 2 * 200 + 2 * 20, "the calm pair's steps and a few of the diverged pair's"


def test_every_epoch_sees_every_sample_once():
    order = batch_order(samples=10, batch_size=3, steps=7, seed=4)
    assert order.shape == (7, 3)
    for epoch in (order[:3], order[3:6]):
        assert len(set(epoch.flatten().tolist())) == 9
    assert torch.equal(order, batch_order(10, 3, 7, seed=4))
    assert not torch.equal(order, batch_order(10, 3, 7, seed=5))
    assert torch.equal(order[:2], batch_order(10, 3, 2, seed=4)), "a longer run begins like a shorter one"


def test_batch_larger_than_the_data_is_named():
    with pytest.raises(InvalidValueError, match="`batch_size` must be at most the 1438"):
        train(recipe(batch_size=2000), members(), DIGITS)


def test_rule_at_its_base_is_standard_parametrization():
    at_base = recipe(width=12, depth=2)
    outcomes = [train(dataclasses.replace(at_base, rule=rule), members(), DIGITS).curve for rule in ("sp", "completep")]
    np.testing.assert_array_equal(*outcomes)


def test_the_global_generator_is_not_touched():
    state = torch.get_rng_state()
    train(recipe(steps=2), members(), DIGITS)
    assert torch.equal(state, torch.get_rng_state())
