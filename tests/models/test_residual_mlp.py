"""The residual MLP against the formulas that define it."""

import copy
import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from isoscale import models
from isoscale.errors import InvalidTypeError, InvalidValueError
from isoscale.models import ResidualMLP
from isoscale.models.base import seeding
from isoscale.scaling.roles import Role
from isoscale.training import Optimizer, Recipe, stack
from roles import roles_of

F64 = torch.float64
PHI = {"relu": torch.relu, "tanh": torch.tanh, "gelu": torch.nn.functional.gelu, "linear": lambda z: z}


def sample(*shape, seed=1):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=F64)


def by_hand(model, x, phi, block_depth, norm):
    """h_0 = U x; h += W_k phi(... W_1 h); f = v h, written out with the model's own matrices."""
    weights = dict(model.named_parameters())

    def normed(h, prefix):
        if norm is None:
            return h
        gain = weights[f"{prefix}.weight"]
        if norm == "rms":
            return h / (h.square().mean(-1, keepdim=True) + torch.finfo(F64).eps).sqrt() * gain
        h = h - h.mean(-1, keepdim=True)
        return h / (h.square().mean(-1, keepdim=True) + 1e-5).sqrt() * gain + weights[f"{prefix}.bias"]

    h = x @ weights["input.weight"].T
    for block in range(len(model.blocks)):
        z = normed(h, f"blocks.{block}.norm")
        maps = [weights[f"blocks.{block}.maps.{k}.weight"] for k in range(block_depth)]
        if block_depth == 1:
            z = PHI[phi](z) @ maps[0].T
        else:
            z = z @ maps[0].T
            for w in maps[1:]:
                z = PHI[phi](z) @ w.T
        h = h + z
    return normed(h, "norm") @ weights["readout.weight"].T


@settings(max_examples=40)
@given(
    st.integers(1, 9),
    st.integers(1, 4),
    st.integers(1, 4),
    st.sampled_from(list(PHI)),
    st.sampled_from([None, "layer", "rms"]),
    st.integers(0, 2**31),
)
def test_forward_is_the_formula(width, depth, block_depth, phi, norm, seed):
    model = ResidualMLP(3, 2, width, depth, block_depth, phi, norm, seed=seed, dtype=F64)
    with torch.no_grad():  # norms start as the identity; make their gains and biases count
        for name, parameter in model.named_parameters():
            if "norm" in name:
                parameter.add_(sample(*parameter.shape, seed=len(name)))
    x = sample(5, 3)
    torch.testing.assert_close(model(x), by_hand(model, x, phi, block_depth, norm), rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("norm", [None, "layer", "rms"])
@pytest.mark.parametrize("block_depth", [1, 2, 3])
def test_a_stack_is_its_members(block_depth, norm):
    members = [ResidualMLP(3, 2, 8, 2, block_depth, norm=norm, seed=seed, dtype=F64) for seed in range(4)]
    stacked, x = stack(members), sample(4, 5, 3)
    together = stacked(x)
    torch.testing.assert_close(together, torch.stack([m(x[i]) for i, m in enumerate(members)]))
    grads = torch.autograd.grad(together.square().sum(), list(stacked.parameters()))
    alone = [torch.autograd.grad(m(x[i]).square().sum(), list(m.parameters())) for i, m in enumerate(members)]
    for index, grad in enumerate(grads):
        torch.testing.assert_close(grad, torch.stack([g[index] for g in alone]))
        assert grad.is_contiguous(), "optimizers would stride through it"


def test_entries_have_variance_one_over_fan_in():
    model = ResidualMLP(50, 40, width=200, depth=3)
    for weight in model.parameters():
        n = weight.numel()
        scaled = weight.detach().double() * math.sqrt(weight.shape[1])
        assert abs(scaled.mean()) < 4 / math.sqrt(n)
        assert abs(scaled.square().mean() - 1) < 4 * math.sqrt(2 / n)


def test_depth_mup_keeps_the_stream_at_any_depth():
    """Linear blocks of one map grow the stream's variance by exactly (1 + 1/L)^L in expectation.

    Source: docs/theory.md, section 3.
    """
    depth, width, seeds = 16, 64, 60
    x = sample(1, 10)
    x = (x / x.square().mean().sqrt()).float()
    squares = []
    for seed in range(seeds):
        recipe = Recipe(
            model_args={"block_depth": 1, "phi": "linear"},
            width=width,
            depth=depth,
            base_width=width,
            base_depth=1,
            rule="depth-mup",
            optimizer=Optimizer(),
            steps=1,
            batch_size=1,
        )
        model, _ = recipe.build(10, 1, seed)
        h = model.input(x)
        for block in model.blocks:
            h = block(h)
        squares.append(h.detach().square().mean().item())
    squares = torch.tensor(squares, dtype=F64)
    standard_error = squares.std().item() / math.sqrt(seeds)
    assert abs(squares.mean().item() - (1 + 1 / depth) ** depth) < 4 * standard_error


def test_roles():
    roles = roles_of(ResidualMLP(3, 2, 8, 2, block_depth=3, norm="layer"))
    assert roles["input.weight"] is Role.INPUT
    assert roles["readout.weight"] is Role.OUTPUT
    assert roles["norm.weight"] is roles["norm.bias"] is Role.VECTOR
    assert [roles[f"blocks.1.maps.{k}.weight"] for k in range(3)] == [
        Role.BRANCH_INTERNAL,
        Role.BRANCH_INTERNAL,
        Role.BRANCH_LAST,
    ]
    assert roles["blocks.0.norm.bias"] is Role.BRANCH_VECTOR
    only = roles_of(ResidualMLP(3, 2, 8, 2, block_depth=1))
    assert only["blocks.0.maps.0.weight"] is Role.BRANCH_LAST
    assert len(roles) == 1 + 2 * (3 + 2) + 2 + 1


def test_seeds_are_data_and_the_global_generator_is_not_touched():
    state = torch.get_rng_state()
    a, b, c = (ResidualMLP(3, 2, 8, 2, seed=seed) for seed in (7, 7, 8))
    torch.testing.assert_close(a.state_dict(), b.state_dict(), rtol=0, atol=0)
    assert not torch.equal(a.input.weight, c.input.weight)
    double = ResidualMLP(3, 2, 8, 2, seed=7, dtype=F64)
    torch.testing.assert_close(double.input.weight.float(), a.input.weight, rtol=0, atol=0)
    assert torch.equal(state, torch.get_rng_state())


def test_meta_device_then_reset_gives_the_same_network():
    with torch.device("meta"):
        model = ResidualMLP(3, 2, 8, 2, norm="rms", seed=7)
    model = model.to_empty(device="cpu")
    model.reset_parameters(7)
    torch.testing.assert_close(model.state_dict(), ResidualMLP(3, 2, 8, 2, norm="rms", seed=7).state_dict())


def test_ordinary_module():
    model = ResidualMLP(3, 2, 8, 2)
    again = copy.deepcopy(model)
    again.load_state_dict(model.state_dict())
    seen = []
    handles = [
        m.register_forward_hook(lambda *_: seen.append(1)) for m in again.modules() if isinstance(m, torch.nn.Linear)
    ]
    again(torch.zeros(1, 3))
    assert len(seen) == len(handles) == 2 + 2 * 2


@pytest.mark.parametrize("argument", ["in_features", "out_features", "width", "depth", "block_depth"])
def test_sizes_below_one_are_named(argument):
    sizes = {"in_features": 3, "out_features": 2, "width": 8, "depth": 2} | {argument: 0}
    with pytest.raises(InvalidValueError, match=f"`{argument}` must be >= 1, got 0"):
        ResidualMLP(**sizes)


def test_unknown_phi_norm_model_and_option():
    with pytest.raises(InvalidValueError, match="Nearest: tanh"):
        models.build("residual-mlp", {"phi": "tahn"}, in_features=3, out_features=2, width=8, depth=2)
    with pytest.raises(InvalidValueError, match="`norm`"):
        models.build("residual-mlp", {"norm": "batch"}, in_features=3, out_features=2, width=8, depth=2)
    with pytest.raises(InvalidValueError, match="Nearest: residual-mlp"):
        models.build("residual-mpl", in_features=3, out_features=2, width=8, depth=2)
    with pytest.raises(InvalidValueError, match="Nearest: block_depth"):
        models.build("residual-mlp", {"blockdepth": 2}, in_features=3, out_features=2, width=8, depth=2)
    with pytest.raises((InvalidTypeError, InvalidValueError), match="`depth`"):
        models.build("residual-mlp", in_features=3, out_features=2, width=8, depth=True)


def test_seed_of_the_surroundings():
    """Only a model that is given no seed takes it, and only inside."""
    with seeding(3):
        inside, given = ResidualMLP(3, 2, width=4, depth=1), ResidualMLP(3, 2, width=4, depth=1, seed=0)
    after = ResidualMLP(3, 2, width=4, depth=1)
    assert torch.equal(inside.input.weight, ResidualMLP(3, 2, width=4, depth=1, seed=3).input.weight)
    assert torch.equal(given.input.weight, after.input.weight)
