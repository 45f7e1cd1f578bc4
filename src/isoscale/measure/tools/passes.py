"""Passes through a model that leave no trace: on copies of its buffers, with random numbers of their own.

Parameters, their `.grad`, running statistics, the global generators and the training flag stay as they were; only
`training_step` and `descend` train.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Generator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from isoscale.errors import InvalidTypeError, InvalidValueError
from isoscale.graph.swapping import swapped
from isoscale.measure.tools.observe import maps, observe

LossFn = Callable[[Any, Any], Tensor]
Batch = tuple[Any, Any]


@contextlib.contextmanager
def seeded(seed: int) -> Generator[None, None, None]:
    """Global generators start from `seed` inside and come back afterwards: dropout repeats its masks."""
    accelerator = torch.accelerator.current_accelerator()
    devices = range(torch.accelerator.device_count())
    with torch.random.fork_rng(devices, device_type="cuda" if accelerator is None else accelerator.type):
        # Without an accelerator `torch.manual_seed` takes longer than a small network's step: it records its caller.
        (torch.manual_seed if devices else torch.random.default_generator.manual_seed)(seed)
        yield


def call(model: nn.Module, params: Mapping[str, Tensor], inputs: tuple[Any, ...], seed: int, **casts: Any) -> Any:
    """The model's output with these parameters; what it does to buffers is done to copies.

    Args:
        model: The network.
        params: Every parameter, by name.
        inputs: Positional arguments of the forward pass.
        seed: Equal seeds give equal dropout masks.
        **casts: What the copies of floating-point buffers are turned into, as in `Tensor.to`.
    """
    buffers = {name: _copy(buffer, **casts) for name, buffer in model.named_buffers()}
    with seeded(seed), _plain_attention(), swapped(model, {**params, **buffers}):
        return model(*inputs)


@contextlib.contextmanager
def _plain_attention() -> Generator[None, None, None]:
    """Attention by its formula, without fused kernels: it has both kinds of derivative and one way to draw masks."""
    fast = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        with sdpa_kernel(SDPBackend.MATH):
            yield
    finally:
        torch.backends.mha.set_fastpath_enabled(fast)


def parameters(model: nn.Module) -> dict[str, Tensor]:
    """The parameters as tensors of their own that share memory with the model's and know no gradient."""
    return {name: param.detach() for name, param in model.named_parameters()}


def loss_gradient(model: nn.Module, loss_fn: LossFn, batch: Batch, seed: int) -> tuple[Tensor, dict[str, Tensor]]:
    """The loss of a batch and its gradient in each parameter that requires one; zeros where it does not reach.

    Raises:
        InvalidTypeError: The loss is not one number.
        InvalidValueError: No parameter requires a gradient, or the loss depends on none of them.
    """
    x, y = batch
    trained = [name for name, param in model.named_parameters() if param.requires_grad]
    params = parameters(model)
    leaves = [params[name].requires_grad_() for name in trained]
    with torch.inference_mode(False), torch.enable_grad():
        loss = _one_number(loss_fn(call(model, params, (x,), seed), y))
        if not loss.requires_grad:
            raise InvalidValueError("the loss depends on no parameter that requires a gradient: nothing can be trained")
        grads = torch.autograd.grad(loss, leaves, allow_unused=True, materialize_grads=True)
    return loss.detach().reshape(()), dict(zip(trained, grads, strict=True))


def widest(tensor: Tensor) -> Tensor:
    """In the highest precision that its device has: squares of tiny changes underflow in the model's own."""
    return tensor.to(torch.float32 if tensor.device.type == "mps" else torch.float64)


def called_maps(model: nn.Module, x: Any) -> list[str]:
    """The linear and convolution modules that a pass calls, in order of their first calls."""
    called: list[str] = []
    with observe(model, maps(model), lambda name, *_: called.append(name)), torch.no_grad():
        call(model, parameters(model), (x,), seed=0)
    return list(dict.fromkeys(name.partition("@")[0] for name in called))


def training_step(model: nn.Module, optimizer: torch.optim.Optimizer, loss_fn: LossFn, batch: Batch, seed: int) -> None:
    """One real update on a batch, with the dropout masks of `seed`."""
    x, y = batch
    optimizer.zero_grad()
    with seeded(seed):
        loss_fn(model(x), y).backward()
        optimizer.step()


def descend(model: nn.Module, optimizers: Sequence[torch.optim.Optimizer], loss_fn: LossFn, batch: Batch) -> float:
    """One real update by several optimizers, each with tensors of its own; returns the loss before it."""
    x, y = batch
    for optimizer in optimizers:
        optimizer.zero_grad()
    loss = _one_number(loss_fn(model(x), y))
    loss.backward()
    for optimizer in optimizers:
        optimizer.step()
    return float(loss.detach())


def _one_number(loss: Any) -> Tensor:
    if not isinstance(loss, Tensor) or loss.numel() != 1:
        raise InvalidTypeError(f"`loss_fn(model(x), y)` must return one number as a tensor, got {_shape(loss)}")
    return loss


def _copy(buffer: Tensor, **casts: Any) -> Tensor:
    copy = buffer.detach().clone()
    return copy.to(**casts) if casts and copy.is_floating_point() else copy


def _shape(value: object) -> str:
    return f"a tensor of shape {tuple(value.shape)}" if isinstance(value, Tensor) else repr(value)
