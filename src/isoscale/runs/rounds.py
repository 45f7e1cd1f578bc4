"""Trains what searches ask for, round by round, all of them together."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Hashable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Generic, TypeVar

from isoscale.runs.driver import Session
from isoscale.runs.result import STATUS, SweepResult
from isoscale.runs.search import Grid, Request, Search
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
    results = session.run([spec for _, _, spec in requested])
    answers = []
    for (key, request, _), result in zip(requested, results, strict=True):
        searches[key].tell(losses(result, objective), request.steps)
        answers.append(Answer(key, request, result))
    return answers


def losses(result: SweepResult, objective: Objective = cost) -> dict[tuple[float, int], float]:
    """The loss of each (learning rate, seed) of one rule and size, NaN where it diverged; without failed trials."""
    loss = objective(result).squeeze(drop=True)
    status = result.data["status"].squeeze(drop=True)
    found = {}
    for lr in result.data["lr"].values.tolist():
        for seed in result.data["seed"].values.tolist():
            at = {"lr": lr, "seed": seed}
            if int(_at(status, at)) in (STATUS["done"], STATUS["diverged"]):
                found[lr, seed] = float(_at(loss, at))
    return found


def _at(values: xr.DataArray, at: Mapping[str, float]) -> xr.DataArray:
    """One trial; an axis of one entry was squeezed away."""
    return values.sel({name: value for name, value in at.items() if name in values.dims})
