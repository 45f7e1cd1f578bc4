"""`isoscale.parametrize`: a plan from a rule, and on request one that was checked by measurement."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial
from typing import Any

import torch
from torch import nn

from isoscale.errors import InvalidTypeError, InvalidValueError, PlanError
from isoscale.graph.unwrapping import unwrapped
from isoscale.measure.exponents import UNCHANGED, MeasuredRule, Powers, matched, powers_along, with_factors
from isoscale.measure.tools.by_kind import arguments
from isoscale.measure.tools.deviations import Cell, Thresholds, kinds_of
from isoscale.measure.tools.passes import LossFn
from isoscale.measure.verify import Verified, judged
from isoscale.parametrization import Plan
from isoscale.parametrization import parametrize as planned
from isoscale.parametrization.make_plan import make, read, settings
from isoscale.parametrization.sizes import describe
from isoscale.scaling.budget import NO_BUDGET
from isoscale.scaling.rules import Rule
from isoscale.scaling.tensor import Settings

# Draws of each of the two networks.
_SEEDS = 3


def parametrize(
    model: nn.Module,
    base: nn.Module | Mapping[str, Any],
    rule: str | Rule = "completep",
    optimizer: str | Callable[..., Any] = "adamw",
    *,
    verify: Any = None,
    loss_fn: LossFn | None = None,
    measured: Mapping[str, Powers] | None = None,
    force: bool = False,
    **options: Any,
) -> Plan:
    """Give a model the init and the optimizer groups with which it trains like its tuned base.

    The model's forward and its `state_dict` stay as they are: its freshly drawn entries are rescaled in place, and
    `plan.param_groups()` goes to any optimizer. At the base's own shapes nothing changes.

    Args:
        model: A freshly initialised model. On the meta device only the plan is made: `plan.apply(model)` later.
        base: The same architecture at the size that was tuned, freshly initialised; or `isoscale.shapes(base)`.
        rule: A name of `isoscale.rules.names()`, or a Rule; or "measured".
        optimizer: A class of torch.optim, or a family: "sgd", "adam", "adamw", "sign" (Lion), "muon".
        verify: Arguments of the forward pass, with numbers (a tensor, a tuple, or a mapping of keyword arguments); with
            `loss_fn`, a pair (arguments, targets). The plan is then checked as by `isoscale.measure.verify`, on the two
            networks that are at hand, and what deviates is an open item. They are drawn anew by exchanging the entries
            of each tensor among themselves. A few samples will do. None: the plan is not checked.
        loss_fn: loss_fn(model(x), y), for `verify`; None: the output is pushed in a fixed random direction.
        measured: For the rule "measured" its factors at the model's size, `found.at(rank=64)` of what
            `isoscale.measure.exponents` found. None: they are measured with `verify`, on the model and its base.
        force: Return a plan that has open items instead of raising.
        **options: lr (required), weight_decay, eps, decay, adjust_lr_fn, momentum, betas, budget, batch, tokens,
            example_inputs, roles: see `isoscale.parametrization.parametrize`. `example_inputs` are those of `verify`
            unless they are given.

    Returns:
        The plan, bound to the model.

    Raises:
        TraceError: The forward cannot be traced; the message names the operation.
        PlanError: Model and base differ in architecture, a parameter has no role, or an item is open.
        InvalidValueError, InvalidTypeError: An argument that makes no sense; `verify` on the meta device, or with a
            base that is no module.

    >>> from isoscale.models import ResidualMLP
    >>> base, model = ResidualMLP(8, 2, width=16, depth=2), ResidualMLP(8, 2, width=64, depth=8)
    >>> x = torch.randn(4, 8, generator=torch.Generator().manual_seed(0))
    >>> plan = parametrize(model, base, "completep", "adamw", lr=1e-3, verify=x)
    >>> plan.notes[-1][:46]
    'verified at two sizes, the base and width x4, '
    """
    if measured is not None and rule != "measured":
        raise InvalidValueError(f'`measured` goes with rule="measured", got rule={rule!r}')
    if verify is None and rule != "measured":
        return planned(model, base, rule, optimizer, force=force, **options)
    if rule == "measured" and measured is not None:
        reading = read(model, base, options.pop("example_inputs", None), options.pop("roles", None))
        plan = make(reading, *_asked(optimizer, options), force=force)
        return _with_measured(plan, measured).apply(model)
    if verify is None:
        raise InvalidValueError('rule="measured" needs `measured`, or `verify` to measure with')
    if not isinstance(base, nn.Module):
        raise InvalidTypeError(f"`verify` takes a step in the base too: give it as a module, got {type(base).__name__}")
    for name, network in (("model", model), ("base", base)):
        if any(parameter.is_meta for parameter in network.parameters()):
            raise InvalidValueError(f"`verify` needs numbers, and `{name}` is on the meta device")
    inputs = arguments(verify, loss_fn)
    if options.get("example_inputs") is None and options.get("roles") is None:
        options["example_inputs"] = inputs
    if rule == "measured":
        return _measured_at_hand(model, base, verify, loss_fn, optimizer, options, force=force)
    plan = planned(model, base, rule, optimizer, force=force, **options)
    if max(plan.scaling.width, plan.scaling.depth) <= 1:
        return replace(plan, notes=(*plan.notes, "not verified: the model is no larger than its base"))
    found = verified(plan, model, base, verify, loss_fn, options)
    plan = replace(
        plan,
        open_items=(*plan.open_items, *found.open_items),
        notes=(*plan.notes, *found.notes, _statement(plan, found)),
    )
    if found.open_items and not force:
        count = len(found.open_items)
        listed = "\n  - ".join(found.open_items)
        raise PlanError(f"{count} thing{'s' * (count > 1)} to fix before this plan is right:\n  - {listed}")
    return plan


def verified(
    plan: Plan,
    model: nn.Module,
    base: nn.Module,
    batch: Any,
    loss_fn: LossFn | None,
    options: Mapping[str, Any],
) -> Verified:
    """Check an applied plan on its model and its base; arguments as for `parametrize`."""
    return judged(_cells(plan, model, base, options), batch, loss_fn, Thresholds())


def _cells(plan: Plan, model: nn.Module, base: nn.Module, options: Mapping[str, Any]) -> list[Cell]:
    """Some draws of the two networks at hand, each with its plan."""
    inputs, roles = options.get("example_inputs"), options.get("roles")
    described = describe(unwrapped(base), None if isinstance(roles, str) else inputs)
    rule = plan.scaling.rule
    own = make(read(base, described, inputs, roles), rule, plan.settings, force=True)
    # What batch and duration do to all learning rates alike is no matter of sizes.
    if plan.scaling.budget != NO_BUDGET:
        plan = make(read(model, described, inputs, roles), rule, plan.settings, force=True)
    growth = {"width": plan.scaling.width, "depth": plan.scaling.depth}
    alone = dict.fromkeys(growth, 1.0)
    cells: list[Cell] = []
    for seed in range(_SEEDS):
        for network, its_plan, grown in ((base, own, alone), (model, plan, growth)):
            cells.append(
                Cell(
                    axis="size",
                    size=max(grown.values()),
                    growth=grown,
                    seed=seed,
                    build=partial(redrawn, unwrapped(network), seed),
                    plan=its_plan,
                )
            )
    return cells


# --- the rule "measured" ---
def _measured_at_hand(
    model: nn.Module,
    base: nn.Module,
    batch: Any,
    loss_fn: LossFn | None,
    optimizer: str | Callable[..., Any],
    options: dict[str, Any],
    *,
    force: bool,
) -> Plan:
    """The plan whose powers are measured on the model and its base."""
    rest = {name: value for name, value in options.items() if name not in ("example_inputs", "roles")}
    reading = read(model, base, options.get("example_inputs"), options.get("roles"))
    plan = make(reading, *_asked(optimizer, rest), force=force)
    cells = _cells(plan, model, base, options)
    ratio = cells[-1].size
    if ratio <= 1:
        raise InvalidValueError('rule="measured": the model is no larger than its base, and no power can be measured')
    powers = powers_along(cells, kinds_of([cell.plan for cell in cells]), batch, loss_fn)
    found = MeasuredRule(powers={"size": powers}, base={"size": 1.0}, optimizer=plan.settings.optimizer)
    note = (
        f"powers measured at two sizes, {_SEEDS} draws each: `isoscale.measure.exponents` with more tells their errors"
    )
    plan = _with_measured(plan, found.at(size=ratio))
    return replace(plan, notes=(*plan.notes, note)).apply(model)


def _asked(optimizer: str | Callable[..., Any], options: Mapping[str, Any]) -> tuple[Rule, Settings]:
    """The rule that changes nothing, and what the base was tuned with."""
    return UNCHANGED, settings(optimizer, **options)


def _with_measured(plan: Plan, factors: Mapping[str, Powers]) -> Plan:
    """The plan with measured factors, for every tensor.

    Raises:
        PlanError: A tensor that was not measured.
    """
    kinds = matched([entry.name for entry in plan.entries], list(factors))
    return with_factors(plan, factors, kinds)


def redrawn(model: nn.Module, seed: int) -> nn.Module:
    """Another draw of a fresh model's init: a copy, the entries of each tensor exchanged among themselves.

    Entries that were drawn independently are as likely in any order. Tensors with many equal entries were not drawn,
    and stay. Seed 0 is the model as it is.

    >>> layer = nn.Linear(3, 2)
    >>> again = redrawn(layer, 1)
    >>> torch.equal(layer.weight.sort().values, again.weight.sort().values)
    False
    >>> torch.equal(layer.weight.flatten().sort().values, again.weight.flatten().sort().values)
    True
    """
    model = copy.deepcopy(model)
    if seed == 0:
        return model
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            flat = parameter.flatten()
            if 2 * flat.unique().numel() > flat.numel():
                order = torch.randperm(flat.numel(), generator=generator).to(flat.device)
                parameter.copy_(flat[order].view_as(parameter))
    return model


def _statement(plan: Plan, found: Verified) -> str:
    """What was checked, in words."""
    ratios = {"width": plan.scaling.width, "depth": plan.scaling.depth}
    grown = ", ".join(f"{name} x{ratio:g}" for name, ratio in ratios.items() if ratio != 1)
    if not found.kinds:
        return f"not verified: {plan.scaling.rule.name} promises nothing of {grown}"
    return (
        f"verified at two sizes, the base and {grown}, {_SEEDS} draws each ({found.seconds:.1f} s): "
        f"{found.kinds} kinds of tensor, {len(found.open_items)} deviate. Two sizes show no trend: a power that finite "
        "sizes make is told from a lasting one by `isoscale.measure.verify` with three"
    )
