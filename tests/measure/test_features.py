"""Feature speed: the two parts add up, mean what they say, and show the collapse of inner maps with depth."""

import copy

import numpy as np
import pytest
import torch
from networks import convolutions, shared
from torch import nn

from isoscale.errors import InvalidValueError
from isoscale.limit.summaries import label_alignment
from isoscale.measure import feature_speed
from isoscale.models import ResidualMLP

GENERATOR = torch.Generator().manual_seed(0)
X = torch.randn(12, 8, dtype=torch.float64, generator=GENERATOR)
Y = torch.arange(12) % 3
cross_entropy = nn.functional.cross_entropy


def make(depth, seed, width=32, exponent=0.5):
    """Two-layer blocks with branch multiplier depth^-1/2 folded in, mean-field readout (depth-muP's init)."""
    model = ResidualMLP(8, 3, width, depth, phi="tanh", seed=seed, dtype=torch.float64)
    with torch.no_grad():
        model.readout.weight.mul_(width**-0.5)
        for block in model.blocks:
            block.maps[1].weight.mul_(depth**-exponent)
    return model


def sgd(internal):
    """depth-muP's SGD: width factors m for the ends; branch^2 for the last map; depth^internal for the inner one."""

    def optimizer(model):
        width, depth = model.input.out_features, len(model.blocks)
        inner = [block.maps[0].weight for block in model.blocks]
        last = [block.maps[1].weight for block in model.blocks]
        rates = [(model.input.weight, width / 8), (model.readout.weight, 1 / width)]
        groups = [{"params": [param], "lr": 0.3 * rate} for param, rate in rates]
        groups.append({"params": inner, "lr": 0.3 * depth**internal})
        return torch.optim.SGD([*groups, {"params": last, "lr": 0.3 / depth}])

    return optimizer


def test_parts_are_those_of_the_definition():
    # By hand on the trained network: own = (W_k - W_0) x_k, inherited = W_0 (x_k - x_0).
    model = nn.Sequential(
        nn.Linear(8, 16), nn.Tanh(), nn.Linear(16, 16), nn.ReLU(inplace=True), nn.Linear(16, 3)
    ).double()
    result = feature_speed(lambda: copy.deepcopy(model), [(X, Y)], cross_entropy, seeds=1, steps=3, lr=0.5)
    trained = copy.deepcopy(model)
    optimizer = torch.optim.SGD(trained.parameters(), lr=0.5)
    for _ in range(3):
        optimizer.zero_grad()
        cross_entropy(trained(X), Y).backward()
        optimizer.step()
    with torch.no_grad():
        x0, x = model[1](model[0](X)), trained[1](trained[0](X))
        size = model[2](x0).norm()
        weight, bias = trained[2].weight - model[2].weight, trained[2].bias - model[2].bias
        own, inherited = x @ weight.T + bias, (x - x0) @ model[2].weight.T
    last = result.sel(layer="2", step=3)
    assert float(last.own) == pytest.approx(float(own.norm() / size))
    assert float(last.inherited) == pytest.approx(float(inherited.norm() / size))
    assert float(last.total) == pytest.approx(float((own + inherited).norm() / size))
    assert result.layer.values.tolist() == ["0", "2"]
    # The first map's input stands still: all its change is its own.
    first = result.sel(layer="0")
    np.testing.assert_allclose(first.inherited.values, 0, atol=1e-14)
    np.testing.assert_allclose(first.own.values, first.total.values, atol=1e-14)
    assert (result[["own", "inherited", "total"]].sel(step=0).to_array() < 1e-14).all()


def test_alignment_is_the_limits():
    xr = pytest.importorskip("xarray")
    model = nn.Sequential(nn.Linear(8, 16), nn.Tanh(), nn.Linear(16, 3)).double()
    result = feature_speed(lambda: copy.deepcopy(model), [(X, Y)], cross_entropy, seeds=1, steps=0)
    z = model[0](X).detach().numpy()
    sample = np.arange(12)
    data = xr.Dataset(
        {
            "feature_kernel": (("step", "time", "sample", "sample2"), (z @ z.T)[None, None]),
            "target": (("sample", "output"), np.eye(3)[Y.numpy()]),
        },
        {"step": [0], "time": [1.0], "sample": sample, "sample2": sample},
    )
    assert float(result.alignment.sel(layer="0", step=0)) == pytest.approx(label_alignment(data).item())


INNER = {"group": "blocks.*.maps.0"}


def speed(internal, seeds):
    options = {"seeds": seeds, "steps": 1, "optimizer": sgd(internal)}
    return feature_speed(make, [(X, Y)], cross_entropy, [4, 8, 16, 32], **options)


def test_inner_maps_collapse_with_depth_under_depth_mup():
    # docs/theory.md, section 4: the inner map's own update ~ L^-1/2, with slopes of -0.46 .. -0.48 at finite depth.
    slopes = np.array([float(speed(0.0, [seed]).own_exponent.sel(INNER)) for seed in range(12)])
    error = slopes.std(ddof=1) / len(slopes) ** 0.5
    assert error < 0.05
    assert -0.5 - 4 * error < slopes.mean() < -0.46 + 4 * error


def test_the_correction_takes_the_collapse_away_and_inheritance_hides_it():
    plain, fixed = speed(0.0, 2), speed(0.5, 2)
    # At the first step the own update is proportional to the map's learning rate, which the correction makes ~ L^1/2,
    # but for the input at which it is taken: that has moved a little differently.
    assert float(fixed.own_exponent.sel(INNER) - plain.own_exponent.sel(INNER)) == pytest.approx(0.5, abs=2e-3)
    assert float(plain.inherited_exponent.sel(INNER) - plain.own_exponent.sel(INNER)) > 0.25


def test_smaller_networks_lack_the_layers_of_larger_ones():
    result = feature_speed(make, [(X, Y)], cross_entropy, [1, 2], [8, 16, 32], seeds=2, steps=1)
    assert result.own.dims == ("depth", "width", "layer", "step")
    assert np.isnan(result.own.sel(depth=1, layer="blocks.1.maps.0")).all()
    assert np.isfinite(result.own.drop_sel(layer=["blocks.1.maps.0", "blocks.1.maps.1"])).all()
    assert np.isfinite(result.own_se.sel(depth=2)).all()
    assert result.own_exponent.dims == ("width", "group")
    assert np.isnan(result.own_exponent_low).all()  # two depths have no interval
    squares = result.own.sel(depth=2, layer=["blocks.0.maps.0", "blocks.1.maps.0"], step=1)
    one = feature_speed(make, [(X, Y)], cross_entropy, [2], [8], seeds=1, steps=1).isel(depth=0, width=0, step=1)
    layers = one.own.sel(layer=["blocks.0.maps.0", "blocks.1.maps.0"])
    assert float(one.group_own.sel(group="blocks.*.maps.0")) == pytest.approx(float((layers**2).mean() ** 0.5))
    assert squares.shape == (3, 2)


def test_batch_statistics_dropout_and_shared_modules():
    images = torch.randn(6, 2, 6, 6, generator=GENERATOR)
    result = feature_speed(convolutions, [(images, torch.arange(6) % 3)], cross_entropy, seeds=2, steps=2, lr=0.01)
    assert np.isfinite(result.own.values).all()
    # The same masks at every look: nothing moves before the first update.
    assert (result.total.sel(step=0) < 1e-6).all()
    assert result.group.values.tolist() == ["*"]
    again = feature_speed(shared, [(X.float(), Y)], cross_entropy, seeds=2, steps=1)
    assert again.layer.values.tolist() == ["0", "0@2"]


@pytest.mark.parametrize("labels", [torch.zeros(12), torch.zeros(12, 2, 3), None])
def test_labels_without_a_kernel_give_no_alignment(labels):
    result = feature_speed(
        lambda: nn.Sequential(nn.Linear(8, 4), nn.Linear(4, 1)).double(),
        [(X, labels)],
        lambda f, y: f.square().mean(),
        seeds=1,
        steps=1,
    )
    assert np.isnan(result.alignment.values).all()
    assert np.isfinite(result.own.values).all()


def test_divergence_is_nan():
    result = feature_speed(make, [(X, Y)], lambda f, y: f.square().sum(), [2], seeds=2, steps=6, lr=1e60)
    assert np.isnan(result.total.isel(step=-1)).all()
    assert np.isfinite(result.total.isel(step=0)).all()


def test_bad_arguments():
    with pytest.raises(InvalidValueError, match="must call two"):
        feature_speed(lambda: nn.Linear(8, 3).double(), [(X, Y)], cross_entropy, seeds=1)
    with pytest.raises(InvalidValueError, match="`batches` must hold"):
        feature_speed(make, [], cross_entropy, [2])
