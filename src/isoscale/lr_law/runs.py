"""Trains what searches ask for, all of them together, and keeps every run."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from isoscale.lr_law.search import Exhaustive, Request, Search
from isoscale.sweeps import Sweep, SweepResult, sweep_all
from isoscale.sweeps.result import STATUS

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
    return data["curve"].mean("step", skipna=False).where(data["status"] == STATUS["done"]).astype(float)


def train_requests(specs: Mapping[Any, Sweep], requests: Mapping[Any, Request], **run: Any) -> dict[Any, SweepResult]:
    """Train each request on its spec, all as one sweep: the workers start once."""
    asked = {
        key: dataclasses.replace(specs[key], lrs=request.lrs, seeds=request.seeds, steps=request.steps)
        for key, request in requests.items()
    }
    return dict(zip(asked, sweep_all(list(asked.values()), **run), strict=True))


def run_searches(
    specs: Mapping[Curve, Sweep], searches: Mapping[Curve, Search | Exhaustive], **run: Any
) -> list[pd.DataFrame]:
    """Advance all searches, round by round, until none wants more; every run as the rows of tables."""
    tables = []
    while requests := {curve: request for curve, search in searches.items() if (request := search.wanted())}:
        results = train_requests(specs, requests, **run)
        for curve, result in results.items():
            searches[curve].tell(objective(result))
            stage = "full" if requests[curve].steps == specs[curve].steps else "pilot"
            tables.append(rows(result, network=curve.network, stage=stage))
    return tables


def rows(result: SweepResult, **labels: str) -> pd.DataFrame:
    """A row a trial: rule, depth, lr, seed, steps, status, loss (mean of all steps), final_loss, test_loss."""
    data = result.data.isel(width=0, drop=True)
    mean = data["curve"].mean("step", skipna=False).where(data["status"] == STATUS["done"])
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
