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
    """

    names: tuple[str, ...]
    axes: Axes | None
    computed_by: str | None = None

    @classmethod
    def of(cls, name: str, dimensions: int) -> Weight:
        return cls((name,), tuple(frozenset((axis,)) for axis in range(dimensions)))


def derive(
    row: Operation, args: Sequence[Any], weights: Sequence[Weight], before: Sequence[int], after: Sequence[int]
) -> Weight:
    """What an operation on parameters (and constants) alone returns.

    Args:
        row: The operation.
        args: Its positional arguments.
        weights: Its tensor arguments that come from parameters.
        before: Shape of the first of them.
        after: Shape of the result.
    """
    computed_by = next((weight.computed_by for weight in weights if weight.computed_by), None)
    if len(weights) > 1:
        names = dict.fromkeys(name for weight in weights for name in weight.names)
        largest = max(weights, key=lambda weight: len(weight.axes or ()))
        # Entry by entry, dimensions stay what they are; any other way of combining parameters loses track of them.
        same_rank = largest.axes is not None and len(largest.axes) == len(after)
        return Weight(tuple(names), largest.axes if same_rank else None, computed_by or row.name)
    (only,) = weights
    axes = None
    if only.axes is not None:
        axes = _axes(row, args, only.axes, tuple(before), tuple(after))
    if not (row.is_view or row.plain):
        computed_by = computed_by or row.name
    return replace(only, axes=axes, computed_by=computed_by)


def _axes(
    row: Operation, args: Sequence[Any], axes: Axes, before: tuple[int, ...], after: tuple[int, ...]
) -> Axes | None:
    rank = len(before)
    if row.dimensions == "transposed":
        order = list(range(rank))
        if rank >= 2:
            i, j = (args[1] % rank, args[2] % rank) if len(args) > 2 else (0, 1)
            order[i], order[j] = order[j], order[i]
        return tuple(axes[i] for i in order)
    if row.dimensions == "permuted":
        return tuple(axes[i % rank] for i in args[1])
    if row.dimensions == "inserted":
        at = args[1] % (rank + 1)
        return (*axes[:at], _NONE, *axes[at:])
    if row.dimensions == "removed":
        at = (args[1] if len(args) > 1 else 0) % rank
        return (*axes[:at], *axes[at + 1 :])
    if row.dimensions == "expanded":
        added = [_NONE] * (len(after) - rank)
        kept = [held if size > 1 else _NONE for held, size in zip(axes, before, strict=True)]
        return (*added, *kept)
    if row.dimensions == "selected":
        return _selected(args[1], axes, after)
    part_of_each = row.is_view and row.dimensions == "kept" and len(before) == len(after)
    if before == after or part_of_each:
        return axes
    return _reshaped(axes, before, after)


def _selected(indices: Any, axes: Axes, after: tuple[int, ...]) -> Axes | None:
    """Rows picked by constant indices: each indexed axis becomes positions, the rest stays."""
    picked = 1
    if isinstance(indices, Sequence):  # one for each leading axis; None takes it whole
        picked = sum(index is not None for index in indices)
    kept = axes[picked:]
    if len(kept) > len(after):
        return None
    positions = [_NONE] * (len(after) - len(kept))
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
        # Dimensions of size 1 hold no axis. Of the others in a run each may hold any axis of the run.
        held = _NONE.union(*(axes[k] for k in range(left, i) if before[k] > 1))
        out += [held if after[k] > 1 else _NONE for k in range(right, j)]
    return tuple(out)
