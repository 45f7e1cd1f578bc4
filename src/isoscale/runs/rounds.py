"""Trains what searches ask for, round by round, all of them together."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Hashable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Generic, TypeVar

import numpy as np

from isoscale.runs.driver import Session
from isoscale.runs.result import STATUS, SweepResult
from isoscale.runs.search import Course, Grid, Request, Search
from isoscale.runs.spec import Sweep

if TYPE_CHECKING:
    import xarray as xr

Key = TypeVar("Key", bound=Hashable)

Objective = Callable[[SweepResult], "xr.DataArray"]
"""The loss that is searched for, over (rule, width, depth, lr, seed) with one entry along the first three."""


def cost(result: SweepResult) -> xr.DataArray:
    """What trials are judged by: mean training loss of the last tenth of the steps, or the metric."""
    return result.cost


@dataclass(frozen=True)
class Answer(Generic[Key]):
    """What came of one request of one search."""

    key: Key
    request: Request
    result: SweepResult


def run_round(
    session: Session,
    specs: Mapping[Key, Sweep],
    searches: Mapping[Key, Search | Grid],
    objective: Objective = cost,
) -> list[Answer[Key]]:
    """Train what every search wants next and tell it what came of that; nothing comes back when all have ended.

    Args:
        session: Where.
        specs: What each search is of: one rule and size. Its learning rates, seeds and steps are the search's to say.
        searches: By the same keys.
        objective: The loss that they search for.
    """
    requested = []
    for key, search in searches.items():
        for request in search.wanted():
            spec = dataclasses.replace(specs[key], lrs=request.lrs, seeds=request.seeds, steps=request.steps)
            requested.append((key, request, spec))
    if not requested:
        return []
    marks = [request.marks for _, request, _ in requested]
    results = session.run([spec for _, _, spec in requested], marks)
    answers = []
    for (key, request, _), result in zip(requested, results, strict=True):
        searches[key].tell(losses(result, objective), request.steps, courses(result))
        answers.append(Answer(key, request, result))
    return answers


def losses(result: SweepResult, objective: Objective = cost) -> dict[tuple[float, int], float]:
    """The loss of each (learning rate, seed) of one rule and size, NaN where it diverged or was stopped; without failed
    trials."""
    loss = _by_trial(objective(result))
    status = _by_trial(result.data["status"])
    known = (STATUS["done"], STATUS["diverged"], STATUS["stopped"])
    return {trial: float(loss[trial]) for trial in loss if status[trial] in known}


def courses(result: SweepResult) -> dict[tuple[float, int], Course]:
    """How the training loss of each (learning rate, seed) of one rule and size went.

    Empty where it is not what trials are judged by, and of the user's code, whose losses may be few.
    """
    if result.spec.is_foreign or result.spec.metric is not None:
        return {}
    status = _by_trial(result.data["status"])
    found = {}
    for trial, curve in _by_trial(result.data["curve"]).items():
        is_stopped = bool(status[trial] == STATUS["stopped"])
        found[trial] = Course(curve[np.isfinite(curve)], is_stopped)
    return found


def _by_trial(values: xr.DataArray) -> dict[tuple[float, int], Any]:
    """What one rule and size has for each (learning rate, seed): a number, or an array along the steps."""
    kept = ("lr", "seed", "step")
    single = {name: 0 for name in values.dims if name not in kept}
    values = values.isel(single).transpose("lr", "seed", ...)
    found = {}
    for lr, row in zip(values["lr"].values.tolist(), values.values, strict=True):
        for seed, value in zip(values["seed"].values.tolist(), row, strict=True):
            found[lr, seed] = value
    return found
