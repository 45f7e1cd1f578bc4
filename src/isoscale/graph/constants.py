"""Numbers in a forward pass that depend neither on its inputs nor on its parameters.

Under fake tensors most constants have no numbers. One that is filled with a single number is still known: it was made
by `torch.zeros` or `torch.full`, or it is so small that torch keeps its value.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import Tensor

from isoscale.graph.ops import Operation


def storage_of(tensor: Tensor) -> int:
    """What tells storages apart: views of one tensor share theirs."""
    try:
        return tensor.untyped_storage()._cdata
    except NotImplementedError:  # sparse tensors have none
        return id(tensor)


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
        if number is not None:
            for result in results:
                self._numbers[id(result)] = number
                self._alive.append(result)

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
