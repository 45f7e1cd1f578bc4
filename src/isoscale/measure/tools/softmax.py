"""Attention logits: what every softmax of a network is given, which no module returns."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

_aten = torch.ops.aten
_SOFTMAX = (_aten._softmax.default, _aten._safe_softmax.default)


class SoftmaxInputs(TorchDispatchMode):
    """While the context lasts, `see(logits)` is called with what each softmax is given; masked places hold -inf.

    Fused attention has no such call: `isoscale.measure.tools.passes.call` runs attention by its formula.

    >>> with SoftmaxInputs(lambda logits: print(logits.tolist())):
    ...     _ = torch.softmax(torch.tensor([1.0, 2.0]), 0)
    [1.0, 2.0]
    """

    def __init__(self, see: Callable[[Tensor], None]) -> None:
        super().__init__()
        self._see = see

    def __torch_dispatch__(
        self,
        func: Any,
        types: Any,
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        """Run the operation, seeing its argument first if it is a softmax."""
        if func in _SOFTMAX:
            self._see(args[0])
        return func(*args, **(kwargs or {}))
