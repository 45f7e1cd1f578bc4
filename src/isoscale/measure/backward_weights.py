"""Backpropagation with independent backward weights: the gradient-independence assumption on a real network.

The forward pass is untouched. In the backward pass each chosen layer hands its input the gradient by another weight,

    W_b = W~ + (W - W_0),

where W_0 is its weight when the context begins and W~ an independent one: a copy that receives the same updates,
whatever optimizer makes them. With W~ = W_0 this is backpropagation, bit by bit (docs/theory.md, section 2).
"""

from __future__ import annotations

import contextlib
import copy
from collections.abc import Generator, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils.parametrize import is_parametrized

from isoscale.errors import InvalidTypeError, InvalidValueError
from isoscale.measure.tools.observe import linear_layers


@contextlib.contextmanager
def independent_backward(model: nn.Module, weights: Mapping[str, Tensor]) -> Generator[None, None, None]:
    """While the context lasts, `backward` uses a weight of its own in each of the layers.

    Args:
        model: The network, trained inside the context or not.
        weights: The independent initial weight W~ of linear and convolution modules, by the module's name.

    Raises:
        InvalidTypeError: Not a linear or convolution module, or one whose weight is computed from others.
        InvalidValueError: A weight of another shape.

    >>> model = nn.Linear(2, 1, bias=False)
    >>> _ = nn.init.ones_(model.weight)
    >>> x = torch.ones(1, 2, requires_grad=True)
    >>> with independent_backward(model, {"": torch.tensor([[3.0, 4.0]])}):
    ...     model(x).sum().backward()
    >>> x.grad, model.weight.grad
    (tensor([[3., 4.]]), tensor([[1., 1.]]))
    """
    linear = linear_layers(model)
    with contextlib.ExitStack() as hooks:
        for name, weight in weights.items():
            swap = _Swap(_checked(name, linear, weight), weight)
            for handle in swap.register():
                hooks.callback(handle.remove)
        yield


class _Swap:
    """The hooks of one layer: y = W x.detach() + (W_b x - (W_b x).detach()), whose value is W x to the last bit."""

    def __init__(self, module: nn.Module, weight: Tensor) -> None:
        self.module = module
        # A copy runs the same formula with the other weight; being no part of the model, nothing else sees it.
        self.shadow = copy.deepcopy(module).requires_grad_(False)
        self.offset = weight.detach().to(self._weight()) - self._weight()
        self.input: Tensor | None = None

    def register(self) -> list[torch.utils.hooks.RemovableHandle]:
        return [
            self.module.register_forward_pre_hook(self.detach),
            self.module.register_forward_hook(self.attach),
        ]

    def detach(self, module: nn.Module, inputs: tuple[Tensor, ...]) -> tuple[Any, ...] | None:
        x, *rest = inputs
        # Without a gradient to hand on (the first layer's input, `no_grad`) the call stays as it is.
        if not (torch.is_grad_enabled() and x.requires_grad):
            self.input = None
            return None
        self.input = x
        return (x.detach(), *rest)

    def attach(self, module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> Tensor | None:
        if self.input is None:
            return None
        # A weight that backward still needs must not be overwritten: every pass gets its own.
        self.shadow.weight = nn.Parameter(self._weight() + self.offset, requires_grad=False)
        # The first term has the weight's gradient and none in x, the second the gradient in x by W_b.
        other = self.shadow.forward(self.input, *inputs[1:])
        return output + (other - other.detach())

    def _weight(self) -> Tensor:
        weight = self.module.weight
        assert isinstance(weight, Tensor)
        return weight.detach()


def _checked(name: str, linear: Mapping[str, nn.Module], weight: Tensor) -> nn.Module:
    if name not in linear:
        raise InvalidTypeError(f"{name!r} is no linear or convolution module of the model; there are: {list(linear)}")
    module = linear[name]
    if is_parametrized(module) or hasattr(module, "weight_g"):
        raise InvalidTypeError(
            f"the weight of {name!r} is computed from other tensors: remove its parametrization first"
        )
    own = module.weight
    if not isinstance(own, Tensor) or own.shape != weight.shape:
        raise InvalidValueError(
            f"the backward weight of {name!r} must have its weight's shape, got {tuple(weight.shape)}"
        )
    return module
