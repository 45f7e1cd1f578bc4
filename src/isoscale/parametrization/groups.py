"""Parameter groups from a plan, and whether an optimizer still has them."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from torch import nn

from isoscale.errors import InvalidValueError, PlanError
from isoscale.scaling.optimizers import FAMILIES, family_of, steps_in_its_own_way
from isoscale.scaling.tensor import Settings, TensorPlan

# Where schedulers and wrappers (Accelerate's, Lightning's, SAM, Lookahead) hold the optimizer that steps.
_INNER = ("optimizer", "base_optimizer", "_base_optimizer")

# Schedulers multiply float64 learning rates over many steps.
_RATIO_TOLERANCE = 1e-6


def make(
    entries: Iterable[TensorPlan], settings: Settings, parameters: Mapping[str, nn.Parameter]
) -> list[dict[str, Any]]:
    """One group for each distinct setting, in the order in which they first occur."""
    found: dict[tuple[Any, ...], list[TensorPlan]] = {}
    for entry in entries:
        if not entry.frozen:
            found.setdefault(tuple(entry.group(settings).items()), []).append(entry)
    made = []
    for number, (told, members) in enumerate(found.items()):
        group = {"params": [parameters[entry.name] for entry in members], "param_names": [e.name for e in members]}
        roles = "+".join(dict.fromkeys(str(entry.role) for entry in members))
        made.append(group | dict(told) | {"name": f"{number}:{roles}"})
    return made


def check(
    entries: Sequence[TensorPlan],
    settings: Settings,
    parameters: Mapping[str, nn.Parameter],
    optimizers: Sequence[Any],
) -> None:
    """Raise PlanError if the optimizers' groups are not the plan's up to one common factor on lr."""
    names = {id(parameter): name for name, parameter in parameters.items()}
    by_name = {entry.name: entry for entry in entries}
    seen: set[str] = set()
    foreign = 0
    for wrapped in optimizers:
        optimizer = _innermost(wrapped)
        held: list[tuple[TensorPlan, Mapping[str, Any]]] = []
        for group in optimizer.param_groups:
            for parameter in group["params"]:
                if id(parameter) in names:
                    held.append((by_name[names[id(parameter)]], group))
                else:
                    # The loss may have parameters, and an optimizer may step two models.
                    foreign += 1
        if not held:
            continue
        family = _same_family(optimizer, settings)
        for entry, _ in held:
            if entry.optimizer != family:
                raise PlanError(f"`{entry.name}` is to be stepped by {entry.optimizer}, not {family}")
        _same_ratios(held, settings)
        seen |= {entry.name for entry, _ in held}
    missing = [entry.name for entry in entries if not entry.frozen and entry.name not in seen]
    if missing and foreign and not seen:
        raise PlanError(
            f"the optimizer holds {foreign} parameter{'s' * (foreign > 1)}, and none that is the plan's model's: is it "
            "for another model, or a copy? Then say which: plan.check(optimizer, model=...)"
        )
    if missing:
        raise PlanError(
            f"no group of the optimizer holds `{missing[0]}`{f' and {len(missing) - 1} more' * (len(missing) > 1)}"
        )


def _innermost(optimizer: Any) -> Any:
    """The optimizer that steps, inside a scheduler, Accelerate's and Lightning's wrappers, SAM or Lookahead."""
    while True:
        inner = None
        for attribute in _INNER:
            inner = inner or getattr(optimizer, attribute, None)
        if inner is None:
            return optimizer
        optimizer = inner


def _same_family(optimizer: Any, settings: Settings) -> str:
    """The optimizer's family, if it is one of the plan's."""
    row = FAMILIES[settings.optimizer]
    expected = (row.name, row.beside) if row.beside else (row.name,)
    try:
        family = family_of(optimizer)
    except InvalidValueError:
        return row.name  # a class whose family the user declared
    if family in expected:
        return family
    if steps_in_its_own_way(type(optimizer)):
        return row.name  # likewise: what it derives from is not what it does
    # Without decay there is none to couple.
    if family == row.other_decay and settings.weight_decay == 0:
        return row.name
    # The flag, not the class, may be what differs.
    remedy = ""
    if family == row.other_decay and row.torch_class not in type(optimizer).__name__:
        remedy = f" (or set decoupled_weight_decay={not row.coupled_decay} in it)"
    raise PlanError(
        f"{type(optimizer).__name__} is of family {family}; the plan is for {settings.optimizer}: use "
        f"plan.param_groups(optimizer={family!r}), or make the plan for it{remedy}"
    )


def _same_ratios(held: Sequence[tuple[TensorPlan, Mapping[str, Any]]], settings: Settings) -> None:
    first: tuple[str, float] | None = None
    for entry, group in held:
        told = entry.group(settings)
        for key in ("weight_decay", "eps"):
            if key in told and not math.isclose(float(group[key]), told[key], rel_tol=_RATIO_TOLERANCE, abs_tol=1e-300):
                raise PlanError(f"`{entry.name}` has {key} {float(group[key]):g}, the plan asks {told[key]:g}")
        factor = float(group["lr"]) / told["lr"]
        first = first or (entry.name, factor)
        if not math.isclose(factor, first[1], rel_tol=_RATIO_TOLERANCE, abs_tol=1e-300):
            raise PlanError(
                f"the ratios of the learning rates are lost: `{entry.name}` has {factor:.4g} of its planned lr, "
                f"`{first[0]}` {first[1]:.4g}. A scheduler or LR finder that sets one value for all groups does this: "
                'use one that multiplies, or pass it a list, [group["lr"] for group in optimizer.param_groups]'
            )
