"""Attention in a graph: where queries meet keys, how large heads are, and what the forward multiplies logits by.

The logits of a head of size d are s q.k. torch's default is s = d^(-1/2); a forward may set it (`scale=` of
`F.scaled_dot_product_attention`) or spread it over queries, keys and logits: s is the product of all that is there.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from isoscale.graph.folding import Folding
from isoscale.graph.graph import Graph, Kind, Node, bits, members


def head_sizes(graph: Graph) -> tuple[int, ...]:
    """Size of each attention's heads, in the order of execution."""
    sizes: list[int] = []
    for attention in _attentions(graph):
        queries = graph.nodes[attention.queries]
        sizes.append(queries.shape[-1])
    return tuple(sizes)


def logit_nodes(graph: Graph) -> set[int]:
    """The nodes at which queries meet keys."""
    return {attention.node.index for attention in _attentions(graph)}


def logit_scales(graph: Graph) -> tuple[float | None, ...]:
    """What each attention's logits q.k are multiplied by, in the order of execution; None where it cannot be read."""
    gathered = _GatheredFactors(graph)
    scales: list[float | None] = []
    for attention in _attentions(graph):
        # s = (factor of q) (factor of k) (factor of the product) (factors on the way to the softmax)
        factors = [gathered.of(attention.queries), gathered.of(attention.keys), attention.node.factor]
        for step in attention.to_softmax:
            # A learned temperature may be anything.
            learned = _is_product(step) or _has(step, "gain")
            factors.append(None if learned else _own_factor(step))
        scales.append(_product(factors))
    return tuple(scales)


def query_parameters(graph: Graph) -> tuple[set[str], set[str]]:
    """Parameters that a multiplier of the logits can be folded into; and those that hold keys as well, and cannot."""
    folding = Folding(graph, within=bits(range(len(graph.nodes))))
    queries: set[str] = set()
    packed: set[str] = set()
    for attention in _attentions(graph):
        node = attention.node
        found = folding.into(attention.queries)
        # What scales the queries may scale neither the keys nor the values.
        shared = found.obstacle is not None or len(node.inputs) == 1
        if not shared:
            scales_keys = found.nodes & graph.above[attention.keys]
            others = [folding.into(other).names for other in node.inputs[1:]]
            shared = bool(scales_keys) or any(found.names & names for names in others)
        if not shared:
            queries |= found.names
        elif found.names:
            packed |= found.names
        else:
            # Something in between is in the way; the linear layer that made the queries is what can be changed.
            above = list(members(graph.above[attention.queries] & graph.maps))
            if above:
                nearest = graph.nodes[above[-1]]
                packed |= {use.name for use in nearest.uses}
    return queries, packed


@dataclass(frozen=True)
class _Attention:
    """A node at which queries meet keys, and the linear operations between it and its softmax."""

    node: Node
    to_softmax: list[Node]

    @property
    def queries(self) -> int:
        return self.node.inputs[0]

    @property
    def keys(self) -> int:
        # One node may have made both.
        return self.node.inputs[min(1, len(self.node.inputs) - 1)]


def _attentions(graph: Graph) -> Iterator[_Attention]:
    """All of them, in the order of execution: fused ones, and products of activations that a softmax reads."""
    for node in graph.nodes:
        if node.row.effect == "attention":
            yield _Attention(node, [])
            continue
        contraction = node.row.contraction
        if contraction is None or not contraction.batched:
            continue
        if len(node.inputs) != 2 or node.uses:
            continue
        to_softmax = _to_softmax(graph, node)
        if to_softmax is not None:
            yield _Attention(node, to_softmax)


def _to_softmax(graph: Graph, node: Node) -> list[Node] | None:
    """The linear operations between a product and the softmax that alone reads it; None if there is no softmax."""
    between: list[Node] = []
    while len(graph.readers[node.index]) == 1:
        (reader,) = graph.readers[node.index]
        node = graph.nodes[reader]
        if node.row.effect == "softmax":
            return between
        if not node.row.is_linear:
            return None
        between.append(node)
    return None


class _GatheredFactors:
    """The constant factor that each value has gathered since a parameter, a norm or the input made it."""

    def __init__(self, graph: Graph) -> None:
        self._graph = graph
        self._found: dict[int, float | None] = {}

    def of(self, index: int) -> float | None:
        """The factor of a node's result; None if it is unknown."""
        if index not in self._found:
            self._found[index] = self._walk(self._graph.nodes[index])
        return self._found[index]

    def _walk(self, node: Node) -> float | None:
        made_here = node.is_entry or node.row.is_norm or not node.inputs
        if made_here or _has(node, "gain"):
            return 1.0
        if not node.row.is_linear or _is_product(node):
            return None
        # Of a sum, as in rotary embeddings, all terms must have gathered the same.
        terms: set[float | None] = set()
        for parent in node.inputs:
            if self._graph.nodes[parent].is_float:
                terms.add(self.of(parent))
        if _has(node, "bias") or _has(node, "other"):
            terms.add(1.0)
        if len(terms) != 1:
            return None
        return _product([*terms, _own_factor(node)])


def _own_factor(node: Node) -> float | None:
    """The factor of one operation; what a plan sets is no part of the forward."""
    return 1.0 if node.multiplier else node.factor


def _is_product(node: Node) -> bool:
    """Whether activations are multiplied with each other."""
    multiplies = node.row.multiplies or node.row.contraction is not None
    return multiplies and len(node.inputs) > 1


def _has(node: Node, kind: Kind) -> bool:
    """Whether a parameter enters in this way."""
    return any(use.kind == kind for use in node.uses)


def _product(factors: list[float | None]) -> float | None:
    product = 1.0
    for factor in factors:
        if not factor:  # unknown, or logits that are all zero
            return None
        product *= factor
    return product
