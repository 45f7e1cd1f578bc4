"""Passes through a model that leave no trace: on copies of its buffers, with random numbers of their own.

Parameters, their `.grad`, running statistics, the global generators and the training flag stay as they were; only
`descend` trains.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Generator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from isoscale.errors import InvalidTypeError, InvalidValueError
from isoscale.graph.swapping import swapped
from isoscale.measure.tools.observe import linear_layers, module_of, observe
from isoscale.training.module_stack import plain_attention

LossFn = Callable[[Any, Any], Tensor]
Batch = tuple[Any, Any]


@contextlib.contextmanager
def seeded(seed: int) -> Generator[None, None, None]:
    """Global generators start from `seed` inside and come back afterwards: dropout repeats its masks."""
    accelerator = torch.accelerator.current_accelerator()
    kind = "cuda" if accelerator is None else accelerator.type
    devices = range(torch.accelerator.device_count())
    with torch.random.fork_rng(devices, device_type=kind):
        if devices:
            torch.manual_seed(seed)
        else:
            # `torch.manual_seed` records its caller, which takes longer than a small network's step.
            torch.random.default_generator.manual_seed(seed)
        yield


def call(
    model: nn.Module,
    params: Mapping[str, Tensor],
    inputs: tuple[Any, ...] | Mapping[str, Any],
    seed: int,
    **casts: Any,
) -> Any:
    """The model's output with these parameters; what it does to buffers is done to copies.

    Args:
        model: The network.
        params: Every parameter, by name.
        inputs: Arguments of the forward pass: a tuple, or a mapping of keyword arguments.
        seed: Equal seeds give equal dropout masks.
        **casts: What the copies of floating-point buffers are turned into, as in `Tensor.to`.
    """
    # Running statistics and counters are written to in a pass, and so must be the pass's own.
    tensors = dict(params)
    for name, buffer in model.named_buffers():
        copied = buffer.detach().clone()
        if casts and copied.is_floating_point():
            copied = copied.to(**casts)
        tensors[name] = copied
    with seeded(seed), plain_attention(), swapped(model, tensors):
        if isinstance(inputs, Mapping):
            return model(**inputs)
        return model(*inputs)


def parameters(model: nn.Module) -> dict[str, Tensor]:
    """The parameters as tensors of their own that share memory with the model's and know no gradient."""
    return {name: param.detach() for name, param in model.named_parameters()}


def loss_gradient(
    model: nn.Module,
    loss_fn: LossFn,
    batch: Batch,
    seed: int,
) -> tuple[Tensor, dict[str, Tensor]]:
    """The loss of a batch and its gradient in each parameter that requires one; zeros where it does not reach.

    Raises:
        InvalidTypeError: The loss is not one number.
        InvalidValueError: No parameter requires a gradient, or the loss depends on none of them.
    """
    x, y = batch
    inputs = x if isinstance(x, (tuple, Mapping)) else (x,)
    # Leaves of their own: the model's `.grad` is not touched.
    params = parameters(model)
    trained = [name for name, param in model.named_parameters() if param.requires_grad]
    leaves = [params[name].requires_grad_() for name in trained]
    # A caller's `no_grad` or `inference_mode` must not switch the gradient off.
    with torch.inference_mode(False), torch.enable_grad():
        output = call(model, params, inputs, seed)
        loss = one_number(loss_fn(output, y))
        if not loss.requires_grad:
            raise InvalidValueError("the loss depends on no parameter that requires a gradient: nothing can be trained")
        grads = torch.autograd.grad(
            loss,
            leaves,
            allow_unused=True,
            materialize_grads=True,
        )
    by_name = dict(zip(trained, grads, strict=True))
    return loss.detach().reshape(()), by_name


def check_finite(loss: Tensor, grads: Mapping[str, Tensor]) -> None:
    """Raise InvalidValueError if a loss or its gradient is not finite."""
    if not loss.isfinite():
        raise InvalidValueError(f"the loss must be finite, got {loss.item()}: check the data and the initialisation")
    bad = [name for name, grad in grads.items() if not grad.isfinite().all()]
    if bad:
        raise InvalidValueError(
            f"the gradient is not finite in {len(bad)} of {len(grads)} tensors, the last of them {bad[-1]!r}: "
            "look for a division by the spread of constant activations, or a loss of too large outputs"
        )


def widest(tensor: Tensor) -> Tensor:
    """In the highest precision that its device has: squares of tiny changes underflow in the model's own."""
    dtype = torch.float32 if tensor.device.type == "mps" else torch.float64
    return tensor.to(dtype)


def mean_square(tensor: Tensor) -> Tensor:
    """The mean square of a tensor's entries, in the highest precision."""
    return widest(tensor).square().mean()


def called_layers(model: nn.Module, x: Any) -> list[str]:
    """The linear and convolution modules that a pass calls, in order of their first calls."""
    called: dict[str, None] = {}

    def see(name: str, inputs: tuple[Any, ...], output: Tensor) -> None:
        called[module_of(name)] = None

    with observe(model, linear_layers(model), see), torch.no_grad():
        call(model, parameters(model), (x,), seed=0)
    return list(called)


def descend(
    model: nn.Module,
    optimizers: Sequence[torch.optim.Optimizer],
    loss_fn: LossFn,
    batch: Batch,
) -> float:
    """One real update by several optimizers, each with tensors of its own; returns the loss before it."""
    x, y = batch
    for optimizer in optimizers:
        optimizer.zero_grad()
    # A caller's `no_grad` or `inference_mode` must not switch the gradient off.
    with torch.inference_mode(False), torch.enable_grad():
        loss = one_number(loss_fn(model(x), y))
        loss.backward()
    for optimizer in optimizers:
        optimizer.step()
    return float(loss.detach())


def one_number(loss: Any) -> Tensor:
    """The loss, if it is one number.

    Raises:
        InvalidTypeError: It is not.
    """
    if isinstance(loss, Tensor) and loss.numel() == 1:
        return loss
    got = repr(loss)
    if isinstance(loss, Tensor):
        got = f"a tensor of shape {tuple(loss.shape)}"
    raise InvalidTypeError(f"`loss_fn(model(x), y)` must return one number as a tensor, got {got}")
