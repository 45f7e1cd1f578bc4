"""Sums of products of two activations: bilinear forms, matrices that a network makes, two towers that meet.

sum_i a_i b_i over n features grows like n once a and b have learned from each other, and nothing that a role says of
the weights behind a and b changes that: as attention's logits, it needs a factor 1/n of its own.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from isoscale.graph.attention import logit_nodes
from isoscale.graph.graph import Graph, Node, members


@dataclass(frozen=True)
class Product:
    """One such sum.

    Attributes:
        size: How many products are summed.
        factor: What the forward multiplies them by.
        makers: Parameters of the layers that made the two activations.
        by_gradient: Whether one of them is a parameter that a gradient was added to, as in a step of its own.
    """

    size: int
    factor: float
    makers: tuple[str, ...]
    by_gradient: bool = False


def products(graph: Graph) -> tuple[Product, ...]:
    """All of them but attention's logits, and those of which one side is normalised, in the order of execution."""
    logits = logit_nodes(graph)
    found: list[Product] = []
    for node in graph.nodes:
        if not node.summed_products or node.index in logits:
            continue
        factors = _factors(graph, node)
        if any(_is_normalised(graph, index) for index in factors):
            continue
        makers: dict[str, None] = {}
        for index in factors:
            makers |= dict.fromkeys(_makers(graph, index))
        if makers:
            by_gradient = any(_is_stepped(graph, index) for index in factors)
            found.append(Product(node.summed_products, _factor(graph, node, factors), tuple(makers), by_gradient))
    return tuple(found)


def grown(here: Sequence[Product], base: Sequence[tuple[int, float]]) -> Iterator[tuple[Product, int]]:
    """The sums that grow from the base to the target, with their size in the base.

    Args:
        here: The target's.
        base: Size and factor of the base's.
    """
    if len(here) == len(base):
        pairs = zip(here, base, strict=True)
    else:
        # Another depth: each answers to what is most like it.
        pairs = [(one, min(base, key=lambda other: _unlike(one, other))) for one in here if base]
    for one, (size, factor) in pairs:
        if abs(one.factor) * one.size > abs(factor) * size * (1 + 1e-6):
            yield one, size


def _unlike(one: Product, other: tuple[int, float]) -> tuple[bool, float]:
    """What tells a sum from one of the base: another number of terms, and then another size."""
    size, factor = other
    here, there = abs(one.factor) * one.size, abs(factor) * size
    return (one.size != size, abs(math.log(here / there)) if here and there else math.inf)


def _factors(graph: Graph, node: Node) -> tuple[int, ...]:
    """The two activations: of a sum, what its product multiplies."""
    if node.row.reduces:
        return graph.nodes[node.inputs[0]].inputs
    return node.inputs


def _is_normalised(graph: Graph, index: int) -> bool:
    """Whether a softmax or a division by its own norm made it: then its size is free of the number of its entries."""
    for node in _linear_chain(graph, index):
        if node.row.effect == "softmax":
            return True
        if node.row.divides and len(node.inputs) == 2:
            # x / |x|, however the norm is written; x / rms(x) still has n entries of order one.
            divided, by = node.inputs
            between = graph.above[by] & graph.below[divided]
            if between and not any(graph.nodes[i].op == "mean" for i in members(between)):
                return True
    return False


def _is_stepped(graph: Graph, index: int) -> bool:
    """Whether a value is a parameter with a gradient, times a number, added to it."""
    for node in _linear_chain(graph, index):
        if node.row.adds and node.uses:
            return any(step.op == "derivative" for step in _linear_chain(graph, node.inputs[0]))
    return False


def _linear_chain(graph: Graph, index: int) -> Iterator[Node]:
    """A node and what its value was before linear operations without parameters."""
    node = graph.nodes[index]
    yield node
    while node.row.is_linear and not node.uses and node.inputs:
        node = graph.nodes[node.inputs[0]]
        yield node


def _makers(graph: Graph, index: int) -> list[str]:
    """The weights of the last layer, or the table, above a value."""
    above = list(members(graph.above[index] & graph.entries))
    if not above:
        return []
    return [use.name for use in graph.nodes[above[-1]].uses if use.kind != "bias"]


def _factor(graph: Graph, node: Node, factors: Sequence[int]) -> float:
    """The numbers on the way to the two activations, and from their product to what is not linear."""
    ways = [_linear_chain(graph, index) for index in factors]
    numbers = [step.factor for way in ways for step in way if step.row.is_linear and not step.uses]
    at = node
    numbers.append(at.factor)
    while len(graph.readers[at.index]) == 1:
        at = graph.nodes[graph.readers[at.index][0]]
        if not at.row.is_linear or at.uses:
            break
        numbers.append(at.factor)
    return math.prod(1.0 if number is None else number for number in numbers)
