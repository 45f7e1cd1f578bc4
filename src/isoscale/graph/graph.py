"""What a forward pass computed: a graph of activations, and where each parameter entered it.

A node is one operation that depends on the model's inputs. Parameters are not nodes: a node lists its
*uses* of them. Everything else in this room is a question about this graph.

A *map* is a linear layer's part in it: a node at which a weight matrix or the kernel of a convolution acts.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Literal

from isoscale.graph.ops import Operation, operation

Kind = Literal["map", "embedding", "gain", "bias", "source", "other"]


@dataclass(frozen=True)
class Use:
    """One parameter at one node.

    Attributes:
        name: Fully qualified parameter name.
        kind: "map" (a weight matrix or kernel, contracted with an activation), "embedding" (its rows are selected),
            "gain" (multiplies: a norm's scale), "bias" (adds), "source" (serves as data itself: learned queries),
            "other".
        fan_in: The parameter's own axes that are summed over; empty unless a weight matrix.
        fan_out: The parameter's own axes that remain in the result.
        computed_by: The operation that made the effective weight from the parameter, if it was more than a view.
        factor: What the parameter was multiplied by before it acts here; None if unknown.
        share: How much of the parameter acts here, of 1: a packed projection's queries are a third.
    """

    name: str
    kind: Kind
    fan_in: tuple[int, ...] = ()
    fan_out: tuple[int, ...] = ()
    computed_by: str | None = None
    factor: float | None = 1.0
    share: float = 1.0


@dataclass
class Node:
    """One operation on activations.

    Attributes:
        index: Place in the order of execution.
        op: Name of the ATen operation, without overload and in-place mark ("addmm"); "input" and "source" for data.
        inputs: Indices of the nodes whose results it reads.
        shape: Shape of its (first) result.
        uses: The parameters that enter here.
        obstacle: Why no factor of its inputs passes here, where the operation in general would let it pass.
        factor: What it multiplies by beside its inputs and parameters, attention its logits; None if unknown.
        multiplier: Name of the `isoscale.Multiplier` module that computed it, if one did.
    """

    index: int
    op: str
    inputs: tuple[int, ...]
    shape: tuple[int, ...]
    is_float: bool = True
    uses: list[Use] = field(default_factory=list)
    obstacle: str | None = None
    factor: float | None = 1.0
    multiplier: str | None = None

    @cached_property
    def row(self) -> Operation:
        """What is known of the operation."""
        return operation(self.op)

    @property
    def is_map(self) -> bool:
        """Whether a weight matrix or a convolution acts here."""
        return any(use.kind == "map" for use in self.uses)

    @property
    def is_entry(self) -> bool:
        """Whether data become features here: a weight matrix, an embedding or a learned query."""
        return any(use.kind in ("map", "embedding", "source") for use in self.uses)


@dataclass(frozen=True)
class Graph:
    """Nodes in the order of execution.

    Attributes:
        nodes: All of them.
        outputs: Those that the model returned.
        module_inputs, module_outputs: By name of a submodule, the node of its first argument and of its (first)
            result, at its last call: where a hook sees which value.
    """

    nodes: tuple[Node, ...]
    outputs: tuple[int, ...]
    module_inputs: Mapping[str, int] = field(default_factory=dict)
    module_outputs: Mapping[str, int] = field(default_factory=dict)

    @cached_property
    def above(self) -> list[int]:
        """For each node the set of nodes that it depends on, itself included, as a bit set."""
        # Inputs come before what reads them, so their sets are complete by then.
        sets: list[int] = []
        for node in self.nodes:
            bits = 1 << node.index
            for parent in node.inputs:
                bits |= sets[parent]
            sets.append(bits)
        return sets

    @cached_property
    def readers(self) -> list[list[int]]:
        """For each node the nodes that read its result."""
        readers: list[list[int]] = [[] for _ in self.nodes]
        for node in self.nodes:
            # One that reads a result twice, as x * x does, is one reader.
            for parent in set(node.inputs):
                readers[parent].append(node.index)
        return readers

    @cached_property
    def maps(self) -> int:
        """All nodes at which a weight matrix acts, as a bit set."""
        return bits(node.index for node in self.nodes if node.is_map)

    @cached_property
    def entries(self) -> int:
        """All nodes at which data become features, as a bit set."""
        return bits(node.index for node in self.nodes if node.is_entry)

    @cached_property
    def below(self) -> list[int]:
        """For each node the set of nodes that depend on it, itself included, as a bit set."""
        sets = [1 << node.index for node in self.nodes]
        for node in reversed(self.nodes):
            for parent in node.inputs:
                sets[parent] |= sets[node.index]
        return sets

    def before(self, node: int) -> int:
        """The nodes that it depends on, itself left out, as a bit set."""
        return self.above[node] & ~(1 << node)

    def after(self, node: int) -> int:
        """The nodes that depend on it, itself left out, as a bit set."""
        return self.below[node] & ~(1 << node)

    def depends(self, node: int, on: int) -> bool:
        """Whether a node depends on another, or is it."""
        return bool(self.above[node] >> on & 1)

    def uses(self) -> Iterator[tuple[Node, Use]]:
        """Every use of every parameter, in the order of execution."""
        for node in self.nodes:
            for use in node.uses:
                yield node, use


def bits(indices: Iterable[int]) -> int:
    """A bit set of these indices."""
    out = 0
    for index in indices:
        out |= 1 << index
    return out


def members(bit_set: int) -> Iterator[int]:
    """The indices in a bit set, in rising order."""
    while bit_set:
        # In two's complement x & -x is the lowest bit of x.
        low = bit_set & -bit_set
        yield low.bit_length() - 1
        bit_set ^= low
