"""A sweep's trials as labelled arrays."""

from __future__ import annotations

import json
import math
import os
import re
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from isoscale.files import replacing
from isoscale.runs.record import TrialRecord
from isoscale.runs.spec import Sweep
from isoscale.runs.store.store import Store
from isoscale.runs.trainers.foreign import ForeignShard
from isoscale.runs.trainers.registry import AnyShard
from isoscale.stats import Curve, Quantity, find_optimum

if TYPE_CHECKING:
    import pandas as pd
    import xarray as xr

# What stands behind a reason that has a log.
_LOG = re.compile(r" \((?:\d+ trials, )?(?:one's )?log: (.*)\)$")

# Codes of `status` in a result; "missing" is a trial that another driver has not finished.
STATUS = {"done": 0, "diverged": 1, "failed": 2, "missing": 3, "stopped": 4}


Cell = tuple[tuple[str, Any], ...]
"""One of a spec's `cells`, rule, sizes and hyperparameters, as pairs of a name and a value."""


def cell_of(values: Mapping[str, Any]) -> Cell:
    """One of a spec's `cells` as a key."""
    return tuple(values.items())


@dataclass(frozen=True)
class Searched:
    """What searches took.

    Attributes:
        optima: How many there were.
        trials: Trials that they asked for, pilots included.
        full_trials: The same with each trial counted by the steps that it took, in full trials.
        stopped: How many of them were stopped because they were hopeless.
        failed: How many of them failed.
        reasons: Why, each reason once.
    """

    optima: int
    trials: int
    full_trials: float
    stopped: int
    failed: int = 0
    reasons: tuple[str, ...] = ()

    def __str__(self) -> str:
        """For a person.

        >>> print(Searched(optima=2, trials=40, full_trials=30.25, stopped=1))
        2 searches: 40 trials, 1 of them stopped early, as long as 30.2 full ones (15.1 an optimum)
        """
        searches = "1 search" if self.optima == 1 else f"{self.optima} searches"
        early = f", {self.stopped} of them stopped early" if self.stopped else ""
        failed = f", {self.failed} of them failed" if self.failed else ""
        each = f" ({self.full_trials / self.optima:.1f} an optimum)" if self.optima > 1 else ""
        return f"{searches}: {self.trials} trials{early}{failed}, as long as {self.full_trials:.1f} full ones{each}"


@dataclass(frozen=True, repr=False)
class SweepResult:
    """What a sweep found.

    Attributes:
        spec: The grid.
        data: Dataset over (rule, width, depth, lr, seed), more or fewer if the spec has other axes: `loss` (mean
            training loss of the last tenth of the steps, or what the user's code says it is), `test_loss`,
            `test_accuracy`, `status` (0 done, 1 diverged, 2 failed, 3 missing, 4 stopped), `curve` (training loss at
            each step) and what else was measured: the metric, by its name. Numbers of trials that are not done are NaN,
            but for the part of a curve before its divergence or its stop.
        note: Exactly which data was used; of the user's code, which code.
        versions: What ran the trials, each combination once.
        reasons: Why trials of `data` failed, each reason once; of the user's code with the log of the first one.
        searched: What an adaptive search took; None of a grid.
    """

    spec: Sweep
    data: xr.Dataset
    note: str
    versions: tuple[dict[str, str], ...]
    reasons: tuple[str, ...]
    searched: Searched | None = None

    @property
    def loss(self) -> xr.DataArray:
        """Final loss over the axes: (rule, width, depth, lr, seed)."""
        return self.data["loss"]

    @property
    def quantity(self) -> Quantity:
        """What the trials are judged by."""
        return self.spec.quantity

    @property
    def cost(self) -> xr.DataArray:
        """What is least where training is best, over the axes: the loss, or the metric (minus it, if that rises)."""
        name = self.quantity.name
        # Where all diverged nothing was measured.
        measured = self.data[name] if name in self.data else self.data["loss"] * math.nan
        return measured if self.quantity.sign > 0 else -measured

    def curve(self, cell: Mapping[str, Any]) -> Curve:
        """The runs that finished, diverged or were stopped at one of the spec's cells, as what optima are read off."""
        data = self.data[["status"]].assign(cost=self.cost).sel(dict(cell)).transpose("lr", "seed")
        status = data["status"].values
        is_run = np.isin(status, (STATUS["done"], STATUS["diverged"], STATUS["stopped"]))
        lrs, seeds = np.meshgrid(data["lr"].values, data["seed"].values, indexing="ij")
        is_stopped = status[is_run] == STATUS["stopped"]
        return Curve.of_runs(lrs[is_run], seeds[is_run], data["cost"].values[is_run], is_stopped)

    def runs_table(self) -> pd.DataFrame:
        """The trials that ended, were stopped or failed, one row each.

        Columns: the axes, status, loss, test_loss and the metric by its name.
        """
        words = {code: word for word, code in STATUS.items()}
        measured = self.data[["status", "loss", "test_loss"]].assign(
            {self.quantity.name: self.quantity.sign * self.cost}
        )
        table = measured.to_dataframe().reset_index()
        table["status"] = table["status"].map(words)
        return table[table["status"] != "missing"].reset_index(drop=True)

    def optima(self) -> pd.DataFrame:
        """The optimum of every rule and size: the axes, lr, lr_low, lr_high, loss, loss_se, at_edge.

        Judged by a metric, the columns of the loss are the metric's.
        """
        import pandas as pd

        rows = []
        for cell in self.spec.cells:
            found = find_optimum(self.curve(cell))
            row = dict(cell)
            row |= {
                "lr": 2.0**found.log2_lr,
                "lr_low": 2.0**found.low,
                "lr_high": 2.0**found.high,
                self.quantity.name: self.quantity.sign * found.loss,
                f"{self.quantity.name}_se": found.loss_se,
                "at_edge": found.edge,
            }
            rows.append(row)
        return pd.DataFrame(rows)

    @property
    def trials(self) -> dict[Cell, set[tuple[float, int]]]:
        """Learning rate and seed of the trials that were run, by the cell of the spec that they are of."""
        return {cell_of(values): self._trials_at(values) for values in self.spec.cells}

    def _trials_at(self, values: Mapping[str, Any]) -> set[tuple[float, int]]:
        status = self.data["status"].sel(dict(values)).transpose("lr", "seed")
        lrs, seeds = np.nonzero(status.values != STATUS["missing"])
        found_lrs, found_seeds = status["lr"].values[lrs], status["seed"].values[seeds]
        return set(zip(found_lrs.tolist(), found_seeds.tolist(), strict=True))

    def only(self, trials: Mapping[Cell, Collection[tuple[float, int]]]) -> SweepResult:
        """The same with these trials of each cell alone: the others, which other sweeps have run, count as missing."""
        is_kept = (self.data["status"] != self.data["status"]).copy()
        lrs = {lr: at for at, lr in enumerate(self.data["lr"].values.tolist())}
        seeds = {seed: at for at, seed in enumerate(self.data["seed"].values.tolist())}
        for cell, pairs in trials.items():
            of_cell = np.zeros((len(lrs), len(seeds)), bool)
            for lr, seed in pairs:
                if lr in lrs and seed in seeds:
                    of_cell[lrs[lr], seeds[seed]] = True
            is_kept.loc[dict(cell)] = of_cell
        status = self.data["status"].where(is_kept, np.int8(STATUS["missing"]))
        status.attrs = self.data["status"].attrs
        return replace(self, data=self.data.where(is_kept).assign(status=status))

    def count(self, status: str) -> int:
        """How many trials ended with that status."""
        return int((self.data["status"] == STATUS[status]).sum())

    @property
    def failures(self) -> tuple[str, ...]:
        """Why trials failed, each reason once: those of `data`, and the pilots of a search."""
        of_search = () if self.searched is None else self.searched.reasons
        return distinct([*self.reasons, *of_search])

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

    def __repr__(self) -> str:
        """How many trials ended how, and the axes."""
        counts = [f"{self.count(status)} {status}" for status in STATUS if self.count(status)]
        sizes = [f"{name} {size}" for name, size in self.data["status"].sizes.items()]
        return f"<SweepResult of {self.spec.subject}: {', '.join(counts)}; {', '.join(sizes)}>"

    def _repr_html_(self) -> str:
        return self.data._repr_html_()


def gather(spec: Sweep, plan: Sequence[AnyShard], store: Store) -> SweepResult:
    """Read a sweep's trials from the store.

    Args:
        spec: The sweep.
        plan: Its shards, in the order of its axes.
        store: Where its trials are.
    """
    import xarray as xr

    axes = spec.axes
    dims = tuple(axes)
    shape = tuple(map(len, axes.values()))
    keys = [key for shard in plan for key in shard.keys]
    places = dict(zip(keys, _places(spec), strict=True))
    trials = store.read(keys)
    steps = max((len(trial.curve) for trial in trials), default=0) if spec.is_foreign else spec.longest
    measured = [trial.measured for trial in trials]
    names = {"loss": 0, "test_loss": 0, "test_accuracy": 0}
    for further in measured:
        names |= dict.fromkeys(further, 0)
    # How long a trial took is no result of it.
    names.pop("seconds", None)
    numbers = {name: np.full(shape, np.nan) for name in names}
    curve = np.full((*shape, steps), np.nan, "f4")
    status = np.full(shape, STATUS["missing"], np.int8)
    curves = curve.reshape(math.prod(shape), steps)  # a view
    at = np.array([places[trial.key] for trial in trials], int)
    for place, trial, further in zip(at, trials, measured, strict=True):
        curves[place, : len(trial.curve)] = trial.curve[:steps]
        for name in further:
            if name in numbers:
                numbers[name].flat[place] = further[name]
    status.flat[at] = [STATUS[trial.status] for trial in trials]
    numbers["loss"].flat[at] = [trial.final_loss for trial in trials]
    numbers["test_loss"].flat[at] = [trial.test_loss for trial in trials]
    numbers["test_accuracy"].flat[at] = [trial.test_accuracy for trial in trials]
    arrays: dict[str, Any] = {name: (dims, array) for name, array in numbers.items()}
    arrays["status"] = (dims, status)
    coords: dict[str, Any] = {name: list(values) for name, values in axes.items()}
    if steps:  # code that gives back its final loss has no curve
        arrays["curve"] = ((*dims, "step"), curve)
        coords["step"] = np.arange(steps)
    if spec.search == "random":
        # A point has its own value of everything that is tuned.
        coords |= {name: ("lr", [point[name] for point in spec.drawn]) for name in spec.hyperparameters}
    dataset = xr.Dataset(arrays, coords)
    if not spec.is_foreign:
        for name in ("loss", "test_loss", "curve"):
            dataset[name].attrs["units"] = "nats"
    dataset["status"].attrs["codes"] = json.dumps(STATUS)
    return SweepResult(
        spec=spec,
        data=dataset,
        note=plan[0].note,
        versions=tuple(json.loads(text) for text in sorted({trial.versions for trial in trials})),
        reasons=_reasons(plan, trials),
    )


def _places(spec: Sweep) -> Iterator[int]:
    """Where each trial of the plan stands in the flat arrays: cell by cell, then learning rates, then seeds."""
    axes = spec.axes
    shape = tuple(map(len, axes.values()))
    # By name of the axis: where on it each of its values stands.
    indices = {}
    for name, values in axes.items():
        indices[name] = {value: at for at, value in enumerate(values)}
    seeds = len(axes["seed"])
    for cell, lrs in spec.groups:
        at = [indices[name][cell[name]] for name in axes if name not in ("lr", "seed")]
        # Learning rates and seeds are the last axes, and those of a group follow each other.
        first = int(np.ravel_multi_index((*at, indices["lr"][lrs[0]], 0), shape))
        yield from range(first, first + len(lrs) * seeds)


def _reasons(plan: Sequence[AnyShard], trials: Sequence[TrialRecord]) -> tuple[str, ...]:
    """Why trials failed, each reason once, with the log of the first that has one."""
    failed: dict[str, list[str]] = {}
    for trial in trials:
        if trial.status == "failed":
            failed.setdefault(trial.reason, []).append(trial.key)
    if not failed:
        return ()
    logs = {shard.id: shard.log for shard in plan if isinstance(shard, ForeignShard)}
    found = []
    for reason in sorted(failed):
        keys = failed[reason]
        log = next((logs[key] for key in sorted(keys) if key in logs), None)
        several = f"{len(keys)} trials, one's log: " if len(keys) > 1 else "log: "
        found.append(reason if log is None else f"{reason} ({several}{log})")
    return tuple(found)


def distinct(reasons: Iterable[str]) -> tuple[str, ...]:
    """One of those reasons that differ in nothing but their logs; sorted.

    >>> distinct(["it has no loss (2 trials, one's log: a)", "it has no loss (log: b)", "none"])
    ("it has no loss (one's log: a)", 'none')
    """
    found: dict[str, str] = {}
    for reason in reasons:
        plain = _LOG.sub("", reason)
        known = found.setdefault(plain, reason)
        if known != reason:
            # How many trials each of them counts is no longer told.
            found[plain] = _LOG.sub(r" (one's log: \1)", known)
    return tuple(sorted(found.values()))
