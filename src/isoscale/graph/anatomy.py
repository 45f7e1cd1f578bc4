"""What each parameter of a model does: its role, its block, its place in a residual branch.

Roles are read off the computation graph: a weight matrix that no other precedes is an input layer, one that none
follows the readout, one inside a residual branch is an inner or the output projection. Where the forward cannot be
traced, they are given by hand.
"""

from __future__ import annotations

import fnmatch
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace

from torch import Tensor

from isoscale.errors import PlanError, unknown
from isoscale.graph.attention import Attention, attentions
from isoscale.graph.branches import Branch, residual_branches
from isoscale.graph.constants import is_number
from isoscale.graph.factors import ForwardFactors, end_of_branch, forward_factors, numbers_of_uses
from isoscale.graph.graph import Graph, Node, Use, bits, members
from isoscale.graph.missed import blocks_outside
from isoscale.graph.products import Product, products
from isoscale.scaling.names import indices, starred
from isoscale.scaling.roles import Role, check_role

Roles = Mapping[str, Role | str]

# The place of a tensor whose role the user gave.
GIVEN = "given by hand"

# The place of a tensor that the forward does not use.
UNUSED = "not used by the forward"

# The place of a tensor that multiplies two activations at once.
BILINEAR = "bilinear form"


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
        computed_by: What turns it into the effective weight, if that is not linear in it.
        explicit: Whether its multiplier stands in the forward, in a `Multiplier` right before or after it.
        in_groups: Whether fan_in counts the inputs of several groups, of which each output sees one.
        unused: Whether the forward does not use it.
        unknown: The operation that it enters of which nobody knows what it does with a parameter, if it enters one.
        also: What else it serves as.
        offset: The number that is added to it before it acts.
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
    explicit: bool = False
    in_groups: bool = False
    unused: bool = False
    unknown: str | None = None
    also: tuple[Part, ...] = ()
    offset: float = 0.0


@dataclass(frozen=True, kw_only=True)
class Anatomy:
    """All parts, and what a plan must know beside them.

    Attributes:
        parts: By parameter name, in the order of `named_parameters`.
        blocks: Module paths of the residual blocks.
        depth: Number of residual branches that the forward runs through; of layers before the readout if it has none.
        attentions: Every attention, in the order of execution.
        factors: What else the forward itself multiplies by.
        uses: How often each parameter acts.
        products: Sums of products of two activations.
        nested: Numbers of residual additions inside the branches, each that occurs once, in rising order.
        outside: Blocks that look residual, or whose equals are, and that lie in no branch.
        on_stream: Names of the gains and biases of norms that stand on the stream, one after each residual addition,
            unless their role was given by hand.
        stuck: By block, why the multiplier of a branch in it cannot be folded into parameters.
        stuck_places: By block, the place of that branch among the factors.
        branch_multipliers, readout_multipliers: Names of `Multiplier` modules at these places.
        traced: Whether all this was read off a trace.
    """

    parts: Mapping[str, Part]
    blocks: tuple[str, ...] = ()
    depth: int = 1
    attentions: tuple[Attention, ...] = ()
    factors: ForwardFactors = field(default_factory=ForwardFactors)
    uses: Mapping[str, float] = field(default_factory=dict)
    products: tuple[Product, ...] = ()
    nested: tuple[int, ...] = ()
    outside: tuple[str, ...] = ()
    on_stream: tuple[str, ...] = ()
    stuck: Mapping[str, str] = field(default_factory=dict)
    stuck_places: Mapping[str, str] = field(default_factory=dict)
    branch_multipliers: tuple[str, ...] = ()
    readout_multipliers: tuple[str, ...] = ()
    traced: bool = False


def from_graph(graph: Graph, parameters: Mapping[str, Tensor], overrides: Roles | None = None) -> Anatomy:
    """Read the roles off the graph; `overrides` (glob -> role) win.

    Raises:
        PlanError: A parameter of two axes or more that enters an operation that is not known, and no override says
            what it is.
        InvalidValueError: A pattern that matches nothing.
    """
    given = matched(overrides or {}, parameters)
    branches = residual_branches(graph)
    blocks = [_block_name(graph, branch) for branch in branches]
    heads = attentions(graph)
    queries: set[str] = set()
    for attention in heads:
        queries |= attention.foldable_into

    reader = _RoleReader(graph, branches, blocks, parameters)
    parts: dict[str, Part] = {}
    for name in parameters:
        part = reader.part(name, given.get(name))
        parts[name] = replace(part, attention=name in queries)

    multipliers = {node.multiplier for node in graph.nodes if node.multiplier}
    in_branches: set[str] = set()
    stuck: dict[str, str] = {}
    stuck_places: dict[str, str] = {}
    for block, branch in zip(blocks, branches, strict=True):
        in_branches |= multipliers & branch.foldable_into
        if branch.unfoldable:
            stuck[block] = branch.unfoldable
            stuck_places[block] = end_of_branch(graph, branch)
    return Anatomy(
        parts=parts,
        blocks=tuple(dict.fromkeys(blocks)),
        depth=depth(graph, branches),
        attentions=heads,
        factors=forward_factors(graph, branches, heads),
        uses=numbers_of_uses(graph),
        products=products(graph),
        nested=nested(branches),
        outside=blocks_outside(graph, branches, parameters),
        on_stream=_on_stream(branches, parts),
        stuck=stuck,
        stuck_places=stuck_places,
        branch_multipliers=tuple(sorted(in_branches)),
        readout_multipliers=tuple(sorted(_beside_readouts(graph))),
        traced=True,
    )


def depth(graph: Graph, branches: Sequence[Branch]) -> int:
    """Number of residual branches; of layers before the readout if there are none."""
    if branches:
        return len(branches)
    layers = [node for node in graph.nodes if node.is_map and not _is_readout(graph, node)]
    return max(1, len(layers))


def _on_stream(branches: Sequence[Branch], parts: Mapping[str, Part]) -> tuple[str, ...]:
    """Names of the vectors on the stream of a post-norm network, in the order of its parameters."""
    # A last norm alone reads the last sum of a pre-norm network, too.
    if not all(branch.post_normed for branch in branches):
        return ()
    behind: set[str] = set()
    for branch in branches:
        behind |= branch.gains_behind
    # What the user says of them wins.
    found = [name for name in parts if name in behind and parts[name].place != GIVEN]
    return tuple(name for name in found if parts[name].role is Role.VECTOR)


def nested(branches: Sequence[Branch]) -> tuple[int, ...]:
    """Numbers of residual additions inside the branches, each that occurs once."""
    return tuple(sorted({branch.nested for branch in branches}))


# --- the role of each parameter ---
class _RoleReader:
    """Roles from uses: one graph, its branches, and the names of the blocks that they form."""

    def __init__(
        self,
        graph: Graph,
        branches: Sequence[Branch],
        blocks: Sequence[str],
        parameters: Mapping[str, Tensor],
    ) -> None:
        self._graph = graph
        self._branches = branches
        self._blocks = blocks
        self._parameters = parameters
        self._uses: dict[str, list[tuple[Node, Use]]] = {name: [] for name in parameters}
        alive = bits(graph.outputs)
        for output in graph.outputs:
            alive |= graph.above[output]
        dead: list[tuple[Node, Use]] = []
        for node, use in graph.uses():
            if alive >> node.index & 1:
                self._uses[use.name].append((node, use))
            else:
                dead.append((node, use))
        # What reaches no output (a state for a step that is not taken) says something only of what acts nowhere else.
        for node, use in dead:
            if not any(alive >> other.index & 1 for other, _ in self._uses[use.name]):
                self._uses[use.name].append((node, use))

    def part(self, name: str, given: Role | None) -> Part:
        """What a parameter is, from all of its uses; `given` is what the user says that it is."""
        parts: list[Part] = []
        for node, use in self._uses[name]:
            part = self._at(node, use)
            if part not in parts:
                parts.append(part)
        if not parts:
            if given is not None:
                return part_by_shape(given, self._parameters[name])
            frozen_number = is_number(self._parameters[name])
            place = "a frozen number, which counts as one of the forward's" if frozen_number else UNUSED
            return Part(role=Role.SCALAR, place=place, unused=True)
        # Of several uses the first as a weight matrix says which axes are fan_in and fan_out.
        first = next((part for part in parts if part.fan_in), parts[0])
        if given is not None:
            return self._given(name, given, first)
        self._check_known(name, parts)
        if {part.role for part in parts} == {Role.INPUT, Role.OUTPUT}:
            # Its own numbers are those of the embedding; the readout's multiplier has to stand in the forward.
            embedding = next(part for part in parts if part.role is Role.INPUT)
            return replace(embedding, tied=True, place="tied to the readout")
        kinds = {(first.role, first.fan_in, first.fan_out)}
        also: list[Part] = []
        for part in parts:
            kind = (part.role, part.fan_in, part.fan_out)
            if kind not in kinds:
                kinds.add(kind)
                also.append(part)
        return replace(first, carries=any(part.carries for part in parts), also=tuple(also))

    def _given(self, name: str, role: Role, traced: Part) -> Part:
        """A role given by hand, with the axes that the trace found."""
        if traced.unknown and role.decays:
            traced = replace(part_by_shape(role, self._parameters[name]), block=traced.block)
        return replace(traced, role=role, place=GIVEN, computed_by=None, in_groups=False, unknown=None)

    def _check_known(self, name: str, parts: Sequence[Part]) -> None:
        """A tensor of two axes or more is a weight matrix or a table: which of them decides its rates."""
        for part in parts:
            # What is computed from it is refused as such where it matters.
            if part.unknown and not part.computed_by and not self._is_vector(name):
                raise PlanError(
                    f"`{name}` {tuple(self._parameters[name].shape)} enters `{part.unknown}`, and it is not known what "
                    "that makes of it, so its role is unknown. Say what it is, as by "
                    f"`roles={{{name!r}: isoscale.Role.HIDDEN}}`"
                )

    def _at(self, node: Node, use: Use) -> Part:
        """What the parameter would be if this were its only use."""
        fan_out = use.fan_out
        if use.axes is None and not use.fan_in:
            fan_out = tuple(range(self._parameters[use.name].dim()))
        part = Part(
            role=Role.HIDDEN,
            fan_in=use.fan_in,
            fan_out=fan_out,
            place=_place(node, use),
            computed_by=use.computed_by,
            in_groups=use.in_groups,
            unknown=node.op if use.kind == "other" else None,
            offset=use.offset,
        )
        for branch, block in zip(self._branches, self._blocks, strict=True):
            if (branch.nodes | branch.shared) >> node.index & 1:
                role, place = self._inside(branch, node, use)
                carries = use.name in branch.foldable_into
                return replace(part, role=role, place=place, block=block, carries=carries)
        role = self._outside(node, use)
        explicit = role is Role.OUTPUT and bool(_multipliers_beside(self._graph, node))
        return replace(part, role=role, explicit=explicit)

    def _inside(self, branch: Branch, node: Node, use: Use) -> tuple[Role, str]:
        """Role and place within a residual branch."""
        place = _place(node, use)
        if use.kind not in ("map", "other") or (use.kind == "other" and self._is_vector(use.name)):
            return Role.BRANCH_VECTOR, place
        maps = list(members(branch.nodes & self._graph.maps))
        if node.index in maps and place != BILINEAR:
            number = maps.index(node.index) + 1
            place = f"map {number} of {len(maps)}"
        if node.index in branch.last:
            return Role.BRANCH_LAST, place
        return Role.BRANCH_INTERNAL, place

    def _outside(self, node: Node, use: Use) -> Role:
        """Role outside of all residual branches."""
        # The width changes neither one number nor the number of outputs, to which the readout's bias is added.
        if self._parameters[use.name].numel() == 1:
            return Role.SCALAR
        if use.kind == "bias" and self._is_of_readout(node):
            return Role.SCALAR
        if use.kind == "map":
            if _is_readout(self._graph, node):
                return Role.OUTPUT
            features_before = self._graph.before(node.index) & self._graph.entries
            return Role.HIDDEN if features_before else Role.INPUT
        if use.kind in ("embedding", "source"):
            return Role.INPUT
        if use.kind == "gain" or node.row.is_norm or self._is_vector(use.name):
            return Role.VECTOR
        # A table that is added, as of positions, makes features as an embedding does.
        return Role.INPUT

    def _is_of_readout(self, node: Node) -> bool:
        """Whether a bias here is added to the logits, by the readout itself or right after it."""
        if node.is_map:
            return _is_readout(self._graph, node)
        for parent in node.inputs:
            source = _linear_source(self._graph, parent, past_multipliers=True)
            if _is_readout(self._graph, source):
                return True
        return False

    def _is_vector(self, name: str) -> bool:
        long_axes = [size for size in self._parameters[name].shape if size > 1]
        return len(long_axes) <= 1


def _is_readout(graph: Graph, node: Node) -> bool:
    """Whether a weight matrix acts here that no other follows, and that features precede."""
    if not node.is_map:
        return False
    followed = graph.after(node.index) & graph.maps
    preceded = graph.before(node.index) & graph.entries
    return bool(preceded) and not followed


def _linear_source(graph: Graph, index: int, *, past_multipliers: bool) -> Node:
    """Back past linear operations without parameters, to whatever else made the value."""
    node = graph.nodes[index]
    while node.row.is_linear and not node.uses and len(node.inputs) == 1:
        if node.multiplier and not past_multipliers:
            break
        node = graph.nodes[node.inputs[0]]
    return node


def _beside_readouts(graph: Graph) -> set[str]:
    """Multipliers that stand right before or right after a readout."""
    found: set[str] = set()
    for node in graph.nodes:
        if _is_readout(graph, node):
            found |= _multipliers_beside(graph, node)
    return found


def _multipliers_beside(graph: Graph, node: Node) -> set[str]:
    """Multipliers that stand right before or right after a node."""
    found: set[str] = set()
    for neighbour in (*node.inputs, *graph.readers[node.index]):
        beside = _linear_source(graph, neighbour, past_multipliers=False)
        if beside.multiplier:
            found.add(beside.multiplier)
    return found


def _place(node: Node, use: Use) -> str:
    """What the parameter does at a node, in words."""
    if use.kind == "map":
        contraction = node.row.contraction
        if contraction and contraction.weight == "bilinear":
            return BILINEAR
        return "convolution" if contraction and contraction.weight == "convolution" else "map"
    if use.kind == "source":
        return "learned input"
    return node.op if use.kind == "other" else use.kind


# --- blocks ---
def _block_name(graph: Graph, branch: Branch) -> str:
    """The module path that the weights of a branch share, down to its last index: `h.3` of `h.3.attn.c_proj`."""
    names: list[str] = []
    others: list[str] = []
    for index in members(branch.nodes):
        for use in graph.nodes[index].uses:
            (names if use.kind == "map" else others).append(use.name)
    # Without a weight matrix its other parameters, or the modules that were given what it starts from.
    names = names or others
    if not names:
        names = [f"{module}." for module, node in graph.module_inputs.items() if node == branch.start] or ["a block."]
    paths = [name.split(".")[:-1] for name in names]
    shared: list[str] = []
    for steps in zip(*paths, strict=False):
        if len(set(steps)) > 1:
            break
        shared.append(steps[0])
    # A branch with one linear layer shares that layer's whole path; the block ends at its index.
    numbered = indices(shared)
    if numbered:
        shared = shared[: numbered[-1] + 1]
    return ".".join(shared) or names[0].rstrip(".")


def block_pattern(block: str) -> re.Pattern[str]:
    """What the same block is called at other indices."""
    anywhere = re.escape(starred(block)).replace(r"\*", r"\d+")
    return re.compile(anywhere + r"(?=\.|$)")


# --- given by hand ---
def matched(roles: Roles, parameters: Mapping[str, Tensor]) -> dict[str, Role]:
    """Role of each parameter that a pattern matches; a later pattern wins."""
    given: dict[str, Role] = {}
    for pattern, role in roles.items():
        names = fnmatch.filter(parameters, pattern)
        if not names:
            raise unknown("parameter that matches", pattern, parameters)
        given |= dict.fromkeys(names, check_role(role))
    return given


def check_all_known(missing: Iterable[str], parameters: Mapping[str, Tensor]) -> None:
    """Raise PlanError if parameters have no role."""
    missing = list(missing)
    if not missing:
        return
    shown = [f"`{name}` {tuple(parameters[name].shape)}" for name in missing[:5]]
    if len(missing) > len(shown):
        shown.append("...")
    raise PlanError(
        f"no role for {len(missing)} of {len(parameters)} parameters: {', '.join(shown)}. "
        'Add a pattern that matches them: `roles={"pattern.*": isoscale.Role.HIDDEN}`'
    )


def part_by_shape(role: Role, parameter: Tensor, *, transposed: bool = False) -> Part:
    """Axes by torch's convention: (out, in, ...)."""
    rank = parameter.dim()
    if rank < 2:
        return Part(role=role, fan_out=tuple(range(rank)))
    out = 1 if transposed else 0
    summed = tuple(axis for axis in range(rank) if axis != out)
    return Part(role=role, fan_in=summed, fan_out=(out,))
