"""Circular padding and its adjoint, each a handful of slice copies.

torch's own circular padding copies as well forward, but its backward accumulates whole images: it is
an eighth of a conv net's step forward and a quarter backward. Both maps are linear and each is the
other's transpose, so that each is also the other's backward pass, at every order, and forward mode
applies the map to the tangent.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

Slices = tuple[slice, ...]


def circular_pad(x: Tensor, before: int, after: int, dims: int) -> Tensor:
    """`x` with its last `dims` axes continued periodically by `before` and `after` places.

    Args:
        x: (..., *space), with at least `before` and `after` places along each of the `dims` axes.
        before, after: Places to add at the beginning and at the end of each axis.
        dims: 1 or 2.

    >>> circular_pad(torch.arange(4.0), 1, 2, dims=1)
    tensor([3., 0., 1., 2., 3., 0., 1.])
    """
    return _Pad.apply(x, before, after, dims)


class _Linear(torch.autograd.Function):
    """What the two maps share: nothing to save, the tangent's image is the map of the tangent."""

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:
        ctx.place = inputs[1:]


class _Pad(_Linear):
    @staticmethod
    def forward(x: Tensor, before: int, after: int, dims: int) -> Tensor:
        padded = _empty_like(x, before + after, dims)
        for inner, outer in _regions(x.shape[-dims:], before, after):
            padded[(..., *outer)] = x[(..., *inner)]
        return padded

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None, None, None]:
        return _Fold.apply(grads[0], *ctx.place), None, None, None

    @staticmethod
    def jvp(ctx: Any, *tangents: Any) -> Tensor:
        return _Pad.apply(tangents[0], *ctx.place)

    @staticmethod
    def vmap(info: Any, in_dims: Any, *args: Any) -> tuple[Tensor, int]:
        return _Pad.apply(args[0].movedim(in_dims[0], 0), *args[1:]), 0


class _Fold(_Linear):
    """Adds what lies on the padding to the places that it continues."""

    @staticmethod
    def forward(padded: Tensor, before: int, after: int, dims: int) -> Tensor:
        sizes = [size - before - after for size in padded.shape[-dims:]]
        (_, interior), *border = _regions(sizes, before, after)
        folded = padded[(..., *interior)].clone(memory_format=_layout(padded))
        for inner, outer in border:
            folded[(..., *inner)] += padded[(..., *outer)]
        return folded

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None, None, None]:
        return _Pad.apply(grads[0], *ctx.place), None, None, None

    @staticmethod
    def jvp(ctx: Any, *tangents: Any) -> Tensor:
        return _Fold.apply(tangents[0], *ctx.place)

    @staticmethod
    def vmap(info: Any, in_dims: Any, *args: Any) -> tuple[Tensor, int]:
        return _Fold.apply(args[0].movedim(in_dims[0], 0), *args[1:]), 0


def _regions(sizes: Any, before: int, after: int) -> Iterator[tuple[Slices, Slices]]:
    """Where each part of the padded array comes from: (place in the image, place in the padded image).

    The first is the whole image; the others are the border's sides and corners.
    """
    axes = []
    for size in sizes:
        parts = [(slice(0, size), slice(before, before + size))]
        if before:
            parts.append((slice(size - before, size), slice(0, before)))
        if after:
            parts.append((slice(0, after), slice(before + size, before + size + after)))
        axes.append(parts)
    for parts in itertools.product(*axes):
        inner, outer = zip(*parts, strict=True)
        yield inner, outer


def _empty_like(x: Tensor, more: int, dims: int) -> Tensor:
    shape = [*x.shape[:-dims], *(size + more for size in x.shape[-dims:])]
    return torch.empty(shape, dtype=x.dtype, device=x.device, memory_format=_layout(x))


def _layout(x: Tensor) -> torch.memory_format:
    last = x.dim() == 4 and x.stride(1) == 1 and x.stride(3) == x.shape[1]
    return torch.channels_last if last else torch.contiguous_format
