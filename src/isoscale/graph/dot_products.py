"""Products with a parameter, entry by entry, that are summed afterwards: (a * h).sum(-1) is a linear layer.

The axes of the parameter are followed from the product through views and factors to the sum.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from isoscale.graph.graph import Node, Use
from isoscale.graph.ops import Operation
from isoscale.graph.uses import as_dot_product
from isoscale.graph.weight_views import Axes, axes_after


@dataclass(frozen=True)
class _Factor:
    """A parameter in a value: its use, and which of its axes the dimensions of the value hold."""

    node: Node
    position: int
    axes: Axes


class DotProducts:
    """What has been multiplied with parameters and is not summed yet, by node."""

    def __init__(self) -> None:
        self._factors: dict[int, list[_Factor]] = {}

    def see(self, node: Node, row: Operation, args: Sequence[Any], before: tuple[int, ...]) -> None:
        """A node that was just made.

        Args:
            node: The node.
            row, args: Its operation and arguments.
            before: Shape of the value that it reads, if it reads only one.
        """
        factors: list[_Factor] = []
        if len(node.inputs) == 1 and row.is_linear and not row.contraction:
            for factor in self._factors.get(node.inputs[0], ()):
                if row.name == "sum":
                    _sum(factor, row.reduced(args, len(before)))
                axes = axes_after(row, args, factor.axes, before, node.shape)
                if axes is not None:
                    factors.append(_Factor(factor.node, factor.position, axes))
        if row.multiplies and not row.divides:
            for position, use in enumerate(node.uses):
                if use.kind == "gain" and use.axes is not None:
                    factors.append(_Factor(node, position, _padded(use, len(node.shape))))
        if factors:
            self._factors[node.index] = factors


def _sum(factor: _Factor, dimensions: Sequence[int]) -> None:
    """The products are summed over these dimensions."""
    summed: set[int] = set()
    for dimension in dimensions:
        summed |= factor.axes[dimension]
    if summed:
        uses = factor.node.uses
        uses[factor.position] = as_dot_product(uses[factor.position], summed)


def _padded(use: Use, rank: int) -> Axes:
    """Dimensions correspond from the last."""
    axes = use.axes or ()
    none: frozenset[int] = frozenset()
    return (*[none] * (rank - len(axes)), *axes)
