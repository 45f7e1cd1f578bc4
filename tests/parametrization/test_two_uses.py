"""A tensor that acts at several places of the forward, and what its uses say together."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from isoscale import Role, parametrize


class Blocks(nn.Module):
    """`act` says what a gain that all blocks share does besides."""

    def __init__(self, width, depth, act):
        super().__init__()
        self.enter, self.leave = nn.Linear(3, width), nn.Linear(width, 2)
        self.up = nn.ModuleList(nn.Linear(width, width) for _ in range(depth))
        self.down = nn.ModuleList(nn.Linear(width, width) for _ in range(depth))
        self.gain, self.act = nn.Parameter(torch.ones(width)), act

    def forward(self, x):
        h = self.enter(x)
        for up, down in zip(self.up, self.down, strict=True):
            h = h + down(F.gelu(up(h) * self.gain))
        return self.leave(self.act(self, h))


def _gain(act, optimizer="adamw"):
    base, model = Blocks(8, 2, act), Blocks(32, 8, act)
    plan = parametrize(model, base, "completep", optimizer, lr=1.0, eps=1e-8, example_inputs=(torch.zeros(1, 3),))
    return next(entry for entry in plan.entries if entry.name == "gain")


def _outside(net, h):
    return h * net.gain


def _dead(net, h):
    _state = net.enter(torch.ones(1, 3)) * net.gain
    return h


def test_where_only_eps_differs_it_follows_the_larger_gradient():
    """In a branch the gradient has passed the branch's multiplier, outside it has not: their sum is as large."""
    alone, outside = _gain(lambda net, h: h), _gain(_outside)
    assert (outside.lr, outside.init) == (alone.lr, alone.init)
    # Width x4, and eight blocks and one more use in the place of two and one.
    assert outside.eps == pytest.approx(1e-8 / 4 * 3)
    assert alone.eps == pytest.approx(1e-8 / 4 * 4 / 4)


def test_what_reaches_no_output_says_nothing():
    assert _gain(_dead) == _gain(lambda net, h: h)


def test_the_bias_of_a_readout_whose_outputs_grow_is_a_vector():
    base, model = (nn.Sequential(nn.Linear(3, width), nn.ReLU(), nn.Linear(width, width)) for width in (8, 32))
    plan = parametrize(model, base, "mup", "sgd", lr=1.0, example_inputs=(torch.zeros(1, 3),))
    (bias,) = (entry for entry in plan.entries if entry.name == "2.bias")
    assert bias.role is Role.VECTOR
    assert bias.lr == 4.0
