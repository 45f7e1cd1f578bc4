"""Optimizers that step a stack of models at once, each member with numbers of its own.

One stepper per tensor, because a plan gives each tensor its own learning rate, decay and eps. Every operation is
elementwise or acts on the last two axes, so members never mix and a plain tensor works as well as a stacked one. The
steps are those of torch.optim.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import TypeVar

import torch
from torch import Tensor

from isoscale.errors import InvalidValueError
from isoscale.scaling.optimizers import FAMILIES, Family
from isoscale.scaling.tensor import MuonAdjustment, TensorPlan, muon_scale
from isoscale.training.optimizer import BETAS

T = TypeVar("T")

# A number that all members share, or one for each: (members, 1, ...).
Number = float | Tensor

# Quintic Newton-Schulz coefficients of Muon (Keller Jordan's post), as in torch.optim.Muon.
_NEWTON_SCHULZ = (3.4445, -4.7750, 2.0315)
_NEWTON_SCHULZ_STEPS = 5


class Stepper(ABC):
    """Steps one tensor in place.

    Args:
        param: The tensor.
        lr: Learning rate, one for each member.
    """

    def __init__(self, param: Tensor, lr: Tensor) -> None:
        self.param, self.lr = param, lr
        self.minus_lr = -lr

    def scale_lr(self, factor: float) -> None:
        """From here on, step with `factor` times the learning rate that it began with."""
        self.minus_lr = self.lr * -factor

    def keep(self, members: Tensor, param: Tensor) -> None:
        """Go on with some members of the stack.

        Args:
            members: Their places.
            param: What is stepped from here on, in place.
        """
        for name, value in vars(self).items():
            # Whatever is a tensor here has a row for each member.
            if isinstance(value, Tensor):
                setattr(self, name, value[members])
        self.param = param

    @abstractmethod
    def step(self, grad: Tensor) -> None: ...


def stepper(
    param: Tensor, tensors: Sequence[TensorPlan], lrs: Sequence[float], adjust_lr_fn: MuonAdjustment = "original"
) -> Stepper:
    """The stepper of one tensor of a stack.

    Args:
        param: The tensor, stepped in place; with several members, its first axis is the members'.
        tensors: Each member's plan for it. What steps it, momentum and betas are the same for all.
        lrs: What each member's planned learning rate is multiplied by.
        adjust_lr_fn: Muon's argument of that name.

    Raises:
        InvalidValueError: Members that another optimizer steps, or the same one with another momentum or betas.
    """
    row = FAMILIES[_shared("optimizer", [tensor.optimizer for tensor in tensors])]
    # In double precision, as Python multiplies a plan's learning rate.
    rates = [lr * tensor.lr for lr, tensor in zip(lrs, tensors, strict=True)]
    eps = _number([tensor.eps for tensor in tensors], param) if row.takes_betas else 0.0
    # What a plan leaves to the optimizer is torch's own default.
    momentum = _shared("momentum", [tensor.momentum for tensor in tensors])
    betas = _shared("betas", [tensor.betas for tensor in tensors])
    return stepper_of_family(
        param,
        row,
        rates,
        momentum=row.momentum if momentum is None else momentum,
        betas=BETAS if betas is None else betas,
        eps=eps,
        weight_decay=_number([tensor.weight_decay for tensor in tensors], param),
        adjust_lr_fn=adjust_lr_fn,
    )


def stepper_of_family(
    param: Tensor,
    row: Family,
    lrs: Sequence[float],
    *,
    momentum: float | None,
    betas: tuple[float, float] | None,
    eps: Number,
    weight_decay: Number,
    adjust_lr_fn: MuonAdjustment = "original",
) -> Stepper:
    """The stepper of one tensor of a stack, by the optimizer's row of the table.

    Args:
        param: The tensor, stepped in place; with several members, its first axis is the members'.
        row: What steps it.
        lrs: Each member's learning rate.
        momentum, betas, eps, weight_decay, adjust_lr_fn: As torch's; `betas` and `eps` of a family that takes them.
    """
    lr = _per_member(lrs, param)
    if row.takes_betas:
        assert betas is not None
        return Adam(param, lr, betas, eps, weight_decay, decoupled=not row.coupled_decay)
    assert momentum is not None
    if row.answer == "linear":
        return Sgd(param, lr, momentum, weight_decay)
    if row.answer == "spectral":
        return Muon(param, lr, momentum, weight_decay, adjust_lr_fn)
    return Sign(param, lr, momentum, weight_decay)


def _shared(what: str, values: Sequence[T]) -> T:
    """The one value that all members have."""
    if len(set(values)) > 1:
        raise InvalidValueError(f"members of a stack have one {what}, got {', '.join(map(str, set(values)))}")
    return values[0]


def _number(values: Sequence[float | None], param: Tensor) -> Number:
    """One number if all members have the same: then it is an argument of a kernel and no tensor."""
    known = [value for value in values if value is not None]
    assert len(known) == len(values)
    return known[0] if len(set(known)) == 1 else _per_member(known, param)


def _per_member(values: Sequence[float], param: Tensor) -> Tensor:
    """Numbers in the parameter's precision, shaped to multiply a stack of it."""
    if len(values) == 1:
        return torch.tensor(values[0], dtype=torch.float64).to(param)
    own_axes = [1] * (param.dim() - 1)
    return torch.tensor(values, dtype=torch.float64).to(param).reshape(-1, *own_axes)


def added(sums: Sequence[Tensor | None], grads: Sequence[Tensor | None]) -> list[Tensor | None]:
    """The sums of gradients with one batch's more; empty at first, and None of a tensor that has none."""
    if not sums:
        return list(grads)
    found: list[Tensor | None] = []
    for before, grad in zip(sums, grads, strict=True):
        found.append(grad if before is None else before if grad is None else before + grad)
    return found


def clipped(grads: Sequence[Tensor | None], norm: float, members: int) -> list[Tensor | None]:
    """The gradients with each member's norm over all tensors at most `norm` (`torch.nn.utils.clip_grad_norm_`).

    Args:
        grads: Of each tensor; None where there is none.
        norm: The largest norm.
        members: How many there are; with several, the first axis of each tensor is theirs.
    """
    of_tensors = [torch.linalg.vector_norm(grad.reshape(members, -1), dim=1) for grad in grads if grad is not None]
    total = torch.linalg.vector_norm(torch.stack(of_tensors), dim=0)  # (members,)
    factors = (norm / (total + 1e-6)).clamp(max=1.0)
    found: list[Tensor | None] = []
    for grad in grads:
        if grad is None:
            found.append(None)
        elif members == 1:
            found.append(grad * factors[0])
        else:
            own_axes = [1] * (grad.dim() - 1)
            found.append(grad * factors.reshape(-1, *own_axes))
    return found


def _plus_decay(grad: Tensor, param: Tensor, decay: Number) -> Tensor:
    """Gradient of the loss plus decay / 2 |w|^2."""
    if isinstance(decay, Tensor):
        return grad + decay * param
    return grad.add(param, alpha=decay) if decay else grad


def _shrink(param: Tensor, minus_lr: Tensor, decay: Number) -> None:
    """w <- (1 - lr decay) w."""
    if isinstance(decay, Tensor) or decay:
        param.mul_(1 + minus_lr * decay)


class Sgd(Stepper):
    """w -= lr * buffer,  buffer = momentum * buffer + (grad + weight_decay * w)."""

    def __init__(self, param: Tensor, lr: Tensor, momentum: float, weight_decay: Number) -> None:
        super().__init__(param, lr)
        self.momentum, self.weight_decay = momentum, weight_decay
        self.buffer = torch.zeros_like(param) if momentum else None

    def step(self, grad: Tensor) -> None:
        grad = _plus_decay(grad, self.param, self.weight_decay)
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
        eps: Number,
        weight_decay: Number,
        *,
        decoupled: bool,
    ) -> None:
        super().__init__(param, lr)
        self.betas, self.eps, self.weight_decay, self.decoupled = betas, eps, weight_decay, decoupled
        self.mean, self.square = torch.zeros_like(param), torch.zeros_like(param)
        self.steps = 0

    def step(self, grad: Tensor) -> None:
        beta1, beta2 = self.betas
        self.steps += 1
        if self.decoupled:
            _shrink(self.param, self.minus_lr, self.weight_decay)
        else:
            grad = _plus_decay(grad, self.param, self.weight_decay)
        self.mean.lerp_(grad, 1 - beta1)
        self.square.mul_(beta2).addcmul_(grad, grad, value=1 - beta2)
        root = self.square.sqrt().div_((1 - beta2**self.steps) ** 0.5).add_(self.eps)
        self.param.addcmul_(torch.div(self.mean, root, out=root), self.minus_lr / (1 - beta1**self.steps))


class Sign(Stepper):
    """w -= lr * sign(average of the gradients); decay decoupled (`isoscale.training.torch_optimizers.SignSGD`)."""

    def __init__(self, param: Tensor, lr: Tensor, momentum: float, weight_decay: Number) -> None:
        super().__init__(param, lr)
        self.momentum, self.weight_decay = momentum, weight_decay
        self.mean = torch.zeros_like(param)

    def step(self, grad: Tensor) -> None:
        _shrink(self.param, self.minus_lr, self.weight_decay)
        mean = self.mean.lerp_(grad, 1 - self.momentum)
        # The sign of NaN is 0 in torch, which would freeze a diverged member instead of showing it.
        self.param.addcmul_(mean.sign().add_(mean, alpha=0), self.minus_lr)


class Muon(Stepper):
    """Orthogonalised Nesterov momentum (torch.optim.Muon); decay decoupled.

    Newton-Schulz runs in the tensor's own precision, where torch's runs in bfloat16.
    """

    def __init__(
        self, param: Tensor, lr: Tensor, momentum: float, weight_decay: Number, adjust_lr_fn: MuonAdjustment
    ) -> None:
        rows, columns = param.shape[-2:]
        super().__init__(param, lr)
        self.momentum, self.weight_decay = momentum, weight_decay
        self.scale = muon_scale(rows, columns, adjust_lr_fn)
        self.mean = torch.zeros_like(param)

    def step(self, grad: Tensor) -> None:
        self.mean.lerp_(grad, 1 - self.momentum)
        update = orthogonalize(grad.lerp(self.mean, self.momentum))
        _shrink(self.param, self.minus_lr, self.weight_decay)
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
