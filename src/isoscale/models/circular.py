"""Circular padding and circular convolution, with gradients that are circular convolutions again.

A convolution of a padded image has a gradient with respect to the padded image: more places than the image,
in a shape that convolution kernels handle badly, and then to be folded back. On a circle none of this is
needed. The adjoint of a circular convolution is the circular convolution with the kernel turned around, and
the weight's gradient is a correlation of input and output gradient in which either may be the padded one. So the
backward pass pads the output's gradient once and uses it for both, and what it keeps of the forward pass is the
image, which the activation keeps anyway, not its padded copy.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

Slices = tuple[slice, ...]


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


def circular_pad(x: Tensor, margins: tuple[tuple[int, int], ...]) -> Tensor:
    """`x` with its last axes continued periodically.

    Args:
        x: (..., *space), with at least as many places along an axis as are added at one end.
        margins: (before, after), the places to add at both ends of each of the last axes.

    >>> circular_pad(torch.arange(4.0), ((1, 2),))
    tensor([3., 0., 1., 2., 3., 0., 1.])
    """
    return _Pad.apply(x, margins) if any(map(any, margins)) else x


def _margins(weight: Tensor) -> tuple[tuple[int, int], ...]:
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
        pairs = ((tangents[0], weight), (x, tangents[1]))
        return sum(_Conv.apply(a, b, ctx.groups) for a, b in pairs if a is not None and b is not None)

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
    return weight.unflatten(0, (groups, -1)).transpose(1, 2).flatten(0, 1).flip(2, 3)


class _Linear(torch.autograd.Function):
    """What padding and its adjoint share: nothing to save, the tangent's image is the map of the tangent."""

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:
        ctx.margins = inputs[1]


class _Pad(_Linear):
    @staticmethod
    def forward(x: Tensor, margins: tuple[tuple[int, int], ...]) -> Tensor:
        sizes = x.shape[-len(margins) :]
        padded = _empty_like(x, margins)
        inside = [slice(before, before + size) for size, (before, _) in zip(sizes, margins, strict=True)]
        padded[(..., *inside)] = x
        # Axis by axis, the last first: then all copies but those along the last axis are of whole rows.
        for axis in reversed(range(len(margins))):
            size, (before, after) = sizes[axis], margins[axis]
            rows = padded[(..., *inside[:axis], *[slice(None)] * (len(margins) - axis))]
            axis -= len(margins)
            if before:
                rows.narrow(axis, 0, before).copy_(rows.narrow(axis, size, before))
            if after:
                rows.narrow(axis, before + size, after).copy_(rows.narrow(axis, before, after))
        return padded

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
    def forward(padded: Tensor, margins: tuple[tuple[int, int], ...]) -> Tensor:
        (_, interior), *border = _regions(padded.shape[-len(margins) :], margins)
        folded = padded[(..., *interior)].clone(memory_format=_layout(padded))
        for inner, outer in border:
            folded[(..., *inner)] += padded[(..., *outer)]
        return folded

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None]:
        return _Pad.apply(grads[0], ctx.margins), None

    @staticmethod
    def jvp(ctx: Any, *tangents: Any) -> Tensor:
        return _Fold.apply(tangents[0], ctx.margins)

    @staticmethod
    def vmap(info: Any, in_dims: Any, *args: Any) -> tuple[Tensor, int]:
        return _Fold.apply(args[0].movedim(in_dims[0], 0), args[1]), 0


def _regions(padded_sizes: Any, margins: tuple[tuple[int, int], ...]) -> Iterator[tuple[Slices, Slices]]:
    """Where each part of the padded array comes from: (place in the image, place in the padded image).

    The first is the whole image; the others are the border's sides and corners.
    """
    axes = []
    for padded, (before, after) in zip(padded_sizes, margins, strict=True):
        size = padded - before - after
        parts = [(slice(0, size), slice(before, before + size))]
        if before:
            parts.append((slice(size - before, size), slice(0, before)))
        if after:
            parts.append((slice(0, after), slice(before + size, padded)))
        axes.append(parts)
    for parts in itertools.product(*axes):
        inner, outer = zip(*parts, strict=True)
        yield inner, outer


def _empty_like(x: Tensor, margins: tuple[tuple[int, int], ...]) -> Tensor:
    space = (size + sum(pair) for size, pair in zip(x.shape[-len(margins) :], margins, strict=True))
    shape = [*x.shape[: -len(margins)], *space]
    return torch.empty(shape, dtype=x.dtype, device=x.device, memory_format=_layout(x))


def _layout(x: Tensor) -> torch.memory_format:
    # Its numbers of a place lie together; axes of one place may have any stride.
    last = x.dim() == 4 and x.shape[1] > 1 and x.is_contiguous(memory_format=torch.channels_last)
    return torch.channels_last if last else torch.contiguous_format
