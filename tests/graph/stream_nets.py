"""Small networks whose residual branches are known by construction: what a trace must make of them.

Each maps features (batch, 5), (batch, time, 5) or images to 3 numbers, by way of `depth` blocks of a width.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional as F

IN, OUT = 5, 3


def mlp(width: int) -> nn.Sequential:
    """norm, up, down: its last weight is `3.weight`."""
    return nn.Sequential(nn.LayerNorm(width), nn.Linear(width, 2 * width), nn.GELU(), nn.Linear(2 * width, width))


def several(make: Callable[[], nn.Module], number: int) -> nn.ModuleList:
    return nn.ModuleList(make() for _ in range(number))


class Net(nn.Module):
    """Blocks between an input layer and a readout."""

    def __init__(self, width: int, depth: int) -> None:
        super().__init__()
        self.enter, self.leave = nn.Linear(IN, width), nn.Linear(width, OUT)
        self.depth = depth

    def forward(self, x: Tensor, *more: Tensor) -> Tensor:
        return self.leave(self.stream(self.enter(x), *more))

    def stream(self, h: Tensor, *more: Tensor) -> Tensor:
        raise NotImplementedError


class Blocks(Net):
    """Equal blocks one after the other."""

    def __init__(self, width: int, depth: int, block: Callable[[int], nn.Module]) -> None:
        super().__init__(width, depth)
        self.blocks = several(lambda: block(width), depth)

    def stream(self, h: Tensor, *more: Tensor) -> Tensor:
        for block in self.blocks:
            h = block(h, *more)
        return h


# --- conditioning ---
class Injected(Net):
    """h + block(h + signal): an embedded time, a projection of it for each block, or the embedded input."""

    def __init__(self, width: int, depth: int, signal: str) -> None:
        super().__init__(width, depth)
        self.time = nn.Sequential(nn.Linear(IN, width), nn.SiLU(), nn.Linear(width, width))
        self.own = several(lambda: nn.Linear(width, width), depth if signal == "own" else 0)
        self.blocks = several(lambda: mlp(width), depth)
        self.signal = signal

    def stream(self, h: Tensor, c: Tensor) -> Tensor:
        first, time = h, self.time(c)
        for i, block in enumerate(self.blocks):
            signal = {"time": time, "input": first}.get(self.signal)
            h = h + block(h + (self.own[i](time) if signal is None else signal))
        # The signal enters once more, on the stream.
        return h + time


def parts(z: Tensor, how: str) -> tuple[Tensor, ...]:
    """Six parts of the last axis."""
    size = z.shape[-1] // 6
    if how == "chunk":
        return z.chunk(6, -1)
    if how == "split":
        return z.split(size, -1)
    if how == "unbind":
        return z.unflatten(-1, (6, size)).unbind(-2)
    return tuple(z[..., i * size : (i + 1) * size] for i in range(6))


class Modulated(nn.Module):
    """Two branches, with shift, scale and gate from one map of the condition (adaLN); `map` is the block's own."""

    def __init__(self, width: int, how: str) -> None:
        super().__init__()
        self.map, self.one, self.two = nn.Linear(width, 6 * width), mlp(width), mlp(width)
        self.how = how

    def forward(self, h: Tensor, c: Tensor) -> Tensor:
        shift, scale, gate, shift2, scale2, gate2 = parts(self.map(F.silu(c)), self.how)
        h = h + gate * self.one(h * (1 + scale) + shift)
        return h + self.two(h * (1 + scale2) + shift2) * gate2


class Conditioned(Blocks):
    def __init__(self, width: int, depth: int, block: Callable[[int], nn.Module]) -> None:
        super().__init__(width, depth, block)
        self.condition = nn.Linear(IN, width)
        self.last = nn.Linear(width, 2 * width)

    def stream(self, h: Tensor, c: Tensor) -> Tensor:
        c = self.condition(c)
        h = super().stream(h, c)
        shift, scale = self.last(c).chunk(2, -1)
        return F.layer_norm(h, h.shape[-1:]) * (1 + scale) + shift


class FiLM(nn.Module):
    """Separate maps for scale and shift, after the norm."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.scale, self.shift = nn.Linear(width, width), nn.Linear(width, width)
        self.up, self.down = nn.Linear(width, width), nn.Linear(width, width)

    def forward(self, h: Tensor, c: Tensor) -> Tensor:
        z = F.layer_norm(self.up(h), h.shape[-1:]) * (1 + self.scale(c)) + self.shift(c)
        return h + self.down(z.relu())


# --- sums of several terms ---
class Terms(nn.Module):
    def __init__(self, width: int, order: str) -> None:
        super().__init__()
        self.one, self.two = mlp(width), mlp(width)
        self.order = order

    def forward(self, x: Tensor) -> Tensor:
        f, g = self.one(x), self.two(x)
        if self.order == "x + f + g":
            return x + f + g
        if self.order == "f + x + g":
            return f + x + g
        if self.order == "f + g + x":
            return f + g + x
        if self.order == "stack":
            return torch.stack([f, x, g], 1).sum(1)
        return sum([x, f, g])  # type: ignore[return-value]


# --- residual sums inside a branch ---
class Nested(nn.Module):
    """A bottleneck with a residual block of its own, or several."""

    def __init__(self, width: int, inner: int) -> None:
        super().__init__()
        self.down, self.up = nn.Linear(width, width // 2), nn.Linear(width // 2, width)
        self.inner = several(lambda: mlp(width // 2), inner)
        self.norm = nn.LayerNorm(width)

    def forward(self, x: Tensor) -> Tensor:
        h = self.down(x)
        for inner in self.inner:
            h = h + inner(h)
        return self.norm(x + self.up(h))


class StateSpace(nn.Module):
    """x + out((scan(z) + d z) gate): the skip past the scan is inside the branch."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.into, self.out = nn.Linear(width, 2 * width), nn.Linear(width, width)
        self.conv, self.scan = nn.Conv1d(width, width, 3, padding=1, groups=width), nn.Linear(width, width)
        self.d = nn.Parameter(torch.ones(width))

    def forward(self, x: Tensor) -> Tensor:
        z, gate = self.into(F.rms_norm(x, x.shape[-1:])).chunk(2, -1)
        z = F.silu(self.conv(z.transpose(1, 2)).transpose(1, 2))
        return x + self.out((self.scan(z).cumsum(1) + self.d * z) * F.silu(gate))


class Res2(nn.Module):
    """Each quarter of the channels is convolved together with the quarter before it."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.down, self.up = nn.Linear(width, width), nn.Linear(width, width)
        self.parts = several(lambda: nn.Linear(width // 4, width // 4), 3)

    def forward(self, x: Tensor) -> Tensor:
        first, *others = self.down(x).relu().chunk(4, -1)
        done = [first]
        last: Tensor | None = None
        for part, linear in zip(others, self.parts, strict=True):
            last = linear(part if last is None else part + last).relu()
            done.append(last)
        return (x + self.up(torch.cat(done, -1))).relu()


class AroundAll(Net):
    """A skip around all blocks, and a layer after them (super-resolution); or groups of blocks, each with its skip."""

    def __init__(self, width: int, depth: int, groups: int) -> None:
        super().__init__(width, depth)
        self.groups = several(lambda: several(lambda: mlp(width), depth), groups)
        self.tails = several(lambda: nn.Linear(width, width), groups)

    def stream(self, h: Tensor, *more: Tensor) -> Tensor:
        for group, tail in zip(self.groups, self.tails, strict=True):
            start = h
            for block in group:
                h = h + block(h)
            h = start + tail(h)
        return h


class UNet(Net):
    """Blocks at two resolutions, joined by a sum."""

    def __init__(self, width: int, depth: int) -> None:
        super().__init__(width, depth)
        self.before, self.inside, self.after = (several(lambda: mlp(width), depth) for _ in range(3))
        self.down, self.up = nn.Linear(width, width), nn.Linear(width, width)

    def stream(self, h: Tensor, *more: Tensor) -> Tensor:
        for block in self.before:
            h = h + block(h)
        low = self.down(h)
        for block in self.inside:
            low = low + block(low)
        h = h + self.up(low)
        for block in self.after:
            h = h + block(h)
        return h


class Doubled(nn.Module):
    """A skip around a block that has one already."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.mlp = mlp(width)

    def forward(self, x: Tensor) -> Tensor:
        return 0.5 * (x + (x + self.mlp(x)))


class Remembering(Net):
    """Learned scalars mix the first value of the stream into each block's."""

    def __init__(self, width: int, depth: int) -> None:
        super().__init__(width, depth)
        self.blocks = several(lambda: mlp(width), depth)
        self.keep, self.first = nn.Parameter(torch.ones(depth)), nn.Parameter(torch.ones(depth))

    def stream(self, h: Tensor, *more: Tensor) -> Tensor:
        start = h
        for i, block in enumerate(self.blocks):
            h = self.keep[i] * h + self.first[i] * start
            h = h + block(h)
        return h


# --- streams that are split and joined ---
class Coupled(Net):
    """Two coupled streams (reversible nets): split once, or anew in each block."""

    def __init__(self, width: int, depth: int, anew: bool) -> None:
        super().__init__(width, depth)
        self.f, self.g = (several(lambda: mlp(width // 2), depth) for _ in range(2))
        self.anew = anew

    def stream(self, h: Tensor, *more: Tensor) -> Tensor:
        one, two = h.chunk(2, -1)
        for f, g in zip(self.f, self.g, strict=True):
            one = one + f(two)
            two = two + g(one)
            if self.anew:
                one, two = torch.cat([one, two], -1).chunk(2, -1)
        return torch.cat([one, two], -1)


class Divided(nn.Module):
    """The class token is set aside, and joined again (TimeSformer): (batch, time, width)."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.time, self.space, self.mlp = mlp(width), mlp(width), mlp(width)

    def forward(self, x: Tensor) -> Tensor:
        token, rest = x[:, :1], x[:, 1:]
        rest = rest + self.time(rest)
        z = self.space(torch.cat([token.clone(), rest], 1))
        x = torch.cat([token, rest], 1) + torch.cat([z[:, :1].mean(1, keepdim=True), z[:, 1:]], 1)
        return x + self.mlp(x)


class WithToken(Net):
    """A class token is put before the positions, and read alone: (batch, time, 5)."""

    def __init__(self, width: int, depth: int) -> None:
        super().__init__(width, depth)
        self.token = nn.Parameter(torch.zeros(1, 1, width))
        self.blocks = several(lambda: mlp(width), depth)

    def stream(self, h: Tensor, *more: Tensor) -> Tensor:
        h = torch.cat([self.token.expand(len(h), 1, -1), h], 1)
        for block in self.blocks:
            h = h + block(h)
        return h[:, 0]


class Dense(Net):
    """Each layer's result is joined to what was there."""

    def __init__(self, width: int, depth: int) -> None:
        super().__init__(width, depth)
        self.layers = nn.ModuleList(nn.Linear(width * (i + 1), width) for i in range(depth))
        self.leave = nn.Linear(width * (depth + 1), OUT)

    def stream(self, h: Tensor, *more: Tensor) -> Tensor:
        for layer in self.layers:
            h = torch.cat([h, layer(h.relu())], -1)
        return h


# --- in time ---
class Cell(Net):
    """A gated cell over time, in a loop; the state's update is written as a sum, or as a mean of two."""

    def __init__(self, width: int, depth: int, update: str) -> None:
        super().__init__(width, depth)
        self.into, self.over = nn.Linear(width, 2 * width), nn.Linear(width, 2 * width, bias=False)
        self.update = update

    def stream(self, h: Tensor, *more: Tensor) -> Tensor:
        state = torch.zeros_like(h[:, 0])
        for t in range(h.shape[1]):
            z, n = (self.into(h[:, t]) + self.over(state)).chunk(2, -1)
            z, n = z.sigmoid(), n.tanh()
            state = state + z * (n - state) if self.update == "sum" else (1 - z) * state + z * n
        return state


class Recurrent(Net):
    def __init__(self, width: int, depth: int, kind: Callable[..., nn.RNNBase]) -> None:
        super().__init__(width, depth)
        self.cell = kind(width, width, batch_first=True)

    def stream(self, h: Tensor, *more: Tensor) -> Tensor:
        return self.cell(h)[0][:, -1]


class Again(Net):
    """One block, run `depth` times: depth, not time."""

    def __init__(self, width: int, depth: int) -> None:
        super().__init__(width, depth)
        self.block = mlp(width)

    def stream(self, h: Tensor, *more: Tensor) -> Tensor:
        for _ in range(self.depth):
            h = h + self.block(h)
        return h


# --- without a matrix, picked, gated ---
class Pool(nn.Module):
    """h + pool(norm h) - norm h, then an MLP: (batch, time, width)."""

    def __init__(self, width: int, affine: bool = True) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width, elementwise_affine=affine)
        self.up, self.down = nn.Linear(width, 2 * width), nn.Linear(2 * width, width)
        self.pool = nn.AvgPool1d(3, 1, 1, count_include_pad=False)

    def forward(self, x: Tensor) -> Tensor:
        z = self.norm(x)
        x = x + (self.pool(z.transpose(1, 2)).transpose(1, 2) - z)
        return x + self.down(F.gelu(self.up(x)))


class Fourier(nn.Module):
    """norm(h + Re FFT h), then an MLP: (batch, time, width)."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm, self.up, self.down = nn.LayerNorm(width), nn.Linear(width, 2 * width), nn.Linear(2 * width, width)

    def forward(self, x: Tensor) -> Tensor:
        x = self.norm(x + torch.fft.fft2(x).real)
        return x + self.down(F.gelu(self.up(x)))


class Experts(nn.Module):
    """Tokens are sorted by expert, and each adds its expert's bias."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.gate, self.up, self.down = (nn.Linear(width, n, bias=False) for n in (2, 2 * width, width))
        self.down = nn.Linear(2 * width, width, bias=False)
        self.bias = nn.Parameter(torch.zeros(2, 2 * width))

    def forward(self, x: Tensor) -> Tensor:
        weight, expert = self.gate(x).softmax(-1).max(-1)
        expert, order = expert.sort()
        z = self.up(x[order]) + self.bias[expert]
        return x + weight[:, None] * self.down(F.silu(z))[order.argsort()]


class Gated(nn.Module):
    """A learned scalar weighs skip and branch."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.mlp, self.gate = mlp(width), nn.Parameter(torch.zeros(()))

    def forward(self, x: Tensor) -> Tensor:
        return self.gate.sigmoid() * x + (1 - self.gate.sigmoid()) * self.mlp(x)


class Tanh(nn.Module):
    """GELU written out: x + a x^3 is a function of x, and no residual sum."""

    def forward(self, x: Tensor) -> Tensor:
        return 0.5 * x * (1 + torch.tanh(0.8 * (x + 0.044715 * x**3)))


class Handwritten(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.up, self.act, self.down = nn.Linear(width, width), Tanh(), nn.Linear(width, width)
        self.gain = nn.Parameter(torch.ones(width))

    def forward(self, x: Tensor) -> Tensor:
        z = x - x.mean(-1, keepdim=True)
        z = self.gain * z / (z.square().mean(-1, keepdim=True) + 1e-6).sqrt()
        return self.act(x + self.down(self.act(self.up(z))))


class Memory(Net):
    """An encoder, and a decoder whose every block also reads what it returned: (batch, time, 5)."""

    def __init__(self, width: int, depth: int) -> None:
        super().__init__(width, depth)
        self.encoder, self.decoder = (several(lambda: mlp(width), depth) for _ in range(2))
        self.query, self.value, self.out = (several(lambda: nn.Linear(width, width), depth) for _ in range(3))

    def stream(self, h: Tensor, c: Tensor) -> Tensor:
        memory = self.enter(c)
        for block in self.encoder:
            memory = memory + block(memory)
        for query, value, out, block in zip(self.query, self.value, self.out, self.decoder, strict=True):
            attention = (query(h) @ memory.transpose(-1, -2)).softmax(-1)
            h = h + out(attention @ value(memory))
            h = h + block(h)
        return h


class Stepping(nn.Module):
    """x + rate (f(x) - x), each unit at a learned rate; as torch writes it, or in the open."""

    def __init__(self, width: int, lerp: bool) -> None:
        super().__init__()
        self.mlp, self.rate, self.lerp = mlp(width), nn.Parameter(torch.full((width,), 0.1)), lerp

    def forward(self, x: Tensor) -> Tensor:
        return torch.lerp(x, self.mlp(x), self.rate) if self.lerp else x + self.rate * (self.mlp(x) - x)


class Fused(nn.Module):
    """x + gain f(x), as one operation."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.mlp, self.gain = mlp(width), nn.Parameter(torch.ones(width))

    def forward(self, x: Tensor) -> Tensor:
        return torch.addcmul(x, self.gain, self.mlp(x))


class Lone(Blocks):
    """One residual layer before the blocks, and one after them."""

    def __init__(self, width: int, depth: int) -> None:
        super().__init__(width, depth, Adding)
        self.position = nn.Linear(width, width)
        self.head = nn.Sequential(nn.Linear(width, width), nn.ReLU(), mlp(width))

    def stream(self, h: Tensor, *more: Tensor) -> Tensor:
        h = super().stream(h + F.gelu(self.position(h)))
        return h + self.head(h)


class Adding(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.mlp = mlp(width)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.mlp(x)


class InnerEnd(nn.Module):
    """x + (z + g(z)) with z = W x: no multiple of the branch is a multiple of its weights."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.into, self.up, self.down = (nn.Linear(width, width) for _ in range(3))

    def forward(self, x: Tensor) -> Tensor:
        z = self.into(F.layer_norm(x, x.shape[-1:]))
        return x + (z + self.down(self.up(z).tanh()))


class SharedNorm(nn.Module):
    """One norm at the branch's start and at its end."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm, self.up, self.down = nn.LayerNorm(width), nn.Linear(width, width), nn.Linear(width, width)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.norm(self.down(self.up(self.norm(x)).relu()))


class Highway(nn.Module):
    """t f(x) + (1 - t) x: the gate is a function of x."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.gate, self.map = nn.Linear(width, width), nn.Linear(width, width)

    def forward(self, x: Tensor) -> Tensor:
        gate = self.gate(x).sigmoid()
        return (1 - gate) * x + gate * self.map(x).relu()


class Plain(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.map, self.norm = nn.Linear(width, width), nn.LayerNorm(width)

    def forward(self, x: Tensor) -> Tensor:
        return self.norm(self.map(x)).relu()


class Neighbours(nn.Module):
    """W x + V (largest neighbour): a sum of two layers, not a skip."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.own, self.others = nn.Linear(width, width), nn.Linear(width, width)

    def forward(self, x: Tensor) -> Tensor:
        return (self.own(x) + self.others(x.roll(1, 0) + x.roll(-1, 0))).relu()
