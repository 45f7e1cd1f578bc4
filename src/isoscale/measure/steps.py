"""The direction in which an optimizer of each family moves every tensor, per unit of learning rate.

It is the first step from a fresh state: momentum buffers are empty and Adam's bias correction is complete, so that
its step is the normalised gradient. Weight decay is no part of it.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping

import torch
from torch import Tensor

from isoscale.scaling import optimizers
from isoscale.scaling.optimizers import FAMILIES, Family, OptimizerFamily


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
    row = optimizers.family(family)
    steps: dict[str, Tensor] = {}
    for name, grad in grads.items():
        stepper = row
        # Like torch's Muon, which takes matrices only, a family with another beside it leaves the rest to that.
        is_hidden = hidden is None or name in hidden
        if row.beside and not (is_hidden and grad.dim() >= 2):
            stepper = FAMILIES[row.beside]
        steps[name] = _step(grad.detach(), stepper, eps)
    return steps


def _step(grad: Tensor, row: Family, eps: float) -> Tensor:
    """Minus the gradient, answered to as the family does."""
    if row.answer == "linear":
        return -grad
    full = _full(grad)
    if row.answer == "spectral":
        direction = _orthogonal(full)
    elif row.has_eps:
        # Adam's m / (sqrt(v) + eps) at the first step, whatever its betas.
        direction = full / (full.abs() + eps)
    else:
        direction = grad.sign()
    return -direction.to(grad.dtype)


def _orthogonal(grad: Tensor) -> Tensor:
    """U V^T of a gradient, scaled to a root-mean-square gain of one from inputs to outputs."""
    matrix = grad.flatten(1)
    left, size, right = torch.linalg.svd(matrix, full_matrices=False)
    # Rounding fills the directions without gradient; they must not become full-size steps.
    eps = torch.finfo(matrix.dtype).eps
    real = size > size[0] * max(matrix.shape) * eps
    fan_out, fan_in = matrix.shape
    gain = max(1.0, fan_out / fan_in) ** 0.5
    return (gain * (left * real) @ right).view_as(grad)


def _full(tensor: Tensor) -> Tensor:
    """At least single precision: eps is zero in float16, and there is no SVD in half precision."""
    dtype = torch.promote_types(tensor.dtype, torch.float32)
    return tensor.to(dtype)
