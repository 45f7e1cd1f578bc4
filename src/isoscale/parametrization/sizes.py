"""The base of a plan: its shapes, and which of its tensors corresponds to which of the target's.

Names correspond step by step. Where the children of a module are numbered and their numbers differ (a ModuleList of
another depth), the first corresponds to the first, the last to the last, and one in between to one in between.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from isoscale.errors import InvalidTypeError, PlanError
from isoscale.graph.anatomy import Anatomy, block_pattern, depth, from_graph, nested
from isoscale.graph.attention import attentions
from isoscale.graph.branches import residual_branches
from isoscale.graph.factors import forward_factors, numbers_of_uses
from isoscale.graph.graph import Graph
from isoscale.graph.products import products
from isoscale.graph.trace import trace
from isoscale.graph.unwrapping import check_initialised, named_parameters
from isoscale.scaling.decoding import record
from isoscale.scaling.names import numbered, starred
from isoscale.scaling.roles import Role

Shape = tuple[int, ...]

# Of what a file may claim: beyond these, ratios leave the numbers.
_LARGEST = 2**48
_SMALLEST_RMS = 1e-30

# Of a base that was not traced.
_UNKNOWN: dict[str, Any] = dict.fromkeys(
    ("roles", "logit_scales", "products", "nested", "queries", "factors", "uses"), None
) | {"elsewhere": ()}


@dataclass(frozen=True)
class Base:
    """What a plan needs of the tuned model.

    Attributes:
        shapes: Of each parameter, by name.
        rms: Root mean square of each parameter's entries; None where the model has no numbers (meta device).
        depth: Number of residual branches that its forward runs through; None if it was not traced.
        head_sizes: Size of the heads of each attention; None if it was not traced.
        roles: Of each parameter, by name; None if it was not traced, or if the trace leaves one open.
        logit_scales: What its forward multiplies the logits of each attention by, None where that cannot be read;
            None if it was not traced.
        products: Of each sum of products of two activations its number of terms, and what the forward multiplies it
            by; None if it was not traced.
        nested: Numbers of residual additions inside its branches, each that occurs once; None if it was not traced.
        queries: Name of the weight that makes the queries of each attention; None if it was not traced.
        factors: What its forward multiplies by, by place (`isoscale.graph.factors`); None if it was not traced.
        elsewhere: What it multiplies by where no parameter takes it.
        uses: How often each parameter acts in one forward; None if it was not traced.
    """

    shapes: Mapping[str, Shape]
    rms: Mapping[str, float | None]
    depth: int | None = None
    head_sizes: tuple[int, ...] | None = None
    roles: Mapping[str, Role] | None = None
    logit_scales: tuple[float | None, ...] | None = None
    products: tuple[tuple[int, float], ...] | None = None
    nested: tuple[int, ...] | None = None
    queries: tuple[str, ...] | None = None
    factors: Mapping[str, float | None] | None = None
    elsewhere: tuple[float, ...] = ()
    uses: Mapping[str, float] | None = None


def shapes(model: nn.Module, example_inputs: Any = None) -> dict[str, Any]:
    """A JSON-able stand-in for a model as the base of a plan.

    Args:
        model: The tuned model, freshly initialised; it may live on the meta device, but then nothing is known of
            its init.
        example_inputs: Arguments of its forward; with them the depth, the head sizes and what the forward multiplies
            by are read off its trace and need not be guessed.

    Returns:
        {"shapes": {name: [sizes]}, "rms": {name: number or None}, "depth": ..., "head_sizes": ..., "logit_scales": ...,
        "products": ..., "nested": ..., "roles": ..., "queries": ..., "factors": ..., "elsewhere": ..., "uses": ...}

    >>> shapes(nn.Linear(3, 2, device="meta"))["shapes"]
    {'weight': [2, 3], 'bias': [2]}
    """
    base = describe(model, example_inputs)
    return asdict(base) | {"shapes": {name: list(shape) for name, shape in base.shapes.items()}}


def describe(model: nn.Module, example_inputs: Any = None) -> Base:
    """The same as an object."""
    check_initialised(model)
    parameters = named_parameters(model)
    untraced = Base(
        shapes={name: tuple(parameter.shape) for name, parameter in parameters.items()},
        rms={name: rms(parameter) for name, parameter in parameters.items()},
    )
    if example_inputs is None:
        return untraced
    graph = trace(model, example_inputs)
    branches = residual_branches(graph)
    heads = attentions(graph)
    factors = forward_factors(graph, branches, heads)
    return replace(
        untraced,
        depth=depth(graph, branches),
        head_sizes=tuple(one.head_size for one in heads),
        roles=_roles(graph, parameters),
        logit_scales=tuple(one.scale for one in heads),
        queries=tuple(one.name for one in heads),
        factors=factors.places,
        elsewhere=factors.elsewhere,
        uses=numbers_of_uses(graph),
        products=tuple((one.size, one.factor) for one in products(graph)),
        nested=nested(branches),
    )


def _roles(graph: Graph, parameters: Mapping[str, Tensor]) -> dict[str, Role] | None:
    try:
        anatomy = from_graph(graph, parameters)
    except PlanError:  # the target's own roles may be given by hand: nothing is compared then
        return None
    return {name: part.role for name, part in anatomy.parts.items()}


def read(value: Any) -> Base:
    """A base from what `shapes` returned, also after JSON; or from plain shapes by name.

    Raises:
        InvalidTypeError, PlanError: Anything else; the message names the key.
    """
    if not isinstance(value, Mapping):
        raise InvalidTypeError(
            f"`base` must be a module or the result of isoscale.shapes(base), got {type(value).__name__}"
        )
    if "shapes" not in value:
        value = {"shapes": value, "rms": dict.fromkeys(value), "depth": None, "head_sizes": None}
    # Bases that were written before forwards were asked for what they multiply by know none of it.
    base = record(Base, {**_UNKNOWN, **value}, "base")
    sizes = [size for shape in base.shapes.values() for size in shape]
    sizes += [1 if base.depth is None else base.depth, *(base.head_sizes or ())]
    if not base.shapes or not all(1 <= size <= _LARGEST for size in sizes):
        raise PlanError("`base` must map parameter names to shapes of sizes >= 1, as isoscale.shapes(base) does")
    if not all(size is None or size == 0 or _SMALLEST_RMS <= size <= 1 / _SMALLEST_RMS for size in base.rms.values()):
        raise PlanError(
            f"`base.rms` must hold root mean squares: 0, or between {_SMALLEST_RMS} and {1 / _SMALLEST_RMS}"
        )
    if base.roles is not None and base.roles.keys() != base.shapes.keys():
        raise PlanError("`base.roles` must name the parameters of `base.shapes`, each once")
    factors = {
        "logit_scales": base.logit_scales or (),
        "factors": (base.factors or {}).values(),
        "elsewhere": base.elsewhere,
        "uses": (base.uses or {}).values(),
    }
    for key, known in factors.items():
        for factor in known:
            if factor is not None and not _SMALLEST_RMS <= abs(factor) <= 1 / _SMALLEST_RMS:
                raise PlanError(
                    f"`base.{key}` must hold factors between {_SMALLEST_RMS} and {1 / _SMALLEST_RMS} in size, or None; "
                    f"got {factor}"
                )
    return replace(base, rms={name: base.rms.get(name) for name in base.shapes})


def rms(tensor: Tensor, offset: float = 0.0) -> float | None:
    """Root mean square of a tensor's entries, a number added to each; None if it has no numbers."""
    if tensor.is_meta:
        return None
    if hasattr(tensor, "full_tensor"):
        tensor = tensor.full_tensor()
    with torch.no_grad():
        if offset:
            tensor = tensor.detach() + offset
        return float(torch.linalg.vector_norm(tensor.detach(), dtype=torch.float64)) / math.sqrt(tensor.numel())


# --- correspondence ---
def counterparts(
    target: Mapping[str, Shape],
    base: Mapping[str, Shape],
    roles: Mapping[str, Role] | None = None,
    base_roles: Mapping[str, Role] | None = None,
) -> dict[str, str]:
    """For each parameter of the target the parameter of the base that it corresponds to.

    Args:
        target, base: Shapes by name.
        roles, base_roles: Roles by name, if both are known: of several numbered modules of the base, one whose
            tensors do the same answers. In a plain stack of layers the first is an input layer, the others are hidden.

    Raises:
        PlanError: The architectures differ; the message names the first difference.

    >>> counterparts({"h.0.w": (4,), "h.1.w": (4,), "h.2.w": (4,)}, {"h.0.w": (2,), "h.1.w": (2,)})
    {'h.0.w': 'h.0.w', 'h.1.w': 'h.0.w', 'h.2.w': 'h.1.w'}
    """
    pairs: dict[str, str] = {}
    if roles is None or base_roles is None:
        roles = base_roles = {}
    _Matching(target, base, roles, base_roles, pairs).match(_tree(target), _tree(base), "", "")
    for name, other in pairs.items():
        if len(target[name]) != len(base[other]):
            raise PlanError(
                f"`{name}` has shape {target[name]} and its counterpart in the base, `{other}`, {base[other]}: "
                "target and base must be the same architecture at two sizes"
            )
    return {name: pairs[name] for name in target}


def _tree(names: Mapping[str, Shape]) -> dict[str, Any]:
    tree: dict[str, Any] = {}
    for name in names:
        *path, leaf = name.split(".")
        at = tree
        for step in path:
            at = at.setdefault(step, {})
        at[leaf] = name
    return tree


@dataclass(frozen=True)
class _Matching:
    """Walks two trees of names side by side; `pairs` is what it finds."""

    shapes: Mapping[str, Shape]
    base_shapes: Mapping[str, Shape]
    roles: Mapping[str, Role]
    base_roles: Mapping[str, Role]
    pairs: dict[str, str]

    def match(self, target: Any, base: Any, path: str, base_path: str) -> None:
        if isinstance(target, str) or isinstance(base, str):
            if isinstance(target, str) and isinstance(base, str):
                self.pairs[target] = base
                return
            raise _different(target, base, path, base_path)
        for step, other in self._children(target, base, path, base_path):
            self.match(target[step], base[other], f"{path}{step}.", f"{base_path}{other}.")

    def _children(
        self, target: dict[str, Any], base: dict[str, Any], path: str, base_path: str
    ) -> list[tuple[str, str]]:
        """Which child of the base answers to each child of the target."""
        pairs: list[tuple[str, str]] = []
        families, base_families = _families(target), _families(base)
        for family, steps in families.items():
            others = base_families.get(family, [])
            if set(steps) == set(others):
                pairs += [(step, step) for step in steps]
            elif numbered(steps[0]) and others:
                for stage, base_stage in self._stages(steps, others, target, base):
                    pairs += [(step, self._answering(step, stage, base_stage, target, base, path)) for step in stage]
            else:
                raise _only_in("target", f"{path}{steps[0]}")
        for family, others in base_families.items():
            if family not in families:
                raise _only_in("base", f"{base_path}{others[0]}")
        return pairs

    def _stages(
        self, steps: list[str], others: list[str], target: dict[str, Any], base: dict[str, Any]
    ) -> list[tuple[list[str], list[str]]]:
        """Numbered children and the base's, stage by stage: a stage is a run of children whose tensors have the same
        shapes. A single stage unless both have as many, of the same kinds in the same order."""
        stages = _runs(steps, target, self.shapes)
        base_stages = _runs(others, base, self.base_shapes)
        kinds = [_signature(target[stage[0]]) for stage in stages]
        base_kinds = [_signature(base[stage[0]]) for stage in base_stages]
        if kinds != base_kinds:
            return [(steps, others)]
        return list(zip(stages, base_stages, strict=True))

    def _answering(
        self, step: str, steps: list[str], others: list[str], target: dict[str, Any], base: dict[str, Any], path: str
    ) -> str:
        """Of numbered children the first answers to the first, the last to the last, one in between to one in between.

        Args:
            step: The child of the target, one of `steps`, which are in the order of their numbers.
            others: The base's children that differ from these in their numbers, in order.
            target, base: What each of them holds.
            path: Where the target's are.
        """
        if step == steps[0]:
            ranked = others
        elif step == steps[-1]:
            ranked = others[::-1]
        else:
            ranked = [*others[1:-1], others[0], others[-1]]
        kind = _signature(target[step])
        same_kind = [other for other in ranked if _signature(base[other]) == kind]
        if not same_kind:
            raise self._no_kind(step, others, target, base, path)
        does = _roles_below(target[step], self.roles)
        alike = [other for other in same_kind if _roles_below(base[other], self.base_roles) == does]
        return (alike or same_kind)[0]

    def _no_kind(
        self, step: str, others: list[str], target: dict[str, Any], base: dict[str, Any], path: str
    ) -> PlanError:
        """The error for a block of which the base has none, by what tells it from those that there are."""
        own = _signature(target[step])

        def differing(other: str) -> int:
            return len(set(own) ^ set(_signature(base[other])))

        nearest = min(others, key=differing)
        theirs = _signature(base[nearest])
        more = [name for name in own if name not in theirs]
        less = [name for name in theirs if name not in own]
        differences = [f"it has {', '.join(more[:3])}"] * bool(more) + [f"it lacks {', '.join(less[:3])}"] * bool(less)
        return PlanError(
            f"no module of the base answers to `{path}{step}` of the target: beside `{path}{nearest}`, the base's "
            f"nearest of {len(others)}, {' and '.join(differences)}. A base needs at least one block of each kind: "
            "make it deeper (of stages that begin with a block of another kind, two blocks each)"
        )


def _families(tree: Mapping[str, Any]) -> dict[str, list[str]]:
    """The children of a module that differ in their numbers alone, in the order of these; others are alone."""
    families: dict[str, list[tuple[int, str]]] = {}
    for step in tree:
        family, number = numbered(step) or (step, 0)
        families.setdefault(family, []).append((number, step))
    return {family: [step for _, step in sorted(steps)] for family, steps in families.items()}


def _only_in(where: str, name: str) -> PlanError:
    return PlanError(
        f"target and base differ: only the {where} has `{name}`. They must be the same architecture at two sizes, with "
        "blocks that are told apart by numbers in their names, as in a ModuleList or Sequential"
    )


def _runs(steps: list[str], tree: Mapping[str, Any], shapes: Mapping[str, Shape]) -> list[list[str]]:
    """Neighbours whose tensors have the same names and shapes, in groups."""
    groups = itertools.groupby(steps, lambda step: _shapes_below(tree[step], shapes))
    return [list(group) for _, group in groups]


def _shapes_below(tree: Any, shapes: Mapping[str, Shape], prefix: str = "") -> list[tuple[str, Shape]]:
    """The names below a module, with their shapes."""
    if isinstance(tree, str):
        return [(prefix, shapes[tree])]
    return [one for step, child in tree.items() for one in _shapes_below(child, shapes, f"{prefix}{step}.")]


def _signature(tree: Any, prefix: str = "") -> list[str]:
    """The names below a module, indices left out: what makes two modules the same kind."""
    if isinstance(tree, str):
        return [prefix.rstrip(".")]
    found = set()
    for step, child in tree.items():
        found.update(_signature(child, f"{prefix}{starred(step)}."))
    return sorted(found)


def _roles_below(tree: Any, roles: Mapping[str, Role]) -> list[Role | None]:
    """What the tensors below a module do, in order."""
    if isinstance(tree, str):
        return [roles.get(tree)]
    return [role for child in tree.values() for role in _roles_below(child, roles)]


def _different(target: Any, base: Any, path: str, base_path: str) -> PlanError:
    where = "target" if isinstance(base, str) else "base"
    return PlanError(
        f"target and base differ at `{path.rstrip('.')}`: in the {where} it is a module, in the other a tensor"
    )


# --- ratios ---
def depth_ratio(anatomy: Anatomy, base: Base, pairs: Mapping[str, str]) -> float:
    """Target depth / base depth, in residual branches (in layers, for a network without any).

    Raises:
        PlanError: The base has no block of the target's kind.
    """
    if base.depth is not None:
        return anatomy.depth / base.depth
    if not anatomy.blocks:
        return 1.0 if len(pairs) == len(base.shapes) else _layers(anatomy, base, pairs)
    patterns = [block_pattern(block) for block in anatomy.blocks]
    found = {match[0] for name in base.shapes for pattern in patterns if (match := pattern.match(name))}
    if not found:
        raise PlanError(f"the base has no block like `{anatomy.blocks[0]}`: its depth is unknown")
    return len(anatomy.blocks) / len(found)


def _layers(anatomy: Anatomy, base: Base, pairs: Mapping[str, str]) -> float:
    """Without blocks: maps before the readout, here and in the base."""
    readouts = {pairs[name] for name, part in anatomy.parts.items() if part.role == "output"}
    layers = sum(len(shape) > 1 for name, shape in base.shapes.items() if name not in readouts)
    return anatomy.depth / max(1, layers)


def ratio(axes: Sequence[int], shape: Shape, base_shape: Shape) -> float:
    """Target / base size over these axes of a parameter."""
    return math.prod(shape[axis] for axis in axes) / math.prod(base_shape[axis] for axis in axes)
