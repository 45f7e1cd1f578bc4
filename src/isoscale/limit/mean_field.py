"""Two-layer blocks under completep (beta = 1) at infinite width and depth: a mean-field equation (docs/theory.md,
section 9.5).

At initialisation the branches vanish, and the stream and the backward vectors live in the span of the inputs and the
readout for ever: vectors H, G of rank(Kx) + outputs coordinates. At each layer there is a population of neurons
(theta, omega), a row of W1 and a column of W2 on that span, whose features move:

    z_b = theta . H_b,   dH_b/dt = s E[omega phi(z_b)],      w_b = phi'(z_b) (omega . G_b),   -dG_b/dt = s E[theta w_b]
    omega -= eta s sum_b chi_b phi(z_b) G_b,                 theta -= eta s sum_b chi_b w_b H_b,          s = sqrt(T)

The cost is linear in the steps. A sample of the population is of finite size, and layers are finitely many: replicas
show the error of the first, the depths of a ladder that of the second.
"""

from __future__ import annotations

import dataclasses
import math

import numpy as np
import torch
from torch import Tensor

from isoscale.limit.memory import check_words
from isoscale.limit.network import History, Problem, direction, empty_history
from isoscale.limit.optimizers import Optimizer
from isoscale.limit.progress import Progress


@dataclasses.dataclass(frozen=True, kw_only=True)
class Population:
    """How the population is sampled.

    Attributes:
        layers, neurons: Of each layer; neurons, a power of two, in pairs of opposite omega.
        replicas: Independent samples.
        seed: Of the samples.
        kernel_layers: Where kernels are recorded, of 0 .. layers.
    """

    layers: int
    neurons: int
    replicas: int
    seed: int
    kernel_layers: tuple[int, ...] = ()


class _Weights:
    """One kind of weights under SGD."""

    def __init__(self, start: Tensor, optimizer: Optimizer) -> None:
        self.now = start
        self._buffer, self._optimizer = optimizer.of_vectors(), optimizer

    def step(self, gradient: Tensor, k: int) -> None:
        direction = self._buffer.direction(gradient)
        self.now = self._optimizer.keep(k) * self.now - float(self._optimizer.rates[k]) * direction


def run(problem: Problem, population: Population, progress: Progress = None) -> History:
    """Train, and record. A run that diverges stops, and its history says at which step."""
    samples, outputs, like = problem.samples, problem.outputs, problem.gram
    weights = population.layers * population.replicas * population.neurons * (samples + outputs)
    # The draws twice, then theta and omega with their velocities and gradients.
    check_words(8 * weights, "Use fewer `particles`, a shorter `ladder` or fewer samples.")
    history = empty_history(problem, population.replicas, len(population.kernel_layers))
    drawn = _draw(population, samples + outputs).to(like)
    rows, columns = drawn.chunk(2, dim=-1)
    # E[omega phi] is 0 at initialisation, in a finite sample too if every neuron has its mirror image.
    theta = _Weights(torch.cat([rows, rows], dim=2), problem.optimizer)
    omega = _Weights(torch.cat([columns, -columns], dim=2), problem.optimizer)
    values, vectors = torch.linalg.eigh(like)
    root = vectors * values.clamp_min(0).sqrt()
    every = population.replicas, -1, -1
    start = torch.cat([root, root.new_zeros(samples, outputs)], dim=1).expand(*every)
    readout = torch.cat([root.new_zeros(outputs, samples), torch.eye(outputs).to(like)], dim=1).expand(*every)
    inputs, v = _Weights(start, problem.optimizer), _Weights(readout, problem.optimizer)
    first: list[Tensor] = []
    for k in range(problem.steps + 1):
        stream = _forward(problem, inputs.now, theta.now, omega.now)
        f = stream[-1] @ v.now.mT
        loss, chi = problem.loss(f[:, : problem.trained], problem.y)
        if not bool(loss.isfinite().all() and f.isfinite().all()):
            history.diverged = k
            break
        u, w = direction(chi)
        gradients = _backward(problem, stream, u @ v.now, theta.now, omega.now)
        history.loss[:, k], history.prediction[:, k] = loss, f
        _record(history, population, problem, k, stream, gradients, theta.now, first)
        if k < problem.steps:
            weights = w * problem.batch_weights[k]
            _update(problem, k, weights, u, stream, gradients, (theta, omega, inputs, v))
        if progress is not None:
            progress((k + 1) / (problem.steps + 1))
    return history


def _draw(population: Population, coordinates: int) -> Tensor:
    """Normal (theta, omega) of half of the neurons: (layers, replicas, neurons / 2, 2 coordinates).

    Scrambled Sobol points, which fill the space more evenly than random ones: averages over them err less.
    """
    from scipy.stats import norm, qmc

    rng = np.random.default_rng(population.seed)
    layers = []
    for _ in range(population.layers * population.replicas):
        engine = qmc.Sobol(2 * coordinates, scramble=True, rng=rng)
        layers.append(norm.ppf(engine.random(population.neurons // 2)))
    shape = population.layers, population.replicas, population.neurons // 2, 2 * coordinates
    return torch.tensor(np.stack(layers)).reshape(shape)


def _forward(problem: Problem, h: Tensor, theta: Tensor, omega: Tensor) -> list[Tensor]:
    """H_0 .. H_L, each (replicas, samples, coordinates)."""
    step = math.sqrt(problem.horizon) / len(theta)
    stream = [h]
    for rows, columns in zip(theta, omega, strict=True):
        features = problem.phi(h @ rows.mT)
        h = h + step * (features @ columns) / rows.shape[1]
        stream.append(h)
    return stream


def _backward(problem: Problem, stream: list[Tensor], g: Tensor, theta: Tensor, omega: Tensor) -> list[Tensor]:
    """G_0 .. G_L of the trained samples."""
    step = math.sqrt(problem.horizon) / len(theta)
    gradients = [g]
    for layer in reversed(range(len(theta))):
        through = _through(problem, stream[layer][:, : problem.trained], g, theta[layer], omega[layer])
        g = g + step * (through @ theta[layer]) / theta.shape[2]
        gradients.append(g)
    return gradients[::-1]


def _through(problem: Problem, h: Tensor, g: Tensor, rows: Tensor, columns: Tensor) -> Tensor:
    """w_b = phi'(z_b) (omega . G_b) of every neuron."""
    z = h @ rows.mT
    return problem.derivative(z, problem.phi(z)) * (g @ columns.mT)


def _update(
    problem: Problem,
    k: int,
    weights: Tensor,
    u: Tensor,
    stream: list[Tensor],
    gradients: list[Tensor],
    trained: tuple[_Weights, _Weights, _Weights, _Weights],
) -> None:
    """One step of SGD, all gradients at the weights of before it."""
    theta, omega, inputs, v = trained
    scale = math.sqrt(problem.horizon)
    by_sample = weights[..., None]
    of_theta, of_omega = [], []
    for layer, (rows, columns) in enumerate(zip(theta.now, omega.now, strict=True)):
        h, g = stream[layer][:, : problem.trained], gradients[layer + 1]
        z = h @ rows.mT
        features = problem.phi(z)
        through = problem.derivative(z, features) * (g @ columns.mT)
        of_omega.append(scale * (by_sample * features).mT @ g)
        of_theta.append(scale * (by_sample * through).mT @ h)
    theta.step(torch.stack(of_theta), k)
    omega.step(torch.stack(of_omega), k)
    if problem.train_ends:
        inputs.step(problem.gram[:, : problem.trained] @ (by_sample * gradients[0]), k)
        v.step((by_sample * u).mT @ stream[-1][:, : problem.trained], k)


def _record(
    history: History,
    population: Population,
    problem: Problem,
    k: int,
    stream: list[Tensor],
    gradients: list[Tensor],
    theta: Tensor,
    first: list[Tensor],
) -> None:
    for t, layer in enumerate(population.kernel_layers):
        h = stream[layer]
        if k == 0:
            first.append(h)
        history.displacement[:, k, t] = (h - first[t]).square().sum(-1)
        h, g = h[:, : problem.trained], gradients[layer]
        history.kernels["stream_kernel"][:, k, t] = h @ h.mT
        history.kernels["gradient_kernel"][:, k, t] = g @ g.mT
        history.kernels["cross_kernel"][:, k, t] = h @ g.mT
        # Above the last layer there is none: that of the layer below the point.
        rows = theta[min(layer, population.layers - 1)]
        features = problem.phi(h @ rows.mT)
        history.kernels["feature_kernel"][:, k, t] = features @ features.mT / population.neurons
