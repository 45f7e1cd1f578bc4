"""Watching the modules of a network at work: hooks that always come off, and names for what they see."""

from __future__ import annotations

import contextlib
import sys
from collections import Counter
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence
from typing import Any

from torch import Tensor, nn

# The class of every convolution, transposed ones included.
from torch.nn.modules.conv import _ConvNd

from isoscale.errors import unknown

INPUT = "<-"
See = Callable[[str, tuple[Any, ...], Tensor], None]


def linear_layers(model: nn.Module) -> dict[str, nn.Module]:
    """The linear and convolution modules of a model, by name; with them the transposed linear layers of GPT-2.

    >>> list(linear_layers(nn.Sequential(nn.Linear(2, 2), nn.ReLU(), nn.Conv1d(1, 1, 3))))
    ['0', '2']
    """
    kinds: tuple[type, ...] = (nn.Linear, _ConvNd)
    # Where a model has GPT-2's own class, the library of that class has been imported already.
    transformers = sys.modules.get("transformers.pytorch_utils")
    if transformers is not None:
        kinds = (*kinds, transformers.Conv1D)
    found: dict[str, nn.Module] = {}
    for name, module in model.named_modules():
        if isinstance(module, kinds):
            found[name] = module
    return found


def module_of(seen: str) -> str:
    """The name of the module behind a name that `observe` gave.

    >>> module_of("blocks.0"), module_of("blocks.0@2[1][out]")
    ('blocks.0', 'blocks.0')
    """
    return seen.partition("@")[0].partition("[")[0]


@contextlib.contextmanager
def observe(model: nn.Module, modules: Iterable[str], see: See) -> Generator[None, None, None]:
    """While the context lasts, `see(name, inputs, output)` is called after each call of each of the modules.

    A name with INPUT before it means the module's first argument instead: `see("<-norm", inputs, argument)`.
    `see` must read at once: an in-place operation may overwrite the tensors as soon as it returns. A module called
    again in the same context is seen as "name@2", "name@3"; of an output that is a tuple or a dict, each floating-point
    tensor is seen on its own, as "name[0]" or "name[key]". The hooks come off at the end, also after an exception.

    Args:
        model: The network.
        modules: Names as in `model.named_modules()`; "" is the network itself.
        see: Called in the order of the calls.

    Raises:
        InvalidValueError: No module of that name.
    """
    known = dict(model.named_modules())
    calls: Counter[str] = Counter()
    with contextlib.ExitStack() as hooks:
        for name in modules:
            module = known.get(name.removeprefix(INPUT))
            if module is None:
                raise unknown("module", name, known, listing="model.named_modules()")
            watcher = _Watcher(name, calls, see)
            if name.startswith(INPUT):
                handle = module.register_forward_pre_hook(watcher.before)
            else:
                handle = module.register_forward_hook(watcher.after)
            hooks.callback(handle.remove)
        yield


class _Watcher:
    """The two hooks of one observed name; `calls` counts the calls of all names of one context."""

    def __init__(self, name: str, calls: Counter[str], see: See) -> None:
        self.name = name
        self.calls = calls
        self.see = see

    def before(self, module: nn.Module, inputs: tuple[Any, ...]) -> None:
        # A module that is called with keywords only has no first argument, and nothing is seen.
        self.after(module, inputs, inputs[0] if inputs else None)

    def after(self, module: nn.Module, inputs: tuple[Any, ...], output: Any) -> None:
        name = self.name
        self.calls[name] += 1
        count = self.calls[name]
        if count > 1:
            name = f"{name}@{count}"
        for part, tensor in tensors(output, name):
            self.see(part, inputs, tensor)


def tensors(output: Any, name: str = "") -> Iterator[tuple[str, Tensor]]:
    """The floating-point tensors in a module's output, with their names.

    >>> import torch
    >>> [name for name, _ in tensors({"hidden": (torch.zeros(1), None), "ids": torch.zeros(1).long()}, "out")]
    ['out[hidden][0]']
    """
    if isinstance(output, Tensor):
        if output.is_floating_point():
            yield name, output
    elif isinstance(output, Mapping):
        for key, value in output.items():
            yield from tensors(value, f"{name}[{key}]")
    elif isinstance(output, Sequence) and not isinstance(output, str):
        for index, value in enumerate(output):
            yield from tensors(value, f"{name}[{index}]")
