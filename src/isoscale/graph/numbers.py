"""The numbers among an operation's arguments: what they multiply by, what they add, and what they spoil."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from torch import Tensor
from torch.utils._pytree import tree_iter

from isoscale.graph.constants import Constants
from isoscale.graph.graph import Use
from isoscale.graph.ops import Operation
from isoscale.graph.weight_views import Weight

# The node that made a tensor; the parameters that it was computed from, and nothing else; or none, of a constant.
Origin = int | Weight | None


class Numbers:
    """What numbers do in a forward.

    Args:
        constants: Their values.
        origin_of: The origin of a tensor; none of anything else.
    """

    def __init__(self, constants: Constants, origin_of: Callable[[Any], Origin]) -> None:
        self._constants, self._origin_of = constants, origin_of
        # By tensor, what was added to the parameter that it is a view of.
        self._offsets: dict[int, float] = {}

    def add_parameter(self, tensor: Tensor) -> None:
        self._offsets[id(tensor)] = 0.0

    def obstacle(self, row: Operation, args: Sequence[Any], kwargs: Mapping[str, Any]) -> str | None:
        """Why f(c z) = c f(z) fails for these arguments, although the operation's row says that it holds."""
        for position in row.addends:
            # f(z) = z + a, unless a = 0
            for value in tree_iter(args[position : position + 1]):
                if self._is_constant(value) and self._constants.number(value) != 0:
                    return "the addition of a constant"
        if row.divides:
            # f(z) = a / z
            if not isinstance(self._origin_of(args[0]), int):
                return "a division by it"
            if kwargs.get("rounding_mode"):
                return "a division that rounds"
        if row.multiplies or row.contraction:
            # f(z) = z^2
            factors: set[int] = set()
            for value in args:
                origin = self._origin_of(value)
                if isinstance(origin, int):
                    if origin in factors:
                        return "a product with itself"
                    factors.add(origin)
        return None

    def factor(self, row: Operation, args: Sequence[Any], kwargs: Mapping[str, Any]) -> float | None:
        """The product of the numbers among the arguments; None if one is unknown."""
        if row.effect == "attention":
            scale = kwargs.get("scale")
            if scale is not None:
                return float(scale)
            head_size = args[0].shape[-1]
            return head_size**-0.5  # torch's default
        if row.contraction:
            return float(kwargs.get("alpha", 1.0))  # of addmm and the like
        if not row.multiplies:
            return 1.0
        factor = 1.0
        for position, value in enumerate(args):
            if not self._is_constant(value):
                continue
            number = self._constants.number(value)
            if number is None and value.numel() > 1:
                # A table of positions or a mask: of order one.
                continue
            inverse = row.divides and position == 1
            if number is None or (inverse and number == 0):
                return None
            factor = factor / number if inverse else factor * number
        return factor

    def follow_offset(self, row: Operation, args: Sequence[Any], results: Sequence[Tensor]) -> None:
        """What was added to a parameter, after views alone and before any other operation."""
        if row.is_view:
            added = self._offsets.get(id(args[0]))
        elif row.name == "add" and len(args) == 2:
            tensor, constant = args if isinstance(self._origin_of(args[0]), Weight) else (args[1], args[0])
            number = self._constants.number(constant) if self._is_constant(constant) else None
            # Once only: what is added to a sum is no number that stands in the forward.
            added = number if number is not None and self._offsets.get(id(tensor)) == 0 else None
        else:
            added = None
        if added is not None:
            for result in results:
                self._offsets[id(result)] = added

    def with_offset(self, use: Use, tensor: Tensor) -> Use:
        """A scale or bias that acts as itself and a number scales as its sum with the number does."""
        offset = self._offsets.get(id(tensor), 0.0)
        if offset == 0 or use.kind not in ("gain", "bias"):
            return use
        return replace(use, computed_by=None, offset=offset)

    def _is_constant(self, value: Any) -> bool:
        if isinstance(value, Tensor):
            return self._origin_of(value) is None
        return isinstance(value, int | float)
