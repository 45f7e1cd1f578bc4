"""The computation graph of a module's forward pass, recorded without computing it.

The forward runs once on fake tensors (shapes without numbers), so a model of any size, on the meta device too,
is traced in about the time that its Python takes. A forward that needs numbers (a data-dependent branch, `.item()`)
runs on the real weights instead, if there are any. The module is left as it was found.
"""

from __future__ import annotations

import contextlib
import functools
import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_iter, tree_map_only

from isoscale.errors import InvalidTypeError, TraceError
from isoscale.graph.graph import Graph
from isoscale.graph.multiplier import Multiplier
from isoscale.graph.recorder import Recorder
from isoscale.graph.swapping import restored, swapped

_BY_HAND = 'Give roles by hand: `roles={"pattern.*": isoscale.Role.HIDDEN, ...}`'
_OR_BY_HAND = f"Or g{_BY_HAND[1:]}"


def trace(model: nn.Module, example_inputs: Sequence[Any] | Mapping[str, Any]) -> Graph:
    """Record one forward pass.

    Args:
        model: Any module; it may live on the meta device.
        example_inputs: Positional arguments of `forward`, or a mapping of keyword arguments. Their values only
            matter where the forward looks at them.

    Raises:
        TraceError: The forward fails, is TorchScript, or needs numbers that the model does not have (meta device).

    >>> graph = trace(nn.Linear(3, 2, bias=False), (torch.zeros(1, 3),))
    >>> [node.op for node in graph.nodes], graph.nodes[1].uses[0].name
    (['input', 'mm'], 'weight')
    """
    from torch._subclasses.fake_tensor import DataDependentOutputException, DynamicOutputShapeException

    args, kwargs = _arguments(example_inputs)
    _check_not_scripted(model)
    try:
        return _record_fake(model, args, kwargs)
    except (DataDependentOutputException, DynamicOutputShapeException) as error:
        if any(tensor.is_meta for tensor in model.state_dict(keep_vars=True).values()):
            raise TraceError(
                f"cannot trace {type(model).__name__}: `{error.func}` needs the numbers of a tensor, and the model is "
                f"on the meta device. Trace a model with weights, or a smaller one. {_BY_HAND}"
            ) from error
        return _record_real(model, args, kwargs)


def _arguments(example_inputs: Any) -> tuple[tuple[Any, ...], dict[str, Any]]:
    if isinstance(example_inputs, Mapping):
        return (), dict(example_inputs)
    if isinstance(example_inputs, Tensor):
        return (example_inputs,), {}
    if not isinstance(example_inputs, Sequence) or isinstance(example_inputs, str):
        raise InvalidTypeError(
            "`example_inputs` must be a tuple of forward's arguments or a mapping of its keyword arguments, "
            f"got {type(example_inputs).__name__}"
        )
    return tuple(example_inputs), {}


def _check_not_scripted(model: nn.Module) -> None:
    for name, module in model.named_modules():
        if isinstance(module, torch.jit.ScriptModule):
            which = f"`{name}`" if name else "the model"
            raise TraceError(
                f"cannot trace {type(model).__name__}: {which} is TorchScript, whose operations cannot be followed. "
                f"Trace the module before torch.jit. {_OR_BY_HAND}"
            )


def _record_fake(model: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Graph:
    from torch._subclasses.fake_tensor import FakeTensorMode

    # Where the weights are, so that torch picks the operations that it would pick in training; a model on the meta
    # device is traced as one on the CPU.
    device = torch.device("cpu")
    for tensor in _state(model).values():
        if not tensor.is_meta:
            device = tensor.device
            break

    def fake(tensor: Tensor) -> Tensor:
        return torch.empty_strided(tensor.shape, tensor.stride(), dtype=tensor.dtype, device=device)

    with FakeTensorMode(allow_non_fake_inputs=True), _one_report():
        return _record(model, fake, args, kwargs)


def _record_real(model: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Graph:
    # What the forward writes in place goes to the copies.
    def copied(tensor: Tensor) -> Tensor:
        return tensor.detach().clone()

    with torch.random.fork_rng():
        return _record(model, copied, args, kwargs)


def _record(
    model: nn.Module, stand_in: Callable[[Tensor], Tensor], args: tuple[Any, ...], kwargs: dict[str, Any]
) -> Graph:
    """Run the forward on stand-ins of all tensors under a recorder."""
    tensors: dict[str, Tensor] = {}
    for name, tensor in _state(model).items():
        tensors[name] = stand_in(tensor)
        # What somebody has attached to a tensor, as mup its base shape, a forward may read.
        vars(tensors[name]).update(vars(tensor))
    args, kwargs = tree_map_only(Tensor, stand_in, (args, kwargs))
    recorder = Recorder()
    for name, _ in model.named_parameters():
        recorder.add_parameter(name, tensors[name])
    for name, own in model.named_buffers():
        recorder.add_buffer(tensors[name], own)
    for value in tree_iter((args, kwargs)):
        if isinstance(value, Tensor):
            recorder.add_input(value)
    # Entered first and left last: `restored` takes back the hooks and flags that are set inside as well.
    with restored(model), swapped(model, tensors), _as_for_inference(model), torch.no_grad():
        _report_calls(model, recorder)
        try:
            with recorder:
                out = model(*args, **kwargs)
        except Exception as error:
            from torch._subclasses.fake_tensor import DataDependentOutputException, DynamicOutputShapeException

            # Not the forward's fault: fake tensors have no numbers.
            if isinstance(error, DataDependentOutputException | DynamicOutputShapeException):
                raise
            raise TraceError(
                f"{type(model).__name__}.forward fails on the example inputs: {type(error).__name__}: "
                f"{str(error).rstrip('.')}. Give inputs that it takes. {_OR_BY_HAND}"
            ) from error
    return recorder.graph(out)


def _state(model: nn.Module) -> dict[str, Tensor]:
    """Each parameter and buffer once, by the first of its names."""
    return {**dict(model.named_parameters()), **dict(model.named_buffers())}


@contextlib.contextmanager
def _one_report() -> Iterator[None]:
    """Keep torch from logging, over thirty lines, an operation's failure that is raised as well."""
    log = logging.getLogger("torch._subclasses.fake_tensor")
    before, log.disabled = log.disabled, True
    try:
        yield
    finally:
        log.disabled = before


@contextlib.contextmanager
def _as_for_inference(model: nn.Module) -> Iterator[None]:
    """Dropout and the like off, and no fused inference path that would hide a layer's parts.

    The flags are set one by one and not by `model.eval()`, which some models override: there it may merge weights.
    """
    fastpath = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        for module in model.modules():
            module.training = False
        yield
    finally:
        torch.backends.mha.set_fastpath_enabled(fastpath)


def _report_calls(model: nn.Module, recorder: Recorder) -> None:
    """Have each submodule say which values it was given and returned, and each Multiplier that it was one.

    The hooks are not removed here; see `restored`.
    """

    def report(module: nn.Module, args: Any, out: Any, name: str) -> None:
        recorder.module_called(name, args, out)
        if isinstance(module, Multiplier):
            recorder.multiplier_called(name, out)

    for name, module in model.named_modules():
        if name:
            module.register_forward_hook(functools.partial(report, name=name))
