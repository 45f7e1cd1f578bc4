"""Attention in a graph: where queries meet keys, how large heads are, and what the forward multiplies logits by.

The logits of a head of size d are s q.k. torch's default is s = d^(-1/2); a forward may set it (`scale=` of
`F.scaled_dot_product_attention`) or spread it over queries, keys and logits: s is the product of all that is there.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from isoscale.graph.constants import product
from isoscale.graph.folding import Folding
from isoscale.graph.graph import Graph, Kind, Node, bits, members


@dataclass(frozen=True, kw_only=True)
class Attention:
    """One attention of a forward.

    Attributes:
        name: Name of the weight that made its queries, by which it is known; empty if no weight did.
        head_size: Size of its heads.
        scale: What its logits q.k are multiplied by; None where that cannot be read.
        foldable_into: Parameters, or `Multiplier` modules, that a multiplier of its logits can be folded into.
        packed: Parameters that hold queries and keys as well, into which none can be folded.
        nodes: Where its logits are made: from queries and keys to the softmax, as a bit set.
    """

    name: str
    head_size: int
    scale: float | None
    foldable_into: frozenset[str] = frozenset()
    packed: frozenset[str] = frozenset()
    nodes: int = 0


def logit_nodes(graph: Graph) -> set[int]:
    """The nodes at which queries meet keys."""
    return {place.node.index for place in _places(graph)}


def attentions(graph: Graph) -> tuple[Attention, ...]:
    """All of them, in the order of execution."""
    folding = Folding(graph, within=bits(range(len(graph.nodes))))
    found: list[Attention] = []
    for place in _places(graph):
        gathered = _GatheredFactors(graph)
        # s = (factor of q) (factor of k) (factor of the product) (factors on the way to the softmax)
        factors = [gathered.of(place.queries), gathered.of(place.keys), place.node.factor]
        for step in place.to_softmax:
            # A learned temperature may be anything.
            learned = is_product(step) or has(step, "gain")
            factors.append(None if learned else own_factor(step))
        foldable_into, packed = _query_parameters(graph, place, folding)
        attention = Attention(
            name=_name(graph, place),
            head_size=graph.nodes[place.queries].shape[-1],
            scale=product(factors),
            foldable_into=foldable_into,
            packed=packed,
            nodes=gathered.passed | bits((place.node.index, *(step.index for step in place.to_softmax))),
        )
        found.append(attention)
    return tuple(found)


def own_factor(node: Node) -> float | None:
    """The factor of one operation; what a plan sets is no part of the forward."""
    return 1.0 if node.multiplier else node.factor


def is_product(node: Node) -> bool:
    """Whether activations are multiplied with each other."""
    multiplies = node.row.multiplies or node.row.contraction is not None
    return multiplies and len(node.inputs) > 1


def has(node: Node, kind: Kind) -> bool:
    """Whether a parameter enters in this way."""
    return any(use.kind == kind for use in node.uses)


def _name(graph: Graph, place: _Place) -> str:
    """The last weight matrix that the queries depend on."""
    above = list(members(graph.above[place.queries] & graph.maps))
    if not above:
        return ""
    nearest = graph.nodes[above[-1]]
    return next(use.name for use in nearest.uses if use.kind == "map")


def _query_parameters(graph: Graph, place: _Place, folding: Folding) -> tuple[frozenset[str], frozenset[str]]:
    """What a multiplier of the logits can be folded into; and what holds keys as well, so that it cannot."""
    node = place.node
    found = folding.into(place.queries)
    # What scales the queries may scale neither the keys nor the values.
    shared = found.obstacle is not None or len(node.inputs) == 1
    if not shared:
        scales_keys = found.nodes & graph.above[place.keys]
        others = [folding.into(other).names for other in node.inputs[1:]]
        shared = bool(scales_keys) or any(found.names & names for names in others)
    if not shared:
        return found.names, frozenset()
    if found.names:
        return frozenset(), found.names
    # Something in between is in the way; the linear layer that made the queries is what can be changed.
    above = list(members(graph.above[place.queries] & graph.maps))
    nearest = graph.nodes[above[-1]].uses if above else []
    return frozenset(), frozenset(use.name for use in nearest)


@dataclass(frozen=True)
class _Place:
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


def _places(graph: Graph) -> Iterator[_Place]:
    """All of them, in the order of execution: fused ones, and products of activations that a softmax reads."""
    for node in graph.nodes:
        if node.row.effect == "attention":
            yield _Place(node, [])
            continue
        contraction = node.row.contraction
        if contraction is None or not contraction.batched:
            continue
        if len(node.inputs) != 2 or node.uses:
            continue
        to_softmax = _to_softmax(graph, node)
        if to_softmax is not None:
            yield _Place(node, to_softmax)


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
        # Operations that were walked past, as a bit set.
        self.passed = 0

    def of(self, index: int) -> float | None:
        """The factor of a node's result; None if it is unknown."""
        if index not in self._found:
            self._found[index] = self._walk(self._graph.nodes[index])
        return self._found[index]

    def _walk(self, node: Node) -> float | None:
        made_here = node.is_entry or node.row.is_norm or not node.inputs
        if made_here or has(node, "gain"):
            return 1.0
        if not node.row.is_linear or is_product(node):
            return None
        # Of a sum, as in rotary embeddings, all terms must have gathered the same.
        terms: set[float | None] = set()
        for parent in node.inputs:
            if self._graph.nodes[parent].is_float:
                terms.add(self.of(parent))
        if has(node, "bias") or has(node, "other"):
            terms.add(1.0)
        if len(terms) != 1:
            return None
        return product([*terms, own_factor(node)])
