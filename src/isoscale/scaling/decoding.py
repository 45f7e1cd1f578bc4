"""Values from JSON by their type annotations; whatever does not fit is a PlanError that names the key."""

from __future__ import annotations

import dataclasses
import functools
import sys
import types
import typing
from collections.abc import Mapping
from typing import Any, TypeVar

from isoscale.errors import InvalidValueError, PlanError
from isoscale.scaling import budget as budgets
from isoscale.scaling import rules
from isoscale.scaling.budget import Budget, BudgetRule, Powers
from isoscale.scaling.roles import Role
from isoscale.scaling.rules import DepthRow, Rule, WidthRow

_T = TypeVar("_T")


@functools.cache
def _hints(cls: type) -> dict[str, Any]:
    return typing.get_type_hints(cls)


def record(cls: type[_T], given: Any, where: str) -> _T:
    """A dataclass from an object with its fields as keys, no more and no fewer."""
    names = {item.name for item in dataclasses.fields(cls)}  # type: ignore[arg-type]
    values = keys(given, names, where + ".")
    hints = _hints(cls)
    return cls(**{name: decoded(hints[name], value, f"{where}.{name}") for name, value in values.items()})


def keys(given: Any, names: set[str], where: str) -> Mapping[str, Any]:
    """An object with these keys, no more and no fewer."""
    if not isinstance(given, Mapping):
        raise PlanError(f"`{where.rstrip('.')}` must be an object, got {type(given).__name__}")
    for key in [*given, *names]:
        if (key in given) != (key in names):
            raise PlanError(f"{'unknown' if key in given else 'missing'} key `{where}{key}`")
    return given


def listed(given: Any, where: str) -> list[Any]:
    """A list, or the tuple that it was before it was JSON."""
    if not isinstance(given, list | tuple):
        raise PlanError(f"`{where}` must be a list, got {type(given).__name__}")
    return list(given)


def _rule(kind: type, value: Any, where: str) -> Rule | BudgetRule:
    """A rule by its name, or the tables of one that the user made."""
    try:
        if isinstance(value, str):
            return rules.get(value) if kind is Rule else budgets.budget(value)
        return record(kind, value, where)
    except InvalidValueError as error:
        raise PlanError(f"`{where}`: {error}") from error


def decoded(kind: Any, value: Any, where: str) -> Any:
    """The value as `kind`; JSON knows no tuples, enums or ints that are floats."""
    origin, arguments = typing.get_origin(kind), typing.get_args(kind)
    if origin in (typing.Union, types.UnionType):
        return None if value is None else decoded(arguments[0], value, where)
    if origin is typing.Literal:
        if value in arguments:
            return value
        raise PlanError(f"`{where}` must be one of {', '.join(map(repr, arguments))}, got {value!r}")
    if origin is tuple:
        items = listed(value, where)
        kinds = [arguments[0]] * len(items) if arguments[-1] is Ellipsis else arguments
        if len(kinds) != len(items):
            raise PlanError(f"`{where}` must have {len(kinds)} items, got {len(items)}")
        return tuple(decoded(k, item, f"{where}[{i}]") for i, (k, item) in enumerate(zip(kinds, items, strict=True)))
    if origin in (dict, Mapping):
        if not isinstance(value, Mapping):
            raise PlanError(f"`{where}` must be an object, got {type(value).__name__}")
        return {
            decoded(arguments[0], key, where): decoded(arguments[1], item, f"{where}.{key}")
            for key, item in value.items()
        }
    if kind in (Rule, BudgetRule):
        return _rule(kind, value, where)
    if kind in (WidthRow, DepthRow, Budget, Powers):
        return record(kind, value, where)
    if kind is float and isinstance(value, int | float) and not isinstance(value, bool):
        if abs(value) <= sys.float_info.max:
            return float(value)
        raise PlanError(f"`{where}` must be a finite number")
    if kind in (bool, str, int) and type(value) is kind:
        return value
    if kind is Role:
        try:
            return Role(value)
        except ValueError:
            raise PlanError(f"`{where}` must be a role, got {value!r}") from None
    raise PlanError(f"`{where}` must be {getattr(kind, '__name__', kind)}, got {value!r}")
