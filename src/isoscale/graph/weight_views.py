"""Which axes of a parameter the dimensions of a view of it hold.

A linear layer contracts `weight.t()`, a packed projection a slice of a reshaped tensor; to know a parameter's
fan_in and fan_out, its axes are followed through every view on the way.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from isoscale.graph.ops import Operation

Axes = tuple[frozenset[int], ...]
_NONE: frozenset[int] = frozenset()


@dataclass(frozen=True)
class Weight:
    """A tensor computed from parameters alone.

    Attributes:
        names: The parameters; one unless they were combined.
        axes: For each dimension the axes of the parameter that it holds; None once they are lost.
        computed_by: The first operation that was more than a view or a scaling.
        factor: What the parameter was multiplied by on the way; None if unknown.
    """

    names: tuple[str, ...]
    axes: Axes | None
    computed_by: str | None = None
    factor: float | None = 1.0

    @classmethod
    def of(cls, name: str, dimensions: int) -> Weight:
        """A parameter itself."""
        axes = tuple(frozenset((axis,)) for axis in range(dimensions))
        return cls((name,), axes)


def derive(
    row: Operation,
    args: Sequence[Any],
    weights: Sequence[Weight],
    before: Sequence[int],
    after: Sequence[int],
) -> Weight:
    """What an operation on parameters (and constants) alone returns.

    Args:
        row: The operation.
        args: Its positional arguments.
        weights: Its tensor arguments that come from parameters.
        before: Shape of the first of them.
        after: Shape of the result.
    """
    computed_by: str | None = None
    for weight in weights:
        computed_by = computed_by or weight.computed_by
    if len(weights) > 1:
        return _combined(weights, len(after), computed_by or row.name)

    (only,) = weights
    if not (row.is_view or row.plain):
        computed_by = computed_by or row.name
    axes: Axes | None = None
    if only.axes is not None:
        axes = _axes(row, args, only.axes, tuple(before), tuple(after))
    return replace(only, axes=axes, computed_by=computed_by)


def _combined(weights: Sequence[Weight], dimensions: int, computed_by: str) -> Weight:
    """Several parameters in one tensor of so many dimensions."""
    names: dict[str, None] = {}
    largest: Axes = ()
    for weight in weights:
        names |= dict.fromkeys(weight.names)
        axes = weight.axes or ()
        if len(axes) > len(largest):
            largest = axes
    # Entry by entry, dimensions stay what they are; any other way of combining parameters loses track of them.
    kept = largest if len(largest) == dimensions else None
    return Weight(tuple(names), kept, computed_by)


def _axes(
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
    if row.dimensions == "permuted":
        return tuple(axes[i] for i in args[1])
    if row.dimensions == "inserted":
        at = args[1] % (rank + 1)
        return (*axes[:at], _NONE, *axes[at:])
    if row.dimensions == "removed":
        at = args[1] if len(args) > 1 else 0
        remaining = list(axes)
        del remaining[at]
        return tuple(remaining)
    if row.dimensions == "expanded":
        # New dimensions come first, and a dimension of size 1 is repeated: neither holds an axis.
        new = [_NONE] * (len(after) - rank)
        old = [_without_ones(held, size) for held, size in zip(axes, before, strict=True)]
        return (*new, *old)
    if row.dimensions == "selected":
        return _selected(args[1], axes, len(after))
    takes_part_of_each = row.is_view and row.dimensions == "kept" and len(before) == len(after)
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
            held |= _without_ones(axes[k], before[k])
        for k in range(right, j):
            out.append(_without_ones(held, after[k]))
    return tuple(out)


def _without_ones(held: frozenset[int], size: int) -> frozenset[int]:
    """What a dimension of this size holds: one of size 1 holds no axis."""
    return held if size > 1 else _NONE
