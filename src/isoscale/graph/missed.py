"""Blocks of which a trace makes less than they seem to be: equal to residual ones, or adding to what they read, and in
no branch.

Plain stacks of layers have none, however many: a sum of linear layers of one value (a graph network), or of a
recurrent cell, adds to nothing that was there before the weights.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from torch import Tensor

from isoscale.graph.branches import Branch
from isoscale.graph.graph import Graph, bits, members

# So many equal blocks in a row are a network's depth; fewer may be its ends or its stages.
_MANY = 4


@dataclass(frozen=True)
class _Block:
    """A numbered module, by the nodes at which its weight matrices act."""

    path: str
    maps: int


def blocks_outside(graph: Graph, branches: Sequence[Branch], parameters: Mapping[str, Tensor]) -> tuple[str, ...]:
    """Paths of numbered modules, in no residual branch, most of whose equals are not either although some are; or of
    at least four equal ones, none in a branch, that add to what they read."""
    inside = 0
    for branch in branches:
        inside |= branch.nodes | branch.shared
    found: list[str] = []
    for equal in _equal_blocks(graph, parameters):
        outside = [block for block in equal if not block.maps & inside]
        some_are_inside = len(outside) < len(equal)
        if some_are_inside and 2 * len(outside) > len(equal):
            found += [block.path for block in outside]
        if not some_are_inside and len(equal) >= _MANY:
            adding = [block.path for block in equal if _adds_to_what_it_reads(graph, block)]
            found += adding if len(adding) >= _MANY else []
    return tuple(found)


def _equal_blocks(graph: Graph, parameters: Mapping[str, Tensor]) -> Iterator[list[_Block]]:
    """Modules that one list holds, of the same parameters and shapes."""
    maps: dict[str, int] = {}
    for node, use in graph.uses():
        if use.kind == "map":
            maps[use.name] = maps.get(use.name, 0) | 1 << node.index
    # By path of the list and number, what the module holds.
    held: dict[tuple[str, str], dict[str, tuple[int, ...]]] = {}
    acting: dict[tuple[str, str], int] = {}
    for name, tensor in parameters.items():
        steps = name.split(".")
        for i, step in enumerate(steps[:-1]):
            if step.isdecimal():
                key = (".".join(steps[:i]), step)
                held.setdefault(key, {})[".".join(steps[i + 1 :])] = tuple(tensor.shape)
                acting[key] = acting.get(key, 0) | maps.get(name, 0)
    equal: dict[tuple[str, tuple[tuple[str, tuple[int, ...]], ...]], list[_Block]] = {}
    for (of, number), tensors in held.items():
        block = _Block(f"{of}.{number}" if of else number, acting[of, number])
        if block.maps:
            equal.setdefault((of, tuple(tensors.items())), []).append(block)
    yield from equal.values()


def _adds_to_what_it_reads(graph: Graph, block: _Block) -> bool:
    """Whether the block's weights and what they act on meet in a sum, and not by way of another weight alone.

    A module that runs more than once is a step in time or a shared one, and is not judged.
    """
    names: set[str] = set()
    read = 0
    for index in members(block.maps):
        uses = {use.name for use in graph.nodes[index].uses if use.kind == "map"}
        if uses & names:
            return False
        names |= uses
        for parent in graph.sources[index]:
            read |= graph.computed_from[parent]
    # Features that were there before the block.
    read &= _led_to(graph, graph.entries) & ~_led_to(graph, block.maps)
    for node in graph.nodes:
        # What an unknown operation makes of several values may be their sum.
        terms = node.terms if node.row.is_known else node.inputs
        for term in terms:
            others = [other for other in terms if other != term]
            from_block = any(graph.computed_from[other] & block.maps for other in others)
            if from_block and _past_no_map(graph, term) & read:
                return True
    return False


def _led_to(graph: Graph, nodes: int) -> int:
    """What is computed from any of these nodes, as a bit set."""
    found = 0
    for index in members(nodes):
        found |= graph.leads_to[index]
    return found


def _past_no_map(graph: Graph, index: int) -> int:
    """The values that lead to this one without a weight matrix in between, as a bit set."""
    seen = 0
    pending = 1 << index
    while pending:
        at = pending.bit_length() - 1
        pending ^= 1 << at
        seen |= 1 << at
        if not graph.nodes[at].is_map:
            pending |= bits(graph.sources[at]) & ~seen
    return seen
