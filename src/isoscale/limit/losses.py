"""Losses of the network's outputs: mean over samples, with the derivative chi = dloss/df that training needs."""

from __future__ import annotations

from jaxtyping import Float
from torch import Tensor

Outputs = Float[Tensor, "replicas samples outputs"]
Targets = Float[Tensor, "samples outputs"]


def mse(f: Outputs, y: Targets) -> tuple[Float[Tensor, " replicas"], Outputs]:
    """Mean over the P samples of sum over outputs of (f - y)^2 / 2; and chi = (f - y) / P."""
    error = f - y
    samples = f.shape[1]
    squares = error.square().sum(-1)
    loss = squares.mean(-1) / 2
    return loss, error / samples


def cross_entropy(f: Outputs, y: Targets) -> tuple[Float[Tensor, " replicas"], Outputs]:
    """Mean over the P samples of -sum y log softmax(f), y class probabilities; and chi = (softmax(f) - y) / P."""
    log_p = f.log_softmax(-1)
    log_likelihood = (y * log_p).sum(-1)
    loss = -log_likelihood.mean(-1)
    # Probabilities that a user passes sum to 1 only up to rounding: with their sum, chi is the loss's exact derivative.
    total = y.sum(-1, keepdim=True)
    samples = f.shape[1]
    chi = (log_p.exp() * total - y) / samples
    return loss, chi


LOSSES = {"mse": mse, "cross-entropy": cross_entropy}
