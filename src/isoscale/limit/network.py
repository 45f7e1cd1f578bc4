"""The one-layer-block residual network under depth-muP, trained on particles (docs/theory.md, sections 1 and 3).

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

from isoscale.limit.activations import Derivative, Function
from isoscale.limit.gaussian import DENSE_ABOVE, LazyGaussian, Rows, inner, symmetric_power
from isoscale.limit.losses import Outputs
from isoscale.limit.noise import BACKWARD, DENSE, FORWARD, INPUT_OUTPUT, Noise
from isoscale.limit.progress import Progress

KERNELS = ("feature_kernel", "stream_kernel", "gradient_kernel", "cross_kernel")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Problem:
    """Data, activation, loss and training: everything that does not depend on the size of the network."""

    # Kx, the training samples first, then the test samples
    gram: Float[Tensor, "samples samples"]
    y: Float[Tensor, "trained outputs"]
    # weight of each sample's loss at each step: 1 in a full batch, P/B or 0 in a mini-batch
    batch_weights: Float[Tensor, "steps trained"]
    lr: float
    horizon: float
    phi: Function
    derivative: Derivative
    loss: Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]
    train_ends: bool

    @property
    def steps(self) -> int:
        return self.batch_weights.shape[0]

    @property
    def samples(self) -> int:
        """All samples, the test samples included."""
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
    # n -> infinity by moment matching; else a network of width n, exactly in law
    matched: bool = False
    # whether a matrix may become explicit once that is cheaper; never if matched
    explicit: bool = True
    tolerance: float = 1e-12
    # where kernels are recorded, of 0 .. depth
    kernel_layers: tuple[int, ...] = ()

    @property
    def can_densify(self) -> bool:
        """Whether matrices become explicit once their bases are large."""
        return self.explicit and not self.matched

    @property
    def largest_basis(self) -> int:
        """Rank that a lazily sampled matrix may reach."""
        return int(DENSE_ABOVE * self.n) if self.can_densify else self.n


@dataclasses.dataclass
class History:
    """Record of a run: replicas first, then steps (all + 1 of them, NaN from a divergence on)."""

    loss: Float[Tensor, "replicas steps"]
    prediction: Float[Tensor, "replicas steps samples outputs"]
    kernels: dict[str, Float[Tensor, "replicas steps time samples samples"]]
    # <h^k - h^0, h^k - h^0>
    displacement: Float[Tensor, "replicas steps time samples"]
    diverged: int | None = None
    # the most directions sampled of a matrix
    rank: int = 0


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
        enough = self._flat.numel() >= words
        same_kind = self._flat.dtype == like.dtype and self._flat.device == like.device
        if not enough or not same_kind:
            # The old memory goes first, so that both are never held together.
            self._flat = like.new_empty(0)
            self._flat = like.new_empty(words)
        return self._flat[:words].view(shape)


class Network:
    """Replicas of the network, and one step of training at a time."""

    def __init__(self, problem: Problem, size: Size, noise: Noise, workspace: Workspace) -> None:
        self.problem, self.size, self.noise = problem, size, noise
        # s = sqrt(T / L)
        self.scale = math.sqrt(problem.horizon / size.depth)
        outputs, samples = problem.outputs, problem.samples
        shape = size.replicas, outputs + samples, size.n
        rows = noise.rows(INPUT_OUTPUT, 0, shape)
        if size.matched:
            # <G, G>^(-1/2) G has the orthonormal rows that G has in the limit.
            rows = symmetric_power(inner(rows, rows), -0.5) @ rows
        # v has iid N(0, 1) entries. h_0 = U x / sqrt(d) has covariance Kx between samples: h_0 = Kx^(1/2) G.
        self.v = rows[:, :outputs].clone()
        root = symmetric_power(problem.gram[None], 0.5)[0]
        self.h0 = root @ rows[:, outputs:]
        self._v0 = self.v
        # A step queries each matrix on one vector a sample and direction, and densifies in time for the next.
        most_queries = samples * (problem.steps + 1)
        capacity = min(most_queries, size.largest_basis + samples)
        shape = size.depth, 4, size.replicas, capacity, size.n
        self.layers: list[LazyGaussian] = []
        for storage in workspace.take(shape, problem.gram):
            matrix = LazyGaussian(storage, reused=size.reused, tolerance=size.tolerance)
            self.layers.append(matrix)

    def forward(self) -> Pass:
        """All samples through the network."""
        h = self.h0
        out = Pass(stream=[h], features=[], coordinates=[])
        for layer, matrix in enumerate(self.layers):
            features = self.problem.phi(h)
            # What the fresh noise of W_l is uncorrelated with in the limit, beside the bases: h_{l-1} and v at step 0
            uncorrelated = None
            if self.size.matched:
                uncorrelated = torch.cat([h, self._v0], dim=1)
            noise = self.noise.rows(FORWARD, layer, _shape(h))
            image, coordinates = matrix.forward(features, noise, uncorrelated)
            # h_l = h_{l-1} + s W_l phi(h_{l-1})
            h = torch.add(h, image, alpha=self.scale)
            out.stream.append(h)
            out.features.append(features)
            out.coordinates.append(coordinates)
        return out

    def backward(self, forward: Pass, chi: Outputs, weights: Tensor | None) -> list[Rows]:
        """The gradients g_0 .. g_L, and one step of SGD on the way.

        Args:
            forward: Result of `forward`.
            chi: dloss/df of the trained samples.
            weights: The step's weight of each sample's loss; None: no training. Without kernels to record, samples of
                weight 0 are left out.
        """
        problem = self.problem
        rows = self._rows(weights)
        u, w = direction(chi[:, rows])
        # eta w_b, by which each sample's terms of all updates are multiplied
        step = None
        if weights is not None:
            step = problem.lr * w * weights[rows]
        # g_L = sum_c u_c v_c
        g = u @ self.v
        gradients = [g]
        for layer in reversed(range(self.size.depth)):
            matrix = self.layers[layer]
            h = forward.stream[layer][:, rows]
            features = forward.features[layer][:, rows]
            derivative = problem.derivative(h, features)
            uncorrelated = derivative * g if self.size.matched else None
            noise = self.noise.rows(BACKWARD, layer, _shape(g))
            image, coordinates_g = matrix.backward(g, noise, uncorrelated)
            if step is not None:
                # W_l -= (eta s / n) sum_b w_b g_l(b) phi(h_{l-1}(b))^T
                coordinates = forward.coordinates[layer][:, rows]
                matrix.update(coordinates, coordinates_g, self.scale * step)
            # g_{l-1} = g_l + s phi'(h_{l-1}) * W_l^T g_l, with the W_l of before the update
            g = torch.addcmul(g, derivative, image, value=self.scale)
            gradients.append(g)
        if step is not None and problem.train_ends:
            by_sample = step[..., None]  # (R, B, 1)
            # h_0(a) -= eta sum_b Kx(a, b) w_b g_0(b)
            gram = problem.gram[:, rows]
            self.h0 = self.h0 - gram @ (by_sample * g)
            # v_c -= eta sum_b w_b u_c(b) h_L(b)
            top = forward.stream[-1][:, rows]
            self.v = self.v - (by_sample * u).mT @ top
        return gradients[::-1]

    def _rows(self, weights: Tensor | None) -> Tensor | slice:
        """The samples whose gradients are wanted."""
        if weights is None or self.size.kernel_layers or bool((weights > 0).all()):
            # a slice, unlike indices, makes no copies
            return slice(0, self.problem.trained)
        return weights.nonzero()[:, 0]

    def make_room(self) -> None:
        """Let matrices whose bases have grown too large go on explicitly."""
        if not self.size.can_densify:
            return
        for layer, matrix in enumerate(self.layers):
            after_a_step = matrix.rank + self.problem.samples
            if after_a_step > self.size.largest_basis and not matrix.dense:
                matrix.densify(self.noise.generator(DENSE, layer))


def direction(chi: Outputs) -> tuple[Tensor, Float[Tensor, "replicas samples"]]:
    """The loss's gradient of each sample as direction and size: chi = w u.

    u = 1 for one output and |u| = 1 for several.
    """
    outputs = chi.shape[-1]
    if outputs == 1:
        return torch.ones_like(chi), chi[..., 0]
    w = chi.norm(dim=-1)
    # A sample that is fitted exactly has no direction of its own; its w of 0 hides whichever it gets.
    even = torch.full_like(chi, outputs**-0.5)
    length = w[..., None]
    u = chi / length.clamp_min(1e-300)
    return torch.where(length > 0, u, even), w


def _shape(rows: Rows) -> tuple[int, int, int]:
    return rows.shape[0], rows.shape[1], rows.shape[2]


def own_precision(problem: Problem) -> torch.autocast:
    """Inside, products have the problem's dtype, whatever a caller's `torch.autocast` asks for."""
    return torch.autocast(problem.gram.device.type, enabled=False)


def run(
    problem: Problem,
    size: Size,
    noise: Noise,
    progress: Progress = None,
    workspace: Workspace | None = None,
) -> History:
    """Train, and record. A run that diverges stops, and its history says at which step."""
    history = empty_history(problem, size.replicas, len(size.kernel_layers))
    with own_precision(problem):
        network = Network(problem, size, noise, workspace or Workspace())
        start: list[Rows] = []
        # Step k is recorded before its update; the last one has none.
        for k in range(problem.steps + 1):
            if not _step(network, history, k, start):
                history.diverged = k
                break
            if progress is not None:
                progress((k + 1) / (problem.steps + 1))
    history.rank = max(matrix.rank for matrix in network.layers)
    return history


def _step(network: Network, history: History, k: int, start: list[Rows]) -> bool:
    """One step, recorded; whether it stayed finite. `start` takes up the stream of step 0 where it is recorded."""
    problem, size = network.problem, network.size
    network.make_room()
    try:
        forward = network.forward()
        stream = forward.stream
        # f_c = <v_c, h_L>
        f = inner(stream[-1], network.v)
        trained = f[:, : problem.trained]
        loss, chi = problem.loss(trained, problem.y)
        finite = loss.isfinite().all() and f.isfinite().all()
        if not finite:
            return False
        weights = problem.batch_weights[k] if k < problem.steps else None
        gradients = []
        if weights is not None or size.kernel_layers:
            gradients = network.backward(forward, chi, weights)
    except OverflowError:  # a Gram matrix was not finite
        return False
    history.loss[:, k] = loss
    history.prediction[:, k] = f
    for t, layer in enumerate(size.kernel_layers):
        h = stream[layer]
        if k == 0:
            start.append(h)
        moved = h - start[t]
        history.displacement[:, k, t] = moved.square().mean(-1)
        h = h[:, : problem.trained]
        features = problem.phi(h)
        g = gradients[layer]
        pairs = {
            "feature_kernel": (features, features),
            "stream_kernel": (h, h),
            "gradient_kernel": (g, g),
            "cross_kernel": (h, g),
        }
        for name, (a, b) in pairs.items():
            history.kernels[name][:, k, t] = inner(a, b)
    return True


def empty_history(problem: Problem, replicas: int, times: int) -> History:
    """A record with nothing in it yet, of kernels at so many layers."""
    steps = problem.steps + 1
    dtype = problem.gram.dtype

    def nan(*shape: int) -> Tensor:
        return torch.full((replicas, steps, *shape), math.nan, dtype=dtype)

    trained, samples = problem.trained, problem.samples
    return History(
        loss=nan(),
        prediction=nan(samples, problem.outputs),
        kernels={name: nan(times, trained, trained) for name in KERNELS},
        displacement=nan(times, samples),
    )
