"""A sweep trains what `parametrize` hands out: its settings, its initial weights, and the curve of a plain loop."""

import dataclasses
import itertools
import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from isoscale import Sweep, models, parametrize, rules
from isoscale.errors import InvalidValueError, PlanError
from isoscale.rules import OPTIMIZERS
from isoscale.runs import shards, worker
from isoscale.training import Member, train
from isoscale.training.torch_optimizers import optimizers

RULES = [*rules.names(), "residual-family(0.5,0.75)"]

# Every kind of place that a branch's multiplier can stand on: a weight, a norm's gain, a Multiplier in the forward.
MODELS = [
    ("residual-mlp", {"block_depth": 1}),
    ("residual-mlp", {"norm": "layer"}),
    ("residual-mlp", {"block_depth": 3, "norm": "rms", "phi": "tanh"}),
    ("conv-net", {"init": "he"}),
    ("conv-net", {"norm": "batch", "readout_bias": True}),
    ("conv-resnet", {}),
    ("conv-resnet", {"norm": "batch"}),
    ("conv-resnet", {"phi": "gelu"}),
    ("conv-resnet", {"centre": True}),
    ("conv-resnet", {"block": "pre", "block_depth": 2, "mlp_ratio": 2, "branch_init": "he/sqrt(K)"}),
    ("vit", {"patch": 4, "head_size": 4}),
    ("gpt", {"head_size": 4}),
    ("gpt", {"head_size": 4, "norm_place": "post", "norm": "rms"}),
    ("gpt", {"heads": 2}),
]
IDS = ["-".join([model, *map(str, itertools.chain(*options.items()))]) for model, options in MODELS]

BATCH, STEPS, DECAY = 8, 4, 0.1


@pytest.fixture(scope="module")
def texts(tmp_path_factory):
    """A folder with a text of forty letters, for the models of tokens."""
    folder = tmp_path_factory.mktemp("texts")
    rng = np.random.default_rng(0)
    words = ["".join(rng.choice(list("abcdefghij"), 5)) for _ in range(400)]
    (folder / "text.txt").write_text(" ".join(words))
    return str(folder)


def spec(model, options, rule, optimizer, width=8, depth=4, base_width=4, base_depth=2, **more):
    """A sweep of one trial; data of the kind that the model takes."""
    tokens = models.takes(model) == "tokens"
    return Sweep(
        model=model,
        model_args=options,
        dataset="text" if tokens else "digits",
        dataset_args={"context": 6} if tokens else {},
        rule=rule,
        optimizer=optimizer,
        widths=[width],
        depths=[depth],
        base_width=base_width,
        base_depth=base_depth,
        steps=STEPS,
        batch_size=BATCH,
        **({"weight_decay": DECAY} | more),
    )


def by_hand(one, model_name, options):
    """The same trial as a user makes it: two models with weights of their own, and `isoscale.parametrize`."""
    shape, classes = one.data.in_shape, one.data.classes
    sizes = {"width": one.config.base_width, "depth": one.config.base_depth}
    base = models.build(model_name, options, in_shape=shape, out_features=classes, seed=11, **sizes)
    model = models.build(model_name, options, in_shape=shape, out_features=classes, seed=one.seed, **one.sizes)
    told = one.config.optimizer
    return model, parametrize(
        model,
        base,
        one.rule,
        told.family,
        lr=one.lr,
        weight_decay=told.weight_decay,
        eps=told.eps,
        example_inputs=model.example_inputs,
    )


@settings(max_examples=20)
@given(
    network=st.sampled_from(MODELS),
    rule=st.sampled_from(RULES),
    optimizer=st.sampled_from(OPTIMIZERS),
    width=st.sampled_from([4, 8, 12]),
    depth=st.sampled_from([2, 3, 4]),
    eps=st.sampled_from([1e-8, 1e-3]),
)
def test_settings_of_a_sweep_are_those_of_parametrize(texts, network, rule, optimizer, width, depth, eps):
    model_name, options = network
    sweep = spec(model_name, options, rule, optimizer, width=width, depth=depth, eps=eps)
    one = sweep.trial(lr=0.03, seed=1, data=texts)
    model, plan = by_hand(one, model_name, options)
    source, _ = worker.source(sweep.dataset, texts, tuple(sweep.dataset_args.items()), model_name)
    (shard,) = shards.make(sweep, source)
    assert shard.plan.multipliers == plan.multipliers
    for trained, told in zip(shard.plan.entries, plan.entries, strict=True):
        assert trained.name == told.name
        for number in ("role", "optimizer", "init", "multiplier", "weight_decay", "eps"):
            assert getattr(trained, number) == getattr(told, number), (told.name, number)
        assert 0.03 * trained.lr == told.lr, told.name
    # The law of the model's own init is told from the size of its entries: of a hundred or more, whatever was drawn.
    few = {told.name for told in plan.entries if math.prod(told.base_shape) < 100}
    for (name, mine), theirs in zip(one.model().named_parameters(), model.parameters(), strict=True):
        if name not in few:
            torch.testing.assert_close(mine, theirs, rtol=1e-6, atol=0, msg=name)


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
@pytest.mark.parametrize(("model_name", "options"), MODELS, ids=IDS)
def test_a_plain_loop_over_a_trial_gives_the_stored_curve(texts, model_name, options, optimizer):
    """With decay and momentum on, under a rule that changes as the cases go on."""
    rule = RULES[(MODELS.index((model_name, options)) + OPTIMIZERS.index(optimizer)) % len(RULES)]
    momentum = {} if optimizer in ("adam", "adamw") else {"momentum": 0.8}
    lr = {"sgd": 2.0**-7, "muon": 2.0**-8}.get(optimizer, 2.0**-9)
    # Away from eps, a small gradient's direction is round-off.
    one = spec(model_name, options, rule, optimizer, eps=1e-4, **momentum).trial(lr=lr, seed=3, data=texts)
    stored = train(one.config, [Member(lr, 3)], one.data)
    model = one.model()
    steppers = optimizers(optimizer, one.plan.param_groups())
    losses = []
    for x, y in one.batches():
        loss = one.loss(model(x), y)
        for stepper in steppers:
            stepper.zero_grad()
        loss.backward()
        for stepper in steppers:
            stepper.step()
        losses.append(loss.item())
    # Float32 keeps 6e-8; a few steps of a few layers add up some hundred roundings. Signs of nearly cancelling
    # gradients turn roundings into whole steps, and torch's Muon runs in bfloat16, which keeps 4e-3: what they change
    # is a share of the loss's own change.
    moved = max(abs(loss - losses[0]) for loss in losses)
    allowed = 2e-5 * losses[0] + (0.05 * moved if optimizer in ("sign", "muon") else 0.0)
    np.testing.assert_allclose(stored.curve[0], losses, rtol=0, atol=allowed)
    assert moved > 1e-3, "the test must train"


def test_models_of_one_trial_are_alike_and_independent(texts):
    one = spec("residual-mlp", {}, "completep", "sgd").trial(lr=0.1, seed=0)
    first, plan = one.model(), one.plan
    second = one.model()
    assert first is not second
    for a, b in zip(first.parameters(), second.parameters(), strict=True):
        assert torch.equal(a, b)
    assert plan.param_groups()[0]["params"][0] is next(first.parameters())
    assert one.plan.param_groups()[0]["params"][0] is next(second.parameters())


def test_an_axis_with_several_values_must_be_chosen():
    sweep = Sweep(widths=[8], depths=[2, 4], seeds=2)
    with pytest.raises(ValueError, match="`depth` must be given: the sweep has 2, 4"):
        sweep.trial(lr=0.1, seed=0)
    with pytest.raises(ValueError, match="`seed` must be given: the sweep has 0, 1"):
        sweep.trial(lr=0.1, depth=2)
    with pytest.raises(ValueError, match="`lr` must be > 0"):
        sweep.trial(lr=-0.1, depth=2, seed=0)


def test_what_parametrize_refuses_a_sweep_refuses(texts):
    """Before anything trains: a plan with an open item is no plan."""
    sweep = spec("gpt", {"head_size": 8}, "mup", "sgd", width=16, base_width=8)
    grown = spec("gpt", {"heads": 2}, "mup", "sgd", width=16, base_width=8)
    for one in (sweep, grown):
        one.trial(lr=0.1, seed=0, data=texts)
    source, _ = worker.source("digits", None, (), "conv-net")
    with pytest.raises(PlanError, match="hidden"):
        shards.make(spec("conv-net", {}, "mup", "sgd", base_depth=1), source)


@pytest.mark.parametrize("optimizer", ["adamw", "sgd"])
def test_a_sweep_follows_its_budget_as_parametrize_does(optimizer):
    budget = {"adamw": "completed-p", "sgd": "linear"}[optimizer]
    spec = Sweep(
        widths=[8],
        depths=[2],
        batch_sizes=[16, 64],
        steps=[5, 10],
        budget=budget,
        optimizer=optimizer,
        weight_decay=0.1,
        lrs=[0.01],
        seeds=1,
        dataset="synthetic",
    )
    for batch_size, steps in itertools.product((16, 64), (5, 10)):
        trial = spec.trial(batch_size=batch_size, steps=steps)
        batch = batch_size / 16
        factors = rules.budget(budget).factors(optimizer, batch=batch, tokens=batch * steps / 5)
        plain = dataclasses.replace(spec, budget="none").trial(batch_size=batch_size, steps=steps)
        for one, other in zip(trial.plan.entries, plain.plan.entries, strict=True):
            assert one.lr == pytest.approx(other.lr * factors.lr, rel=1e-12)
            assert one.weight_decay == pytest.approx(other.weight_decay * factors.weight_decay, rel=1e-12)
            assert one.betas in (None, factors.betas((0.9, 0.999)))
        assert (trial.key == plain.key) == (batch == 1 and steps == 5 and trial.plan == plain.plan)


def test_budgets_that_no_sweep_has():
    with pytest.raises(InvalidValueError, match="stated for sgd, not for adamw"):
        Sweep(optimizer="adamw", budget="linear")
    with pytest.raises(InvalidValueError, match="does not reach a command"):
        Sweep(command="run {lr} {seed}", lrs=[0.1], budget="sqrt-batch")
    with pytest.raises(InvalidValueError, match="Nearest: completed-p"):
        Sweep(budget="completed")
