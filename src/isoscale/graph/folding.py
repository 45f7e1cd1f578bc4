"""Into which parameters a multiplier of a value can be folded.

c z is z computed with some parameters multiplied by c, if everything after them is homogeneous: f(c y) = c f(y). They
are found by walking back from z. A linear layer takes c into its weight and its bias; a sum needs c in each of its
terms, a product in exactly one of its factors; the walk ends in failure at anything that c does not pass.
"""

from __future__ import annotations

from dataclasses import dataclass

from isoscale.graph.graph import Graph, Node, bits, members
from isoscale.graph.ops import operation

# What a factor meets that is divided by itself.
_FELT = "a normalisation"


@dataclass(frozen=True)
class Foldable:
    """Where a multiplier of one value goes.

    Attributes:
        names: Parameters, or `Multiplier` modules, that all take it.
        nodes: Where they act, as a bit set.
        obstacle: The operation that it does not pass; None if it can be folded.
    """

    names: frozenset[str] = frozenset()
    nodes: int = 0
    obstacle: str | None = None

    def __or__(self, other: Foldable) -> Foldable:
        """Where a multiplier of a sum goes: into both terms."""
        return Foldable(
            names=self.names | other.names,
            nodes=self.nodes | other.nodes,
            obstacle=self.obstacle or other.obstacle,
        )


class Folding:
    """Folds multipliers of values, one value at a time.

    Args:
        graph: The forward.
        within: The nodes whose parameters may be scaled, as a bit set: those of one branch.
    """

    def __init__(self, graph: Graph, within: int) -> None:
        self._graph, self._within = graph, within
        self._found: dict[int, Foldable] = {}

    def into(self, index: int) -> Foldable:
        """What takes a multiplier of this node's result."""
        if index not in self._found:
            self._found[index] = self._walk(self._graph.nodes[index])
        return self._found[index]

    def _walk(self, node: Node) -> Foldable:
        here = 1 << node.index
        if not self._within & here:
            return Foldable(obstacle="something from outside the branch")
        if node.multiplier:
            names = frozenset((node.multiplier,))
            return Foldable(names, here)
        # c (W z + b) = (c W) z + (c b), and likewise for the scale and bias of a norm.
        has_parameters = node.is_map or (node.row.is_norm and node.uses)
        if has_parameters and not node.obstacle:
            return _own(node, "map", "gain", "bias")
        # The rows of c E are c times those of E, and learned queries are theirs.
        if any(use.kind in ("embedding", "source") for use in node.uses):
            return _own(node, "embedding", "source")
        found = self._through(node)
        if found.obstacle:
            # c (g z) = (c g) z, where z takes nothing.
            has_gain = any(use.kind == "gain" for use in node.uses)
            return _own(node, "gain") if has_gain else found
        # c (z + b) = c z + c b. A gain on what takes c already stays as it is.
        biases = frozenset(use.name for use in node.uses if use.kind == "bias")
        if biases:
            found |= Foldable(biases, here)
        return found

    def _through(self, node: Node) -> Foldable:
        """Past an operation, leaving its own parameters alone."""
        if node.obstacle:
            return Foldable(obstacle=node.obstacle)
        if node.row.effect == "attention":
            if len(node.inputs) < 3:
                return Foldable(obstacle="attention of a value to itself")
            # c softmax(q k) v = softmax(q k) (c v)
            queries_and_keys, values = node.inputs[:2], node.inputs[2]
            found = self._one_factor(values, queries_and_keys)
            return Foldable(obstacle="attention of a value to itself") if found.obstacle == _FELT else found
        is_product = node.row.multiplies or node.row.contraction
        if is_product and len(node.inputs) == 2:
            # c (y z) = y (c z) = (c y) z, and c (y / z) = (c y) / z
            first, second = node.inputs
            if not node.row.divides:
                found = self._one_factor(second, (first,))
                if not found.obstacle:
                    return found
            return self._one_factor(first, (second,))
        if not node.row.is_homogeneous or not node.inputs:
            return Foldable(obstacle=node.op)
        # f(c y, c z) = c f(y, z): all inputs take it.
        found = Foldable()
        for parent in self._graph.sources[node.index]:
            found |= self.into(parent)
        # y + g(y) is no multiple of c if y takes it, and g after it once more.
        if not found.obstacle and self._feel_one_another(found.nodes):
            return Foldable(obstacle="a residual addition of its own")
        return found

    def _feel_one_another(self, nodes: int) -> bool:
        """Whether what one of these nodes takes reaches another; past a norm nothing is left of it.

        What is only added takes the factor beside the value that it is added to, and hands it on to nothing.
        """
        seen = 0
        pending = 0
        for index in members(nodes):
            node = self._graph.nodes[index]
            if node.uses and not node.multiplier and all(use.kind == "bias" for use in node.uses):
                nodes ^= 1 << index
        for index in members(nodes):
            pending |= bits(self._graph.sources[index])
        while pending:
            at = pending.bit_length() - 1
            pending ^= 1 << at
            seen |= 1 << at
            if nodes >> at & 1:
                return True
            if not self._graph.nodes[at].row.is_norm and self._within >> at & 1:
                pending |= bits(self._graph.sources[at]) & ~seen
        return False

    def _one_factor(self, factor: int, others: tuple[int, ...]) -> Foldable:
        """A product is scaled by one factor alone, if the others do not feel its parameters (in x / |x| they do)."""
        found = self.into(factor)
        felt = any(self._graph.above[other] & found.nodes for other in others)
        if not found.obstacle and felt:
            return Foldable(obstacle=_FELT)
        return found


def _own(node: Node, *kinds: str) -> Foldable:
    """A node's own parameters of these kinds, if each acts as it is."""
    names: list[str] = []
    has_gain = any(use.kind == "gain" for use in node.uses)
    for use in node.uses:
        if use.kind not in kinds:
            continue
        if use.computed_by and operation(use.computed_by).is_norm and has_gain:
            # A norm of the weight itself takes any factor out again; the norm's scale keeps it.
            continue
        if use.computed_by:
            reason = f"`{use.name}`, which passes through {use.computed_by} before it acts"
            return Foldable(obstacle=reason)
        names.append(use.name)
    return Foldable(frozenset(names), 1 << node.index)
