"""From the operations that torch dispatches to the nodes of a graph.

Every tensor has an origin: the node that made it; or the parameters that it was computed from, and nothing else; or
none, for a constant. An operation on tensors of which at least one comes from a node is a node.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_iter

from isoscale.graph.constants import Constants, product, storage_of
from isoscale.graph.graph import Graph, Node, Use
from isoscale.graph.ops import Operation, operation
from isoscale.graph.uses import held_axes, uses_of
from isoscale.graph.weight_views import Weight, derive

Origin = int | Weight | None


class Recorder(TorchDispatchMode):
    """Inside this context, operations are recorded.

    A tensor is known by its identity, so every tensor seen is kept alive. Writing in place is a new node for the
    tensor and for every other view of its storage.
    """

    def __init__(self) -> None:
        super().__init__()
        self._nodes: list[Node] = []
        self._constants = Constants()
        self._origins: dict[int, int | Weight] = {}
        self._alive: list[Tensor] = []
        # By storage, the last node that wrote into it.
        self._written: dict[int, int] = {}
        # Number of entries of each parameter.
        self._entries: dict[str, int] = {}
        self._module_inputs: dict[str, int] = {}
        self._module_outputs: dict[str, int] = {}

    # --- what there is before the forward runs ---
    def add_parameter(self, name: str, tensor: Tensor) -> None:
        self._know(tensor, Weight.of(name, tensor.dim()))
        self._entries[name] = tensor.numel()

    def add_buffer(self, tensor: Tensor, own: Tensor) -> None:
        """A buffer: what stands for it in the trace, and the model's own with its numbers."""
        self._constants.add_buffer(tensor, own)

    def add_input(self, tensor: Tensor) -> None:
        self._know(tensor, self._add_node("input", [], tensor))

    # --- what modules report ---
    def module_called(self, name: str, args: Any, out: Any) -> None:
        """Note the nodes of a module's first argument and first result."""
        for value, nodes in ((args, self._module_inputs), (out, self._module_outputs)):
            first = next(_tensors(value), None)
            origin = None if first is None else self._origin(first)
            if isinstance(origin, int):
                nodes[name] = origin

    def multiplier_called(self, name: str, out: Tensor) -> None:
        """Note that the node of this result is an `isoscale.Multiplier`."""
        origin = self._origin(out)
        if isinstance(origin, int):
            self._nodes[origin].multiplier = name

    def graph(self, out: Any) -> Graph:
        """All that was recorded; `out` is what the model returned."""
        outputs: list[int] = []
        for tensor in _tensors(out):
            origin = self._origin(tensor)
            if isinstance(origin, int) and origin not in outputs:
                outputs.append(origin)
        return Graph(tuple(self._nodes), tuple(outputs), self._module_inputs, self._module_outputs)

    # --- one operation ---
    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        run = _grouped_mm_shape if func is torch.ops.aten._grouped_mm.default else func
        out = run(*args, **kwargs)
        results = [value for value in tree_iter(out) if isinstance(value, Tensor)]
        if results:
            name = func._schema.name.split("::")[1]
            writes = func._schema.is_mutable
            if writes and not name.startswith("__"):
                # add_ is add: in place or not, it computes the same.
                name = name.rstrip("_")
            self._record(name, args, kwargs, results, writes)
        return out

    def _record(
        self,
        name: str,
        args: Sequence[Any],
        kwargs: Mapping[str, Any],
        results: list[Tensor],
        writes: bool,
    ) -> None:
        row = operation(name)
        if row.adds and kwargs.get("alpha", 1) != 1:
            args = (args[0], self._scaled(args[1], float(kwargs["alpha"])), *args[2:])
        # The arguments come from parameters alone, from nodes, or they are constants.
        weights: list[tuple[Tensor, Weight]] = []
        inputs: list[int] = []
        for value in tree_iter((args, kwargs)):
            origin = self._origin(value) if isinstance(value, Tensor) else None
            if isinstance(origin, Weight):
                weights.append((value, origin))
            elif origin is not None and origin not in inputs:
                inputs.append(origin)
        if row.effect == "shape only" or not (weights or inputs):
            # What it makes is a constant.
            self._constants.see(row, args, results, writes)
            return
        if not inputs and len(weights) > 1 and (row.contraction or row.is_norm):
            # Two parameters that meet as an activation and a weight would: the first serves as data.
            inputs = [self._add_source(*weights.pop(0))]
        if not inputs:
            first, _ = weights[0]
            known = [weight for _, weight in weights]
            derived = derive(row, args, known, first.shape, results[0].shape)
            factors = {weight.factor for weight in known}
            factor = product([*factors, self._factor(row, args, kwargs)]) if len(factors) == 1 else None
            derived = replace(derived, factor=factor)
            for result in results:
                self._know(result, derived)
            return

        made = self._add_node(name, inputs, results[0])
        node = self._nodes[made]
        node.obstacle = self._obstacle(row, args, kwargs)
        node.factor = self._factor(row, args, kwargs)
        for tensor, weight in weights:
            for use in uses_of(row, args, tensor, weight):
                share = min(1.0, tensor.numel() / self._entries[use.name])
                node.uses.append(replace(use, factor=weight.factor, share=share))
        for result in results:
            self._know(result, made)
        if writes:
            storage = storage_of(results[0])
            self._written[storage] = made

    def _obstacle(self, row: Operation, args: Sequence[Any], kwargs: Mapping[str, Any]) -> str | None:
        """Why f(c z) = c f(z) fails for these arguments, although the operation's row says that it holds."""
        for position in row.addends:
            # f(z) = z + a, unless a = 0
            for value in tree_iter(args[position : position + 1]):
                if self._is_constant(value) and self._constants.number(value) != 0:
                    return "the addition of a constant"
        if row.divides:
            # f(z) = a / z
            if not isinstance(self._origin(args[0]), int):
                return "a division by it"
            if kwargs.get("rounding_mode"):
                return "a division that rounds"
        if row.multiplies or row.contraction:
            # f(z) = z^2
            factors: set[int] = set()
            for value in args:
                origin = self._origin(value) if isinstance(value, Tensor) else None
                if isinstance(origin, int):
                    if origin in factors:
                        return "a product with itself"
                    factors.add(origin)
        return None

    def _factor(self, row: Operation, args: Sequence[Any], kwargs: Mapping[str, Any]) -> float | None:
        """The product of the numbers among the arguments; None if one is unknown."""
        if row.effect == "attention":
            scale = kwargs.get("scale")
            if scale is not None:
                return float(scale)
            head_size = args[0].shape[-1]
            return head_size**-0.5  # torch's default
        if row.contraction:
            return float(kwargs.get("alpha", 1.0))  # of addmm and the like
        if not row.multiplies:
            return 1.0
        factor = 1.0
        for position, value in enumerate(args):
            if not self._is_constant(value):
                continue
            number = self._constants.number(value)
            if number is None and value.numel() > 1:
                # A table of positions or a mask: of order one.
                continue
            inverse = row.divides and position == 1
            if number is None or (inverse and number == 0):
                return None
            factor = factor / number if inverse else factor * number
        return factor

    def _scaled(self, value: Any, factor: float) -> Any:
        """A factor on one term of a sum, as a product of its own: x + c y is x + (c y)."""
        origin = self._origin(value) if isinstance(value, Tensor) else None
        if origin is None:
            return value
        scaled = value.detach()
        if isinstance(origin, Weight):
            self._know(scaled, replace(origin, factor=product([origin.factor, factor])))
            return scaled
        made = self._add_node("mul", [origin], scaled)
        self._nodes[made].factor = factor
        self._know(scaled, made)
        return scaled

    def _is_constant(self, value: Any) -> bool:
        if isinstance(value, Tensor):
            return self._origin(value) is None
        return isinstance(value, int | float)

    # --- nodes and origins ---
    def _add_node(self, op: str, inputs: Sequence[int], result: Tensor) -> int:
        index = len(self._nodes)
        node = Node(index, op, tuple(inputs), tuple(result.shape), result.is_floating_point())
        self._nodes.append(node)
        return index

    def _add_source(self, tensor: Tensor, weight: Weight) -> int:
        """A parameter that serves as data: learned queries."""
        index = self._add_node("source", [], tensor)
        for name in weight.names:
            use = Use(name, "source", fan_out=held_axes(weight))
            self._nodes[index].uses.append(use)
        return index

    def _know(self, tensor: Tensor, origin: int | Weight) -> None:
        self._origins[id(tensor)] = origin
        self._alive.append(tensor)

    def _origin(self, tensor: Tensor) -> Origin:
        origin = self._origins.get(id(tensor))
        written = self._written.get(storage_of(tensor)) if self._written else None
        # Nobody has written into it, a node has into what was no node's, or the tensor is that node's or a later one's.
        if written is None:
            return origin
        if not isinstance(origin, int):
            return written
        if written <= origin:
            return origin
        # Another view has written into the storage since: the tensor holds what it held and what was written.
        joined = self._add_node("cat", [origin, written], tensor)
        self._know(tensor, joined)
        return joined


def _grouped_mm_shape(a: Tensor, b: Tensor, *_: Any, **__: Any) -> Tensor:
    """Rows of each expert times its matrix; torch's own shape function insists on bfloat16."""
    return a.new_empty(*a.shape[:-1], b.shape[-1])


def _tensors(value: Any) -> Iterator[Tensor]:
    """The tensors in whatever a forward takes or returns, in order."""
    for leaf in tree_iter(value):
        if isinstance(leaf, Tensor):
            yield leaf
        elif isinstance(leaf, Mapping):
            yield from _tensors(dict(leaf))
