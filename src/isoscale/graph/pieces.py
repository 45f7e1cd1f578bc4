"""Which part of a tensor an operation cuts out."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import Tensor

from isoscale.graph.graph import Piece


def axis_of(args: Sequence[Any], position: int, dimensions: int) -> int:
    """The axis that an argument names; the first by default."""
    axis = args[position] if len(args) > position else 0
    return axis % max(dimensions, 1)


def pieces_of(name: str, args: Sequence[Any], results: Sequence[Tensor]) -> list[Piece] | None:
    """Which part of the first argument each result is; None if the operation does not cut, or cuts nothing off."""
    if name not in ("slice", "select", "unbind", "split", "split_with_sizes", "unsafe_split"):
        return None
    dimensions = args[0].dim()
    if name in ("slice", "select"):
        axis = axis_of(args, 1, dimensions)
        size = args[0].shape[axis]
        if name == "select":
            at = args[2] % size
            return [Piece(axis, range(at, at + 1))]
        start, stop, step = (*args[2:5], None, None, None)[:3]
        positions = range(*slice(start, stop, step).indices(size))
        return None if len(positions) == size else [Piece(axis, positions)]
    axis = axis_of(args, 1 if name == "unbind" else 2, dimensions)
    pieces: list[Piece] = []
    start = 0
    for result in results:
        stop = start + (1 if name == "unbind" else result.shape[axis])
        pieces.append(Piece(axis, range(start, stop)))
        start = stop
    return pieces
