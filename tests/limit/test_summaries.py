"""The gap between modes, the rates, and the summaries of the kernels."""

from __future__ import annotations

import math
import subprocess
import sys

import numpy as np
import pytest
import torch
from explicit import X, Y

from isoscale.errors import InvalidValueError
from isoscale.limit import (
    convergence,
    feature_distance,
    independence_gap,
    label_alignment,
    simulate,
    smallest_eigenvalue,
    solve,
)
from isoscale.limit.convergence import _depth_law


@pytest.fixture(scope="module")
def gap():
    return independence_gap(X, Y, (0.5, 1.5), (4, 8, 16, math.inf), 2, 0.3, particles=256, replicas=32)


def test_the_gap_is_that_of_two_solves(gap) -> None:
    both = [
        solve(X, Y, 2, 0.3, horizon=1.5, depth=8, backward_weights=m, kernels=False) for m in ("independent", "reused")
    ]
    difference = (both[0].loss - both[1].loss).values
    error = np.hypot(*(r.loss_se.values for r in both))
    found = gap.sel(horizon=1.5, depth=8)
    assert np.all(np.abs(found.gap - difference) < 4 * np.hypot(error, found.gap_se) + 1e-12)


def test_common_noise_makes_the_gap_sharper_than_noise_of_their_own_would(gap) -> None:
    at = {"step": 2, "horizon": 0.5}
    own = np.hypot(gap.loss_independent_se.sel(at), gap.loss_reused_se.sel(at))
    assert np.all(gap.gap_se.sel(at) < own)


def test_the_gap_starts_at_zero_grows_with_the_horizon_and_stays_at_infinite_depth(gap) -> None:
    assert np.all(np.abs(gap.gap.sel(step=0)) < 1e-10)
    deep = gap.sel(depth=math.inf, step=1)
    assert np.all(np.abs(deep.gap) > 5 * deep.gap_se)
    assert abs(deep.gap[1]) > abs(deep.gap[0])


@pytest.mark.parametrize("depths", [[8, 12], [math.inf], []])
def test_depths_must_share_noise(depths) -> None:
    with pytest.raises(InvalidValueError, match="`depths`"):
        independence_gap(X, Y, (1.0,), depths)


def test_rates_are_as_derived() -> None:
    rates = convergence(X, Y, (4, 8, 16), (32, 64, 128), 3, 0.3, networks=256)
    exponent = dict(zip(rates.law.values, rates.exponent.values, strict=True))
    for mode in ("reused", "independent"):
        assert abs(exponent[f"width error, {mode}"] + 1) < 0.25
    assert abs(exponent["initial gap, width"] + 1) < 0.2
    assert abs(exponent["initial gap, depth"]) < 0.2
    assert abs(exponent["training gap, depth"]) < 0.25
    assert np.all(rates.depth_error.diff("depth").sel(mode="reused") < 0)
    assert np.all(rates.training_gap > 10 * rates.training_gap_se)


def test_alignment_rises_as_features_learn() -> None:
    result = simulate(X, Y, width=512, depth=4, steps=8, lr=0.6)
    alignment = label_alignment(result)
    assert alignment.dims == ("step", "time")
    assert np.all(np.abs(alignment) <= 1 + 1e-12)
    assert alignment[-1, -1] > alignment[0, -1]


def test_alignment_of_labels_that_do_not_differ_is_undefined() -> None:
    assert np.isnan(label_alignment(simulate(X, [1.0, 1.0, 1.0], width=48, depth=2, steps=1))).all()


def test_distance_starts_at_zero_and_is_that_of_the_stream() -> None:
    distance = feature_distance(simulate(X, Y, width=64, depth=3, steps=2))
    np.testing.assert_array_equal(distance[0], 0)
    assert np.all(distance[1:] > 0)


def test_smallest_eigenvalue_sees_degeneracy() -> None:
    different = smallest_eigenvalue(simulate(X, Y, width=512, depth=3, steps=1))
    same = smallest_eigenvalue(simulate(torch.cat([X, X[:1]]), torch.cat([Y, Y[:1]]), width=512, depth=3, steps=1))
    assert np.all(different[:, :-1] > 1e-4)
    np.testing.assert_allclose(same, 0, atol=1e-9)


def test_a_diverged_run_has_summaries_until_it_diverges() -> None:
    result = simulate(X, Y, width=48, depth=2, steps=20, lr=1e12, phi="relu")
    for summary in (label_alignment, feature_distance, smallest_eigenvalue):
        values = summary(result)
        assert np.isnan(values[-1]).all()
        assert np.isfinite(values[0, 0])


def test_summaries_say_what_they_need() -> None:
    with pytest.raises(InvalidValueError, match="kernels=True"):
        label_alignment(simulate(X, Y, width=48, depth=2, steps=1, kernels=False))


def test_importing_the_room_loads_torch_and_numpy_only() -> None:
    code = "import sys, isoscale.limit; print({'scipy', 'xarray', 'pandas', 'matplotlib'} & set(sys.modules))"
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert out.stdout.strip() == "set()"


@pytest.mark.parametrize("power", [-1.0, -0.5])
def test_the_depth_exponent_needs_no_limit(power) -> None:
    """Losses 0.3 + c L^p with noise that all depths share: the exponent is p wherever the limit lies."""
    depths = (4, 8, 16, 32)
    rng = np.random.default_rng(0)
    amplitude = 1 + 0.1 * rng.standard_normal((1, 12, 1))
    shared = 0.01 * rng.standard_normal((1, 12, 3))
    losses = 0.3 + shared + amplitude * np.array(depths)[:, None, None] ** power * np.ones((1, 1, 3))
    law = _depth_law(losses, depths)
    assert abs(law.exponent - power) < 1e-9
    assert law.exponent_low <= law.exponent <= law.exponent_high
    noisy = _depth_law(losses + 0.002 * rng.standard_normal(losses.shape), depths)
    assert noisy.exponent_low < power < noisy.exponent_high
