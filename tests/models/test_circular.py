"""Circular padding against torch's own, and its derivatives of every kind against finite differences."""

import pytest
import torch
import torch.nn.functional as F

from isoscale.models.circular import circular_pad

F64 = torch.float64

# torch's own, on the first use of forward mode
pytestmark = pytest.mark.filterwarnings("ignore:`torch.jit.script` is deprecated:DeprecationWarning")


def sample(*shape):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(1), dtype=F64)


@pytest.mark.parametrize(("before", "after"), [(1, 1), (1, 2), (2, 2), (0, 1), (3, 3)])
@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_images_are_padded_as_by_torch(before, after, layout):
    x = sample(2, 3, 4, 5).contiguous(memory_format=layout)
    padded = circular_pad(x, before, after, dims=2)
    assert torch.equal(padded, F.pad(x, (before, after) * 2, mode="circular"))
    assert padded.is_contiguous(memory_format=layout)


def test_sequences_are_padded_as_by_torch():
    x = sample(2, 3, 5)
    assert torch.equal(circular_pad(x, 1, 2, dims=1), F.pad(x, (1, 2), mode="circular"))


@pytest.mark.parametrize("dims", [1, 2])
def test_derivatives(dims):
    def pad(x):
        return circular_pad(x, 1, 2, dims)

    x = sample(2, 2, *[3] * dims).requires_grad_()
    assert torch.autograd.gradcheck(pad, x, check_forward_ad=True, check_batched_grad=True)
    assert torch.autograd.gradgradcheck(lambda x: pad(x).square(), x, check_fwd_over_rev=True)


def test_gradient_keeps_channels_last_and_leaves_its_input_alone():
    x = sample(2, 3, 4, 4).contiguous(memory_format=torch.channels_last).requires_grad_()
    grad = sample(2, 3, 6, 6).contiguous(memory_format=torch.channels_last)
    before = grad.clone()
    (folded,) = torch.autograd.grad(circular_pad(x, 1, 1, dims=2), x, grad)
    assert torch.equal(grad, before)
    assert folded.is_contiguous(memory_format=torch.channels_last)
    (expected,) = torch.autograd.grad(F.pad(x, (1, 1, 1, 1), mode="circular"), x, grad)
    torch.testing.assert_close(folded, expected)


def test_inside_functional_transforms():
    x, t = sample(4, 2, 3, 3), sample(4, 2, 3, 3)

    def energy(x):
        return circular_pad(x, 1, 1, dims=2).square().sum()

    each = torch.func.vmap(torch.func.grad(energy))(x)
    torch.testing.assert_close(each, torch.func.grad(energy)(x))
    value, slope = torch.func.jvp(energy, (x,), (t,))
    torch.testing.assert_close(slope, (each * t).sum())
    torch.testing.assert_close(value, energy(x))
