"""A sweep's trials as labelled arrays."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from isoscale.files import replacing
from isoscale.runs.shards import Shard
from isoscale.runs.spec import Sweep
from isoscale.runs.store.store import Store
from isoscale.stats import Curve, find_optimum

if TYPE_CHECKING:
    import pandas as pd
    import xarray as xr

# Codes of `status` in a result; "missing" is a trial that another driver has not finished.
STATUS = {"done": 0, "diverged": 1, "failed": 2, "missing": 3}

_DIMS = ("rule", "width", "depth", "lr", "seed")


@dataclass(frozen=True)
class SweepResult:
    """What a sweep found.

    Attributes:
        spec: The grid.
        data: Dataset over (rule, width, depth, lr, seed): `loss` (mean training loss of the last tenth of the
            steps), `test_loss`, `test_accuracy`, `status` (0 done, 1 diverged, 2 failed, 3 missing) and
            `curve` (training loss at each step). Numbers of trials that are not done are NaN, but for the part
            of a curve before its divergence.
        note: Exactly which data was used.
        versions: What ran the trials, each combination once.
        reasons: Why trials failed, each reason once.
    """

    spec: Sweep
    data: xr.Dataset
    note: str
    versions: tuple[dict[str, str], ...]
    reasons: tuple[str, ...]

    @property
    def loss(self) -> xr.DataArray:
        """Final training loss over (rule, width, depth, lr, seed)."""
        return self.data["loss"]

    def curve(self, rule: str, width: int, depth: int) -> Curve:
        """The runs of one rule and size that finished or diverged, as what optima are read off."""
        data = self.data[["loss", "status"]].sel(rule=rule, width=width, depth=depth).transpose("lr", "seed")
        is_run = np.isin(data["status"].values, (STATUS["done"], STATUS["diverged"]))
        lrs, seeds = np.meshgrid(data["lr"].values, data["seed"].values, indexing="ij")
        return Curve.of_runs(lrs[is_run], seeds[is_run], data["loss"].values[is_run])

    def runs_table(self) -> pd.DataFrame:
        """The trials that ended, one row each: rule, width, depth, lr, seed, status, loss, test_loss."""
        words = {code: word for word, code in STATUS.items()}
        table = self.data[["status", "loss", "test_loss"]].to_dataframe().reset_index()
        table["status"] = table["status"].map(words)
        return table[table["status"] != "missing"].reset_index(drop=True)

    def optima(self) -> pd.DataFrame:
        """The optimum of every rule and size: rule, width, depth, lr, lr_low, lr_high, loss, loss_se, at_edge."""
        import pandas as pd

        rows = []
        for rule in self.data["rule"].values.tolist():
            for width, depth in self.spec.pairs:
                found = find_optimum(self.curve(rule, width, depth))
                row = {
                    "rule": rule,
                    "width": width,
                    "depth": depth,
                    "lr": 2.0**found.log2_lr,
                    "lr_low": 2.0**found.low,
                    "lr_high": 2.0**found.high,
                    "loss": found.loss,
                    "loss_se": found.loss_se,
                    "at_edge": found.edge,
                }
                rows.append(row)
        return pd.DataFrame(rows)

    def count(self, status: str) -> int:
        """How many trials ended with that status."""
        return int((self.data["status"] == STATUS[status]).sum())

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write `data` as NetCDF, whole or not at all.

        Raises:
            InvalidValueError: The file cannot be written.
        """
        content = self._netcdf()
        with replacing(path) as scratch:
            scratch.write_bytes(content)

    def _netcdf(self) -> bytes:
        # NetCDF 3 has no 64-bit integers; as floats, large seeds are exact up to 2^53.
        large = self.data["seed"].values.max() > np.iinfo("int32").max
        data = self.data.assign_coords(seed=self.data["seed"].astype(float)) if large else self.data
        return bytes(data.to_netcdf(engine="scipy"))

    def _repr_html_(self) -> str:
        return self.data._repr_html_()


def gather(spec: Sweep, plan: Sequence[Shard], store: Store) -> SweepResult:
    """Read a sweep's trials from the store."""
    import xarray as xr

    coords = {
        "rule": list(spec.rule),
        "width": list(spec.widths),
        "depth": list(spec.depths),
        "lr": list(spec.lrs),
        "seed": list(spec.seeds),  # pyrefly: ignore[bad-argument-type]  the spec made it a tuple
    }
    shape = tuple(map(len, coords.values()))
    numbers = {name: np.full(shape, np.nan) for name in ("loss", "test_loss", "test_accuracy")}
    curve = np.full((*shape, spec.steps), np.nan, "f4")
    status = np.full(shape, STATUS["missing"], np.int8)
    places: dict[str, int] = {}
    for shard in plan:
        config = shard.config
        at_size = (
            coords["rule"].index(config.rule),
            coords["width"].index(config.width),
            coords["depth"].index(config.depth),
        )
        # A shard goes through learning rates and seeds in this order (`shards.make`).
        first = int(np.ravel_multi_index((*at_size, 0, 0), shape))
        places |= {key: first + number for number, key in enumerate(shard.keys)}
    curves = curve.reshape(-1, spec.steps)  # a view
    trials = store.read(list(places))
    at = np.array([places[trial.key] for trial in trials], int)
    for place, trial in zip(at, trials, strict=True):
        curves[place, : len(trial.curve)] = trial.curve[: spec.steps]
    status.flat[at] = [STATUS[trial.status] for trial in trials]
    numbers["loss"].flat[at] = [trial.final_loss for trial in trials]
    numbers["test_loss"].flat[at] = [trial.test_loss for trial in trials]
    numbers["test_accuracy"].flat[at] = [trial.test_accuracy for trial in trials]
    arrays = {name: (_DIMS, array) for name, array in (numbers | {"status": status}).items()}
    dataset = xr.Dataset(arrays | {"curve": ((*_DIMS, "step"), curve)}, coords | {"step": np.arange(spec.steps)})
    for name in ("loss", "test_loss", "curve"):
        dataset[name].attrs["units"] = "nats"
    dataset["status"].attrs["codes"] = json.dumps(STATUS)
    return SweepResult(
        spec=spec,
        data=dataset,
        note=plan[0].source.note,
        versions=tuple(json.loads(text) for text in sorted({trial.versions for trial in trials})),
        reasons=tuple(sorted({trial.reason for trial in trials if trial.status == "failed"})),
    )
