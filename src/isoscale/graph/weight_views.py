"""Which axes of a parameter the dimensions of a view of it hold.

A linear layer contracts `weight.t()`, a packed projection a slice of a reshaped tensor; to know a parameter's
fan_in and fan_out, its axes are followed through every view on the way.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from isoscale.graph.ops import VIEWS

Axes = tuple[frozenset[int], ...]
_NONE: frozenset[int] = frozenset()

# Elementwise operations by constants that only scale: folding a multiplier into the parameter passes through them.
_SCALING = frozenset(["mul", "div", "neg"])


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
    op: str, args: Sequence[Any], weights: Sequence[Weight], before: Sequence[int], after: Sequence[int]
) -> Weight:
    """What an operation on parameters (and constants) alone returns.

    Args:
        op: Name of the operation.
        args: Its positional arguments.
        weights: Its tensor arguments that come from parameters.
        before: Shape of the first of them.
        after: Shape of the result.
    """
    first = weights[0]
    names = tuple(dict.fromkeys(name for weight in weights for name in weight.names))
    made = next((weight.computed_by for weight in weights if weight.computed_by), None)
    if len(weights) > 1:
        largest = max(weights, key=lambda weight: len(weight.axes or ()))
        same = largest.axes if largest.axes is not None and len(largest.axes) == len(after) else None
        return Weight(names, same, made or op)
    axes = _axes(op, args, first.axes, tuple(before), tuple(after)) if first.axes is not None else None
    plain = op in VIEWS or op in _SCALING or op == "embedding"
    return replace(first, axes=axes, computed_by=made or (None if plain else op))


def _axes(op: str, args: Sequence[Any], axes: Axes, before: tuple[int, ...], after: tuple[int, ...]) -> Axes | None:
    rank = len(before)
    if op in ("t", "transpose", "permute", "swapaxes"):
        return tuple(axes[i] for i in _order(op, args, rank))
    if op == "unsqueeze":
        at = args[1] % (rank + 1)
        return (*axes[:at], _NONE, *axes[at:])
    if op in ("select", "unbind"):
        at = (args[1] if len(args) > 1 else 0) % rank
        return (*axes[:at], *axes[at + 1 :])
    if op in ("expand", "repeat", "broadcast_to"):
        kept = tuple(a if n > 1 else _NONE for a, n in zip(axes, before, strict=True))
        return (*([_NONE] * (len(after) - rank)), *kept)
    if op in ("index", "index_select", "embedding", "gather"):
        return _looked_up(op, args, axes, after)
    if before == after or (op in VIEWS and len(before) == len(after) and op not in ("view", "_unsafe_view", "reshape")):
        return axes
    return _reshaped(axes, before, after)


def _order(op: str, args: Sequence[Any], rank: int) -> list[int]:
    if op == "permute":
        return [i % rank for i in args[1]]
    order = list(range(rank))
    if rank >= 2:
        i, j = (0, 1) if op == "t" else (args[1] % rank, args[2] % rank)
        order[i], order[j] = order[j], order[i]
    return order


def _looked_up(op: str, args: Sequence[Any], axes: Axes, after: tuple[int, ...]) -> Axes | None:
    """Rows picked by constant indices: the indexed axis becomes positions, the rest stays."""
    if op in ("index_select", "gather"):
        return axes
    picked = sum(index is not None for index in args[1]) if op == "index" else 1
    kept = axes[picked:]
    return (*([_NONE] * (len(after) - len(kept))), *kept) if len(kept) <= len(after) else None


def _reshaped(axes: Axes, before: tuple[int, ...], after: tuple[int, ...]) -> Axes | None:
    """Axes through a reshape: runs of dimensions with equal products correspond."""
    out: list[frozenset[int]] = []
    i = j = 0
    while i < len(before) or j < len(after):
        left, right, a, b = i, j, 1, 1
        a, i = (a * before[i], i + 1) if i < len(before) else (a, i)
        b, j = (b * after[j], j + 1) if j < len(after) else (b, j)
        while a != b:
            if a < b and i < len(before):
                a, i = a * before[i], i + 1
            elif b < a and j < len(after):
                b, j = b * after[j], j + 1
            else:
                return None
        held = frozenset().union(*(axes[k] for k in range(left, i) if before[k] > 1))
        out += [held if after[k] > 1 else _NONE for k in range(right, j)]
    return tuple(out)
