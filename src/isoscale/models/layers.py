"""Layers that also run as a stack: the same forward for one model and for many.

Each layer's parameters may carry a leading `members` axis, and its input then carries one too.
Members never mix, so a model whose parameters are stacked is an ensemble of independent models.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, Literal, get_args

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn

from isoscale.errors import InvalidValueError, unknown

Phi = Literal["relu", "tanh", "gelu", "linear"]
Norm = Literal["layer", "rms"]

_PHI: dict[str, Callable[[Tensor], Tensor]] = {
    "relu": torch.relu,
    "tanh": torch.tanh,
    "gelu": F.gelu,
    "linear": lambda z: z,
}


# phi(c z) = c phi(z) for every c > 0.
HOMOGENEOUS = frozenset(("relu", "linear"))


def activation(name: str) -> Callable[[Tensor], Tensor]:
    """The activation of that name; raises InvalidValueError naming the nearest."""
    if name not in _PHI:
        raise unknown("activation (`phi`)", name, _PHI)
    return _PHI[name]


# E phi(g), g ~ N(0, 1): what `centred` subtracts.
_MEAN = {"relu": 1 / math.sqrt(2 * math.pi), "gelu": 1 / (2 * math.sqrt(math.pi)), "tanh": 0.0, "linear": 0.0}


def centred(name: str) -> Callable[[Tensor], Tensor]:
    """The activation less its mean under a unit Gaussian: 1/sqrt(2 pi) for relu, 1/(2 sqrt(pi)) for gelu."""
    phi, mean = activation(name), _MEAN[name]
    return (lambda z: phi(z) - mean) if mean else phi


class _StackedLinear(torch.autograd.Function):
    """x W^T member by member. Autograd's own bmm backward leaves the weight's gradient transposed in
    memory, which makes every optimizer step stride through it; here it is laid out like the weight."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor) -> Tensor:
        ctx.save_for_backward(x, weight)
        return torch.bmm(x, weight.mT)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, Tensor]:
        (grad,) = grads
        x, weight = ctx.saved_tensors
        grad_x = torch.bmm(grad, weight) if ctx.needs_input_grad[0] else None
        return grad_x, torch.bmm(grad.mT, x)


class Linear(nn.Linear):
    """A map with entries N(0, 1/fan_in), weight (out, in) or (members, out, in); a bias starts at 0."""

    def __init__(
        self,
        in_features: int,
        out_features: int,
        *,
        bias: bool = False,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__(in_features, out_features, bias=bias, device=device, dtype=dtype)

    def reset_parameters(self, generator: torch.Generator | None = None) -> None:
        """Draw the weight from `generator`.

        nn.Linear's constructor calls this without one: then nothing is drawn, because the global
        generator is not ours to advance.
        """
        if generator is not None:
            fill_normal_(self.weight, 1 / math.sqrt(self.in_features), generator)
            if self.bias is not None:
                nn.init.zeros_(self.bias)

    def forward(self, input: Float[Tensor, "*batch fan_in"]) -> Float[Tensor, "*batch fan_out"]:
        if self.weight.dim() == 2:
            return F.linear(input, self.weight, self.bias)
        rows = input if input.dim() == 3 else input.flatten(1, -2)
        output = _StackedLinear.apply(rows, self.weight)
        if self.bias is not None:
            output = output + _per_unit(self.bias, output)
        return output if input.dim() == 3 else output.unflatten(1, input.shape[1:-1])


class Embedding(nn.Embedding):
    """A row of N(0, 1) entries a token: one row is looked up, so fan_in is 1.

    Weight (tokens, width) or (members, tokens, width); a stack's input has the members' axis first.
    """

    def reset_parameters(self, generator: torch.Generator | None = None) -> None:
        """Draw the weight from `generator`; without one nothing is drawn (see `Linear`)."""
        if generator is not None:
            fill_normal_(self.weight, 1.0, generator)

    def forward(self, input: Int[Tensor, "*batch time"]) -> Float[Tensor, "*batch time width"]:
        if self.weight.dim() == 2:
            return F.embedding(input, self.weight)
        member = torch.arange(len(self.weight), device=input.device)
        return self.weight[member.view(-1, *[1] * (input.dim() - 1)), input]


class LayerNorm(nn.LayerNorm):
    """Layer norm with gain and bias of shape (width,) or (members, width)."""

    def forward(self, input: Float[Tensor, "*batch width"]) -> Float[Tensor, "*batch width"]:
        normed = F.layer_norm(input, self.normalized_shape, eps=self.eps)
        return normed * _per_unit(self.weight, normed) + _per_unit(self.bias, normed)


class RMSNorm(nn.RMSNorm):
    """RMS norm with a gain of shape (width,) or (members, width)."""

    def forward(self, x: Float[Tensor, "*batch width"]) -> Float[Tensor, "*batch width"]:
        return F.rms_norm(x, self.normalized_shape, eps=self.eps) * _per_unit(self.weight, x)


_NORMS = {"layer": LayerNorm, "rms": RMSNorm}


def make_norm(
    name: str | None, width: int, *, device: torch.device | str | None, dtype: torch.dtype | None
) -> nn.Module:
    """The norm of that name over `width` units; None gives the identity."""
    if name is None:
        return nn.Identity()
    if name not in _NORMS:
        raise InvalidValueError(f"`norm` must be one of {', '.join(get_args(Norm))} or None, got {name!r}")
    return _NORMS[name](width, device=device, dtype=dtype)


def fill_normal_(tensor: Tensor, std: float, generator: torch.Generator) -> None:
    """Fill with N(0, std^2). Drawn in float64 on the generator's device, so that a seed means the
    same network in every precision and on every device."""
    if tensor.is_meta:
        return
    draw = torch.randn(tensor.shape, generator=generator, dtype=torch.float64, device=generator.device)
    with torch.no_grad():
        tensor.copy_(draw.mul_(std))


def _per_unit(vector: Tensor, like: Tensor) -> Tensor:
    if vector.dim() == 1:
        return vector
    return vector.view(len(vector), *[1] * (like.dim() - 2), -1)
