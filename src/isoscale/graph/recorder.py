"""From the operations that torch dispatches to the nodes of a graph.

Every tensor has an origin: the node that made it; or the parameters that it was computed from, and nothing else; or
none, for a constant. An operation on tensors of which at least one comes from a node is a node.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_iter

from isoscale.graph.constants import Constants, storage_of
from isoscale.graph.graph import Graph, Node, Piece, Use
from isoscale.graph.ops import Operation, operation
from isoscale.graph.uses import held_axes, uses_of
from isoscale.graph.weight_views import Weight, derive

Origin = int | Weight | None

# Products that another argument is added to, and what makes the product alone.
_ADDING_A_PRODUCT: dict[str, tuple[str, Callable[..., Tensor]]] = {
    "addmm": ("mm", torch.mm),
    "addmv": ("mv", torch.mv),
    "baddbmm": ("bmm", torch.bmm),
}


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
        # By tensor, what was added to the parameter that it is a view of.
        self._offsets: dict[int, float] = {}
        # By node that stacks tensors, the axis that they are stacked along.
        self._stacks: dict[int, int] = {}
        self._module_inputs: dict[str, int] = {}
        self._module_outputs: dict[str, int] = {}

    # --- what there is before the forward runs ---
    def add_parameter(self, name: str, tensor: Tensor) -> None:
        self._offsets[id(tensor)] = 0.0
        self._know(tensor, Weight.of(name, tensor.dim()))

    def add_buffer(self, tensor: Tensor) -> None:
        self._constants.forget(tensor)

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
            self._record_in_steps(name, args, kwargs, results, writes)
        return out

    def _record_in_steps(
        self, name: str, args: Sequence[Any], kwargs: Mapping[str, Any], results: list[Tensor], writes: bool
    ) -> None:
        """Record an operation; one that adds to an activation as the sum that it is, x + a b."""
        addend = args[0] if args else None
        if name == "addcmul" and len(args) == 3 and not kwargs:
            product = self._step("mul", torch.mul, *args[1:])
        elif name == "lerp" and len(args) == 3:
            # a + w (b - a)
            product = self._step("mul", torch.mul, self._step("sub", torch.sub, args[1], addend), args[2])
        elif name in _ADDING_A_PRODUCT and isinstance(self._origin_of(addend), int) and not kwargs:
            product = self._step(*_ADDING_A_PRODUCT[name], *args[1:])
        else:
            self._record(name, args, kwargs, results, writes)
            return
        self._record("add", (addend, product), {}, results, writes)

    def _step(self, name: str, function: Callable[..., Tensor], *args: Any) -> Tensor:
        """A part of an operation, recorded as if the forward had called it."""
        result = function(*args)
        self._record(name, args, {}, [result], False)
        return result

    def _record(
        self,
        name: str,
        args: Sequence[Any],
        kwargs: Mapping[str, Any],
        results: list[Tensor],
        writes: bool,
    ) -> None:
        row = operation(name)
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
            for result in results:
                self._know(result, derived)
            self._follow_offset(row, args, results)
            return

        pieces = _pieces(name, args, results)
        if pieces is None and name == "slice":
            # All of it: the same value under another name.
            self._know(results[0], inputs[0])
            return
        made = self._add_node(name, inputs, results[0])
        node = self._nodes[made]
        node.obstacle = self._obstacle(row, args, kwargs)
        node.factor = self._factor(row, args, kwargs)
        node.terms = self._terms(row, args, inputs)
        if node.terms and name in ("sub", "rsub"):
            origin = self._origin_of(args[1 if name == "sub" else 0])
            node.taken_off = origin if isinstance(origin, int) else None
        if name == "stack":
            self._stacks[made] = _axis(args, 1, results[0].dim())
        for tensor, weight in weights:
            for use in uses_of(row, args, tensor, weight):
                node.uses.append(self._with_offset(use, tensor))
        for i, result in enumerate(results):
            at = made
            # The parts of a split are values of their own, and so are the indices beside the numbers that were sorted.
            if i > 0 and (pieces or _holds_numbers(result) != _holds_numbers(results[0])):
                at = self._add_node(name, inputs, result)
            if pieces:
                self._nodes[at].piece = pieces[i]
            self._know(result, at)
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

    def _follow_offset(self, row: Operation, args: Sequence[Any], results: Sequence[Tensor]) -> None:
        """What was added to a parameter, after views alone and before any other operation."""
        if row.is_view:
            added = self._offsets.get(id(args[0]))
        elif row.name == "add" and len(args) == 2:
            tensor, constant = args if isinstance(self._origin_of(args[0]), Weight) else (args[1], args[0])
            number = self._constants.number(constant) if self._is_constant(constant) else None
            # Once only: what is added to a sum is no number that stands in the forward.
            added = number if number is not None and self._offsets.get(id(tensor)) == 0 else None
        else:
            added = None
        if added is not None:
            for result in results:
                self._offsets[id(result)] = added

    def _with_offset(self, use: Use, tensor: Tensor) -> Use:
        """A scale or bias that acts as itself and a number scales as its sum with the number does."""
        offset = self._offsets.get(id(tensor), 0.0)
        if offset == 0 or use.kind not in ("gain", "bias"):
            return use
        return replace(use, computed_by=None, offset=offset)

    def _terms(self, row: Operation, args: Sequence[Any], inputs: Sequence[int]) -> tuple[int, ...]:
        """What a sum is the sum of: the two sides of +, or the tensors that were stacked and are summed over."""
        if row.adds:
            terms = inputs
        elif row.name in ("sum", "mean") and len(args) > 1 and inputs[0] in self._stacks:
            stack = self._nodes[inputs[0]]
            summed = [axis % len(stack.shape) for axis in args[1] or ()]
            terms = stack.inputs if summed == [self._stacks[stack.index]] else ()
        else:
            terms = ()
        floats = tuple(term for term in terms if self._nodes[term].is_float)
        return floats if len(floats) > 1 else ()

    def _origin_of(self, value: Any) -> Origin:
        """The origin of a tensor; none of a number."""
        return self._origin(value) if isinstance(value, Tensor) else None

    def _is_constant(self, value: Any) -> bool:
        if isinstance(value, Tensor):
            return self._origin(value) is None
        return isinstance(value, int | float)

    # --- nodes and origins ---
    def _add_node(self, op: str, inputs: Sequence[int], result: Tensor) -> int:
        index = len(self._nodes)
        node = Node(index, op, tuple(inputs), tuple(result.shape), _holds_numbers(result))
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


def _holds_numbers(tensor: Tensor) -> bool:
    """Whether it holds more than whole numbers or truth values."""
    return tensor.is_floating_point() or tensor.is_complex()


def _axis(args: Sequence[Any], position: int, dimensions: int) -> int:
    """The axis that an argument names; the first by default."""
    axis = args[position] if len(args) > position else 0
    return axis % max(dimensions, 1)


def _pieces(name: str, args: Sequence[Any], results: Sequence[Tensor]) -> list[Piece] | None:
    """Which part of the first argument each result is; None if the operation does not cut, or cuts nothing off."""
    if name not in ("slice", "select", "unbind", "split", "split_with_sizes", "unsafe_split"):
        return None
    dimensions = args[0].dim()
    if name in ("slice", "select"):
        axis = _axis(args, 1, dimensions)
        size = args[0].shape[axis]
        if name == "select":
            at = args[2] % size
            return [Piece(axis, range(at, at + 1))]
        start, stop, step = (*args[2:5], None, None, None)[:3]
        positions = range(*slice(start, stop, step).indices(size))
        return None if len(positions) == size else [Piece(axis, positions)]
    axis = _axis(args, 1 if name == "unbind" else 2, dimensions)
    pieces: list[Piece] = []
    start = 0
    for result in results:
        stop = start + (1 if name == "unbind" else result.shape[axis])
        pieces.append(Piece(axis, range(start, stop)))
        start = stop
    return pieces


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
