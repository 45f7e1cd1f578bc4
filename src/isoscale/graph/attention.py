"""Attention in a graph: where queries meet keys, how large heads are, and what the forward multiplies logits by.

The logits of a head of size d are s q.k. torch's default is s = d^(-1/2); a forward may set it (`scale=` of
`F.scaled_dot_product_attention`) or spread it over queries, keys and logits: s is the product of all that is there.
"""

from __future__ import annotations

from collections.abc import Iterator

from isoscale.graph.branches import Carriers
from isoscale.graph.graph import Graph, Node, members


def head_sizes(graph: Graph) -> tuple[int, ...]:
    """Size of each attention's heads, in the order of execution."""
    return tuple(graph.nodes[node.inputs[0]].shape[-1] for node, _ in _attentions(graph))


def logit_scales(graph: Graph) -> tuple[float | None, ...]:
    """What each attention's logits q.k are multiplied by, in the order of execution; None where it cannot be read."""
    read = _Factors(graph)
    scales: list[float | None] = []
    for node, to_softmax in _attentions(graph):
        queries, keys = node.inputs[0], node.inputs[min(1, len(node.inputs) - 1)]
        factors = [read.at(queries), read.at(keys), node.factor]
        for step in to_softmax:
            learned = _is_product(step) or any(use.kind == "gain" for use in step.uses)
            factors.append(None if learned else read.own(step))
        scales.append(_product(factors))
    return tuple(scales)


def query_parameters(graph: Graph) -> tuple[set[str], set[str]]:
    """Parameters that a multiplier of the logits can be folded into; and those that hold keys as well, and cannot."""
    carriers = Carriers(graph, (1 << len(graph.nodes)) - 1)
    queries: set[str] = set()
    packed: set[str] = set()
    for node, _ in _attentions(graph):
        found = carriers.of(node.inputs[0])
        others = [carriers.of(i).names for i in node.inputs[1:]]
        keys = graph.above[node.inputs[1]] if others else ~0
        if found.stuck or found.nodes & keys or any(found.names & names for names in others):
            nearest = list(members(graph.above[node.inputs[0]] & graph.maps))[-1:]
            packed |= found.names or {use.name for i in nearest for use in graph.nodes[i].uses}
        else:
            queries |= found.names
    return queries, packed


def _attentions(graph: Graph) -> Iterator[tuple[Node, list[Node]]]:
    """Nodes at which queries meet keys, each with those between it and its softmax."""
    for node in graph.nodes:
        if node.row.effect == "attention":
            yield node, []
            continue
        contraction = node.row.contraction
        if contraction is None or not contraction.batched or len(node.inputs) != 2 or node.uses:
            continue
        to_softmax = _to_softmax(graph, node)
        if to_softmax is not None:
            yield node, to_softmax


def _to_softmax(graph: Graph, node: Node) -> list[Node] | None:
    """The linear operations between a product and the softmax that alone reads it; None if there is no softmax."""
    between: list[Node] = []
    while len(graph.readers[node.index]) == 1:
        node = graph.nodes[graph.readers[node.index][0]]
        if node.row.effect == "softmax":
            return between
        if not node.row.is_linear:
            return None
        between.append(node)
    return None


class _Factors:
    """The constant factor that a value has gathered since a parameter, a norm or the input made it."""

    def __init__(self, graph: Graph) -> None:
        self._graph = graph
        self._found: dict[int, float | None] = {}

    def at(self, index: int) -> float | None:
        if index not in self._found:
            self._found[index] = self._walk(self._graph.nodes[index])
        return self._found[index]

    def own(self, node: Node) -> float | None:
        """The factor of one operation; what a plan sets is no part of the forward."""
        return 1.0 if node.multiplier else node.factor

    def _walk(self, node: Node) -> float | None:
        if node.is_entry or node.row.is_norm or any(use.kind == "gain" for use in node.uses) or not node.inputs:
            return 1.0
        if not node.row.is_linear or _is_product(node):
            return None
        parts = {self.at(parent) for parent in node.inputs if self._graph.nodes[parent].is_float}
        if any(use.kind in ("bias", "other") for use in node.uses):
            parts.add(1.0)  # the parameter itself
        # Of a sum, as in rotary embeddings, all terms must have gathered the same.
        return _product([*parts, self.own(node)]) if len(parts) == 1 else None


def _is_product(node: Node) -> bool:
    """Whether activations are multiplied with each other."""
    return bool(node.row.multiplies or node.row.contraction) and len(node.inputs) > 1


def _product(factors: list[float | None]) -> float | None:
    product = 1.0
    for factor in factors:
        if not factor:  # unknown, or logits that are all zero
            return None
        product *= factor
    return product
