"""From a table of runs to curves along one tuned hyperparameter, the others held or at their best.

Held, a curve has the runs at the base's best values of the other hyperparameters: what it costs to hand on this one
alone. At their best, it has for each value and seed the least loss that others give it: a joint optimum. A search of
the learning rate at every other setting has few rates in common: then the others are those of each size's best run.
Where no two runs have the same other values, as in a random search, a quadratic through the runs
(`isoscale.stats.surface`) brings each of them there.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

import numpy as np

from isoscale.errors import InvalidValueError
from isoscale.runs.points import ONE_LESS
from isoscale.runs.table import HYPERPARAMETERS
from isoscale.stats import Curve
from isoscale.stats.surface import Surface, fit_surface

if TYPE_CHECKING:
    import pandas as pd

    from isoscale.studies.judged import Axis

Others = Literal["best", "held"]
"""Where the other hyperparameters are: at their best, value by value, or held at the base's."""

OTHERS: tuple[Others, ...] = ("best", "held")

STOPPED = "stopped"
"""A table's column, if it has one: whether a run was stopped before its end. Its loss is infinite."""

# Of a hyperparameter's values, most have as many other settings as that at least, unless points are scattered.
_SHARED = 2
# Fewer scattered points of several hyperparameters at a size give intervals that hold the truth too seldom: measured in
# docs/verdict.md, "Several hyperparameters".
LEAST_POINTS = 32
# Share of a grid that is a grid all the same: trials may have failed.
_CROSSED = 0.8


class Along(NamedTuple):
    """The hyperparameter that a question is about, and the further ones that were tuned.

    Attributes:
        name: Its column.
        tuned: Columns of the others that have several values.
        linear: Those of them that act by themselves and not by their logarithm.
    """

    name: str
    tuned: tuple[str, ...] = ()
    linear: Sequence[str] = ()

    @property
    def words(self) -> str:
        """What its octaves are of: "learning rate", "weight_decay", "1 - beta2"."""
        if self.name == "lr":
            return "learning rate"
        return f"1 - {self.name}" if self.name in ONE_LESS else self.name


def in_octaves(name: str, values: np.ndarray) -> np.ndarray:
    """The positive numbers whose octaves count: 1 - beta for `ONE_LESS`, the values themselves for others."""
    return 1 - values if name in ONE_LESS else values


def tuned_columns(table: pd.DataFrame) -> tuple[str, ...]:
    """Columns of hyperparameters with several values that can be compared in octaves."""
    return tuple(name for name in table if name in HYPERPARAMETERS and octaves_of(table, name) > 1)


def usable(table: pd.DataFrame, name: str) -> tuple[pd.DataFrame, list[str]]:
    """The runs whose hyperparameter can be compared in octaves, and what was left out, in words.

    Raises:
        InvalidValueError: A value that is negative or infinite, or none that is positive.
    """
    if table.empty:
        return table, []
    values = table[name].to_numpy(float)
    if np.isinf(values).any() or not (values > 0).any() or (values < 0).any():
        bad = values[~(values > 0)][:5].tolist()
        raise InvalidValueError(f"`{name}` must be positive to be compared in octaves, got {bad}")
    octaves = in_octaves(name, values)
    is_usable = octaves > 0
    if is_usable.all():
        return table, []
    left_out = ", ".join(f"{value:g}" for value in np.unique(values[~is_usable]))
    return table[is_usable], [f"runs at {name} {left_out} are left out of its verdict: no octaves lead there"]


def octaves_of(table: pd.DataFrame, name: str) -> int:
    """How many different values a hyperparameter has that octaves lie between; 0 of texts."""
    values = table[name]
    if values.dtype.kind not in "iuf":
        return 0
    numbers = values.dropna().to_numpy(float)
    octaves = in_octaves(name, numbers)
    return len(np.unique(octaves[octaves > 0]))


def curves(table: pd.DataFrame, axis: Axis, along: Along, others: Others) -> tuple[dict[Any, Curve], list[str]]:
    """The curve of each size along a hyperparameter, and what is to be said of them.

    Args:
        table: The runs of one rule, one for each setting and seed.
        axis: The sizes.
        along: The hyperparameter.
        others: Where the other tuned ones are.
    """
    if not along.tuned or table.empty:
        return {size: _curve(table[table[axis.name] == size], along.name) for size in axis.sizes}, []
    notes = []
    if is_scattered(table, axis, along):
        brought = _brought(table, axis, along, others)
        if brought is not None:
            return brought, []
        names = ", ".join([along.name, *along.tuned])
        notes = [f"runs are too few, or too much alike, to tell {names} apart: each counts as it is"]
        others = "best"
    of_size = {size: table[table[axis.name] == size] for size in axis.sizes}
    if others == "held":
        kept = {size: _at(runs, along, best_setting(of_size[axis.base], along)) for size, runs in of_size.items()}
    elif along.name == "lr" and not notes and not _is_crossed(table, axis, along):
        kept = {size: _at(runs, along, best_setting(runs, along)) for size, runs in of_size.items()}
    else:
        kept = {}
        for size, runs in of_size.items():
            kept[size] = least_of(runs, [along.name, "seed"])
    return {size: _curve(runs, along.name) for size, runs in kept.items()}, notes


def best_setting(runs: pd.DataFrame, along: Along) -> dict[str, Any]:
    """The value of every tuned hyperparameter where the mean loss of a size's runs is least; empty without runs.

    Settings of few seeds are no settings of most seeds: next to a cliff a search trains single ones.
    """
    names = [along.name, *along.tuned]
    of_setting = runs.groupby(names, dropna=False)["loss"].agg(["mean", "count"])
    if of_setting.empty:
        return {}
    common = of_setting[2 * of_setting["count"] >= of_setting["count"].max()]
    best = common["mean"].idxmin()
    return dict(zip(names, best, strict=True))


def is_scattered(table: pd.DataFrame, axis: Axis, along: Along) -> bool:
    """Whether most values of the hyperparameter stand beside one setting of the others alone."""
    settings = table[[axis.name, along.name, *along.tuned]].drop_duplicates()
    beside = settings.groupby([axis.name, along.name]).size()
    return bool(beside.median() < _SHARED) and len(beside) > 1


def points_of(table: pd.DataFrame, axis: Axis, along: Along) -> dict[Any, int]:
    """How many settings of the tuned hyperparameters each size has."""
    settings = table[[axis.name, along.name, *along.tuned]].drop_duplicates()
    counts = settings.groupby(axis.name).size()
    return {size: int(counts.get(size, 0)) for size in axis.sizes}


def _is_crossed(table: pd.DataFrame, axis: Axis, along: Along) -> bool:
    """Whether most values of the hyperparameter stand beside most settings of the others, as on a grid."""
    settings = table[[axis.name, along.name, *along.tuned]].drop_duplicates()
    others = settings[[axis.name, *along.tuned]].drop_duplicates().groupby(axis.name).size()
    values = settings.groupby(axis.name)[along.name].nunique()
    return len(settings) >= _CROSSED * float((others * values).sum())


def _at(runs: pd.DataFrame, along: Along, setting: Mapping[str, Any]) -> pd.DataFrame:
    """The runs at a setting of the other hyperparameters."""
    for name in along.tuned:
        if name in setting:
            runs = runs[runs[name] == setting[name]]
    return runs


def least_of(runs: pd.DataFrame, names: Sequence[str]) -> pd.DataFrame:
    """The run of least loss for each value of some columns; of those that end nowhere one that was stopped."""
    known = [name for name in ("loss", STOPPED) if name in runs]
    best_first = runs.sort_values(known, ascending=[True, False][: len(known)], kind="stable")
    return best_first.drop_duplicates(list(names))


def _curve(of_size: pd.DataFrame, name: str) -> Curve:
    octaves = in_octaves(name, of_size[name].to_numpy(float))
    is_stopped = of_size[STOPPED].to_numpy(bool) if STOPPED in of_size else False
    return Curve.of_runs(octaves, of_size["seed"].to_numpy(), of_size["loss"].to_numpy(float), is_stopped)


# --- scattered points ---
def _brought(table: pd.DataFrame, axis: Axis, along: Along, others: Others) -> dict[Any, Curve] | None:
    """The curves of scattered points, each brought to where the others are held or best; None if they cannot be."""
    of_size = {size: table[table[axis.name] == size] for size in axis.sizes}
    surfaces: dict[Any, tuple[Surface, np.ndarray]] = {}
    for size, runs in of_size.items():
        fitted = _fitted(runs, along)
        if fitted is None:
            return None
        surfaces[size] = fitted
    base, points = surfaces[axis.base]
    losses = of_size[axis.base]["loss"].to_numpy(float)
    reference = base.optimum(points[np.argmin(np.where(base.is_near, losses, np.inf))])
    found = {}
    for size, runs in of_size.items():
        surface, points = surfaces[size]
        if others == "held":
            moved = np.tile(reference, (len(points), 1))
            moved[:, 0] = points[:, 0]
            there = surface.at(moved)
        else:
            there = surface.least(0, points)
        loss = runs["loss"].to_numpy(float)
        cost = surface.at(points) - there
        # Far from the optimum there is no quadratic: what the others cost must be as little as near it.
        kept = np.isfinite(loss) & (cost <= cost[surface.is_near].max())
        if along.name == "lr":
            # A run that diverged above all that trained may have done so because of its learning rate.
            kept |= np.isinf(loss) & (points[:, 0] > points[kept, 0].max())
        loss = loss * np.exp(-cost)
        found[size] = Curve.of_runs(2.0 ** points[kept, 0], runs["seed"].to_numpy()[kept], loss[kept])
    return found


def _fitted(runs: pd.DataFrame, along: Along) -> tuple[Surface, np.ndarray] | None:
    """A size's surface, and the coordinates of its runs: logarithms, but for linear hyperparameters."""
    columns = []
    for name in (along.name, *along.tuned):
        values = runs[name].to_numpy(float)
        is_linear = name in along.linear and name != along.name
        columns.append(values if is_linear else np.log2(in_octaves(name, values)))
    points = np.column_stack(columns)
    seed = np.unique(runs["seed"].to_numpy(), return_inverse=True)[1]
    surface = fit_surface(points, seed, runs["loss"].to_numpy(float))
    return None if surface is None else (surface, points)
