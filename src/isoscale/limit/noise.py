"""Where the particles' randomness comes from: one stream a matrix and direction, so that runs can share noise.

A run at depth L/m can use the noise of the run at depth L: its layer l takes the normalised sum of what the m layers
that it stands for would draw, as the increments of one Brownian motion (THEORY section 3).
"""

from __future__ import annotations

import math
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

ENDS, FORWARD, BACKWARD, DENSE = range(4)


class Noise(Protocol):
    """A source of standard normal rows."""

    def rows(self, kind: int, layer: int, shape: tuple[int, int, int]) -> Tensor:
        """The next rows of one stream, of shape (replicas, rows, particles)."""
        ...

    def generator(self, kind: int, layer: int) -> torch.Generator:
        """The generator behind a stream."""
        ...


class GaussianNoise:
    """Standard normal rows from streams that depend on the seed, the stream and nothing else.

    Args:
        seed: Any sequence of non-negative integers.
        refinement: How many layers of the finest run one layer of this run stands for.
    """

    def __init__(self, *seed: int, refinement: int = 1, like: Tensor | None = None) -> None:
        self._seed, self._refinement = seed, refinement
        self._like = torch.empty(0, dtype=torch.float64) if like is None else like
        self._streams: dict[tuple[int, int], torch.Generator] = {}

    def generator(self, kind: int, layer: int) -> torch.Generator:
        if (kind, layer) not in self._streams:
            state = np.random.SeedSequence([*self._seed, kind, layer]).generate_state(1, np.uint64)
            self._streams[kind, layer] = torch.Generator(self._like.device).manual_seed(int(state[0]) >> 1)
        return self._streams[kind, layer]

    def rows(self, kind: int, layer: int, shape: tuple[int, int, int]) -> Tensor:
        m = self._refinement if kind in (FORWARD, BACKWARD) else 1
        total = sum(self._draw(kind, layer * m + i, shape) for i in range(m))
        assert isinstance(total, Tensor)
        return total if m == 1 else total / math.sqrt(m)

    def _draw(self, kind: int, layer: int, shape: tuple[int, int, int]) -> Tensor:
        like = self._like
        return torch.randn(shape, generator=self.generator(kind, layer), dtype=like.dtype, device=like.device)


class BasisNoise:
    """Fresh standard basis vectors instead of noise: for a linear network this is the exact n = infinity law.

    With phi linear every vector is a linear combination of independent Gaussians; the particles are then the
    coefficients, and inner products are expectations.
    """

    def __init__(self, n: int) -> None:
        self._n, self._used = n, 0

    def generator(self, kind: int, layer: int) -> torch.Generator:
        raise AssertionError("basis vectors cannot fill an explicit matrix")

    def rows(self, kind: int, layer: int, shape: tuple[int, int, int]) -> Tensor:
        rows = torch.zeros(shape, dtype=torch.float64)
        index = torch.arange(shape[1])
        assert self._used + shape[1] <= self._n == shape[2]
        rows[:, index, self._used + index] = math.sqrt(self._n)
        self._used += shape[1]
        return rows


class HalvedNoise:
    """The noise of R replicas with 2n particles, dealt to 2R replicas with n particles each."""

    def __init__(self, whole: Noise) -> None:
        self._whole = whole

    def generator(self, kind: int, layer: int) -> torch.Generator:
        return self._whole.generator(kind, layer)

    def rows(self, kind: int, layer: int, shape: tuple[int, int, int]) -> Tensor:
        replicas, rows, n = shape
        whole = self._whole.rows(kind, layer, (replicas // 2, rows, 2 * n))
        return whole.unflatten(-1, (2, n)).transpose(1, 2).flatten(0, 1)
