"""The audit against the exponents of docs/theory.md, section 4, and on networks of every make."""

import functools

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from isoscale import rules
from isoscale.errors import InvalidTypeError, InvalidValueError
from isoscale.measure import audit
from isoscale.models import GPT, ConvResNet, ResidualMLP

DEPTHS = [4, 8, 16, 32]
# Beside twice the fit's own 95 % interval (four standard errors): an effect that builds up over L - 1 of L blocks is
# (1 - 1/L) of what it is in a deep network, and that alone bends an exponent over depths 4 to 32 by 0.12.
FINITE = 0.15


def data(features=16, samples=8):
    generator = torch.Generator().manual_seed(0)
    return torch.randn(samples, features, generator=generator), torch.randn(samples, 1, generator=generator)


def mse(f, y):
    return (f - y).square().mean()


def mlp(depth, seed, width=128, block_depth=2):
    return ResidualMLP(16, 1, width=width, depth=depth, block_depth=block_depth, seed=seed)


@functools.cache
def of_mlp(rule, optimizer):
    """Under a rule's name, or the residual family with alpha = 1/2 and this beta."""
    named = rule if isinstance(rule, str) else rules.residual_family(0.5, rule)
    return audit(mlp, data(), mse, depths=DEPTHS, rule=named, optimizer=optimizer)


def row(found, label, quantity, axis="depth"):
    table = found.exponents
    by = "tensor" if "tensor" in table else "role"
    (one,) = table[(table[by] == label) & (table["quantity"] == quantity) & (table["axis"] == axis)].itertuples()
    return one


def check(found, label, quantity, expected, axis="depth"):
    one = row(found, label, quantity, axis)
    assert abs(one.exponent - expected) < (one.high - one.low) + FINITE, one
    assert one.high - one.low < 0.5, one  # or nothing would have been shown


@pytest.mark.parametrize("optimizer", ["sgd", "adam"])
def test_depth_mup_collapses(optimizer):
    found = of_mlp("depth-mup", optimizer)
    check(found, "branch_internal", "own_update", -0.5)
    check(found, "branch_internal", "stream_update", 0.0)
    check(found, "branch_internal", "output_update", 0.0)
    check(found, "branch_last", "own_update", -0.5)  # one of L that add up: expected
    check(found, "branch_last", "stream_update", 0.0)
    assert row(found, "branch_internal", "own_update").verdict.startswith("vanishes like L^-0.")
    assert row(found, "branch_last", "own_update").expected == -0.5
    assert row(found, "branch_last", "own_update").verdict == "stable"
    assert not found.ok


@pytest.mark.parametrize("optimizer", ["sgd", "adam"])
def test_the_correction_restores_the_own_update_and_pays(optimizer):
    found = of_mlp("depth-mup-corrected", optimizer)
    check(found, "branch_internal", "own_update", 0.0)
    check(found, "branch_internal", "stream_update", 0.5)
    check(found, "branch_internal", "output_update", 0.5)
    assert row(found, "branch_internal", "output_update").low > 0.2
    assert row(found, "branch_internal", "stream_update").verdict.startswith("explodes like L^0.")
    assert not found.ok


@pytest.mark.parametrize("optimizer", ["sgd", "adam"])
def test_completep_is_flat(optimizer):
    found = of_mlp("completep", optimizer)
    for role in ("input", "branch_internal", "branch_last"):
        for quantity in ("own_update", "branch_update", "stream_update", "output_update"):
            check(found, role, quantity, 0.0)
    assert found.ok
    assert found.answer == "the same at every size"
    assert set(found.exponents["verdict"]) == {"stable", "not measured"}


@pytest.mark.parametrize("beta", [0.75, 1.0])
@pytest.mark.parametrize("optimizer", ["sgd", "adam"])
def test_the_family_trades_noise_for_own_updates(optimizer, beta):
    # docs/theory.md, section 4: initial residual noise ~ L^(1/2 - beta), own update ~ L^(beta - 1), with a stable
    # stream.
    found = of_mlp(beta, optimizer)
    check(found, "branch_internal", "own_update", beta - 1)
    check(found, "branch_internal", "stream_update", 0.0)
    check(found, "branch_last", "stream_update", 0.0)
    check(found, "branch_last", "own_update", beta - 1)  # L updates of 1/L against noise of L^-beta
    assert row(found, "branch_last", "own_update").expected == pytest.approx(beta - 1)


@pytest.mark.parametrize("optimizer", ["sgd", "adam"])
def test_sp_explodes(optimizer):
    found = of_mlp("sp", optimizer)
    for role in ("input", "branch_internal", "branch_last"):
        assert row(found, role, "stream_update").verdict.startswith("explodes like L^")
    assert not found.ok


def test_a_network_that_overflows_explodes():
    found = audit(functools.partial(mlp, width=16), data(), mse, depths=[4, 200], rule="sp", seeds=1)
    assert "explodes beyond all numbers" in set(found.exponents["verdict"])
    assert not found.ok


@pytest.mark.parametrize("optimizer", ["sgd", "adam", "sign"])
def test_mup_is_flat_in_width(optimizer):
    make = lambda width, seed: mlp(2, seed, width)  # noqa: E731
    found = audit(make, data(samples=4), mse, widths=[64, 128, 256], rule="mup", optimizer=optimizer)
    assert found.ok
    assert found.data.sizes == {"role": 4, "width": 3, "seed": 3}
    assert row(found, "output", "own_update", "width").expected == 0.5  # its start is n^-1/2


def test_sp_in_width():
    # Adam moves each entry by 1, along x: |Delta W x| ~ n beside |W x| ~ 1; and the output adds n of them up.
    make = lambda width, seed: mlp(2, seed, width)  # noqa: E731
    found = audit(make, data(samples=4), mse, widths=[64, 128, 256], rule="sp", optimizer="adam")
    check(found, "branch_internal", "own_update", 1.0, "width")
    check(found, "branch_last", "own_update", 1.0, "width")
    assert row(found, "branch_last", "output_update", "width").verdict.startswith("explodes like n^")


def test_muon_follows_the_normalised_columns():
    # Muon's step has spectral norm 1, so that own updates stay as the rate does: flat under completep, L^-1/2 before.
    for rule, expected in (("completep", 0.0), ("depth-mup", -0.5)):
        make = lambda depth, seed: mlp(depth, seed, width=48)  # noqa: E731
        found = audit(make, data(), mse, depths=[4, 8, 16], rule=rule, optimizer="muon", seeds=2)
        check(found, "branch_internal", "own_update", expected)


def test_by_tensor_says_which_layer():
    found = audit(mlp, data(), mse, depths=[4, 8, 16], rule="depth-mup", optimizer="adam", seeds=2, by="tensor")
    assert list(found.data["tensor"].values) == [
        "input.weight", "blocks.*.maps.0.weight", "blocks.*.maps.1.weight", "readout.weight"
    ]  # fmt: skip
    assert row(found, "blocks.*.maps.0.weight", "own_update").role == "branch_internal"
    check(found, "blocks.*.maps.0.weight", "own_update", -0.5)
    assert row(found, "blocks.*.maps.1.weight", "own_update").verdict == "stable"


def test_a_conv_residual_net():
    generator = torch.Generator().manual_seed(0)
    batch = torch.randn(2, 2, 4, 4, generator=generator), torch.randn(2, 1, generator=generator)

    def make(depth, seed):
        return ConvResNet((2, 4, 4), 1, width=12, depth=depth, block="pre", block_depth=2, seed=seed)

    for rule, expected in (("depth-mup", -0.5), ("completep", 0.0)):
        found = audit(make, batch, mse, depths=[2, 4, 8], rule=rule, optimizer="adam", seeds=2)
        check(found, "branch_internal", "own_update", expected)


def test_a_transformer():
    tokens = torch.randint(11, (2, 8), generator=torch.Generator().manual_seed(0))

    def make(depth, seed):
        return GPT(vocab=11, context=8, width=32, depth=depth, seed=seed)

    def loss(f, y):
        return F.cross_entropy(f.flatten(0, 1), y.flatten())

    for rule, expected in (("depth-mup", -0.5), ("completep", 0.0)):
        found = audit(make, (tokens, tokens), loss, depths=[2, 4, 8], rule=rule, optimizer="adamw", seeds=2)
        check(found, "branch_internal", "own_update", expected)
        assert np.isfinite(row(found, "branch_internal", "stream_update").exponent)


def test_gpt2_of_hugging_face():
    transformers = pytest.importorskip("transformers")
    tokens = torch.randint(11, (2, 8), generator=torch.Generator().manual_seed(0))

    def make(depth):
        sizes = {"n_embd": 32, "n_head": 2, "n_positions": 8, "vocab_size": 11, "n_layer": depth}
        return transformers.GPT2Model(transformers.GPT2Config(**sizes))

    def loss(f, y):
        return F.cross_entropy(f.last_hidden_state[..., :11].flatten(0, 1), y.flatten())

    found = audit(make, (tokens, tokens), loss, depths=[2, 4, 8], rule="depth-mup", optimizer="adamw", seeds=2)
    check(found, "branch_internal", "own_update", -0.5)
    assert any("dropout active" in note for note in found.notes)


# --- what it says of itself ---
def test_the_step_and_the_data():
    model_batch = data()
    found = audit(mlp, model_batch, mse, depths=[2, 4], rule="completep", seeds=[5, 7])
    assert found.data.sizes == {"role": 4, "depth": 2, "seed": 2}
    assert list(found.data["seed"].values) == [5, 7]
    again = audit(mlp, model_batch, mse, depths=[4, 2], rule="completep", seeds=[5, 7])
    assert found.data.equals(again.data)
    first = audit(mlp, model_batch, mse, depths=[2, 4], rule="completep", seeds=[7])
    assert found.data.sel(seed=[7]).equals(first.data)


def test_the_model_is_not_needed_unchanged_and_the_generator_stays():
    made = []

    def make(depth, seed):
        made.append(mlp(depth, seed, width=16))
        made[-1].start = {name: value.clone() for name, value in made[-1].state_dict().items()}
        return made[-1]

    state = torch.get_rng_state()
    shares = []
    audit(make, data(), mse, depths=[2, 4], seeds=2, progress=shares.append)
    assert torch.equal(state, torch.get_rng_state())
    assert shares == [0.5, 1.0]
    assert all(param.grad is None for model in made for param in model.parameters())
    assert not any(module._forward_hooks or module._forward_pre_hooks for model in made for module in model.modules())


def test_a_readout_of_zeros_is_no_success():
    def make(depth, seed):
        model = mlp(depth, seed, width=16)
        nn.init.zeros_(model.readout.weight)
        return model

    found = audit(make, data(), mse, depths=[2, 4, 8], seeds=2)
    assert not found.ok
    assert any("starts at zero" in note and "branch_internal" in note for note in found.notes)


def test_exponents_that_chance_could_explain_are_not_decided():
    # Two units wide: the output's own update is a ratio of two numbers, whatever the depth.
    found = audit(functools.partial(mlp, width=2), data(), mse, depths=[2, 3, 4], seeds=2)
    unsure = found.exponents["verdict"].str.startswith("not decided: chance explains it")
    assert unsure.any()
    assert any(note.startswith(f"{unsure.sum()} of ") and "more seeds" in note for note in found.notes)


def test_crowding_is_said():
    """More positions than units: always; a quarter of that: if an exponent in width came out low."""

    def make(width, seed):
        return mlp(2, seed, width)

    def notes(samples):
        found = audit(make, data(samples=samples), mse, widths=[32, 64], rule="completep", optimizer="adam", seeds=2)
        return found, [note for note in found.notes if "positions" in note]

    _, many = notes(33)
    assert many[0].startswith("33 positions (samples x tokens or pixels) in the batch, 32 units")
    assert notes(8)[1] == []
    found, some = notes(16)
    in_width = found.exponents[found.exponents["axis"] == "width"]
    assert bool(some) == bool((in_width["exponent"] < in_width["expected"] - 0.2).any())


@pytest.mark.parametrize(
    ("given", "error", "words"),
    [
        ({"depths": [4]}, InvalidValueError, "two sizes or more"),
        ({}, InvalidValueError, "two sizes or more"),
        ({"depths": []}, InvalidValueError, "one size or more"),
        ({"depths": [2, 0]}, InvalidValueError, ">= 1, got 0"),
        ({"depths": [2, 4.0]}, InvalidTypeError, "whole numbers, got 4.0"),
        ({"depths": [2, 4], "rule": "compltep"}, InvalidValueError, "completep"),
        ({"depths": [2, 4], "optimizer": "adamx"}, InvalidValueError, "adam"),
        ({"depths": [2, 4], "by": "layer"}, InvalidValueError, "tensor"),
        ({"depths": [2, 4], "seeds": 0}, InvalidValueError, "one seed or more"),
        ({"depths": [2, 4], "loss_fn": lambda f, y: f - y}, InvalidTypeError, "one number"),
    ],
)
def test_bad_input(given, error, words):
    with pytest.raises(error, match=words):
        audit(mlp, data(), given.pop("loss_fn", mse), **given)


def test_a_factory_without_randomness():
    def make(depth):
        model = mlp(depth, 0, width=8)
        return model

    with pytest.raises(InvalidValueError, match="the same network for seeds 0 and 1"):
        audit(make, data(), mse, depths=[2, 4])


def test_sizes_at_which_the_tensors_have_other_roles_are_named():
    """A layer one unit wide has no side that grows."""
    with pytest.raises(InvalidValueError, match="between width 1 and width 2 the tensors change their roles"):
        audit(lambda width, seed: mlp(2, seed, width=width), data(), mse, widths=[1, 2], seeds=1)


def test_a_network_that_does_not_fit_is_named():
    with pytest.raises(InvalidValueError, match="no memory for the network of width 100000000"):
        audit(lambda width, seed: mlp(2, seed, width=width), data(), mse, widths=[8, 10**8], seeds=1)
