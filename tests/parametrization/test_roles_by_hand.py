"""Roles given by hand for every parameter: the axes must be those that the trace finds."""

from __future__ import annotations

import torch
from torch import nn

import isoscale

ROLES = {"*": "vector", "readout.bias": "scalar", "embedding.weight": "input", "up.weight": "hidden"}


class Sequence(nn.Module):
    """An embedding is (entries, out), a transposed convolution (in, out, ...), a linear map (out, in)."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.embedding = nn.Embedding(9, width)
        self.up = nn.ConvTranspose1d(width, 2 * width, 2)
        self.readout = nn.Linear(2 * width, 3)

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        return self.readout(torch.relu(self.up(self.embedding(tokens).transpose(1, 2))).mean(2))


def test_axes_by_hand_are_the_traced_ones():
    model, base = Sequence(24), Sequence(8)
    hand = isoscale.parametrize(model, base, "mup", lr=1e-3, roles=ROLES | {"readout.weight": "output"})
    traced = isoscale.parametrize(model, base, "mup", lr=1e-3, example_inputs=(torch.zeros(1, 4, dtype=torch.long),))
    for mine, theirs in zip(hand.entries, traced.entries, strict=True):
        assert (mine.name, mine.role) == (theirs.name, theirs.role)
        assert (mine.fan_in, mine.fan_out) == (theirs.fan_in, theirs.fan_out), mine.name
