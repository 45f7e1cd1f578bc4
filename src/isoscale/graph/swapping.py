"""Running a module's forward on other tensors than its own, so that the module is afterwards what it was before.

Tensors are exchanged by identity: a weight or a module that has two names is exchanged under both, and comes back
under both. (`torch.func.functional_call` goes by name, and loses the originals of a module that has two.)
"""

from __future__ import annotations

import contextlib
import copy
from collections import OrderedDict, defaultdict, deque
from collections.abc import Generator, Iterable, Mapping
from typing import Any

from torch import Tensor, nn

_SEQUENCES = (list, deque)
_CONTAINERS = (dict, OrderedDict, defaultdict, set, *_SEQUENCES)


@contextlib.contextmanager
def swapped(model: nn.Module, tensors: Mapping[str, Tensor]) -> Generator[None, None, None]:
    """Inside, the model has these tensors in place of its parameters and buffers of the same names."""
    new: dict[int, Tensor] = {}
    for name, own in (*model.named_parameters(), *model.named_buffers()):
        if name in tensors:
            new[id(own)] = tensors[name]
    # Every name of a tensor, in every module: `named_parameters` gives only the first.
    places: list[tuple[dict[str, Any], str, Tensor | None]] = []
    for module in model.modules():
        for registered in (module._parameters, module._buffers):
            for leaf, own in registered.items():
                if id(own) in new:
                    places.append((registered, leaf, own))
    try:
        for registered, leaf, own in places:
            registered[leaf] = new[id(own)]
        yield
    finally:
        for registered, leaf, own in places:
            registered[leaf] = own


@contextlib.contextmanager
def restored(model: nn.Module) -> Generator[None, None, None]:
    """Afterwards every module has the attributes that it had, and its dicts, lists and sets hold what they held.

    This covers parameters, buffers, hooks and training flags, and what a forward keeps for its next call: a cache, a
    mask that is made once, a weight that a hook computes. Numbers written into a tensor are not taken back.
    """
    attributes: list[tuple[Any, Any]] = []
    for module in model.modules():
        now = vars(module)
        attributes.append((now, dict(now)))
    contents = _contents(before for _, before in attributes)
    try:
        yield
    finally:
        # Refilled in place, so that whoever else holds one of them sees it as it was.
        for container, before in (*contents, *attributes):
            _put_back(container, before)


def _contents(attributes: Iterable[Mapping[str, Any]]) -> list[tuple[Any, Any]]:
    """Every container that the attributes hold, each with a copy, containers inside containers included."""
    found: dict[int, tuple[Any, Any]] = {}
    to_visit: list[Any] = []
    for own in attributes:
        to_visit += own.values()
    while to_visit:
        value = to_visit.pop()
        # A subclass may do more than hold things, so only the plain types are copied and refilled.
        if type(value) not in _CONTAINERS or id(value) in found:
            continue
        found[id(value)] = (value, copy.copy(value))
        if isinstance(value, dict):
            to_visit += value.values()
        elif isinstance(value, _SEQUENCES):
            to_visit += value
        # What a set holds can be hashed, and is no container.
    return list(found.values())


def _put_back(container: Any, before: Any) -> None:
    container.clear()
    if isinstance(container, _SEQUENCES):
        container.extend(before)
    else:
        container.update(before)
