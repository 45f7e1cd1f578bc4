"""Trains what searches ask for, all of them together, and keeps every run."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from isoscale.runs import Sweep, SweepResult
from isoscale.runs.driver import Session
from isoscale.runs.result import STATUS
from isoscale.runs.rounds import run_round
from isoscale.runs.search import Grid, Search
from isoscale.stats.summary import mean_and_se

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
    """The protocol's loss: the mean over all steps; NaN unless the trial is done."""
    return _mean_curve(result.data)


def run_searches(
    specs: Mapping[Curve, Sweep], searches: Mapping[Curve, Search | Grid], session: Session
) -> list[pd.DataFrame]:
    """Advance all searches, round by round, until none wants more; every run as the rows of tables."""
    tables = []
    while answers := run_round(session, specs, searches, objective):
        for answer in answers:
            is_full = answer.request.steps == specs[answer.key].steps
            stage = "full" if is_full else "pilot"
            table = rows(answer.result, network=answer.key.network, stage=stage)
            tables.append(table)
    return tables


def rows(result: SweepResult, **labels: str) -> pd.DataFrame:
    """One row per trial: rule, depth, lr, seed, steps, status, loss (mean of all steps), final_loss, test_loss."""
    data = result.data.isel(width=0, drop=True)
    kept = data[["status", "test_loss"]]
    kept = kept.assign(loss=_mean_curve(data), final_loss=data["loss"])
    table = kept.to_dataframe().reset_index()
    table["status"] = table["status"].map(_WORDS)
    return table.assign(steps=result.spec.longest, **labels)


def joined(tables: Iterable[pd.DataFrame]) -> pd.DataFrame:
    """All runs, each once, in an order that does not depend on which came first."""
    import pandas as pd

    trial = ["network", "stage", "rule", "depth", "lr", "seed", "steps"]
    outcome = ["status", "loss", "final_loss", "test_loss"]
    table = pd.concat(list(tables), ignore_index=True)
    table = table[trial + outcome]
    table = table.drop_duplicates(trial)
    return table.sort_values(trial, ignore_index=True)


def at_optimum(runs: pd.DataFrame, curve: Curve, lr: float, chance: float) -> dict[str, float]:
    """What was measured at the fully trained learning rate nearest to an optimum: nothing is extrapolated.

    Args:
        runs: All runs.
        curve: Which network and depth.
        lr: The optimum; NaN where there is none.
        chance: The loss of a network that knows nothing but how often each class occurs.
    """
    of_curve = (runs["network"] == curve.network) & (runs["depth"] == curve.depth)
    full = runs[of_curve & (runs["stage"] == "full")]
    if not math.isfinite(lr) or full.empty:
        nothing = ("loss", "final_loss", "final_loss_se", "seeds_diverged")
        return dict.fromkeys(nothing, math.nan) | {"learns": 0.0}
    lrs = full["lr"].to_numpy()
    octaves = np.abs(np.log(lrs / lr))
    nearest = lrs[octaves.argmin()]
    seeds = full[full["lr"] == nearest]
    loss = seeds["loss"].mean()
    finished = seeds["final_loss"].dropna()
    final, error = mean_and_se(finished.to_numpy())
    is_diverged = seeds["status"] == "diverged"
    # Two standard errors below chance; those of a single seed are not known.
    learns = final + 2 * np.nan_to_num(error) < chance
    return {
        "loss": float(loss),
        "final_loss": float(final),
        "final_loss_se": float(error),
        "seeds_diverged": int(is_diverged.sum()),
        "learns": float(learns),
    }


def _mean_curve(data: xr.Dataset) -> xr.DataArray:
    """In double precision: in single, the last digits of a vertex depend on the order of summation."""
    curve = data["curve"].astype(float)
    is_done = data["status"] == STATUS["done"]
    return curve.mean("step", skipna=False).where(is_done)
