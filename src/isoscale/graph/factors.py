"""Numbers that a forward multiplies by, and which parameter each of them acts on.

A forward that multiplies embeddings by sqrt(width), logits by 1/width or branches by 1/depth has multipliers already.
Each is counted once, for the parameters that could as well have been larger: c (W x) = (c W) x. A number before the
readout is the readout's. Any other belongs to what made the value that it multiplies; where something nonlinear made
it, to the linear layers that read the product. What attention logits are multiplied by is found in
`isoscale.graph.attention`.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from isoscale.graph.attention import Attention, is_product, own_factor
from isoscale.graph.branches import Branch, residual_additions
from isoscale.graph.constants import product
from isoscale.graph.folding import Folding
from isoscale.graph.graph import Graph, Node, bits, members

# What stands after a parameter's name where its uses have factors of their own.
READOUT = " (readout)"
BRANCH = " (branch)"
LOGITS = " (logits)"


@dataclass(frozen=True, kw_only=True)
class ForwardFactors:
    """All factors of one forward.

    Attributes:
        places: By the name of a parameter or `Multiplier`, the product of the numbers that act on it, where that is not
            1; None if one of them is unknown or if it differs between the parameter's uses. "NAME (readout)" is that
            of a tied embedding as the readout; "NAME (branch)" what multiplies a branch that ends in something
            nonlinear, NAME being its last weight matrix.
        elsewhere: Numbers that act on no parameter alone, as one on the residual stream: their sizes, each once.
    """

    places: Mapping[str, float | None] = field(default_factory=dict)
    elsewhere: tuple[float, ...] = ()


def forward_factors(graph: Graph, branches: Sequence[Branch], attentions: Iterable[Attention]) -> ForwardFactors:
    """The numbers that a forward multiplies by; those of attention logits left out."""
    logits = 0
    for attention in attentions:
        logits |= attention.nodes
    owners = _Owners(graph, branches)
    # By name and node, since one tensor may act at several nodes.
    acting: dict[tuple[str, int], float | None] = {}
    for node, use in graph.uses():
        # A number on the gain of a standardised weight, as fan_in^(-1/2), is the weight's own size, which its init
        # would be otherwise.
        of_weight = use.kind == "gain" and node.is_map
        acting[use.name, node.index] = 1.0 if of_weight else product([use.factor])
    elsewhere: set[float] = set()
    for node in graph.nodes:
        factor = product([own_factor(node), _of_l2_norm(graph, node)])
        if factor == 1 or logits >> node.index & 1 or not node.is_float:
            continue
        found = owners.of(node)
        for owner in found:
            acting[owner] = product([acting.get(owner, 1.0), factor])
        if not found and factor:
            elsewhere.add(abs(factor))
    return ForwardFactors(places=_by_place(graph, acting), elsewhere=tuple(sorted(elsewhere)))


def _of_l2_norm(graph: Graph, node: Node) -> float:
    """Of a division by the value's own l2 norm, size^(-1/2); 1 of any other operation.

    The l2 norm of n entries is n^(1/2) times their root mean square: x / |x| n^(1/2) is what an RMS norm gives.
    """
    if node.row.name != "div" or len(node.inputs) != 2:
        return 1.0
    value, divisor = node.inputs
    at = graph.nodes[divisor]
    while at.inputs and (at.row.is_view or at.row.name in ("clamp", "clamp_min")):
        at = graph.nodes[at.inputs[0]]
    if at.row.name != "linalg_vector_norm" or at.inputs != (value,):
        return 1.0
    return math.sqrt(math.prod(at.shape) / math.prod(node.shape))


def numbers_of_uses(graph: Graph) -> dict[str, float]:
    """How often each parameter acts as a whole: more than once if one block runs several times."""
    numbers: dict[str, float] = {}
    for _, use in graph.uses():
        numbers[use.name] = numbers.get(use.name, 0.0) + use.share
    return numbers


def end_of_branch(graph: Graph, branch: Branch) -> str:
    """The place at which a whole branch is multiplied: "NAME (branch)"."""
    names: list[str] = []
    for index in members(branch.nodes & graph.maps):
        names += _maps(graph.nodes[index])
    if not names:
        # A branch without a weight matrix is known by its place among the operations.
        names.append(f"{graph.nodes[branch.end].op} {branch.end}")
    return names[-1] + BRANCH


def _by_place(graph: Graph, acting: Mapping[tuple[str, int], float | None]) -> dict[str, float | None]:
    embedded = {use.name for _, use in graph.uses() if use.kind == "embedding"}
    places: dict[str, float | None] = {}
    for (name, index), factor in acting.items():
        is_map = name in _maps(graph.nodes[index])
        place = name + READOUT if is_map and name in embedded else name
        # All uses must have the same.
        known = places.get(place, factor)
        same = factor is not None and known is not None and math.isclose(factor, known, rel_tol=1e-9)
        places[place] = factor if same else None
    return {place: factor for place, factor in places.items() if factor != 1}


class _Owners:
    """Which parameters a number in the forward acts on."""

    def __init__(self, graph: Graph, branches: Sequence[Branch]) -> None:
        self._graph = graph
        self._additions = bits(residual_additions(graph))
        everything = bits(range(len(graph.nodes)))
        self._folding = Folding(graph, within=everything & ~self._additions)
        self._stuck = {branch.add: branch for branch in branches if branch.unfoldable}
        in_branches = 0
        for branch in branches:
            in_branches |= branch.nodes
        readouts: list[int] = []
        for index in members(graph.maps & ~in_branches):
            preceded = graph.before(index) & graph.entries
            if preceded and not graph.after(index) & graph.maps:
                readouts.append(index)
        self._readouts = bits(readouts)

    def of(self, node: Node) -> list[tuple[str, int]]:
        """Names of parameters (or `Multiplier` modules), each with the node where it acts; empty if there are none."""
        graph = self._graph
        if node.is_map:
            # alpha of addmm: it multiplies the product, not the bias.
            return self._maps_at(1 << node.index)
        ends = self._ends(node)
        if ends and not ends & ~self._readouts:
            return self._maps_at(ends)
        found = self._folding.into(node.index)
        if not found.obstacle and self._is_alone(node, found.nodes):
            owners: list[tuple[str, int]] = []
            for index in members(found.nodes):
                owner = graph.nodes[index]
                names = [owner.multiplier] if owner.multiplier else [use.name for use in owner.uses]
                owners += [(name, index) for name in names if name in found.names]
            return owners
        if ends and not ends & ~graph.maps:
            return self._maps_at(ends)
        for addition, branch in self._stuck.items():
            if ends == 1 << addition and branch.nodes >> node.index & 1:
                return [(end_of_branch(graph, branch), addition)]
        return []

    def _maps_at(self, nodes: int) -> list[tuple[str, int]]:
        """The weight matrices that act at these nodes."""
        found: list[tuple[str, int]] = []
        for index in members(nodes):
            found += [(name, index) for name in _maps(self._graph.nodes[index])]
        return found

    def _ends(self, node: Node) -> int:
        """Where a factor of this node's result gets to, past operations that it passes: a bit set.

        A norm, which divides it out again, is no such place.
        """
        graph = self._graph
        ends = 0
        to_visit = [node.index]
        while to_visit:
            at = to_visit.pop()
            if at in graph.outputs:
                ends |= 1 << at
            for reader in graph.readers[at]:
                other = graph.nodes[reader]
                if other.row.is_norm:
                    continue
                is_sum = self._additions >> reader & 1 or (other.row.addends and len(other.inputs) > 1)
                passes = other.row.is_homogeneous and not (other.is_map or is_sum or _contracts(other))
                if passes:
                    to_visit.append(reader)
                else:
                    ends |= 1 << reader
        return ends

    def _is_alone(self, node: Node, owners: int) -> bool:
        """Whether a factor of the owners is one of this node's result and of nothing else."""
        graph = self._graph
        between = 0
        for owner in members(owners):
            between |= graph.below[owner] & graph.above[node.index]
        for index in members(between & ~(1 << node.index)):
            if any(not graph.above[node.index] >> reader & 1 for reader in graph.readers[index]):
                return False
        # How a sum over features grows is no question of a multiplier: linear attention, products of embeddings.
        inner = between & ~owners
        products = [index for index in members(inner) if is_product(graph.nodes[index])]
        sums = [index for index in members(inner) if graph.nodes[index].row.name in ("sum", "mean")]
        contractions = [index for index in products if _contracts(graph.nodes[index])]
        return all(self._averages(index) for index in contractions) and not (products and sums)

    def _averages(self, index: int) -> bool:
        """Whether a product of activations is one with the weights of a softmax, which add up to 1."""
        for parent in self._graph.nodes[index].inputs:
            node = self._graph.nodes[parent]
            while node.row.is_linear and len(node.inputs) == 1 and not node.uses:
                node = self._graph.nodes[node.inputs[0]]
            if node.row.effect == "softmax":
                return True
        return False


def _maps(node: Node) -> list[str]:
    return [use.name for use in node.uses if use.kind == "map"]


def _contracts(node: Node) -> bool:
    """Whether activations are summed over in a product with activations."""
    return node.row.contraction is not None and len(node.inputs) > 1
