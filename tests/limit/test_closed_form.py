"""`closed_form` against itself, against explicit finite differences of large systems, and `solve` against it."""

from __future__ import annotations

import math

import numpy as np
import pytest
from explicit import X, Y, problem

from isoscale.errors import InvalidValueError
from isoscale.limit import closed_form, solve
from isoscale.limit.network import Size, run
from isoscale.limit.noise import GaussianNoise

ERRORS = 4.0
ONE = [[1.0, 1.0]]
MODES = ["reused", "independent"]
PHIS = ["linear", "relu", "tanh", "gelu"]


def agree(got, error, expected) -> None:
    off = np.abs(np.asarray(got) - np.asarray(expected)) / (np.asarray(error) + 1e-9)
    assert off.max() < ERRORS, f"off by {off.max():.1f} standard errors"


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("phi", PHIS)
def test_the_response_equation_adds_up_to_the_first_step_kernel(phi: str, mode: str) -> None:
    # two routes: the equation for c_t forward in layer time, and the integral of C D over it
    chi = np.array([0.3, -0.7, 0.1])
    response = closed_form.first_step_response(X, chi, 0.5, phi, 0.8, mode)
    kernel = closed_form.first_step_kernel(X, phi, 0.8, mode)
    np.testing.assert_allclose(response.change, -0.5 * kernel @ chi, rtol=1e-7)


@pytest.mark.parametrize("horizon", [0.5, 2.0])
@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize(
    ("phi", "formula"), [("linear", closed_form.one_step_linear), ("relu", closed_form.one_step_relu)]
)
def test_the_response_equation_solves_the_one_sample_cases(phi, formula, mode, horizon) -> None:
    response = closed_form.first_step_response(ONE, [1.0], 1.0, phi, horizon, mode, train_ends=False)
    assert response.change[0] == pytest.approx(-formula(horizon, mode), rel=1e-7)


def test_theory_states_the_linear_kernels() -> None:
    assert closed_form.first_step_kernel(ONE, "linear", 1.0, "reused")[0, 0] == pytest.approx(3 * math.e)
    assert closed_form.first_step_kernel(ONE, "linear", 1.0, "independent")[0, 0] == pytest.approx(2 * math.e)


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("depth", [1, 3])
def test_linear_networks_take_the_finite_depth_first_step(depth: int, mode: str) -> None:
    exact = closed_form.linear(ONE, [1.0], depth, 1, 1e-6, 1.5, mode, train_ends=False, kernels=False)
    expected = closed_form.one_step_linear(1.5, mode, depth)
    assert exact.prediction[1, 0].item() / 1e-6 == pytest.approx(expected, rel=1e-4)


@pytest.mark.parametrize("mode", MODES)
def test_linear_is_what_very_wide_networks_do(mode: str) -> None:
    exact = closed_form.linear(X, Y, 3, 4, 0.3, 1.0, mode)
    task = problem(phi="linear", lr=0.3, steps=4)
    wide = run(task, Size(n=4096, depth=3, replicas=12, reused=mode == "reused"), GaussianNoise(0))
    error = wide.loss.std(0) / math.sqrt(12)
    # the bias of width 4096 is a few 1e-4
    assert np.all(np.abs(exact.loss.values - wide.loss.mean(0).numpy()) < ERRORS * error.numpy() + 5e-4)


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("batches", [None, [[0], [1, 2], [0, 1], [2]]])
def test_solve_finds_the_exact_linear_network(batches, mode: str) -> None:
    exact = closed_form.linear(X, Y, 4, 4, 0.3, 1.0, mode, batches=batches)
    limit = solve(X, Y, 4, 0.3, "linear", 1.0, 4, 512, 32, mode, batches=batches)
    for name in ("loss", "prediction", "feature_kernel", "stream_kernel", "gradient_kernel", "cross_kernel"):
        agree(limit[name], limit[f"{name}_se"], exact[name])


@pytest.mark.parametrize("phi", PHIS)
def test_solve_has_the_initial_kernels(phi: str) -> None:
    limit = solve(X, Y, 0, phi=phi, particles=512, replicas=64, kernels=[0, 0.5, 1], backward_weights="reused")
    kernels = closed_form.initial_kernels(X, phi)
    at = [0, len(kernels.time) // 2, -1]
    agree(limit.stream_kernel[0], limit.stream_kernel_se[0], kernels.stream[at])
    agree(limit.feature_kernel[0], limit.feature_kernel_se[0], kernels.features[at])
    agree(limit.gradient_kernel[0], limit.gradient_kernel_se[0], kernels.gradient[at])


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("phi", PHIS)
def test_solve_takes_the_first_step_of_infinite_depth(phi: str, mode: str) -> None:
    lr = 1e-4
    limit = solve(X, Y, 1, lr, phi, backward_weights=mode, kernels=False, tolerance=0.1)
    expected = closed_form.first_step_kernel(X, phi, 1.0, mode) @ (Y.numpy() / 3)
    agree(limit.prediction[1] / lr, limit.prediction_se[1] / lr, expected)


def test_chi_must_fit_the_samples() -> None:
    with pytest.raises(InvalidValueError, match="`chi` must have shape"):
        closed_form.first_step_response(X, [1.0])
