"""`isoscale.parametrize`: a plan from a rule, and on request one that was checked by measurement."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import torch
from torch import nn

from isoscale.errors import InvalidTypeError, InvalidValueError, PlanError
from isoscale.graph.unwrapping import unwrapped
from isoscale.measure.tools.passes import LossFn
from isoscale.measure.verify import Cell, Thresholds, Verified, arguments, judged
from isoscale.parametrization import Plan
from isoscale.parametrization import parametrize as planned
from isoscale.parametrization.make_plan import make, read
from isoscale.parametrization.sizes import describe
from isoscale.scaling.rules import Rule

# Draws of each of the two networks.
_SEEDS = 3


def parametrize(
    model: nn.Module,
    base: nn.Module | Mapping[str, Any],
    rule: str | Rule = "completep",
    optimizer: str | type = "adamw",
    *,
    verify: Any = None,
    loss_fn: LossFn | None = None,
    force: bool = False,
    **options: Any,
) -> Plan:
    """Give a model the init and the optimizer groups with which it trains like its tuned base.

    The model's forward and its `state_dict` stay as they are: its freshly drawn entries are rescaled in place, and
    `plan.param_groups()` goes to any optimizer. At the base's own shapes nothing changes.

    Args:
        model: A freshly initialised model. On the meta device only the plan is made: `plan.apply(model)` later.
        base: The same architecture at the size that was tuned, freshly initialised; or `isoscale.shapes(base)`.
        rule: A name of `isoscale.rules.names()`, or a Rule.
        optimizer: A class of torch.optim, or a family: "sgd", "adam", "adamw", "sign" (Lion), "muon".
        verify: Arguments of the forward pass, with numbers (a tensor, a tuple, or a mapping of keyword arguments); with
            `loss_fn`, a pair (arguments, targets). The plan is then checked as by `isoscale.measure.verify`, on the two
            networks that are at hand, and what deviates is an open item. They are drawn anew by exchanging the entries
            of each tensor among themselves. A few samples will do. None: the plan is not checked.
        loss_fn: loss_fn(model(x), y), for `verify`; None: the output is pushed in a fixed random direction.
        force: Return a plan that has open items instead of raising.
        **options: lr (required), weight_decay, eps, decay, adjust_lr_fn, momentum, betas, example_inputs, roles: see
            `isoscale.parametrization.parametrize`. `example_inputs` are those of `verify` unless they are given.

    Returns:
        The plan, bound to the model.

    Raises:
        TraceError: The forward cannot be traced; the message names the operation.
        PlanError: Model and base differ in architecture, a parameter has no role, or an item is open.
        InvalidValueError, InvalidTypeError: An argument that makes no sense; `verify` on the meta device, or with a base
            that is no module.

    >>> from isoscale.models import ResidualMLP
    >>> base, model = ResidualMLP(8, 2, width=16, depth=2), ResidualMLP(8, 2, width=64, depth=8)
    >>> x = torch.randn(4, 8, generator=torch.Generator().manual_seed(0))
    >>> plan = parametrize(model, base, "completep", "adamw", lr=1e-3, verify=x)
    >>> plan.notes[-1][:46]
    'verified at two sizes, the base and width x4, '
    """
    if verify is None:
        return planned(model, base, rule, optimizer, force=force, **options)
    if not isinstance(base, nn.Module):
        raise InvalidTypeError(f"`verify` takes a step in the base too: give it as a module, got {type(base).__name__}")
    for name, network in (("model", model), ("base", base)):
        if any(parameter.is_meta for parameter in network.parameters()):
            raise InvalidValueError(f"`verify` needs numbers, and `{name}` is on the meta device")
    inputs = arguments(verify, loss_fn)
    if options.get("example_inputs") is None and options.get("roles") is None:
        options["example_inputs"] = inputs
    plan = planned(model, base, rule, optimizer, force=force, **options)
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
    inputs, roles = options.get("example_inputs"), options.get("roles")
    described = describe(unwrapped(base), None if isinstance(roles, str) else inputs)
    own = make(read(base, described, inputs, roles), plan.scaling.rule, plan.settings, force=True)
    growth = {"width": plan.scaling.width, "depth": plan.scaling.depth}
    cells: list[Cell] = []
    for network, its_plan, size, grown in (
        (base, own, 1.0, dict.fromkeys(growth, 1.0)),
        (model, plan, max(growth.values()), growth),
    ):
        for seed in range(_SEEDS):
            cells.append(
                Cell(
                    axis="size",
                    size=size,
                    growth=grown,
                    seed=seed,
                    draw=_draw(network, seed),
                    plan=its_plan,
                )
            )
    return judged(cells, batch, loss_fn, Thresholds())


def _draw(network: nn.Module, seed: int) -> Callable[[], nn.Module]:
    return lambda: redrawn(unwrapped(network), seed)


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
    if not grown:
        return "not verified: the model is as large as its base"
    if not found.kinds:
        return f"not verified: {plan.scaling.rule.name} promises nothing of {grown}"
    return (
        f"verified at two sizes, the base and {grown}, {_SEEDS} draws each ({found.seconds:.1f} s): "
        f"{found.kinds} kinds of tensor, {len(found.open_items)} deviate. Two sizes show no trend: a power that finite "
        "sizes make is told from a lasting one by `isoscale.measure.verify` with three"
    )
