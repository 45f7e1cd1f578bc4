"""`parametrize`: from a model, its base and a rule to a plan, applied.

Two steps. `read` looks at the model and its base: what each tensor is and how far its sizes are from its counterpart's.
`make` asks a rule what that means. A sweep reads a size once and makes a plan for each of its rules.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, get_args

from torch import Tensor, nn

from isoscale.checks import number, share
from isoscale.errors import InvalidTypeError, InvalidValueError, PlanError, TraceError, unknown
from isoscale.graph import anatomy as anatomies
from isoscale.graph.anatomy import BILINEAR, GIVEN, UNUSED, Anatomy, Part, Roles
from isoscale.graph.by_hand import by_hand
from isoscale.graph.factors import READOUT
from isoscale.graph.ops import operation
from isoscale.graph.products import grown
from isoscale.graph.trace import trace
from isoscale.graph.unwrapping import check_initialised, named_parameters, unwrapped
from isoscale.parametrization import depth_reading, forwards, sizes
from isoscale.parametrization.forwards import Comparison
from isoscale.parametrization.plan import Plan
from isoscale.parametrization.sizes import Base, Shape
from isoscale.scaling import budget as budgets
from isoscale.scaling import initial, rules
from isoscale.scaling.budget import NO_BUDGET, Budget, BudgetRule
from isoscale.scaling.factors import Decay
from isoscale.scaling.names import starred
from isoscale.scaling.optimizers import FAMILIES, family_of
from isoscale.scaling.roles import Role
from isoscale.scaling.rules import DepthRow, Rule
from isoscale.scaling.tensor import MuonAdjustment, Scaling, Settings, TensorFacts, TensorPlan, decide

# Up to this ratio of depths what the norms of post-norm networks add up to is small beside what weight matrices do.
_DEEP = 4.0

# What torch calls the direction and the gain of a weight norm, by its parametrization and by its older function; and
# what the direction enters.
_GAINS = {".original1": ".original0", "weight_v": "weight_g"}
_OF_WEIGHT_NORM = ("weight_norm", "_weight_norm_interface", "mul")


def parametrize(
    model: nn.Module,
    base: nn.Module | Mapping[str, Any] | Reading,
    rule: str | Rule = "completep",
    optimizer: str | Callable[..., Any] = "adamw",
    *,
    lr: float | Mapping[str, float],
    weight_decay: float = 0.0,
    eps: float = 1e-8,
    decay: Decay = "independent",
    adjust_lr_fn: MuonAdjustment = "original",
    momentum: float | None = None,
    betas: tuple[float, float] | None = None,
    budget: str | BudgetRule = "none",
    batch: float = 1.0,
    tokens: float = 1.0,
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
            on the meta device is enough to plan, but then the law of the model's own init is inferred. Or what `read`
            makes of such a model and its base, where many plans are made for one: then nothing is traced.
        rule: A name of `isoscale.rules.names()`, or a Rule.
        optimizer: A class of torch.optim, or a family: "sgd", "adam", "adamw", "sign" (Lion), "muon". A class that
            decays as its arguments say is of the family that they make it: NAdam(..., decoupled_weight_decay=True) of
            "adamw"; name that, or give functools.partial(NAdam, decoupled_weight_decay=True).
        lr, weight_decay, eps: What the base was tuned with. For "muon", lr may be {"muon": ..., "adamw": ...}.
        decay: What stays constant across sizes: "independent" keeps lr x weight_decay, "coupled" weight_decay itself,
            "sqrt" lies half way between; "none" is no decay. Biases, gains and scalars never decay.
        adjust_lr_fn: Muon's argument of that name, handed on in its groups; "none" for an optimizer whose updates have
            spectral norm 1 whatever the shape (SOAP, Shampoo, a Muon of one's own).
        momentum, betas: What the base was tuned with, handed on in the groups; None leaves them to the optimizer.
        budget: How learning rate, decay, eps and betas follow batch and duration: a name of
            `isoscale.rules.budget_names()`, or a BudgetRule. "none" leaves them as they are.
        batch, tokens: Target / base: samples in a step, and samples (tokens) seen in all. They need a budget.
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
    spent = spending(budget, batch, tokens, made)
    reading = base if isinstance(base, Reading) else read(model, base, example_inputs, roles)
    return make(reading, rules.get(rule), made, spent, force=force).apply(model)


# --- the two steps ---
@dataclass(frozen=True, kw_only=True)
class Reading:
    """A model and its base, as far as a rule must know them.

    Attributes:
        anatomy: What the model's forward does with its parameters.
        base: The base's sizes and init.
        facts: One for each parameter, in the model's order.
        also: By name, what else a parameter would be by another of its uses.
        width, depth: Ratios target / base.
        forward: What the forwards of the two multiply by.
        init_law: What the model's own init is taken to follow where the base has no numbers.
        by_hand: Whether roles were given instead of traced.
        doubts: Why the depth's ratio may be another.
    """

    anatomy: Anatomy
    base: Base
    facts: tuple[TensorFacts, ...]
    also: Mapping[str, tuple[TensorFacts, ...]]
    width: float
    depth: float
    forward: Comparison
    init_law: str
    by_hand: bool
    doubts: tuple[str, ...] = ()


def read(
    model: nn.Module, base: nn.Module | Mapping[str, Any] | Base, example_inputs: Any = None, roles: Any = None
) -> Reading:
    """What each tensor of a model is, and how far it is from the base; arguments and errors as for `parametrize`."""
    _check_model(model)
    model = unwrapped(model)
    anatomy = _anatomy(model, _inputs(model, example_inputs, roles), roles)
    known = _base(base, _inputs(base, example_inputs, roles), traced=anatomy.traced)
    parameters = named_parameters(model)
    shapes = {name: tuple(parameter.shape) for name, parameter in parameters.items()}
    # Roles given by hand say what the trace cannot know of either model: then names alone decide.
    compared = known.roles if roles is None else None
    own_roles = {name: part.role for name, part in anatomy.parts.items()}
    pairs = sizes.counterparts(shapes, known.shapes, own_roles, compared)
    facts: list[TensorFacts] = []
    also: dict[str, tuple[TensorFacts, ...]] = {}
    width = _width(anatomy.parts, shapes, known, pairs)
    for name, parameter in parameters.items():
        part = anatomy.parts[name]
        facts.append(_facts(name, part, parameter, known, pairs[name], width))
        if part.also:
            also[name] = tuple(_facts(name, other, parameter, known, pairs[name], width) for other in part.also)
    if compared is not None:
        _check_counterparts(facts, pairs, compared)
    _check_products(anatomy, known)
    forward = forwards.compare(anatomy, known, pairs, facts)
    facts = [forward.completed(one) for one in facts]
    also = {name: tuple(forward.completed(one) for one in others) for name, others in also.items()}
    return Reading(
        anatomy=anatomy,
        base=known,
        facts=tuple(facts),
        also=also,
        width=width,
        depth=sizes.depth_ratio(anatomy, known, pairs),
        forward=forward,
        init_law=_init_law(facts, parameters),
        by_hand=not anatomy.traced and roles is not None,
        doubts=tuple(depth_reading.doubts(anatomy, known, pairs)) if compared is not None else (),
    )


def make(reading: Reading, rule: Rule, settings: Settings, budget: Budget = NO_BUDGET, *, force: bool = False) -> Plan:
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
        budget=budget,
    )
    open_items = tuple(_open_items(reading, scaling))
    if rule.depth != DepthRow():
        open_items += reading.doubts
    if open_items and not force:
        raise PlanError(
            f"{len(open_items)} thing{'s' * (len(open_items) > 1)} to fix before this plan is right:\n  - "
            + "\n  - ".join(open_items)
        )
    entries: list[TensorPlan] = []
    for facts in reading.facts:
        entry = decide(facts, scaling, settings)
        for other in reading.also.get(facts.name, ()):
            entry = _of_both_uses(entry, decide(other, scaling, settings))
        entries.append(entry)
    return Plan(
        scaling=scaling,
        settings=settings,
        entries=tuple(entries),
        multipliers=_multipliers(reading, scaling),
        forward_multipliers=reading.forward.multipliers,
        open_items=open_items,
        notes=(*_notes(reading, rule), *_budget_notes(scaling, settings)),
    )


# --- arguments ---
def _check_model(model: Any) -> None:
    if not isinstance(model, nn.Module):
        raise InvalidTypeError(f"`model` must be a torch.nn.Module, got {type(model).__name__}")
    check_initialised(model)
    parameters = named_parameters(model)
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
    optimizer: str | Callable[..., Any],
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


def spending(rule: str | BudgetRule, batch: float, tokens: float, settings: Settings) -> Budget:
    """How far batch and duration are from the base's, checked; arguments and errors as for `parametrize`."""
    budget = Budget(
        rule=budgets.budget(rule), batch=number("batch", batch, above=0), tokens=number("tokens", tokens, above=0)
    )
    if budget.rule.name == "none" and budget != NO_BUDGET:
        named = [name for name in budgets.budget_names(settings.optimizer) if name != "none"]
        raise InvalidValueError(
            f"`batch` ({batch:g}) and `tokens` ({tokens:g}) need a rule that says what follows from them: `budget=`, "
            f"one of {', '.join(named)}"
        )
    check_budget(budget, settings)
    return budget


def check_budget(budget: Budget, settings: Settings) -> None:
    """Raise InvalidValueError for a budget that is not stated for these settings."""
    decay = budget.factors(settings.optimizer).weight_decay
    if settings.optimizer == "adam" and settings.weight_decay and decay != 1:
        raise InvalidValueError(
            f"the budget {budget.rule.name!r} follows a decoupled weight decay, and that of 'adam' is part of the "
            "gradient: use optimizer='adamw', or weight_decay=0"
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
    return anatomies.from_graph(graph, named_parameters(model), roles)


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
def _facts(name: str, part: Part, parameter: Tensor, base: Base, counterpart: str, width: float) -> TensorFacts:
    shape, base_shape = tuple(parameter.shape), base.shapes[counterpart]
    fan_in = sizes.ratio(part.fan_in, shape, base_shape)
    fan_out = sizes.ratio(_feature_axes(part, shape, base_shape, width), shape, base_shape)
    _check_computed(name, part, fan_in, fan_out)
    _check_sides(name, part, shape, base_shape, (fan_in, fan_out))
    return TensorFacts(
        name=name,
        role=_role(part, fan_out),
        shape=shape,
        base_shape=base_shape,
        fan_in=fan_in,
        fan_out=fan_out,
        fans=(*_fans(part, shape), *_fans(part, base_shape)),
        block=part.block,
        place=part.place,
        carries=part.carries,
        attention=part.attention,
        explicit=part.explicit,
        tied=part.tied,
        given=part.place == GIVEN,
        frozen=not parameter.requires_grad,
        unused=part.unused,
        offset=part.offset,
        base_rms=_of_sum(base.rms.get(counterpart), part.offset),
    )


def _role(part: Part, size: float) -> Role:
    """A readout's bias is as long as the readout has outputs: where these grow, as of embeddings, it is a vector."""
    grows = part.role is Role.SCALAR and size != 1
    return Role.VECTOR if grows and not part.unused and part.place != GIVEN else part.role


def _of_sum(rms: float | None, offset: float) -> float | None:
    """Root mean square of a parameter and a number that is added to it, the parameter's mean being zero."""
    return None if rms is None else math.hypot(rms, offset)


def _of_both_uses(entry: TensorPlan, other: TensorPlan) -> TensorPlan:
    """A tensor that serves twice is fine where both uses ask for the same numbers.

    Its gradient is the sum of both, of the size of the larger, which eps follows.
    """
    for what in ("optimizer", "init", "lr", "weight_decay", "multiplier"):
        this, that = getattr(entry, what), getattr(other, what)
        are_close = isinstance(this, float) and isinstance(that, float) and math.isclose(this, that, rel_tol=1e-9)
        if this != that and not are_close:
            as_what = [f"{one.role} (fan_in x{one.fan_in:g}, fan_out x{one.fan_out:g})" for one in (entry, other)]
            raise PlanError(
                f"`{entry.name}` serves as {as_what[0]} and as {as_what[1]}: one tensor cannot have two settings, and "
                f"its {what} would be {this} and {that}. Untie it, or choose: "
                f"`roles={{{entry.name!r}: isoscale.Role.{entry.role.name}}}`"
            )
    if entry.eps is None or other.eps is None:
        return entry
    return replace(entry, eps=max(entry.eps, other.eps))


def _check_counterparts(facts: Iterable[TensorFacts], pairs: Mapping[str, str], base_roles: Mapping[str, Role]) -> None:
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


def _check_products(anatomy: Anatomy, base: Base) -> None:
    """A sum of products of two activations must not grow, unless the user says what made them."""
    for product, size in grown(anatomy.products, base.products or ()):
        if any(anatomy.parts[name].place == GIVEN for name in product.makers):
            continue
        if product.by_gradient:
            raise PlanError(
                f"the forward differentiates itself (torch.autograd.grad) and computes with weights that its own "
                f"gradient changed, as the inner steps of meta-learning do (`{product.makers[0]}`): such a forward has "
                "no plan. Make it of the network that takes the steps, `parametrize(model.net, base.net, ...)`, whose "
                "parameters are the same; the inner learning rate is yours to scale, as an SGD rate of that plan"
            )
        made = " and ".join(f"`{name}`" for name in product.makers[:3])
        raise PlanError(
            f"what {made} made is multiplied with other activations, and the forward sums {product.size} such products "
            f"(in the base {size}), as in a bilinear form or where a network makes the weights of another. No role "
            f"makes up for that: divide the sum by {product.size} / {size} in the forward. If something else keeps it "
            f"from growing, say so by a role: `roles={{{product.makers[0]!r}: "
            f"isoscale.Role.{anatomy.parts[product.makers[0]].role.name}}}`"
        )


def _fans(part: Part, shape: tuple[int, ...]) -> tuple[float, float]:
    return math.prod(shape[axis] for axis in part.fan_in), math.prod(shape[axis] for axis in part.fan_out)


def _feature_axes(part: Part, shape: Shape, base_shape: Shape, width: float) -> tuple[int, ...]:
    """The axes of the features: of a map its outputs, of anything else the axis that grows with the width.

    Rows of a table, as of positions, are not features. Where several axes grow, the last that grows like the width
    is taken, or all of them if together they do: (heads, head size).
    """
    if part.fan_in:
        return _outputs(part, shape, base_shape)
    growing = tuple(axis for axis in part.fan_out if shape[axis] != base_shape[axis])
    alike = [axis for axis in growing if sizes.ratio((axis,), shape, base_shape) == width]
    if alike:
        return (alike[-1],)
    return growing if sizes.ratio(growing, shape, base_shape) == width else growing[-1:]


def _outputs(part: Part, shape: Shape, base_shape: Shape) -> tuple[int, ...]:
    """A map's outputs. Of matrices side by side, as many as there are heads, those of all of them."""
    beside = tuple(axis for axis in range(len(shape)) if axis not in (*part.fan_in, *part.fan_out))
    each = sizes.ratio((*part.fan_in, *part.fan_out), shape, base_shape)
    if each == 1 and sizes.ratio(beside, shape, base_shape) != 1:
        return (*part.fan_out, *beside)
    return part.fan_out


def _check_computed(name: str, part: Part, fan_in: float, fan_out: float) -> None:
    if not part.computed_by or not part.role.decays:
        return
    # Of a weight that is normalised before it acts, only its steps relative to its size count: as a hidden or input
    # map's they are right. What an output map's multiplier would have to scale is the norm's gain.
    is_norm = operation(part.computed_by).is_norm
    # Of a transposed convolution the first axis holds the inputs.
    by_outputs = part.computed_by != "weight_norm" or 0 in part.fan_out
    if is_norm and by_outputs and part.fan_in and fan_in <= max(fan_out, 1.0):
        return
    for direction, gain in _GAINS.items():
        if not name.endswith(direction) or part.computed_by not in _OF_WEIGHT_NORM:
            continue
        # A role would scale the direction, which the norm divides out again; but by inputs the norm of a direction of
        # n x n entries, n^(1/2) times theirs, makes the effective weight as small as a hidden layer's should be.
        by_inputs = {name: "hidden", name.removesuffix(direction) + gain: "vector"}
        raise PlanError(
            f"`{name}` is the direction of a weight norm, and its effective weight is computed: of a readout, or by "
            "another norm than that of each output (dim=0), the gain would have to follow the width, which no role "
            "says. Take dim=0 where the layer is no readout, or remove the weight norm: "
            '`torch.nn.utils.parametrize.remove_parametrizations(module, "weight")`. Only of a hidden linear layer '
            f"normed by each input (dim=1), both of whose sides grow alike, are roles right: `roles={by_inputs}`"
        )
    # All blocks at once.
    raise PlanError(
        f"`{name}` acts through {part.computed_by}: its effective weight is computed (a parametrization, a product of "
        "weights) and does not scale as it does. Remove the parametrization; or, if the effective weight keeps the "
        f"size of a layer of its kind, as under spectral norm where both sides grow alike, say what the tensor is: "
        f"`roles={{{starred(name)!r}: isoscale.Role.{part.role.name}}}`"
    )


def _check_sides(name: str, part: Part, shape: Shape, base_shape: Shape, ratios: tuple[float, float]) -> None:
    """Where the ratios of the sides are not those of fan_in and fan_out."""
    fan_in, fan_out = ratios
    by_hand = f"say what the tensor is: `roles={{{name!r}: isoscale.Role.{part.role.name}}}`"
    if part.in_groups and fan_in != fan_out:
        raise PlanError(
            f"`{name}` {shape} is a transposed convolution in groups, and its shape in the base, {base_shape}, does "
            f"not say how many groups that one has. Keep the number of groups and scale both sides alike, or {by_hand}"
        )
    if part.place == BILINEAR and fan_in != 1 and fan_out != 1:
        raise PlanError(
            f"`{name}` {shape} is a bilinear form whose outputs grow as well (in the base {base_shape}), for which "
            f"there is no rule. Keep its number of outputs, or {by_hand}"
        )


def _width(parts: Mapping[str, Part], shapes: Mapping[str, Shape], base: Base, pairs: Mapping[str, str]) -> float:
    """The ratio by which most weight matrices grow; of the largest such ratio if two are equally common."""
    counts: Counter[float] = Counter()
    for name, part in parts.items():
        if not part.role.decays:
            continue
        # Of a table the last axis that grows.
        shape, base_shape = shapes[name], base.shapes[pairs[name]]
        sides = [part.fan_in, part.fan_out]
        if not part.fan_in:
            sides = [tuple(axis for axis in part.fan_out if shape[axis] != base_shape[axis])[-1:]]
        counts.update(ratio for side in sides if (ratio := sizes.ratio(side, shape, base_shape)) != 1)
    return max(counts, key=lambda ratio: (counts[ratio], ratio), default=1.0)


def _init_law(facts: Sequence[TensorFacts], parameters: Mapping[str, Tensor]) -> str:
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
                "Let the branch end in an isoscale.Multiplier(), or put one behind the module that ends it: "
                "`isoscale.Multiplier.after(module)`"
            )
    yield from _on_stream(reading, scaling)
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
                "an isoscale.Multiplier on the queries (`isoscale.Multiplier.after(module)`, where a module makes them)"
            )


def _on_stream(reading: Reading, scaling: Scaling) -> Iterator[str]:
    """The gains and biases of a much deeper post-norm network, which the published rules leave as they are."""
    names = set(reading.anatomy.on_stream)
    facts = [one for one in reading.facts if one.name in names and not one.frozen]
    if not facts or scaling.rule.depth.stream == 0 or scaling.depth <= _DEEP:
        return
    kinds = dict.fromkeys(starred(one.name) for one in facts)
    said = ", ".join(f"{kind!r}: 'stream_vector'" for kind in kinds)
    yield (
        f"post-norm at depth x{scaling.depth:g}: the gains and biases of its norms act on the stream, as many as its "
        "blocks, and what one step of all of them changes grows like L^0.96 (measured at depths 4 to 64) where "
        f"{scaling.rule.name} keeps it; no published rule slows them down. This does: `roles={{{said}}}` lets their "
        "learning rate fall like 1/L; 'vector' in its place leaves them as they are; or prefer pre-norm "
        "(docs/choose-a-rule.md)"
    )


def _notes(reading: Reading, rule: Rule) -> Iterator[str]:
    if reading.anatomy.traced and not reading.anatomy.blocks and reading.depth != 1:
        yield (
            f"the forward has no residual branch: depth x{reading.depth:g} is that of its layers one after the other, "
            "which no rule makes train alike"
        )
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
    unused = [facts.name for facts in reading.facts if facts.place == UNUSED]
    if unused:
        yield (
            f"not used by the forward on the example inputs, so left as they are: {', '.join(unused)}. If training "
            "uses them, give example inputs that do, or say what they are: `roles={...}`"
        )
    if frozen := [facts for facts in reading.facts if facts.frozen]:
        note = (
            f"{len(frozen)} frozen tensor{'s' * (len(frozen) > 1)} in no group; freshly drawn ones are rescaled, and "
            "carry their multipliers, as the others do"
        )
        if any(facts.base_rms is None for facts in frozen):
            note += "; without the base's numbers all are taken to be fresh: load trained ones once it is applied"
        yield note


def _budget_notes(scaling: Scaling, settings: Settings) -> Iterator[str]:
    """Which betas were assumed, and which cannot follow the budget."""
    factors = scaling.budget_factors(settings)
    takes_betas = FAMILIES[FAMILIES[settings.optimizer].beside or settings.optimizer].takes_betas
    if factors.keeps_betas or not takes_betas:
        return
    if settings.betas is None:
        yield f"the budget changes the betas: the base's are taken to be torch's, {settings.base_betas}. Else: `betas=`"
    for cap in factors.capped(settings.base_betas):
        yield f"{scaling.budget.rule.name}: {cap}"


def _notes_on_frozen_branches(in_branches: Sequence[TensorFacts], depth: float, rule: Rule) -> Iterator[str]:
    """A frozen backbone is part of the depth; whether it should be, depends on what else grows."""
    trained = {facts.block for facts in in_branches if not facts.frozen}
    frozen = {facts.block for facts in in_branches} - trained
    if not frozen or not trained or depth == 1 or rule.depth == DepthRow():
        return
    yield (
        f"the depth x{depth:g} counts the branches of {len(frozen)} frozen blocks with those of {len(trained)} trained "
        "ones: right for a freshly drawn backbone that grows as they do. One that is pretrained keeps its branches as "
        "they are, and one that grows alone makes the trained ones too slow: then plan the trained part by itself, "
        "`parametrize(model.part, base.part, ...)`"
    )


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
    yield from _notes_on_frozen_branches(in_branches, reading.depth, rule)
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
