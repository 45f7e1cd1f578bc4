"""Parameter groups from a plan, and whether an optimizer still has them."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from torch import nn

from isoscale.errors import InvalidValueError, PlanError
from isoscale.scaling.optimizers import FAMILIES, family_of
from isoscale.scaling.tensor import Settings, TensorPlan

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
    for optimizer in optimizers:
        family = _same_family(optimizer, settings)
        held: list[tuple[TensorPlan, Mapping[str, Any]]] = []
        for group in optimizer.param_groups:
            for parameter in group["params"]:
                if id(parameter) not in names:
                    raise PlanError("the optimizer holds a parameter that is not the plan's model's")
                held.append((by_name[names[id(parameter)]], group))
        for entry, _ in held:
            if entry.optimizer != family:
                raise PlanError(f"`{entry.name}` is to be stepped by {entry.optimizer}, not {family}")
        _same_ratios(held, settings)
        seen |= {entry.name for entry, _ in held}
    missing = [entry.name for entry in entries if not entry.frozen and entry.name not in seen]
    if missing:
        raise PlanError(
            f"no group of the optimizer holds `{missing[0]}`{f' and {len(missing) - 1} more' * (len(missing) > 1)}"
        )


def _same_family(optimizer: Any, settings: Settings) -> str:
    while not hasattr(optimizer, "param_groups") or hasattr(optimizer, "optimizer"):
        optimizer = optimizer.optimizer  # Accelerate and Lightning wrap
    try:
        family = family_of(optimizer)
    except InvalidValueError:  # a class whose family the user declared
        return settings.optimizer
    row = FAMILIES[settings.optimizer]
    expected = (row.name, row.beside) if row.beside else (row.name,)
    if family not in expected:
        raise PlanError(
            f"{type(optimizer).__name__} is of family {family}; the plan is for {settings.optimizer}: "
            f"use plan.param_groups(optimizer={family!r}), or make the plan for it"
        )
    return family


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
