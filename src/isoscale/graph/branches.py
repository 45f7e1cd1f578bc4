"""Residual branches: what each is made of, and what a multiplier on it is folded into.

What a branch is, and which sums bound one, is defined in `isoscale.graph.streams`. Rotary embeddings, positional
embeddings, masks, gates and sums of parallel linear layers have no skip, and are not residual.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from isoscale.graph.folding import Foldable, Folding
from isoscale.graph.graph import Graph, bits, members
from isoscale.graph.streams import Place, Streams
from isoscale.scaling.tensor import starred


@dataclass(frozen=True)
class Branch:
    """One residual branch.

    Attributes:
        start: Node that the branch and the skip share; of several the last.
        end: Node that is added to the skip.
        add: The residual addition.
        nodes: The branch's nodes, `end` included, as a bit set, with what feeds it alone from elsewhere.
        shared: Nodes outside that feed this branch and others of its block, and no other block: one map of a
            conditioning signal to all shifts, scales and gates of a block. Each belongs to the first that it feeds.
        foldable_into: Names of what a multiplier on the branch is folded into, all of it together: weight matrices,
            norms' scales, biases, or `Multiplier` modules. Empty if it cannot be folded.
        last: Nodes of the branch's output projections: no other weight matrix of the branch follows them.
        unfoldable: If a multiplier cannot be folded, the operation that it does not pass.
        post_normed: Whether nothing but a norm reads the sum.
        gains_behind: Names of that norm's gains and biases.
        nested: Number of residual additions inside, which bound no branch.
    """

    start: int
    end: int
    add: int
    nodes: int
    shared: int
    foldable_into: frozenset[str]
    last: frozenset[int]
    unfoldable: str | None
    post_normed: bool
    gains_behind: frozenset[str]
    nested: int


def residual_branches(graph: Graph) -> list[Branch]:
    """Every residual branch, in the order of execution."""
    return branches_of(graph, Streams(graph))


def residual_additions(graph: Graph) -> set[int]:
    """Nodes of all residual additions to a stream, long skips included."""
    streams = Streams(graph)
    return streams.long | {place.add for place in streams.places}


def branches_of(graph: Graph, streams: Streams) -> list[Branch]:
    """The branches of streams that were found already."""
    adds = bits(place.add for place in streams.places) | bits(streams.long)
    nodes: list[int] = []
    for place in streams.places:
        nodes.append(_with_side_inputs(graph, place, streams.own(place), adds))
    folded: list[Foldable] = []
    for place, own in zip(streams.places, nodes, strict=True):
        folded.append(Folding(graph, within=own).into(place.end))
    elsewhere = _used_elsewhere(graph, folded)
    branches: list[Branch] = []
    for place, own, shared, found in zip(streams.places, nodes, _shared(graph, nodes), folded, strict=True):
        if twice := sorted(found.names & elsewhere):
            found = Foldable(obstacle=f"`{twice[0]}`, which acts elsewhere too")
        branches.append(_branch(graph, place, own, shared, found, nested=len(streams.inner(place))))
    return branches


def _used_elsewhere(graph: Graph, folded: Sequence[Foldable]) -> set[str]:
    """Parameters that take a multiplier where they act on one value, and act on another that must not take it."""
    takers: set[str] = set()
    nodes = 0
    for found in folded:
        if not found.obstacle:
            takers |= found.names
            nodes |= found.nodes
    return {use.name for node, use in graph.uses() if use.name in takers and not nodes >> node.index & 1}


def _branch(graph: Graph, place: Place, nodes: int, shared: int, found: Foldable, nested: int) -> Branch:
    # Several may be last: a parallel attention and MLP end in one each.
    maps = nodes & graph.maps
    last = [index for index in members(maps) if not graph.after(index) & maps]
    norm = _norm_behind(graph, place.add)
    return Branch(
        start=place.starts.bit_length() - 1,
        end=place.end,
        add=place.add,
        nodes=nodes,
        shared=shared,
        foldable_into=frozenset() if found.obstacle else found.names,
        last=frozenset(last),
        unfoldable=found.obstacle,
        post_normed=norm is not None,
        gains_behind=frozenset() if norm is None else _gains_from(graph, norm),
        nested=nested,
    )


def _norm_behind(graph: Graph, add: int) -> int | None:
    """The norm that alone reads a sum; None if there is no such one."""
    at = add
    while len(graph.readers[at]) == 1:
        (at,) = graph.readers[at]
        if graph.nodes[at].row.is_norm:
            return at
        if not graph.nodes[at].row.is_view:
            return None
    return None


def _gains_from(graph: Graph, norm: int) -> frozenset[str]:
    """Names of a norm's gains and biases: its own, and those that nothing but elementwise operations part from it."""
    at = norm
    names = {use.name for use in graph.nodes[at].uses}
    while len(graph.readers[at]) == 1:
        (at,) = graph.readers[at]
        uses = graph.nodes[at].uses
        if any(use.kind not in ("gain", "bias") for use in uses) or not (uses or graph.nodes[at].row.is_view):
            break
        names |= {use.name for use in uses}
    return frozenset(names)


# --- what comes from elsewhere ---
def _with_side_inputs(graph: Graph, place: Place, nodes: int, adds: int) -> int:
    """The branch's nodes, with what feeds it alone from elsewhere: keys and values of a memory, a time embedding's
    projection."""
    before = 0
    for start in members(place.starts):
        before |= graph.above[start]
    candidates = graph.above[place.end] & ~before & ~place.inside & ~adds
    # Backwards, so that the readers of a node are decided before the node.
    for index in reversed(list(members(candidates))):
        readers = graph.readers[index]
        if not readers or graph.nodes[index].op == "input":
            continue
        if all(nodes >> reader & 1 for reader in readers):
            nodes |= 1 << index
    return nodes


def _shared(graph: Graph, branches: Sequence[int]) -> list[int]:
    """For each branch the nodes that feed it first, then other branches of its block, and nothing else.

    Whether it is a block's own is told by repetition: there is another of its name, up to indices, that feeds other
    branches. A map that feeds all branches alike has no such counterpart, and is in none of them. Where there is but
    one block, its path tells.
    """
    feeds = _feeds(graph, branches)
    of_kind: dict[str, list[tuple[str, int]]] = {}
    for index, fed in feeds.items():
        for use in graph.nodes[index].uses:
            of_kind.setdefault(starred(use.name), []).append((use.name, fed))
    shared = [0] * len(branches)
    for index, fed in feeds.items():
        for use in graph.nodes[index].uses:
            others = [also for name, also in of_kind[starred(use.name)] if name != use.name]
            beside = bool(others) and not any(also & fed for also in others)
            within = all(_holds(graph, branches[number], use.name) for number in members(fed))
            if beside or within:
                first = next(members(fed))
                shared[first] |= 1 << index
    return shared


def _holds(graph: Graph, nodes: int, name: str) -> bool:
    """Whether the weights of a branch lie in the same numbered module as a parameter, `blocks.3` of `blocks.3.ada`."""
    steps = name.split(".")
    numbered = [i for i, step in enumerate(steps) if step.isdecimal()]
    if not numbered:
        return False
    prefix = ".".join(steps[: numbered[-1] + 1]) + "."
    for index in members(nodes & graph.maps):
        if not all(use.name.startswith(prefix) for use in graph.nodes[index].uses):
            return False
    return True


def _feeds(graph: Graph, branches: Sequence[int]) -> dict[int, int]:
    """Of each node outside that feeds several branches and nothing else, which, as a bit set of their numbers."""
    inside: dict[int, int] = {}
    for number, nodes in enumerate(branches):
        for index in members(nodes):
            inside[index] = inside.get(index, 0) | 1 << number
    outputs = bits(graph.outputs)
    feeds: dict[int, int] = {}
    found: dict[int, int] = {}
    for node in reversed(graph.nodes):
        readers = graph.readers[node.index]
        if node.index in inside or not readers or outputs >> node.index & 1:
            continue
        fed = 0
        for reader in readers:
            # A reader that does anything else makes this node do so as well.
            one = inside.get(reader) or feeds.get(reader)
            if not one:
                fed = 0
                break
            fed |= one
        if fed:
            feeds[node.index] = fed
            if fed.bit_count() > 1:
                found[node.index] = fed
    return found
