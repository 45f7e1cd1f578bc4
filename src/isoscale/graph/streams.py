"""The residual streams of a forward pass, and what is added to them.

Words, each defined by those before it, so that a reader can check a network by hand:

* A value's *terms* are what it is the sum of: a + b, or the sum of a stack. Sums with a constant or a parameter have
  one term only, and are no sums here.
* A *skip* leads from a sum back through one of its terms, not a subtracted one, to an earlier value s: past views,
  norms, pooling, factors, concatenations of values that all lead back, other sums, and at most one projection.
* A *branch* is another term of that sum that is computed from s by a weight matrix, a norm or a mixing of positions.
  What is picked by whole numbers computed from s is not computed from s, and of the parts of a split value each is a
  value of its own: `norm(x) * (1 + scale) + shift` has no skip although shift and scale come from one map.
* The sum is *residual* if the branch is something other than a stream that s was added to before. Of h + t, t being a
  time embedding that every block has added already, the skip is t and the supposed branch h is what block after block
  was added to: walking back from h, along skips, one gets past t, or back to t itself.
* A *step in time* is a residual sum of a recurrent cell: sums with the same weights, each of which reads a part of the
  input that those before it did not. It is no residual sum.
* The *trunk* is what is left if every branch is left out: from the outputs back, at a residual sum along its skip, and
  through whatever else the branches read, but never into a branch. Sums inside a branch (an injected conditioning
  signal, a shift) are not on the trunk and bound no branch.
* Of *nested* residual sums, one in the branch of the other, the outer one counts if it repeats: if the network has
  another of its build, beside it. It does not if it is a skip around a stream that repeats inside it or that goes on
  from its own (the long skip of a U-Net, the global skip of a super-resolution network): then the inner ones count.
* A *lone* residual sum, which has no other of its build and stands in no list of modules with others, while those
  repeat (a convolution for positions before the blocks, a pooling head after them), is of a fixed number at every
  depth. It bounds no branch either.
"""

from __future__ import annotations

import heapq
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

from isoscale.graph.graph import Graph, Node, bits, members

_DIGITS = re.compile(r"\d+")


@dataclass(frozen=True)
class Place:
    """Where a branch starts and ends, and the sum with its skip.

    Attributes:
        starts: The nodes that branch and skip share, as a bit set: one, or one for each part that a skip joins.
        skip: The sum's term on the skip.
        end: Its term on the branch.
        add: The sum.
        inside: The nodes that depend on a start and that the end depends on, starts left out, as a bit set.
        projected: Whether a projection lies on the skip.
        has_matrix: Whether a weight matrix lies on the branch.
    """

    starts: int
    skip: int
    end: int
    add: int
    inside: int
    projected: bool
    has_matrix: bool


@dataclass(frozen=True)
class _Skip:
    """Where a skip leads back to, and what lies on it."""

    starts: int
    projected: bool = False
    beside: bool = False  # the branch is computed from another part of the start than the skip takes


class Streams:
    """The streams of one graph.

    Attributes:
        places: The branches' places, in the order of execution.
        long: Residual sums on the trunk that bound no branch: long skips and lone ones.
    """

    def __init__(self, graph: Graph) -> None:
        self._graph = graph
        # By node, the branches of a residual sum; those with a long skip apart.
        self._residual: dict[int, list[Place]] = {}
        self._around: dict[int, Place] = {}
        self._builds: dict[Place, frozenset[str]] = {}
        self._find()
        steps = set(self._steps_in_time())
        if steps:
            self._residual, self._around = {}, {}
            self._find(leave_out=steps)
        self.places: list[Place] = []
        self.long: set[int] = set()
        self._walk_the_trunk()
        self._leave_out_lone_ones()

    # --- residual sums ---
    def _find(self, leave_out: Iterable[int] = ()) -> None:
        # In the order of execution, so that the sums inside a branch are known before its own.
        for node in self._graph.nodes:
            if not node.terms or not node.is_float or node.index in leave_out:
                continue
            for place in self._places(node):
                kind = self._kind_of_end(place)
                if kind == "branch":
                    self._residual.setdefault(node.index, []).append(place)
                elif kind == "same stream":
                    self._around[node.index] = place

    def _places(self, node: Node) -> Iterator[Place]:
        """A place for each term that is a branch around which another term is a skip."""
        for end in node.terms:
            found: list[Place] = []
            for skip in node.terms:
                # f(x) - x takes x off, and carries nothing on.
                may_be = skip not in (end, node.taken_off)
                place = self._place(node, skip, end) if may_be else None
                if place:
                    found.append(place)
            if found:
                yield min(found, key=lambda place: place.projected)

    def _place(self, node: Node, skip: int, end: int) -> Place | None:
        graph = self._graph
        # Nothing that both are computed from: no need to look for it.
        if not graph.computed_from[skip] & graph.computed_from[end]:
            return None
        found = _SkipSearch(graph, self._residual, end).from_term(skip)
        if found is None or (found.beside and not self._is_joined(node.index)):
            return None
        numbers = self._between(found.starts, end, graph.leads_to, graph.computed_from)
        has_matrix = bool(numbers & graph.maps)
        if found.projected:
            # A linear layer on the skip is a projection only beside a branch of its shape that is nonlinear:
            # W_1 x + W_2 W_3 x is one linear map, not a residual block.
            shapes = {graph.nodes[skip].shape, graph.nodes[end].shape, node.shape}
            if len(shapes) > 1 or not has_matrix or not self._is_nonlinear(numbers):
                return None
        if not has_matrix and (found.beside or not self._mixes(numbers)):
            return None
        return Place(
            starts=found.starts,
            skip=skip,
            end=end,
            add=node.index,
            inside=self._between(found.starts, end, graph.below, graph.above),
            projected=found.projected,
            has_matrix=has_matrix,
        )

    def _between(self, starts: int, end: int, below: list[int], above: list[int]) -> int:
        """What depends on a start and leads to the end, starts and what lies before them left out."""
        after, before = 0, 0
        for start in members(starts):
            after |= below[start]
            before |= above[start]
        return after & above[end] & ~before

    def _is_nonlinear(self, inside: int) -> bool:
        for index in members(inside):
            node = self._graph.nodes[index]
            if not (node.is_map or node.row.is_linear or node.row.is_norm):
                return True
        return False

    def _mixes(self, inside: int) -> bool:
        """Whether a norm or a mixing of positions acts here; x + a x^3 is but a function of x."""
        for index in members(inside):
            row = self._graph.nodes[index].row
            if row.is_norm or row.contraction or row.effect in ("attention", "softmax"):
                return True
            if "pool" in row.name or row.name.startswith("_fft"):
                return True
        return False

    def _is_joined(self, index: int) -> bool:
        """Whether a value, or what is added to it, is joined with others: the parts of a stream that was split."""
        seen = 0
        pending = bits(self._graph.readers[index])
        while pending:
            at = pending.bit_length() - 1
            pending ^= 1 << at
            seen |= 1 << at
            node = self._graph.nodes[at]
            if node.op == "cat":
                return True
            if node.terms or node.row.is_view:
                pending |= bits(self._graph.readers[at]) & ~seen
        return False

    def _kind_of_end(self, place: Place) -> str:
        """What a supposed branch is: "branch", or the "same stream" as its start, or "another stream"."""
        if not place.has_matrix:
            return "branch"
        own = place.inside | place.starts
        for index in self._back_along_skips(place.end, own):
            if place.starts >> index & 1:
                return "same stream"
            for inner in self._residual.get(index, []):
                if inner.starts & ~own:
                    return "another stream"
        return "branch"

    def _back_along_skips(self, index: int, within: int) -> Iterator[int]:
        """The values that lead to this one along skips without projections, itself first."""
        seen = 0
        pending = 1 << index
        while pending:
            at = pending.bit_length() - 1
            pending ^= 1 << at
            seen |= 1 << at
            yield at
            pending |= bits(self._identities(at)) & within & ~seen

    def _identities(self, index: int) -> tuple[int, ...]:
        """Those inputs of a node that it carries on, as a skip does."""
        return _carried(self._graph, self._residual, self._graph.nodes[index])

    # --- steps in time ---
    def _steps_in_time(self) -> Iterator[int]:
        """The residual sums of recurrent cells."""
        by_weights: dict[frozenset[str], list[Place]] = {}
        for place in self._all_places():
            weights = self._names(place.inside, maps_only=True)
            if weights:
                by_weights.setdefault(weights, []).append(place)
        for places in by_weights.values():
            adds = {place.add for place in places}
            if len(adds) > 1 and all(map(self._reads_a_new_part, places)):
                yield from adds

    def _reads_a_new_part(self, place: Place) -> bool:
        """Whether the branch reads a part of a value, or an input, that nothing before its start has read."""
        graph = self._graph
        before = 0
        for start in members(place.starts):
            before |= graph.computed_from[start]
        read = 0
        for index in self._read_from_outside(place):
            read |= graph.computed_from[index]
        for index in members(read & ~before & ~place.inside):
            node = graph.nodes[index]
            if node.piece or node.op == "input":
                return True
        return False

    def _read_from_outside(self, place: Place) -> Iterator[int]:
        own = place.inside | place.starts
        for index in members(place.inside):
            for parent in self._graph.nodes[index].inputs:
                if not own >> parent & 1:
                    yield parent

    # --- the trunk ---
    def _walk_the_trunk(self) -> None:
        """From the outputs back, later nodes first."""
        graph = self._graph
        left_out = 0  # inside branches
        along_skips = 0
        seen = 0
        # What depends on most is the output proper; others may be values from inside a branch.
        outputs = sorted(graph.outputs, key=lambda index: graph.above[index].bit_count(), reverse=True)
        for output in outputs:
            pending = (1 << output) & ~seen
            while pending:
                index = pending.bit_length() - 1
                pending ^= 1 << index
                seen |= 1 << index
                # What a branch holds is seen from outside only as a part of a stream: two coupled streams.
                if left_out >> index & 1 and not along_skips >> index & 1:
                    continue
                branches = [place for place in self._residual.get(index, []) if self._counts(place)]
                inputs = bits(graph.nodes[index].terms or graph.nodes[index].inputs)
                for place in branches:
                    inputs &= ~(1 << place.end)
                    inputs |= bits(self._read_from_outside(place))
                    left_out |= place.inside
                    self.places.append(place)
                is_long = index in self._residual or index in self._around
                if is_long and not branches:
                    self.long.add(index)
                along_skips |= bits(self._identities(index))
                pending |= inputs & ~seen
        self.places.sort(key=lambda place: (place.add, place.end))

    def own(self, place: Place) -> int:
        """The branch's nodes, without branches of a stream that passes through it: of two coupled streams x + f(z) and
        z + g(x + f(z)), the second branch is g."""
        nodes = place.inside
        for other in self.places:
            if place.inside >> other.add & 1:
                nodes &= ~(other.inside | 1 << other.add)
        return nodes

    def _leave_out_lone_ones(self) -> None:
        names = {place: self._names(self.own(place)) for place in self.places}
        builds = Counter(_build(held) for held in names.values())
        if max(builds.values(), default=0) < 2:
            return
        # By path of a list of modules, the numbers in it at which branches stand.
        listed: dict[str, set[str]] = {}
        for held in names.values():
            for path, number in _numbers(held):
                listed.setdefault(path, set()).add(number)
        kept: list[Place] = []
        for place, held in names.items():
            is_listed = any(len(listed[path]) > 1 for path, _ in _numbers(held))
            if builds[_build(held)] > 1 or is_listed:
                kept.append(place)
        self.long |= {place.add for place in self.places} - {place.add for place in kept}
        self.places = kept

    def _counts(self, place: Place) -> bool:
        """Whether it bounds a branch: of nested residual sums either the outer or the inner one does."""
        inner = self.inner(place)
        if not inner:
            return True
        if place.projected:
            return False
        if self._repeats(place, self._all_places()):
            return True
        is_long = any(self._repeats(one, inner) or self._goes_on_from(one, place) for one in inner)
        return not is_long

    def _goes_on_from(self, inner: Place, outer: Place) -> bool:
        """Whether the inner one's stream is the outer one's."""
        for start in members(inner.starts):
            for at in self._back_along_skips(start, within=-1):
                if outer.starts >> at & 1:
                    return True
        return False

    def inner(self, place: Place) -> list[Place]:
        """The residual sums inside a branch, those with a weight matrix."""
        own = place.inside | place.starts
        found: list[Place] = []
        for inner in self._all_places():
            is_inside = place.inside >> inner.add & 1 and not inner.starts & ~own
            # A linear layer parallel to the rest of the branch is no skip.
            is_parallel = inner.projected and inner.starts == place.starts
            if is_inside and inner.has_matrix and not is_parallel:
                found.append(inner)
        return found

    def _all_places(self) -> Iterator[Place]:
        for places in self._residual.values():
            yield from places

    def _repeats(self, place: Place, others: Iterable[Place]) -> bool:
        """Whether another place of the same build lies beside it, neither in the other."""
        for other in others:
            if other.inside >> place.add & 1 or place.inside >> other.add & 1 or other.add == place.add:
                continue
            if self._build(other) == self._build(place):
                return True
        return False

    def _build(self, place: Place) -> frozenset[str]:
        if place not in self._builds:
            self._builds[place] = _build(self._names(place.inside))
        return self._builds[place]

    def _names(self, inside: int, *, maps_only: bool = False) -> frozenset[str]:
        names: set[str] = set()
        for index in members(inside):
            for use in self._graph.nodes[index].uses:
                if use.kind == "map" or not maps_only:
                    names.add(use.name)
        return frozenset(names)


def _build(names: Iterable[str]) -> frozenset[str]:
    """Names of parameters without the path that all share, and with indices left open."""
    paths = [name.split(".") for name in names]
    shared = len(_shared(paths))
    if len(paths) == 1:
        # One parameter alone shares all of its path with itself: its last step is its own.
        shared -= 1
    return frozenset(_DIGITS.sub("*", ".".join(path[shared:])) for path in paths)


def _numbers(names: Iterable[str]) -> Iterator[tuple[str, str]]:
    """The lists of modules that hold all of these parameters at one number: path of the list, number."""
    paths = [name.split(".")[:-1] for name in names]
    shared = _shared(paths)
    for i, step in enumerate(shared):
        if step.isdecimal():
            yield ".".join(shared[:i]), step


def _shared(paths: Sequence[Sequence[str]]) -> list[str]:
    """The first steps of all paths, as far as they are the same."""
    shared: list[str] = []
    for steps in zip(*paths, strict=False):
        if len(set(steps)) > 1:
            break
        shared.append(steps[0])
    return shared


def _carried(graph: Graph, residual: dict[int, list[Place]], node: Node) -> tuple[int, ...]:
    """Those inputs of a node that it carries on as a skip does: of a residual sum not its branches."""
    if node.terms:
        ends = {place.end for place in residual.get(node.index, [])}
        return tuple(term for term in node.terms if term not in ends and term != node.taken_off)
    sources = graph.sources[node.index]
    if node.op == "cat" or (len(sources) == 1 and node.row.may_be_on_skip):
        return sources
    return ()


class _SkipSearch:
    """Looks for the value that a skip around a given branch starts from."""

    def __init__(self, graph: Graph, residual: dict[int, list[Place]], branch: int) -> None:
        self._graph, self._residual = graph, residual
        self._branch = graph.computed_from[branch]
        self._found: dict[int, _Skip | None] = {}

    def from_term(self, term: int) -> _Skip | None:
        """The nearest value on the way back that the branch is computed from."""
        if term not in self._found:
            self._found[term] = self._search(term)
        return self._found[term]

    def _search(self, term: int) -> _Skip | None:
        graph = self._graph
        beside: _Skip | None = None
        # Later nodes first; each with the node that it was reached from and whether a projection lies between.
        pending: list[tuple[int, int, bool]] = [(-term, -1, False)]
        seen: set[tuple[int, bool]] = set()
        while pending:
            negative, reader, projected = heapq.heappop(pending)
            at = -negative
            if (at, projected) in seen:
                continue
            seen.add((at, projected))
            if self._branch >> at & 1:
                if self._takes_the_same(at, reader):
                    return _Skip(1 << at, projected)
                if not projected:
                    beside = beside or _Skip(1 << at, beside=True)
                continue
            node = graph.nodes[at]
            if node.op == "cat" and len(graph.sources[at]) > 1:
                if joined := self._joined(node, projected):
                    return joined
                continue
            before = _carried(graph, self._residual, node)
            if node.is_map and not projected and len(graph.sources[at]) == 1:
                before, projected = graph.sources[at], True
            for parent in before:
                if graph.computed_from[parent] & self._branch:
                    heapq.heappush(pending, (-parent, at, projected))
        return beside

    def _takes_the_same(self, at: int, reader: int) -> bool:
        """Whether the branch reads of a value what the skip takes of it, and not another part alone."""
        taken = self._graph.nodes[reader].piece if reader >= 0 else None
        if taken is None:
            return True
        for other in self._graph.readers[at]:
            part = self._graph.nodes[other].piece
            if self._branch >> other & 1 and not (part and part.disjoint(taken)):
                return True
        return False

    def _joined(self, node: Node, projected: bool) -> _Skip | None:
        """A concatenation is on the skip if each of what it joins is."""
        starts = 0
        for parent in self._graph.sources[node.index]:
            found = self.from_term(parent)
            if found is None or found.beside:
                return None
            starts |= found.starts
            projected = projected or found.projected
        return _Skip(starts, projected)
