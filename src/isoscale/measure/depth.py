"""How deep a network is, read off its computation graph (docs/theory.md, section 6)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import nn

from isoscale.graph import paths
from isoscale.graph.trace import trace


def effective_depth(model: nn.Module, example_inputs: tuple[Any, ...] | Mapping[str, Any]) -> int:
    """Length of the shortest path from the first input to the output (MultiPath, arXiv 2602.07494).

    A weight layer (linear, convolution, embedding) and a residual addition count 1 each: a plain network of n layers
    has depth n, a residual block with identity skip adds 1, one with a projection 2, a transformer block 2.

    Args:
        model: Any module; the meta device is enough.
        example_inputs: A tuple of forward's arguments, or a mapping of its keyword arguments.

    Raises:
        TraceError: The forward cannot be traced, or its output does not depend on its first input.

    >>> import torch
    >>> effective_depth(nn.Sequential(nn.Linear(2, 3), nn.ReLU(), nn.Linear(3, 1)), (torch.zeros(1, 2),))
    2
    """
    return paths.effective_depth(trace(model, example_inputs))


def path_sum(model: nn.Module, example_inputs: tuple[Any, ...] | Mapping[str, Any]) -> int:
    """Sum over the paths from input to output of the cube of their number of weight layers (PathSum, arXiv 2402.17440).

    The readout does not count; n one-layer residual blocks alone give n^2 (n + 3) 2^(n-3). The law of the paper is
    lr ~ path_sum^(-1/2).

    Args and errors as `effective_depth`.

    >>> import torch
    >>> path_sum(nn.Sequential(nn.Linear(2, 3), nn.ReLU(), nn.Linear(3, 3), nn.Linear(3, 1)), (torch.zeros(1, 2),))
    8
    """
    return paths.path_sum(trace(model, example_inputs))
