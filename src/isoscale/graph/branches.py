"""Residual branches, found in the graph itself.

A residual addition adds to a value something computed from that value by at least one weight matrix:
out = skip(s) + branch(s). The skip is the identity or a short chain without nonlinearity (views, pooling,
a norm, at most one projection, as in a downsampling ResNet block). Rotary embeddings, positional embeddings,
masks, gates and sums of parallel linear layers have no such skip, and are not residual.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from isoscale.graph.folding import Folding
from isoscale.graph.graph import Graph, Node, bits, members


@dataclass(frozen=True)
class Branch:
    """One residual branch.

    Attributes:
        start: Node that the branch and the skip share.
        end: Node that is added to the skip.
        add: The residual addition.
        nodes: The branch's nodes, `end` included, as a bit set.
        foldable_into: Names of what a multiplier on the branch is folded into, all of it together: weight matrices,
            norms' scales, biases, or `Multiplier` modules. Empty if it cannot be folded.
        last: Nodes of the branch's output projections: no other weight matrix of the branch follows them.
        unfoldable: If a multiplier cannot be folded, the operation that it does not pass.
    """

    start: int
    end: int
    add: int
    nodes: int
    foldable_into: frozenset[str]
    last: frozenset[int]
    unfoldable: str | None


def residual_branches(graph: Graph) -> list[Branch]:
    """Every residual branch, in the order of execution.

    A skip around other residual additions (a long skip, as in a U-Net) bounds no branch: its linear layers belong to
    the blocks inside.
    """
    places = list(_places(graph))
    adds = bits(place.add for place in places)
    branches: list[Branch] = []
    for place in places:
        is_long = _between(graph, place.start, place.end) & adds
        if not is_long:
            branches.append(_branch(graph, place, adds))
    return branches


def residual_additions(graph: Graph) -> set[int]:
    """Nodes of all residual additions, long skips included."""
    return {place.add for place in _places(graph)}


@dataclass(frozen=True)
class _Place:
    """Where a branch starts and ends, and the addition to its skip."""

    start: int
    end: int
    add: int


def _places(graph: Graph) -> Iterator[_Place]:
    for node in graph.nodes:
        if not node.row.adds or len(node.inputs) != 2 or not node.is_float:
            continue
        first, second = node.inputs
        # Either of the two may be the skip, which the order of the summands does not tell.
        place = _place(graph, node, first, second) or _place(graph, node, second, first)
        if place:
            yield place


def _place(graph: Graph, node: Node, skip: int, branch: int) -> _Place | None:
    """The residual branch, if one of the two summands is a skip around the other."""
    start, projected = _start_of_skip(graph, skip, branch)
    if start is None or not _between(graph, start, branch) & graph.maps:
        return None
    if projected:
        # A linear layer on the skip is a projection only beside a branch of its shape that is nonlinear:
        # W_1 x + W_2 W_3 x is one linear map, not a residual block.
        shapes = {graph.nodes[skip].shape, graph.nodes[branch].shape, node.shape}
        if len(shapes) > 1 or not _is_nonlinear(graph, start, branch):
            return None
    return _Place(start, branch, node.index)


def _start_of_skip(graph: Graph, skip: int, branch: int) -> tuple[int | None, bool]:
    """Where the skip leaves the branch, walking back from the addition; and whether a projection lies on it."""
    projected = False
    at = skip
    # The first node on the way that the branch depends on is where the two part.
    while not graph.depends(branch, on=at):
        node = graph.nodes[at]
        second_projection = node.is_map and projected
        may_pass = node.is_map or node.row.may_be_on_skip
        if len(node.inputs) != 1 or second_projection or not may_pass:
            return None, projected
        projected = projected or node.is_map
        (at,) = node.inputs
    return at, projected


def _between(graph: Graph, start: int, end: int) -> int:
    """Nodes that depend on `start` and that `end` depends on, `start` left out, as a bit set."""
    return graph.below[start] & graph.above[end] & ~(1 << start)


def _is_nonlinear(graph: Graph, start: int, end: int) -> bool:
    for index in members(_between(graph, start, end)):
        node = graph.nodes[index]
        if not (node.is_map or node.row.is_linear or node.row.is_norm):
            return True
    return False


def _branch(graph: Graph, place: _Place, adds: int) -> Branch:
    nodes = _with_side_inputs(graph, place, adds)
    # Several may be last: a parallel attention and MLP end in one each.
    maps = nodes & graph.maps
    last = [index for index in members(maps) if not graph.after(index) & maps]
    found = Folding(graph, within=nodes).into(place.end)
    return Branch(
        start=place.start,
        end=place.end,
        add=place.add,
        nodes=nodes,
        foldable_into=frozenset() if found.obstacle else found.names,
        last=frozenset(last),
        unfoldable=found.obstacle,
    )


def _with_side_inputs(graph: Graph, place: _Place, adds: int) -> int:
    """The branch's nodes, with what feeds it alone from elsewhere: keys and values of a memory, a time embedding's
    projection."""
    nodes = _between(graph, place.start, place.end)
    candidates = graph.above[place.end] & ~graph.above[place.start] & ~nodes & ~adds
    # Backwards, so that the readers of a node are decided before the node.
    for index in reversed(list(members(candidates))):
        readers = graph.readers[index]
        if not readers or graph.nodes[index].op == "input":
            continue
        if all(nodes >> reader & 1 for reader in readers):
            nodes |= 1 << index
    return nodes
