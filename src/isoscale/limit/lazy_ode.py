"""Two-layer blocks with 1/2 < beta < 1 at infinite width and depth: one ordinary differential equation, the same for
every such beta (docs/theory.md, section 9.4).

Noise, responses and the branch's own updates all vanish; what is left is the branch's tangent kernel
Theta = Phi + C Phi' of two-layer networks that do not move. The stream and the backward vectors stay in the span of
their starts, so that they are vectors of rank(Kx) + outputs coordinates:

    dh^k = -T sum_{j<k,a} omega w Theta(h^k_b, h^j_a) g^j_a dt                       h_0^k = xi - sum omega w Kx g_0^j
   -dg^k = -T sum_{j<k,a} omega w D [Theta' h^j_a + 2 (d_b Theta) h^k_b] dt          g_1^k = u (v - sum omega w u h_1^j)
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch

from isoscale.limit.kernel_equations import EXACT, Equations, Solution, chebyshev
from isoscale.limit.memory import check_words
from isoscale.limit.network import direction
from isoscale.limit.pair_kernels import Left
from isoscale.limit.progress import Progress

_MOST_ITERATIONS = 200


def integrate(equations: Equations, points: int, progress: Progress = None, *, converged: float = EXACT) -> Solution:
    """All steps of training, by polynomials through so many points in layer time.

    Args:
        equations: What is solved.
        points: In layer time.
        progress: Called with the fraction done.
        converged: The last change of the vectors at which their equation counts as solved.
    """
    problem = equations.problem
    steps, trained, samples = problem.steps + 1, problem.trained, problem.samples
    time, upwards = chebyshev(points)
    upward = problem.horizon * upwards
    downward = problem.horizon * (upwards[-1:] - upwards)
    gram = problem.gram.double().cpu().numpy()
    # The inputs' coordinates, and after them the readout's.
    values, vectors = np.linalg.eigh(gram)
    root = vectors * np.sqrt(np.clip(values, 0, None))
    m = samples + problem.outputs
    check_words(2 * points * steps * samples * m, "Use fewer steps or fewer samples.")
    inputs = np.concatenate([root, np.zeros((samples, problem.outputs))], axis=1)
    readout = np.concatenate([np.zeros((problem.outputs, samples)), np.eye(problem.outputs)], axis=1)
    h = np.zeros((points, steps * samples, m))
    g = np.zeros((points, steps * samples, m))
    w = np.zeros(steps * samples)
    u = np.zeros((steps * samples, problem.outputs))
    loss = np.full(steps, np.nan)
    prediction = np.full((steps, samples, problem.outputs), np.nan)
    diverged = None
    for k in range(steps):
        here, n = slice(k * samples, (k + 1) * samples), k * samples
        weights = np.repeat(equations.path.omega[k, :k], samples) * w[:n]
        left = equations.path.left[k] if problem.train_ends else 1.0
        start, v = left * inputs, left * readout
        if problem.train_ends:
            start = start - (weights * np.tile(gram, (1, k))) @ g[0, :n]
            v = v - (weights[:, None] * u[:n]).T @ h[-1, :n]
        try:
            with np.errstate(over="ignore", invalid="ignore"):
                between = equations.path.between(k, samples)
                earlier = None if between is None else (between[0][:n], between[1])
                h[:, here] = _stream(equations, start, upward, weights, earlier, h[:, :n], g[:, :n], converged)
                f = h[-1, here] @ v.T
                value, chi = problem.loss(torch.tensor(f[None, :trained]), problem.y.double().cpu())
                if not bool(value.isfinite().all()):
                    raise OverflowError("the loss is not finite")
                directions, size = direction(chi)
                u[here, 0] = 1.0
                u[n : n + trained] = directions[0].numpy()
                if k < problem.steps:
                    w[n : n + trained] = size[0].numpy() * problem.batch_weights[k].double().cpu().numpy()
                g[:, here] = _gradients(
                    equations, u[here] @ v, downward, weights, earlier, h[:, : n + samples], g[:, :n], converged
                )
        except OverflowError:
            diverged = k
            break
        loss[k], prediction[k] = float(value), f
        if progress is not None:
            progress((k + 1) / steps)
    return _solution(equations, time, loss, prediction, h, g, diverged)


def _stream(
    equations: Equations,
    start: np.ndarray,
    integral: np.ndarray,
    weights: np.ndarray,
    left: Left | None,
    h: np.ndarray,
    g: np.ndarray,
    converged: float,
) -> np.ndarray:
    def change(own: np.ndarray) -> np.ndarray:
        cov = own @ h.mT
        of = equations.kernels(cov, _squares(h)[:, None, :], _squares(own)[..., None], left)
        return -(weights * (of.value + cov * of.slope)) @ g

    return _fixed_point(start, integral, change, converged)


def _gradients(
    equations: Equations,
    start: np.ndarray,
    integral: np.ndarray,
    weights: np.ndarray,
    left: Left | None,
    h: np.ndarray,
    g: np.ndarray,
    converged: float,
) -> np.ndarray:
    n = g.shape[1]
    earlier, own_h = h[:, :n], h[:, n:]
    cov = own_h @ earlier.mT
    of = equations.kernels(cov, _squares(earlier)[:, None, :], _squares(own_h)[..., None], left)
    theta_slope = 2 * of.slope + cov * of.bend
    theta_b = of.value_b + cov * of.slope_b

    def change(own: np.ndarray) -> np.ndarray:
        aligned = weights * (own @ g.mT)
        return -(aligned * theta_slope) @ earlier - 2 * (aligned * theta_b).sum(-1, keepdims=True) * own_h

    return _fixed_point(start, integral, change, converged)


def _fixed_point(
    start: np.ndarray, integral: np.ndarray, change: Callable[[np.ndarray], np.ndarray], converged: float
) -> np.ndarray:
    rows = np.broadcast_to(start, (len(integral), *start.shape))
    for _ in range(_MOST_ITERATIONS):
        after = start + np.tensordot(integral, change(rows), axes=1)
        moved = float(np.abs(after - rows).max())
        rows = after
        if not moved > converged:
            return rows
    raise OverflowError("the integral equation has no fixed point within reach")


def _squares(vectors: np.ndarray) -> np.ndarray:
    return (vectors**2).sum(-1)


def _solution(
    equations: Equations,
    time: np.ndarray,
    loss: np.ndarray,
    prediction: np.ndarray,
    h: np.ndarray,
    g: np.ndarray,
    diverged: int | None,
) -> Solution:
    steps, samples = len(loss), equations.problem.samples
    by_step = h.reshape(len(time), steps, samples, -1).swapaxes(0, 1)
    backward = g.reshape(by_step.swapaxes(0, 1).shape).swapaxes(0, 1)
    stream, gradient, cross = by_step @ by_step.mT, backward @ backward.mT, by_step @ backward.mT
    own = np.diagonal(stream, axis1=-2, axis2=-1)
    # Steps from a divergence on have no kernels: theirs are vectors of zeros.
    done = slice(diverged)
    left = equations.path.left[done, None, None, None]
    features = np.full_like(stream, np.nan)
    features[done] = equations.kernels(stream[done], own[done, ..., None, :], own[done, ..., None], (left, left)).value
    displacement = ((by_step - by_step[:1]) ** 2).sum(-1)
    found = {"stream": stream, "gradient": gradient, "features": features, "cross": cross, "displacement": displacement}
    if diverged is not None:
        for kernel in found.values():
            kernel[diverged:] = np.nan
    return Solution(time=time, loss=loss, prediction=prediction, diverged=diverged, **found)
