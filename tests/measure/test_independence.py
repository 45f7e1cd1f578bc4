"""Gradient independence on real networks against the exact law of the width-n, depth-L network."""

import math

import numpy as np
import pytest
import torch
from networks import convolutions
from torch import nn

from isoscale.errors import InvalidTypeError, InvalidValueError
from isoscale.limit import inputs
from isoscale.limit.network import Size, run
from isoscale.limit.noise import GaussianNoise
from isoscale.measure import gradient_independence
from isoscale.models import ResidualMLP

WIDTH, DEPTH, STEPS, RATE, SEEDS, REPLICAS = 32, 4, 2, 0.6, 100, 1000
ERRORS = 4.5
X = torch.randn(3, 5, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
Y = torch.tensor([[1.0], [-1.0], [0.5]], dtype=torch.float64)
BATCH = (X, Y)


def half_square(f, y):
    return (f - y).square().sum(1).mean() / 2


def depth_mup(depth, seed, horizon=1.0, width=WIDTH):
    """docs/theory.md, section 1 with every multiplier folded into ordinary weights."""
    model = ResidualMLP(5, 1, width, depth, block_depth=1, phi="tanh", seed=seed, dtype=torch.float64)
    with torch.no_grad():
        model.readout.weight.mul_(width**-0.5)
        for block in model.blocks:
            block.maps[0].weight.mul_((horizon / depth) ** 0.5)
    return model


def folded_sgd(model):
    """eta n in entries-O(1) form is eta n c^2 for a weight c times its entries."""
    width, depth = model.input.out_features, len(model.blocks)
    scales = {"input": width / 5, "blocks": 1 / depth, "readout": 1 / width}
    groups = [{"params": getattr(model, name).parameters(), "lr": RATE * scale} for name, scale in scales.items()]
    return torch.optim.SGD(groups)


def mean_and_error(values):
    return values.mean(0), values.std(0, ddof=1) / math.sqrt(len(values))


@pytest.fixture(scope="module")
def measured():
    return gradient_independence(
        depth_mup, [BATCH], half_square, depths=[DEPTH], seeds=SEEDS, steps=STEPS, optimizer=folded_sgd
    ).sel(depth=DEPTH)


@pytest.fixture(scope="module")
def law():
    """Losses of the network of `isoscale.limit.simulate`, many replicas, both ways from the same noise."""
    problem = inputs.problem(
        X, Y, steps=STEPS, lr=RATE, phi="tanh", horizon=1.0, loss="mse", train_ends=True, batches=None
    )
    sizes = {
        mode: Size(n=WIDTH, depth=DEPTH, replicas=REPLICAS, reused=mode == "reused")
        for mode in ("reused", "independent")
    }
    return {mode: run(problem, size, GaussianNoise(5), None).loss.numpy() for mode, size in sizes.items()}


@pytest.mark.parametrize("mode", ["reused", "independent"])
def test_the_mean_loss_is_that_of_the_exact_law(measured, law, mode):
    mean, error = mean_and_error(law[mode])
    ours = measured.sel(backward_weights=mode)
    difference = (ours.loss.values - mean) / np.hypot(ours.loss_se.values, error)
    assert np.abs(difference).max() < ERRORS


def test_the_mean_gap_is_that_of_the_exact_law(measured, law):
    mean, error = mean_and_error(law["independent"] - law["reused"])
    assert float(measured.loss_gap.isel(step=0)) == 0
    difference = (measured.loss_gap.values - mean)[1:] / np.hypot(measured.loss_gap_se.values, error)[1:]
    assert np.abs(difference).max() < ERRORS
    losses = measured.loss.sel(backward_weights="independent") - measured.loss.sel(backward_weights="reused")
    np.testing.assert_allclose(losses.values, measured.loss_gap.values, atol=1e-12)


def test_the_two_ways_part_with_the_first_update(measured):
    assert abs(float((measured.loss_gap / measured.loss_gap_se).sel(step=1))) > ERRORS


def test_at_initialisation_gradients_agree_in_size_and_in_direction_at_the_top(measured):
    first = measured.isel(step=0)
    # The last map's gradient comes straight from the readout; below, the mean log ratio is O(1/n) beside its scatter.
    assert float(first.gradient_cosine.sel(time=1.0)) == pytest.approx(1)
    assert float(first.gradient_gap.sel(time=1.0)) == pytest.approx(0, abs=1e-12)
    assert (np.abs(first.gradient_gap) < ERRORS * first.gradient_gap_se + 2 / WIDTH).all()
    assert (first.gradient_cosine.sel(time=slice(0, 0.7)) < 1).all()
    assert (first.feature_change == 0).all()


def test_against_depth_width_and_horizon():
    result = gradient_independence(
        depth_mup, [BATCH], half_square, depths=[2, 3], widths=[8, 16], horizons=[0.5, 1.0, 2.0], seeds=2, steps=1
    )
    assert result.loss_gap.dims == ("depth", "width", "horizon", "step")
    assert result.feature_change.dims == ("depth", "width", "horizon", "step", "backward_weights", "time")
    assert result.loss.sel(step=0).std("horizon").min() > 0
    assert np.isfinite(result.loss_gap_se.values).all()


def test_any_network_and_optimizer():
    generator = torch.Generator().manual_seed(0)
    batches = [
        (torch.randn(4, 2, 6, 6, generator=generator), torch.arange(4) % 3),
        (torch.randn(4, 2, 6, 6, generator=generator), torch.arange(4) % 3),
    ]
    state = torch.get_rng_state()
    result = gradient_independence(
        convolutions, batches, nn.functional.cross_entropy, seeds=3, steps=3, optimizer="adam", lr=1e-2
    )
    assert torch.equal(torch.get_rng_state(), state)
    assert result.loss.dims == ("step", "backward_weights")
    assert np.isfinite(result.loss.values).all()
    # Dropout and batch statistics are the same in both ways: no gap before the first update.
    assert float(result.loss_gap.sel(step=0)) == 0
    assert (result.loss_gap.sel(step=[2, 3]) != 0).all()
    chosen = gradient_independence(
        convolutions, batches, nn.functional.cross_entropy, seeds=3, steps=1, select=["7"], lr=1e-2
    )
    assert (chosen.gradient_cosine.sel(step=0) > 0.999).all()  # the one replaced map sees true gradients


def test_divergence_is_counted():
    result = gradient_independence(depth_mup, [BATCH], half_square, depths=[2], seeds=2, steps=20, lr=1e6)
    assert result.attrs["diverged"] == 2
    assert np.isnan(result.loss.isel(step=-1)).all()
    assert np.isfinite(result.loss.isel(step=0)).all()


def test_bad_arguments():
    with pytest.raises(InvalidValueError, match="no layer to replace"):
        gradient_independence(depth_mup, [BATCH], half_square, depths=[2], select=["blocks.*"])
    with pytest.raises(InvalidValueError, match="same network for seeds"):
        gradient_independence(lambda depth: depth_mup(depth, 0), [BATCH], half_square, depths=[2])
    with pytest.raises(InvalidValueError, match="`depths` must hold"):
        gradient_independence(depth_mup, [BATCH], half_square, depths=[])
    with pytest.raises(InvalidTypeError, match="`steps`"):
        gradient_independence(depth_mup, [BATCH], half_square, depths=[2], steps=1.5)
    with pytest.raises(InvalidValueError, match="one of sgd, adam, adamw"):
        gradient_independence(depth_mup, [BATCH], half_square, depths=[2], optimizer="lion")
    with pytest.raises(InvalidValueError, match="`batches` must hold"):
        gradient_independence(depth_mup, [], half_square, depths=[2])
