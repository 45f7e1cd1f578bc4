"""The precision that a forward pass computes in."""

from __future__ import annotations

import contextlib
from contextlib import AbstractContextManager

import torch

from isoscale.training.loop import Loop


def autocast(loop: Loop, device: torch.device | str) -> AbstractContextManager[object]:
    """Inside, a forward pass and its loss compute in the loop's precision, by `torch.autocast`; weights keep theirs."""
    if loop.autocast is None:
        return contextlib.nullcontext()
    return torch.autocast(torch.device(device).type, dtype=getattr(torch, loop.autocast))
