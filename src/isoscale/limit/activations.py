"""Activations with their derivatives, by name or as given."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

from isoscale.errors import InvalidTypeError, unknown

Function = Callable[[Tensor], Tensor]
Derivative = Callable[[Tensor, Tensor], Tensor]
"""phi'(h) as a function of h and of phi(h): some derivatives are cheaper from the latter."""

Phi = str | Function | tuple[Function, Function]


def _tanh_derivative(h: Tensor, features: Tensor) -> Tensor:
    # tanh'(h) = 1 - tanh(h)^2
    one = torch.ones((), dtype=features.dtype, device=features.device)
    return torch.addcmul(one, features, features, value=-1.0)


def _relu_derivative(h: Tensor, features: Tensor) -> Tensor:
    return (h > 0).to(h.dtype)


def _gelu_derivative(h: Tensor, features: Tensor) -> Tensor:
    # phi(h) = h F(h) with F the standard normal distribution function, so phi'(h) = F(h) + h exp(-h^2/2) / sqrt(2 pi)
    normal_cdf = (1 + torch.erf(h / math.sqrt(2))) / 2
    weighted = h * torch.exp(-h.square() / 2)
    return normal_cdf + weighted / math.sqrt(2 * math.pi)


# erf(sqrt(pi) x / 2) has slope 1 at 0.
ERF_SCALE = math.sqrt(math.pi) / 2


def _erf(h: Tensor) -> Tensor:
    return torch.erf(ERF_SCALE * h)


def _erf_derivative(h: Tensor, features: Tensor) -> Tensor:
    return torch.exp(-(ERF_SCALE**2) * h.square())


def _linear_derivative(h: Tensor, features: Tensor) -> Tensor:
    return torch.ones_like(h)


def _identity(h: Tensor) -> Tensor:
    return h


NAMED: dict[str, tuple[Function, Derivative]] = {
    "tanh": (torch.tanh, _tanh_derivative),
    "relu": (torch.relu, _relu_derivative),
    "gelu": (torch.nn.functional.gelu, _gelu_derivative),
    "erf": (_erf, _erf_derivative),
    "linear": (_identity, _linear_derivative),
}

TORCH = (
    *("celu", "elu", "hardshrink", "hardsigmoid", "hardswish", "hardtanh", "leaky_relu", "logsigmoid", "mish", "relu6"),
    *("selu", "sigmoid", "silu", "softplus", "softshrink", "softsign", "tanhshrink"),
    *("arctan", "cos", "sin", "sinh", "square"),
)
"""Further elementwise functions of torch.nn.functional and torch, by their names there, differentiated by autograd."""


def resolve(phi: Phi) -> tuple[Function, Derivative]:
    """The activation and its derivative.

    Args:
        phi: "tanh", "relu", "gelu", "erf" (of slope 1 at 0), "linear" or another name of `TORCH`, an elementwise
            function (differentiated by autograd), or a pair of elementwise functions: the activation and its
            derivative.

    Raises:
        InvalidValueError: The name is not known.
        InvalidTypeError: It is none of these.
    """
    if isinstance(phi, str):
        if phi in NAMED:
            return NAMED[phi]
        if phi not in TORCH:
            raise unknown("activation (`phi`)", phi, [*NAMED, *TORCH])
        where = torch.nn.functional if hasattr(torch.nn.functional, phi) else torch
        function = getattr(where, phi)
        return function, _by_autograd(function)
    if isinstance(phi, tuple | list) and len(phi) == 2:
        function, derivative = phi
        if callable(function) and callable(derivative):
            return function, lambda h, features: derivative(h)
    if callable(phi):
        return phi, _by_autograd(phi)
    raise InvalidTypeError(f"`phi` must be a name, a function or a pair (function, derivative), got {phi!r}")


def name(phi: Phi) -> str:
    """Label of the activation in a result's attributes."""
    function = phi[0] if isinstance(phi, tuple | list) else phi
    if isinstance(function, str):
        return function
    return getattr(function, "__name__", "custom")


def _by_autograd(phi: Function) -> Derivative:
    def derivative(h: Tensor, features: Tensor) -> Tensor:
        with torch.enable_grad():
            point = h.detach().requires_grad_()
            # phi is elementwise, so the gradient of the sum holds each entry's own derivative.
            total = phi(point).sum()
            return torch.autograd.grad(total, point)[0]

    return derivative
