"""Modules and parameters by their names in the plain model, whatever it, or a part of it, has been wrapped in."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from isoscale.errors import TraceError

# Wrapper -> the attribute that holds what it wraps.
_ALWAYS_THERE: dict[type, str] = {
    nn.parallel.DistributedDataParallel: "module",
    nn.DataParallel: "module",
    torch.optim.swa_utils.AveragedModel: "module",
}
# Likewise, by the module that defines it: whoever has wrapped something in it has imported that.
_IF_IMPORTED = {
    ("torch._dynamo.eval_frame", "OptimizedModule"): "_orig_mod",
    ("torch.distributed.algorithms._checkpoint.checkpoint_wrapper", "ActivationWrapper"): "_checkpoint_wrapped_module",
    ("torch.distributed.fsdp.fully_sharded_data_parallel", "FullyShardedDataParallel"): "module",
}


def unwrapped(module: nn.Module) -> nn.Module:
    """The module inside DDP, DataParallel, FSDP, torch.compile, weight averaging or activation checkpointing."""
    # Wrappers nest: torch.compile(DDP(model)), and so on.
    while (attribute := _attribute(module)) is not None:
        module = cast(nn.Module, getattr(module, attribute))
    return module


def _attribute(module: nn.Module) -> str | None:
    """Where a wrapper holds what it wraps; None if it is none."""
    for wrapper, attribute in _ALWAYS_THERE.items():
        if isinstance(module, wrapper):
            return attribute
    for (home, name), attribute in _IF_IMPORTED.items():
        wrapper = getattr(sys.modules.get(home), name, None)
        if wrapper is not None and isinstance(module, wrapper):
            return attribute
    return None


def without_wrappers(model: nn.Module) -> nn.Module:
    """The plain model itself: the wrappers of its parts are taken off in place."""
    model = unwrapped(model)
    for module in list(model.modules()):
        for name, child in module._modules.items():
            if child is not None:
                module._modules[name] = unwrapped(child)
    return model


def named_modules(model: nn.Module) -> dict[str, nn.Module]:
    """Each module once, by the first of its paths in the plain model; of a wrapped one the module inside.

    >>> compiled = nn.Sequential(torch.compile(nn.Linear(2, 2), backend="eager"), nn.ReLU())
    >>> list(named_modules(compiled)), list(named_parameters(compiled))
    (['', '0', '1'], ['0.weight', '0.bias'])
    """
    found: dict[str, nn.Module] = {}
    seen: set[int] = set()
    for path, module in _paths(unwrapped(model), ""):
        if id(module) not in seen:
            seen.add(id(module))
            found[path] = module
    return found


def named_parameters(model: nn.Module) -> dict[str, nn.Parameter]:
    """Each parameter once, by the first of its names in the plain model."""
    found: dict[str, nn.Parameter] = {}
    seen: set[int] = set()
    for name, parameter in all_named_parameters(model).items():
        if id(parameter) not in seen:
            seen.add(id(parameter))
            found[name] = parameter
    return found


def all_named_parameters(model: nn.Module) -> dict[str, nn.Parameter]:
    """Each parameter under each of its names in the plain model."""
    found: dict[str, nn.Parameter] = {}
    for path, module in _paths(unwrapped(model), ""):
        prefix = f"{path}." if path else ""
        for leaf, parameter in module._parameters.items():
            if parameter is not None:
                found[prefix + leaf] = parameter
    return found


def check_initialised(model: nn.Module) -> None:
    """Raise TraceError if a parameter or buffer has no shape yet, as those of lazy modules."""
    for path, module in named_modules(model).items():
        registered: dict[str, Tensor | None] = {**module._parameters, **module._buffers}
        for leaf, tensor in registered.items():
            if tensor is not None and is_lazy(tensor):
                name = f"{path}.{leaf}" if path else leaf
                raise TraceError(
                    f"`{name}` has no shape yet: {type(module).__name__} takes it from its first input. Call the "
                    "model, and likewise the base, once on the example inputs: `model(*example_inputs)`"
                )


def _paths(module: nn.Module, path: str, above: frozenset[int] = frozenset()) -> Iterator[tuple[str, nn.Module]]:
    """Every path to every module; the wrapper of a child is no step of the path."""
    yield path, module
    # A module that holds the one that holds it would have paths without end.
    above |= {id(module)}
    for name, child in module._modules.items():
        if child is None:
            continue
        inner = unwrapped(child)
        if id(inner) not in above:
            yield from _paths(inner, f"{path}.{name}" if path else name, above)
