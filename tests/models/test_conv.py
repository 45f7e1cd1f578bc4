"""The conv nets against torch's own convolutions, norms and the formulas that define them."""

import math

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from isoscale import models
from isoscale.errors import InvalidTypeError, InvalidValueError
from isoscale.models import ConvNet, ConvResNet
from isoscale.scaling.roles import Role
from isoscale.training import stack
from roles import roles_of

F64 = torch.float64
PHI = {"relu": torch.relu, "tanh": torch.tanh, "gelu": F.gelu, "linear": lambda z: z}
MODE = {"circular": "circular", "zero": "zeros"}


def sample(*shape, seed=1):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=F64)


def shaken(model):
    """Norms start as the identity: make gains and biases count."""
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if parameter.dim() == 1:
                parameter.add_(sample(*parameter.shape, seed=len(name)))
    return model


def torch_conv(weight, padding):
    """torch's own module with this weight, padded with its own circular padding."""
    kind = torch.nn.Conv1d if weight.dim() == 3 else torch.nn.Conv2d
    fan_out, fan_in, kernel = weight.shape[:3]
    conv = kind(fan_in, fan_out, kernel, padding="same", padding_mode=MODE[padding], bias=False, dtype=F64)
    conv.weight.data = weight.data
    return conv


def torch_norm(h, weights, prefix, norm):
    if norm is None:
        return h
    return F.batch_norm(h, None, None, weights[f"{prefix}.weight"], weights[f"{prefix}.bias"], training=True)


def plain_by_hand(model, x, padding, phi, norm):
    weights = dict(model.named_parameters())
    for layer in range(len(model.layers)):
        z = torch_conv(weights[f"layers.{layer}.conv.weight"], padding)(x)
        x = PHI[phi](torch_norm(z, weights, f"layers.{layer}.norm", norm))
    return x.flatten(2).mean(2) @ weights["readout.weight"].T + weights["readout.bias"]


@pytest.mark.filterwarnings("ignore:Using padding='same' with even kernel")
@settings(max_examples=30, deadline=None)
@given(
    st.integers(1, 2),
    st.sampled_from([3, 4, 5]),
    st.sampled_from(["circular", "zero"]),
    st.sampled_from(list(PHI)),
    st.sampled_from([None, "batch"]),
    st.integers(1, 3),
)
def test_plain_net_is_torchs_layers(dims, kernel, padding, phi, norm, depth):
    shape = (2, *[6, 5][:dims])
    model = shaken(
        ConvNet(shape, 3, 4, depth, None, kernel, padding, phi, norm, init="he", readout_bias=True, dtype=F64)
    )
    x = sample(5, *shape)
    torch.testing.assert_close(model(x), plain_by_hand(model, x, padding, phi, norm), rtol=1e-9, atol=1e-9)


def residual_by_hand(model, x, block, phi, norm):
    weights = dict(model.named_parameters())
    h = torch_conv(weights["stem.weight"], "circular")(x)
    for index, layer in enumerate(model.blocks):
        for number, branch in enumerate(layer.branches):
            z, prefix = h, f"blocks.{index}.branches.{number}"
            for k in range(len(branch.maps)):
                conv = torch_conv(weights[f"{prefix}.maps.{k}.weight"], "circular")
                if block == "post":
                    z = phi(torch_norm(conv(z), weights, f"{prefix}.norms.{k}", norm))
                else:
                    z = conv(phi(torch_norm(z, weights, f"{prefix}.norms.{k}", norm)))
            h = h + z
    if block == "pre":
        h = torch_norm(h, weights, "norm", norm)
    return h.mean((2, 3)) @ weights["readout.weight"].T


@pytest.mark.parametrize("block", ["post", "pre"])
@pytest.mark.parametrize("norm", [None, "batch"])
@pytest.mark.parametrize(("block_depth", "mlp_ratio"), [(1, 0), (2, 0), (3, 0), (1, 2)])
def test_residual_net_is_the_formula(block, norm, block_depth, mlp_ratio):
    model = shaken(ConvResNet((2, 5, 4), 3, 4, 3, block, block_depth, mlp_ratio, norm=norm, phi="gelu", dtype=F64))
    x = sample(5, 2, 5, 4)
    torch.testing.assert_close(model(x), residual_by_hand(model, x, block, F.gelu, norm), rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("phi", list(PHI))
def test_centring_takes_the_mean_of_a_unit_gaussian(phi):
    """By Gauss-Hermite quadrature; relu's kink by its known half-normal mean."""
    plain = ConvResNet((2, 5, 4), 3, 4, 1, phi=phi, dtype=F64)
    centre = ConvResNet((2, 5, 4), 3, 4, 1, phi=phi, centre=True, dtype=F64)
    z = torch.linspace(-3, 3, 7, dtype=F64)
    shift = plain.blocks[0].branches[0].phi(z) - centre.blocks[0].branches[0].phi(z)
    grid = torch.linspace(-12, 12, 240_001, dtype=F64)
    density = torch.exp(-grid.square() / 2) / math.sqrt(2 * math.pi)
    # Trapezoids of step 1e-4: the kink costs step^2/12 at most.
    expected = torch.trapezoid(PHI[phi](grid) * density, grid)
    torch.testing.assert_close(shift, expected.expand_as(shift), atol=1e-8, rtol=0)


STACKED = [
    lambda seed: ConvNet((2, 5, 4), 3, 8, 2, norm="batch", readout_bias=True, seed=seed, dtype=F64),
    lambda seed: ConvNet((2, 5, 4), 3, 8, 2, kernel=4, padding="zero", dropout=0.3, seed=seed, dtype=F64),
    lambda seed: ConvNet((2, 6), 3, 8, 2, kernel=5, norm="batch", dropout=0.3, seed=seed, dtype=F64),
    lambda seed: ConvNet((2, 5, 4), 3, 8, 2, dims=1, padding="zero", seed=seed, dtype=F64),
    lambda seed: ConvResNet((2, 5, 4), 3, 8, 2, norm="batch", mlp_ratio=2, dropout=0.5, seed=seed, dtype=F64),
    lambda seed: ConvResNet((2, 5, 4), 3, 8, 2, "pre", 2, norm="batch", phi="gelu", seed=seed, dtype=F64),
]


@pytest.mark.parametrize("make", STACKED)
@pytest.mark.parametrize("size", [1, 3])
def test_a_stack_is_its_members(make, size):
    """Outputs in training and after it, gradients, running statistics; dropout's masks among them."""
    members = [make(seed) for seed in range(size)]
    stacked, x = stack(members), sample(size, 5, *members[0].in_shape)
    for _ in range(2):
        together = stacked(x if size > 1 else x[0]).view(size, 5, 3)
        torch.testing.assert_close(together, torch.stack([m(x[i]) for i, m in enumerate(members)]))
    grads = torch.autograd.grad(together.square().sum(), list(stacked.parameters()))
    for model in (stacked, *members):
        model.eval()
    alone = torch.stack([m(x[i]) for i, m in enumerate(members)])
    torch.testing.assert_close(stacked(x if size > 1 else x[0]).view(size, 5, 3), alone)
    for name, buffer in stacked.named_buffers():
        torch.testing.assert_close(
            buffer.flatten(), torch.stack([m.get_buffer(name) for m in members]).flatten(), msg=name
        )
    assert all(grad.isfinite().all() for grad in grads)


@pytest.mark.parametrize("make", STACKED)
def test_gradients_of_a_stack_are_its_members(make):
    members = [make(seed) for seed in range(3)]
    stacked, x = stack(members), sample(3, 5, *members[0].in_shape)
    grads = torch.autograd.grad(stacked(x).square().sum(), list(stacked.parameters()))
    alone = [torch.autograd.grad(m(x[i]).square().sum(), list(m.parameters())) for i, m in enumerate(members)]
    for index, grad in enumerate(grads):
        torch.testing.assert_close(grad, torch.stack([g[index] for g in alone]))


def test_dropout_follows_the_seed_and_the_step_alone():
    state = torch.get_rng_state()
    x = sample(64, 2, 8, 8)

    def make(seed):
        return ConvNet((2, 8, 8), 3, 8, 1, phi="linear", dropout=0.25, seed=seed, dtype=F64)

    a, again, other = make(3), make(3), make(4)
    first, second = a(x), a(x)
    assert torch.equal(first, again(x))
    assert not torch.equal(first, second), "each step has its own masks"
    other.load_state_dict(a.state_dict())
    assert not torch.equal(first, other(x)), "each seed has its own masks"
    features = a.layers[0].conv(x)
    dropped = a.layers[0].dropout(features)
    zeros = (dropped == 0).double()
    assert abs(zeros.mean() - 0.25) < 4 * math.sqrt(0.25 * 0.75 / zeros.numel())
    kept = dropped != 0
    torch.testing.assert_close(dropped[kept], features[kept] / 0.75)
    a.eval()
    assert torch.equal(a(x), a(x))
    a.train()
    a.reset_parameters(3)
    assert torch.equal(a(x), first)
    assert torch.equal(state, torch.get_rng_state())


@pytest.mark.parametrize(
    ("phi", "branch_init", "gain", "branch_gain"),
    [
        ("relu", None, 1.0, 1.0),
        ("relu", "he", 2**0.5, 2**0.5),
        ("relu", "he/sqrt(K)", 2**0.5, (2 / 9) ** 0.5),
        ("gelu", "he/K", 2**0.5, 2**0.5 / 9),
        ("tanh", "he/sqrt(K)", 1.0, 1 / 3),
    ],
)
def test_entries_have_the_variance_that_init_says(phi, branch_init, gain, branch_gain):
    model = ConvResNet((3, 8, 8), 10, 64, depth=9, block_depth=1, phi=phi, branch_init=branch_init)
    std = {"stem": gain / math.sqrt(27), "blocks": branch_gain / math.sqrt(576), "readout": 1 / 8}
    for name, weight in model.named_parameters():
        square = weight.detach().double().square().mean() / std[name.split(".")[0]] ** 2
        assert abs(square - 1) < 4 * math.sqrt(2 / weight.numel()), name


def test_plain_net_has_he_and_ordinary_init():
    for init, gain in ((None, 1.0), ("he", 2**0.5)):
        model = ConvNet((3, 8, 8), 10, 64, 3, kernel=5, init=init)
        for name, weight in model.named_parameters():
            own = 1.0 if name.startswith("readout") else gain
            square = weight.detach().double().square().mean() * weight[0].numel() / own**2
            assert abs(square - 1) < 4 * math.sqrt(2 / weight.numel()), name


def test_every_parameter_has_its_role():
    roles = roles_of(ConvNet((3, 8, 8), 10, 4, 3, norm="batch", readout_bias=True))
    expected = {"layers.0.conv.weight": Role.INPUT, "readout.weight": Role.OUTPUT, "readout.bias": Role.SCALAR}
    expected |= {f"layers.{layer}.conv.weight": Role.HIDDEN for layer in (1, 2)}
    expected |= {f"layers.{layer}.norm.{leaf}": Role.VECTOR for layer in range(3) for leaf in ("weight", "bias")}
    assert roles == expected


@pytest.mark.parametrize("block", ["post", "pre"])
def test_every_parameter_of_a_residual_net_has_its_role(block):
    model = ConvResNet((3, 8, 8), 10, 4, 1, block, block_depth=2, mlp_ratio=3, norm="batch", readout_bias=True)
    expected = {"stem.weight": Role.INPUT, "readout.weight": Role.OUTPUT, "readout.bias": Role.SCALAR}
    for branch in (0, 1):
        place = f"blocks.0.branches.{branch}"
        expected |= {f"{place}.maps.0.weight": Role.BRANCH_INTERNAL, f"{place}.maps.1.weight": Role.BRANCH_LAST}
        expected |= {f"{place}.norms.{k}.{leaf}": Role.BRANCH_VECTOR for k in (0, 1) for leaf in ("weight", "bias")}
    if block == "pre":
        expected |= {"norm.weight": Role.VECTOR, "norm.bias": Role.VECTOR}
    assert roles_of(model) == expected
    assert roles_of(ConvResNet((3, 8, 8), 10, 4, 1))["blocks.0.branches.0.maps.0.weight"] is Role.BRANCH_LAST


@pytest.mark.parametrize("make", [ConvNet, ConvResNet])
def test_seeds_precision_and_meta_device(make):
    state = torch.get_rng_state()
    a, b, c = (make((3, 8, 8), 10, 8, 2, norm="batch", seed=seed) for seed in (7, 7, 8))
    torch.testing.assert_close(a.state_dict(), b.state_dict(), rtol=0, atol=0)
    assert not torch.equal(a.readout.weight, c.readout.weight)
    double = make((3, 8, 8), 10, 8, 2, norm="batch", seed=7, dtype=F64)
    torch.testing.assert_close(double.readout.weight.float(), a.readout.weight, rtol=0, atol=0)
    with torch.device("meta"):
        empty = make((3, 8, 8), 10, 8, 2, norm="batch", seed=7)
    empty = empty.to_empty(device="cpu")
    empty.reset_parameters(7)
    torch.testing.assert_close(empty.state_dict(), a.state_dict())
    assert torch.equal(state, torch.get_rng_state())


def test_one_dimension_reads_an_image_as_a_sequence():
    model = ConvNet((3, 4, 5), 2, 8, 2, dims=1, seed=1, dtype=F64)
    sequence = ConvNet((3, 20), 2, 8, 2, seed=1, dtype=F64)
    x = sample(4, 3, 4, 5)
    assert model.positions == sequence.positions == 20
    torch.testing.assert_close(model(x), sequence(x.flatten(2)))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"in_shape": (3, 4, 4), "kernel": 5}, "`kernel` 5 is larger than the image, 4x4"),
        ({"in_shape": (3, 8, 4), "kernel": 5}, "`kernel` 5 is larger than the image, 8x4"),
        ({"kernel": 7}, "`kernel` must be one of 1, 3, 4, 5, got 7"),
        ({"padding": "reflect"}, "`padding` must be circular or zero, got 'reflect'"),
        ({"norm": "layer"}, "`norm` of a conv net must be batch or None, got 'layer'"),
        ({"phi": "rel"}, "Nearest: relu"),
        ({"dropout": 1.0}, r"`dropout` must be in \[0, 1\), got 1.0"),
        ({"dropout": "high"}, "`dropout` must be a number, got 'high'"),
        ({"centre": "no"}, "`centre` must be true or false, got 'no'"),
        ({"kernel": "3"}, "`kernel` must be a whole number, got '3'"),
        ({"dims": 3}, "`dims` must be 1, or 2 for images, got 3"),
        ({"in_shape": (3, 8), "dims": 2}, "`dims` must be 1, or 2 for images, got 2"),
        ({"in_shape": (64,)}, r"model conv-resnet takes images or sequences, \(channels, ...\), got vectors of 64"),
        ({"in_shape": (3, 8, 0)}, "`in_shape` must be >= 1, got 0"),
        ({"width": 0}, "`width` must be >= 1, got 0"),
        ({"block": "mid"}, "`block` must be post or pre, got 'mid'"),
        ({"block_depth": 0}, "`block_depth` must be >= 1, got 0"),
        ({"mlp_ratio": -1}, "`mlp_ratio` must be >= 1, got -1"),
        ({"branch_init": "he/k"}, "`branch_init` must be one of he, "),
        ({"kernels": 3}, "Nearest: kernel"),
    ],
)
def test_bad_options_are_named(changes, message):
    sizes = {"in_shape": (3, 8, 8), "out_features": 10, "width": 8, "depth": 2}
    options = {name: value for name, value in changes.items() if name not in sizes}
    given = sizes | {name: value for name, value in changes.items() if name in sizes}
    with pytest.raises((InvalidValueError, InvalidTypeError), match=message):
        models.build("conv-resnet", options, **given)


def test_input_of_another_shape_and_init_are_named():
    with pytest.raises(InvalidValueError, match=r"input must be \(batch, \*\(3, 8, 8\)\), got \(2, 1, 8, 8\)"):
        ConvNet((3, 8, 8), 10, 8, 2)(torch.zeros(2, 1, 8, 8))
    with pytest.raises(InvalidValueError, match="`init` must be he or None, got 'xavier'"):
        ConvNet((3, 8, 8), 10, 8, 2, init="xavier")
    with pytest.raises(InvalidTypeError, match="`in_shape` must be"):
        ConvNet(3, 10, 8, 2)
