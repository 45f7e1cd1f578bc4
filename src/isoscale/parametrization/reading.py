"""A plan from JSON: every key and value checked, so that a damaged file is an error that names the key."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from isoscale.errors import PlanError
from isoscale.parametrization.decoding import decoded, keys, listed, record
from isoscale.parametrization.entry import Entry, Scaling, Settings
from isoscale.parametrization.plan import Plan


def read_plan(given: Any, version: int) -> Plan:
    """The plan from what `Plan.to_dict` returned.

    Raises:
        PlanError: Not a plan, a plan of another format, an unknown or missing key, a value of the wrong type.
    """
    if not isinstance(given, Mapping) or "isoscale_plan" not in given:
        raise PlanError("not a plan: the key 'isoscale_plan' is missing")
    if given["isoscale_plan"] != version:
        raise PlanError(f"plan format {given['isoscale_plan']!r}, this isoscale reads {version}: make the plan anew")
    parts = keys(given, {"isoscale_plan", "scaling", "settings", "entries", "multipliers", "open_items", "notes"}, "")
    return Plan(
        scaling=record(Scaling, parts["scaling"], "scaling"),
        settings=record(Settings, parts["settings"], "settings"),
        entries=tuple(
            record(Entry, entry, f"entries[{i}]") for i, entry in enumerate(listed(parts["entries"], "entries"))
        ),
        multipliers=decoded(dict[str, float], parts["multipliers"], "multipliers"),
        open_items=decoded(tuple[str, ...], parts["open_items"], "open_items"),
        notes=decoded(tuple[str, ...], parts["notes"], "notes"),
    )
