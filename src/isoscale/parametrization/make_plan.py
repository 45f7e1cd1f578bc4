"""`parametrize`: from a model, its base and a rule to a plan, applied."""

from __future__ import annotations

import math
import numbers
from collections.abc import Iterator, Mapping
from typing import Any, get_args

from torch import Tensor, nn

from isoscale import rules
from isoscale.errors import InvalidTypeError, InvalidValueError, PlanError, TraceError, unknown
from isoscale.parametrization import anatomy as anatomies
from isoscale.parametrization import initial, sizes
from isoscale.parametrization.anatomy import Anatomy, Part, Roles
from isoscale.parametrization.binding import unwrapped
from isoscale.parametrization.by_hand import by_hand
from isoscale.parametrization.entry import Decay, Entry, MuonAdjustment, Scaling, Settings
from isoscale.parametrization.families import family_of
from isoscale.parametrization.plan import Plan
from isoscale.parametrization.sizes import Base
from isoscale.parametrization.trace import trace
from isoscale.rules import Role, Rule


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
    example_inputs: Any = None,
    roles: Roles | str | None = None,
    force: bool = False,
) -> Plan:
    """Give a model the init and the optimizer groups with which it trains like its tuned base.

    The model's forward and its `state_dict` stay as they are: its freshly drawn entries are rescaled in place, and
    `plan.param_groups()` goes to any optimizer. At the base's own shapes nothing changes.

    Args:
        model: A freshly initialised model. On the meta device only the plan is made: `plan.apply(model)` later.
        base: The same architecture at the size that was tuned, freshly initialised; or `isoscale.shapes(base)`. A base
            on the meta device is enough to plan, but then the law of the model's own init is inferred.
        rule: A name of `isoscale.rules.names()`, or a Rule.
        optimizer: A class of torch.optim, or a family: "sgd", "adam", "adamw", "sign" (Lion), "muon".
        lr, weight_decay, eps: What the base was tuned with. For "muon", lr may be {"muon": ..., "adamw": ...}.
        decay: What stays constant across sizes: "independent" keeps lr x weight_decay, "coupled" weight_decay itself;
            "none" is no decay. Biases, gains and scalars never decay.
        adjust_lr_fn: Muon's argument of that name, handed on in its groups.
        example_inputs: Arguments of `forward`: a tuple, or a mapping of keyword arguments. Only their shapes matter.
            Not needed if the model has a property `roles`, or if `roles` covers every parameter.
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

    Source: THEORY.md section 5 (TP5, TP6, CompleteP, Spectral).

    >>> import torch
    >>> from isoscale.models import ResidualMLP
    >>> base, model = ResidualMLP(8, 2, width=16, depth=2), ResidualMLP(8, 2, width=64, depth=8)
    >>> plan = parametrize(model, base, "completep", "adamw", lr=1e-3, example_inputs=(torch.zeros(1, 8),))
    >>> optimizer = torch.optim.AdamW(plan.param_groups())
    >>> float(plan.table().set_index("name").loc["blocks.0.maps.1.weight", "lr"])  # 1/4 for fan_in, 1/4 for the branch
    6.25e-05
    """
    _check_model(model)
    model_ = unwrapped(model)
    settings = _settings(optimizer, lr, weight_decay, eps, decay, adjust_lr_fn)
    anatomy = _anatomy(model_, example_inputs, roles)
    known = _base(base, example_inputs, traced=anatomy.traced)
    parameters = dict(model_.named_parameters())
    pairs = sizes.counterparts({name: tuple(p.shape) for name, p in parameters.items()}, known.shapes)
    head = sizes.head_ratio(anatomy, known)
    entries = tuple(_entry(name, anatomy, parameters[name], known, pairs[name]) for name in parameters)
    scaling = Scaling(
        rule=rules.get(rule),
        depth=sizes.depth_ratio(anatomy, known, pairs),
        head_size=1.0 if head is None else head,
        init_law=_init_law(entries, parameters),
    )
    open_items = tuple(_open_items(anatomy, entries, scaling))
    if open_items and not force:
        raise PlanError(
            f"{len(open_items)} thing{'s' * (len(open_items) > 1)} to fix before this plan is right:\n  - "
            + "\n  - ".join(open_items)
        )
    plan = Plan(
        scaling=scaling,
        settings=settings,
        entries=entries,
        multipliers=_multipliers(anatomy, entries, scaling),
        open_items=open_items,
        notes=tuple(_notes(known, anatomy.traced or roles is None, head, entries, scaling)),
    )
    return plan.apply(model)


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


def _settings(
    optimizer: str | type, lr: Any, weight_decay: float, eps: float, decay: Any, adjust_lr_fn: Any
) -> Settings:
    family = family_of(optimizer)
    if isinstance(lr, Mapping):
        if family != "muon" or set(lr) != {"muon", "adamw"}:
            raise InvalidValueError(
                f"`lr` may be a mapping for Muon alone, with the keys 'muon' and 'adamw'; got {dict(lr)} for {family}"
            )
        main, beside = lr["muon"], lr["adamw"]
    else:
        main = beside = lr
    if decay not in get_args(Decay):
        raise unknown("`decay`", decay, get_args(Decay))
    if adjust_lr_fn not in get_args(MuonAdjustment):
        raise unknown("`adjust_lr_fn`", adjust_lr_fn, get_args(MuonAdjustment))
    return Settings(
        optimizer=family,
        lr=_number("lr", main, above=True),
        adamw_lr=_number("lr", beside, above=True),
        weight_decay=_number("weight_decay", weight_decay),
        eps=_number("eps", eps),
        decay=decay,
        adjust_lr_fn=adjust_lr_fn,
    )


def _number(name: str, value: Any, *, above: bool = False) -> float:
    if isinstance(value, bool) or not isinstance(value, numbers.Real):
        raise InvalidTypeError(f"`{name}` must be a number, got {value!r}")
    if not math.isfinite(value) or value < 0 or (above and value == 0):
        raise InvalidValueError(f"`{name}` must be {'> 0' if above else '>= 0'} and finite, got {value}")
    return float(value)


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
    if not isinstance(base, nn.Module):
        return sizes.read(base)
    try:
        return sizes.describe(unwrapped(base), example_inputs if traced else None)
    except TraceError as error:
        raise TraceError(f"`base`: {error}") from error


# --- one tensor ---
def _entry(name: str, anatomy: Anatomy, parameter: Tensor, base: Base, counterpart: str) -> Entry:
    part, shape, base_shape = anatomy.parts[name], tuple(parameter.shape), base.shapes[counterpart]
    _check_computed(name, part)
    return Entry(
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


def _init_law(entries: tuple[Entry, ...], parameters: Mapping[str, Tensor]) -> str:
    """The law of the model's own init, for a base without numbers; branch-last maps are often drawn smaller."""
    kinds: tuple[list[tuple[float, float]], list[tuple[float, float]]] = ([], [])
    for entry in entries:
        size = sizes.rms(parameters[entry.name]) if entry.base_rms is None else None
        if size and entry.fans[0] > 1 and entry.role.decays and entry.role is not Role.OUTPUT:
            kinds[entry.role is Role.BRANCH_LAST].append((entry.fans[0], size))
    return initial.assumed_law(kinds)


# --- the whole ---
def _multipliers(anatomy: Anatomy, entries: tuple[Entry, ...], scaling: Scaling) -> dict[str, float]:
    readout = _readout_multiplier(entries, scaling)
    return (
        dict.fromkeys(anatomy.branch_multipliers, scaling.multiplier_of_branches())
        | dict.fromkeys(anatomy.logit_multipliers, scaling.multiplier_of_logits())
        | dict.fromkeys(anatomy.readout_multipliers, readout)
    )


def _readout_multiplier(entries: tuple[Entry, ...], scaling: Scaling) -> float:
    """What stands before a readout in the forward."""
    ratios = [entry.fan_in for entry in entries if entry.role is Role.OUTPUT]
    ratios += [entry.fan_out for entry in entries if entry.tied]
    width = ratios[0] if ratios else 1.0
    return scaling.rule.factors(Role.OUTPUT, "sgd", width=width).multiplier


def _open_items(anatomy: Anatomy, entries: tuple[Entry, ...], scaling: Scaling) -> Iterator[str]:
    multiplier = _readout_multiplier(entries, scaling)
    for entry in entries:
        if entry.tied and multiplier != 1 and not anatomy.readout_multipliers:
            yield (
                f"`{entry.name}` is embedding and readout at once: the readout needs an explicit multiplier "
                f"{multiplier:g}. Put isoscale.Multiplier before it: `isoscale.Multiplier.before(model.lm_head)`, or "
                "untie the two"
            )
    if (branch := scaling.multiplier_of_branches()) != 1:
        for block, why in anatomy.stuck.items():
            yield (
                f"a branch of `{block}` ends in {why}: its multiplier {branch:g} cannot be folded into a weight. "
                "Let the branch end in an isoscale.Multiplier()"
            )
    if scaling.multiplier_of_logits() != 1:
        for name in anatomy.packed:
            yield (
                f"`{name}` holds queries and keys in one: the logits' multiplier {scaling.multiplier_of_logits():g} "
                "(the heads' size changed) cannot be folded. Keep the head size and scale the number of heads, or put "
                "an isoscale.Multiplier on the queries"
            )


def _notes(base: Base, traced: bool, head: float | None, entries: tuple[Entry, ...], scaling: Scaling) -> Iterator[str]:
    if not traced:
        yield "roles were given by hand: attention heads are taken to keep their size"
    if head is None:
        yield (
            "the base's head size is unknown: taken to be the target's. "
            "Give the base as a module, or isoscale.shapes(base, example_inputs)"
        )
    if any(entry.base_rms is None for entry in entries):
        yield f"the base has no numbers: the model's own init is taken to follow {scaling.init_law}"
    if frozen := sum(entry.frozen for entry in entries):
        yield f"{frozen} frozen tensor{'s' * (frozen > 1)} left as they are"
