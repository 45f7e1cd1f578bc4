"""Conv nets and transformers as trials: what plain PyTorch does, whatever runs beside them."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from isoscale import data
from isoscale.data import Dataset
from isoscale.errors import InvalidValueError
from isoscale.training import Member, Optimizer, Recipe, ensemble, train
from isoscale.training.config import batch_order

IMAGES = data.load("synthetic", size=6, channels=2, classes=3, train=96, test=40, accuracy=0.99)

# Round-off of float32 over a dozen stable steps.
ROUND_OFF = dict(rtol=2e-4, atol=2e-5)


def text(samples, seed):
    """Counting modulo 7 with a random start: what comes next is known."""
    start = torch.randint(7, (samples, 1), generator=torch.Generator().manual_seed(seed))
    return (start + torch.arange(6)) % 7


TEXT = Dataset(
    name="counting",
    classes=7,
    train_x=text(96, 0)[:, :-1],
    train_y=text(96, 0)[:, 1:],
    test_x=text(40, 1)[:, :-1],
    test_y=text(40, 1)[:, 1:],
)

CASES = [
    ("conv-net", {}, IMAGES),
    ("conv-net", {"dims": 1, "phi": "gelu", "norm": "batch"}, IMAGES),
    ("conv-net", {"norm": "batch", "dropout": 0.3, "kernel": 4}, IMAGES),
    ("conv-resnet", {"branch_init": "he/sqrt(K)", "norm": "batch"}, IMAGES),
    ("conv-resnet", {"block": "pre", "block_depth": 2, "dropout": 0.2, "padding": "zero"}, IMAGES),
    ("vit", {"patch": 2, "head_size": 4}, IMAGES),
    ("gpt", {"head_size": 4, "norm_place": "post"}, TEXT),
]
IDS = [f"{model}-{'-'.join(map(str, options))}" for model, options, _ in CASES]
MEMBERS = [Member(lr, seed) for lr in (2.0**-7, 2.0**-5) for seed in (0, 1, 2)]


def recipe(model, options, **changes):
    settings = dict(width=8, depth=3, base_width=4, base_depth=2, rule="completep", steps=12, batch_size=16)
    return Recipe(model=model, model_args=options, **({"optimizer": Optimizer()} | settings | changes))


def plain_loop(recipe, member, dataset):
    """What a user would write: the module, torch.optim.SGD with a group a tensor, one trial."""
    plan = recipe.plan(dataset.in_shape, dataset.classes, lr=member.lr)
    model, plan = recipe.build(dataset.in_shape, dataset.classes, member.seed, plan)
    optimizer = torch.optim.SGD(plan.param_groups())
    losses = []
    for batch in batch_order(len(dataset.train_x), recipe.batch_size, recipe.steps, member.seed):
        loss = F.cross_entropy(model(dataset.train_x[batch]).flatten(0, -2), dataset.train_y[batch].flatten())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    model.eval()
    with torch.no_grad():
        logits, targets = model(dataset.test_x).flatten(0, -2), dataset.test_y.flatten()
    accuracy = (logits.argmax(1) == targets).float().mean().item()
    return losses, F.cross_entropy(logits, targets).item(), accuracy


@pytest.mark.parametrize(("model", "options", "dataset"), CASES, ids=IDS)
def test_trials_are_those_of_plain_torch_in_any_stack(model, options, dataset, monkeypatch):
    setup = recipe(model, options)
    outcomes = {}
    for size in (1, 4, 6):
        monkeypatch.setattr(ensemble, "stack_size", lambda *_, size=size: size)
        outcomes[size] = train(setup, MEMBERS, dataset)
    for index, member in enumerate(MEMBERS):
        losses, test, accuracy = plain_loop(setup, member, dataset)
        for outcome in outcomes.values():
            np.testing.assert_allclose(outcome.curve[index], losses, **ROUND_OFF)
            np.testing.assert_allclose(outcome.test_loss[index], test, **ROUND_OFF)
            assert abs(outcome.test_accuracy[index] - accuracy) <= 1 / dataset.test_y.numel() + 1e-6


@pytest.mark.parametrize(("model", "options", "dataset"), CASES, ids=IDS)
def test_every_model_learns(model, options, dataset):
    adam = Optimizer(family="adam")
    setup = recipe(model, options, optimizer=adam, rule="sp", base_width=8, base_depth=3, steps=40, batch_size=32)
    outcome = train(setup, [Member(2.0**-7, seed) for seed in (0, 1)], dataset)
    assert (outcome.curve[:, -5:].mean(1) < 0.9 * outcome.curve[:, :5].mean(1)).all()


def test_large_images_train_one_at_a_time_and_small_ones_together():
    assert ensemble.stack_size(16, 64, 32 * 32) == 1
    assert ensemble.stack_size(16, 32, 8 * 8) == 16
    assert ensemble.stack_size(64, 64, 1) == 16
    assert ensemble.stack_size(64, 32, 64, expansion=4) == 1


@pytest.mark.parametrize(
    ("model", "dataset", "message"),
    [
        ("gpt", IMAGES, "model gpt takes tokens, data set synthetic has images"),
        ("residual-mlp", TEXT, "model residual-mlp takes features, data set counting has tokens"),
        ("conv-net", TEXT, "model conv-net takes images, data set counting has tokens"),
        ("conv-net", IMAGES.flatten(), "model conv-net takes images or sequences"),
        ("vit", IMAGES, "`patch` 4 does not divide the image, 6x6"),
    ],
)
def test_data_of_another_kind_is_refused(model, dataset, message):
    with pytest.raises(InvalidValueError, match=message):
        train(recipe(model, {}), MEMBERS, dataset)
