"""Training in as large stacks as the memory at hand holds: a guess beforehand, halves when it was wrong."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TypeVar

import torch
from torch import Tensor

from isoscale.models import Model

T = TypeVar("T")

# What is known of a member's memory leaves out the libraries' workspaces and the fragments between tensors.
_SHARE = 0.4

# Copies of a parameter: itself, gradient, two moments, two temporaries of the step.
_COPIES = 6

# Tensors kept for the backward pass at each map: its input, its output and what the activation and norm keep.
_KEPT = 4

_WORD = 4

# Data beside the models: at most this, so that a short run does not read hours of it, and this share of what is free.
_DATA_BYTES = 2**32
_DATA_SHARE = 0.25


def members_that_fit(model: Model, width: int, maps: int, batch_size: int, device: torch.device | str) -> int:
    """How many members of a model train at once in the memory that a GPU has free, at least one.

    Args:
        model: One member.
        width: Numbers that a sample has between maps.
        maps: How many maps there are.
        batch_size: Samples in a step.
        device: The GPU.
    """
    parameters = sum(parameter.numel() for parameter in model.parameters())
    words = _COPIES * parameters + _KEPT * batch_size * width * maps
    free, _ = torch.cuda.mem_get_info(device)
    return max(1, int(_SHARE * free) // (_WORD * words))


def data_fit(samples: Tensor, device: torch.device | str) -> bool:
    """Whether all samples can be on a device at once: 4 GiB at most, and on a GPU a quarter of its free memory."""
    if torch.device(device).type == "cuda":
        free, _ = torch.cuda.mem_get_info(device)
        return samples.nbytes <= min(_DATA_BYTES, _DATA_SHARE * free)
    return samples.nbytes <= _DATA_BYTES


def in_parts(run: Callable[[Sequence[int]], T], items: Sequence[int]) -> list[T]:
    """`[run(items)]`; where that runs out of memory, the same of each half, down to single items.

    Raises:
        MemoryError, torch.OutOfMemoryError, RuntimeError: A single item does not fit.

    >>> def run(items):
    ...     if len(items) > 2:
    ...         raise MemoryError
    ...     return list(items)
    >>> in_parts(run, range(5))
    [[0, 1], [2], [3, 4]]
    """
    try:
        return [run(items)]
    except (MemoryError, RuntimeError) as error:
        if len(items) == 1 or not is_out_of_memory(error):
            raise
    # Outside of the handler, since the error's traceback keeps every tensor of the attempt alive.
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
    half = len(items) // 2
    return in_parts(run, items[:half]) + in_parts(run, items[half:])


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error says that memory ran out; on the CPU, torch has no class of its own for it."""
    if isinstance(error, (MemoryError, torch.OutOfMemoryError)):
        return True
    said = str(error)
    return isinstance(error, RuntimeError) and ("can't allocate memory" in said or "not enough memory" in said)
