"""The residual network, trained on particles (docs/theory.md, sections 1, 3 and 9).

    h_0 = U x / sqrt(d),   h_l = h_{l-1} + a W_l phi(h_{l-1}),   f_c = <v_c, h_L>,             a = sqrt(T / L)
    g_L = sum_c u_c v_c,   g_{l-1} = g_l + a phi'(h_{l-1}) * W_l^T g_l,                        chi_c = w u_c
    SGD:  W_l -= (eta a / n) sum_b w_b g_l(b) phi(h_{l-1}(b))^T
          h_0(a) -= eta sum_b Kx(a, b) w_b g_0(b),   v_c -= eta sum_b chi_c(b) h_L(b)

Other branches, norms and depth rules: `isoscale.limit.blocks`; momentum, decay and clipping: `optimizers`. Under decay
a matrix is rho (W_0 + what was trained): the matrix in brackets is what is sampled, images are multiplied by rho and
learning rates divided by it.

With one output u = 1 and w = chi. With several, one backward vector a sample is enough: the direction u = chi/|chi|
and w = |chi|. The data enter only through Kx = x.x/d. Arrays are (replicas, samples, particles).
"""

from __future__ import annotations

import contextlib
import dataclasses
import math
from collections.abc import Callable, Iterator

import torch
from jaxtyping import Float
from torch import Tensor

from isoscale.limit.activations import Derivative, Function
from isoscale.limit.blocks import Architecture, Branch, Update, normalised, through_norm
from isoscale.limit.gaussian import (
    ExplicitGaussian,
    Gaussian,
    LazyGaussian,
    Rows,
    TrainedBeside,
    inner,
    symmetric_power,
)
from isoscale.limit.losses import Outputs
from isoscale.limit.noise import DENSE, INPUT_OUTPUT, Noise, within
from isoscale.limit.optimizers import Optimizer
from isoscale.limit.progress import Progress

EXPLICIT_ABOVE = 1 / 8
"""Queries of a matrix, as a share of n, beyond which explicit matrices are faster (docs/theory.md, section 3)."""

KERNELS = ("feature_kernel", "stream_kernel", "gradient_kernel", "cross_kernel")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Problem:
    """Data, activation, loss and training: everything that does not depend on the size of the network."""

    # Kx, the training samples first, then the test samples; and x / sqrt(d)
    gram: Float[Tensor, "samples samples"]
    inputs: Float[Tensor, "samples features"]
    y: Float[Tensor, "trained outputs"]
    # weight of each sample's loss at each step: 1 in a full batch, P/B or 0 in a mini-batch
    batch_weights: Float[Tensor, "steps trained"]
    optimizer: Optimizer
    horizon: float
    phi: Function
    derivative: Derivative
    loss: Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]
    train_ends: bool
    architecture: Architecture = dataclasses.field(default_factory=Architecture)

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

    @property
    def queries(self) -> int:
        """The vectors that a matrix is applied to in each direction, copies of a sample counted once."""
        different = torch.unique(self.gram, dim=0).shape[0]
        return different * (self.steps + 1)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Size:
    """The size of the network and the way it is simulated."""

    n: int
    depth: int
    replicas: int = 1
    reused: bool = True
    # n -> infinity by moment matching; else a network of width n, exactly in law
    matched: bool = False
    # whether the matrices are explicit; None: where that is cheaper, which it never is if matched
    explicit: bool | None = None
    tolerance: float = 1e-12
    # where kernels are recorded, of 0 .. depth
    kernel_layers: tuple[int, ...] = ()

    def is_explicit(self, problem: Problem) -> bool:
        """Whether the matrices are explicit."""
        if self.explicit is not None:
            return self.explicit
        if self.matched:
            return False
        return problem.optimizer.moments > 0 or problem.queries > EXPLICIT_ABOVE * self.n


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
        architecture = problem.architecture
        # a
        self.multiplier = architecture.rule.multiplier(problem.horizon, size.depth)
        outputs, samples = problem.outputs, problem.samples
        shape = size.replicas, outputs + samples, size.n
        rows = noise.rows(INPUT_OUTPUT, 0, shape)
        if size.matched:
            if architecture.norm == "layer":
                # LayerNorm sees the mean over units, which is 0 in the limit.
                rows = rows - rows.mean(-1, keepdim=True)
            # <G, G>^(-1/2) G has the orthonormal rows that G has in the limit.
            rows = symmetric_power(inner(rows, rows), -0.5) @ rows
        # v has iid N(0, 1) entries. h_0 = U x / sqrt(d) has covariance Kx between samples: h_0 = Kx^(1/2) G.
        self.v = rows[:, :outputs].clone()
        root = symmetric_power(problem.gram[None], 0.5)[0]
        self.h0 = root @ rows[:, outputs:]
        # Of the stream, what the noise of a branch's image is uncorrelated with in the limit, beside the stream
        # itself: v at step 0.
        self._known = None
        if size.matched:
            self._known = self.v
            if architecture.norm == "layer":
                self._known = torch.cat([self.v, torch.ones_like(self.v[:, :1])], dim=1)
        self._buffers = problem.optimizer.of_vectors(), problem.optimizer.of_vectors()  # of U, by way of h_0, and v
        # rho: what decay has left of the initial weights
        self._left = 1.0
        matrices = self._matrices(workspace)
        self.branches: list[Branch] = []
        for layer, of_layer in enumerate(matrices):
            branch = Branch(
                of_layer,
                phi=problem.phi,
                derivative=problem.derivative,
                multiplier=self.multiplier,
                rates=architecture.rule.rates(size.depth, architecture.layers),
                layer=layer,
                noise=noise,
                matched=size.matched,
            )
            self.branches.append(branch)

    def _matrices(self, workspace: Workspace) -> list[list[Gaussian]]:
        """Those of all branches."""
        problem, size = self.problem, self.size
        samples, layers = problem.samples, problem.architecture.layers
        out: list[list[Gaussian]] = []
        if size.is_explicit(problem):
            for layer in range(size.depth):
                of_layer: list[Gaussian] = []
                for index in range(layers):
                    kind = DENSE if index == layers - 1 else within(index, DENSE)
                    matrix = ExplicitGaussian(
                        (size.replicas, size.n),
                        self.noise.generator(kind, layer),
                        problem.gram,
                        reused=size.reused,
                        buffer=problem.optimizer.of_matrix(unit=size.n),
                    )
                    of_layer.append(matrix)
                out.append(of_layer)
            return out
        # A step queries each matrix on one vector a sample and direction.
        most_queries = samples * (problem.steps + 1)
        capacity = min(most_queries, size.n + samples)
        shape = size.depth, layers, 4, size.replicas, capacity, size.n
        for storages in workspace.take(shape, problem.gram):
            of_layer = []
            for storage in storages:
                buffer = problem.optimizer.of_matrix()
                lazy = LazyGaussian(storage, reused=size.reused, tolerance=size.tolerance, buffer=buffer)
                if problem.optimizer.moments:
                    of_layer.append(TrainedBeside(lazy, (size.replicas, size.n), problem.gram, buffer))
                else:
                    of_layer.append(lazy)
            out.append(of_layer)
        return out

    @property
    def rank(self) -> int:
        """The most directions sampled of a matrix."""
        return max(matrix.rank for branch in self.branches for matrix in branch.matrices)

    def forward(self) -> list[Rows]:
        """All samples through the network: h_0 .. h_L."""
        norm = self.problem.architecture.norm
        h = self.h0
        stream = [h]
        for branch in self.branches:
            known = None if self._known is None else torch.cat([h, self._known], dim=1)
            image = branch.forward(normalised(norm, h), known, self._left)
            # h_l = h_{l-1} + a times the image
            h = torch.add(h, image, alpha=self.multiplier)
            stream.append(h)
        return stream

    def features(self, stream: list[Rows], layer: int) -> Rows:
        """What the last matrix of the next branch is applied to; above the last branch, its own at h_L, or what it was
        applied to below if it has more matrices than one."""
        if layer < self.size.depth:
            return self.branches[layer].features
        if self.problem.architecture.layers == 1:
            return self.problem.phi(normalised(self.problem.architecture.norm, stream[-1]))
        return self.branches[-1].features

    def backward(self, stream: list[Rows], chi: Outputs, step: int | None) -> list[Rows]:
        """The gradients g_0 .. g_L, and one step of the optimizer.

        Args:
            stream: Result of `forward`.
            chi: dloss/df of the trained samples.
            step: Whose batch and learning rate are used; None: no training. Without kernels to record, samples that
                the batch leaves out are left out.
        """
        problem = self.problem
        weights = None if step is None else problem.batch_weights[step]
        rows = self._rows(weights)
        u, w = direction(chi[:, rows])
        norm = problem.architecture.norm
        # g_L = sum_c u_c v_c
        g = u @ self.v
        gradients = [g]
        updates: list[Update] = []
        for layer in reversed(range(self.size.depth)):
            t, of_layer = self.branches[layer].backward(g, rows, self._known, self._left)
            updates += of_layer
            # g_{l-1} = g_l + a N'^T t
            h = stream[layer][:, rows]
            g = torch.add(g, through_norm(norm, h, t), alpha=self.multiplier)
            gradients.append(g)
        if step is not None and weights is not None:
            self._train(step, updates, w * weights[rows], u, g, stream[-1][:, rows], rows)
        return gradients[::-1]

    def _train(
        self, step: int, updates: list[Update], w: Tensor, u: Outputs, g: Rows, top: Rows, rows: Tensor | slice
    ) -> None:
        """One step of the optimizer.

        Args:
            step: Its number.
            updates: Gradients of the matrices.
            w, u: chi = w u of the samples that are trained on.
            g, top: Their g_0 and h_L.
            rows: Which of the samples they are.
        """
        problem, optimizer = self.problem, self.problem.optimizer
        if optimizer.clip is not None:
            w = w * _clipping(updates, w, optimizer.clip)[:, None]
        keep, rate = optimizer.keep(step), float(optimizer.rates[step])
        self._left *= keep
        for update in updates:
            # W_l -= (eta a / n) sum_b w_b g_b a_b^T
            of_matrix = rate * update.rate / self._left
            weights = update.multiplier * w
            if not optimizer.is_linear:
                # a = sqrt(T) L^-beta is in no update then: its L^-beta has to be in the learning rate.
                of_matrix *= self.size.depth**-problem.architecture.rule.beta
                weights = w
            update.matrix.update(update.coordinates, update.coordinates_g, weights, of_matrix)
        if problem.train_ends:
            by_sample = w[..., None]  # (R, B, 1)
            of_u, of_v = self._buffers
            if optimizer.is_linear:
                # h_0(a) -= eta sum_b Kx(a, b) w_b g_0(b)
                change = of_u.direction(problem.gram[:, rows] @ (by_sample * g))
            else:
                # U^T -= eta times the direction of sum_b w_b x_b g_0(b)^T / sqrt(d)
                change = problem.inputs @ of_u.direction(problem.inputs[rows].mT @ (by_sample * g))
            self.h0 = keep * self.h0 - rate * change
            # v_c -= eta sum_b w_b u_c(b) h_L(b)
            change = of_v.direction((by_sample * u).mT @ top)
            self.v = keep * self.v - rate * change

    def _rows(self, weights: Tensor | None) -> Tensor | slice:
        """The samples whose gradients are wanted."""
        if weights is None or self.size.kernel_layers or bool((weights > 0).all()):
            # a slice, unlike indices, makes no copies
            return slice(0, self.problem.trained)
        return weights.nonzero()[:, 0]


def _clipping(updates: list[Update], w: Tensor, largest: float) -> Float[Tensor, " replicas"]:
    """By what the gradients of each replica are multiplied so that the matrices' together has at most this norm."""
    square = torch.zeros_like(w[:, 0])
    for update in updates:
        square = square + update.square(w)
    norm = square.clamp_min(0).sqrt()
    return torch.where(norm > largest, largest / norm, torch.ones_like(norm))


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


@contextlib.contextmanager
def own_setting(device: torch.device) -> Iterator[None]:
    """Inside, arrays without a device of their own are on the CPU, and products on this device have their own dtype,
    whatever `torch.device` and `torch.autocast` a caller stands in."""
    # A default device is a function that torch calls around each operation: none is called. One of our own would cost
    # as much as the many small operations here.
    with torch._C.DisableTorchFunction(), torch.autocast(device.type, enabled=False):
        yield


def run(
    problem: Problem,
    size: Size,
    noise: Noise,
    progress: Progress = None,
    workspace: Workspace | None = None,
) -> History:
    """Train, and record. A run that diverges stops, and its history says at which step."""
    with own_setting(problem.gram.device):
        history = empty_history(problem, size.replicas, len(size.kernel_layers))
        network = Network(problem, size, noise, workspace or Workspace())
        start: list[Rows] = []
        # Step k is recorded before its update; the last one has none.
        for k in range(problem.steps + 1):
            if not _step(network, history, k, start):
                history.diverged = k
                break
            if progress is not None:
                progress((k + 1) / (problem.steps + 1))
    history.rank = network.rank
    return history


def _step(network: Network, history: History, k: int, start: list[Rows]) -> bool:
    """One step, recorded; whether it stayed finite. `start` takes up the stream of step 0 where it is recorded."""
    problem, size = network.problem, network.size
    try:
        stream = network.forward()
        # f_c = <v_c, h_L>
        f = inner(stream[-1], network.v)
        trained = f[:, : problem.trained]
        loss, chi = problem.loss(trained, problem.y)
        finite = loss.isfinite().all() and f.isfinite().all()
        if not finite:
            return False
        # What the matrices were applied to: training moves them on.
        features = {layer: network.features(stream, layer) for layer in size.kernel_layers}
        training = k if k < problem.steps else None
        gradients = []
        if training is not None or size.kernel_layers:
            gradients = network.backward(stream, chi, training)
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
        phi = features[layer][:, : problem.trained]
        g = gradients[layer]
        pairs = {
            "feature_kernel": (phi, phi),
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
