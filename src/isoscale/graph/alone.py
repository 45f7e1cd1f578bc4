"""Operations on parameters alone, kept until it is known what their results are for.

A product of two parameters may be a weight (a low-rank factorisation, a weight's own norm) or data (learned queries
on their way through a linear layer). Which of the two shows when it meets an activation: what stands where a layer has
its weight is a weight. Else the operations that made it are replayed as nodes, and the parameter that they began with
serves as data.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from torch import Tensor
from torch.utils._pytree import tree_iter

from isoscale.graph.ops import Operation


@dataclass(frozen=True)
class Step:
    """One call of an operation.

    Attributes:
        row: The operation.
        args, kwargs: Its arguments.
        results: The tensors that it returned.
        writes: Whether it wrote into an argument.
        earlier: Of one on parameters alone, the calls that made its arguments.
    """

    row: Operation
    args: Sequence[Any]
    kwargs: Mapping[str, Any]
    results: Sequence[Tensor]
    writes: bool
    earlier: tuple[Step, ...] = ()

    @property
    def combines(self) -> bool:
        """Whether it treats one of its arguments as a layer treats its data."""
        return self.row.is_norm or self.row.contraction is not None

    @property
    def tensors(self) -> list[Tensor]:
        """Those among its arguments."""
        return [value for value in tree_iter((self.args, self.kwargs)) if isinstance(value, Tensor)]

    @property
    def data(self) -> Tensor | None:
        """The argument that stands where a layer has its data."""
        if not self.combines:
            return None
        contraction = self.row.contraction
        if contraction is None or contraction.weight != "matrix":
            return self.args[0]
        first, second = self.args[contraction.first : contraction.first + 2]
        # W q is the product of a matrix and a vector, in whatever order they are written.
        return second if _long_axes(second) < _long_axes(first) else first


def _long_axes(tensor: Tensor) -> int:
    return sum(size > 1 for size in tensor.shape)


class Alone:
    """The operations behind each tensor that a layer made of parameters alone."""

    def __init__(self) -> None:
        # Steps hold their tensors, so that an id stays a tensor's own.
        self._steps: dict[int, Step] = {}

    def see(self, step: Step) -> None:
        """An operation on parameters alone."""
        # Kept now: one that writes in place returns the tensor that it was given.
        earlier = tuple(self._steps[id(tensor)] for tensor in step.tensors if id(tensor) in self._steps)
        if step.combines or earlier:
            for result in step.results:
                self._steps[id(result)] = replace(step, earlier=earlier)

    def as_data(self, tensor: Tensor, step: Step) -> Step | None:
        """The operation that made a tensor, if the tensor is data where this one takes it."""
        contraction = step.row.contraction
        if contraction:
            # Rows of activations times a matrix are a linear layer; matrices times matrices, attention.
            is_layer = contraction.weight != "matrix" or tensor.dim() == 2
            position = contraction.first + 1
            if is_layer and len(step.args) > position and step.args[position] is tensor:
                return None
        return self._steps.get(id(tensor))
