"""From the operations that torch dispatches to the nodes of a graph.

Every tensor has an origin: the node that made it; or the parameters that it was computed from, and nothing else; or
none, for a constant. An operation on tensors of which at least one comes from a node is a node.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any, Self

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_iter

from isoscale.graph.alone import Alone, Step
from isoscale.graph.constants import Constants, storage_of
from isoscale.graph.dot_products import DotProducts
from isoscale.graph.graph import Graph, Node, Use
from isoscale.graph.numbers import Numbers, Origin
from isoscale.graph.ops import Operation, operation
from isoscale.graph.pieces import axis_of, pieces_of
from isoscale.graph.recurrent import Recurrence, RecurrentCalls
from isoscale.graph.uses import held_axes, uses_of
from isoscale.graph.values import tensors_in
from isoscale.graph.weight_views import Weight, derive

# The namespaces whose operations the table of operations is about.
_TORCH_OWN = ("aten", "prims")

# Products that another argument is added to, and what makes the product alone.
_ADDING_A_PRODUCT: dict[str, tuple[str, Callable[..., Tensor]]] = {
    "addmm": ("mm", torch.mm),
    "addmv": ("mv", torch.mv),
    "baddbmm": ("bmm", torch.bmm),
    "addcmul": ("mul", torch.mul),
    "addcdiv": ("div", torch.div),
}
# Operations that add to some places of their first argument, and the position of what they add.
_ADDING_IN_PLACES = {"index_add": 3, "index_put": 2, "scatter_add": 3}
# Those that are steps even where they add to a parameter.
_ADDING_ALWAYS = ("addcmul", "addcdiv", "lerp")


class Recorder(TorchDispatchMode):
    """Inside this context, operations are recorded.

    A tensor is known by its identity, so every tensor seen is kept alive. Writing in place is a new node for the
    tensor and for every other view of its storage.
    """

    def __init__(self) -> None:
        super().__init__()
        self._nodes: list[Node] = []
        self._constants = Constants()
        self._numbers = Numbers(self._constants, self._origin_of)
        self._alone = Alone()
        self._dot_products = DotProducts()
        self._origins: dict[int, int | Weight] = {}
        self._alive: list[Tensor] = []
        # By storage, the last node that wrote into it.
        self._written: dict[int, int] = {}
        # By node that stacks tensors, the axis that they are stacked along.
        self._stacks: dict[int, int] = {}
        # By tensor that was made of parameters alone and served as data, the node that stands for it.
        self._served: dict[int, int] = {}
        self._recurrent = RecurrentCalls(self._recurrence)
        self._paused = False
        # Number of entries of each parameter.
        self._entries: dict[str, int] = {}
        self._module_inputs: dict[str, int] = {}
        self._module_outputs: dict[str, int] = {}

    def __enter__(self) -> Self:
        super().__enter__()
        self._recurrent.__enter__()
        return self

    def __exit__(self, exc_type: Any, exc_val: Any, exc_tb: Any) -> None:
        self._recurrent.__exit__(exc_type, exc_val, exc_tb)
        super().__exit__(exc_type, exc_val, exc_tb)

    # --- what there is before the forward runs ---
    def add_parameter(self, name: str, tensor: Tensor) -> None:
        self._numbers.add_parameter(tensor)
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
            first = next(tensors_in(value), None)
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
        for tensor in tensors_in(out):
            origin = self._origin(tensor)
            if isinstance(origin, int) and origin not in outputs:
                outputs.append(origin)
        return Graph(tuple(self._nodes), tuple(outputs), self._module_inputs, self._module_outputs)

    # --- one operation ---
    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        run = _grouped_mm_shape if func is torch.ops.aten._grouped_mm.default else func
        out = run(*args, **kwargs)
        if self._paused:
            return out
        results = [value for value in tree_iter(out) if isinstance(value, Tensor)]
        if results:
            space, _, name = func._schema.name.partition("::")
            if space not in _TORCH_OWN:
                # Somebody's own operation is not torch's of that name.
                name = func._schema.name
            writes = func._schema.is_mutable
            if writes and not name.startswith("__"):
                # add_ is add: in place or not, it computes the same.
                name = name.rstrip("_")
            if name == "_weight_norm_interface" and axis_of(args, 2, results[0].dim()) == 0:
                # By the norm of each output's weights; by another one the scale would have to follow the width.
                name = "weight_norm"
            step = Step(operation(name), args, kwargs, results, writes)
            # A forward that differentiates itself (torch.autograd.grad) sends the derivative backwards through its
            # maps. They are no maps of that; whatever keeps the function's size keeps its derivative's.
            if torch._C._current_graph_task_id() >= 0:
                self._record(replace(step, row=operation("derivative")))
            else:
                self._record_in_steps(step)
        return out

    def _record_in_steps(self, step: Step) -> None:
        """Record an operation; one that adds to an activation as the sum that it is, b x + a y."""
        addend = step.args[0] if step.args else None
        is_activation = isinstance(self._origin_of(addend), int)
        added = self._added(step) if is_activation or step.row.name in _ADDING_ALWAYS else None
        if added is None:
            self._record(step)
            return
        beta = float(step.kwargs.get("beta", 1))
        if beta != 1:
            addend = self._scaled(addend, beta)
        self._record(replace(step, row=operation("add"), args=(addend, added), kwargs={}))

    def _added(self, step: Step) -> Any:
        """What an operation adds to its first argument; None if that is not what it does."""
        name, args = step.row.name, step.args
        if name == "lerp" and len(args) == 3:
            # a + w (b - a)
            return self._step("mul", torch.mul, self._step("sub", torch.sub, args[1], args[0]), args[2])
        if name in _ADDING_A_PRODUCT:
            # "value" of addcmul and addcdiv, "alpha" of the products of matrices
            factor = float(step.kwargs.get("value", step.kwargs.get("alpha", 1)))
            product = self._step(*_ADDING_A_PRODUCT[name], *args[1:3])
            return product if factor == 1 else self._scaled(product, factor)
        if name in _ADDING_IN_PLACES:
            added = args[_ADDING_IN_PLACES[name]]
            replaces = name == "index_put" and not (len(args) > 3 and args[3])
            # Features meet features: the last axes are the same.
            meets = isinstance(added, Tensor) and added.dim() > 0 and added.shape[-1] == args[0].shape[-1]
            if replaces or not meets or not isinstance(self._origin_of(added), int):
                return None
            factor = float(step.kwargs.get("alpha", 1))
            return added if factor == 1 else self._scaled(added, factor)
        return None

    def _step(self, name: str, function: Callable[..., Tensor], *args: Any) -> Tensor:
        """A part of an operation, recorded as if the forward had called it."""
        result = function(*args)
        self._record(Step(operation(name), args, {}, [result], False))
        return result

    def _record(self, step: Step) -> None:
        if step.row.adds and step.kwargs.get("alpha", 1) != 1:
            scaled = self._scaled(step.args[1], float(step.kwargs["alpha"]))
            step = replace(step, args=(step.args[0], scaled, *step.args[2:]))
        weights, inputs = self._sorted(step)
        if step.row.name == "derivative":
            weights = []
        if step.row.effect == "shape only" or not (weights or inputs):
            # What it makes is a constant.
            self._constants.see(step.row, step.args, step.results, step.writes)
            return
        if not inputs:
            known = [(tuple(tensor.shape), weight) for tensor, weight in weights]
            factor = self._numbers.factor(step.row, step.args, step.kwargs)
            for result in step.results:
                self._know(result, derive(step.row, step.args, known, tuple(result.shape)).times(factor))
            self._alone.see(step)
            self._numbers.follow_offset(step.row, step.args, step.results)
            return
        as_data = [before for tensor, _ in weights if (before := self._alone.as_data(tensor, step))]
        if as_data:
            for before in as_data:
                self._replay(before)
            weights, inputs = self._sorted(step)
        self._make(step, weights, inputs)

    def _sorted(self, step: Step) -> tuple[list[tuple[Tensor, Weight]], list[int]]:
        """The arguments that come from parameters alone, and the nodes that others come from."""
        weights: list[tuple[Tensor, Weight]] = []
        inputs: list[int] = []
        for value in step.tensors:
            origin = self._origin(value)
            if step.row.adds and isinstance(origin, Weight):
                # Learned queries q in q + f(q): the stream that f reads, and no bias.
                origin = self._served.get(id(value), origin)
            if isinstance(origin, Weight):
                weights.append((value, origin))
            elif origin is not None and origin not in inputs:
                inputs.append(origin)
        return weights, inputs

    def _replay(self, step: Step) -> None:
        """Make nodes of what was computed from parameters alone, now that it serves as data: learned queries."""
        for earlier in step.earlier:
            if isinstance(self._origin(earlier.results[0]), Weight):
                self._replay(earlier)
        weights, inputs = self._sorted(step)
        for tensor, weight in weights:
            if tensor is step.data:
                # The parameter itself stays one: elsewhere it may be a weight.
                self._served.setdefault(id(tensor), self._add_source(tensor, weight))
                inputs.insert(0, self._served[id(tensor)])
        self._make(step, [pair for pair in weights if pair[0] is not step.data], inputs)

    def _make(self, step: Step, weights: Sequence[tuple[Tensor, Weight]], inputs: Sequence[int]) -> None:
        """A node, of an operation on these inputs and parameters."""
        row, args, kwargs, results = step.row, step.args, step.kwargs, step.results
        pieces = pieces_of(row.name, args, results)
        if pieces is None and row.name == "slice" and inputs:
            # All of it: the same value under another name.
            self._know(results[0], inputs[0])
            return
        made = self._add_node(row.name, inputs, results[0])
        node = self._nodes[made]
        node.obstacle = self._numbers.obstacle(row, args, kwargs)
        node.factor = self._numbers.factor(row, args, kwargs)
        node.terms = self._terms(row, args, inputs)
        if node.terms and row.name in ("sub", "rsub"):
            origin = self._origin_of(args[1 if row.name == "sub" else 0])
            node.taken_off = origin if isinstance(origin, int) else None
        if row.name == "stack":
            self._stacks[made] = axis_of(args, 1, results[0].dim())
        for tensor, weight in weights:
            for use in uses_of(row, args, tensor, weight):
                share = min(1.0, tensor.numel() / self._entries[use.name])
                node.uses.append(replace(self._numbers.with_offset(use, tensor), share=share))
        before = args[0].shape if args and isinstance(args[0], Tensor) else ()
        self._dot_products.see(node, row, args, tuple(before))
        node.summed_products = self._summed_products(node, row, args)
        for i, result in enumerate(results):
            at = made
            # The parts of a split are values of their own, and so are the indices beside the numbers that were sorted.
            if i > 0 and (pieces or _holds_numbers(result) != _holds_numbers(results[0])):
                at = self._add_node(row.name, inputs, result)
            if pieces:
                self._nodes[at].piece = pieces[i]
            self._know(result, at)
        if step.writes:
            storage = storage_of(results[0])
            self._written[storage] = made

    def _summed_products(self, node: Node, row: Operation, args: Sequence[Any]) -> int:
        """Over how many products of two activations an operation sums."""
        if row.name == "sum" and node.inputs:
            factors = self._nodes[node.inputs[0]]
            is_product = factors.row.multiplies and not factors.row.divides and len(factors.inputs) == 2
            if not is_product or not factors.is_float:
                return 0
            shape = args[0].shape
            return math.prod(shape[axis] for axis in row.reduced(args, len(shape)))
        contraction = row.contraction
        if contraction is None or contraction.weight == "bilinear" or not node.is_float:
            return 0
        first, second = args[contraction.first : contraction.first + 2]
        if not (isinstance(self._origin(first), int) and isinstance(self._origin(second), int)):
            return 0
        if contraction.weight == "matrix":
            return first.shape[-1]
        return math.prod(second.shape[axis] for axis in contraction.summed(1, second.dim(), args) or ())

    # --- recurrent layers ---
    def _recurrence(self, call: Recurrence, run: Callable[[], Any]) -> Any:
        """The nodes of a recurrent layer, whose own operations are none."""
        self._paused = True
        try:
            out = run()
        finally:
            self._paused = False
        results = [value for value in tree_iter(out) if isinstance(value, Tensor)]
        read = self._as_inputs([call.data])
        states = self._as_inputs(call.states)
        for layer in call.layers:
            ends: list[int] = []
            for direction in layer:
                first = self._linear("linear", read, direction.from_input, direction.biases[:1], results[0])
                last = self._linear(call.name, [first, *states], direction.from_state, direction.biases[1:], results[0])
                if direction.last is not None:
                    last = self._linear("linear", [last], direction.last, (), results[0])
                ends.append(last)
            # Both directions stand beside each other.
            read = ends if len(ends) == 1 else [self._add_node("cat", ends, results[0])]
        for result in results:
            self._know(result, read[0])
        return out

    def _as_inputs(self, tensors: Sequence[Tensor]) -> list[int]:
        """The nodes that tensors come from; a parameter serves as data, and a constant is none."""
        found: list[int] = []
        for tensor in tensors:
            origin = self._origin(tensor)
            if isinstance(origin, Weight):
                origin = self._add_source(tensor, origin)
            if origin is not None and origin not in found:
                found.append(origin)
        return found

    def _linear(self, op: str, inputs: Sequence[int], weight: Tensor, biases: Sequence[Tensor], result: Tensor) -> int:
        """A linear layer, or what contains one."""
        made = self._add_node(op, inputs, result)
        row = operation("linear")
        args = (None, weight, *biases)
        for tensor in args[1:]:
            origin = None if tensor is None else self._origin(tensor)
            if tensor is not None and isinstance(origin, Weight):
                self._nodes[made].uses += uses_of(row, args, tensor, origin)
        return made

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

    def _scaled(self, value: Any, factor: float) -> Any:
        """A factor on one term of a sum, as a product of its own: x + c y is x + (c y)."""
        origin = self._origin(value) if isinstance(value, Tensor) else None
        if origin is None:
            return value
        scaled = value.detach()
        if isinstance(origin, Weight):
            self._know(scaled, origin.times(factor))
            return scaled
        made = self._add_node("mul", [origin], scaled)
        self._nodes[made].factor = factor
        self._know(scaled, made)
        return scaled

    # --- nodes and origins ---
    def _add_node(self, op: str, inputs: Sequence[int], result: Tensor) -> int:
        index = len(self._nodes)
        node = Node(index, op, tuple(inputs), tuple(result.shape), _holds_numbers(result))
        self._nodes.append(node)
        return index

    def _add_source(self, tensor: Tensor, weight: Weight) -> int:
        """A parameter that serves as data: learned queries."""
        index = self._add_node("source", [], tensor)
        for held in weight.held:
            use = Use(held.name, "source", fan_out=held_axes(held), axes=held.axes)
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


def _grouped_mm_shape(a: Tensor, b: Tensor, *_: Any, **__: Any) -> Tensor:
    """Rows of each expert times its matrix; torch's own shape function insists on bfloat16."""
    return a.new_empty(*a.shape[:-1], b.shape[-1])
