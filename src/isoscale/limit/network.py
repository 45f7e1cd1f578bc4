"""The one-layer-block residual network under depth-muP, trained on particles (THEORY sections 1 and 3).

    h_0 = U x / sqrt(d),   h_l = h_{l-1} + s W_l phi(h_{l-1}),   f_c = <v_c, h_L>,             s = sqrt(T / L)
    g_L = sum_c u_c v_c,   g_{l-1} = g_l + s phi'(h_{l-1}) * W_l^T g_l,                        chi_c = w u_c
    SGD:  W_l -= (eta s / n) sum_b w_b g_l(b) phi(h_{l-1}(b))^T
          h_0(a) -= eta sum_b Kx(a, b) w_b g_0(b),   v_c -= eta sum_b chi_c(b) h_L(b)

With one output u = 1 and w = chi. With several, one backward vector a sample is enough: the direction u = chi/|chi|
and w = |chi|. The data enter only through Kx = x.x/d. Arrays are (replicas, samples, particles).
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable

import torch
from jaxtyping import Float
from torch import Tensor

from isoscale.limit.activations import Function, Slope
from isoscale.limit.gaussian import DENSE_ABOVE, LazyGaussian, Rows, inner, symmetric_power
from isoscale.limit.losses import Outputs
from isoscale.limit.noise import BACKWARD, DENSE, ENDS, FORWARD, Noise

KERNELS = ("feature_kernel", "stream_kernel", "gradient_kernel", "cross_kernel")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Problem:
    """What is trained, on what, and how: everything that does not depend on the size of the network."""

    gram: Float[Tensor, "samples samples"]  # Kx, the training samples first, then the unseen ones
    y: Float[Tensor, "trained outputs"]
    shares: Float[
        Tensor, "steps trained"
    ]  # each step's weights of the samples' losses: 1 full batch, P/B or 0 in a batch
    lr: float
    horizon: float
    phi: Function
    slope: Slope
    loss: Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]
    train_ends: bool

    @property
    def steps(self) -> int:
        return self.shares.shape[0]

    @property
    def samples(self) -> int:
        """All samples, the unseen ones included."""
        return self.gram.shape[0]

    @property
    def trained(self) -> int:
        return self.y.shape[0]

    @property
    def outputs(self) -> int:
        return self.y.shape[1]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Size:
    """The size of the network and the way it is simulated."""

    n: int
    depth: int
    replicas: int = 1
    reused: bool = True
    matched: bool = False  # n -> infinity by moment matching; else a network of width n, exactly in law
    explicit: bool = True  # may a matrix become explicit once that is cheaper? Never if matched
    tolerance: float = 1e-12
    kernel_layers: tuple[int, ...] = ()  # where kernels are recorded, of 0 .. depth


@dataclasses.dataclass
class History:
    """What a run leaves: replicas first, then steps (all + 1 of them, NaN from a divergence on)."""

    loss: Float[Tensor, "replicas steps"]
    prediction: Float[Tensor, "replicas steps samples outputs"]
    kernels: dict[str, Float[Tensor, "replicas steps time samples samples"]]
    displacement: Float[Tensor, "replicas steps time samples"]  # <h^k - h^0, h^k - h^0>
    diverged: int | None = None
    rank: int = 0  # the most directions revealed of a matrix


@dataclasses.dataclass(frozen=True)
class Pass:
    """A forward pass: h_0 .. h_L; and below the top the features phi(h) and their coordinates at the next matrix."""

    stream: list[Rows]
    features: list[Rows]
    coordinates: list[Tensor]


class Workspace:
    """Memory that runs leave to one another: a fresh page costs more than what is written to it."""

    def __init__(self) -> None:
        self._flat = torch.empty(0)

    def take(self, shape: tuple[int, ...], like: Tensor) -> Tensor:
        """An array of any content, which must no longer be in use when the next is taken."""
        words = math.prod(shape)
        if self._flat.numel() < words or self._flat.dtype != like.dtype or self._flat.device != like.device:
            self._flat = like.new_empty(0)  # what there was goes first
            self._flat = like.new_empty(words)
        return self._flat[:words].view(shape)


class Network:
    """Replicas of the network, and one step of training at a time."""

    def __init__(self, problem: Problem, size: Size, noise: Noise, workspace: Workspace) -> None:
        self.problem, self.size, self.noise = problem, size, noise
        self.scale = math.sqrt(problem.horizon / size.depth)
        like, o = problem.gram, problem.outputs
        ends = noise.rows(ENDS, 0, (size.replicas, o + problem.samples, size.n))
        if size.matched:
            ends = symmetric_power(inner(ends, ends), -0.5) @ ends
        self.v = ends[:, :o].clone()
        self.h0 = symmetric_power(like[None], 0.5)[0] @ ends[:, o:]
        self._v0 = self.v
        capacity = min(problem.samples * (problem.steps + 1), self._most_rank() + problem.samples)
        storage = workspace.take((size.depth, 4, size.replicas, capacity, size.n), like)
        self.layers = [LazyGaussian(s, reused=size.reused, tolerance=size.tolerance) for s in storage]

    def _most_rank(self) -> int:
        return int(DENSE_ABOVE * self.size.n) if self.size.explicit and not self.size.matched else self.size.n

    def forward(self) -> Pass:
        """All samples through the network."""
        h = self.h0
        out = Pass(stream=[h], features=[], coordinates=[])
        for layer, matrix in enumerate(self.layers):
            features = self.problem.phi(h)
            off = torch.cat([h, self._v0], dim=1) if self.size.matched else None
            image, where = matrix.forward(features, self.noise.rows(FORWARD, layer, _shape(h)), off)
            h = torch.add(h, image, alpha=self.scale)
            out.stream.append(h)
            out.features.append(features)
            out.coordinates.append(where)
        return out

    def backward(self, forward: Pass, chi: Outputs, share: Tensor | None) -> list[Rows]:
        """The gradients g_0 .. g_L, and one step of SGD on the way.

        Args:
            forward: What `forward` returned.
            chi: dloss/df of the trained samples.
            share: The step's weight of each sample; None: no training. Without kernels to record, samples of
                weight 0 are left out.
        """
        rows = self._rows(share)
        u, w = _direction(chi[:, rows])
        g = u @ self.v
        gradients = [g]
        step = None if share is None else self.problem.lr * w * share[rows]
        for layer in reversed(range(self.size.depth)):
            slope = self.problem.slope(forward.stream[layer][:, rows], forward.features[layer][:, rows])
            off = slope * g if self.size.matched else None
            image, where = self.layers[layer].backward(g, self.noise.rows(BACKWARD, layer, _shape(g)), off)
            if step is not None:
                self.layers[layer].update(forward.coordinates[layer][:, rows], where, self.scale * step)
            g = torch.addcmul(g, slope, image, value=self.scale)
            gradients.append(g)
        if step is not None and self.problem.train_ends:
            self.h0 = self.h0 - self.problem.gram[:, rows] @ (step[..., None] * g)
            self.v = self.v - (step[..., None] * u).mT @ forward.stream[-1][:, rows]
        return gradients[::-1]

    def _rows(self, share: Tensor | None) -> Tensor | slice:
        """The samples whose gradients are wanted."""
        if share is None or self.size.kernel_layers or bool((share > 0).all()):
            return slice(0, self.problem.trained)
        return share.nonzero()[:, 0]

    def make_room(self) -> None:
        """Let matrices whose bases have grown too large go on explicitly."""
        if self.size.explicit and not self.size.matched:
            for layer, matrix in enumerate(self.layers):
                if matrix.rank + self.problem.samples > self._most_rank() and not matrix.dense:
                    matrix.densify(self.noise.generator(DENSE, layer))


def _direction(chi: Outputs) -> tuple[Tensor, Float[Tensor, "replicas samples"]]:
    """chi = w u, with u = 1 for one output and |u| = 1 for several."""
    if chi.shape[-1] == 1:
        return torch.ones_like(chi), chi[..., 0]
    w = chi.norm(dim=-1)
    even = torch.full_like(chi, chi.shape[-1] ** -0.5)
    return torch.where(w[..., None] > 0, chi / w[..., None].clamp_min(1e-300), even), w


def _shape(rows: Rows) -> tuple[int, int, int]:
    return rows.shape[0], rows.shape[1], rows.shape[2]


def run(
    problem: Problem,
    size: Size,
    noise: Noise,
    progress: Callable[[float], None] | None = None,
    workspace: Workspace | None = None,
) -> History:
    """Train, and record. A run that diverges stops, and its history says at which step."""
    history = _empty(problem, size)
    network = Network(problem, size, noise, workspace or Workspace())
    start: list[Rows] = []
    for k in range(problem.steps + 1):
        if not _step(network, history, k, start):
            history.diverged = k
            break
        if progress is not None:
            progress((k + 1) / (problem.steps + 1))
    history.rank = max(matrix.rank for matrix in network.layers)
    return history


def _step(network: Network, history: History, k: int, start: list[Rows]) -> bool:
    """One step, recorded; whether it stayed finite."""
    problem, size = network.problem, network.size
    network.make_room()
    try:
        forward = network.forward()
        stream = forward.stream
        f = inner(stream[-1], network.v)
        loss, chi = problem.loss(f[:, : problem.trained], problem.y)
        if not (loss.isfinite().all() and f.isfinite().all()):
            return False
        share = problem.shares[k] if k < problem.steps else None
        gradients = []
        if share is not None or size.kernel_layers:
            gradients = network.backward(forward, chi, share)
    except OverflowError:
        return False
    history.loss[:, k], history.prediction[:, k] = loss, f
    start.extend(stream[layer] for layer in size.kernel_layers if not k)
    for t, layer in enumerate(size.kernel_layers):
        _record(history, problem, k, t, stream[layer][:, : problem.trained], gradients[layer])
        history.displacement[:, k, t] = (stream[layer] - start[t]).square().mean(-1)
    return True


def _record(history: History, problem: Problem, k: int, t: int, h: Rows, g: Rows) -> None:
    features = problem.phi(h)
    pairs = zip(KERNELS, ((features, features), (h, h), (g, g), (h, g)), strict=True)
    for name, (a, b) in pairs:
        history.kernels[name][:, k, t] = inner(a, b)


def _empty(problem: Problem, size: Size) -> History:
    def nan(*shape: int) -> Tensor:
        return torch.full((size.replicas, problem.steps + 1, *shape), math.nan, dtype=problem.gram.dtype)

    times, p, s = len(size.kernel_layers), problem.trained, problem.samples
    kernels = {name: nan(times, p, p) for name in KERNELS}
    return History(nan(), nan(s, problem.outputs), kernels, nan(times, s))
