"""Residual branches, found in the graph itself.

A residual addition adds to a value something computed from that value by at least one weight layer:
out = skip(s) + branch(s). The skip is the identity or a short chain without nonlinearity (views, pooling,
a norm, at most one projection, as in a downsampling ResNet block). Rotary embeddings, positional embeddings,
masks, gates and sums of parallel maps have no such skip, and are not residual.
"""

from __future__ import annotations

from dataclasses import dataclass

from isoscale.graph.graph import Graph, Node, bits, members


@dataclass(frozen=True)
class Branch:
    """One residual branch.

    Attributes:
        start: Node that the branch and the skip share.
        end: Node that is added to the skip.
        add: The residual addition.
        nodes: The branch's nodes, `end` included, as a bit set.
        carriers: Places where a multiplier on the branch can be folded, which together reach all of it:
            names of maps, norms' gains and biases; or of `Multiplier` modules. Empty if there is none.
        last: Nodes of the branch's last maps: no other map of the branch follows them.
        stuck: If there are no carriers, the operation that no multiplier passes.
    """

    start: int
    end: int
    add: int
    nodes: int
    carriers: frozenset[str]
    last: frozenset[int]
    stuck: str | None


def residual_branches(graph: Graph) -> list[Branch]:
    """Every residual branch, in the order of execution.

    A skip around other residual additions (a long skip, as in a U-Net) bounds no branch: its maps belong to
    the blocks inside.
    """
    found = [place for node in graph.nodes if (place := _residual(graph, node))]
    adds = bits(add for _, _, add in found)
    innermost = [place for place in found if not _between(graph, place[0], place[1]) & adds]
    return [_branch(graph, start, end, add, adds) for start, end, add in innermost]


def residual_additions(graph: Graph) -> set[int]:
    """Nodes of all residual additions, long skips included."""
    return {place[2] for node in graph.nodes if (place := _residual(graph, node))}


def _residual(graph: Graph, node: Node) -> tuple[int, int, int] | None:
    """(start, end of the branch, addition) if the node is a residual addition."""
    if not node.row.adds or len(node.inputs) != 2 or not node.is_float:
        return None
    for skip, branch in (node.inputs, node.inputs[::-1]):
        start, projected = _start_of_skip(graph, skip, branch)
        if start is None or not _between(graph, start, branch) & graph.maps:
            continue
        same_shape = graph.nodes[skip].shape == graph.nodes[branch].shape == node.shape
        if not projected or (same_shape and _bends(graph, start, branch)):
            return start, branch, node.index
    return None


def _start_of_skip(graph: Graph, skip: int, branch: int) -> tuple[int | None, bool]:
    """Where the skip leaves the branch, walking back from the addition; and whether a projection lies on it."""
    projected = False
    at = skip
    while not graph.depends(branch, on=at):
        node = graph.nodes[at]
        if len(node.inputs) != 1 or (node.is_map and projected):
            return None, projected
        if not node.is_map and not node.row.may_be_on_skip:
            return None, projected
        projected = projected or node.is_map
        at = node.inputs[0]
    return at, projected


def _between(graph: Graph, start: int, end: int) -> int:
    """Nodes that depend on `start` and that `end` depends on, `start` left out, as a bit set."""
    return graph.below[start] & graph.above[end] & ~(1 << start)


def _bends(graph: Graph, start: int, end: int) -> bool:
    """Whether anything between is nonlinear: W_1 x + W_2 W_3 x is one linear map, not a residual block."""
    inside = (graph.nodes[i] for i in members(_between(graph, start, end)))
    return any(not node.is_map and not node.row.is_linear and not node.row.is_norm for node in inside)


def _branch(graph: Graph, start: int, end: int, add: int, adds: int) -> Branch:
    nodes = _with_side_inputs(graph, _between(graph, start, end), start, end, adds)
    maps = nodes & graph.maps
    last = frozenset(i for i in members(maps) if not graph.below[i] & maps & ~(1 << i))
    found = Carriers(graph, nodes).of(end)
    carriers = frozenset[str]() if found.stuck else found.names
    return Branch(start, end, add, nodes, carriers, last, found.stuck)


def _with_side_inputs(graph: Graph, nodes: int, start: int, end: int, adds: int) -> int:
    """Add what feeds this branch alone from elsewhere: keys and values of a memory, a time embedding's projection."""
    for i in reversed(list(members(graph.above[end] & ~graph.above[start]))):
        if nodes >> i & 1 or adds >> i & 1 or graph.nodes[i].op == "input":
            continue
        if graph.readers[i] and all(nodes >> reader & 1 for reader in graph.readers[i]):
            nodes |= 1 << i
    return nodes


@dataclass(frozen=True)
class _Found:
    """Carriers of one value and the nodes where they act; or the operation that stopped the search."""

    names: frozenset[str] = frozenset()
    nodes: int = 0
    stuck: str | None = None

    def __or__(self, other: _Found) -> _Found:
        return _Found(self.names | other.names, self.nodes | other.nodes, self.stuck or other.stuck)


class Carriers:
    """Walks back from a value to the parameters (or `Multiplier` modules) whose scaling scales all of it."""

    def __init__(self, graph: Graph, nodes: int) -> None:
        self._graph, self._nodes = graph, nodes
        self._found: dict[int, _Found] = {}

    def of(self, index: int) -> _Found:
        if index not in self._found:
            self._found[index] = self._walk(self._graph.nodes[index])
        return self._found[index]

    def _walk(self, node: Node) -> _Found:
        if not self._nodes >> node.index & 1:
            return _Found(stuck="something from outside the branch")
        here = 1 << node.index
        if node.multiplier:
            return _Found(frozenset((node.multiplier,)), here)
        if (node.is_map or (node.row.is_norm and node.uses)) and not node.obstacle:
            return _own(node, "map", "gain", "bias")
        found = self._through(node)
        if found.stuck and any(use.kind == "gain" for use in node.uses):
            return _own(node, "gain")
        added = frozenset(use.name for use in node.uses if use.kind == "bias")
        return found if found.stuck else found | _Found(added, here if added else 0)

    def _through(self, node: Node) -> _Found:
        """Past an operation without carriers of its own."""
        if node.obstacle:
            return _Found(stuck=node.obstacle)
        if node.row.effect == "attention":
            return self._one_factor(node.inputs[2:], node.inputs[:2])
        if (node.row.multiplies or node.row.contraction) and len(node.inputs) == 2:
            a, b = node.inputs
            scaled = self._one_factor((b,), (a,)) if not node.row.divides else _Found(stuck="div")
            return self._one_factor((a,), (b,)) if scaled.stuck else scaled
        if not node.row.is_homogeneous or not node.inputs:
            return _Found(stuck=node.op)
        found = _Found()
        for parent in node.inputs:
            if self._graph.nodes[parent].is_float:  # whole numbers only say where
                found |= self.of(parent)
        return found

    def _one_factor(self, factor: tuple[int, ...], others: tuple[int, ...]) -> _Found:
        """A product is scaled by one factor alone, if the others do not feel its carriers (in x / |x| they do)."""
        found = self.of(factor[0])
        if not found.stuck and any(self._graph.above[other] & found.nodes for other in others):
            return _Found(stuck="a normalisation")
        return found


def _own(node: Node, *kinds: str) -> _Found:
    uses = [use for use in node.uses if use.kind in kinds]
    computed = next((use for use in uses if use.computed_by), None)
    if computed:
        return _Found(stuck=f"`{computed.name}`, which passes through {computed.computed_by} before it acts")
    return _Found(frozenset(use.name for use in uses), 1 << node.index)
