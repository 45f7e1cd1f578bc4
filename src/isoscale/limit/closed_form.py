"""Exact results on the limit: kernels at initialisation, first steps, and linear networks.

Source: docs/theory.md, sections 2 and 3.

With phi, phi' evaluated on the Gaussian process h_t^0, at infinite depth and width:

    C_h(0) = Kx,   dC_h/dt = T C,   C = E[phi phi]        D(1) = 1,   dD/dt = -T Psi D,   Psi = E[phi' phi']
    c_0 = -eta chi Kx (0 if U is frozen),                 dc/dt = T (Psi c - eta chi C);   independent: no Psi c
    f^1(a) - f^0(a) = sum_b c_1(a, b) - eta sum_b chi_b C_h(1)(a, b) [trained readout] = -eta sum_b chi_b Theta(a, b)

to first order in eta. Everything here is a plain numpy computation; `solve` and `simulate` must agree with it.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from jaxtyping import Float

from isoscale.checks import check_memory, whole
from isoscale.errors import InvalidValueError
from isoscale.limit import inputs, results
from isoscale.limit.activations import Phi
from isoscale.limit.memory import lazy_bytes
from isoscale.limit.network import Size
from isoscale.limit.noise import BasisNoise
from isoscale.limit.pair_kernels import all_pairs
from isoscale.limit.simulate import single_run

if TYPE_CHECKING:
    import xarray as xr

POINTS = 65
"""Layer times at which the differential equations are solved (Runge-Kutta, error below 1e-8)."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class InitialKernels:
    """Kernels at initialisation, infinite width and depth, on a grid of layer times."""

    time: Float[np.ndarray, " time"]
    # C_h = <h, h>
    stream: Float[np.ndarray, "time samples samples"]
    # C = <phi(h), phi(h)>
    features: Float[np.ndarray, "time samples samples"]
    # Psi = <phi'(h), phi'(h)>
    slopes: Float[np.ndarray, "time samples samples"]
    # D = <g, g>
    gradient: Float[np.ndarray, "time samples samples"]


def initial_kernels(x: Any, phi: Phi = "tanh", horizon: float = 1.0) -> InitialKernels:
    """The kernel equations at initialisation.

    Args:
        x: Inputs, shape (samples, features).
        phi: The activation; smooth, unless it is "relu".
        horizon: T.

    >>> kernels = initial_kernels([[1.0]], phi="linear")
    >>> float(kernels.stream[-1, 0, 0].round(6)), float(kernels.gradient[0, 0, 0].round(6))
    (2.718282, 2.718282)
    """
    known = inputs.matrix("x", x)
    horizon = inputs.positive("horizon", horizon)
    times = np.linspace(0.0, 1.0, POINTS)

    # C_h(0) = Kx,   dC_h/dt = T C
    def growth(_: float, stream: np.ndarray) -> np.ndarray:
        return horizon * all_pairs(phi, stream).value

    gram = known @ known.T / known.shape[1]
    stream = _runge_kutta(growth, gram, times)
    # C = E[phi phi] and Psi = E[phi' phi'] under the Gaussian law of covariance C_h
    features = np.empty_like(stream)
    derivatives = np.empty_like(stream)
    for t, covariance in enumerate(stream):
        of = all_pairs(phi, covariance)
        features[t], derivatives[t] = of.value, of.slope
    # D(1) = 1,   dD/dt = -T Psi D:   D(t) = exp(T int_t^1 Psi)
    exponent = _integral_to_the_end(derivatives, times)
    return InitialKernels(
        time=times,
        stream=stream,
        features=features,
        slopes=derivatives,
        gradient=np.exp(horizon * exponent),
    )


@dataclasses.dataclass(frozen=True, kw_only=True)
class Response:
    """Effect of the first step on the next forward pass: dh_t(a) = ... + sum_b dc_t(a, b) g_t^0(b)."""

    time: Float[np.ndarray, " time"]
    c: Float[np.ndarray, "time samples samples"]
    # f^1 - f^0, to first order in the learning rate
    change: Float[np.ndarray, " samples"]


def first_step_response(
    x: Any,
    chi: Any,
    lr: float = 0.15,
    phi: Phi = "tanh",
    horizon: float = 1.0,
    backward_weights: str = "reused",
    train_ends: bool = True,
) -> Response:
    """The equation for c_t of docs/theory.md, section 2, to first order in the learning rate.

    Args:
        x: Inputs, shape (samples, features).
        chi: dloss/df of each sample at step 0, shape (samples,): -y / samples for mse, as f^0 = 0.
        lr: eta.
        phi: The activation.
        horizon: T.
        backward_weights: "independent" or "reused".
        train_ends: Whether U and v are trained.
    """
    kernels = initial_kernels(x, phi, horizon)
    reused = inputs.mode(backward_weights)
    derivative_of_loss = np.asarray(chi, dtype=np.float64)
    samples = kernels.stream.shape[1]
    if derivative_of_loss.shape != (samples,):
        raise InvalidValueError(f"`chi` must have shape ({samples},), got {derivative_of_loss.shape}")
    # -eta chi_b, which multiplies every update by sample b; kernels have a in rows and b in columns
    push = -inputs.positive("lr", lr, zero=True) * derivative_of_loss
    # c_0 = -eta chi Kx (0 if U is frozen),   dc/dt = T Psi c - T eta chi C;   independent: no Psi c
    trained = bool(train_ends)
    start = push * kernels.stream[0] * trained
    rate = horizon * kernels.slopes * reused
    source = horizon * push * kernels.features
    c = _linear_equation(rate, source, start, kernels.time)
    # f^1 - f^0 = sum_b c_1(a, b) - eta sum_b chi_b C_h(1)(a, b), the latter from the trained readout
    change = c[-1].sum(1) + trained * kernels.stream[-1] @ push
    return Response(time=kernels.time, c=c, change=change)


def first_step_kernel(
    x: Any,
    phi: Phi = "tanh",
    horizon: float = 1.0,
    backward_weights: str = "reused",
) -> Float[np.ndarray, "samples samples"]:
    """Theta, with f^1 - f^0 = -lr sum_b chi_b Theta(., b) + O(lr^2) when everything is trained.

    Source: docs/theory.md, section 3.

    Reused: the neural tangent kernel C_h(1) + T int C D dt + Kx D(0). Independent: the same with D = 1.

    >>> first_step_kernel([[1.0]], phi="linear").round(6)
    array([[8.154845]])
    >>> first_step_kernel([[1.0]], phi="linear", backward_weights="independent").round(6)
    array([[5.436564]])
    """
    kernels = initial_kernels(x, phi, horizon)
    reused = inputs.mode(backward_weights)
    backward = kernels.gradient if reused else np.ones_like(kernels.gradient)
    # Theta = C_h(1) [readout] + T int_0^1 C D dt [blocks] + Kx D(0) [input weights]
    integral = _integral_to_the_end(kernels.features * backward, kernels.time)
    blocks = horizon * integral[0]
    input_weights = kernels.stream[0] * backward[0]
    return kernels.stream[-1] + blocks + input_weights


def one_step_linear(horizon: float = 1.0, backward_weights: str = "reused", depth: int | None = None) -> float:
    """(f^1 - f^0) / (-lr chi) for phi linear, one sample with |x|^2 = features, frozen U and v, small lr.

    Args:
        horizon: T.
        backward_weights: "independent" or "reused".
        depth: Residual blocks; None: infinitely many.

    >>> round(one_step_linear(1.0, "reused"), 4), round(one_step_linear(1.0, "independent", depth=1), 4)
    (2.7183, 1.0)
    """
    reused = inputs.mode(backward_weights)
    if depth is None:
        # T e^T,   and e^T - 1
        if reused:
            return horizon * math.exp(horizon)
        return math.expm1(horizon)
    # T (1 + T/L)^(L-1),   and (1 + T/L)^L - 1
    growth = 1 + horizon / whole("depth", depth)
    if reused:
        return horizon * growth ** (depth - 1)
    return growth**depth - 1


def one_step_relu(horizon: float = 1.0, backward_weights: str = "reused") -> float:
    """(f^1 - f^0) / (-lr chi) for phi ReLU at infinite depth, one sample with |x|^2 = features, frozen U and v.

    >>> round(one_step_relu(1.0, "reused"), 4), round(one_step_relu(1.0, "independent"), 4)
    (0.8244, 0.6487)
    """
    # (T/2) e^(T/2),   and e^(T/2) - 1: half of the units are on
    half = horizon / 2
    if inputs.mode(backward_weights):
        return half * math.exp(half)
    return math.expm1(half)


def linear(
    x: Any,
    y: Any,
    depth: int = 16,
    steps: int = 10,
    lr: float = 0.15,
    horizon: float = 1.0,
    backward_weights: str = "reused",
    train_ends: bool = True,
    loss: str = "mse",
    *,
    x_test: Any = None,
    batches: Sequence[Sequence[int]] | None = None,
    kernels: inputs.Kernels = True,
) -> xr.Dataset:
    """Training of the infinitely wide linear network of finite depth: exact, without noise.

    With phi linear all vectors are linear combinations of independent Gaussians: their coefficients are particles
    whose noise is fresh standard basis vectors (docs/theory.md, section 3). Costs memory ~ (samples steps)^2 depth^2.

    Args and returns as `isoscale.limit.solve`, with `depth` finite and no standard errors.

    >>> exact = linear([[1.0]], [1.0], depth=2, steps=1, lr=1e-6, train_ends=False)
    >>> round(float(exact.prediction[1, 0]) / 1e-6, 3), one_step_linear(depth=2)
    (1.5, 1.5)
    """
    problem = inputs.problem(
        x,
        y,
        x_test=x_test,
        steps=steps,
        lr=lr,
        phi="linear",
        horizon=horizon,
        loss=loss,
        train_ends=train_ends,
        batches=batches,
    )
    depth = whole("depth", depth)
    # One basis vector for each row of noise: v and h_0; and a step, layer, direction and sample one more.
    queries = 2 * depth * (problem.steps + 1) * problem.samples
    n = problem.outputs + problem.samples + queries
    size = Size(
        n=n,
        depth=depth,
        reused=inputs.mode(backward_weights),
        explicit=False,
        tolerance=1e-14,
        kernel_layers=inputs.kernel_layers(kernels, depth),
    )
    check_memory(lazy_bytes(problem, size), "Use a smaller `depth` or fewer steps.")
    settings = results.settings(problem, lr=lr, phi="linear", backward_weights=backward_weights, loss=loss)
    return single_run(problem, size, BasisNoise(n), settings)


def _runge_kutta(
    derivative: Callable[[float, np.ndarray], np.ndarray],
    start: np.ndarray,
    times: np.ndarray,
) -> Float[np.ndarray, "time ..."]:
    """The classical fourth-order method on a grid."""
    path = [start]
    for t, step in zip(times[:-1], np.diff(times), strict=True):
        y = path[-1]
        half = step / 2
        k1 = derivative(t, y)
        k2 = derivative(t + half, y + half * k1)
        k3 = derivative(t + half, y + half * k2)
        k4 = derivative(t + step, y + step * k3)
        # y(t + step) = y + step (k1 + 2 k2 + 2 k3 + k4) / 6 + O(step^5)
        total = k1 + 2 * k2 + 2 * k3 + k4
        path.append(y + step / 6 * total)
    return np.stack(path)


def _integral_to_the_end(values: np.ndarray, times: np.ndarray) -> np.ndarray:
    """int_t^1 of a function given on the grid, at each grid point."""
    from scipy.interpolate import CubicSpline

    primitive = CubicSpline(times, values, axis=0).antiderivative()
    return primitive(1.0) - primitive(times)


def _linear_equation(
    rate: np.ndarray,
    source: np.ndarray,
    start: np.ndarray,
    times: np.ndarray,
) -> np.ndarray:
    """dc/dt = rate c + source, entry by entry, with both given on the grid."""
    from scipy.interpolate import CubicSpline

    rate_at = CubicSpline(times, rate, axis=0)
    source_at = CubicSpline(times, source, axis=0)

    def derivative(t: float, c: np.ndarray) -> np.ndarray:
        return rate_at(t) * c + source_at(t)

    return _runge_kutta(derivative, start, times)
