"""Small models and the plain training loop that the tests of plans share."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from typing import Any, TypeVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from isoscale import Plan, parametrize
from isoscale.models import ResidualMLP

M = TypeVar("M", bound=nn.Module)
Batch = tuple[Tensor, Tensor]

VOCABULARY, CONTEXT = 11, 6


def seeded(make: Callable[[], M], seed: int = 0) -> M:
    """A module made from a seed; torch's own layers draw from the global generator, which is put back."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return make()


def mlp(width: int, depth: int, seed: int = 0, **options: Any) -> ResidualMLP:
    return ResidualMLP(5, 3, width, depth, seed=seed, **options)


def mlp_batches(count: int, size: int = 8, dtype: torch.dtype = torch.float32) -> list[Batch]:
    """(size, 5) inputs and (size,) classes."""
    generator = torch.Generator().manual_seed(1)
    return [
        (torch.randn(size, 5, generator=generator, dtype=dtype), torch.randint(3, (size,), generator=generator))
        for _ in range(count)
    ]


class Attention(nn.Module):
    """Causal self-attention with separate maps; `kv_heads` may be fewer than `heads`."""

    def __init__(self, width: int, heads: int, kv_heads: int | None = None, head: int | None = None) -> None:
        super().__init__()
        self.head = head or width // heads
        self.groups = heads // (kv_heads or heads)
        self.q = nn.Linear(width, heads * self.head)
        self.k = nn.Linear(width, (kv_heads or heads) * self.head)
        self.v = nn.Linear(width, (kv_heads or heads) * self.head)
        self.out = nn.Linear(heads * self.head, width)
        self.logit_multiplier = 1.0

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = (y.unflatten(-1, (-1, self.head)).transpose(1, 2) for y in (self.q(x), self.k(x), self.v(x)))
        k, v = (y.repeat_interleave(self.groups, dim=1) for y in (k, v))
        scale = self.logit_multiplier / math.sqrt(self.head)
        z = F.scaled_dot_product_attention(q, k, v, is_causal=True, scale=scale)
        return self.out(z.transpose(1, 2).flatten(2))


class Layer(nn.Module):
    """Pre-norm attention, then a pre-norm MLP."""

    def __init__(self, width: int, heads: int, **options: Any) -> None:
        super().__init__()
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.RMSNorm(width)
        self.attention = Attention(width, heads, **options)
        self.up, self.down = nn.Linear(width, 2 * width), nn.Linear(2 * width, width)

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.attention(self.norm1(x))
        return x + self.down(F.gelu(self.up(self.norm2(x))))


class Transformer(nn.Module):
    """A decoder with learned positions: tokens (batch, time) -> logits (batch, time, vocabulary)."""

    def __init__(self, width: int, depth: int, heads: int = 2, *, tied: bool = False, **options: Any) -> None:
        super().__init__()
        self.tokens = nn.Embedding(VOCABULARY, width)
        self.positions = nn.Parameter(torch.randn(CONTEXT, width))
        self.layers = nn.ModuleList(Layer(width, heads, **options) for _ in range(depth))
        self.norm = nn.LayerNorm(width)
        self.readout = nn.Linear(width, VOCABULARY, bias=False)
        if tied:
            self.readout.weight = self.tokens.weight

    def forward(self, tokens: Tensor) -> Tensor:
        x = self.tokens(tokens) + self.positions[: tokens.shape[1]]
        for layer in self.layers:
            x = layer(x)
        return self.readout(self.norm(x))


def transformer(width: int, depth: int, seed: int = 0, dtype: torch.dtype = torch.float32, **options: Any) -> nn.Module:
    return seeded(lambda: Transformer(width, depth, **options).to(dtype), seed)


def text_batches(count: int, size: int = 4) -> list[Batch]:
    """(size, CONTEXT) tokens and as many to predict."""
    generator = torch.Generator().manual_seed(2)
    draw = [torch.randint(VOCABULARY, (2, size, CONTEXT), generator=generator) for _ in range(count)]
    return [(tokens, targets) for tokens, targets in draw]


def tokens_in() -> tuple[Tensor]:
    return (torch.zeros(1, CONTEXT, dtype=torch.long),)


def features_in(dtype: torch.dtype = torch.float32) -> tuple[Tensor]:
    return (torch.zeros(1, 5, dtype=dtype),)


def planned_mlp(width: int = 16, depth: int = 4, **options: Any) -> tuple[ResidualMLP, Plan]:
    """An MLP of twice the base's width and twice its depth, and its plan."""
    model = mlp(width, depth)
    given = {"rule": "completep", "optimizer": "adamw", "lr": 0.01, "weight_decay": 0.1} | options
    return model, parametrize(model, mlp(width // 2, depth // 2, seed=7), example_inputs=features_in(), **given)


def planned_transformer(width: int = 16, depth: int = 4, **options: Any) -> tuple[nn.Module, Plan]:
    """The same for the transformer; the heads grow in number."""
    model, base = transformer(width, depth, heads=4), transformer(width // 2, depth // 2, seed=7, heads=2)
    given = {"rule": "completep", "optimizer": "adamw", "lr": 0.01, "weight_decay": 0.1} | options
    return model, parametrize(model, base, example_inputs=tokens_in(), **given)


def loss_of(model: nn.Module, batch: Batch) -> Tensor:
    inputs, targets = batch
    return F.cross_entropy(model(inputs).flatten(0, -2), targets.flatten())


def train(model: nn.Module, optimizers: Any, batches: Iterable[Batch]) -> list[float]:
    """The plain loop; the loss before each step."""
    steppers: Sequence[Any] = optimizers if isinstance(optimizers, list | tuple) else [optimizers]
    losses = []
    for batch in batches:
        loss = loss_of(model, batch)
        for optimizer in steppers:
            optimizer.zero_grad()
        loss.backward()
        for optimizer in steppers:
            optimizer.step()
        losses.append(loss.item())
    return losses


def same_weights(a: nn.Module, b: nn.Module) -> bool:
    """Whether two models of one architecture have bitwise the same state."""
    mine, theirs = a.state_dict(), b.state_dict()
    return mine.keys() == theirs.keys() and all(torch.equal(mine[name], theirs[name]) for name in mine)
