"""The tensors in whatever a forward takes or returns: in lists and dicts, in dataclasses and other objects."""

from __future__ import annotations

import copy
import inspect
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_iter, tree_map

# What certainly holds no tensor, and need not be looked into.
_ATOMS = (type(None), bool, int, float, complex, str, bytes, type, torch.dtype, torch.device, torch.Generator)


def tensors_in(value: Any) -> Iterator[Tensor]:
    """Every tensor in a value, in order; one that is held twice comes once.

    >>> from types import SimpleNamespace
    >>> batch = SimpleNamespace(x=torch.zeros(2), sizes=[torch.zeros(3)])
    >>> [tuple(tensor.shape) for tensor in tensors_in({"batch": batch})]
    [(2,), (3,)]
    """
    seen: set[int] = set()
    to_visit: list[Any] = [value]
    while to_visit:
        leaf = to_visit.pop()
        if isinstance(leaf, _ATOMS) or id(leaf) in seen:
            continue
        seen.add(id(leaf))
        if isinstance(leaf, Tensor):
            yield leaf
        else:
            to_visit += reversed(_held(leaf))


def _held(value: Any) -> list[Any]:
    """What a container or an object holds."""
    # A module's tensors are no data.
    if isinstance(value, nn.Module) or inspect.isroutine(value):
        return []
    inner = list(tree_iter(value))
    if len(inner) != 1 or inner[0] is not value:
        return inner
    held: list[Any] = []
    if isinstance(value, Mapping):
        held += value.values()
    elif isinstance(value, Sequence):
        held += value
    held += getattr(value, "__dict__", {}).values()
    for kind in type(value).__mro__:
        slots = kind.__dict__.get("__slots__", ())
        for slot in (slots,) if isinstance(slots, str) else slots:
            held.append(getattr(value, slot, None))
    return held


def with_stand_ins(value: Any, stand_in: Callable[[Tensor], Tensor]) -> Any:
    """A copy of a value with other tensors in it, one for each; what cannot be copied is handed on as it is.

    Args:
        value: Lists, dicts, dataclasses, objects of any kind.
        stand_in: What makes the other tensor.
    """
    known: dict[int, Tensor] = {}

    def exchanged(tensor: Tensor) -> Tensor:
        if id(tensor) not in known:
            known[id(tensor)] = stand_in(tensor)
        return known[id(tensor)]

    def of_leaf(leaf: Any) -> Any:
        if isinstance(leaf, Tensor):
            return exchanged(leaf)
        if next(tensors_in(leaf), None) is None:
            return leaf
        try:
            with _Exchanging(exchanged):
                return copy.deepcopy(leaf)
        except Exception:  # whatever an object makes of being copied
            return leaf

    return tree_map(of_leaf, value)


class _Exchanging(TorchFunctionMode):
    """Inside this context `copy.deepcopy` puts another tensor where it finds one."""

    def __init__(self, exchanged: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self._exchanged = exchanged

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is Tensor.__deepcopy__:
            return self._exchanged(args[0])
        return func(*args, **(kwargs or {}))
