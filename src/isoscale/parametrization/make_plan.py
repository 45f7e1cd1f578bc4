"""`parametrize`: from a model, its base and a rule to a plan, applied.

Two steps. `read` looks at the model and its base: what each tensor is and how far its sizes are from its counterpart's.
`make` asks a rule what that means. A sweep reads a size once and makes a plan for each of its rules.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, get_args

from torch import Tensor, nn

from isoscale.checks import number, share
from isoscale.errors import InvalidTypeError, InvalidValueError, PlanError, TraceError, unknown
from isoscale.graph import anatomy as anatomies
from isoscale.graph.anatomy import Anatomy, Part, Roles
from isoscale.graph.by_hand import by_hand
from isoscale.graph.factors import READOUT
from isoscale.graph.trace import trace
from isoscale.graph.unwrapping import unwrapped
from isoscale.parametrization import forwards, sizes
from isoscale.parametrization.forwards import Comparison
from isoscale.parametrization.plan import Plan
from isoscale.parametrization.sizes import Base
from isoscale.scaling import initial, rules
from isoscale.scaling.factors import Decay
from isoscale.scaling.optimizers import FAMILIES, family_of
from isoscale.scaling.roles import Role
from isoscale.scaling.rules import Rule
from isoscale.scaling.tensor import MuonAdjustment, Scaling, Settings, TensorFacts, decide


def parametrize(
    model: nn.Module,
    base: nn.Module | Mapping[str, Any],
    rule: str | Rule = "completep",
    optimizer: str | type = "adamw",
    *,
    lr: float | Mapping[str, float],
    weight_decay: float = 0.0,
    eps: float = 1e-8,
    decay: Decay = "independent",
    adjust_lr_fn: MuonAdjustment = "original",
    momentum: float | None = None,
    betas: tuple[float, float] | None = None,
    example_inputs: Any = None,
    roles: Roles | str | None = None,
    force: bool = False,
) -> Plan:
    """Give a model the init and the optimizer groups with which it trains like its tuned base.

    The model's forward and its `state_dict` stay as they are: its freshly drawn entries are rescaled in place, and
    `plan.param_groups()` goes to any optimizer. At the base's own shapes nothing changes. What the forward multiplies
    by already (embeddings x sqrt(width), logits / width, branches / depth) is read off it and counted in.

    Args:
        model: A freshly initialised model. On the meta device only the plan is made: `plan.apply(model)` later.
        base: The same architecture at the size that was tuned, freshly initialised; or `isoscale.shapes(base)`. A base
            on the meta device is enough to plan, but then the law of the model's own init is inferred.
        rule: A name of `isoscale.rules.names()`, or a Rule.
        optimizer: A class of torch.optim, or a family: "sgd", "adam", "adamw", "sign" (Lion), "muon".
        lr, weight_decay, eps: What the base was tuned with. For "muon", lr may be {"muon": ..., "adamw": ...}.
        decay: What stays constant across sizes: "independent" keeps lr x weight_decay, "coupled" weight_decay itself,
            "sqrt" lies half way between; "none" is no decay. Biases, gains and scalars never decay.
        adjust_lr_fn: Muon's argument of that name, handed on in its groups; "none" for an optimizer whose updates have
            spectral norm 1 whatever the shape (SOAP, Shampoo, a Muon of one's own).
        momentum, betas: What the base was tuned with, handed on in the groups; None leaves them to the optimizer.
        example_inputs: Arguments of `forward`: a tuple, or a mapping of keyword arguments. Only their shapes matter.
            Not needed if the model has a property `example_inputs` (isoscale's own have) or `roles`, or if `roles`
            covers every parameter.
        roles: Glob pattern -> Role, for what the trace cannot know; wins over the trace. Or the name of a family whose
            roles are known without a trace: "bert", "gpt2", "llama", "mixtral".
        force: Return a plan that has open items instead of raising.

    Returns:
        The plan, bound to the model.

    Raises:
        TraceError: The forward cannot be traced; the message names the operation.
        PlanError: Model and base differ in architecture, a parameter has no role, or an item is open (tied
            embeddings without a multiplier, a branch that no multiplier fits into).
        InvalidValueError, InvalidTypeError: An argument that makes no sense.

    Source: docs/theory.md, section 5 (TP5, TP6, CompleteP, Spectral).

    >>> import torch
    >>> from isoscale.models import ResidualMLP
    >>> base, model = ResidualMLP(8, 2, width=16, depth=2), ResidualMLP(8, 2, width=64, depth=8)
    >>> plan = parametrize(model, base, "completep", "adamw", lr=1e-3, example_inputs=(torch.zeros(1, 8),))
    >>> optimizer = torch.optim.AdamW(plan.param_groups())
    >>> float(plan.table().set_index("name").loc["blocks.0.maps.1.weight", "lr"])  # 1/4 for fan_in, 1/4 for the branch
    6.25e-05
    """
    _check_model(model)
    made = settings(
        optimizer, lr, weight_decay, eps, decay=decay, adjust_lr_fn=adjust_lr_fn, momentum=momentum, betas=betas
    )
    plan = make(read(model, base, example_inputs, roles), rules.get(rule), made, force=force)
    return plan.apply(model)


# --- the two steps ---
@dataclass(frozen=True, kw_only=True)
class Reading:
    """A model and its base, as far as a rule must know them.

    Attributes:
        anatomy: What the model's forward does with its parameters.
        base: The base's sizes and init.
        facts: One for each parameter, in the model's order.
        width, depth: Ratios target / base.
        forward: What the forwards of the two multiply by.
        init_law: What the model's own init is taken to follow where the base has no numbers.
        by_hand: Whether roles were given instead of traced.
    """

    anatomy: Anatomy
    base: Base
    facts: tuple[TensorFacts, ...]
    width: float
    depth: float
    forward: Comparison
    init_law: str
    by_hand: bool


def read(
    model: nn.Module, base: nn.Module | Mapping[str, Any] | Base, example_inputs: Any = None, roles: Any = None
) -> Reading:
    """What each tensor of a model is, and how far it is from the base; arguments and errors as for `parametrize`."""
    _check_model(model)
    model = unwrapped(model)
    anatomy = _anatomy(model, _inputs(model, example_inputs, roles), roles)
    known = _base(base, _inputs(base, example_inputs, roles), traced=anatomy.traced)
    parameters = dict(model.named_parameters())
    shapes = {name: tuple(parameter.shape) for name, parameter in parameters.items()}
    # Roles given by hand say what the trace cannot know of either model: then names alone decide.
    compared = known.roles if roles is None else None
    own_roles = {name: part.role for name, part in anatomy.parts.items()}
    pairs = sizes.counterparts(shapes, known.shapes, own_roles, compared)
    facts = tuple(_facts(name, anatomy, parameters[name], known, pairs[name]) for name in parameters)
    if compared is not None:
        _check_counterparts(facts, pairs, compared)
    forward = forwards.compare(anatomy, known, pairs, facts)
    facts = tuple(forward.completed(one) for one in facts)
    return Reading(
        anatomy=anatomy,
        base=known,
        facts=facts,
        width=_width(facts),
        depth=sizes.depth_ratio(anatomy, known, pairs),
        forward=forward,
        init_law=_init_law(facts, parameters),
        by_hand=not anatomy.traced and roles is not None,
    )


def make(reading: Reading, rule: Rule, settings: Settings, *, force: bool = False) -> Plan:
    """The plan of a rule for a model that was read; bound to no model.

    Raises:
        PlanError: An item is open, and the plan was not forced.
    """
    scaling = Scaling(
        rule=rule,
        width=reading.width,
        depth=reading.depth,
        head_size=reading.forward.head_size,
        init_law=reading.init_law,
    )
    open_items = tuple(_open_items(reading, scaling))
    if open_items and not force:
        raise PlanError(
            f"{len(open_items)} thing{'s' * (len(open_items) > 1)} to fix before this plan is right:\n  - "
            + "\n  - ".join(open_items)
        )
    return Plan(
        scaling=scaling,
        settings=settings,
        entries=tuple(decide(facts, scaling, settings) for facts in reading.facts),
        multipliers=_multipliers(reading, scaling),
        forward_multipliers=reading.forward.multipliers,
        open_items=open_items,
        notes=tuple(_notes(reading, rule)),
    )


# --- arguments ---
def _check_model(model: Any) -> None:
    if not isinstance(model, nn.Module):
        raise InvalidTypeError(f"`model` must be a torch.nn.Module, got {type(model).__name__}")
    parameters = dict(unwrapped(model).named_parameters())
    if not parameters:
        raise InvalidValueError(f"`model` ({type(model).__name__}) has no parameters")
    for name, parameter in parameters.items():
        if not parameter.is_floating_point():
            raise PlanError(f"`{name}` holds {parameter.dtype}: only floating-point parameters can be scaled")
        if parameter.numel() == 0:
            raise PlanError(
                f"`{name}` has shape {tuple(parameter.shape)}: a parameter without entries cannot be scaled"
            )


def settings(
    optimizer: str | type,
    lr: Any,
    weight_decay: float = 0.0,
    eps: float = 1e-8,
    *,
    decay: Any = "independent",
    adjust_lr_fn: Any = "original",
    momentum: float | None = None,
    betas: tuple[float, float] | None = None,
) -> Settings:
    """What the base was tuned with, checked; arguments and errors as for `parametrize`."""
    row = FAMILIES[family_of(optimizer)]
    main = beside = lr
    if isinstance(lr, Mapping):
        if not row.beside or set(lr) != {row.name, row.beside}:
            raise InvalidValueError(
                f"`lr` may be a mapping for Muon alone, with the keys 'muon' and 'adamw'; got {dict(lr)} for {row.name}"
            )
        main, beside = lr[row.name], lr[row.beside]
    if decay not in get_args(Decay):
        raise unknown("`decay`", decay, get_args(Decay))
    if adjust_lr_fn not in get_args(MuonAdjustment):
        raise unknown("`adjust_lr_fn`", adjust_lr_fn, get_args(MuonAdjustment))
    if momentum is not None and row.takes_betas:
        raise InvalidValueError(f"`momentum` is not an option of {row.name}; use `betas`")
    return Settings(
        optimizer=row.name,
        lr=number("lr", main, above=0),
        adamw_lr=number("lr", beside, above=0),
        weight_decay=number("weight_decay", weight_decay, least=0),
        eps=number("eps", eps, least=0),
        momentum=None if momentum is None else share("momentum", momentum),
        betas=None if betas is None else (share("betas", betas[0]), share("betas", betas[1])),
        decay=decay,
        adjust_lr_fn=adjust_lr_fn,
    )


def _inputs(model: Any, given: Any, roles: Any) -> Any:
    """Arguments of the forward: those given, or the model's own. Where roles are given, no trace is asked for."""
    if given is None and roles is None and isinstance(model, nn.Module):
        return getattr(unwrapped(model), "example_inputs", None)
    return given


def _anatomy(model: nn.Module, example_inputs: Any, roles: Roles | str | None) -> Anatomy:
    if isinstance(roles, str):
        return by_hand(model, roles)
    own = getattr(model, "roles", None)
    if example_inputs is None:
        if roles is None and not isinstance(own, Mapping):
            raise InvalidValueError(
                "`example_inputs` is needed to trace the model (a tuple of forward's arguments); "
                "without them give every parameter a role: `roles={'pattern.*': isoscale.Role.HIDDEN, ...}`"
            )
        return by_hand(model, {**(own if isinstance(own, Mapping) else {}), **(roles or {})})
    try:
        graph = trace(model, example_inputs)
    except TraceError as error:
        if not roles:
            raise
        try:
            return by_hand(model, roles)
        except PlanError as missing:
            raise TraceError(f"{error}. The roles given do not suffice: {missing}") from error
    return anatomies.from_graph(graph, dict(model.named_parameters()), roles)


def _base(base: Any, example_inputs: Any, *, traced: bool) -> Base:
    if isinstance(base, Base):
        return base
    if not isinstance(base, nn.Module):
        return sizes.read(base)
    try:
        return sizes.describe(unwrapped(base), example_inputs if traced else None)
    except TraceError as error:
        raise TraceError(f"`base`: {error}") from error


# --- one tensor ---
def _facts(name: str, anatomy: Anatomy, parameter: Tensor, base: Base, counterpart: str) -> TensorFacts:
    part, shape, base_shape = anatomy.parts[name], tuple(parameter.shape), base.shapes[counterpart]
    _check_computed(name, part)
    return TensorFacts(
        name=name,
        role=part.role,
        shape=shape,
        base_shape=base_shape,
        fan_in=sizes.ratio(part.fan_in, shape, base_shape),
        fan_out=sizes.ratio(_feature_axes(part, shape), shape, base_shape),
        fans=(*_fans(part, shape), *_fans(part, base_shape)),
        block=part.block,
        place=part.place,
        carries=part.carries,
        attention=part.attention,
        explicit=part.role is Role.OUTPUT and bool(anatomy.readout_multipliers),
        tied=part.tied,
        frozen=not parameter.requires_grad,
        base_rms=base.rms.get(counterpart),
    )


def _check_counterparts(
    facts: tuple[TensorFacts, ...], pairs: Mapping[str, str], base_roles: Mapping[str, Role]
) -> None:
    """A weight matrix and its counterpart must be of one kind: ratios between an input and a hidden layer mean nothing.

    A base that is too shallow has no hidden layer, and one of its ends answers in its place.
    """
    for one in facts:
        there = base_roles[pairs[one.name]]
        both_matrices = one.role.decays and there.decays
        if both_matrices and one.role.width_role is not there.width_role:
            raise PlanError(
                f"`{one.name}` is a layer of kind {one.role.width_role}, and what answers to it in the base, "
                f"`{pairs[one.name]}`, one of kind {there.width_role}: give a base with a layer of each kind (one "
                "block or hidden layer more), or say what the tensor is: `roles={...}`"
            )


def _fans(part: Part, shape: tuple[int, ...]) -> tuple[float, float]:
    return math.prod(shape[axis] for axis in part.fan_in), math.prod(shape[axis] for axis in part.fan_out)


def _feature_axes(part: Part, shape: tuple[int, ...]) -> tuple[int, ...]:
    """Of a map its outputs; of anything else the last axis that is more than one: positions are not features."""
    if part.fan_in or len(part.fan_out) <= 1:
        return part.fan_out
    return tuple(axis for axis in part.fan_out if shape[axis] > 1)[-1:]


def _check_computed(name: str, part: Part) -> None:
    if part.computed_by and part.role.decays and part.place != "given by hand":
        raise PlanError(
            f"`{name}` acts through {part.computed_by}: its effective weight is computed (weight norm, a "
            "parametrization) and does not scale as it does. Remove the parametrization, or give its role by hand"
        )


def _width(facts: tuple[TensorFacts, ...]) -> float:
    """The ratio by which most weight matrices grow; of the largest such ratio if two are equally common."""
    grown = [side for one in facts if one.role.decays for side in (one.fan_in, one.fan_out) if side != 1]
    counts = Counter(grown)
    return max(counts, key=lambda ratio: (counts[ratio], ratio), default=1.0)


def _init_law(facts: tuple[TensorFacts, ...], parameters: Mapping[str, Tensor]) -> str:
    """The law of the model's own init, for a base without numbers; branch-last maps are often drawn smaller."""
    kinds: tuple[list[tuple[float, float]], list[tuple[float, float]]] = ([], [])
    for entry in facts:
        size = sizes.rms(parameters[entry.name]) if entry.base_rms is None else None
        if size and entry.fans[0] > 1 and entry.role.decays and entry.role is not Role.OUTPUT:
            kinds[entry.role is Role.BRANCH_LAST].append((entry.fans[0], size))
    return initial.assumed_law(kinds)


# --- the whole ---
def _multipliers(reading: Reading, scaling: Scaling) -> dict[str, float]:
    """Factor of each Multiplier module of the model."""
    found: dict[str, float] = {}
    for name in reading.anatomy.branch_multipliers:
        found[name] = scaling.multiplier_of_branches(reading.forward.ratio(name))
    parameters = {facts.name for facts in reading.facts}
    for one in reading.forward.logits:
        for name in sorted(one.attention.foldable_into - parameters):
            found[name] = scaling.multiplier_of_logits(one.head_size, one.forward)
    return found | dict.fromkeys(reading.anatomy.readout_multipliers, _readout_multiplier(reading, scaling))


def _readout_multiplier(reading: Reading, scaling: Scaling) -> float:
    """What stands before a readout in the forward, beside what stands there already."""
    for facts in reading.facts:
        if facts.role is Role.OUTPUT:
            wanted = scaling.rule.factors(Role.OUTPUT, "sgd", width=facts.fan_in).multiplier
            return scaling.missing(wanted, facts.forward)
    for facts in reading.facts:
        if facts.tied:
            wanted = scaling.rule.factors(Role.OUTPUT, "sgd", width=facts.fan_out).multiplier
            # The embedding takes back what the forward multiplies it by, and with it the readout.
            ratio = reading.forward.ratio(facts.name + READOUT) / facts.forward
            return scaling.missing(wanted, ratio)
    return 1.0


def _open_items(reading: Reading, scaling: Scaling) -> Iterator[str]:
    anatomy = reading.anatomy
    multiplier = _readout_multiplier(reading, scaling)
    for entry in reading.facts:
        if entry.tied and multiplier != 1 and not anatomy.readout_multipliers:
            yield (
                f"`{entry.name}` is embedding and readout at once: the readout needs an explicit multiplier "
                f"{multiplier:g}. Put isoscale.Multiplier before it: `isoscale.Multiplier.before(model.lm_head)`, or "
                "untie the two"
            )
    for block, why in anatomy.stuck.items():
        place = anatomy.stuck_places[block]
        branch = scaling.multiplier_of_branches(reading.forward.ratio(place))
        if branch != 1:
            yield (
                f"a branch of `{block}` ends in {why}: its multiplier {branch:g} cannot be folded into a weight. "
                "Let the branch end in an isoscale.Multiplier()"
            )
    packed: dict[str, float] = {}
    for one in reading.forward.logits:
        multiplier = scaling.multiplier_of_logits(one.head_size, one.forward)
        if multiplier != 1:
            packed |= dict.fromkeys(sorted(one.attention.packed), multiplier)
    for facts in reading.facts:
        if facts.name in packed:
            yield (
                f"`{facts.name}` holds queries and keys in one: the logits' multiplier {packed[facts.name]:g} "
                "(the heads' size changed) cannot be folded. Keep the head size and scale the number of heads, or put "
                "an isoscale.Multiplier on the queries"
            )


def _notes(reading: Reading, rule: Rule) -> Iterator[str]:
    if reading.by_hand:
        yield (
            "roles were given by hand: attention heads are taken to keep their size, and the forward to multiply by "
            "nothing that depends on the size"
        )
    if reading.anatomy.attentions and not reading.base.head_sizes:
        yield (
            "the base's head size is unknown: taken to be the target's. "
            "Give the base as a module, or isoscale.shapes(base, example_inputs)"
        )
    yield from reading.forward.notes
    yield from _notes_on_branches(reading, rule)
    if any(facts.base_rms is None for facts in reading.facts):
        yield f"the base has no numbers: the model's own init is taken to follow {reading.init_law}"
    if frozen := sum(facts.frozen for facts in reading.facts):
        yield f"{frozen} frozen tensor{'s' * (frozen > 1)} left as they are"


def _notes_on_branches(reading: Reading, rule: Rule) -> Iterator[str]:
    """What branches have in their forward, and blocks that run several times."""
    in_branches = [facts for facts in reading.facts if facts.role.in_branch]
    multiplied = [facts for facts in in_branches if facts.carries and facts.forward != 1]
    if multiplied and reading.depth != 1 and not rule.counts_branches and rule.counts_forward:
        first = multiplied[0]
        yield (
            f"the forward multiplies branches by x{first.forward:g} (`{first.name}`): left as it is, {rule.name} says "
            "nothing of the depth"
        )
    shared = [facts for facts in reading.facts if facts.uses != 1]
    if shared:
        yield (
            f"`{shared[0].name}` acts x{shared[0].uses:g} as often as in the base, and its gradient is the sum over "
            "its uses: learning rates of SGD and eps of Adam follow"
        )
    if any(facts.role.in_branch for facts in shared) and rule.depth.branch > -1:
        yield (
            f"one block that runs several times adds up in phase: under {rule.name} the stream grows with the depth, "
            "under completep it does not"
        )
