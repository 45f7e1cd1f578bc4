"""Circular padding and circular convolution, with gradients that are circular convolutions again.

A convolution of a padded image has a gradient with respect to the padded image: more places than the image,
in a shape that convolution kernels handle badly, and then to be folded back. On a circle none of this is
needed. The adjoint of a circular convolution is the circular convolution with the kernel turned around, and
the weight's gradient is a correlation of input and output gradient in which either may be the padded one. So the
backward pass pads the output's gradient once and uses it for both, and what it keeps of the forward pass is the
image, which the activation keeps anyway, not its padded copy.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

Margins = tuple[tuple[int, int], tuple[int, int]]


def circular_conv(
    x: Float[Tensor, "batch fan_in height width"],
    weight: Float[Tensor, "fan_out fan_in_of_group rows columns"],
    groups: int = 1,
) -> Float[Tensor, "batch fan_out height width"]:
    """Convolution of stride 1 on a torus, as many places out as in.

    As torch's padding="same", an even kernel looks one place further ahead than back. Derivatives of every order
    and kind, and `torch.func`'s transforms, go through.

    Args:
        x: (batch, groups * fan_in, height, width), at least half as large as the kernel along each axis.
        weight: (fan_out, fan_in, rows, columns), the groups' kernels one after the other.
        groups: As of torch.nn.functional.conv2d.

    >>> circular_conv(torch.tensor([[[[0.0, 0.0, 1.0]]]]), torch.tensor([[[[1.0, 2.0, 3.0]]]]))
    tensor([[[[1., 3., 2.]]]])
    """
    if torch.is_autocast_enabled(x.device.type):
        dtype = torch.get_autocast_dtype(x.device.type)
        x, weight = x.to(dtype), weight.to(dtype)
    return _Conv.apply(x, weight, groups)


def circular_pad(x: Float[Tensor, "batch channels height width"], margins: Margins) -> Tensor:
    """An image continued periodically.

    Args:
        x: (batch, channels, height, width).
        margins: (before, after), the places to add at both ends of the height, and of the width.

    >>> circular_pad(torch.arange(4.0).view(1, 1, 1, 4), ((0, 0), (1, 2)))
    tensor([[[[3., 0., 1., 2., 3., 0., 1.]]]])
    """
    rows, columns = (
        torch.arange(-before, size + after, device=x.device) % size
        for size, (before, after) in zip(x.shape[-2:], margins, strict=True)
    )
    places = (rows[:, None] * x.shape[-1] + columns).flatten()
    batch, channels = x.shape[:2]
    if _layout(x) is torch.channels_last:  # the channels of a place lie together
        gathered = x.movedim(1, -1).reshape(batch, -1, channels).index_select(1, places)
        return gathered.reshape(batch, len(rows), len(columns), channels).movedim(-1, 1)
    return x.reshape(batch, channels, -1).index_select(2, places).reshape(batch, channels, len(rows), len(columns))


def _margins(weight: Tensor) -> Margins:
    rows, columns = (((size - 1) // 2, size // 2) for size in weight.shape[2:])
    return rows, columns


class _Conv(torch.autograd.Function):
    @staticmethod
    def forward(x: Tensor, weight: Tensor, groups: int) -> Tensor:
        return _composed(x, weight, groups)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:
        x, weight, ctx.groups = inputs
        ctx.save_for_backward(x, weight)
        ctx.save_for_forward(x, weight)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, Tensor | None, None]:
        x, weight = ctx.saved_tensors
        grad = grads[0].contiguous(memory_format=_layout(x))
        wants_x, wants_weight, _ = ctx.needs_input_grad
        if not wants_x:
            # The input of a network has few channels: it is the cheaper one to pad.
            return None, _weight_gradient(grad, circular_pad(x, _margins(weight)), weight, ctx.groups), None
        turned = _turned(weight, ctx.groups)
        (above, below), (left, right) = _margins(weight)
        padded = circular_pad(grad, ((below, above), (right, left)))
        grad_x = F.conv2d(padded, turned, groups=ctx.groups)
        grad_weight = _turned(_weight_gradient(x, padded, turned, ctx.groups), ctx.groups) if wants_weight else None
        return grad_x, grad_weight, None

    @staticmethod
    def jvp(ctx: Any, *tangents: Any) -> Tensor:
        x, weight = ctx.saved_tensors
        dx, dweight, _ = tangents
        if dx is None:
            return _Conv.apply(x, dweight, ctx.groups)
        along_x = _Conv.apply(dx, weight, ctx.groups)
        return along_x if dweight is None else along_x + _Conv.apply(x, dweight, ctx.groups)

    @staticmethod
    def vmap(info: Any, in_dims: Any, *args: Any) -> tuple[Tensor, int]:
        return torch.vmap(_composed, in_dims=in_dims)(*args), 0


def _composed(x: Tensor, weight: Tensor, groups: int) -> Tensor:
    return F.conv2d(circular_pad(x, _margins(weight)), weight, groups=groups)


def _weight_gradient(grad: Tensor, padded: Tensor, weight: Tensor, groups: int) -> Tensor:
    """That of `conv2d(padded, weight)`, where `weight` counts for its shape only."""
    none = [0, 0]
    return torch.ops.aten.convolution_backward(
        grad, padded, weight, None, [1, 1], none, [1, 1], False, none, groups, [False, True, False]
    )[1]


def _turned(weight: Tensor, groups: int) -> Tensor:
    """The adjoint's kernel: each group's inputs and outputs exchanged, each axis of space reversed."""
    _, fan_in, *kernel = weight.shape
    by_group = weight.reshape(groups, -1, fan_in, *kernel).transpose(1, 2)
    return by_group.reshape(groups * fan_in, -1, *kernel).flip(2, 3)


def _layout(x: Tensor) -> torch.memory_format:
    # By strides, since vmap has no answer to `is_contiguous`; an axis of one place may have any.
    _, channels, height, width = x.shape
    wanted = (channels * height * width, 1, channels * width, channels)
    last = all(size == 1 or stride == want for size, stride, want in zip(x.shape, x.stride(), wanted, strict=True))
    return torch.channels_last if last and channels > 1 else torch.contiguous_format
