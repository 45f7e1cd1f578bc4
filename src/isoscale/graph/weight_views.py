"""Which axes of a parameter the dimensions of a view of it hold.

A linear layer contracts `weight.t()`, a packed projection a slice of a reshaped tensor; to know a parameter's
fan_in and fan_out, its axes are followed through every view on the way.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from isoscale.graph.constants import product
from isoscale.graph.ops import Operation

Axes = tuple[frozenset[int], ...]
_NONE: frozenset[int] = frozenset()


@dataclass(frozen=True)
class Held:
    """One parameter in a tensor that was computed from parameters alone.

    Attributes:
        name: The parameter.
        axes: For each dimension of the tensor the axes of the parameter that it holds; None once they are lost.
        computed_by: The first operation on the way that is not linear in the parameter.
        scales: Whether it is the scale of a norm that another parameter has passed.
        factor: What the parameter was multiplied by on the way; None if unknown.
    """

    name: str
    axes: Axes | None
    computed_by: str | None = None
    factor: float | None = 1.0
    scales: bool = False


@dataclass(frozen=True)
class Weight:
    """A tensor computed from parameters alone: what it holds of each of them."""

    held: tuple[Held, ...]

    def times(self, factor: float | None) -> Weight:
        """The same multiplied by a number; None if that is unknown."""
        return Weight(tuple(replace(one, factor=product([one.factor, factor])) for one in self.held))

    @classmethod
    def of(cls, name: str, dimensions: int) -> Weight:
        """A parameter itself."""
        axes = tuple(frozenset((axis,)) for axis in range(dimensions))
        return cls((Held(name, axes),))


def derive(
    row: Operation,
    args: Sequence[Any],
    weights: Sequence[tuple[tuple[int, ...], Weight]],
    after: tuple[int, ...],
) -> Weight:
    """What an operation on parameters (and constants) alone returns.

    Args:
        row: The operation.
        args: Its positional arguments.
        weights: Its tensor arguments that come from parameters, with their shapes.
        after: Shape of the result.
    """
    held: dict[str, Held] = {}
    for position, (before, weight) in enumerate(weights):
        for one in weight.held:
            if row.is_norm and position == 1:
                # Norms take (input, scale, bias) in this order.
                derived = replace(one, axes=None, scales=True)
            else:
                derived = _derived(row, args, one, before, after, alone=len(weights) == 1)
            held.setdefault(one.name, derived)
    return Weight(tuple(held.values()))


def _derived(
    row: Operation, args: Sequence[Any], one: Held, before: tuple[int, ...], after: tuple[int, ...], *, alone: bool
) -> Held:
    """What the result holds of one parameter, of which an argument of this shape holds `one`."""
    # A sum of parameters is linear in each of them, 1 + p in p is not, and a product of two in neither. A sum over the
    # entries of one grows with their number.
    is_linear = (row.is_linear or row.plain) and row.name != "sum"
    is_affine = alone and (row.adds or row.masks)
    is_product = not alone and (row.multiplies or row.contraction is not None)
    if is_affine or is_product or not is_linear:
        one = replace(one, computed_by=one.computed_by or row.name)
    axes: Axes | None = None
    if one.axes is None:
        return one
    if alone or row.name == "stack":
        axes = axes_after(row, args, one.axes, before, after)
    elif row.is_entrywise and len(before) <= len(after):
        # The last dimensions correspond.
        padding = [_NONE] * (len(after) - len(before))
        axes = (*padding, *one.axes)
    elif row.is_norm and before == after:
        # What is normalised; scales and biases are of another shape.
        axes = one.axes
    known = axes is not None and len(axes) == len(after)
    return replace(one, axes=axes if known else None)


def axes_after(
    row: Operation,
    args: Sequence[Any],
    axes: Axes,
    before: tuple[int, ...],
    after: tuple[int, ...],
) -> Axes | None:
    """The axes that the result holds, of a tensor that holds `axes`."""
    rank = len(before)
    if row.dimensions == "transposed":
        if rank < 2:
            return axes
        # `t` names no dimensions.
        first, second = args[1:3] if len(args) > 2 else (0, 1)
        swapped = list(axes)
        swapped[first], swapped[second] = axes[second], axes[first]
        return tuple(swapped)
    if row.name == "view_as_complex":
        return axes[:-1]
    if row.name == "view_as_real":
        return (*axes, _NONE)
    if row.reduces:
        summed = row.reduced(args, rank)
        if len(after) == rank:
            return tuple(_NONE if axis in summed else held for axis, held in enumerate(axes))
        return tuple(held for axis, held in enumerate(axes) if axis not in summed)
    if row.dimensions == "permuted":
        return tuple(axes[i] for i in args[1])
    if row.dimensions == "inserted":
        # `stack` puts its new dimension first unless it is told.
        at = args[1] % (rank + 1) if len(args) > 1 else 0
        return (*axes[:at], _NONE, *axes[at:])
    if row.dimensions == "removed":
        at = args[1] if len(args) > 1 else 0
        remaining = list(axes)
        del remaining[at]
        return tuple(remaining)
    if row.dimensions == "expanded":
        # New dimensions come first, and a dimension of size 1 is repeated: neither holds an axis.
        new = [_NONE] * (len(after) - rank)
        old = [without_ones(held, size) for held, size in zip(axes, before, strict=True)]
        return (*new, *old)
    if row.dimensions == "selected":
        return _selected(args[1], axes, len(after))
    takes_part_of_each = row.is_linear and row.dimensions == "kept" and len(before) == len(after)
    if before == after or takes_part_of_each:
        return axes
    return _reshaped(axes, before, after)


def _selected(indices: Any, axes: Axes, dimensions: int) -> Axes | None:
    """Rows picked by constant indices: each indexed axis becomes positions, the rest stays."""
    picked = 1
    if isinstance(indices, Sequence):
        # One for each leading axis, of which None takes it whole.
        picked = sum(index is not None for index in indices)
    kept = axes[picked:]
    if len(kept) > dimensions:
        return None
    positions = [_NONE] * (dimensions - len(kept))
    return (*positions, *kept)


def _reshaped(axes: Axes, before: tuple[int, ...], after: tuple[int, ...]) -> Axes | None:
    """Axes through a reshape: runs of dimensions with equal products correspond."""
    out: list[frozenset[int]] = []
    i = j = 0
    while i < len(before) or j < len(after):
        # The shortest runs before[left:i] and after[right:j] with equal products a = b.
        left, right = i, j
        a = b = 1
        if i < len(before):
            a *= before[i]
            i += 1
        if j < len(after):
            b *= after[j]
            j += 1
        while a != b:
            if a < b and i < len(before):
                a *= before[i]
                i += 1
            elif b < a and j < len(after):
                b *= after[j]
                j += 1
            else:
                return None
        # Of the others in a run each dimension may hold any axis of the run.
        held = _NONE
        for k in range(left, i):
            held |= without_ones(axes[k], before[k])
        for k in range(right, j):
            out.append(without_ones(held, after[k]))
    return tuple(out)


def without_ones(held: frozenset[int], size: int) -> frozenset[int]:
    """What a dimension of this size holds: one of size 1 holds no axis."""
    return held if size > 1 else _NONE
