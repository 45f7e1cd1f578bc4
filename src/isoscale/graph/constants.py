"""Numbers in a forward pass that depend neither on its inputs nor on its parameters.

Under fake tensors most constants have no numbers. One that is filled with a single number is still known: it was made
by `torch.zeros` or `torch.full`, it is a buffer of the model, it is so small that torch keeps its value, or it was
computed from such ones entry by entry.
"""

from __future__ import annotations

import math
import operator
from collections.abc import Callable, Iterable, Sequence
from typing import Any

from torch import Tensor

from isoscale.graph.ops import Operation


def storage_of(tensor: Tensor) -> int:
    """What tells storages apart: views of one tensor share theirs."""
    try:
        return tensor.untyped_storage()._cdata
    except NotImplementedError:  # sparse tensors have none
        return id(tensor)


# What these operations make of numbers, they make of tensors that are filled with them.
_ARITHMETIC: dict[str, Callable[..., float]] = {
    "add": operator.add,
    "sub": operator.sub,
    "mul": operator.mul,
    "div": operator.truediv,
    "pow": math.pow,
    "neg": operator.neg,
    "sqrt": math.sqrt,
    "rsqrt": lambda number: 1 / math.sqrt(number),
    "reciprocal": lambda number: 1 / number,
    "exp": math.exp,
    "log": math.log,
}


def product(factors: Iterable[float | None]) -> float | None:
    """The product of factors; None if one is unknown, or leaves nothing."""
    found = 1.0
    for factor in factors:
        if not factor or not math.isfinite(factor):
            return None
        found *= factor
    return found


def is_number(tensor: Tensor) -> bool:
    """Whether a parameter is a single number that is never trained, as a buffer is."""
    return tensor.numel() == 1 and not tensor.requires_grad


class Constants:
    """The number that fills each constant tensor, as far as it is known."""

    def __init__(self) -> None:
        self._numbers: dict[int, float] = {}
        self._written: set[int] = set()
        self._alive: list[Tensor] = []  # an id is a tensor's only while the tensor lives

    def forget(self, tensor: Tensor) -> None:
        """Its numbers may change, now or in training."""
        self._alive.append(tensor)
        self._written.add(storage_of(tensor))

    def add_buffer(self, tensor: Tensor, own: Tensor) -> None:
        """A buffer of the model: known if it is filled with one number, as scales are.

        Zeros say nothing: buffers that are filled later start as such.
        """
        number = _read(own)
        if number:
            self._fill(tensor, number)
        else:
            self.forget(tensor)

    def see(self, row: Operation, args: Sequence[Any], results: Sequence[Tensor], writes: bool) -> None:
        """An operation on constants alone, or on shapes."""
        # What is written in place may reach one view of a storage only, and the others are not told.
        if writes:
            for result in results:
                self.forget(result)
            return
        number: float | None = None
        if row.filled_with is not None:
            number = row.filled_with
        elif row.fill_position is not None and len(args) > row.fill_position:
            number = self.number(args[row.fill_position])
        elif row.is_view and args and isinstance(args[0], Tensor):
            number = self.number(args[0])
        elif row.name in _ARITHMETIC:
            number = self._computed(row, args)
        if number is not None:
            for result in results:
                self._fill(result, number)

    def _computed(self, row: Operation, args: Sequence[Any]) -> float | None:
        """What an operation on numbers gives; None if one of them is unknown."""
        given: list[float] = []
        for value in args:
            number = self.number(value)
            if number is None:
                return None
            given.append(number)
        try:
            return _ARITHMETIC[row.name](*given)
        except (ArithmeticError, ValueError):  # no number, as 1/0
            return None

    def _fill(self, tensor: Tensor, number: float) -> None:
        self._numbers[id(tensor)] = number
        self._alive.append(tensor)

    def number(self, value: Any) -> float | None:
        """The number that a constant is, or is filled with; None if it is unknown or not one."""
        if isinstance(value, int | float):
            return float(value)
        if not isinstance(value, Tensor) or storage_of(value) in self._written:
            return None
        if id(value) in self._numbers:
            return self._numbers[id(value)]
        return _read(value)


def _read(tensor: Tensor) -> float | None:
    from torch._subclasses.fake_tensor import FakeTensor, unset_fake_temporarily

    # Of a tensor with one element, as torch.tensor(8.0).sqrt(), torch keeps the value beside the fake.
    known = tensor.constant if isinstance(tensor, FakeTensor) else tensor
    if known is None or known.is_meta or known.is_complex() or known.is_sparse or not known.numel():
        return None
    with unset_fake_temporarily():
        first = known.detach().flatten()[0]
        return float(first) if bool((known == first).all()) else None
