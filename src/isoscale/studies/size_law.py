"""How the best learning rate moves along an axis of sizes: its exponent, what is published, and what a law predicts.

The optimum of each size is searched for (`isoscale.transfer`); a power law is fitted to those that lie inside the
measured rates. The largest size's rate is then predicted from the smaller ones, by the fitted law, by each published
exponent and by the smallest size's rate unchanged, and trained: what a prediction costs is measured, seed by seed.
Depth has a law of its own, with what is known of it without a sweep (`isoscale.depth_law`).
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Unpack

import numpy as np

from isoscale.errors import InvalidValueError
from isoscale.runs import Runner, RunOptions, Sweep, SweepResult
from isoscale.runs.result import STATUS
from isoscale.stats import find_optimum
from isoscale.stats.optimum import Optimum, t_interval
from isoscale.stats.power_law import fit_curvature, fit_power_law
from isoscale.studies.depth_law.zero_shot import tuned_lr
from isoscale.studies.published import Exponent, exponents
from isoscale.studies.transfer import Transfer, asked, said_of_lengths, transfer

if TYPE_CHECKING:
    import pandas as pd
    import xarray as xr

    from isoscale.studies.judged import Axis

# A law of fewer sizes has no interval.
_LEAST = 3
_SIZES = ("width", "batch_size", "steps")


@dataclass(frozen=True, repr=False)
class SizeLaw:
    """How the best learning rate of a sweep moves with a size.

    Attributes:
        data: Dataset over (rule, <axis>): `lr`, `lr_low`, `lr_high` (95 % over seeds; NaN where open), `at_edge`,
            `is_limit`, `loss`, `loss_se`, `batch_size`, `steps`, `tokens`; and over rule: `exponent`, `coefficient`,
            `r2`, `points`, `curvature` (change of the exponent with each doubling), with `_low` and `_high`.
        published: One row per rule and published exponent: `rule`, `published`, `exponent`, `source`, and whether the
            measured interval leaves it: "survives", "excluded" or "cannot tell" (no interval).
        zero_shot: One row per rule and method of predicting the largest size's rate: `lr`; `octaves` (predicted above
            measured), `octaves_low`, `octaves_high`; `loss`, `regret` (loss above the best rate's, seed by seed),
            `regret_low`, `regret_high`, `diverged` seeds.
        runs: Every full trial of the searches, with its batch size, steps and samples (`tokens`).
        axis: The size's name.
        transfer: The verdict on the same runs: does the smallest size's rate serve the largest?
        notes: What is to be said.
    """

    data: xr.Dataset
    published: pd.DataFrame
    zero_shot: pd.DataFrame
    runs: pd.DataFrame
    axis: str
    transfer: Transfer
    notes: tuple[str, ...]

    def __repr__(self) -> str:
        """The exponent of each rule."""
        exponents = [
            f"{rule} {float(self.data['exponent'].sel(rule=rule)):.2f} "
            f"[{float(self.data['exponent_low'].sel(rule=rule)):.2f}, "
            f"{float(self.data['exponent_high'].sel(rule=rule)):.2f}]"
            for rule in self.data["rule"].values.tolist()
        ]
        return f"<SizeLaw of the best learning rate in {self.axis}: {', '.join(exponents)}>"

    def _repr_html_(self) -> str:
        return self.data._repr_html_()


def size_law(spec: Sweep, *, runner: Runner | None = None, **where: Unpack[RunOptions]) -> SizeLaw:
    """Measure how the best learning rate moves along the sweep's size axis.

    Args:
        spec: Three sizes or more of one of `widths`, `batch_sizes` and `steps`; `budget_axis` says what stays fixed.
            Its optima are searched for unless its `search` is "grid".
        runner: Where and how to run; instead of the following.
        **where: As for `isoscale.sweep`; run again to resume.

    Raises:
        InvalidValueError: No axis or several, too few sizes, hyperparameters beside the learning rate.
    """
    spec, axis = checked(spec)
    runner = runner or Runner(**where)
    found = transfer(spec, runner=runner)
    result = found.result
    assert result is not None
    optima = {rule: _optima(result, rule, axis) for rule in spec.axes["rule"]}
    rates = {rule: predictions(optima[rule], exponents(spec, axis.name)) for rule in optima}
    return SizeLaw(
        data=_dataset(spec, axis, optima),
        published=_published(spec, axis, optima),
        zero_shot=_zero_shot(spec, axis, optima, rates, result, runner),
        runs=_runs(result),
        axis=axis.name,
        transfer=found,
        notes=tuple(said_of_lengths(spec)),
    )


def checked(spec: Sweep) -> tuple[Sweep, Axis]:
    """The sweep and its one axis of sizes, after both were seen to have a law; errors as for `size_law`."""
    spec, axis = asked(spec)
    if axis.name not in _SIZES:
        raise InvalidValueError(f"a law along {axis.name} is not one of {', '.join(_SIZES)}: see `isoscale.depth_law`")
    if len(axis.sizes) < _LEAST:
        shown = ", ".join(map(str, axis.sizes))
        raise InvalidValueError(f"a law needs three sizes or more along {axis.name}, got {shown}")
    if spec.hyperparameters or spec.search == "random":
        raise InvalidValueError("a law is one of the learning rate: leave out `hyperparameters` and a random search")
    return spec, axis


def _cell(spec: Sweep, rule: str, axis: Axis, size: Any) -> dict[str, Any]:
    return next(cell for cell in spec.cells if cell["rule"] == rule and cell[axis.name] == size)


def _optima(result: SweepResult, rule: str, axis: Axis) -> dict[float, Optimum]:
    return {float(size): find_optimum(result.curve(_cell(result.spec, rule, axis, size))) for size in axis.sizes}


def _runs(result: SweepResult) -> pd.DataFrame:
    """Every full trial, with what it spent."""
    spec, table = result.spec, result.runs_table()
    cells: list[Any] = table[[name for name in spec.cells[0] if name in table]].to_dict("records")
    spent = [spec.spending(cell) for cell in cells]
    return table.assign(
        batch_size=[one.batch_size for one in spent],
        steps=[one.steps for one in spent],
        tokens=[one.tokens for one in spent],
    )


# --- the law ---
_LAW = ("exponent", "exponent_low", "exponent_high", "coefficient", "r2", "points")
_BEND = ("curvature", "curvature_low", "curvature_high")


def law_of(optima: dict[float, Optimum]) -> dict[str, float]:
    """The power law through the optima inside the measured rates; NaN of too few.

    All count alike: errors of a few seeds are themselves so uncertain that with weights by them an interval of 95 %
    holds the exponent in 90 of 100 studies (docs/theory.md, section 7).
    """
    law = dict.fromkeys((*_LAW, *_BEND), math.nan)
    inside = {size: optimum for size, optimum in optima.items() if not optimum.edge}
    law["points"] = len(inside)
    if len(inside) < 2:
        return law
    sizes = list(inside)
    lrs = np.array([2.0**optimum.log2_lr for optimum in inside.values()])
    fitted = fit_power_law(sizes, lrs)
    law |= {name: getattr(fitted, name) for name in _LAW}
    if len(inside) >= _LEAST:
        bend = fit_curvature(sizes, lrs)
        law |= dict(zip(_BEND, (bend.per_octave, bend.low, bend.high), strict=True))
    return law


def survives(value: float, low: float, high: float) -> str:
    """Whether an interval of the measured exponent leaves a published one.

    >>> survives(0.5, 0.4, 0.7), survives(0.0, 0.4, 0.7), survives(0.0, float("nan"), 0.7)
    ('survives', 'excluded', 'cannot tell')
    """
    if not low <= high:
        return "cannot tell"
    return "survives" if low <= value <= high else "excluded"


def _dataset(spec: Sweep, axis: Axis, optima: dict[str, dict[float, Optimum]]) -> xr.Dataset:
    import xarray as xr

    dims = ("rule", axis.name)
    columns: dict[str, list[list[Any]]] = {}
    for rule, of_size in optima.items():
        rows = []
        for size, optimum in of_size.items():
            spent = spec.spending(_cell(spec, rule, axis, size))
            rows.append(
                {
                    "lr": 2.0**optimum.log2_lr,
                    "lr_low": 2.0**optimum.low,
                    "lr_high": 2.0**optimum.high,
                    "at_edge": optimum.edge,
                    "is_limit": optimum.is_limit,
                    "loss": optimum.loss,
                    "loss_se": optimum.loss_se,
                    "batch_size": spent.batch_size,
                    "steps": spent.steps,
                    "tokens": spent.tokens,
                }
            )
        for name in rows[0]:
            if name != axis.name:
                columns.setdefault(name, []).append([row[name] for row in rows])
    data: dict[str, Any] = {name: (dims, np.array(values)) for name, values in columns.items()}
    laws = [law_of(of_size) for of_size in optima.values()]
    data |= {name: ("rule", [law[name] for law in laws]) for name in (*_LAW, *_BEND)}
    return xr.Dataset(data, {"rule": list(optima), axis.name: list(axis.sizes)})


def _published(spec: Sweep, axis: Axis, optima: dict[str, dict[float, Optimum]]) -> pd.DataFrame:
    import pandas as pd

    rows = []
    for rule, of_size in optima.items():
        law = law_of(of_size)
        for published in exponents(spec, axis.name):
            verdict = survives(published.value, law["exponent_low"], law["exponent_high"])
            row = {"rule": rule, "published": published.rule, "exponent": published.value, "verdict": verdict}
            rows.append(row | {"source": published.source})
    return pd.DataFrame(rows, columns=["rule", "published", "exponent", "verdict", "source"])


# --- the largest size, from the smaller ones ---
def predictions(optima: dict[float, Optimum], published: Sequence[Exponent]) -> dict[str, float]:
    """log2 of the largest size's rate by each method, from the smaller sizes alone.

    "fitted": the power law through the smaller optima. A published exponent: its constant is the one that fits them
    best. "unchanged": the smallest size's. Methods that agree are one, under the names of all.
    """
    *smaller, largest = optima
    inside = [size for size in smaller if not optima[size].edge]
    if not inside:
        return {}
    logs = np.array([optima[size].log2_lr for size in inside])
    octaves = np.log2(np.array(inside, float))
    at = math.log2(largest)
    found = {}
    if len(inside) >= 2:
        law = law_of({size: optima[size] for size in inside})
        found["fitted"] = math.log2(law["coefficient"]) + law["exponent"] * at
    # "unchanged" is what a user does who knows no rule; it is not the constant that fits all smaller sizes.
    found["unchanged"] = float(logs[0])
    values: dict[float, list[str]] = {}
    for one in published:
        values.setdefault(one.value, []).append(one.rule)
    for value, names in values.items():
        constant = float((logs - value * octaves).mean())
        found[", ".join(names)] = constant + value * at
    return found


def _zero_shot(
    spec: Sweep,
    axis: Axis,
    optima: dict[str, dict[float, Optimum]],
    rates: dict[str, dict[str, float]],
    result: SweepResult,
    runner: Runner,
) -> pd.DataFrame:
    """Train the largest size at every predicted rate, and at the best rate that its search trained."""
    import pandas as pd

    specs, keys = [], []
    for rule, of_method in rates.items():
        at_largest = spec.only(_cell(spec, rule, axis, axis.target))
        curve = result.curve(_cell(spec, rule, axis, axis.target))
        if not curve.is_stable.any():
            continue
        # The search's own rate is found again; of predicted ones, no law is known to nine digits.
        lrs = {"tuned": tuned_lr(curve)}
        lrs |= {method: float(f"{2.0**log2_lr:.6g}") for method, log2_lr in of_method.items()}
        for method, lr in lrs.items():
            specs.append(dataclasses.replace(at_largest, lrs=(lr,), search="grid"))
            keys.append((rule, method, lr))
    results = runner.run(specs) if specs else []
    tuned = {rule: one for (rule, method, _), one in zip(keys, results, strict=True) if method == "tuned"}
    rows = []
    for (rule, method, lr), one in zip(keys, results, strict=True):
        row: dict[str, Any] = {"rule": rule, "method": method, "lr": lr}
        row |= _octaves(math.log2(lr), optima[rule][float(axis.target)])
        row |= _cost(one, tuned[rule])
        rows.append(row)
    return pd.DataFrame(rows)


def _octaves(log2_lr: float, own: Optimum) -> dict[str, float]:
    """How far above the measured optimum a rate lies; the interval is the optimum's."""
    if own.edge:
        return dict.fromkeys(("octaves", "octaves_low", "octaves_high"), math.nan)
    return {
        "octaves": log2_lr - own.log2_lr,
        "octaves_low": log2_lr - own.high,
        "octaves_high": log2_lr - own.low,
    }


def _cost(one: SweepResult, tuned: SweepResult) -> dict[str, float]:
    """Loss of the seeds at a rate, and how much that is above the best rate's; NaN if any seed diverged."""
    losses = one.loss.values.reshape(-1)
    above = t_interval(losses - tuned.loss.values.reshape(-1))
    lost = int((one.data["status"] == STATUS["diverged"]).sum())
    is_whole = bool(np.isfinite(losses).all())
    regret, half = (above.mean, above.half) if is_whole else (math.nan, math.nan)
    return {
        "loss": float(losses.mean()),
        "regret": regret,
        "regret_low": regret - half,
        "regret_high": regret + half,
        "diverged": lost,
    }
