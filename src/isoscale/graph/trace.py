"""The computation graph of a module's forward pass, recorded without computing it.

The forward runs once on fake tensors (shapes without numbers), so a model of any size, on the meta device too,
is traced in about the time that its Python takes. A forward that needs numbers (a data-dependent branch, `.item()`)
runs on the real weights instead, if there are any. The module is left as it was found.
"""

from __future__ import annotations

import contextlib
import functools
import logging
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_iter, tree_map

from isoscale.errors import InvalidTypeError, TraceError
from isoscale.graph.constants import Constants, storage_of
from isoscale.graph.graph import Graph, Node, Use
from isoscale.graph.multiplier import Multiplier
from isoscale.graph.ops import Operation, operation
from isoscale.graph.swapping import restored, swapped
from isoscale.graph.uses import held_axes, uses_of
from isoscale.graph.weight_views import Weight, derive

_BY_HAND = 'Give roles by hand: `roles={"pattern.*": isoscale.Role.HIDDEN, ...}`'


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
                f"Trace the module before torch.jit. {_BY_HAND.replace('Give', 'Or give')}"
            )


def _record_fake(model: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Graph:
    from torch._subclasses.fake_tensor import FakeTensorMode

    tensors = _state(model).values()
    device = next((tensor.device for tensor in tensors if not tensor.is_meta), torch.device("cpu"))
    with FakeTensorMode(allow_non_fake_inputs=True), _one_report():

        def fake(value: Any) -> Any:
            if not isinstance(value, Tensor):
                return value
            return torch.empty_strided(value.shape, value.stride(), dtype=value.dtype, device=device)

        return _record(model, fake, args, kwargs)


def _record_real(model: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Graph:
    def own(value: Any) -> Any:
        return value.detach().clone() if isinstance(value, Tensor) else value

    with torch.random.fork_rng():
        return _record(model, own, args, kwargs)


def _record(model: nn.Module, convert: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Graph:
    """Run the forward on converted tensors under a recorder."""
    stand_ins = {name: convert(tensor) for name, tensor in _state(model).items()}
    args, kwargs = tree_map(convert, (args, kwargs))
    recorder = _Recorder()
    for name, _ in model.named_parameters():
        recorder.add_parameter(name, stand_ins[name])
    for name, _ in model.named_buffers():
        recorder.add_buffer(stand_ins[name])
    for value in tree_iter((args, kwargs)):
        if isinstance(value, Tensor):
            recorder.add_input(value)
    with restored(model), swapped(model, stand_ins), _as_for_inference(model), torch.no_grad():
        _report_modules(model, recorder)
        try:
            with recorder:
                out = model(*args, **kwargs)
        except Exception as error:
            from torch._subclasses.fake_tensor import DataDependentOutputException, DynamicOutputShapeException

            if isinstance(error, DataDependentOutputException | DynamicOutputShapeException):
                raise
            raise TraceError(
                f"{type(model).__name__}.forward fails on the example inputs: {type(error).__name__}: "
                f"{str(error).rstrip('.')}. Give inputs that it takes. {_BY_HAND.replace('Give', 'Or give')}"
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


def _report_modules(model: nn.Module, recorder: _Recorder) -> None:
    """Have each submodule say which values it was given and returned, and each Multiplier that it was one."""

    def report(module: nn.Module, args: Any, out: Any, name: str) -> None:
        recorder.module_called(name, next(_tensors(args), None), next(_tensors(out), None))
        if isinstance(module, Multiplier):
            recorder.mark(out, name)

    for name, module in model.named_modules():
        if name:
            module.register_forward_hook(functools.partial(report, name=name))


class _Recorder(TorchDispatchMode):
    """Turns the operations that the dispatcher sees into nodes.

    A tensor is known by its identity, so every tensor seen is kept alive; writing in place is a new node for the
    tensor and for every other view of its storage.
    """

    def __init__(self) -> None:
        super().__init__()
        self.nodes: list[Node] = []
        self._constants = Constants()
        self._of_tensor: dict[int, int | Weight] = {}
        self._written: dict[int, int] = {}
        self._alive: list[Tensor] = []
        self._module_inputs: dict[str, int] = {}
        self._module_outputs: dict[str, int] = {}

    # --- what there is before the forward runs ---
    def add_parameter(self, name: str, tensor: Tensor) -> None:
        self._know(tensor, Weight.of(name, tensor.dim()))

    def add_buffer(self, tensor: Tensor) -> None:
        self._constants.forget(tensor)

    def add_input(self, tensor: Tensor) -> None:
        self._know(tensor, self._node("input", (), tensor))

    def mark(self, out: Any, multiplier: str) -> None:
        node = self._origin(out)
        if isinstance(node, int):
            self.nodes[node].multiplier = multiplier

    def module_called(self, name: str, given: Tensor | None, returned: Tensor | None) -> None:
        for tensor, places in ((given, self._module_inputs), (returned, self._module_outputs)):
            if tensor is not None and isinstance(node := self._origin(tensor), int):
                places[name] = node

    def graph(self, out: Any) -> Graph:
        origins = [self._origin(value) for value in _tensors(out)]
        outputs = tuple(dict.fromkeys(node for node in origins if isinstance(node, int)))
        return Graph(tuple(self.nodes), outputs, self._module_inputs, self._module_outputs)

    # --- one operation ---
    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        out = _grouped_mm_shape(*args) if func is torch.ops.aten._grouped_mm.default else func(*args, **kwargs)
        results = [value for value in tree_iter(out) if isinstance(value, Tensor)]
        if results:
            op = func._schema.name.split("::")[1]
            writes = func._schema.is_mutable
            self._see(op.rstrip("_") if writes and not op.startswith("__") else op, args, kwargs, results, writes)
        return out

    def _see(self, name: str, args: Any, kwargs: Any, results: list[Tensor], writes: bool) -> None:
        row = operation(name)
        given = [value for value in tree_iter((args, kwargs)) if isinstance(value, Tensor)]
        weights: list[tuple[Tensor, Weight]] = []
        nodes: list[int] = []
        for tensor in given:
            origin = self._origin(tensor)
            if isinstance(origin, Weight):
                weights.append((tensor, origin))
            elif origin is not None and origin not in nodes:
                nodes.append(origin)
        if row.effect == "shape only" or not (weights or nodes):
            self._constants.see(row, args, results, writes)
            return
        if not nodes and len(weights) > 1 and (row.contraction or row.is_norm):
            # Two parameters that meet as an activation and a weight would: the first serves as data.
            nodes = [self._source(*weights.pop(0))]
        made: int | Weight
        if nodes:
            made = self._node(name, tuple(nodes), results[0])
            self.nodes[made].obstacle = self._obstacle(row, args, kwargs)
            self.nodes[made].factor = self._factor(row, args, kwargs)
            for tensor, weight in weights:
                self.nodes[made].uses += uses_of(row, args, tensor, weight)
        else:
            first, _ = weights[0]
            made = derive(row, args, [weight for _, weight in weights], first.shape, results[0].shape)
        for result in results:
            self._know(result, made)
        if writes and isinstance(made, int):
            self._written[storage_of(results[0])] = made

    def _obstacle(self, row: Operation, args: Any, kwargs: Any) -> str | None:
        """Why f(c z) = c f(z) fails for these arguments, although the operation's row says that it holds."""
        for position in row.addends:
            for value in tree_iter(args[position : position + 1]):
                if self._is_constant(value) and self._constants.number(value) != 0:
                    return "the addition of a constant"  # f(z) = z + a
        if row.divides and not isinstance(self._origin(args[0]), int):
            return "a division by it"  # f(z) = a / z
        if row.divides and kwargs.get("rounding_mode"):
            return "a division that rounds"
        if row.multiplies or row.contraction:
            factors = [self._origin(value) for value in args if isinstance(value, Tensor)]
            factors = [origin for origin in factors if isinstance(origin, int)]
            if len(set(factors)) < len(factors):
                return "a product with itself"  # f(z) = z^2
        return None

    def _factor(self, row: Operation, args: Any, kwargs: Any) -> float | None:
        if row.effect == "attention":
            scale = kwargs.get("scale")
            return args[0].shape[-1] ** -0.5 if scale is None else float(scale)
        if row.contraction:
            return float(kwargs.get("alpha", 1.0))
        factor: float | None = 1.0
        for position, value in enumerate(args if row.multiplies else ()):
            if factor is None or not self._is_constant(value):
                continue
            number = self._constants.number(value)
            if number is None and value.numel() > 1:
                continue  # a table of positions or a mask: of order one
            if number is None or (row.divides and number == 0):
                factor = None
            else:
                factor = factor / number if row.divides and position == 1 else factor * number
        return factor

    def _is_constant(self, value: Any) -> bool:
        if isinstance(value, Tensor):
            return self._origin(value) is None
        return isinstance(value, int | float)

    def _source(self, tensor: Tensor, weight: Weight) -> int:
        """A parameter that serves as data: learned queries."""
        index = self._node("source", (), tensor)
        self.nodes[index].uses += [Use(name, "source", fan_out=held_axes(weight)) for name in weight.names]
        return index

    def _node(self, op: str, inputs: tuple[int, ...], result: Tensor) -> int:
        index = len(self.nodes)
        self.nodes.append(Node(index, op, inputs, tuple(result.shape), result.is_floating_point()))
        return index

    def _know(self, tensor: Tensor, origin: int | Weight) -> None:
        self._of_tensor[id(tensor)] = origin
        self._alive.append(tensor)

    def _origin(self, tensor: Tensor) -> int | Weight | None:
        origin = self._of_tensor.get(id(tensor))
        if self._written:
            written = self._written.get(storage_of(tensor))
            if written is not None and (not isinstance(origin, int) or written > origin):
                return self._joined(tensor, origin, written)
        return origin

    def _joined(self, tensor: Tensor, origin: int | Weight | None, written: int) -> int:
        """A tensor whose storage another view has written since."""
        if not isinstance(origin, int):
            return written
        index = self._node("cat", (origin, written), tensor)
        self._know(tensor, index)
        return index


def _grouped_mm_shape(a: Tensor, b: Tensor, *_: Any) -> Tensor:
    """Rows of each expert times its matrix; torch's own shape function insists on bfloat16."""
    return a.new_empty(*a.shape[:-1], b.shape[-1])


def _tensors(value: Any) -> Iterator[Tensor]:
    """The tensors in whatever a forward returns, in order."""
    for leaf in tree_iter(value):
        if isinstance(leaf, Tensor):
            yield leaf
        elif isinstance(leaf, Mapping):
            yield from _tensors(dict(leaf))
