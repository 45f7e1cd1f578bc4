"""Losses of the network's outputs: mean over samples, with the derivative chi = dloss/df that training needs."""

from __future__ import annotations

from collections.abc import Callable

import torch
from jaxtyping import Float
from torch import Tensor

from isoscale.errors import InvalidTypeError, InvalidValueError, unknown

Outputs = Float[Tensor, "replicas samples outputs"]
Targets = Float[Tensor, "samples outputs"]

OfReplicas = Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]
"""Losses of all replicas, and chi."""

Loss = str | Callable[[Tensor, Tensor], Tensor]
"""A name; or a function of the outputs and targets of a network, (samples,) or (samples, outputs) both, to a number."""


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


def resolve(loss: Loss) -> OfReplicas:
    """The loss of that name, or of that function, which is differentiated by autograd.

    Raises:
        InvalidValueError: The name is not known.
        InvalidTypeError: It is neither.
    """
    if isinstance(loss, str):
        if loss not in LOSSES:
            raise unknown("loss", loss, LOSSES)
        return LOSSES[loss]
    if callable(loss):
        return _by_autograd(loss)
    raise InvalidTypeError(f"`loss` must be a name or a function of (f, y), got {loss!r}")


def name(loss: Loss) -> str:
    """Label of the loss in a result's attributes."""
    return loss if isinstance(loss, str) else getattr(loss, "__name__", "custom")


def _by_autograd(loss: Callable[[Tensor, Tensor], Tensor]) -> OfReplicas:
    def of_replicas(f: Outputs, y: Targets) -> tuple[Float[Tensor, " replicas"], Outputs]:
        # A network of one output has no dimension of outputs.
        single = f.shape[-1] == 1
        target = y[:, 0] if single else y
        values = []
        with torch.enable_grad():
            outputs = f.detach().requires_grad_()
            for of_network in outputs:
                value = loss(of_network[:, 0] if single else of_network, target)
                if not isinstance(value, Tensor) or value.numel() != 1:
                    shape = tuple(value.shape) if isinstance(value, Tensor) else type(value).__name__
                    raise InvalidValueError(
                        f"`loss` must return one number, the mean over the samples say, got {shape}"
                    )
                values.append(value.reshape(()))
            together = torch.stack(values)
            if not together.requires_grad:
                raise InvalidValueError("`loss` must be differentiable in its first argument, the outputs")
            (chi,) = torch.autograd.grad(together.sum(), outputs)
        return together.detach(), chi

    return of_replicas
