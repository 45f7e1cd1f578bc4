"""Losses of the network's outputs: mean over samples, with the derivative chi that training needs."""

from __future__ import annotations

from jaxtyping import Float
from torch import Tensor

Outputs = Float[Tensor, "replicas samples outputs"]
Targets = Float[Tensor, "samples outputs"]


def mse(f: Outputs, y: Targets) -> tuple[Float[Tensor, " replicas"], Outputs]:
    """Sum over outputs of (f - y)^2 / 2, and chi = dloss/df."""
    error = f - y
    return error.square().sum(-1).mean(-1) / 2, error / f.shape[1]


def cross_entropy(f: Outputs, y: Targets) -> tuple[Float[Tensor, " replicas"], Outputs]:
    """Cross-entropy of softmax(f) against the targets' class probabilities, and chi = dloss/df."""
    log_p = f.log_softmax(-1)
    return -(y * log_p).sum(-1).mean(-1), (log_p.exp() * y.sum(-1, keepdim=True) - y) / f.shape[1]


LOSSES = {"mse": mse, "cross-entropy": cross_entropy}
