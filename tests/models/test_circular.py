"""Circular convolution and padding against torch's own, and their derivatives against finite differences."""

import pytest
import torch
import torch.nn.functional as F

from isoscale.models.circular import circular_conv, circular_pad

F64 = torch.float64
LAYOUTS = [torch.contiguous_format, torch.channels_last]

# torch's own, on the first use of forward mode
pytestmark = pytest.mark.filterwarnings("ignore:`torch.jit.script` is deprecated:DeprecationWarning")


def sample(*shape, seed=1):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=F64)


def by_torch(x, weight, groups=1):
    rows, columns = ((size - 1) // 2 for size in weight.shape[2:])
    padded = F.pad(x, (columns, weight.shape[3] // 2, rows, weight.shape[2] // 2), mode="circular")
    return F.conv2d(padded, weight, groups=groups)


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("kernel", [(3, 3), (4, 4), (5, 5), (1, 3), (1, 4), (3, 4), (1, 1)])
@pytest.mark.parametrize("groups", [1, 3])
@pytest.mark.parametrize("first", [True, False])
def test_convolution_and_its_gradients_are_torchs(kernel, groups, layout, first):
    """`first`: the input of a network, whose own gradient nobody asks for."""
    x = sample(2, 2 * groups, 4, 5).contiguous(memory_format=layout).requires_grad_(not first)
    weight = sample(3 * groups, 2, *kernel, seed=2).requires_grad_()
    output, expected = circular_conv(x, weight, groups), by_torch(x, weight, groups)
    torch.testing.assert_close(output, expected)
    assert output.is_contiguous(memory_format=layout)
    wanted, grad = [weight] if first else [weight, x], sample(*output.shape, seed=3)
    for ours, theirs in zip(
        torch.autograd.grad(output, wanted, grad), torch.autograd.grad(expected, wanted, grad), strict=True
    ):
        torch.testing.assert_close(ours, theirs)
        assert first or ours is not theirs


@pytest.mark.parametrize("kernel", [(3, 3), (1, 4)])
@pytest.mark.parametrize("groups", [1, 2])
def test_derivatives_of_a_convolution(kernel, groups):
    x, weight = sample(2, 2 * groups, 2, 3).requires_grad_(), sample(groups, 2, *kernel, seed=2).requires_grad_()

    def conv(x, weight):
        return circular_conv(x, weight, groups)

    assert torch.autograd.gradcheck(conv, (x, weight), check_forward_ad=True, check_batched_grad=True)
    assert torch.autograd.gradgradcheck(conv, (x, weight), check_fwd_over_rev=True)


def test_tangents_of_either_argument_alone():
    x, weight = sample(2, 2, 3, 4), sample(3, 2, 3, 3, seed=2)
    dx, dweight = sample(2, 2, 3, 4, seed=3), sample(3, 2, 3, 3, seed=4)
    for function, point, tangent in (
        (lambda x: circular_conv(x, weight), x, dx),
        (lambda weight: circular_conv(x, weight), weight, dweight),
    ):
        _, slope = torch.func.jvp(function, (point,), (tangent,))
        torch.testing.assert_close(slope, function(tangent))


def test_convolution_under_autocast():
    x, weight = sample(2, 16, 6, 6).float().requires_grad_(), sample(16, 16, 3, 3, seed=2).float().requires_grad_()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        output = circular_conv(x, weight)
    assert output.dtype == torch.bfloat16
    # Entries of size sqrt(144) each off by 2^-9 of themselves, and so are the 144 terms' two factors.
    torch.testing.assert_close(output.float(), by_torch(x, weight), rtol=0, atol=6 * 12 * 2.0**-8)
    grads = torch.autograd.grad(output.sum(), (x, weight))
    assert [grad.dtype for grad in grads] == [torch.float32, torch.float32]


@pytest.mark.parametrize("margins", [((1, 1), (1, 1)), ((1, 2), (1, 2)), ((0, 1), (2, 0)), ((0, 0), (2, 2))])
@pytest.mark.parametrize("layout", LAYOUTS)
def test_images_are_padded_as_by_torch(margins, layout):
    x = sample(2, 3, 4, 5).contiguous(memory_format=layout)
    padded = circular_pad(x, margins)
    assert torch.equal(padded, F.pad(x, (*margins[1], *margins[0]), mode="circular"))
    assert padded.is_contiguous(memory_format=layout)


def test_derivatives_of_padding():
    def pad(x):
        return circular_pad(x, ((1, 2), (0, 1)))

    x = sample(2, 2, 3, 3).requires_grad_()
    assert torch.autograd.gradcheck(pad, x, check_forward_ad=True, check_batched_grad=True)
    assert torch.autograd.gradgradcheck(lambda x: pad(x).square(), x, check_fwd_over_rev=True)


@pytest.mark.parametrize("weights", [1, 4])
def test_inside_functional_transforms(weights):
    x, t = sample(4, 5, 2, 3, 3), sample(4, 5, 2, 3, 3, seed=2)
    weight = sample(weights, 3, 2, 3, 3, seed=3)

    def energy(x, weight):
        return circular_conv(x, weight).square().sum()

    axes = (0, None if weights == 1 else 0)
    each = torch.func.vmap(torch.func.grad(energy), axes)(x, weight[0] if weights == 1 else weight)
    for index, gradient in enumerate(each):
        own = weight[index % weights]
        torch.testing.assert_close(gradient, torch.func.grad(energy)(x[index], own))
        value, slope = torch.func.jvp(lambda x, own=own: energy(x, own), (x[index],), (t[index],))
        torch.testing.assert_close(slope, (gradient * t[index]).sum())
        torch.testing.assert_close(value, energy(x[index], own))
