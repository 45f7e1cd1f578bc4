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
            "other" (enters an operation of which it is not known what it does with a parameter).
        fan_in: The parameter's own axes that are summed over; empty unless a weight matrix.
        fan_out: The parameter's own axes that remain in the result.
        computed_by: The operation that made the effective weight from the parameter, if it is not linear in it.
        axes: For each dimension of the tensor that entered, the parameter's own axes that it holds, if they are known.
        in_groups: Whether an axis of fan_in counts the inputs of several groups, of which each output sees one.
        offset: The number that is added to it before it acts: 1, if a norm's scale is stored as its distance from 1.
        factor: What the parameter was multiplied by before it acts here; None if unknown.
        share: How much of the parameter acts here, of 1: a packed projection's queries are a third.
    """

    name: str
    kind: Kind
    fan_in: tuple[int, ...] = ()
    fan_out: tuple[int, ...] = ()
    computed_by: str | None = None
    axes: tuple[frozenset[int], ...] | None = None
    in_groups: bool = False
    offset: float = 0.0
    factor: float | None = 1.0
    share: float = 1.0


@dataclass(frozen=True)
class Piece:
    """A slice of a tensor along one axis.

    Attributes:
        axis: The axis.
        positions: Which of its positions.
    """

    axis: int
    positions: range

    def disjoint(self, other: Piece) -> bool:
        """Whether two pieces of one tensor have no entry in common."""
        if self.axis != other.axis:
            return False
        if self.positions.step == other.positions.step == 1:
            first = max(self.positions.start, other.positions.start)
            return first >= min(self.positions.stop, other.positions.stop)
        return not set(self.positions) & set(other.positions)


@dataclass
class Node:
    """One result of an operation on activations.

    The results of an operation that splits a tensor are nodes of their own, and so are whole numbers beside others.

    Attributes:
        index: Place in the order of execution.
        op: Name of the ATen operation, without overload and in-place mark ("addmm"); "input" and "source" for data.
        inputs: Indices of the nodes whose results it reads.
        shape: Shape of the result.
        is_float: Whether it holds numbers that are computed with; whole numbers and truth values only pick some.
        uses: The parameters that enter here.
        obstacle: Why no factor of its inputs passes here, where the operation in general would let it pass.
        factor: What it multiplies by beside its inputs and parameters, attention its logits; None if unknown.
        multiplier: Name of the `isoscale.Multiplier` module that computed it, if one did.
        summed_products: Over how many products of two activations it sums; 0 if it does not.
        terms: The nodes that it is the sum or difference of, if there are several.
        taken_off: Of a difference the term with the minus.
        piece: Which part of its input it is, if it is a slice of it.
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
    summed_products: int = 0
    terms: tuple[int, ...] = ()
    taken_off: int | None = None
    piece: Piece | None = None

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
        """Whether data become features here: a weight matrix, an embedding, a learned query, or one cannot tell."""
        return any(use.kind in ("map", "embedding", "source", "other") for use in self.uses)


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
    def sources(self) -> list[tuple[int, ...]]:
        """For each node those of its inputs that its numbers are computed from.

        Whole numbers and truth values (indices, masks) say which numbers are taken, and are no numbers of the result.
        """
        found: list[tuple[int, ...]] = []
        for node in self.nodes:
            found.append(tuple(parent for parent in node.inputs if self.nodes[parent].is_float))
        return found

    @cached_property
    def computed_from(self) -> list[int]:
        """For each node the set of nodes that its numbers are computed from, itself included, as a bit set."""
        sets: list[int] = []
        for node, parents in zip(self.nodes, self.sources, strict=True):
            bits = 1 << node.index
            for parent in parents:
                bits |= sets[parent]
            sets.append(bits)
        return sets

    @cached_property
    def leads_to(self) -> list[int]:
        """For each node the set of nodes whose numbers are computed from it, itself included, as a bit set."""
        sets = [1 << node.index for node in self.nodes]
        for node in reversed(self.nodes):
            for parent in self.sources[node.index]:
                sets[parent] |= sets[node.index]
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
