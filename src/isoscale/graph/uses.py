"""How a parameter enters an operation on activations."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import Any

from torch import Tensor

from isoscale.graph.graph import Kind, Use
from isoscale.graph.ops import Operation
from isoscale.graph.weight_views import Axes, Held, Weight, without_ones


def uses_of(row: Operation, args: Sequence[Any], tensor: Tensor, weight: Weight) -> list[Use]:
    """One use for each parameter that a tensor holds.

    Args:
        row: The operation.
        args: Its positional arguments.
        tensor: One of its arguments, computed from parameters alone.
        weight: What is known of it.
    """
    kind, summed = _kind(row, args, tensor)
    uses = [_use(row, tensor, held, kind, summed) for held in weight.held]
    if kind == "map" and row.contraction and row.contraction.is_transposed_in_groups(args):
        uses = [replace(use, in_groups=True) for use in uses]
    return uses


def _use(row: Operation, tensor: Tensor, held: Held, kind: Kind, summed: tuple[int, ...] | None) -> Use:
    fan_in: tuple[int, ...] = ()
    fan_out = held_axes(held)
    if held.axes is not None and summed is not None:
        left_out = set(summed)
        contraction = row.contraction
        if contraction and contraction.batched and tensor.dim() == 3:
            left_out.add(0)  # the axis of experts
        kept = [axis for axis in range(tensor.dim()) if axis not in left_out]
        fan_in = _union(held.axes[axis] for axis in summed)
        fan_out = _union(held.axes[axis] for axis in kept)
        fan_out = tuple(axis for axis in fan_out if axis not in fan_in)
    if kind == "map" and not fan_in:
        # A weight's own norm has a scale for each of its outputs.
        kind = "gain" if held.scales else "other"
    if kind == "embedding":
        # Rows are picked, not summed over.
        fan_in = ()
    axes: Axes | None = None
    if held.axes is not None:
        axes = tuple(without_ones(axis, size) for axis, size in zip(held.axes, tensor.shape, strict=True))
    return Use(held.name, kind, fan_in, fan_out, held.computed_by, axes, factor=held.factor)


def held_axes(held: Held) -> tuple[int, ...]:
    """The axes of the parameter that the dimensions of a tensor hold, in rising order."""
    return _union(held.axes or ())


def as_dot_product(use: Use, summed: Iterable[int]) -> Use:
    """A parameter that multiplied entry by entry, once the products are summed over some of its axes.

    A sum of products over an axis of the parameter is what a weight matrix computes.
    """
    fan_in = _union([use.fan_in, summed])
    fan_out = tuple(axis for axis in use.fan_out if axis not in fan_in)
    return replace(use, kind="map", fan_in=fan_in, fan_out=fan_out)


def _union(axes: Iterable[Iterable[int]]) -> tuple[int, ...]:
    found: set[int] = set()
    for held in axes:
        found.update(held)
    return tuple(sorted(found))


def _kind(row: Operation, args: Sequence[Any], tensor: Tensor) -> tuple[Kind, tuple[int, ...] | None]:
    """The kind of the use, and which dimensions of the tensor are summed over or indexed; None if it has no such."""
    if row.contraction:
        position: int | None = None
        for i, value in enumerate(args):
            if value is tensor:
                position = i
                break
        summed = row.contraction.summed(position, tensor.dim(), args)
        if summed is not None:
            return "map", summed
    if row.parameter == "embedding":
        return "embedding", row.selects
    if row.is_norm:
        # Whatever else they take, norms take (input, scale, bias) in this order.
        tensors = [value for value in args if isinstance(value, Tensor)]
        is_bias = len(tensors) > 2 and tensors[2] is tensor
        return ("bias" if is_bias else "gain"), None
    return row.parameter, None
