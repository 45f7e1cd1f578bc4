"""SGD with momentum, decay, clipping and a schedule, and what its earlier steps leave in later weights.

    V <- mu V + G,   direction = V, or G + mu V (Nesterov),   W <- (1 - eta lam) W - eta direction

A weight at step k is W_k = rho_k W_0 - sum_{j<k} omega_kj G_j, with G_j the gradient of step j (docs/theory.md, section
9.7). With more rows or columns to come, as in a basis that grows, a buffer starts at 0 in those.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor


class Momentum:
    """The buffer of one array of weights, as torch's SGD keeps it.

    >>> buffer = Momentum(0.5)
    >>> buffer.direction(torch.ones(1, 1)).tolist(), buffer.direction(torch.ones(1, 2)).tolist()
    ([[1.0]], [[1.5, 1.0]])
    """

    def __init__(self, factor: float = 0.0, *, nesterov: bool = False) -> None:
        self._factor, self._nesterov = factor, nesterov
        self._velocity: Tensor | None = None

    def direction(self, gradient: Tensor) -> Tensor:
        """What an update subtracts, by the gradient (..., rows, columns) and those before it."""
        if not self._factor:
            return gradient
        velocity = gradient
        if self._velocity is not None:
            *_, rows, columns = self._velocity.shape
            more = (0, gradient.shape[-1] - columns, 0, gradient.shape[-2] - rows)
            grown = torch.nn.functional.pad(self._velocity, more)
            velocity = gradient + self._factor * grown
        self._velocity = velocity
        if self._nesterov:
            return gradient + self._factor * velocity
        return velocity


@dataclass(frozen=True, kw_only=True)
class SGD:
    """How the gradients of all steps become updates.

    Attributes:
        rates: Learning rate of each step.
        momentum: mu.
        nesterov: Whether the gradient is looked up ahead.
        weight_decay: lam, decoupled from the gradient.
        clip: The largest norm of the gradient of all matrices together; None: any.
    """

    rates: np.ndarray
    momentum: float = 0.0
    nesterov: bool = False
    weight_decay: float = 0.0
    clip: float | None = None

    def buffer(self) -> Momentum:
        """That of one array of weights."""
        return Momentum(self.momentum, nesterov=self.nesterov)

    def keep(self, step: int) -> float:
        """By what the update of this step multiplies the weights."""
        return 1 - float(self.rates[step]) * self.weight_decay

    def settings(self) -> dict[str, object]:
        """As attributes, the rates apart."""
        return {
            "momentum": self.momentum,
            "nesterov": int(self.nesterov),
            "weight_decay": self.weight_decay,
            "clip": "none" if self.clip is None else self.clip,
        }


@dataclass(frozen=True)
class Path:
    """Both for all steps.

    Attributes:
        omega: (steps + 1, steps + 1), 0 for j >= k.
        left: rho, (steps + 1).
    """

    omega: np.ndarray
    left: np.ndarray

    def between(self, k: int, samples: int) -> tuple[np.ndarray, np.ndarray] | None:
        """rho_j of all (step, sample) up to k, by column, and rho_k; None if nothing decays."""
        if (self.left == 1).all():
            return None
        return np.repeat(self.left[: k + 1], samples), self.left[k : k + 1]


def path_of(rates: np.ndarray, momentum: float = 0.0, weight_decay: float = 0.0, *, nesterov: bool = False) -> Path:
    """Of SGD with these learning rates, without clipping.

    >>> path_of(np.array([0.5, 0.5]), momentum=0.5).omega[2].tolist()
    [0.75, 0.5, 0.0]
    """
    steps = len(rates)
    omega = np.zeros((steps + 1, steps + 1))
    left = np.ones(steps + 1)
    for k in range(steps):
        keep = 1 - rates[k] * weight_decay
        left[k + 1] = keep * left[k]
        # The velocity is G_k + mu G_(k-1) + ..., the direction with Nesterov's look ahead G_k + mu times that.
        direction = momentum ** np.arange(k, -1, -1)
        if nesterov:
            direction = momentum * direction
            direction[k] += 1
        # W_(k+1) = keep W_k - rate_k direction_k
        omega[k + 1] = keep * omega[k]
        omega[k + 1, : k + 1] += rates[k] * direction
    return Path(omega=omega, left=left)
