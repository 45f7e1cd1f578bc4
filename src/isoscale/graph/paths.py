"""How deep a network is: lengths of the paths from its input to its output.

A path leads from the first input to an output, through weight layers (linear layers, convolutions, embeddings) and
residual additions; how the operations between two of these are arranged makes no two paths of one. Sources: MultiPath
(arXiv 2602.07494) for the effective depth, PathSum (arXiv 2402.17440) for the sum over paths; docs/theory.md,
section 6.
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
    for step, before in _steps(graph):
        if before:
            shortest[step] = 1 + min(shortest[i] for i in before)
        else:
            shortest[step] = 0  # the input
    # The output is a step, but no layer.
    output = len(graph.nodes)
    return shortest[output] - 1


def path_lengths(graph: Graph) -> Lengths:
    """How many paths there are of each length, in weight layers before the readout."""
    additions = residual_additions(graph)
    # paths(step) = sum of paths(step before), each longer by one if the step is a layer that counts.
    output = len(graph.nodes)
    paths: dict[int, Lengths] = {}
    for step, before in _steps(graph):
        arriving: Lengths = Counter()
        if not before:
            arriving[0] = 1
        for i in before:
            arriving.update(paths[i])
        # A path that passes a layer is longer by one.
        longer = 1 if step != output and _counts(graph, graph.nodes[step], additions) else 0
        paths[step] = Counter()
        for length, number in arriving.items():
            paths[step][length + longer] = number
    return paths[output]


def path_sum(graph: Graph) -> int:
    """Sum over paths of the cube of the number of weight layers before the readout."""
    total = 0
    for length, number in path_lengths(graph).items():
        total += number * length**3
    return total


def _steps(graph: Graph) -> Iterator[tuple[int, list[int]]]:
    """The input, each layer and residual addition that it reaches, and the output (numbered after the last node);
    each with those of them that come right before it."""
    additions = residual_additions(graph)
    # For each node the nearest steps above it, as a bit set; a step's nearest is itself.
    nearest = [0] * len(graph.nodes)
    for node in graph.nodes:
        before = 0
        for parent in _parents(graph, node, additions):
            before |= nearest[parent]
        is_step = _is_layer(node) or node.index in additions
        if node.index == 0 or (before and is_step):
            yield node.index, list(members(before))
            before = 1 << node.index
        nearest[node.index] = before
    for output in graph.outputs:
        # Of several outputs the first that data reach.
        if nearest[output]:
            yield len(graph.nodes), list(members(nearest[output]))
            return
    raise TraceError("no output of the model depends on its first input: there is no path to measure")


def _parents(graph: Graph, node: Node, additions: set[int]) -> Iterator[int]:
    # Where untouched input meets features it is a mask or a gate, not a path: only a residual addition or a
    # concatenation carries data on.
    only_features = node.row.combines and node.index not in additions and len(node.inputs) > 1
    for parent in node.inputs:
        if not only_features or graph.above[parent] & graph.entries:
            yield parent


def _is_layer(node: Node) -> bool:
    """Whether it is a weight layer."""
    return any(use.kind in ("map", "embedding") for use in node.uses)


def _counts(graph: Graph, node: Node, additions: set[int]) -> bool:
    """Whether it is a weight layer before the readout: the last linear layer of all, outside the residual blocks."""
    if not _is_layer(node):
        return False
    if graph.after(node.index) & graph.maps:
        return True
    return any(graph.depends(addition, on=node.index) for addition in additions)
