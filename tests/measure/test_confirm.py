"""The sweep around a learning rate, on a problem whose optimum is known."""

import math

import pytest
import torch
from torch import nn

from isoscale.errors import InvalidTypeError, InvalidValueError
from isoscale.measure import confirm_lr
from isoscale.models import ConvNet, ResidualMLP

X, Y = torch.eye(4), torch.zeros(4, 2)


def linear(seed):
    layer = nn.Linear(4, 2, bias=False)
    nn.init.normal_(layer.weight, generator=torch.Generator().manual_seed(seed))
    return layer


def quadratic(f, y):
    return 1 + (f - y).square().sum() / 2  # = 1 + |W|^2 / 2: gradient descent contracts by 1 - lr, best lr is 1


@pytest.mark.parametrize("asked", [1.0, 2.0, 0.25])
def test_finds_the_best(asked):
    found = confirm_lr(linear, [(X, Y)], quadratic, asked, steps=4)
    # Between the neighbours of the grid's best rate; the loss is steeper above it, and at 4 it has blown up.
    assert abs(math.log2(found.lr)) < 1
    assert found.octaves == pytest.approx(math.log2(asked / found.lr))
    side = "above" if asked > found.lr else "below"
    away = f"is {abs(found.octaves):.1f} octaves {side} it"
    near = "is the same within 0.1 octaves"
    assert found.statement.endswith(near if abs(found.octaves) < 0.1 else away)
    assert found.loss.sizes == {"lr": 9, "seed": 3}
    assert float(found.loss.sel(lr=1.0).max()) == pytest.approx(1.0, abs=1e-12)


def test_at_the_edge_and_beyond():
    assert "the sweep's edge" in confirm_lr(linear, [(X, Y)], quadratic, 1e-4, steps=3, seeds=1).statement
    nothing = confirm_lr(linear, [(X, Y)], quadratic, 1e9, steps=40, seeds=2)
    assert math.isnan(nothing.lr)
    assert "diverge at every learning rate" in nothing.statement
    assert nothing.loss.isnull().all()


def test_one_seed_of_three_trains():
    def make(seed):
        layer = linear(seed)
        if seed:
            nn.init.constant_(layer.weight, math.inf)
        return layer

    found = confirm_lr(make, [(X, Y)], quadratic, 1.0, steps=2)
    assert math.isnan(found.lr)
    assert found.loss.notnull().any()


@pytest.mark.parametrize("optimizer", ["adam", "adamw", "sign", "muon"])
def test_every_family(optimizer):
    if optimizer == "muon" and not hasattr(torch.optim, "Muon"):
        pytest.skip("torch without Muon")
    x = torch.randn(4, 8, generator=torch.Generator().manual_seed(0))
    make = lambda seed: ResidualMLP(8, 2, width=8, depth=2, seed=seed)  # noqa: E731
    found = confirm_lr(make, [(x, torch.zeros(4, 2))], quadratic, 0.01, optimizer=optimizer, steps=3, seeds=1)
    assert found.loss.notnull().all()
    assert len(set(found.loss.values.ravel().tolist())) == 9


def test_sign_moves_each_entry_by_the_rate():
    start = 1 + float(linear(0).weight.detach().square().sum() / 2)
    found = confirm_lr(linear, [(X, Y)], quadratic, 1e-3, optimizer="sign", steps=2, seeds=1)
    weight = linear(0).weight.detach()
    after = 1 + float((weight - 1e-3 * weight.sign()).square().sum() / 2)
    assert float(found.loss.sel(lr=1e-3).squeeze()) == pytest.approx(after)
    assert after < start


def test_bad_input():
    with pytest.raises(InvalidValueError, match="adam"):
        confirm_lr(linear, [(X, Y)], quadratic, 1.0, optimizer="adamx")
    for lr in (0.0, -1.0, math.nan, math.inf):
        with pytest.raises(InvalidValueError, match="`lr`"):
            confirm_lr(linear, [(X, Y)], quadratic, lr)
    with pytest.raises(InvalidValueError, match="`steps`"):
        confirm_lr(linear, [(X, Y)], quadratic, 1.0, steps=0)
    with pytest.raises(InvalidValueError, match="`batches`"):
        confirm_lr(linear, [], quadratic, 1.0)
    with pytest.raises(InvalidTypeError, match="one number"):
        confirm_lr(linear, [(X, Y)], lambda f, y: f, 1.0)
    if hasattr(torch.optim, "Muon"):
        conv = lambda seed: ConvNet((1, 4, 4), 2, width=4, depth=3, seed=seed)  # noqa: E731
        batch = torch.zeros(2, 1, 4, 4), torch.zeros(2, 2)
        with pytest.raises(InvalidValueError, match="Muon does not step this model"):
            confirm_lr(conv, [batch], quadratic, 1.0, optimizer="muon")
