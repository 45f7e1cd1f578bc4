"""How a parameter enters an operation on activations."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from torch import Tensor

from isoscale.graph.graph import Kind, Use
from isoscale.graph.ops import Operation
from isoscale.graph.weight_views import Weight


def uses_of(row: Operation, args: Sequence[Any], tensor: Tensor, weight: Weight) -> list[Use]:
    """One use for each parameter that a tensor holds.

    Args:
        row: The operation.
        args: Its positional arguments.
        tensor: One of them, which was computed from parameters alone.
        weight: What is known of it.
    """
    kind, summed = _kind(row, args, tensor)
    if weight.axes is None or summed is None:
        fan_in: tuple[int, ...] = ()
        fan_out = held_axes(weight)
    else:
        fan_in = _union(weight.axes[axis] for axis in summed)
        experts = row.contraction is not None and row.contraction.batched and tensor.dim() == 3
        left_out = {*summed, 0} if experts else {*summed}
        kept = _union(weight.axes[axis] for axis in range(tensor.dim()) if axis not in left_out)
        fan_out = tuple(axis for axis in kept if axis not in fan_in)
    if kind == "map" and not fan_in:
        kind = "other"
    if kind == "lookup":
        fan_in = ()  # rows are picked, not summed over
    return [Use(name, kind, fan_in, fan_out, weight.computed_by) for name in weight.names]


def held_axes(weight: Weight) -> tuple[int, ...]:
    """The axes of the parameter that the dimensions of a weight hold, in rising order."""
    return _union(weight.axes or ())


def _union(axes: Iterable[Iterable[int]]) -> tuple[int, ...]:
    return tuple(sorted(frozenset[int]().union(*axes)))


def _kind(row: Operation, args: Sequence[Any], tensor: Tensor) -> tuple[Kind, tuple[int, ...] | None]:
    """The kind of the use, and which dimensions of the tensor are summed over or indexed; None if it has no such."""
    if row.contraction:
        position = next((i for i, value in enumerate(args) if value is tensor), None)
        summed = row.contraction.summed(position, tensor.dim(), args)
        if summed is not None:
            return "map", summed
    if row.parameter == "lookup":
        return "lookup", row.selects
    if row.is_norm:
        # Whatever else they take, norms take (input, gain, bias) in this order.
        tensors = [value for value in args if isinstance(value, Tensor)]
        is_bias = len(tensors) > 2 and tensors[2] is tensor
        return ("bias" if is_bias else "gain"), None
    return row.parameter, None
