"""Independent backward weights: what they change, and that nothing else does."""

import copy

import pytest
import torch
from networks import network, squared
from torch import nn
from torch.nn.utils.parametrizations import weight_norm

from isoscale.errors import InvalidTypeError, InvalidValueError
from isoscale.measure import independent_backward
from isoscale.measure.tools.observe import linear_layers
from isoscale.measure.tools.passes import seeded
from isoscale.models import ResidualMLP


def others(model, seed=7):
    generator = torch.Generator().manual_seed(seed)
    return {
        name: torch.randn(module.weight.shape, generator=generator, dtype=torch.float64).to(module.weight)
        for name, module in linear_layers(model).items()
    }


def gradients(model, x, y):
    model.zero_grad()
    with seeded(0):
        loss = squared(model(x), y)
        loss.backward()
    return loss.detach(), {name: param.grad.clone() for name, param in model.named_parameters()}


def trained(model, x, y, optimizer, steps=4):
    losses = []
    for _ in range(steps):
        losses.append(gradients(model, x, y)[0])
        optimizer.step()
    return torch.stack(losses)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("name", ["convolutions", "attention", "shared", "residual"])
def test_its_own_weights_give_backpropagation_bit_by_bit(name, dtype):
    if name == "residual":
        model = ResidualMLP(8, 3, width=16, depth=3, block_depth=1, phi="tanh", dtype=dtype)
        x, y = torch.randn(6, 8, dtype=dtype), torch.randn(6, dtype=dtype)
    else:
        model, x, y = network(name, dtype)
    twin = copy.deepcopy(model)
    plain = trained(model, x, y, torch.optim.Adam(model.parameters(), 1e-2))
    with independent_backward(twin, {key: module.weight for key, module in linear_layers(twin).items()}):
        swapped = trained(twin, x, y, torch.optim.Adam(twin.parameters(), 1e-2))
    assert torch.equal(plain, swapped)
    assert all(torch.equal(a, b) for a, b in zip(model.parameters(), twin.parameters(), strict=True))


def test_gradients_go_back_through_the_copies():
    # By hand: h -> W2 tanh(W1 h), loss = sum; the gradient at W1's output uses the copy of W2.
    first, second = nn.Linear(3, 4, bias=False).double(), nn.Linear(4, 2, bias=False).double()
    model, x = nn.Sequential(first, nn.Tanh(), second), torch.randn(5, 3, dtype=torch.float64, requires_grad=True)
    copies = others(model)
    with independent_backward(model, copies):
        model(x).sum().backward()
    z = x.detach() @ first.weight.T
    top = torch.ones(5, 2, dtype=torch.float64)
    below = (top @ copies["2"]) * (1 - z.tanh() ** 2)
    torch.testing.assert_close(second.weight.grad, top.T @ z.tanh())
    torch.testing.assert_close(first.weight.grad, below.T @ x.detach())
    torch.testing.assert_close(x.grad, below @ copies["0"])


def test_copies_receive_the_updates():
    # After training, backward uses W~ + (W - W_0): the same as a fresh context in which that is the copy.
    model, x, y = network("convolutions")
    initial, copies = {k: m.weight.detach().clone() for k, m in linear_layers(model).items()}, others(model)
    with independent_backward(model, copies):
        trained(model, x, y, torch.optim.AdamW(model.parameters(), 1e-2))
        _, late = gradients(model, x, y)
    moved = {key: copies[key] + module.weight.detach() - initial[key] for key, module in linear_layers(model).items()}
    with independent_backward(model, moved):
        _, fresh = gradients(model, x, y)
    for key, grad in late.items():
        torch.testing.assert_close(grad, fresh[key], rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("name", ["convolutions", "attention", "shared"])
def test_the_forward_pass_and_the_model_stay(name):
    model, x, y = network(name)
    before, keys = copy.deepcopy(model.state_dict()), list(model.state_dict())
    plain, grads = gradients(copy.deepcopy(model), x, y)
    with independent_backward(model, others(model)):
        loss, changed = gradients(copy.deepcopy(model), x, y)
    assert torch.equal(loss, plain)
    assert list(model.state_dict()) == keys
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())
    assert len(grads) == len(changed)


def test_hooks_come_off_after_failures():
    model, x, _ = network("shared")

    def fail():
        with independent_backward(model, others(model)):
            model(x)
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fail()
    with pytest.raises(InvalidValueError), independent_backward(model, {**others(model), "4": torch.ones(1)}):
        pass
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in model.modules())


def test_what_cannot_be_replaced_is_refused():
    model = nn.Sequential(nn.LayerNorm(3), weight_norm(nn.Linear(3, 3)))
    with pytest.raises(InvalidTypeError, match="'0' is no linear"), independent_backward(model, {"0": torch.ones(3)}):
        pass
    with pytest.raises(InvalidTypeError, match="parametrization"), independent_backward(model, {"1": torch.ones(3, 3)}):
        pass
