"""Modules of one shape as one batched program, by `torch.vmap`: a tensor a layer holds those of all members.

One forward and one backward pass serve them all. Members never mix: each one's loss depends on its own tensors alone.
"""

from __future__ import annotations

import contextlib
import copy
import warnings
from collections.abc import Callable, Generator, Sequence
from typing import Any, Literal

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from isoscale.errors import InvalidValueError
from isoscale.graph.multiplier import Multiplier
from isoscale.graph.swapping import swapped

# loss(model, x, y), one number.
MemberLoss = Callable[[nn.Module, Any, Any], Tensor]


class ModuleStack:
    """Copies of the tensors of several models, which stay as they are.

    Attributes:
        params, buffers: Each tensor of all members, by name, (members, ...). Of the parameters, those that are trained
            require a gradient; what a forward writes into a buffer is written here.

    Args:
        models: Of one architecture, with weights of their own.

    Raises:
        InvalidValueError: Models that differ in more than their tensors.
    """

    def __init__(self, models: Sequence[nn.Module]) -> None:
        _check_alike(models)
        # A forward may keep something for its next call: that is the stack's own.
        self.skeleton = copy.deepcopy(models[0])
        self.params: dict[str, Tensor] = {}
        for name, param in models[0].named_parameters():
            tensors = torch.stack([model.get_parameter(name).detach() for model in models])
            self.params[name] = tensors.requires_grad_(param.requires_grad)
        self.buffers: dict[str, Tensor] = {}
        for name, _ in models[0].named_buffers():
            self.buffers[name] = torch.stack([model.get_buffer(name).detach() for model in models])

    @property
    def trained(self) -> dict[str, Tensor]:
        """The parameters that require a gradient."""
        return {name: param for name, param in self.params.items() if param.requires_grad}

    def losses(
        self, loss: MemberLoss, x: Any, y: Any, *, is_shared: bool, randomness: Literal["error", "same"] = "error"
    ) -> Float[Tensor, " members"]:
        """Each member's loss.

        Args:
            loss: loss(model, x, y), one number.
            x, y: One batch for all (`is_shared`), or their batches along a first axis of each tensor.
            is_shared: Which.
            randomness: "same": dropout has one mask for all; "error": it raises.

        Raises:
            RuntimeError, ValueError, TypeError: Something that `torch.vmap` does not take, or what `loss` raises.
        """

        def of_one(params: dict[str, Tensor], buffers: dict[str, Tensor], x: Any, y: Any) -> Tensor:
            with swapped(self.skeleton, params | buffers):
                return loss(self.skeleton, x, y).reshape(())

        of_batch = None if is_shared else 0
        together = torch.vmap(of_one, in_dims=(0, 0, of_batch, of_batch), randomness=randomness)
        with plain_attention(), warnings.catch_warnings():
            # An operation without a batching rule is done copy by copy, which vmap warns of.
            warnings.filterwarnings("ignore", "There is a performance drop", UserWarning)
            return together(self.params, self.buffers, x, y)

    def gradients(self, losses: Float[Tensor, " members"]) -> list[Tensor | None]:
        """Each member's gradient in each tensor of `trained`; None of a tensor that no loss depends on."""
        # The sum's gradient is each member's own: no member's tensors enter another's loss.
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "There is a performance drop", UserWarning)
            return list(torch.autograd.grad(losses.sum(), list(self.trained.values()), allow_unused=True))

    def keep(self, members: Sequence[int]) -> None:
        """Go on with some members, given by their places."""
        places = list(members)
        for name, param in self.params.items():
            self.params[name] = param.detach()[places].requires_grad_(param.requires_grad)
        for name, buffer in self.buffers.items():
            self.buffers[name] = buffer[places]

    @torch.no_grad()
    def write(self, member: int, model: nn.Module) -> None:
        """Copy one member's tensors into a model."""
        for name, param in model.named_parameters():
            param.copy_(self.params[name][member])
        for name, buffer in model.named_buffers():
            buffer.copy_(self.buffers[name][member])


@contextlib.contextmanager
def plain_attention() -> Generator[None, None, None]:
    """Attention by its formula, without fused kernels: it has both kinds of derivative and one way to draw masks."""
    fast = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        with sdpa_kernel(SDPBackend.MATH):
            yield
    finally:
        torch.backends.mha.set_fastpath_enabled(fast)


def _check_alike(models: Sequence[nn.Module]) -> None:
    """Raise InvalidValueError if members differ in a number that is no tensor: a stack has one of it."""
    first = {name: module.factor for name, module in models[0].named_modules() if isinstance(module, Multiplier)}
    for model in models[1:]:
        for name, factor in first.items():
            other = model.get_submodule(name).factor
            if other != factor:
                raise InvalidValueError(f"`{name}` multiplies by {factor} and {other}: a stack has one factor")
