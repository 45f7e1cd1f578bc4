"""Trains what searches ask for, all of them together, and keeps every run."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from isoscale.runs import Runner, Sweep, SweepResult
from isoscale.runs.result import STATUS
from isoscale.studies.depth_law.search import Exhaustive, Request, Search

if TYPE_CHECKING:
    import pandas as pd
    import xarray as xr

_WORDS = {code: word for word, code in STATUS.items()}


@dataclass(frozen=True)
class Curve:
    """One network at one depth."""

    network: str
    depth: int


def objective(result: SweepResult) -> xr.DataArray:
    """The protocol's loss over (lr, seed): the mean over all steps; NaN unless the trial is done."""
    data = result.data.isel(rule=0, width=0, depth=0, drop=True)
    return _mean_curve(data)


def train_requests(
    specs: Mapping[Any, Sweep], requests: Mapping[Any, Request], runner: Runner
) -> dict[Any, SweepResult]:
    """Train each request on its spec, all as one sweep: the workers start once."""
    asked = {
        key: dataclasses.replace(specs[key], lrs=request.lrs, seeds=request.seeds, steps=request.steps)
        for key, request in requests.items()
    }
    return dict(zip(asked, runner.run(list(asked.values())), strict=True))


def run_searches(
    specs: Mapping[Curve, Sweep], searches: Mapping[Curve, Search | Exhaustive], runner: Runner
) -> list[pd.DataFrame]:
    """Advance all searches, round by round, until none wants more; every run as the rows of tables."""
    tables = []
    while requests := {curve: request for curve, search in searches.items() if (request := search.wanted())}:
        results = train_requests(specs, requests, runner)
        for curve, result in results.items():
            searches[curve].tell(objective(result))
            stage = "full" if requests[curve].steps == specs[curve].steps else "pilot"
            tables.append(rows(result, network=curve.network, stage=stage))
    return tables


def rows(result: SweepResult, **labels: str) -> pd.DataFrame:
    """A row a trial: rule, depth, lr, seed, steps, status, loss (mean of all steps), final_loss, test_loss."""
    data = result.data.isel(width=0, drop=True)
    mean = _mean_curve(data)
    kept = data[["status", "test_loss"]].assign(loss=mean, final_loss=data["loss"])
    table = kept.to_dataframe().reset_index()
    table["status"] = table["status"].map(_WORDS)
    return table.assign(steps=result.spec.steps, **labels)


def joined(tables: Iterable[pd.DataFrame]) -> pd.DataFrame:
    """All runs, each once, in an order that does not depend on which came first."""
    import pandas as pd

    first = ["network", "stage", "rule", "depth", "lr", "seed", "steps", "status", "loss", "final_loss", "test_loss"]
    table = pd.concat(list(tables), ignore_index=True)[first]
    return table.drop_duplicates(first[:7]).sort_values(first[:7], ignore_index=True)


def at_optimum(runs: pd.DataFrame, curve: Curve, lr: float, chance: float) -> dict[str, float]:
    """What was measured at the fully trained learning rate nearest to an optimum: nothing is extrapolated.

    Args:
        runs: All runs.
        curve: Which network and depth.
        lr: The optimum; NaN where there is none.
        chance: The loss of a network that knows nothing but how often each class occurs.
    """
    names = ("loss", "final_loss", "final_loss_se", "seeds_diverged", "learns")
    full = runs[(runs["network"] == curve.network) & (runs["depth"] == curve.depth) & (runs["stage"] == "full")]
    if not math.isfinite(lr) or full.empty:
        return dict.fromkeys(names, math.nan) | {"learns": 0.0}
    lrs = full["lr"].to_numpy()
    nearest = lrs[np.abs(np.log(lrs / lr)).argmin()]
    seeds = full[full["lr"] == nearest]
    final, error = float(seeds["final_loss"].mean()), float(seeds["final_loss"].sem())
    learns = final + 2 * (error if math.isfinite(error) else 0.0) < chance
    diverged = int((seeds["status"] == "diverged").sum())
    return dict(zip(names, (float(seeds["loss"].mean()), final, error, diverged, float(learns)), strict=True))


def _mean_curve(data: xr.Dataset) -> xr.DataArray:
    """In double precision: in single, the last digits of a vertex depend on the order of summation."""
    return data["curve"].astype(float).mean("step", skipna=False).where(data["status"] == STATUS["done"])
