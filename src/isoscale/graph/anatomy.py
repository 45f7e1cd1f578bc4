"""What each parameter of a model does: its role, its block, its place in a residual branch.

Roles are read off the computation graph: a map that no other map precedes is an input map, one that none follows
the readout, one inside a residual branch is internal or last. Where the forward cannot be traced, they are given
by hand.
"""

from __future__ import annotations

import fnmatch
import itertools
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace

from torch import Tensor

from isoscale.errors import PlanError, unknown
from isoscale.graph.attention import head_sizes, logit_scales, query_parameters
from isoscale.graph.branches import Branch, residual_branches
from isoscale.graph.graph import Graph, Node, Use, members
from isoscale.scaling.roles import Role

Roles = Mapping[str, Role | str]


@dataclass(frozen=True, kw_only=True)
class Part:
    """One parameter's place in the network.

    Attributes:
        role: What it does.
        fan_in, fan_out: Its own axes that are summed over, and those that remain.
        block: Module path of the residual block that it belongs to.
        place: Its place in its branch ("map 1 of 2", "norm", ...), for people.
        carries: Whether its branch's multiplier is folded into it.
        attention: Whether the multiplier of attention logits is folded into it (queries).
        tied: Whether it is the embedding and the readout at once.
        computed_by: What turns it into the effective weight, if that is more than a view.
    """

    role: Role
    fan_in: tuple[int, ...] = ()
    fan_out: tuple[int, ...] = ()
    block: str | None = None
    place: str = ""
    carries: bool = False
    attention: bool = False
    tied: bool = False
    computed_by: str | None = None


@dataclass(frozen=True, kw_only=True)
class Anatomy:
    """All parts, and what a plan must know beside them.

    Attributes:
        parts: By parameter name, in the order of `named_parameters`.
        blocks: Module paths of the residual blocks.
        depth: Number of residual branches that the forward runs through; of layers before the readout if it has none.
        head_sizes: Size of each attention's heads, in the order of execution.
        logit_scales: What the forward itself multiplies each attention's logits q.k by, in the same order; None where
            it cannot be read.
        stuck: By block, why no parameter can carry the multiplier of a branch in it.
        packed: Parameters that hold queries and keys in one tensor, so that no logit multiplier can be folded.
        branch_multipliers, readout_multipliers, logit_multipliers: Names of `Multiplier` modules at these places.
        traced: Whether all this was read off a trace.
    """

    parts: Mapping[str, Part]
    blocks: tuple[str, ...] = ()
    depth: int = 1
    head_sizes: tuple[int, ...] = ()
    logit_scales: tuple[float | None, ...] = ()
    stuck: Mapping[str, str] = field(default_factory=dict)
    packed: tuple[str, ...] = ()
    branch_multipliers: tuple[str, ...] = ()
    readout_multipliers: tuple[str, ...] = ()
    logit_multipliers: tuple[str, ...] = ()
    traced: bool = False


def from_graph(graph: Graph, parameters: Mapping[str, Tensor], overrides: Roles | None = None) -> Anatomy:
    """Read the roles off the graph; `overrides` (glob -> role) win.

    Raises:
        PlanError: A parameter that the forward never uses or that serves two roles, and no override says what it is;
            a pattern that matches nothing.
    """
    given = matched(overrides or {}, parameters)
    branches = residual_branches(graph)
    queries, packed = query_parameters(graph)
    placed = _Placement(graph, branches, parameters)
    parts = {name: replace(placed.part(name, given.get(name)), attention=name in queries) for name in parameters}
    check_all_known({name: part for name, part in parts.items() if part.role is None}, parameters)
    multipliers = {node.multiplier for node in graph.nodes if node.multiplier}
    in_branch = multipliers & {name for branch in branches for name in branch.carriers}
    return Anatomy(
        parts=parts,
        blocks=tuple(dict.fromkeys(placed.blocks)),
        depth=depth(graph, branches),
        head_sizes=head_sizes(graph),
        logit_scales=logit_scales(graph),
        stuck={block: branch.stuck for block, branch in zip(placed.blocks, branches, strict=True) if branch.stuck},
        packed=tuple(name for name in parameters if name in packed),
        branch_multipliers=tuple(sorted(in_branch)),
        readout_multipliers=tuple(sorted(_before_readouts(graph))),
        logit_multipliers=tuple(sorted(multipliers & queries)),
        traced=True,
    )


def depth(graph: Graph, branches: Sequence[Branch]) -> int:
    """Number of residual branches; of layers before the readout if there are none."""
    return len(branches) or max(1, sum(node.is_map and not _is_readout(graph, node) for node in graph.nodes))


# --- where each use stands ---
class _Placement:
    """Roles from uses: one graph, its branches, and the names of the blocks they form."""

    def __init__(self, graph: Graph, branches: list[Branch], parameters: Mapping[str, Tensor]) -> None:
        self._graph, self._branches, self._parameters = graph, branches, parameters
        self.blocks = [_block_name(_map_names(graph, branch)) for branch in branches]
        self._uses: dict[str, list[tuple[Node, Use]]] = {name: [] for name in parameters}
        for node, use in graph.uses():
            self._uses[use.name].append((node, use))

    def part(self, name: str, given: Role | None) -> Part:
        uses = self._uses[name]
        if not uses:
            if given is None:
                raise PlanError(
                    f"`{name}` is not used by the forward pass on the example inputs, so its role is unknown. "
                    f"Give it: `roles={{{name!r}: isoscale.Role.HIDDEN}}`, or remove the parameter"
                )
            return part_by_shape(given, self._parameters[name])
        parts = list(dict.fromkeys(self._at(node, use) for node, use in uses))
        roles = {part.role for part in parts}
        first = next((part for part in parts if part.fan_in), parts[0])
        if given is not None:
            return replace(first, role=given)
        if roles == {Role.INPUT, Role.OUTPUT}:
            return replace(
                next(part for part in parts if part.role is Role.INPUT), tied=True, place="tied to the readout"
            )
        if len(roles) > 1:
            raise PlanError(
                f"`{name}` serves as {' and as '.join(sorted(roles))}: one tensor cannot have two learning rates. "
                f"Untie it, or choose: `roles={{{name!r}: isoscale.Role.{first.role.name}}}`"
            )
        return replace(first, carries=any(part.carries for part in parts))

    def _at(self, node: Node, use: Use) -> Part:
        at = next((i for i, branch in enumerate(self._branches) if branch.nodes >> node.index & 1), None)
        axes = {"fan_in": use.fan_in, "fan_out": use.fan_out, "computed_by": use.computed_by}
        if at is None:
            return Part(role=self._outside(node, use), place=_what(node, use), **axes)
        branch = self._branches[at]
        role, place = self._inside(branch, node, use)
        carries = use.name in branch.carriers
        return Part(role=role, block=self.blocks[at], place=place, carries=carries, **axes)

    def _inside(self, branch: Branch, node: Node, use: Use) -> tuple[Role, str]:
        if use.kind not in ("map", "other") or self._is_vector(use):
            return Role.BRANCH_VECTOR, _what(node, use)
        maps = [i for i in members(branch.nodes) if self._graph.nodes[i].is_map]
        last = node.index in branch.last
        place = f"map {maps.index(node.index) + 1} of {len(maps)}" if node.index in maps else _what(node, use)
        return (Role.BRANCH_LAST if last else Role.BRANCH_INTERNAL), place

    def _outside(self, node: Node, use: Use) -> Role:
        if self._parameters[use.name].numel() == 1:
            return Role.SCALAR
        if use.kind == "map":
            return self._map_outside(node)
        if use.kind in ("lookup", "source"):
            return Role.INPUT
        if use.kind == "bias" and self._after_readout(node):
            return Role.SCALAR
        return Role.VECTOR if self._is_vector(use) or use.kind == "gain" else Role.INPUT

    def _map_outside(self, node: Node) -> Role:
        if _is_readout(self._graph, node):
            return Role.OUTPUT
        first = not self._graph.above[node.index] & self._graph.entries & ~(1 << node.index)
        return Role.INPUT if first else Role.HIDDEN

    def _after_readout(self, node: Node) -> bool:
        if node.is_map:
            return _is_readout(self._graph, node)
        parents = (self._graph.nodes[i] for i in node.inputs)
        return any(parent.is_map and _is_readout(self._graph, parent) for parent in _past_views(self._graph, parents))

    def _is_vector(self, use: Use) -> bool:
        return sum(size > 1 for size in self._parameters[use.name].shape) <= 1


def _is_readout(graph: Graph, node: Node) -> bool:
    """A map that no other map follows and that something precedes."""
    after = graph.below[node.index] & graph.maps & ~(1 << node.index)
    before = graph.above[node.index] & graph.entries & ~(1 << node.index)
    return node.is_map and not after and bool(before)


def _past_views(graph: Graph, nodes: Iterable[Node]) -> Iterable[Node]:
    for node in nodes:
        while not node.is_map and not node.uses and node.row.is_linear and len(node.inputs) == 1:
            node = graph.nodes[node.inputs[0]]
        yield node


def _before_readouts(graph: Graph) -> set[str]:
    """Multipliers that stand right before or right after a readout."""
    found = set()
    for node in graph.nodes:
        near = [*node.inputs] if node.is_map else []
        near += graph.readers[node.index] if node.is_map else []
        if near and _is_readout(graph, node):
            around = _past_views_to_multiplier(graph, [graph.nodes[i] for i in near])
            found |= {other.multiplier for other in around if other.multiplier}
    return found


def _past_views_to_multiplier(graph: Graph, nodes: Iterable[Node]) -> Iterable[Node]:
    for node in nodes:
        while not node.multiplier and not node.uses and node.row.is_linear and len(node.inputs) == 1:
            node = graph.nodes[node.inputs[0]]
        yield node


def _map_names(graph: Graph, branch: Branch) -> list[str]:
    nodes = (graph.nodes[i] for i in members(branch.nodes))
    return [use.name for node in nodes for use in node.uses if use.kind == "map"]


def _block_name(names: list[str]) -> str:
    """The module path that the maps of a branch share, down to its last index: `h.3` of `h.3.attn.c_proj`."""
    paths = [name.split(".")[:-1] for name in names]
    shared = [steps[0] for steps in itertools.takewhile(lambda steps: len(set(steps)) == 1, zip(*paths, strict=False))]
    indices = [i for i, step in enumerate(shared) if step.isdecimal()]
    return ".".join(shared[: indices[-1] + 1] if indices else shared) or names[0]


def block_pattern(block: str) -> re.Pattern[str]:
    """What the same block is called at other indices."""
    steps = (r"\d+" if step.isdecimal() else re.escape(step) for step in block.split("."))
    return re.compile(r"\.".join(steps) + r"(?=\.|$)")


def _what(node: Node, use: Use) -> str:
    if use.kind == "map":
        contraction = node.row.contraction
        return "convolution" if contraction and contraction.weight == "convolution" else "map"
    return {"lookup": "embedding", "gain": "gain", "bias": "bias", "source": "learned input"}.get(use.kind, node.op)


# --- given by hand ---
def matched(roles: Roles, parameters: Mapping[str, Tensor]) -> dict[str, Role]:
    """Role of each parameter that a pattern matches; a later pattern wins."""
    given: dict[str, Role] = {}
    for pattern, role in roles.items():
        names = fnmatch.filter(parameters, pattern)
        if not names:
            raise unknown("parameter that matches", pattern, parameters)
        try:
            given |= dict.fromkeys(names, Role(role))
        except ValueError:
            raise unknown("role", role, list(Role)) from None
    return given


def check_all_known(missing: Iterable[str], parameters: Mapping[str, Tensor]) -> None:
    missing = list(missing)
    if missing:
        example = ", ".join(f"`{name}` {tuple(parameters[name].shape)}" for name in missing[:5])
        raise PlanError(
            f"no role for {len(missing)} of {len(parameters)} parameters: {example}{', ...' * (len(missing) > 5)}. "
            'Add a pattern that matches them: `roles={"pattern.*": isoscale.Role.HIDDEN}`'
        )


def part_by_shape(role: Role, parameter: Tensor, *, transposed: bool = False) -> Part:
    """Axes by torch's convention: (out, in, ...)."""
    rank = parameter.dim()
    if rank < 2:
        return Part(role=role, fan_out=tuple(range(rank)))
    out = 1 if transposed else 0
    return Part(role=role, fan_in=tuple(axis for axis in range(rank) if axis != out), fan_out=(out,))
