"""A plan from JSON: every key and value checked, so that a damaged file is an error that names the key."""

from __future__ import annotations

import dataclasses
import sys
import types
import typing
from collections.abc import Mapping
from typing import Any, TypeVar

from isoscale import rules
from isoscale.errors import InvalidValueError, PlanError
from isoscale.parametrization.entry import Entry, Scaling, Settings
from isoscale.parametrization.plan import Plan
from isoscale.rules import DepthRow, Rule, WidthRow

_T = TypeVar("_T")

_HINTS = {cls: typing.get_type_hints(cls) for cls in (Entry, Scaling, Settings, Rule, WidthRow, DepthRow)}


def read_plan(given: Any, version: int) -> Plan:
    """The plan from what `Plan.to_dict` returned.

    Raises:
        PlanError: Not a plan, a plan of another format, an unknown or missing key, a value of the wrong type.
    """
    if not isinstance(given, Mapping) or "isoscale_plan" not in given:
        raise PlanError("not a plan: the key 'isoscale_plan' is missing")
    if given["isoscale_plan"] != version:
        raise PlanError(f"plan format {given['isoscale_plan']!r}, this isoscale reads {version}: make the plan anew")
    parts = _keys(given, {"isoscale_plan", "scaling", "settings", "entries", "multipliers", "open_items", "notes"}, "")
    return Plan(
        scaling=_read(Scaling, parts["scaling"], "scaling"),
        settings=_read(Settings, parts["settings"], "settings"),
        entries=tuple(
            _read(Entry, entry, f"entries[{i}]") for i, entry in enumerate(_list(parts["entries"], "entries"))
        ),
        multipliers=_value(dict[str, float], parts["multipliers"], "multipliers"),
        open_items=_value(tuple[str, ...], parts["open_items"], "open_items"),
        notes=_value(tuple[str, ...], parts["notes"], "notes"),
    )


def _read(cls: type[_T], given: Any, where: str) -> _T:
    names = {item.name for item in dataclasses.fields(cls)}  # type: ignore[arg-type]
    values = _keys(given, names, where + ".")
    return cls(**{name: _value(_HINTS[cls][name], value, f"{where}.{name}") for name, value in values.items()})


def _keys(given: Any, names: set[str], where: str) -> Mapping[str, Any]:
    if not isinstance(given, Mapping):
        raise PlanError(f"`{where.rstrip('.')}` must be an object, got {type(given).__name__}")
    for key in [*given, *names]:
        if (key in given) != (key in names):
            raise PlanError(f"{'unknown' if key in given else 'missing'} key `{where}{key}`")
    return given


def _list(given: Any, where: str) -> list[Any]:
    if not isinstance(given, list | tuple):
        raise PlanError(f"`{where}` must be a list, got {type(given).__name__}")
    return list(given)


def _rule(value: Any, where: str) -> Rule:
    """A rule by its name, or the tables of one that the user made."""
    if isinstance(value, str):
        try:
            return rules.get(value)
        except InvalidValueError as error:
            raise PlanError(f"`{where}`: {error}") from error
    return _read(Rule, value, where)


def _value(kind: Any, value: Any, where: str) -> Any:
    """The value as `kind`; JSON knows no tuples, enums or ints that are floats."""
    origin, arguments = typing.get_origin(kind), typing.get_args(kind)
    if origin in (typing.Union, types.UnionType):
        return None if value is None else _value(arguments[0], value, where)
    if origin is typing.Literal:
        if value in arguments:
            return value
        raise PlanError(f"`{where}` must be one of {', '.join(map(repr, arguments))}, got {value!r}")
    if origin is tuple:
        items = _list(value, where)
        kinds = [arguments[0]] * len(items) if arguments[-1] is Ellipsis else arguments
        if len(kinds) != len(items):
            raise PlanError(f"`{where}` must have {len(kinds)} items, got {len(items)}")
        return tuple(_value(k, item, f"{where}[{i}]") for i, (k, item) in enumerate(zip(kinds, items, strict=True)))
    if origin in (dict, Mapping):
        if not isinstance(value, Mapping):
            raise PlanError(f"`{where}` must be an object, got {type(value).__name__}")
        return {
            _value(arguments[0], key, where): _value(arguments[1], item, f"{where}.{key}")
            for key, item in value.items()
        }
    if kind is Rule:
        return _rule(value, where)
    if kind in (WidthRow, DepthRow):
        return _read(kind, value, where)
    if kind is float and isinstance(value, int | float) and not isinstance(value, bool):
        if abs(value) <= sys.float_info.max:
            return float(value)
        raise PlanError(f"`{where}` must be a finite number")
    if kind in (bool, str, int) and type(value) is kind:
        return value
    if kind is rules.Role:
        try:
            return rules.Role(value)
        except ValueError:
            raise PlanError(f"`{where}` must be a role, got {value!r}") from None
    raise PlanError(f"`{where}` must be {getattr(kind, '__name__', kind)}, got {value!r}")
