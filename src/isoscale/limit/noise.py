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

MOST_EVEN = 1024
"""Coordinates beyond which a sequence of some thousand points is no more even than chance."""


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
            self._streams[kind, layer] = torch.Generator(self._like.device).manual_seed(self._state(kind, layer))
        return self._streams[kind, layer]

    def _state(self, kind: int, layer: int) -> int:
        return int(np.random.SeedSequence([*self._seed, kind, layer]).generate_state(1, np.uint64)[0]) >> 1

    def rows(self, kind: int, layer: int, shape: tuple[int, int, int]) -> Tensor:
        m = self._refinement if kind in (FORWARD, BACKWARD) else 1
        total = sum(self._draw(kind, layer * m + i, shape) for i in range(m))
        assert isinstance(total, Tensor)
        return total if m == 1 else total / math.sqrt(m)

    def _draw(self, kind: int, layer: int, shape: tuple[int, int, int]) -> Tensor:
        like = self._like
        return torch.randn(shape, generator=self.generator(kind, layer), dtype=like.dtype, device=like.device)


class QuasiNoise(GaussianNoise):
    """Noise whose most telling directions fill space evenly: fewer gaps, fewer clusters, less sampling error.

    A scrambled Sobol sequence over the particles, another scrambling each replica, gives the ends and, of the first
    noise of each layer, the sum over layers, which moves features and gradients the furthest; all else is as in
    `GaussianNoise`. Sequences are most even in their leading coordinates: they go to the principal axes of the inputs
    and, backward, to what all samples share. It halves the variance of 1024 matched particles (*checked*: tanh,
    4 samples, 10 steps; 256 particles: 1.3 times less).

    Args:
        seed: Any sequence of non-negative integers.
        layers: Depth of the finest run.
        gram: Kx of all samples.
        refinement: How many layers of the finest run one layer of this run stands for.
    """

    def __init__(self, *seed: int, layers: int, gram: Tensor, refinement: int = 1) -> None:
        super().__init__(*seed, refinement=refinement, like=gram)
        self._layers = layers
        self._axes = torch.linalg.eigh(gram.double())[1].flip(1).to(gram.dtype)
        self._even: dict[int, Tensor] = {}  # by kind
        self._first: dict[int, list[Tensor | None]] = {}  # by kind and layer, until it is asked for

    def _draw(self, kind: int, layer: int, shape: tuple[int, int, int]) -> Tensor:
        if kind == ENDS:
            return self._ends(shape)
        if kind not in self._even:
            return super()._draw(kind, layer, shape)
        if kind not in self._first:
            self._first[kind] = list(self._layers_together(kind, shape))
        rows, self._first[kind][layer] = self._first[kind][layer], None
        return super()._draw(kind, layer, shape) if rows is None else rows

    def _ends(self, shape: tuple[int, int, int]) -> Tensor:
        samples = len(self._axes)
        outputs = shape[1] - samples
        if shape[1] + 2 * samples > MOST_EVEN:
            return super()._draw(ENDS, 0, shape)
        points = self._sobol((shape[0], shape[1] + 2 * samples, shape[2]))
        v, u, forward, backward = points.split([outputs, samples, samples, samples], dim=1)
        self._even = {FORWARD: self._axes @ forward, BACKWARD: backward}
        return torch.cat([v, self._axes @ u], dim=1)

    def _layers_together(self, kind: int, shape: tuple[int, int, int]) -> Tensor:
        """The first noise of all layers, with its sum over layers replaced."""
        white = torch.stack([super(QuasiNoise, self)._draw(kind, layer, shape) for layer in range(self._layers)])
        even = self._even[kind]
        if kind == BACKWARD:  # mini-batches have fewer rows
            even = _shared_first(shape[1], even) @ even[:, : shape[1]]
        return white.add_((even - white.sum(0) / math.sqrt(self._layers)) / math.sqrt(self._layers))

    def _sobol(self, shape: tuple[int, int, int]) -> Tensor:
        """Normal quantiles of a scrambled sequence for each replica."""
        replicas, rows, n = shape
        seeds = torch.randint(2**31, (replicas,), generator=torch.Generator().manual_seed(self._state(ENDS, 0)))
        engines = (torch.quasirandom.SobolEngine(rows, scramble=True, seed=int(seed)) for seed in seeds)
        points = torch.stack([engine.draw(n, dtype=torch.float64) for engine in engines])
        normal = torch.special.ndtri(points + 2.0**-31)  # the middles of the sequence's cells
        return normal.mT.to(self._like, memory_format=torch.contiguous_format)


def _shared_first(rows: int, like: Tensor) -> Tensor:
    """An orthonormal basis of samples (columns), the first of which is what they all share: the cosines."""
    i = torch.arange(rows, dtype=like.dtype, device=like.device)
    cosines = torch.cos(math.pi * (i[:, None] + 0.5) * i / rows)
    return cosines / cosines.norm(dim=0)


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
