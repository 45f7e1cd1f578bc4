"""A multiplier in the forward pass, for the places where none can be folded into init and learning rate."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from isoscale.errors import InvalidTypeError
from isoscale.graph.unwrapping import unwrapped


class Multiplier(nn.Module):
    """x -> factor * x; `isoscale.parametrize` sets the factor, 1 until then.

    A rule's multiplier is normally folded into a weight's init and learning rate. That fails where one tensor
    serves two roles (tied embeddings), and where a branch ends in an operation that is not linear. Put a
    Multiplier there: in your own forward, or before or after a module of a model that you do not want to edit.

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
        """A Multiplier on the first input of a module, by a forward pre-hook: the module's code stays as it is.

        Of a Sequential, on that of its first module. A module that has one keeps it.

        Raises:
            InvalidTypeError: A container of modules, or a Sequential whose first module runs once more in it.
        """
        return _attached(cls, module, _INPUT)

    @classmethod
    def after(cls, module: nn.Module) -> Multiplier:
        """A Multiplier on the output of a module, by a forward hook; of a tuple or list, on the first of its values.

        Of a Sequential, on that of its last module. A module that has one keeps it.

        Raises:
            InvalidTypeError: A container of modules, or a Sequential whose last module runs once more in it; at the
                first call, a module that returns neither a tensor nor a tuple of tensors.

        >>> import torch
        >>> norm = nn.LayerNorm(2)
        >>> Multiplier.after(norm).factor = 0.5
        >>> norm(torch.tensor([1.0, -1.0])).abs().mean().item() < 0.51, list(norm.state_dict())
        (True, ['weight', 'bias'])
        """
        return _attached(cls, module, _OUTPUT)


_INPUT = "input_multiplier"
_OUTPUT = "output_multiplier"


def _attached(cls: type[Multiplier], module: nn.Module, name: str) -> Multiplier:
    module = _holder(module, 0 if name == _INPUT else -1)
    there = module._modules.get(name)
    if isinstance(there, Multiplier):
        return there
    multiplier = cls()
    module.add_module(name, multiplier)
    if name == _INPUT:
        module.register_forward_pre_hook(_multiply_first_input)
    else:
        module.register_forward_hook(_multiply_output)
    return multiplier


def _holder(module: nn.Module, end: int) -> nn.Module:
    """The module that can hold another without running it by itself: of a Sequential its first or last one."""
    whole = module
    # Of a wrapped module the one inside, which keeps its hooks if the wrapper goes.
    module = unwrapped(module)
    while isinstance(module, nn.Sequential) and type(module).forward is nn.Sequential.forward and len(module):
        module = unwrapped(module[end])
    times = sum(inner is module for _, inner in whole.named_modules(remove_duplicate=False))
    if times > 1 or isinstance(module, nn.Sequential | nn.ModuleList | nn.ModuleDict):
        why = f"runs {times} times in it" if times > 1 else "runs or hands on whatever it holds"
        raise InvalidTypeError(
            f"isoscale.Multiplier cannot be put on {type(whole).__name__}: {type(module).__name__} {why}. Put it on "
            "another module, or an isoscale.Multiplier() into the forward"
        )
    return module


def _multiply_first_input(module: nn.Module, args: tuple[Any, ...]) -> tuple[Any, ...]:
    multiplier = module.get_submodule(_INPUT)
    return (multiplier(args[0]), *args[1:])


def _multiply_output(module: nn.Module, args: tuple[Any, ...], output: Any) -> Any:
    multiplier = module.get_submodule(_OUTPUT)
    if isinstance(output, Tensor):
        return multiplier(output)
    if isinstance(output, tuple | list) and output and isinstance(output[0], Tensor):
        values = [multiplier(output[0]), *output[1:]]
        # A named tuple takes its fields one by one.
        return type(output)(*values) if hasattr(output, "_fields") else type(output)(values)
    raise InvalidTypeError(
        f"isoscale.Multiplier.after({type(module).__name__}): it returns {type(output).__name__}, neither a tensor nor "
        "a tuple that begins with one; put the Multiplier after a module that does, or into the forward"
    )
