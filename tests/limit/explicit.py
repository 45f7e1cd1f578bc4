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


def problem(x: Tensor = X, y: Tensor = Y, **changes) -> Problem:
    settings = {
        "steps": 3, "lr": 0.6, "phi": "tanh", "horizon": 1.0, "loss": "mse", "train_ends": True, "batches": None,
    }  # fmt: skip
    return inputs.problem(x, y, **(settings | changes))


class Explicit:
    """Weights in the entries-O(1) form, gradients by autograd; the backward copy by a surrogate forward pass."""

    def __init__(self, task: Problem, x: Tensor, n: int, depth: int, seeds: int, *, reused: bool, seed: int = 0):
        generator = torch.Generator().manual_seed(seed)

        def normal(*shape: int) -> Tensor:
            return torch.randn(seeds, *shape, generator=generator, dtype=torch.float64)

        self.task, self.x, self.n, self.depth = task, x, n, depth
        self.scale = (task.horizon / depth) ** 0.5
        self.u, self.v = normal(n, x.shape[1]), normal(task.outputs, n)
        self.w = [normal(n, n) for _ in range(depth)]
        self.back = self.w if reused else [normal(n, n) for _ in range(depth)]

    def forward(self) -> tuple[list[Tensor], Tensor]:
        h = self.x @ self.u.mT / self.x.shape[1] ** 0.5
        stream = [h]
        for w in self.w:
            h = h + self.scale * self.task.phi(h) @ w.mT / self.n**0.5
            stream.append(h)
        return stream, h @ self.v.mT / self.n

    def backward(self, stream: list[Tensor], top: Tensor) -> list[Tensor]:
        """Gradients at h_0 .. h_L of sum_b top(b) . h_L(b)."""
        g = top
        gradients = [g]
        for h, w in zip(reversed(stream[:-1]), reversed(self.back), strict=True):
            g = g + self.scale * self.task.derivative(h, self.task.phi(h)) * (g @ w) / self.n**0.5
            gradients.append(g)
        return gradients[::-1]

    def step(self, stream: list[Tensor], chi: Tensor) -> None:
        """SGD with learning rate lr * n on every matrix, dL/dh = gradient / n."""
        gradients = self.backward(stream, chi @ self.v)
        rate = self.task.lr
        for i in range(self.depth):
            change = rate * self.scale / self.n**0.5 * gradients[i + 1].mT @ self.task.phi(stream[i])
            self.w[i] = self.w[i] - change
            self.back[i] = self.w[i] if self.back is self.w else self.back[i] - change
        if self.task.train_ends:
            self.u = self.u - rate * gradients[0].mT @ self.x[: self.task.trained] / self.x.shape[1] ** 0.5
            self.v = self.v - rate * chi.mT @ stream[-1]

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
            )
            row = {"loss": loss, "prediction": f}
            for name, a, b in (
                ("feature_kernel", [self.task.phi(h) for h in stream], None),
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
                self.step([h[:, :p] for h in stream], chi)
        return {name: torch.stack(values, 1) for name, values in out.items()}


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
