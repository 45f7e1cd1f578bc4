"""Train the deepest network at learning rates that shallower ones suggest, and see what each costs.

Nothing about the deepest network is used but, for comparison, its own tuned learning rate.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
import xarray as xr

from isoscale.runs import Runner, Sweep, SweepResult
from isoscale.runs.result import STATUS
from isoscale.studies.depth_law.fits import Prediction
from isoscale.studies.depth_law.published import CLAIM
from isoscale.studies.depth_law.runs import objective, rows

# Rules that transfer the shallowest network's learning rate to residual nets, with their own init and factors.
RULES = ("depth-mup", "completep")


@dataclass(frozen=True)
class Known:
    """What is known of one network: depths, their optima and sweep-free estimates, the deepest depth last.

    `tuned` is the deepest one's best learning rate that was trained, for comparison.
    """

    spec: Sweep
    depths: np.ndarray
    lrs: np.ndarray
    estimates: np.ndarray
    tuned: float
    has_branches: bool


def learning_rates(known: Known) -> dict[str, tuple[str, float]]:
    """Method -> (rule, base learning rate), for the deepest network."""
    depths, lrs, deepest = known.depths[:-1], known.lrs[:-1], float(known.depths[-1])
    found = {
        "tuned": ("sp", known.tuned),
        "fitted law": ("sp", Prediction(depths, lrs)(deepest)),
        "claimed -3/2": ("sp", Prediction(depths, lrs, CLAIM)(deepest)),
        "unchanged": ("sp", float(lrs[0])),
    }
    ratios = np.log(lrs / known.estimates[:-1])
    if np.isfinite(ratios).all() and math.isfinite(known.estimates[-1]):
        found["sweep-free"] = ("sp", float(known.estimates[-1] * np.exp(ratios.mean())))
    if known.has_branches:
        found |= {rule: (rule, float(lrs[0])) for rule in RULES}
    return found


def tuned_lr(loss: xr.DataArray) -> float:
    """The trained learning rate of least mean loss, of those that every seed survived if there are any.

    Between two trained ones, where the vertex lies, a seed may diverge.
    """
    survived = loss.where(loss.notnull().all("seed"))
    means = (survived if bool(survived.notnull().any()) else loss).mean("seed")
    return float(means["lr"][int(np.nanargmin(means.values))])


def zero_shot(networks: Mapping[str, Known], runner: Runner) -> tuple[list[dict[str, Any]], list[pd.DataFrame]]:
    """Train every network's deepest size by every method, all as one sweep.

    Returns:
        A row for each network and method: learning rate, `loss` (mean of all steps) and `final_loss` (mean of the last
        tenth) with standard errors over seeds, `diverged` seeds, and `regret` with its error, the loss above the tuned
        one's, seed by seed; NaN if any seed diverged. And the runs.
    """
    asked = {(name, how): _spec(known, *at) for name, known in networks.items() for how, at in _methods(known)}
    results = dict(zip(asked, runner.run(list(asked.values())), strict=True))
    losses = {key: objective(result).isel(lr=0).values for key, result in results.items()}
    found = []
    for (name, how), result in results.items():
        regret = _mean(losses[name, how] - losses[name, "tuned"])
        row = {"network": name, "method": how, "rule": result.spec.rule[0], "lr": result.spec.lrs[0]}
        found.append(row | _outcome(result, losses[name, how]) | {"regret": regret[0], "regret_se": regret[1]})
    return found, [rows(result, network=name, stage=how) for (name, how), result in results.items()]


def _methods(known: Known) -> list[tuple[str, tuple[str, float]]]:
    return list(learning_rates(known).items())


def _spec(known: Known, rule: str, lr: float) -> Sweep:
    """The deepest network; the rules' base is the shallowest one."""
    base, depth = int(known.depths[0]), int(known.depths[-1])
    # The search's own learning rates are powers of two; those between are rounded: no law is known to nine digits.
    lr = lr if lr == known.tuned else float(f"{lr:.6g}")
    base = depth if rule == "sp" else base  # sp knows no base, and trials of the search are found again
    return dataclasses.replace(known.spec, rule=rule, depths=(depth,), base_depth=base, lrs=(lr,))


def _outcome(result: SweepResult, losses: np.ndarray) -> dict[str, Any]:
    at = result.data.isel(rule=0, width=0, depth=0, lr=0)
    loss, final = _mean(losses), _mean(at["loss"].values)
    diverged = int((at["status"] == STATUS["diverged"]).sum())
    return {
        "loss": loss[0],
        "loss_se": loss[1],
        "final_loss": final[0],
        "final_loss_se": final[1],
        "diverged": diverged,
    }


def _mean(values: np.ndarray) -> tuple[float, float]:
    """Mean over seeds and its standard error; NaN if any is missing."""
    count = len(values)
    error = float(values.std(ddof=1) / math.sqrt(count)) if count > 1 else math.nan
    return float(values.mean()), error
