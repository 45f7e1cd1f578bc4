"""The computation graph of a module's forward pass, recorded without computing it.

The forward runs once on fake tensors (shapes without numbers), so a model of any size, on the meta device too,
is traced in about the time that its Python takes. A forward that fails on them (it looks at numbers, or calls what
knows nothing of fake tensors) runs on copies of the real weights instead, if there are any. The module is left as it
was found.
"""

from __future__ import annotations

import contextlib
import functools
import logging
import random
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from isoscale.errors import InvalidTypeError, TraceError
from isoscale.graph.constants import is_number
from isoscale.graph.graph import Graph, bits
from isoscale.graph.multiplier import Multiplier
from isoscale.graph.recorder import Recorder
from isoscale.graph.swapping import restored, swapped
from isoscale.graph.unwrapping import check_initialised, named_modules, named_parameters
from isoscale.graph.values import tensors_in, with_stand_ins

_BY_HAND = 'Give roles by hand: `roles={"pattern.*": isoscale.Role.HIDDEN, ...}`'
_OR_BY_HAND = f"Or g{_BY_HAND[1:]}"


def trace(model: nn.Module, example_inputs: Sequence[Any] | Mapping[str, Any]) -> Graph:
    """Record one forward pass.

    The modules run as for inference, without dropout. Where that leaves parameters out which the forward in training
    mode uses (auxiliary readouts), the latter is recorded, still without dropout and batch statistics.

    Args:
        model: Any module; it may live on the meta device.
        example_inputs: Positional arguments of `forward`, or a mapping of keyword arguments. Their values only
            matter where the forward looks at them. Tensors are also found in the fields of dataclasses and of other
            objects.

    Raises:
        TraceError: The forward fails, is TorchScript, cannot be followed, or needs numbers that the model does not
            have (meta device); or a parameter has no shape yet (lazy modules).

    >>> graph = trace(nn.Linear(3, 2, bias=False), (torch.zeros(1, 3),))
    >>> [node.op for node in graph.nodes], graph.nodes[1].uses[0].name
    (['input', 'mm'], 'weight')
    """
    args, kwargs = _arguments(example_inputs)
    check_initialised(model)
    _check_not_scripted(model)
    call = _Call(model, args, kwargs)
    graph = _recorded(call)
    _check_connected(call, graph)
    used = _used(graph)
    if len(used) < len(named_parameters(model)):
        # A forward in training mode may ask for more than the example inputs, such as labels.
        with contextlib.suppress(TraceError):
            in_training = _recorded(_Call(model, args, kwargs, training=True))
            if _used(in_training) > used:
                return in_training
    return graph


def _used(graph: Graph) -> set[str]:
    """Names of the parameters that act in the forward."""
    return {use.name for _, use in graph.uses()}


def _check_connected(call: _Call, graph: Graph) -> None:
    """Raise TraceError if nothing that the forward returns depends on anything that it was given."""
    reached = 0
    for index in graph.outputs:
        reached |= graph.above[index]
    inputs = bits(node.index for node in graph.nodes if node.op == "input")
    if inputs and not reached & inputs:
        raise TraceError(
            f"torch's operations make no path from the example inputs to what {call.name} returns: do its numbers "
            f"leave torch on the way (numpy, `.item()`), or come from inputs that were not given? {_BY_HAND}"
        )


def _arguments(example_inputs: Any) -> tuple[tuple[Any, ...], dict[str, Any]]:
    if isinstance(example_inputs, Mapping):
        return (), dict(example_inputs)
    if isinstance(example_inputs, Tensor):
        return (example_inputs,), {}
    if not isinstance(example_inputs, Sequence) or isinstance(example_inputs, str):
        raise InvalidTypeError(
            "`example_inputs` must be a tuple of forward's arguments or a mapping of its keyword arguments, "
            f"got {type(example_inputs).__name__}; if that is the first argument, give `(inputs,)`"
        )
    return tuple(example_inputs), {}


def _check_not_scripted(model: nn.Module) -> None:
    for name, module in named_modules(model).items():
        if isinstance(module, torch.jit.ScriptModule):
            which = f"`{name}`" if name else "the model"
            raise TraceError(
                f"cannot trace {type(model).__name__}: {which} is TorchScript, whose operations cannot be followed. "
                f"Trace the module before torch.jit. {_OR_BY_HAND}"
            )


# --- one forward, on one kind of stand-ins or another ---
@dataclass(frozen=True)
class _Call:
    """A forward to record.

    Attributes:
        model: Whose.
        args, kwargs: Its arguments.
        training: Whether modules that are no layers of torch's own are in training mode.
    """

    model: nn.Module
    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    training: bool = False

    @property
    def name(self) -> str:
        return f"{type(self.model).__name__}.forward"


def _recorded(call: _Call) -> Graph:
    """The graph of a forward, from the first kind of stand-ins that it runs on.

    Raises:
        TraceError: From none; the message says whether that is the forward's fault.
    """
    first: Exception | None = None
    # A forward that differentiates itself needs gradients switched on; the others save the memory.
    for differentiates in (False, True):
        try:
            return _on_fakes(call, differentiates)
        except Exception as error:
            first = first or error
    assert first is not None
    if any(tensor.is_meta for tensor in _state(call.model).values()):
        raise _failed_on_meta(call, first) from first
    last: Exception = first
    for differentiates in (False, True):
        try:
            return _on_copies(call, differentiates)
        except Exception as error:
            last = error
    # Only a forward that fails unwatched is to blame, or its inputs.
    failures: dict[str, Exception] = {}
    for differentiates in (False, True):
        try:
            with _same_random_numbers(call.model):
                _run(call, _copied, None, differentiates=differentiates)
        except Exception as error:
            failures[_words(error)] = error
        else:
            raise TraceError(
                f"{call.name} runs on the example inputs, but cannot be followed while it does: {_words(last)}. "
                f"{_BY_HAND}"
            ) from last
    raise TraceError(
        f"{call.name} fails on the example inputs: {', and with gradients '.join(failures)}. Give inputs that it "
        f"takes. {_OR_BY_HAND}"
    ) from next(iter(failures.values()))


def _failed_on_meta(call: _Call, error: Exception) -> TraceError:
    from torch._subclasses.fake_tensor import DataDependentOutputException, DynamicOutputShapeException

    model = type(call.model).__name__
    if isinstance(error, DataDependentOutputException | DynamicOutputShapeException):
        return TraceError(
            f"cannot trace {model}: `{error.func}` needs the numbers of a tensor, and the model is on the meta device. "
            f"Trace a model with weights, or a smaller one. {_BY_HAND}"
        )
    return TraceError(
        f"{call.name} fails on the meta device: {_words(error)}. If it takes these inputs elsewhere, trace a model "
        f"with weights; if not, give inputs that it takes. {_OR_BY_HAND}"
    )


def _words(error: Exception) -> str:
    text = str(error).rstrip(". \n")
    return f"{type(error).__name__}: {text}" if text else type(error).__name__


def _on_fakes(call: _Call, differentiates: bool) -> Graph:
    from torch._subclasses.fake_tensor import FakeTensorMode

    # Where the weights are, so that torch picks the operations that it would pick in training; a model on the meta
    # device is traced as one on the CPU.
    device = torch.device("cpu")
    for tensor in _state(call.model).values():
        if not tensor.is_meta:
            device = tensor.device
            break

    def fake(tensor: Tensor) -> Tensor:
        return torch.empty_strided(tensor.shape, tensor.stride(), dtype=tensor.dtype, device=device)

    recorder = Recorder()
    with FakeTensorMode(allow_non_fake_inputs=True), _one_report(), _same_random_numbers(None):
        return recorder.graph(_run(call, fake, recorder, differentiates=differentiates))


def _on_copies(call: _Call, differentiates: bool) -> Graph:
    recorder = Recorder()
    with _same_random_numbers(call.model):
        return recorder.graph(_run(call, _copied, recorder, differentiates=differentiates))


def _copied(tensor: Tensor) -> Tensor:
    """What the forward writes in place goes to the copy."""
    return tensor.detach().clone()


def _run(call: _Call, stand_in: Callable[[Tensor], Tensor], recorder: Recorder | None, *, differentiates: bool) -> Any:
    """Run a forward on stand-ins of all tensors, under a recorder if there is one; what the forward returns."""
    model = call.model

    def differentiable(tensor: Tensor) -> Tensor:
        # A forward may ask for the derivative in an input that was handed over with this flag.
        made = stand_in(tensor)
        return made.requires_grad_() if tensor.requires_grad else made

    of_model = differentiable if differentiates else stand_in
    state = _state(model)
    tensors: dict[str, Tensor] = {}
    for name, tensor in state.items():
        tensors[name] = of_model(tensor)
        # What somebody has attached to a tensor, as mup its base shape, a forward may read.
        vars(tensors[name]).update(vars(tensor))
    args, kwargs = with_stand_ins((call.args, call.kwargs), differentiable)
    if recorder is not None:
        own = {id(tensor): name for name, tensor in state.items()}
        for name, parameter in named_parameters(model).items():
            if is_number(parameter):
                recorder.add_buffer(tensors[own[id(parameter)]], parameter)
            else:
                recorder.add_parameter(name, tensors[own[id(parameter)]])
        for name, buffer in model.named_buffers():
            recorder.add_buffer(tensors[name], buffer)
        for tensor in tensors_in((args, kwargs)):
            recorder.add_input(tensor)
    with (
        # Entered first and left last: this takes back the hooks and flags that are set inside as well.
        restored(model),
        swapped(model, tensors),
        _without_randomness(model, training=call.training),
        torch.compiler.set_stance("force_eager"),
        torch.inference_mode(False),
        torch.set_grad_enabled(differentiates),
    ):
        if recorder is None:
            return model(*args, **kwargs)
        _report_calls(model, recorder)
        with recorder:
            return model(*args, **kwargs)


def _state(model: nn.Module) -> dict[str, Tensor]:
    """Each parameter and buffer once, by the first of its names."""
    return {**dict(model.named_parameters()), **dict(model.named_buffers())}


@contextlib.contextmanager
def _same_random_numbers(model: nn.Module | None) -> Iterator[None]:
    """Afterwards all generators go on from where they were; torch's too, on a model's devices, if one is given."""
    of_python, of_numpy = random.getstate(), np.random.get_state()  # noqa: NPY002
    try:
        if model is None:
            # Fake tensors draw nothing.
            yield
        else:
            with torch.random.fork_rng():
                yield
    finally:
        random.setstate(of_python)
        np.random.set_state(of_numpy)  # noqa: NPY002


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
def _without_randomness(model: nn.Module, *, training: bool) -> Iterator[None]:
    """Dropout and the like off, and no fused inference path that would hide a layer's parts.

    The flags are set one by one and not by `model.eval()`, which some models override: there it may merge weights.
    Torch's own layers draw random numbers and take batch statistics in training mode; no model's readout hangs on them.
    """
    fastpath = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        for module in model.modules():
            is_own = not type(module).__module__.startswith("torch.")
            module.training = training and is_own
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

    for name, module in named_modules(model).items():
        if name:
            module.register_forward_hook(functools.partial(report, name=name))
