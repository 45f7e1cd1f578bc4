"""Parameters by name, whatever the model has been wrapped in."""

from __future__ import annotations

from collections.abc import Iterator
from typing import cast

import torch
from torch import nn

_HOLDERS = (nn.parallel.DistributedDataParallel, nn.DataParallel, torch.optim.swa_utils.AveragedModel)


def unwrapped(module: nn.Module) -> nn.Module:
    """The module inside DDP, DataParallel, torch.compile, weight averaging or activation checkpointing."""
    from torch._dynamo import OptimizedModule
    from torch.distributed.algorithms._checkpoint.checkpoint_wrapper import CheckpointWrapper

    # Wrappers nest: torch.compile(DDP(model)), and so on.
    while True:
        if isinstance(module, OptimizedModule):
            module = cast(nn.Module, module._orig_mod)
        elif isinstance(module, _HOLDERS):
            module = module.module
        elif isinstance(module, CheckpointWrapper):
            module = cast(nn.Module, module._checkpoint_wrapped_module)
        else:
            return module


def named_parameters(model: nn.Module) -> dict[str, nn.Parameter]:
    """Each parameter once, by the name that it has in the plain model."""
    seen: dict[int, str] = {}
    found = {}
    for name, parameter in _walk(unwrapped(model), ""):
        if id(parameter) not in seen:
            seen[id(parameter)] = name
            found[name] = parameter
    return found


def _walk(module: nn.Module, prefix: str) -> Iterator[tuple[str, nn.Parameter]]:
    for name, parameter in module._parameters.items():
        if parameter is not None:
            yield prefix + name, parameter
    # The wrapper of a child is no step of the path.
    for name, child in module.named_children():
        yield from _walk(unwrapped(child), f"{prefix}{name}.")
