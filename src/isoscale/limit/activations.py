"""Activations with their derivatives, by name or as given."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

from isoscale.errors import InvalidTypeError, unknown

Function = Callable[[Tensor], Tensor]
Slope = Callable[[Tensor, Tensor], Tensor]
"""The derivative at h, given phi(h) too: some derivatives are cheaper from there."""

Phi = str | Function | tuple[Function, Function]


def _tanh_slope(h: Tensor, a: Tensor) -> Tensor:
    return torch.addcmul(torch.ones((), dtype=a.dtype, device=a.device), a, a, value=-1.0)


def _step(h: Tensor, a: Tensor) -> Tensor:
    return (h > 0).to(h.dtype)


def _gelu_slope(h: Tensor, a: Tensor) -> Tensor:
    normal_cdf = (1 + torch.erf(h / math.sqrt(2))) / 2
    return normal_cdf + h * torch.exp(-h.square() / 2) / math.sqrt(2 * math.pi)


def _one(h: Tensor, a: Tensor) -> Tensor:
    return torch.ones_like(h)


def _identity(h: Tensor) -> Tensor:
    return h


NAMED: dict[str, tuple[Function, Slope]] = {
    "tanh": (torch.tanh, _tanh_slope),
    "relu": (torch.relu, _step),
    "gelu": (torch.nn.functional.gelu, _gelu_slope),
    "linear": (_identity, _one),
}


def resolve(phi: Phi) -> tuple[Function, Slope]:
    """The activation and its derivative.

    Args:
        phi: "tanh", "relu", "gelu", "linear", an elementwise function (differentiated by autograd), or a pair of
            elementwise functions: the activation and its derivative.

    Raises:
        InvalidValueError: The name is not known.
        InvalidTypeError: It is none of these.
    """
    if isinstance(phi, str):
        if phi not in NAMED:
            raise unknown("activation (`phi`)", phi, NAMED)
        return NAMED[phi]
    if isinstance(phi, tuple | list) and len(phi) == 2 and all(map(callable, phi)):
        return phi[0], lambda h, a: phi[1](h)
    if callable(phi):
        return phi, _differentiate(phi)
    raise InvalidTypeError(f"`phi` must be a name, a function or a pair (function, derivative), got {phi!r}")


def name(phi: Phi) -> str:
    """What to call it in a result's attributes."""
    function = phi if isinstance(phi, str) else phi[0] if isinstance(phi, tuple | list) else phi
    return function if isinstance(function, str) else getattr(function, "__name__", "custom")


def _differentiate(phi: Function) -> Slope:
    def slope(h: Tensor, a: Tensor) -> Tensor:
        with torch.enable_grad():
            point = h.detach().requires_grad_()
            return torch.autograd.grad(phi(point).sum(), point)[0]

    return slope
