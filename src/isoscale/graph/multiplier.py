"""A multiplier in the forward pass, for the places where none can be folded into init and learning rate."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn


class Multiplier(nn.Module):
    """x -> factor * x; `isoscale.parametrize` sets the factor, 1 until then.

    A rule's multiplier is normally folded into a weight's init and learning rate. That fails where one tensor
    serves two roles (tied embeddings), and where a branch ends in an operation that is not linear. Put a
    Multiplier there: in your own forward, or before a module of a model that you do not want to edit.

    It has no parameters and no buffers: `state_dict` does not change, and a plan sets the factor again after loading.

    Attributes:
        factor: What the input is multiplied by.

    Source: docs/theory.md, section 5, "Folding".

    >>> import torch
    >>> readout = nn.Linear(2, 2, bias=False)
    >>> multiplier = Multiplier.before(readout)
    >>> multiplier.factor = 0.5
    >>> x = torch.ones(1, 2)
    >>> torch.equal(readout(x), 0.5 * x @ readout.weight.T)
    True
    """

    def __init__(self) -> None:
        super().__init__()
        self.factor = 1.0

    def forward(self, input: Tensor) -> Tensor:
        return self.factor * input

    def extra_repr(self) -> str:
        return f"factor={self.factor:g}"

    @classmethod
    def before(cls, module: nn.Module) -> Multiplier:
        """A Multiplier on the first input of a module, by a forward pre-hook: the module's code stays as it is."""
        multiplier = cls()
        module.add_module("input_multiplier", multiplier)
        module.register_forward_pre_hook(_multiply_first_input)
        return multiplier


def _multiply_first_input(module: nn.Module, args: tuple[Any, ...]) -> tuple[Any, ...]:
    multiplier = module.get_submodule("input_multiplier")
    return (multiplier(args[0]), *args[1:])
