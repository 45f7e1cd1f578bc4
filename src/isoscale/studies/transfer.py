"""Does the optimum of the small model serve the large one? A sweep at several sizes, its law and a verdict."""

from __future__ import annotations

import dataclasses
import html
import itertools
import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Unpack

import numpy as np

from isoscale.errors import InvalidValueError, MissingExtraError, unknown
from isoscale.runs import Runner, RunOptions, Sweep, SweepResult
from isoscale.runs.adaptive import announced, chains_of, gathered, search_cells
from isoscale.runs.driver import Session
from isoscale.runs.result import STATUS, cell_of
from isoscale.stats import Limits
from isoscale.studies.along import STOPPED, Along, best_setting, in_octaves, octaves_of
from isoscale.studies.judged import (
    Axis,
    NextRun,
    Size,
    attributes,
    dataset,
    judge_table,
    trials_dataset,
    tuned_dataset,
)

if TYPE_CHECKING:
    import pandas as pd
    import xarray as xr
    from matplotlib.axes import Axes

# Rounds of "the runs that would tell" that `until_decided` does at most.
_ROUNDS = 12
# Points that it draws at most in a random search.
_MOST_POINTS = 512


@dataclass(frozen=True, repr=False)
class Transfer:
    """The verdict on hyperparameter transfer along one size axis, or along a path of sizes.

    Attributes:
        data: Dataset over (rule, <axis>[, lr, seed]): `loss`, `status`; `optimal_lr`, `optimal_lr_low`,
            `optimal_lr_high`, `at_edge`, `is_limit` (the optimum is the limit of stability); `best_loss`,
            `best_loss_se`; `drift`, `drift_low`, `drift_high` in octaves; `regret`, `regret_low`, `regret_high`,
            `regret_limit`, `loss_transferred` (at the rate used) and `loss_tuned` (at the rate that the size would hand
            on itself) in loss; `lost_seeds`, the share that diverges at the rate used;
            and by rule `rate_used`, `verdict`, `reason`, `good`, `exponent`, `exponent_low`, `exponent_high`,
            `coefficient` (optimum against size), and with three sizes or more `worth` ("fast", "useful", "not" or
            "cannot tell"; docs/verdict.md) with its exponents `alpha`, `beta`, `gamma` and `kappa`. An end of an
            interval that is open is NaN. Judged by a metric (attributes `quantity`, `better`), the losses are its
            values, or minus them if higher ones are better.
        result: The sweep behind it; None where runs were judged that somebody else trained.
        axis, base: The size dimension and the size that was tuned. Along a path of widths and depths the dimension
            is "size" and holds labels.
        next_runs: Rule by rule, the cheapest runs that would tell where the verdict is "cannot tell".
        tuned: Where more than the learning rate was tuned, the verdict on each hyperparameter: Dataset over
            (hyperparameter, others, rule, <axis>) with `optimum`, `drift`, `regret`, each with `_low` and `_high`,
            `best_loss`, `value_used`, `verdict`, `reason` and `good`. The others are at their "best", value by value,
            or "held" at the base's best. Of beta1, beta2 and momentum the optimum is that of 1 - beta.
    """

    data: xr.Dataset
    result: SweepResult | None
    axis: str
    base: Size
    next_runs: tuple[NextRun, ...] = ()
    tuned: xr.Dataset | None = None

    @property
    def target(self) -> Size:
        """The largest size."""
        return self.data[self.axis].values.tolist()[-1]

    @property
    def verdicts(self) -> dict[str, str]:
        """Verdict of each rule: "transfers", "does not transfer" or "cannot tell"."""
        return dict(zip(self.data["rule"].values.tolist(), self.data["verdict"].values.tolist(), strict=True))

    @property
    def reasons(self) -> dict[str, str]:
        """Why, for each rule."""
        return dict(zip(self.data["rule"].values.tolist(), self.data["reason"].values.tolist(), strict=True))

    def is_good(self, rule: str) -> bool:
        """Whether the base's learning rate serves the largest size under that rule."""
        return bool(self.data["good"].sel(rule=rule))

    @property
    def answer(self) -> str:
        """The verdict in one sentence."""
        return self.data.attrs["answer"]

    @property
    def next_run(self) -> NextRun | None:
        """The cheapest of `next_runs`; None if every verdict is decided."""
        return min(self.next_runs, key=lambda run: run.trials, default=None)

    def drifts_beyond(self, octaves: float) -> list[str]:
        """Rules whose optimum at the largest size is further than that from the base's, or unknown."""
        drift = self.data["drift"].sel({self.axis: self.target}).values
        edges = self.data["at_edge"].sel({self.axis: [self.base, self.target]})
        # Of an optimum at the end of the grid the drift is no more than a bound.
        is_unknown = (edges != "").any(self.axis).values
        # A drift that is NaN is not near, either.
        is_near = np.abs(drift) <= octaves
        return self.data["rule"].values[is_unknown | ~is_near].tolist()

    def plot(self, kind: str = "loss") -> list[Axes]:
        """A figure of the report, as matplotlib axes: "loss" against learning rate, or the "optimum" against size.

        Raises:
            InvalidValueError: No such figure.
        """
        from isoscale import report

        figures = {"loss": report.loss_curves, "optimum": report.optimum}
        if kind not in figures:
            raise unknown("figure", kind, figures)
        return figures[kind](self.data).axes

    def __repr__(self) -> str:
        """The question and the answer."""
        return f"<Transfer from {Axis(self.axis, (), self.base).words(self.base)} to {self.target}: {self.answer}>"

    def _repr_html_(self) -> str:
        """The answer, the table and the figure, for a notebook; without matplotlib no figure."""
        from isoscale import report

        table = report.table(self.data).to_html(index=False, escape=True)
        try:
            figure = report.svg(report.loss_curves(self.data))
        except MissingExtraError as error:
            figure = f"<p>{html.escape(str(error))}</p>"
        return f"<p><b>{html.escape(self.answer)}</b></p>{table}{figure}"


def transfer(
    spec: Sweep,
    base: Mapping[str, int] | None = None,
    *,
    hyperparameter: str = "lr",
    limits: Limits | None = None,
    until_decided: bool = False,
    runner: Runner | None = None,
    **where: Unpack[RunOptions],
) -> Transfer:
    """Sweep at several sizes and judge whether the base's learning rate serves the largest.

    Args:
        spec: The sizes: several depths, or several widths, or both as a path (`paired`). Unless its `search` is "grid",
            the optimum of each is searched for (`isoscale.runs.search`); its learning rates are where that begins.
        base: The tuned size, `dict(depth=4)` or `dict(width=64)`; the spec's own base by default. One that names
            both makes the sizes a path.
        hyperparameter: What the question is about: the learning rate, or one of the spec's `hyperparameters`. Whatever
            it is, `Transfer.tuned` has a verdict on each hyperparameter that was tuned.
        limits: What still counts as a transfer.
        until_decided: Whether to do the runs that would tell as long as a verdict is "cannot tell", in twelve rounds
            at most.
        runner: Where and how to run; instead of the following.
        **where: As for `isoscale.sweep`: store, engine, workers, device, data, progress, engine_address, gpu_share.

    Of hyperparameters beside that of the question the best at each value and seed counts.

    Raises:
        InvalidValueError: Sizes on no axis, on both without a path, or a base that is not among the sizes.

    >>> from isoscale.runs import log2_grid
    >>> transfer(Sweep(widths=[16, 32], depths=[2, 4], lrs=log2_grid(-4, 0)))
    Traceback (most recent call last):
    isoscale.errors.InvalidValueError: transfer goes along one axis, not along width and depth: give several of one, \
or both as a path (`paired`, or a `base` that names both)
    """
    spec, axis = asked(spec, base)
    along = along_of(spec, hyperparameter)
    limits = limits or Limits()
    runner = runner or Runner(**where)
    started = time.monotonic()
    # What a search will ask for is not known before: a grid of about its cost is announced.
    expected = announced(spec) if spec.search == "adaptive" else spec
    with runner.announced(expected).session(expected) as session:
        result = _trained(session, spec, axis)
        found = of_sweep(result, axis, limits, along)
        for _ in range(_ROUNDS if until_decided else 0):
            more = _continued(session, result, axis, found)
            if more is None:
                break
            result = more
            found = of_sweep(result, axis, limits, along)
    found.data.attrs["seconds"] = time.monotonic() - started
    return found


def along_of(spec: Sweep, hyperparameter: str) -> Along:
    """The hyperparameter of a question, beside the others that the sweep tunes.

    Raises:
        InvalidValueError: One that the sweep does not tune.
    """
    tuned = ["lr", *spec.hyperparameters]
    if hyperparameter not in tuned:
        raise unknown("tuned hyperparameter", hyperparameter, tuned)
    if isinstance(_values(spec, hyperparameter)[0], str):
        raise InvalidValueError(f"`hyperparameter` {hyperparameter} has texts, between which there are no octaves")
    others = tuple(name for name in tuned if name != hyperparameter and _varies(spec, name))
    return Along(hyperparameter, others, spec.linear)


def _values(spec: Sweep, name: str) -> Sequence[Any]:
    return spec.lrs if name == "lr" else spec.hyperparameters[name]


def _varies(spec: Sweep, name: str) -> bool:
    return len(_values(spec, name)) > 1


def _trained(session: Session, spec: Sweep, axis: Axis) -> SweepResult:
    if spec.search != "adaptive":
        (result,) = session.run([spec])
        return result
    # The base first: its optimum is where the others begin.
    cells = sorted(spec.cells, key=lambda values: _size_of(spec, values) != axis.base)
    result = gathered(session, spec, search_cells(session, spec, chains_of(spec, cells)))
    if not spec.hyperparameters:
        return result
    # Each search has learning rates of its own: held ones are those of the base's best setting, everywhere.
    held = _held(result, axis)
    session.run(held)
    return _with(session, result, result.spec, held)


def _with(session: Session, result: SweepResult, spec: Sweep, more: Sequence[Sweep]) -> SweepResult:
    """A search's result with what was run beside it, each of one cell; what else the store holds is no part of it."""
    (found,) = session.read([spec])
    if spec.search == "adaptive":
        trials = result.trials
        for one in more:
            (values,) = one.cells
            pairs = itertools.product(one.axes["lr"], one.axes["seed"])
            trials.setdefault(cell_of(values), set()).update(pairs)
        found = found.only(trials)
    return dataclasses.replace(found, searched=result.searched)


def _held(result: SweepResult, axis: Axis) -> list[Sweep]:
    """What searches of the learning rate leave out: the base's best rate at every value of each other hyperparameter,
    and at each size's own best setting."""
    spec = result.spec
    along = Along("lr", tuple(spec.hyperparameters))
    table = _table(result, axis)
    found = []
    for rule in spec.axes["rule"]:
        of_rule = table[table["rule"] == rule]
        best = best_setting(of_rule[of_rule[axis.name] == axis.base], along)
        for size in axis.sizes if best else ():
            own = best_setting(of_rule[of_rule[axis.name] == size], along)
            for values in _cells(spec, rule, size):
                moved = [name for name in spec.hyperparameters if values[name] != best[name]]
                is_own = all(values[name] == own.get(name) for name in spec.hyperparameters)
                if len(moved) <= 1 or is_own:
                    found.append(dataclasses.replace(spec.only(values), lrs=(best["lr"],), search="grid"))
    return found


def _continued(session: Session, result: SweepResult, axis: Axis, found: Transfer) -> SweepResult | None:
    """The sweep with the runs that would tell; None if nothing is open, or nothing is known that would."""
    spec, runs = result.spec, found.next_runs
    if spec.search == "random" and spec.hyperparameters:
        # Twice as many points, of which the first half is there already.
        points = 2 * (spec.points or len(spec.drawn))
        is_open = "cannot tell" in found.verdicts.values() and points <= _MOST_POINTS
        return _trained(session, dataclasses.replace(spec, points=points), axis) if is_open else None
    if not runs:
        return None
    name = str(found.data.attrs["hyperparameter"])
    lrs = set(spec.axes["lr"])
    values = set().union(*(run.lrs for run in runs))
    seeds = set(result.data["seed"].values.tolist()).union(*(run.seeds for run in runs))
    if name != "lr":
        # Another value of it is another search for the learning rate, at every size.
        known = {*spec.hyperparameters[name], *in_octaves(name, np.array(sorted(values))).tolist()}
        tuned = dict(spec.hyperparameters) | {name: sorted(known)}
        return _trained(session, dataclasses.replace(spec, hyperparameters=tuned, seeds=sorted(seeds)), axis)
    # From here on the learning rates are given one by one.
    search = "grid" if spec.search == "random" else spec.search
    wider = dataclasses.replace(spec, lrs=sorted(lrs | values), seeds=sorted(seeds), search=search, points=None)
    requested = []
    for run in runs:
        for cell in _cells(spec, run.rule, run.size):
            requested.append(dataclasses.replace(wider.only(cell), lrs=run.lrs, seeds=run.seeds))
    session.run(requested)
    return _with(session, result, wider, requested)


# --- the question ---
def asked(spec: Sweep, base: Mapping[str, Any] | None = None) -> tuple[Sweep, Axis]:
    """The sweep with the tuned size as the rules' base, and along which sizes it asks its question.

    Raises:
        InvalidValueError: As for `transfer`.

    >>> asked(Sweep(depths=[4, 8, 16]))[1]
    Axis(name='depth', sizes=[4, 8, 16], base=4)
    >>> asked(Sweep(widths=[16, 32], depths=[2, 4], paired=True))[1].sizes
    ['width 16, depth 2', 'width 32, depth 4']
    """
    many = [name for name in spec.size_axes if len(spec.axes[name]) > 1]
    if not many:
        raise InvalidValueError(
            "transfer goes along one axis: give several depths, widths, batch sizes or steps, at least two"
        )
    is_path = len(many) > 1
    if is_path and not spec.paired and base is None:
        raise InvalidValueError(
            f"transfer goes along one axis, not along {' and '.join(many)}: give several of one, or both as a path "
            "(`paired`, or a `base` that names both)"
        )
    if base is not None and set(base) != set(many):
        what = " and the ".join(many)
        raise InvalidValueError(f"`base` must name the {what} that was tuned, got {dict(base)!r}")
    # The size of the rules' base; of an axis that rules do not know, the smallest.
    known = {"width": spec.base_width, "depth": spec.base_depth}
    small = {name: known.get(name) or min(spec.axes[name]) for name in many}
    small |= dict(base or {})
    changes: dict[str, Any] = {f"base_{name}": size for name, size in small.items() if name in known}
    spec = dataclasses.replace(spec, search=spec.search or "adaptive", paired=is_path, **changes)
    sizes = list(dict.fromkeys(_size_of(spec, values) for values in spec.cells))
    axis = Axis("size" if is_path else many[0], sizes, _label(small) if is_path else small[many[0]])
    if axis.base not in sizes:
        shown = ("; " if is_path else ", ").join(map(str, sizes))
        raise InvalidValueError(f"`base` {axis.words(axis.base)} is not among the {axis.name}s {shown}")
    return spec, axis


def _size_of(spec: Sweep, values: Mapping[str, Any]) -> Size:
    """The size of one of the spec's cells, on the axis of the question."""
    many = {name: values[name] for name in spec.size_axes if len(spec.axes[name]) > 1}
    return _label(many) if len(many) > 1 else next(iter(many.values()))


def _label(sizes: Mapping[str, Any]) -> str:
    return ", ".join(f"{name} {size}" for name, size in sizes.items())


def _cells(spec: Sweep, rule: str, size: Size) -> list[dict[str, Any]]:
    """The cells of a rule at one size: one for each combination of hyperparameters."""
    return [values for values in spec.cells if values["rule"] == rule and _size_of(spec, values) == size]


# --- the verdict ---
def of_sweep(result: SweepResult, axis: Axis, limits: Limits | None = None, along: Along | None = None) -> Transfer:
    """The verdict on a finished sweep."""
    spec = result.spec
    limits = limits or Limits()
    along = along or along_of(spec, "lr")
    table = _table(result, axis)
    failed = {}
    # One reason stands for all: the shell prints the others.
    because = f": {result.failures[0]}" if result.failures else ""
    for rule in spec.axes["rule"]:
        for size in (axis.base, axis.target):
            if _is_incomplete(result, rule, size):
                failed.setdefault(rule, f"trials failed at {axis.words(size)}{because}")
    quantity = result.quantity
    judged = judge_table(table, axis, along, limits, rules=spec.axes["rule"], failed=failed, quantity=quantity)
    notes = [*judged.notes, *said_of_lengths(spec)]
    tuned, left_out = _tuned(table, spec, axis, limits, failed)
    notes += left_out
    drawn = _of_trials(result, axis) if along.name == "lr" else trials_dataset(table, axis, along, spec.axes["rule"])
    data = dataset(judged.verdicts, axis).merge(drawn)
    data.attrs = attributes(data, axis, limits, along, notes, tuned, quantity) | _about(result, data)
    return Transfer(data, result, axis.name, axis.base, tuple(judged.next_runs), tuned)


def _table(result: SweepResult, axis: Axis) -> pd.DataFrame:
    """The trials that ended, as verdicts read them: rule, the axis, hyperparameters, seed; as loss, what is judged."""
    import pandas as pd

    spec = result.spec
    table = result.runs_table()
    table = table[table["status"] != "failed"]
    is_stopped = table["status"] == "stopped"
    measured = result.quantity.sign * table[result.quantity.name]
    loss = measured.where((table["status"] != "diverged") & ~is_stopped, np.inf)
    columns: dict[str, Any] = {"rule": table["rule"], "lr": table["lr"], "seed": table["seed"], "loss": loss}
    columns[STOPPED] = is_stopped
    columns |= {name: table[name] for name in spec.hyperparameters}
    many = [name for name in spec.size_axes if len(spec.axes[name]) > 1]
    sizes = table[many]
    if len(many) > 1:
        labels = {tuple(cell[name] for name in many): _size_of(spec, cell) for cell in spec.cells}
        columns[axis.name] = [labels.get(tuple(row)) for row in sizes.itertuples(index=False)]
    else:
        columns[axis.name] = sizes[many[0]]
    return pd.DataFrame(columns)


def said_of_lengths(spec: Sweep) -> list[str]:
    """What misleads where runs of several lengths are compared."""
    lengths = {spec.spending(cell).steps for cell in spec.cells}
    if len(lengths) < 2 or spec.schedule != "constant" or spec.train is not None or spec.command is not None:
        return []
    return [
        "the learning rate is constant in runs of several lengths: the optimum of such a run is not that of one whose "
        'rate falls to 0 at its end. Take schedule="cosine" or "wsd" to ask about runs that end'
    ]


def _tuned(
    table: pd.DataFrame, spec: Sweep, axis: Axis, limits: Limits, failed: Mapping[str, str]
) -> tuple[xr.Dataset | None, list[str]]:
    """The verdict on each tuned hyperparameter, and why one that was tuned has none."""
    names = [name for name in ("lr", *spec.hyperparameters) if _varies(spec, name)]
    if table.empty:
        return None, []
    judged, notes = [], []
    for name in names:
        if octaves_of(table, name) > 1:
            judged.append(name)
        else:
            notes.append(f"no verdict on {name}: it has no two values that octaves lie between")
    if len(names) < 2 or not judged:
        return None, notes
    found = tuned_dataset(table, axis, judged, names, limits, linear=spec.linear, failed=failed, quantity=spec.quantity)
    return found, notes


def _is_incomplete(result: SweepResult, rule: str, size: Size) -> bool:
    """Whether trials failed, or of a grid are missing; a search leaves most of the grid out, but not all."""
    is_search = result.spec.search == "adaptive"
    for values in _cells(result.spec, rule, size):
        status = result.data["status"].sel(values)
        is_failed = status == STATUS["failed"]
        is_missing = status == STATUS["missing"]
        # Where no pilot ended there is nothing to search on.
        lacks = is_missing.all() and result.failures if is_search else is_missing.any()
        if bool(is_failed.any() or lacks):
            return True
    return False


def _of_trials(result: SweepResult, axis: Axis) -> xr.Dataset:
    """`loss`, which is what is judged, `test_loss`, `status` and `curve` of the trials, over the sizes of the question.

    Of several hyperparameters, those of the least loss at each rate and seed.
    """
    import xarray as xr

    names = [name for name in ("test_loss", "status", "curve") if name in result.data]
    kept = result.data[names].assign(loss=result.cost)
    spec = result.spec
    # Of points, each of which has its own value of them, they are no axes.
    tuned = [name for name in spec.hyperparameters if name in kept.dims]
    kept = kept.drop_vars([name for name in spec.hyperparameters if name not in tuned])
    if tuned:
        kept = kept.stack(setting=tuned)
        best = kept["loss"].fillna(np.inf).argmin("setting")
        kept = kept.isel(setting=best).drop_vars(["setting", *tuned], errors="ignore")
    picked = []
    for size in axis.sizes:
        values = _cells(spec, spec.axes["rule"][0], size)[0]
        at_size = {name: values[name] for name in spec.size_axes}
        picked.append(kept.sel(at_size).drop_vars(list(spec.size_axes)))
    found = xr.concat(picked, axis.name).assign_coords({axis.name: list(axis.sizes)})
    return found.transpose("rule", axis.name, "lr", "seed", ...)


def _about(result: SweepResult, data: xr.Dataset) -> dict[str, Any]:
    """How the sweep was run."""
    spec = result.spec
    return {
        "model": spec.subject,
        "dataset": spec.dataset_name,
        "optimizer": spec.optimizer,
        "dataset_note": result.note,
        "versions": json.dumps(result.versions[-1] if result.versions else {}),
        "spec": spec.to_toml(),
        "trials": int((data["status"] != STATUS["missing"]).sum()),
        "diverged": result.count("diverged"),
        "stopped": result.count("stopped"),
        "searched": "" if result.searched is None else str(result.searched),
        "failed": result.count("failed"),
    }
