"""A made-up result, realistic in every respect that a figure or a table can show.

Four rules: one transfers; one drifts until the transferred learning rate diverges; one has its optima on the
grid's edge; one does not train at the largest size.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pytest
import xarray as xr

DONE, DIVERGED = 0, 1
STEPS = 20

# By rule: log2 of the best learning rate at the smallest size, octaves that it moves and factor that the best
# loss takes for each doubling of the size, octaves from the optimum to divergence.
RULES: dict[str, tuple[float, float, float, float]] = {
    "sp": (-2.0, -1.7, 1.15, 1.5),
    "completep": (-2.1, -0.03, 0.93, 2.9),
    "depth-mup": (-2.0, -0.9, 0.97, 2.2),
    "lazy": (1.4, 1.2, 0.98, 9.0),
}


@pytest.fixture(scope="session")
def make_data() -> Callable[..., xr.Dataset]:
    """Build a result: `make_data(axis="width", rules={...}, sizes=[...], seeds=1)`."""
    return build


@pytest.fixture
def data() -> xr.Dataset:
    """The result with every case in it."""
    return build()


def build(
    *,
    axis: str = "depth",
    rules: dict[str, tuple[float, float, float, float]] = RULES,
    sizes: Sequence[int] = (4, 8, 16, 32),
    lrs: Sequence[float] = tuple(2.0**k for k in range(-8, 3)),
    seeds: int = 3,
    **attrs: Any,
) -> xr.Dataset:
    """The whole Dataset that `report` is handed."""
    coords = {"rule": list(rules), axis: list(sizes), "lr": list(lrs), "seed": list(range(seeds))}
    shape = tuple(len(values) for values in coords.values())
    loss = np.stack(
        [
            [_losses(i, j, parts, coords[axis], lrs, seeds) for j in range(shape[1])]
            for i, parts in enumerate(rules.values())
        ]
    )
    loss = loss.reshape(shape)
    if "sp" in rules and 32 in sizes:
        loss[list(rules).index("sp"), list(sizes).index(32)] = np.nan
    status = np.where(np.isnan(loss), DIVERGED, DONE).astype("int8")
    falling = 1 + np.exp(-np.arange(STEPS) / 4)
    arrays = {
        "loss": (tuple(coords), loss),
        "test_loss": (tuple(coords), 1.5 * loss),
        "status": (tuple(coords), status),
        "curve": ((*coords, "step"), loss[..., None] * falling),
    }
    data = xr.Dataset(arrays, coords=coords)
    return _summarised(data, axis).assign_attrs(_attrs(axis, data, sizes) | attrs)


def _losses(i: int, j: int, parts: tuple, sizes: Sequence[int], lrs: Sequence[float], seeds: int) -> np.ndarray:
    """(lr, seed): a valley with an untrained plateau of 2.3 on its left and a cliff on its right."""
    start, slope, gain, cliff = parts
    doublings = float(j) if isinstance(sizes[j], str) else np.log2(sizes[j] / sizes[0])
    noise = np.random.default_rng([i, j]).normal(size=(len(lrs), seeds))
    u = (np.log2(lrs) - start - slope * doublings)[:, None] + 0.06 * noise
    best = 0.11 * gain**doublings * np.exp(0.05 * noise)
    loss = best + (2.3 - best) * (1 - np.exp(-0.035 * u**2)) * np.exp(np.where(u > 0, 0.9 * u, 0))
    return np.where(u > cliff, np.nan, loss)


def _summarised(data: xr.Dataset, axis: str) -> xr.Dataset:
    """The optima, drifts, regrets, laws and verdicts, as the layer above the report would compute them."""
    mean = data.loss.mean("seed").where((data.status == DONE).all("seed"))
    trained = mean.notnull().any("lr")
    at = mean.fillna(np.inf).argmin("lr")
    lr = data.lr[at].drop_vars("lr").where(trained)
    edge = (
        xr.where(at == 0, "low", xr.where(at == data.sizes["lr"] - 1, "high", "")).where(trained, "none").astype("U4")
    )
    inside = edge == ""
    lr = xr.where(inside, lr * 1.09, lr)
    drift = np.log2(lr / lr.isel({axis: 0}, drop=True))
    best = mean.min("lr")
    base_at = at.isel({axis: 0}, drop=True)
    regret = (mean.fillna(np.inf).isel(lr=base_at).drop_vars("lr") - best).where(trained)
    there = mean.fillna(np.inf).isel(lr=base_at).drop_vars("lr")
    good = (np.abs(drift.isel({axis: -1}, drop=True)) < 0.5).astype("int8")
    data = data.assign(
        optimal_lr=lr,
        optimal_lr_low=(lr / 1.2).where(inside),
        optimal_lr_high=(lr * 1.22).where(inside),
        at_edge=edge,
        best_loss=best,
        best_loss_se=0.03 * best,
        drift=drift,
        drift_low=(drift - 0.3).where(inside),
        drift_high=(drift + 0.3).where(inside),
        regret=regret,
        regret_low=0.8 * regret,
        regret_high=1.2 * regret,
        loss_transferred=there,
        loss_tuned=best,
        is_limit=xr.zeros_like(inside),
        rate_used=lr.isel({axis: 0}, drop=True),
        good=good,
    )
    return data.assign(_law(data, axis) | _verdicts(data, axis))


def _law(data: xr.Dataset, axis: str) -> dict[str, Any]:
    """A straight line through the interior optima of each rule, if there are three."""
    fits = []
    for rule in data.rule.values:
        cell = data.sel(rule=rule)
        inside = (cell.at_edge == "").values
        if cell[axis].dtype.kind == "U" or inside.sum() < 3:
            fits.append((np.nan, np.nan))
            continue
        x, y = np.log(cell[axis].values[inside]), np.log(cell.optimal_lr.values[inside])
        fits.append(np.polyfit(x, y, 1))
    slope, offset = np.array(fits, dtype=float).T
    names = {"exponent": slope, "exponent_low": slope - 0.12, "exponent_high": slope + 0.12}
    return {name: ("rule", column) for name, column in (names | {"coefficient": np.exp(offset)}).items()}


def _verdicts(data: xr.Dataset, axis: str) -> dict[str, Any]:
    """Good drifts little, a bound cannot tell."""
    end = data.isel({axis: -1})
    size = end[axis].item()
    verdicts, reasons = [], []
    for drift, edge in zip(end.drift.values.tolist(), end.at_edge.values.tolist(), strict=True):
        if edge == "none":
            verdicts.append("does not transfer")
            reasons.append(f"not trainable at {axis} {size}")
        elif edge:
            verdicts.append("cannot tell")
            reasons.append(f"the optimum at {axis} {size} lies at the end of the measured rates")
        elif abs(drift) < 0.5:
            verdicts.append("transfers")
            reasons.append("costs 0 % of the loss (limit 2 %)")
        else:
            verdicts.append("does not transfer")
            reasons.append(f"costs 40 % of the loss (limit 2 %): the optimum drifts by {drift:+.1f} octaves")
    return {"verdict": ("rule", np.array(verdicts)), "reason": ("rule", np.array(reasons))}


def _attrs(axis: str, data: xr.Dataset, sizes: Sequence[int]) -> dict[str, Any]:
    return {
        "axis": axis,
        "base": sizes[0],
        "question": f"Does the learning rate of {axis} {sizes[0]} serve {axis} {sizes[-1]}?",
        "answer": f"With completep it does: its best learning rate stays the same up to {axis} {sizes[-1]}.",
        "limits": json.dumps({"regret": 0.02, "worse": 0.02, "lost_seeds": 0.0, "level": 0.95}),
        "model": "residual-mlp, two-layer blocks, width 64",
        "dataset": "digits",
        "dataset_note": "1,437 training images of 8 x 8 pixels, ships with scikit-learn",
        "optimizer": "SGD",
        "command": "isoscale transfer --depths 4 8 16 32 --rule sp completep depth-mup lazy",
        "created": "2026-01-02T03:04:05",
        "versions": json.dumps({"isoscale": "0.1.0", "torch": "2.13.0", "numpy": "2.4.6"}),
        "spec": 'model = "residual-mlp"\ndataset = "digits"\ndepths = [4, 8, 16, 32]\n',
        "seconds": 93.5,
        "trials": int(data.status.size),
        "diverged": int((data.status == DIVERGED).sum()),
        "failed": 0,
    }
