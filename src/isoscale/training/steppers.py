"""Optimizers that step a stack of models at once, each member with its own learning rate.

One stepper a tensor, because a rule gives each tensor its own learning rate, decay and eps. Every
operation is elementwise or acts on the last two axes, so members never mix and a plain tensor works
as well as a stacked one. The steps are those of torch.optim.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass

import torch
from torch import Tensor

from isoscale.errors import InvalidValueError, unknown
from isoscale.scaling.factors import Factors
from isoscale.scaling.optimizers import OPTIMIZERS, OptimizerFamily
from isoscale.scaling.roles import Role

_MOMENTUM: dict[str, float] = {"sgd": 0.0, "sign": 0.9, "muon": 0.95}

# Quintic Newton-Schulz coefficients of Muon (Keller Jordan's post), as in torch.optim.Muon.
_NEWTON_SCHULZ = (3.4445, -4.7750, 2.0315)
_NEWTON_SCHULZ_STEPS = 5


@dataclass(frozen=True, kw_only=True)
class Optimizer:
    """An optimizer and its base hyperparameters; a rule turns them into each tensor's own.

    Attributes:
        family: "sgd", "adam", "adamw", "sign" (signed momentum) or "muon" (hidden maps by Muon,
            everything else by AdamW at the same base learning rate).
        momentum: Of sgd (default 0), sign (0.9, an average) and muon (0.95, Nesterov); not for Adam.
        betas, eps: Of Adam.
        weight_decay: As in torch: coupled for sgd and adam, decoupled for adamw, sign and muon;
            acts on maps only, never on biases and gains.
    """

    family: OptimizerFamily = "sgd"
    momentum: float | None = None
    betas: tuple[float, float] = (0.9, 0.999)
    eps: float = 1e-8
    weight_decay: float = 0.0

    def __post_init__(self) -> None:
        if self.family not in OPTIMIZERS:
            raise unknown("optimizer", self.family, OPTIMIZERS)
        if self.momentum is not None and self.family not in _MOMENTUM:
            raise InvalidValueError(f"`momentum` is not an option of {self.family}; use `betas`")
        if self.momentum is not None and not 0 <= self.momentum < 1:
            raise InvalidValueError(f"`momentum` must be in [0, 1), got {self.momentum}")
        if not all(0 <= beta < 1 for beta in self.betas):
            raise InvalidValueError(f"`betas` must be in [0, 1), got {self.betas}")
        if not self.eps > 0:
            raise InvalidValueError(f"`eps` must be > 0, got {self.eps}")
        if not self.weight_decay >= 0:
            raise InvalidValueError(f"`weight_decay` must be >= 0, got {self.weight_decay}")

    def stepper(self, param: Tensor, role: Role, factors: Factors, lrs: Tensor) -> Stepper:
        """The stepper of one tensor.

        Args:
            param: The tensor, stepped in place; its first axis is the members' if `lrs` is 1-D.
            role: What the tensor does.
            factors: Its factors, folded.
            lrs: Base learning rates: a scalar for a plain tensor, (members,) for a stacked one.
        """
        member_axes = [*lrs.shape, *[1] * (param.dim() - lrs.dim())]
        lr = (lrs * factors.lr).to(param).reshape(member_axes)
        decay = self.weight_decay * factors.weight_decay if role.decays else 0.0
        momentum = _MOMENTUM.get(self.family, 0.0) if self.momentum is None else self.momentum
        if self.family == "sgd":
            return Sgd(param, lr, momentum, decay)
        if self.family == "sign":
            return Sign(param, lr, momentum, decay)
        if self.family == "muon" and role.is_hidden_map:
            return Muon(param, lr, momentum, decay)
        return Adam(param, lr, self.betas, self.eps * factors.eps, decay, decoupled=self.family != "adam")


class Stepper(ABC):
    """Steps one tensor in place."""

    @abstractmethod
    def step(self, grad: Tensor) -> None: ...


class Sgd(Stepper):
    """w -= lr * buffer,  buffer = momentum * buffer + (grad + weight_decay * w)."""

    def __init__(self, param: Tensor, lr: Tensor, momentum: float, weight_decay: float) -> None:
        self.param, self.minus_lr = param, -lr
        self.momentum, self.weight_decay = momentum, weight_decay
        self.buffer = torch.zeros_like(param) if momentum else None

    def step(self, grad: Tensor) -> None:
        if self.weight_decay:
            grad = grad.add(self.param, alpha=self.weight_decay)
        if self.buffer is not None:
            grad = self.buffer.mul_(self.momentum).add_(grad)
        self.param.addcmul_(grad, self.minus_lr)


class Adam(Stepper):
    """Adam, with its decay coupled (torch.optim.Adam) or decoupled (torch.optim.AdamW)."""

    def __init__(
        self,
        param: Tensor,
        lr: Tensor,
        betas: tuple[float, float],
        eps: float,
        weight_decay: float,
        *,
        decoupled: bool,
    ) -> None:
        self.param, self.minus_lr = param, -lr
        self.betas, self.eps, self.weight_decay, self.decoupled = betas, eps, weight_decay, decoupled
        self.mean, self.square = torch.zeros_like(param), torch.zeros_like(param)
        self.steps = 0

    def step(self, grad: Tensor) -> None:
        beta1, beta2 = self.betas
        self.steps += 1
        if self.weight_decay and self.decoupled:
            self.param.mul_(1 + self.minus_lr * self.weight_decay)
        elif self.weight_decay:
            grad = grad.add(self.param, alpha=self.weight_decay)
        self.mean.lerp_(grad, 1 - beta1)
        self.square.mul_(beta2).addcmul_(grad, grad, value=1 - beta2)
        root = self.square.sqrt().div_((1 - beta2**self.steps) ** 0.5).add_(self.eps)
        self.param.addcmul_(torch.div(self.mean, root, out=root), self.minus_lr / (1 - beta1**self.steps))


class Sign(Stepper):
    """w -= lr * sign(average of the gradients); decay decoupled."""

    def __init__(self, param: Tensor, lr: Tensor, momentum: float, weight_decay: float) -> None:
        self.param, self.minus_lr = param, -lr
        self.momentum, self.weight_decay = momentum, weight_decay
        self.mean = torch.zeros_like(param)

    def step(self, grad: Tensor) -> None:
        if self.weight_decay:
            self.param.mul_(1 + self.minus_lr * self.weight_decay)
        mean = self.mean.lerp_(grad, 1 - self.momentum)
        # The sign of NaN is 0 in torch, which would freeze a diverged member instead of showing it.
        self.param.addcmul_(mean.sign().add_(mean, alpha=0), self.minus_lr)


class Muon(Stepper):
    """Orthogonalised Nesterov momentum (torch.optim.Muon, `adjust_lr_fn="original"`); decay decoupled.

    Newton-Schulz runs in the tensor's own precision, where torch's runs in bfloat16.
    """

    def __init__(self, param: Tensor, lr: Tensor, momentum: float, weight_decay: float) -> None:
        fan_out, fan_in = param.shape[-2:]
        self.param, self.minus_lr = param, -lr
        self.momentum, self.weight_decay = momentum, weight_decay
        self.scale = max(1.0, fan_out / fan_in) ** 0.5
        self.mean = torch.zeros_like(param)

    def step(self, grad: Tensor) -> None:
        self.mean.lerp_(grad, 1 - self.momentum)
        update = orthogonalize(grad.lerp(self.mean, self.momentum))
        if self.weight_decay:
            self.param.mul_(1 + self.minus_lr * self.weight_decay)
        self.param.addcmul_(update, self.minus_lr * self.scale)


def orthogonalize(matrix: Tensor) -> Tensor:
    """Nearly the orthogonal factor U V^T of each matrix (..., rows, columns), by Newton-Schulz.

    Singular values end in about (0.7, 1.2) rather than at 1; zero matrices stay zero.
    """
    a, b, c = _NEWTON_SCHULZ
    tall = matrix.shape[-2] > matrix.shape[-1]
    x = matrix.mT if tall else matrix
    x = x / torch.linalg.matrix_norm(x, keepdim=True).clamp(min=torch.finfo(x.dtype).tiny ** 0.5)
    for _ in range(_NEWTON_SCHULZ_STEPS):
        gram = x @ x.mT
        x = a * x + (b * gram + c * gram @ gram) @ x
    return x.mT if tall else x
