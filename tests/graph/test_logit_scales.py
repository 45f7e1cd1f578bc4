"""What a forward multiplies q.k by is read off it, however it is spelled."""

import math

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from isoscale import Multiplier
from isoscale.graph.attention import attentions
from isoscale.graph.trace import trace

HEAD = 8


class Attention(nn.Module):
    """Two heads of size 8; `attend` is told queries, keys, values and the module."""

    def __init__(self, attend):
        super().__init__()
        self.q, self.k, self.v, self.out = (nn.Linear(16, 16) for _ in range(4))
        self.attend, self.multiplier = attend, Multiplier()
        self.multiplier.factor = 0.3
        self.temperature = nn.Parameter(torch.ones(2, 1, 1))
        self.register_buffer("scale", torch.tensor(0.25))

    def forward(self, x):
        q, k, v = (linear(x).unflatten(-1, (2, HEAD)).transpose(1, 2) for linear in (self.q, self.k, self.v))
        return self.out(self.attend(q, k, v, self).transpose(1, 2).flatten(2))


def by_hand(q, k, v, scaled):
    return scaled(q @ k.transpose(-1, -2)).softmax(-1) @ v


def rotated(x):
    angle = torch.arange(x.shape[-2])[:, None] * torch.ones(HEAD)
    a, b = x.chunk(2, -1)
    return x * angle.cos() + torch.cat([-b, a], -1) * angle.sin()


def below(logits):
    return torch.ones(logits.shape[-2:]).triu(1) > 0


ROOT = HEAD**-0.5
READ = {
    "torch's own": (ROOT, lambda q, k, v, _: F.scaled_dot_product_attention(q, k, v)),
    "with a mask": (
        ROOT,
        lambda q, k, v, _: F.scaled_dot_product_attention(q, k, v, torch.zeros(3, 3), is_causal=False),
    ),
    "given": (1 / HEAD, lambda q, k, v, _: F.scaled_dot_product_attention(q, k, v, scale=1 / HEAD)),
    "on the queries, then 1": (0.2, lambda q, k, v, _: F.scaled_dot_product_attention(q * 0.2, k, v, scale=1.0)),
    "on queries and keys": (0.06, lambda q, k, v, _: by_hand(q * 0.2, 0.3 * k, v, lambda z: z)),
    "multiplied": (0.2, lambda q, k, v, _: by_hand(q, k, v, lambda z: z * 0.2)),
    "divided": (ROOT, lambda q, k, v, _: by_hand(q, k, v, lambda z: z / math.sqrt(HEAD))),
    "in place": (ROOT, lambda q, k, v, _: by_hand(q, k, v, lambda z: z.div_(math.sqrt(HEAD)))),
    "by a tensor of one number": (0.5, lambda q, k, v, _: by_hand(q, k, v, lambda z: z / torch.full([], 2.0))),
    "by a tensor's root": (0.5, lambda q, k, v, _: by_hand(q, k, v, lambda z: z / torch.tensor(4.0).sqrt())),
    "before a mask": (
        0.5,
        lambda q, k, v, _: by_hand(q, k, v, lambda z: (z * 0.5).masked_fill(below(z), float("-inf"))),
    ),
    "before a rotation": (0.25, lambda q, k, v, _: by_hand(rotated(q * 0.5), rotated(k / 2), v, lambda z: z)),
    "as baddbmm's alpha": (
        0.125,
        lambda q, k, v, _: (
            torch.baddbmm(torch.zeros(1, 3, 3), q.flatten(0, 1), k.flatten(0, 1).mT, alpha=0.125)
            .softmax(-1)
            .matmul(v.flatten(0, 1))
            .unflatten(0, (-1, 2))
        ),
    ),
    "by a buffer": (0.25, lambda q, k, v, m: by_hand(q, k, v, lambda z: z * m.scale)),
    "by a buffer's root": (0.5, lambda q, k, v, m: by_hand(q, k, v, lambda z: z * m.scale.sqrt())),
    "none": (1.0, lambda q, k, v, _: by_hand(q, k, v, lambda z: z)),
    "after a norm": (3.0, lambda q, k, v, _: by_hand(F.layer_norm(0.1 * q, (HEAD,)) * 3, k, v, lambda z: z)),
    "after a learned gain": (3.0, lambda q, k, v, m: by_hand(q * m.temperature * 3, k, v, lambda z: z)),
    "a multiplier beside": (0.5, lambda q, k, v, m: by_hand(m.multiplier(q), k, v, lambda z: 0.5 * z)),
}
UNKNOWN = {
    "by a learned temperature": lambda q, k, v, m: by_hand(q, k, v, lambda z: 0.5 * m.temperature * z),
    "by what is computed from the data": lambda q, k, v, _: by_hand(q * q.mean(), k, v, lambda z: z),
    "past a nonlinearity": lambda q, k, v, _: by_hand(torch.tanh(0.1 * q), k, v, lambda z: z),
    "two scales in a sum": lambda q, k, v, _: by_hand(q * 0.5 + q.flip(-1), k, v, lambda z: z),
    "by zero": lambda q, k, v, _: F.scaled_dot_product_attention(q, k, v, scale=0.0),
}


def traced(attend):
    return trace(Attention(attend), (torch.zeros(1, 3, 16),))


@pytest.mark.parametrize("kind", READ)
def test_a_constant_factor_is_read(kind):
    scale, attend = READ[kind]
    (found,) = attentions(traced(attend))
    assert found.head_size == HEAD
    assert found.scale == pytest.approx(scale, rel=1e-12)


@pytest.mark.parametrize("kind", UNKNOWN)
def test_what_cannot_be_read_is_unknown(kind):
    (found,) = attentions(traced(UNKNOWN[kind]))
    assert (found.head_size, found.scale) == (HEAD, None)


def test_torchs_own_module_divides_by_the_root_of_the_head_size():
    def scale(weights):
        class Own(nn.MultiheadAttention):
            def forward(self, x):
                return super().forward(x, x, x, need_weights=weights)[0]

        (found,) = attentions(trace(Own(16, 2, batch_first=True), (torch.zeros(1, 3, 16),)))
        return found.scale

    assert [scale(weights) for weights in (False, True)] == pytest.approx([ROOT] * 2, rel=1e-12)
