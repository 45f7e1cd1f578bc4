"""The verdict on one surveyed model: right, refused, wrong or crashed, and why."""

from __future__ import annotations

import fnmatch
import math
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from expected import Expected, rows_of
from torch import nn

import isoscale
from isoscale.errors import IsoscaleError
from models import SUBJECTS, Subject

RATIO = 4
WayOut = Callable[[nn.Module], dict[str, Any]]


@dataclass(frozen=True, kw_only=True)
class Verdict:
    """What a survey says of a model.

    Attributes:
        word: "right", "refused", "wrong" or "crashed".
        why: The refusal, the error, or the tensors that are wrong.
        tensors: Number of the target's parameters.
        seconds: Processor time that the plan took.
    """

    word: str
    why: str = ""
    tensors: int = 0
    seconds: float = 0.0


def drawn(subject: Subject, width: int, depth: int) -> nn.Module:
    """A fresh model, the same at every call."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return subject.make(width, depth)


def verdict(name: str, *, deep: bool = True, way_out: WayOut | None = None) -> Verdict:
    """Plan a model of four times the width, and of four times the depth if `deep`, and compare with the table.

    Args:
        name: Of the model.
        deep: Whether the depth grows as well.
        way_out: What a refused model needs: changes it in place, and returns further options of `parametrize`.
    """
    subject = SUBJECTS[name]
    base = drawn(subject, subject.width, subject.depth)
    depth = RATIO * subject.depth if deep else subject.depth
    model = drawn(subject, RATIO * subject.width, depth)
    options: dict[str, Any] = {}
    if way_out is not None:
        options = way_out(model)
        way_out(base)
    before = [dict(each.named_parameters()) for each in (model, base)]
    word, why = "right", ""
    started = time.process_time()
    try:
        plan = isoscale.parametrize(
            model, base, "completep", "adamw", lr=1.0, example_inputs=subject.inputs(), **options
        )
    except IsoscaleError as refusal:
        word, why = "refused", str(refusal)
    except Exception as error:
        word, why = "crashed", f"{type(error).__name__}: {error}"
    else:
        wrong = list(_wrong(name, plan, depth, subject.deeper if deep else 1))
        if wrong:
            word, why = "wrong", "; ".join(wrong)
    seconds = time.process_time() - started
    if lost := _lost(before, model, base):
        word, why = "crashed", lost
    return Verdict(word=word, why=why, tensors=len(before[0]), seconds=seconds)


def _lost(before: list[dict[str, nn.Parameter]], *models: nn.Module) -> str:
    """Parameters that are no longer the user's own objects."""
    for known, model in zip(before, models, strict=True):
        now = dict(model.named_parameters())
        if now.keys() != known.keys():
            return f"the model's parameters have other names: {sorted(now.keys() ^ known.keys())[:3]}"
        for name, parameter in known.items():
            if now[name] is not parameter:
                return f"`{name}` is no longer the same parameter"
    return ""


def _wrong(name: str, plan: isoscale.Plan, depth: int, deeper: float) -> Iterator[str]:
    """One line for each kind of tensor that differs from the table."""
    rows = rows_of(name, depth)
    has_branches = any(row.lr[1] for row in rows.values())
    if has_branches and not math.isclose(plan.scaling.depth, deeper, rel_tol=1e-9):
        yield f"depth x{plan.scaling.depth:g}, should be x{deeper:g}"
    said: set[str] = set()
    for entry in plan.entries:
        row = expected_of(entry.name, rows)
        if row is None:
            yield f"`{entry.name}` is not in the table"
            continue
        fault = _fault(entry, row, deeper)
        kind = kind_of(entry.name)
        if fault and f"{kind} {fault}" not in said:
            said.add(f"{kind} {fault}")
            yield f"`{kind}`: {fault}"


def expected_of(tensor: str, rows: dict[str, Expected]) -> Expected | None:
    """The last row whose pattern matches a name."""
    found = None
    for pattern, row in rows.items():
        if fnmatch.fnmatchcase(tensor, pattern):
            found = row
    return found


def kind_of(tensor: str) -> str:
    """A name with its indices left open."""
    return ".".join("*" if step.isdecimal() else step for step in tensor.split("."))


def _fault(entry: Any, row: Expected, deeper: float) -> str:
    """What is wrong with one tensor; empty if nothing is."""
    if row.unused:
        return ""
    if row.frozen:
        return "" if entry.frozen else "should be frozen"
    width = RATIO
    if row.by_shape:
        width = math.prod(entry.shape[1:]) / math.prod(entry.base_shape[1:])
    faults = []
    if entry.role not in row.roles:
        faults.append(f"{entry.role}, should be {' or '.join(sorted(row.roles))}")
    for what, found, powers in (("lr", entry.lr, row.lr), ("init", entry.init, row.init)):
        right = width ** powers[0] * deeper ** powers[1]
        right *= row.deeper if deeper != 1 else 1.0
        if not math.isclose(found, right, rel_tol=1e-6):
            faults.append(f"{what} x{found:.4g}, should be x{right:.4g}")
    return ", ".join(faults)
