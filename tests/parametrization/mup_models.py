"""Three networks, each as mup's users write it and as anybody writes it: only the readout and the attention differ."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

FEATURES, CLASSES, VOCABULARY, TOKENS = 5, 4, 11, 6


class Perceptron(nn.Module):
    """A fixed input, two hidden widths that scale by different factors, a readout."""

    def __init__(self, width: int, readout: type[nn.Linear] = nn.Linear) -> None:
        super().__init__()
        self.first = nn.Linear(FEATURES, width)
        self.second = nn.Linear(width, width)
        self.third = nn.Linear(width, 2 * width, bias=False)
        self.readout = readout(2 * width, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        return self.readout(torch.tanh(self.third(torch.relu(self.second(torch.tanh(self.first(x)))))))


class ResidualPerceptron(nn.Module):
    """Two-layer residual blocks with a norm."""

    def __init__(self, width: int, readout: type[nn.Linear] = nn.Linear) -> None:
        super().__init__()
        self.first = nn.Linear(FEATURES, width)
        self.blocks = nn.ModuleList(
            nn.Sequential(nn.LayerNorm(width), nn.Linear(width, 3 * width), nn.GELU(), nn.Linear(3 * width, width))
            for _ in range(3)
        )
        self.readout = readout(width, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        x = self.first(x)
        for block in self.blocks:
            x = x + block(x)
        return self.readout(x)


class _Attention(nn.Module):
    def __init__(self, width: int, scale: float) -> None:
        super().__init__()
        self.query, self.key, self.value, self.out = (nn.Linear(width, width, bias=i != 1) for i in range(4))
        self.scale = scale

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = (map_(x).unflatten(-1, (2, -1)).transpose(1, 2) for map_ in (self.query, self.key, self.value))
        weights = (q @ k.transpose(-1, -2) * self.scale).softmax(-1)
        return self.out((weights @ v).transpose(1, 2).flatten(2))


class Transformer(nn.Module):
    """Two heads, which grow with the width; `base_head` makes the logits q.k sqrt(base_head) / head, as mup asks."""

    def __init__(self, width: int, readout: type[nn.Linear] = nn.Linear, base_head: int | None = None) -> None:
        super().__init__()
        head = width // 2
        scale = math.sqrt(base_head) / head if base_head else 1 / math.sqrt(head)
        self.embedding, self.positions = nn.Embedding(VOCABULARY, width), nn.Embedding(TOKENS, width)
        self.attention = nn.ModuleList(_Attention(width, scale) for _ in range(2))
        self.mlp = nn.ModuleList(
            nn.Sequential(nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width)) for _ in range(2)
        )
        self.norms = nn.ModuleList(nn.LayerNorm(width) for _ in range(5))
        self.readout = readout(width, VOCABULARY)

    def forward(self, tokens: Tensor) -> Tensor:
        x = self.embedding(tokens) + self.positions(torch.arange(TOKENS))
        for i in range(2):
            x = x + self.attention[i](self.norms[2 * i](x))
            x = x + self.mlp[i](self.norms[2 * i + 1](x))
        return self.readout(self.norms[4](x))
