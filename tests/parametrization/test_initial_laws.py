"""A model's own init law is told from its numbers, so that entries are multiplied by an exact factor."""

import pytest
import torch
from small_nets import features_in, mlp, tokens_in, transformer
from torch import nn

from isoscale import parametrize

LAWS = {
    "1/sqrt(fan_in)": lambda out, into, depth: into**-0.5,
    "fixed size": lambda out, into, depth: 0.02,
    "1/sqrt(fan_in + fan_out)": lambda out, into, depth: (2 / (out + into)) ** 0.5,
    "1/sqrt(fan_in), 1/sqrt(depth)": lambda out, into, depth: (into * depth) ** -0.5,
}


def drawn(width, depth, law, seed):
    model = mlp(width, depth)
    generator = torch.Generator().manual_seed(seed)
    for parameter in model.parameters():
        std = law(*parameter.shape, depth)
        parameter.data.copy_(torch.randn(parameter.shape, generator=generator) * std)
    return model


@pytest.mark.parametrize("law", LAWS.values(), ids=LAWS.keys())
def test_each_tensor_is_multiplied_by_the_exact_factor(law):
    """Also the readout of 3 x 32 entries, whose size alone could not tell all laws apart: the whole model does.

    Its law differs from any other by 8 standard deviations of some tensor's size, so half of it, 4, is needed to err.
    What completep asks of the entries, relative to the base: docs/theory.md, section 5 with multipliers folded."""
    m, r = 4.0, 3.0
    asked = {"input": 1.0, "up": m**-0.5, "down": m**-0.5 / r, "readout": 1 / m}
    for seed in range(10):
        base, model = drawn(32, 2, law, seed), drawn(128, 6, law, 100 + seed)
        before = {name: parameter.detach().clone() for name, parameter in model.named_parameters()}
        parametrize(model, base, lr=0.1, example_inputs=features_in())
        for name, parameter in model.named_parameters():
            out, into = parameter.shape
            own = law(out, into, 6) / law(*(32 if size == 128 else size for size in (out, into)), 2)
            place = {"0": "up", "1": "down"}.get(name.split(".")[-2], name.split(".")[0])
            torch.testing.assert_close(parameter.detach(), before[name] * (asked[place] / own), rtol=1e-5, atol=0)


@pytest.mark.parametrize("rule", ["mup", "depth-mup", "completep", "am-mup"])
def test_a_second_time_changes_nothing(rule):
    for seed in range(5):
        base, model = mlp(32, 2, seed=seed), mlp(128, 4, seed=100 + seed)
        plan = parametrize(model, base, rule, lr=0.1, example_inputs=features_in())
        once = [parameter.detach().clone() for parameter in model.parameters()]
        plan.apply(model)
        parametrize(model, base, rule, lr=0.1, example_inputs=features_in())
        assert all(torch.equal(a, b) for a, b in zip(once, model.parameters(), strict=True))


def test_an_unheard_of_init_is_measured():
    """Entries ~ fan_in^-3: no law, so the sizes themselves are taken, noise included."""
    base, model = (drawn(width, 2, lambda out, into, depth: into**-3.0, width) for width in (16, 64))
    parametrize(model, base, "mup", lr=0.1, example_inputs=features_in())
    for name, parameter in model.named_parameters():
        if "maps" in name:
            other = base.get_parameter(name)
            assert (parameter.norm() / other.norm()).item() == pytest.approx(4 * 4**-0.5, rel=1e-5)


def test_zeros_stay_zeros():
    base, model = mlp(8, 2), mlp(32, 2)
    for net in (base, model):
        nn.init.zeros_(net.readout.weight)
    plan = parametrize(model, base, lr=0.1, example_inputs=features_in())
    assert not model.readout.weight.any()
    assert plan.table().set_index("name").loc["readout.weight", "lr"] == pytest.approx(0.1 / 4)


def test_gains_stay_ones_beside_biases_that_are_drawn():
    """Constant entries follow no drawn law; torch's biases shrink like 1/sqrt(width), and are brought to the base's."""
    model, base = (transformer(width, 2, seed, heads=width // 8) for width, seed in ((128, 0), (32, 1)))
    before = {name: parameter.detach().clone() for name, parameter in model.named_parameters()}
    parametrize(model, base, "mup", lr=0.1, example_inputs=tokens_in())
    for name, parameter in model.named_parameters():
        if "norm" in name:
            assert torch.equal(parameter, before[name])
        elif name.endswith("bias"):
            assert torch.equal(parameter, 2 * before[name])
