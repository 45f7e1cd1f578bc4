"""The derivative along a step is that of the network itself, whatever operations it is made of."""

import copy

import pytest
import torch
from networks import MAKERS, network, squared
from torch import nn

from isoscale.errors import InvalidValueError
from isoscale.measure import forward_jvp
from isoscale.measure.tools.observe import observe
from isoscale.measure.tools.passes import seeded

METHODS = ("forward-mode", "double backward", "finite differences")
FALLS_TO = {"own function": METHODS[1], "own function, once": METHODS[2]}


def direction(model):
    generator = torch.Generator().manual_seed(2)
    return {
        name: torch.randn(param.shape, generator=generator, dtype=torch.float64).to(param.dtype)
        for name, param in model.named_parameters()
    }


def outputs(model, x, seed):
    seen = {}
    model = copy.deepcopy(model)
    names = [name for name, module in model.named_modules() if isinstance(module, (nn.Linear, nn.Conv2d))]
    with seeded(seed), observe(model, names, lambda name, _, out: seen.update({name: out.detach().clone()})):
        model(x)
    return seen


def moved(model, step, size):
    model = copy.deepcopy(model)
    with torch.no_grad():
        for name, param in model.named_parameters():
            param.add_(step[name], alpha=size)
    return model


def by_differences(model, x, step, seed):
    """Fourth-order central differences: with steps of 2^-13 the error is about 2^-52 + 2^-39."""
    size = 2.0**-13
    at = {k: outputs(moved(model, step, k * size), x, seed) for k in (-2, -1, 1, 2)}
    return {name: (8 * (at[1][name] - at[-1][name]) - (at[2][name] - at[-2][name])) / (12 * size) for name in at[1]}


@pytest.mark.parametrize("name", MAKERS)
def test_equals_finite_differences(name):
    model, x, _ = network(name)
    step = direction(model)
    jvp = forward_jvp(model, (x,), step, seed=5)
    assert jvp.method == FALLS_TO.get(name, "forward-mode")
    assert bool(jvp.why) == (name in FALLS_TO)
    plain, truth = outputs(model, x, 5), by_differences(model, x, step, 5)
    assert list(jvp.outputs) == list(truth)
    # Our own fallback is a second-order formula: 1e-10 in units of the step, which is some tens of weights long.
    tolerance = 1e-7 if jvp.method == "finite differences" else 1e-9
    for module, (output, change) in jvp.outputs.items():
        torch.testing.assert_close(output, plain[module])  # another formula of attention rounds differently
        assert (change - truth[module]).abs().max() < tolerance * truth[module].abs().max()


def test_a_fused_recurrent_layer_falls_back():
    # In single precision torch runs LSTMs by a fused kernel without forward mode.
    model, x, _ = network("recurrent", torch.float32)
    jvp = forward_jvp(model, (x,), direction(model))
    assert jvp.method in METHODS[:2]
    assert ("forward-mode" in jvp.why) == (jvp.method == METHODS[1])
    wide = copy.deepcopy(model).double()
    high = forward_jvp(wide, (x.double(),), {name: v.double() for name, v in direction(model).items()})
    for name, (_, change) in jvp.outputs.items():
        torch.testing.assert_close(change, high.outputs[name][1].float(), rtol=1e-4, atol=1e-4)


def test_torchs_encoder_has_no_fast_path_while_measured():
    encoder = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True, dtype=torch.float64).eval()
    x, fast = torch.randn(4, 5, 8, dtype=torch.float64), torch.backends.mha.get_fastpath_enabled()
    jvp = forward_jvp(encoder, (x,), direction(encoder), modules=[""])
    assert jvp.method == "forward-mode"
    torch.testing.assert_close(jvp.outputs[""][0], encoder(x))
    assert torch.backends.mha.get_fastpath_enabled() == fast


@pytest.mark.parametrize("name", ["convolutions", "attention", "shared"])
def test_methods_agree(name):
    model, x, _ = network(name)
    step = direction(model)
    first, *others = (forward_jvp(model, (x,), step, method=method).outputs for method in METHODS)
    for other, tolerance in zip(others, (1e-12, 1e-7), strict=True):
        for module, (_, change) in first.items():
            assert (change - other[module][1]).abs().max() < tolerance * change.abs().max()


def test_a_group_of_tensors_moves_alone():
    model, x, _ = network("attention")
    step = {name: v for name, v in direction(model).items() if name.startswith("5.")}
    changes = {name: change for name, (_, change) in forward_jvp(model, (x,), step).outputs.items()}
    assert all(torch.equal(changes[name], torch.zeros_like(changes[name])) for name in ("0", "1.qkv", "1.proj"))
    linear = nn.functional.linear(model[4](model[3](model[1](model[0](x))["out"])), step["5.weight"], step["5.bias"])
    torch.testing.assert_close(changes["5"], linear)
    torch.testing.assert_close(changes["6"], linear @ model[6].weight.T)


@pytest.mark.parametrize("method", METHODS)
def test_no_tensor_moves(method):
    model, x, _ = network("shared")
    outputs = forward_jvp(model, (x,), {}, method=method, modules=["", "0"]).outputs
    assert list(outputs) == ["0", "0@2", ""]
    assert all(torch.equal(change, torch.zeros_like(change)) for _, change in outputs.values())


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_lower_precision(method, dtype):
    # bfloat16 has 8 bits: 0.4 % an operation, over some ten operations one after another. Differences over steps of
    # eps^(1/3) = 0.5 % of the weights, taken in single precision, are good to some permille.
    tolerance = 0.05 if dtype is torch.bfloat16 else 0.01 if method == METHODS[2] else 1e-4
    model, x, _ = network("attention", dtype)
    wide = copy.deepcopy(model).double()
    step = direction(model)
    low = forward_jvp(model, (x,), step, method=method).outputs
    high = forward_jvp(wide, (x.double(),), {name: v.double() for name, v in step.items()}).outputs
    for name, (_, change) in low.items():
        assert (change.double() - high[name][1]).norm() < tolerance * high[name][1].norm()


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("name", ["convolutions", "shared"])
def test_the_model_is_left_as_it_was(name, method):
    model, x, y = network(name)
    model.train()
    squared(model(x), y).backward()
    before = copy.deepcopy(model.state_dict())
    grads = [param.grad.clone() for param in model.parameters()]
    state = torch.get_rng_state()
    forward_jvp(model, (x,), direction(model), method=method)
    assert torch.equal(torch.get_rng_state(), state)
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())
    assert all(torch.equal(param.grad, grad) for param, grad in zip(model.parameters(), grads, strict=True))
    assert model.training
    assert all(param.requires_grad and not param._backward_hooks for param in model.parameters())
    assert not any(module._forward_hooks for module in model.modules())


@pytest.mark.parametrize("context", [torch.no_grad, torch.inference_mode])
def test_works_where_gradients_are_off(context):
    model, x, _ = network("own function")
    step = direction(model)
    expected = forward_jvp(model, (x,), step).outputs
    with context():
        got = forward_jvp(model, (x,), step).outputs
    assert all(torch.equal(got[name][1], expected[name][1]) for name in expected)


def test_the_models_own_mistakes_come_out():
    model, _, _ = network("shared")
    with pytest.raises(RuntimeError, match="shapes cannot be multiplied"):
        forward_jvp(model, (torch.zeros(2, 7, dtype=torch.float64),), direction(model))
    assert not any(module._forward_hooks for module in model.modules())


def test_bad_arguments():
    model, x, _ = network("shared")
    with pytest.raises(InvalidValueError, match="no parameter named"):
        forward_jvp(model, (x,), {"0.weigt": x})
    with pytest.raises(InvalidValueError, match=r"must have its shape \(8, 8\), got \(6, 8\)"):
        forward_jvp(model, (x,), {"0.weight": x})
    with pytest.raises(InvalidValueError, match="no `method` named 'forward'"):
        forward_jvp(model, (x,), {}, method="forward")
