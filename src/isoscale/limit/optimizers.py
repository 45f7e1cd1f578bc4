"""Optimizers with decay, clipping and a schedule, and what earlier steps of SGD leave in later weights.

    V <- mu V + G,   direction = V, or G + mu V (Nesterov),   W <- (1 - eta lam) W - eta direction

A weight at step k is W_k = rho_k W_0 - sum_{j<k} omega_kj G_j, with G_j the gradient of step j (docs/theory.md, section
9.7). With more rows or columns to come, as in a basis that grows, a buffer starts at 0 in those. Adam and Lion act on
the entries of a weight, Muon on the singular values of a matrix.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

OPTIMIZERS = ("sgd", "adam", "adamw", "lion", "muon")

BETAS = {"adam": (0.9, 0.999), "adamw": (0.9, 0.999), "lion": (0.9, 0.99), "muon": (0.9, 0.999)}
"""Those of torch and of Lion's paper, by optimizer."""

EPS = 1e-8
"""Of Adam, for gradients that depend on neither width nor depth."""

_NEWTON_SCHULZ = 3.4445, -4.7750, 2.0315


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


class Adam:
    """The moments of one array of weights, as torch's Adam keeps them."""

    def __init__(self, betas: tuple[float, float]) -> None:
        self._betas = betas
        self._steps = 0
        self._first: Tensor | None = None
        self._second: Tensor | None = None

    def direction(self, gradient: Tensor) -> Tensor:
        """What an update subtracts: entries of order 1, whatever the gradient's size."""
        first, second = self._betas
        self._steps += 1
        if self._first is None or self._second is None:
            self._first, self._second = torch.zeros_like(gradient), torch.zeros_like(gradient)
        self._first.lerp_(gradient, 1 - first)
        self._second.mul_(second).addcmul_(gradient, gradient, value=1 - second)
        size = (self._second / (1 - second**self._steps)).sqrt_().add_(EPS)
        return (self._first / (1 - first**self._steps)).div_(size)


class Lion:
    """The moment of one array of weights; an update is a sign."""

    def __init__(self, betas: tuple[float, float]) -> None:
        self._betas = betas
        self._moment: Tensor | None = None

    def direction(self, gradient: Tensor) -> Tensor:
        """What an update subtracts: entries of 1, 0 and -1."""
        first, second = self._betas
        if self._moment is None:
            self._moment = torch.zeros_like(gradient)
        direction = torch.lerp(self._moment, gradient, 1 - first).sign_()
        self._moment.lerp_(gradient, 1 - second)
        return direction


class Muon:
    """The buffer of one matrix, whose updates are orthogonalised as torch's Muon does.

    Args:
        momentum: Its buffer.
        unit: Singular values of an update in the coordinates in which it is handed out.
    """

    def __init__(self, momentum: Momentum, unit: float = 1.0) -> None:
        self._momentum, self._unit = momentum, unit

    def direction(self, gradient: Tensor) -> Tensor:
        """What an update subtracts: singular values about `unit`, whatever the gradient's size."""
        return self._unit * orthogonalised(self._momentum.direction(gradient))


def orthogonalised(matrices: Tensor) -> Tensor:
    """Five Newton-Schulz iterations of torch's Muon: an odd polynomial of a matrix, which acts on its singular values.

    >>> orthogonalised(torch.diag(torch.tensor([3.0, 0.5]))[None]).diagonal(dim1=-2, dim2=-1)
    tensor([[0.7136, 1.0420]])
    """
    a, b, c = _NEWTON_SCHULZ
    tiny = torch.finfo(matrices.dtype).tiny
    x = matrices / torch.linalg.matrix_norm(matrices, keepdim=True).clamp_min(tiny)
    for _ in range(5):
        gram = x @ x.mT
        x = a * x + (b * gram + c * gram @ gram) @ x
    return x


class Buffer(Protocol):
    """What the gradients of an array of weights are collected in."""

    def direction(self, gradient: Tensor) -> Tensor: ...


@dataclass(frozen=True, kw_only=True)
class Optimizer:
    """How the gradients of all steps become updates.

    Attributes:
        rates: Learning rate of each step.
        name: Of `OPTIMIZERS`.
        momentum: mu, of "sgd" and "muon".
        nesterov: Whether the gradient is looked up ahead.
        betas: Of "adam", "adamw" and "lion", and of what "muon" leaves to Adam.
        weight_decay: lam, decoupled from the gradient.
        clip: The largest norm of the gradient of all matrices together; None: any.
    """

    rates: np.ndarray
    name: str = "sgd"
    momentum: float = 0.0
    nesterov: bool = False
    betas: tuple[float, float] | None = None
    weight_decay: float = 0.0
    clip: float | None = None

    @property
    def is_linear(self) -> bool:
        """Whether updates are linear in the gradients; else they have a size of their own."""
        return self.name == "sgd"

    @property
    def moments(self) -> int:
        """Arrays of the size of a matrix that are kept, where updates act on the entries of matrices; else 0."""
        return {"adam": 2, "adamw": 2, "lion": 1}.get(self.name, 0)

    def of_matrix(self, unit: float = 1.0) -> Buffer:
        """A buffer of a matrix, given in coordinates in which singular values are `unit` times its own."""
        if self.name == "muon":
            return Muon(self._heavy_ball(), unit)
        return self.of_vectors()

    def of_vectors(self) -> Buffer:
        """A buffer of the input or of the output weights."""
        if self.betas is None:
            return self._heavy_ball()
        return Lion(self.betas) if self.name == "lion" else Adam(self.betas)

    def _heavy_ball(self) -> Momentum:
        return Momentum(self.momentum, nesterov=self.nesterov)

    def keep(self, step: int) -> float:
        """By what the update of this step multiplies the weights."""
        return 1 - float(self.rates[step]) * self.weight_decay

    def settings(self) -> dict[str, object]:
        """As attributes, the rates apart."""
        found: dict[str, object] = {
            "optimizer": self.name,
            "momentum": self.momentum,
            "nesterov": int(self.nesterov),
            "weight_decay": self.weight_decay,
            "clip": "none" if self.clip is None else self.clip,
        }
        if self.betas is not None:
            found["betas"] = list(self.betas)
        return found


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
