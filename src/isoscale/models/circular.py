"""Circular padding and circular convolution, with gradients that are circular convolutions again.

A convolution of a padded image has a gradient with respect to the padded image: more places than the image,
in a shape that convolution kernels handle badly, and then to be folded back. On a circle none of this is
needed. The adjoint of a circular convolution is the circular convolution with the kernel turned around, and
the weight's gradient is a correlation of input and output gradient in which either may be the padded one. So the
backward pass pads the output's gradient once and uses it for both, and what it keeps of the forward pass is the
image, which the activation keeps anyway, not its padded copy.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

Margins = tuple[tuple[int, int], ...]


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


def circular_pad(x: Tensor, margins: Margins) -> Tensor:
    """`x` with its last axes continued periodically.

    Args:
        x: (..., *space), with at least as many places along an axis as are added at one end.
        margins: (before, after), the places to add at both ends of each of the last axes.

    >>> circular_pad(torch.arange(4.0), ((1, 2),))
    tensor([3., 0., 1., 2., 3., 0., 1.])
    """
    # A Function costs as much as padding small images does, and its gradient is all that it is for.
    return _Pad.apply(x, margins) if torch.is_grad_enabled() else _padded(x, margins)


def _margins(weight: Tensor) -> Margins:
    return tuple(((size - 1) // 2, size // 2) for size in weight.shape[2:])


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
        padded = circular_pad(grad, tuple((after, before) for before, after in _margins(weight)))
        turned = _turned(weight, ctx.groups)
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


class _Linear(torch.autograd.Function):
    """What padding and its adjoint share: nothing to save, the tangent's image is the map of the tangent."""

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:
        ctx.margins = inputs[1]


class _Pad(_Linear):
    @staticmethod
    def forward(x: Tensor, margins: Margins) -> Tensor:
        return _padded(x, margins)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None]:
        return _Fold.apply(grads[0], ctx.margins), None

    @staticmethod
    def jvp(ctx: Any, *tangents: Any) -> Tensor:
        return _Pad.apply(tangents[0], ctx.margins)

    @staticmethod
    def vmap(info: Any, in_dims: Any, *args: Any) -> tuple[Tensor, int]:
        return _Pad.apply(args[0].movedim(in_dims[0], 0), args[1]), 0


class _Fold(_Linear):
    """Adds what lies on the padding to the places that it continues."""

    @staticmethod
    def forward(padded: Tensor, margins: Margins) -> Tensor:
        layout = _layout(padded)
        folded = padded.clone(memory_format=layout)
        inside, copies = _continuation(folded, margins)
        for border, origin in reversed(copies):
            origin += border
        return inside.clone(memory_format=layout)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None]:
        return _Pad.apply(grads[0], ctx.margins), None

    @staticmethod
    def jvp(ctx: Any, *tangents: Any) -> Tensor:
        return _Fold.apply(tangents[0], ctx.margins)

    @staticmethod
    def vmap(info: Any, in_dims: Any, *args: Any) -> tuple[Tensor, int]:
        return _Fold.apply(args[0].movedim(in_dims[0], 0), args[1]), 0


def _padded(x: Tensor, margins: Margins) -> Tensor:
    sizes = x.shape[-len(margins) :]
    padded = _empty_like(x, [before + size + after for size, (before, after) in zip(sizes, margins, strict=True)])
    inside, copies = _continuation(padded, margins)
    inside.copy_(x)
    for border, origin in copies:
        border.copy_(origin)
    return padded


def _continuation(padded: Tensor, margins: Margins) -> tuple[Tensor, list[tuple[Tensor, Tensor]]]:
    """The image within its border, and the copies (to, from) that make the border, in their order.

    The last axis comes first: then all copies but those along it are of whole rows.
    """
    inside, copies = padded, []
    for axis, (before, after) in enumerate(margins, -len(margins)):
        size = padded.shape[axis] - before - after
        ends = [(0, size, before), (before + size, before, after)]
        copies += [(inside.narrow(axis, to, n), inside.narrow(axis, start, n)) for to, start, n in reversed(ends) if n]
        inside = inside.narrow(axis, before, size)
    return inside, copies[::-1]


def _empty_like(x: Tensor, space: list[int]) -> Tensor:
    """Uninitialised, with other last axes. Made from `x`, so that inside of vmap it has a member's axis as `x` has."""
    shape = [*x.shape[: -len(space)], *space]
    if _layout(x) is torch.contiguous_format:
        return x.new_empty(shape)
    return x.new_empty_strided(shape, _channels_last(shape))


def _layout(x: Tensor) -> torch.memory_format:
    # By strides, since vmap has no answer to `is_contiguous`; an axis of one place may have any.
    last = x.dim() == 4 and x.shape[1] > 1
    if last:
        places = zip(x.shape, x.stride(), _channels_last(x.shape), strict=True)
        last = all(size == 1 or stride == wanted for size, stride, wanted in places)
    return torch.channels_last if last else torch.contiguous_format


def _channels_last(shape: Sequence[int]) -> tuple[int, ...]:
    _, channels, height, width = shape
    return channels * height * width, 1, channels * width, channels
