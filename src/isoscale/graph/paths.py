"""How deep a network is: lengths of the paths from its input to its output.

A path leads from the first input to an output, through weight layers (maps, convolutions, embeddings) and residual
additions; how the operations between two of these are arranged makes no two paths of one. Sources: MultiPath
(arXiv 2602.07494) for the effective depth, PathSum (arXiv 2402.17440) for the sum over paths; THEORY.md section 6.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator

from isoscale.errors import TraceError
from isoscale.graph.branches import residual_additions
from isoscale.graph.graph import Graph, Node, members

# Length of a path -> number of such paths.
Lengths = Counter[int]


def effective_depth(graph: Graph) -> int:
    """Length of the shortest path, a weight layer and a residual addition counting 1 each."""
    shortest: dict[int, int] = {}
    for index, before in _steps(graph):
        shortest[index] = min((shortest[i] for i in before), default=-1) + 1  # the input counts 0, an output nothing
    return shortest[len(graph.nodes)] - 1


def path_lengths(graph: Graph) -> Lengths:
    """How many paths there are of each length, in weight layers before the readout."""
    counted = {node.index for node in graph.nodes if _is_layer(node) and not _is_readout(graph, node)}
    paths: dict[int, Lengths] = {}
    for index, before in _steps(graph):
        total = Counter() if before else Counter({0: 1})
        for i in before:
            total.update(paths[i])
        paths[index] = Counter({length + (index in counted): number for length, number in total.items()})
    return paths[len(graph.nodes)]


def path_sum(graph: Graph) -> int:
    """Sum over paths of the cube of the number of weight layers before the readout."""
    return sum(number * length**3 for length, number in path_lengths(graph).items())


def _steps(graph: Graph) -> Iterator[tuple[int, list[int]]]:
    """The input, each layer and residual addition that it reaches, and the output (numbered after the last node);
    each with those of them that come right before it."""
    additions = residual_additions(graph)
    near = [0] * len(graph.nodes)  # for each node the nearest steps above it, itself if it is one
    for node in graph.nodes:
        before = 0
        for parent in _parents(graph, node, additions):
            before |= near[parent]
        if node.index == 0 or (before and (_is_layer(node) or node.index in additions)):
            yield node.index, list(members(before))
            before = 1 << node.index
        near[node.index] = before
    reached = [near[output] for output in graph.outputs if near[output]]
    if not reached:
        raise TraceError("no output of the model depends on its first input: there is no path to measure")
    yield len(graph.nodes), list(members(reached[0]))


def _parents(graph: Graph, node: Node, additions: set[int]) -> Iterator[int]:
    # Where untouched input meets features it is a mask or a gate, not a path: only a residual addition or a
    # concatenation carries data on.
    raw_stops = node.row.combines and node.index not in additions and len(node.inputs) > 1
    for parent in node.inputs:
        if not raw_stops or graph.above[parent] & graph.entries:
            yield parent


def _is_layer(node: Node) -> bool:
    return any(use.kind in ("map", "lookup") for use in node.uses)


def _is_readout(graph: Graph, node: Node) -> bool:
    """The last map of all, if it stands outside the residual blocks."""
    return not graph.below[node.index] & graph.maps & ~(1 << node.index) and not any(
        graph.depends(addition, on=node.index) for addition in residual_additions(graph)
    )
