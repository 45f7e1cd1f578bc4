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

from isoscale.runs import Sweep, SweepResult
from isoscale.runs.driver import Session
from isoscale.runs.result import STATUS
from isoscale.stats import Curve
from isoscale.stats.summary import mean_and_se
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
    deepest = float(known.depths[-1])
    depths = known.depths[:-1]
    lrs = known.lrs[:-1]
    shallowest_lr = float(lrs[0])
    fitted = Prediction(depths, lrs)
    claimed = Prediction(depths, lrs, CLAIM)
    found = {
        "tuned": ("sp", known.tuned),
        "fitted law": ("sp", fitted(deepest)),
        "claimed -3/2": ("sp", claimed(deepest)),
        "unchanged": ("sp", shallowest_lr),
    }
    # The deepest estimate, times the geometric mean of optimum / estimate of the others.
    estimate = known.estimates[-1]
    ratios = np.log(lrs / known.estimates[:-1])
    if np.isfinite(ratios).all() and math.isfinite(estimate):
        lr = estimate * np.exp(ratios.mean())
        found["sweep-free"] = ("sp", float(lr))
    if known.has_branches:
        for rule in RULES:
            found[rule] = (rule, shallowest_lr)
    return found


def tuned_lr(curve: Curve) -> float:
    """The trained learning rate of least mean loss, of those that every seed survived if there are any.

    Between two trained ones, where the vertex lies, a seed may diverge.
    """
    rates, rate = np.unique(curve.log2_lr, return_inverse=True)
    trained = np.bincount(rate[curve.is_stable], minlength=len(rates))
    total = np.bincount(rate[curve.is_stable], curve.loss[curve.is_stable], minlength=len(rates))
    # Rates that all seeds survived if there are any, else those that the most survived.
    is_safe = trained == trained.max()
    means = np.where(is_safe, total / np.maximum(trained, 1), np.inf)
    return float(2.0 ** rates[means.argmin()])


def zero_shot(networks: Mapping[str, Known], session: Session) -> tuple[list[dict[str, Any]], list[pd.DataFrame]]:
    """Train every network's deepest size by every method, all as one sweep.

    Returns:
        One row per network and method: learning rate, `loss` (mean of all steps) and `final_loss` (mean of the last
        tenth) with standard errors over seeds, `diverged` seeds, and `regret` with its error, the loss above the tuned
        one's, seed by seed; NaN if any seed diverged. And the runs.
    """
    specs = {}
    for name, known in networks.items():
        for method, (rule, lr) in learning_rates(known).items():
            specs[name, method] = _spec(known, rule, lr)
    results = session.run(list(specs.values()))
    results = dict(zip(specs, results, strict=True))

    found, tables = [], []
    for (name, method), result in results.items():
        # Seed by seed: what the seeds have in common cancels.
        above = _losses(result) - _losses(results[name, "tuned"])
        regret, regret_se = mean_and_se(above)
        row: dict[str, Any] = {
            "network": name,
            "method": method,
            "rule": result.spec.rule[0],
            "lr": result.spec.lrs[0],
        }
        row |= _outcome(result)
        row["regret"] = float(regret)
        row["regret_se"] = float(regret_se)
        found.append(row)
        table = rows(result, network=name, stage=method)
        tables.append(table)
    return found, tables


def _spec(known: Known, rule: str, lr: float) -> Sweep:
    """The deepest network; the rules' base is the shallowest one."""
    depth = int(known.depths[-1])
    # sp knows no base: with the search's own, its trials are found again.
    base = depth if rule == "sp" else int(known.depths[0])
    # The search's own learning rates are powers of two; those between are rounded: no law is known to nine digits.
    if lr != known.tuned:
        lr = float(f"{lr:.6g}")
    return dataclasses.replace(
        known.spec,
        rule=rule,
        depths=(depth,),
        base_depth=base,
        lrs=(lr,),
    )


def _losses(result: SweepResult) -> np.ndarray:
    """The objective of each seed at the only learning rate."""
    return objective(result).squeeze(drop=True).values.reshape(-1)


def _outcome(result: SweepResult) -> dict[str, Any]:
    """Losses with standard errors over seeds, NaN if any seed diverged, and how many did."""
    trials = result.data.isel(rule=0, width=0, depth=0, lr=0)
    loss, loss_se = mean_and_se(_losses(result))
    final, final_se = mean_and_se(trials["loss"].values)
    is_diverged = trials["status"] == STATUS["diverged"]
    return {
        "loss": float(loss),
        "loss_se": float(loss_se),
        "final_loss": float(final),
        "final_loss_se": float(final_se),
        "diverged": int(is_diverged.sum()),
    }
