"""Networks with real n x n matrices, many seeds at once: what `isoscale.limit` must equal in law.

Source: docs/theory.md, section 1.
"""

from __future__ import annotations

import torch
from torch import Tensor

from isoscale.limit import inputs
from isoscale.limit.network import Problem

X = torch.randn(3, 5, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
Y = torch.tensor([1.0, -1.0, 0.5], dtype=torch.float64)


def problem(x: Tensor = X, y: Tensor = Y, *, blocks: dict | None = None, **changes) -> Problem:
    """blocks: layers, alpha, beta, rule and norm, as far as they are not one layer, depth-muP and none."""
    settings = {
        "steps": 3, "lr": 0.6, "phi": "tanh", "horizon": 1.0, "loss": "mse", "train_ends": True, "batches": None,
    }  # fmt: skip
    given = {"layers": 1, "alpha": 0.5, "beta": 0.5, "rule": None, "norm": None} | (blocks or {})
    return inputs.problem(x, y, blocks=inputs.architecture(*given.values()), **(settings | changes))


class Explicit:
    """Weights in the entries-O(1) form, the backward copy by a pass of its own; norms are differentiated by autograd.

    alpha: Of the depth rule, which must not matter; None: beta.
    """

    def __init__(
        self,
        task: Problem,
        x: Tensor,
        n: int,
        depth: int,
        seeds: int,
        *,
        reused: bool,
        seed: int = 0,
        alpha: float | None = None,
    ):
        generator = torch.Generator().manual_seed(seed)

        def normal(*shape: int) -> Tensor:
            return torch.randn(seeds, *shape, generator=generator, dtype=torch.float64)

        self.task, self.x, self.n, self.depth = task, x, n, depth
        rule, layers = task.architecture.rule, task.architecture.layers
        alpha = rule.beta if alpha is None else alpha
        self.scale = task.horizon**0.5 * depth**-alpha
        inner = depth**0.5 if rule.corrected else depth ** (2 * rule.beta - 1)
        self.rates = [inner] * (layers - 1) + [depth ** (2 * alpha - 1)]
        self.u, self.v = normal(n, x.shape[1]), normal(task.outputs, n)

        def matrices() -> list[list[Tensor]]:
            blocks = [[normal(n, n) for _ in range(layers)] for _ in range(depth)]
            for block in blocks:
                block[-1] = block[-1] * depth ** (alpha - rule.beta)
            return blocks

        self.w = matrices()
        self.back = self.w if reused else matrices()
        self.velocity: dict[object, Tensor] = {}
        self.square: dict[object, Tensor] = {}

    def norm(self, h: Tensor) -> Tensor:
        if self.task.architecture.norm == "layer":
            h = h - h.mean(-1, keepdim=True)
        return h if self.task.architecture.norm is None else h / h.square().mean(-1, keepdim=True).sqrt()

    def branch(self, block: list[Tensor], h: Tensor) -> tuple[list[Tensor], list[Tensor], Tensor]:
        """What phi and the matrices are applied to, and the image."""
        points, signals, signal = [], [], self.norm(h)
        for i, w in enumerate(block):
            points.append(signal)
            signals.append(self.task.phi(signal) if i or len(block) == 1 else signal)
            signal = signals[-1] @ w.mT / self.n**0.5
        return points, signals, signal

    def forward(self) -> tuple[list[Tensor], Tensor]:
        h = self.x @ self.u.mT / self.x.shape[1] ** 0.5
        stream = [h]
        for block in self.w:
            h = h + self.scale * self.branch(block, h)[2]
            stream.append(h)
        return stream, h @ self.v.mT / self.n

    def backward(self, stream: list[Tensor], top: Tensor) -> tuple[list[Tensor], list[list[Tensor]]]:
        """Gradients at h_0 .. h_L of sum_b top(b) . h_L(b); and what the matrices' own are, times n."""
        g = top
        gradients, changes = [g], []
        for h, block, back in zip(reversed(stream[:-1]), reversed(self.w), reversed(self.back), strict=True):
            points, signals, _ = self.branch(block, h)
            of_block, t = [], g
            for i in reversed(range(len(block))):
                of_block.append(self.scale * t.mT @ signals[i])
                t = t @ back[i] / self.n**0.5
                if i or len(block) == 1:
                    t = t * self.task.derivative(points[i], self.task.phi(points[i]))
            changes.append(of_block[::-1])
            g = g + self.scale * torch.func.vjp(self.norm, h)[1](t)[0]
            gradients.append(g)
        return gradients[::-1], changes[::-1]

    def features(self, stream: list[Tensor]) -> list[Tensor]:
        below = [self.branch(block, h)[1][-1] for block, h in zip(self.w, stream[:-1], strict=True)]
        top = self.task.phi(self.norm(stream[-1])) if len(self.w[0]) == 1 else below[-1]
        return [*below, top]

    def moved(self, key: object, weights: Tensor, gradient: Tensor, k: int, rate: float) -> Tensor:
        """The weights after a step, with decoupled decay.

        Args:
            rate: Of a matrix (its key is a pair) by its own depth law; with entries of order 1 that of Adam and Lion is
                n^-1/2, that of Muon n^1/2 times as large.
        """
        optimizer = self.task.optimizer
        if optimizer.is_linear:
            direction = self.heavy_ball(key, gradient)
        elif optimizer.name == "muon" and isinstance(key, tuple):
            direction = self.n**0.5 * newton_schulz(self.heavy_ball(key, gradient))
        else:
            direction = self.of_entries(key, gradient, k)
            if isinstance(key, tuple):
                direction = direction / self.n**0.5
        if not optimizer.is_linear and isinstance(key, tuple):
            rate = rate * self.depth**-self.task.architecture.rule.beta
        return (1 - optimizer.rates[k] * optimizer.weight_decay) * weights - optimizer.rates[k] * rate * direction

    def heavy_ball(self, key: object, gradient: Tensor) -> Tensor:
        optimizer = self.task.optimizer
        velocity = optimizer.momentum * self.velocity[key] + gradient if key in self.velocity else gradient
        self.velocity[key] = velocity
        return gradient + optimizer.momentum * velocity if optimizer.nesterov else velocity

    def of_entries(self, key: object, gradient: Tensor, k: int) -> Tensor:
        """Adam's direction, or Lion's."""
        first, second = self.task.optimizer.betas
        moment = self.velocity.get(key, torch.zeros_like(gradient))
        if self.task.optimizer.name == "lion":
            self.velocity[key] = second * moment + (1 - second) * gradient
            return (first * moment + (1 - first) * gradient).sign()
        self.velocity[key] = first * moment + (1 - first) * gradient
        self.square[key] = second * self.square.get(key, 0.0) + (1 - second) * gradient**2
        size = (self.square[key] / (1 - second ** (k + 1))).sqrt()
        # Adam's eps is for gradients without the multiplier and the width.
        unit = self.scale / self.n**0.5 if isinstance(key, tuple) else 1.0
        return self.velocity[key] / (1 - first ** (k + 1)) / (size + 1e-8 * unit)

    def step(self, stream: list[Tensor], chi: Tensor, k: int) -> None:
        """Under SGD, learning rate lr * n on every matrix, dL/dh = gradient / n."""
        gradients, changes = self.backward(stream, chi @ self.v)
        if self.task.optimizer.clip is not None:
            square = sum(
                rate * (change / self.n).square().sum((1, 2))
                for block in changes
                for change, rate in zip(block, self.rates, strict=True)
            )
            factor = (self.task.optimizer.clip / square.sqrt()).clamp(max=1.0)[:, None, None]
            chi, gradients = chi * factor, [factor * g for g in gradients]
            changes = [[factor * change for change in block] for block in changes]
        for layer, block in enumerate(changes):
            for i, change in enumerate(block):
                old, gradient = self.w[layer][i], change / self.n**0.5
                self.w[layer][i] = self.moved((layer, i), old, gradient, k, self.rates[i])
                if self.back is not self.w:
                    keep = 1 - self.task.optimizer.rates[k] * self.task.optimizer.weight_decay
                    self.back[layer][i] = keep * self.back[layer][i] + self.w[layer][i] - keep * old
        if self.task.train_ends:
            x = self.x[: self.task.trained]
            self.u = self.moved("u", self.u, gradients[0].mT @ x / x.shape[1] ** 0.5, k, 1.0)
            self.v = self.moved("v", self.v, chi.mT @ stream[-1], k, 1.0)

    def run(self) -> dict[str, Tensor]:
        """The recorded variables of `network.History`, kernels at every layer."""
        out: dict[str, list[Tensor]] = {}
        first: list[Tensor] = []
        p = self.task.trained
        for k in range(self.task.steps + 1):
            stream, f = self.forward()
            first = first or stream
            loss, chi = self.task.loss(f[:, :p], self.task.y)
            several = chi.shape[-1] > 1
            g = self.backward(
                [h[:, :p] for h in stream],
                (chi / chi.norm(dim=-1, keepdim=True) if several else 1 + 0 * chi) @ self.v,
            )[0]
            row = {"loss": loss, "prediction": f}
            for name, a, b in (
                ("feature_kernel", self.features(stream), None),
                ("stream_kernel", stream, None),
                ("gradient_kernel", g, None),
                ("cross_kernel", stream, g),
            ):
                row[name] = torch.stack([u[:, :p] @ w[:, :p].mT / self.n for u, w in zip(a, b or a, strict=True)], 1)
            row["displacement"] = torch.stack(
                [(h - h0).square().mean(-1) for h, h0 in zip(stream, first, strict=True)], 1
            )
            for name, value in row.items():
                out.setdefault(name, []).append(value)
            if k < self.task.steps:
                chi = chi * self.task.batch_weights[k][:, None]
                self.step([h[:, :p] for h in stream], chi, k)
        return {name: torch.stack(values, 1) for name, values in out.items()}


def newton_schulz(gradient: Tensor) -> Tensor:
    """As torch.optim.Muon, in the matrix's own precision."""
    x = gradient / gradient.norm(dim=(1, 2), keepdim=True)
    for _ in range(5):
        a = x @ x.mT
        x = 3.4445 * x + (-4.7750 * a + 2.0315 * a @ a) @ x
    return x


def worst_mean_and_spread(a: Tensor, b: Tensor) -> tuple[float, float]:
    """The largest difference, in standard errors, of the means and of the mean absolute deviations (runs first).

    Absolute deviations, because the variance of a variance means nothing for the heavy tails of tiny networks.
    """
    a, b = a.flatten(1), b.flatten(1)
    centre = torch.cat([a, b]).median(0).values
    return _worst(a, b), _worst((a - centre).abs(), (b - centre).abs())


def _worst(a: Tensor, b: Tensor) -> float:
    error = (a.var(0) / len(a) + b.var(0) / len(b)).sqrt()
    return ((a.mean(0) - b.mean(0)) / error.clamp_min(1e-12)).abs().max().item()
