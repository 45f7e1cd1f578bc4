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


def maps(model: nn.Module) -> dict[str, nn.Module]:
    """The linear and convolution modules of a model, by name; with them the transposed linear maps of GPT-2.

    >>> list(maps(nn.Sequential(nn.Linear(2, 2), nn.ReLU(), nn.Conv1d(1, 1, 3))))
    ['0', '2']
    """
    return {name: module for name, module in model.named_modules() if isinstance(module, _map_types())}


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
            hook = _hook(name, calls, see)
            handle = (
                module.register_forward_pre_hook(lambda module, inputs, hook=hook: hook(module, inputs, inputs[:1]))
                if name.startswith(INPUT)
                else module.register_forward_hook(hook)
            )
            hooks.callback(handle.remove)
        yield


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


def _map_types() -> tuple[type, ...]:
    # Where such a map exists, its library has been imported already.
    transformers = sys.modules.get("transformers.pytorch_utils")
    return (nn.Linear, _ConvNd, *([transformers.Conv1D] if transformers else []))


def _hook(name: str, calls: Counter[str], see: See) -> Callable[[nn.Module, tuple[Any, ...], Any], None]:
    def hook(module: nn.Module, inputs: tuple[Any, ...], output: Any) -> None:
        calls[name] += 1
        again = f"@{calls[name]}" if calls[name] > 1 else ""
        if name.startswith(INPUT):
            output = output[0] if output else None
        for part, tensor in tensors(output, f"{name}{again}"):
            see(part, inputs, tensor)

    return hook
