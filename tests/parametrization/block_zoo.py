"""Residual blocks of every build, with the multiplier of the branch written out on request."""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from small_nets import Attention
from torch import Tensor, nn

from isoscale import Multiplier


class Block(nn.Module):
    """skip(x) + branch(x), with `scale` on the branch if it is set; then `after`."""

    def __init__(self, branch: nn.Module, skip: nn.Module | None = None, after: nn.Module | None = None) -> None:
        super().__init__()
        self.branch, self.skip, self.after = branch, skip or nn.Identity(), after or nn.Identity()
        self.scale: float | None = None

    def forward(self, x: Tensor) -> Tensor:
        z = self.branch(x)
        return self.after(self.skip(x) + (z if self.scale is None else self.scale * z))


class Gated(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.gate, self.up, self.down = nn.Linear(width, 12), nn.Linear(width, 12), nn.Linear(12, width)

    def forward(self, x: Tensor) -> Tensor:
        return self.down(F.silu(self.gate(x)) * self.up(x))


class Sum(nn.Module):
    """Parallel attention and MLP: one branch of two arms."""

    def __init__(self, *arms: nn.Module) -> None:
        super().__init__()
        self.arms = nn.ModuleList(arms)

    def forward(self, x: Tensor) -> Tensor:
        first, *others = self.arms
        out = first(x)
        for arm in others:
            out = out + arm(x)
        return out


class LayerScale(nn.Module):
    def __init__(self, *shape: int) -> None:
        super().__init__()
        self.gamma = nn.Parameter(torch.full(shape, 0.5))

    def forward(self, x: Tensor) -> Tensor:
        return self.gamma * x


class ZeroCentred(nn.Module):
    """A norm whose scale is stored as its distance from 1."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.gain = nn.Parameter(torch.zeros(width))

    def forward(self, x: Tensor) -> Tensor:
        return F.rms_norm(x, x.shape[-1:]) * (1 + self.gain)


class Shift(nn.Module):
    """A bias on its own, not fused with a map."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.beta = nn.Parameter(torch.full((width,), 0.3))

    def forward(self, x: Tensor) -> Tensor:
        return x + self.beta


class Rotary(nn.Module):
    """Attention whose queries and keys are turned: x cos + rotate(x) sin is an addition, and no residual one."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.q, self.k, self.v, self.out = (nn.Linear(width, width, bias=False) for _ in range(4))

    def turned(self, x: Tensor) -> Tensor:
        angle = torch.arange(x.shape[-2], dtype=x.dtype)[:, None] * torch.ones(x.shape[-1], dtype=x.dtype)
        a, b = x.chunk(2, dim=-1)
        return x * angle.cos() + torch.cat([-b, a], dim=-1) * angle.sin()

    def forward(self, x: Tensor) -> Tensor:
        weights = self.turned(self.q(x)) @ self.turned(self.k(x)).transpose(-1, -2)
        return self.out((weights / x.shape[-1] ** 0.5).softmax(-1) @ self.v(x))


class Attend(nn.MultiheadAttention):
    """torch's own attention, packed."""

    def __init__(self, width: int) -> None:
        super().__init__(width, 2, batch_first=True)

    def forward(self, x: Tensor) -> Tensor:  # type: ignore[override]
        return super().forward(x, x, x, need_weights=False)[0]


def conv(a: int, b: int, size: int = 3, **options: int) -> nn.Conv2d:
    return nn.Conv2d(a, b, size, padding=size // 2, **options)


def mlp(n: int) -> list[nn.Module]:
    return [nn.Linear(n, 12), nn.GELU(), nn.Linear(12, n)]


# Of (batch, time, width)
ROWS: dict[str, Callable[[int], Block]] = {
    "pre-norm": lambda n: Block(nn.Sequential(nn.LayerNorm(n), *mlp(n))),
    "post-norm": lambda n: Block(nn.Sequential(*mlp(n)), after=nn.LayerNorm(n)),
    "sandwich": lambda n: Block(nn.Sequential(nn.RMSNorm(n), *mlp(n), nn.RMSNorm(n))),
    "zero-centred scale": lambda n: Block(nn.Sequential(*mlp(n), ZeroCentred(n))),
    "ends in a layer norm": lambda n: Block(nn.Sequential(*mlp(n), nn.LayerNorm(n))),
    "one map": lambda n: Block(nn.Sequential(nn.Tanh(), nn.Linear(n, n))),
    "three maps": lambda n: Block(nn.Sequential(nn.Linear(n, 9), nn.ReLU(), *mlp(9), nn.ReLU(), nn.Linear(9, n))),
    "ends in relu": lambda n: Block(nn.Sequential(*mlp(n), nn.ReLU())),
    "gated": lambda n: Block(Gated(n)),
    "layer scale": lambda n: Block(nn.Sequential(nn.LayerNorm(n), *mlp(n), LayerScale(n))),
    "ends in a bias": lambda n: Block(nn.Sequential(*mlp(n), Shift(n))),
    "attention": lambda n: Block(nn.Sequential(nn.LayerNorm(n), Attention(n, 2))),
    "grouped queries": lambda n: Block(Attention(n, 4, kv_heads=2)),
    "packed attention": lambda n: Block(nn.Sequential(nn.LayerNorm(n), Attend(n))),
    "rotary attention": lambda n: Block(nn.Sequential(nn.RMSNorm(n), Rotary(n))),
    "parallel": lambda n: Block(nn.Sequential(nn.LayerNorm(n), Sum(Attention(n, 2), nn.Sequential(*mlp(n))))),
    "dropout": lambda n: Block(nn.Sequential(*mlp(n), nn.Dropout(0.0))),
    "gelu, mended": lambda n: Block(nn.Sequential(nn.Linear(n, n), nn.GELU(), Multiplier())),
}

# Of (batch, width, height, width)
IMAGES: dict[str, Callable[[int], Block]] = {
    "basic": lambda n: Block(
        nn.Sequential(conv(n, n), nn.BatchNorm2d(n), nn.ReLU(), conv(n, n), nn.BatchNorm2d(n)), after=nn.ReLU()
    ),
    "bottleneck": lambda n: Block(
        nn.Sequential(conv(n, 4, 1), nn.ReLU(), conv(4, 4), nn.ReLU(), conv(4, n, 1)), after=nn.ReLU()
    ),
    "pre-activation": lambda n: Block(nn.Sequential(nn.GroupNorm(2, n), nn.ReLU(), conv(n, n))),
    "depthwise": lambda n: Block(
        nn.Sequential(conv(n, n, groups=n), conv(n, 12, 1), nn.GELU(), conv(12, n, 1), LayerScale(n, 1, 1))
    ),
    "shortcut conv": lambda n: Block(
        nn.Sequential(conv(n, n, stride=2), nn.BatchNorm2d(n), nn.ReLU(), conv(n, n), nn.BatchNorm2d(n)),
        skip=nn.Sequential(nn.Conv2d(n, n, 1, stride=2), nn.BatchNorm2d(n)),
        after=nn.ReLU(),
    ),
    "pooled shortcut": lambda n: Block(
        nn.Sequential(conv(n, n, stride=2), nn.ReLU(), conv(n, n)), skip=nn.AvgPool2d(2, ceil_mode=True)
    ),
}


class Rows(nn.Module):
    """(batch, 3, 5) -> (batch, 3, 3)"""

    def __init__(self, width: int, depth: int, block: Callable[[int], nn.Module]) -> None:
        super().__init__()
        self.input, self.readout = nn.Linear(5, width), nn.Linear(width, 3)
        self.blocks = nn.ModuleList(block(width) for _ in range(depth))

    def forward(self, x: Tensor) -> Tensor:
        h = self.input(x)
        for block in self.blocks:
            h = block(h)
        return self.readout(h)


class Images(Rows):
    """(batch, 2, 8, 8) -> (batch, 3)"""

    def __init__(self, width: int, depth: int, block: Callable[[int], nn.Module]) -> None:
        super().__init__(width, depth, block)
        self.input = conv(2, width)

    def forward(self, x: Tensor) -> Tensor:
        h = self.input(x)
        for block in self.blocks:
            h = block(h)
        return self.readout(h.mean((2, 3)))
