"""The direction in which an optimizer of each family moves every tensor, per unit of learning rate.

It is the first step from a fresh state: momentum buffers are empty and Adam's bias correction is complete, so that
its step is the normalised gradient. Weight decay is no part of it.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping

import torch
from torch import Tensor

from isoscale.errors import unknown
from isoscale.scaling.optimizers import OPTIMIZERS, OptimizerFamily


def optimizer_step(
    grads: Mapping[str, Tensor],
    family: OptimizerFamily,
    *,
    eps: float = 1e-8,
    hidden: Collection[str] | None = None,
) -> dict[str, Tensor]:
    """The change of each tensor per unit of learning rate at an optimizer's first step.

    Args:
        grads: The gradient of each tensor, by name.
        family: "sgd": -g. "adam", "adamw": -g / (|g| + eps). "sign": -sign(g). "muon": minus the orthogonal factor
            U V^T of g = U S V^T, times sqrt(max(1, fan_out / fan_in)) as torch.optim.Muon's `adjust_lr_fn="original"`.
        eps: Of Adam.
        hidden: Under Muon, the names of the tensors that it steps; all others get Adam's step. None: every tensor
            with two axes or more. A convolution's kernel counts as the matrix (out, in * size).

    Returns:
        The steps, by name, with the gradients' shapes and dtypes.

    Raises:
        InvalidValueError: No such family.

    Muon's factor is exact (by singular values; directions without gradient stay still), where the optimizer itself
    runs five Newton-Schulz iterations that leave singular values between about 0.7 and 1.2.

    >>> optimizer_step({"w": torch.tensor([3.0, -0.5])}, "sign")
    {'w': tensor([-1.,  1.])}
    """
    if family not in OPTIMIZERS:
        raise unknown("optimizer family", family, OPTIMIZERS)
    return {name: _step(name, grad.detach(), family, eps, hidden) for name, grad in grads.items()}


def _step(name: str, grad: Tensor, family: OptimizerFamily, eps: float, hidden: Collection[str] | None) -> Tensor:
    if family == "sgd":
        return -grad
    if family == "sign":
        return -grad.sign()
    if family == "muon" and grad.dim() >= 2 and (hidden is None or name in hidden):
        return -_orthogonal(_full(grad)).to(grad.dtype)
    return -(_full(grad) / (_full(grad).abs() + eps)).to(grad.dtype)


def _orthogonal(grad: Tensor) -> Tensor:
    """U V^T of a gradient, scaled to a root-mean-square gain of one from inputs to outputs."""
    matrix = grad.flatten(1)
    left, size, right = torch.linalg.svd(matrix, full_matrices=False)
    # Rounding fills the directions without gradient; they must not become full-size steps.
    real = size > size[0] * max(matrix.shape) * torch.finfo(matrix.dtype).eps
    fan_out, fan_in = matrix.shape
    return (max(1.0, fan_out / fan_in) ** 0.5 * (left * real) @ right).view_as(grad)


def _full(tensor: Tensor) -> Tensor:
    """At least single precision: eps is zero in float16, and there is no SVD in half precision."""
    return tensor.to(torch.promote_types(tensor.dtype, torch.float32))
