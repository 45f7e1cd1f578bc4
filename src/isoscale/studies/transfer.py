"""Does the optimum of the small model serve the large one? A sweep at several sizes, its law and a verdict."""

from __future__ import annotations

import dataclasses
import html
import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Unpack

import numpy as np

from isoscale.errors import InvalidValueError, unknown
from isoscale.runs import Runner, RunOptions, Sweep, SweepResult
from isoscale.runs.adaptive import announced, chains_of, gathered, search_cells
from isoscale.runs.driver import Session
from isoscale.runs.result import STATUS
from isoscale.stats import Curve, Limits, Verdict
from isoscale.studies.judged import (
    Axis,
    NextRun,
    Size,
    attributes,
    dataset,
    judge_rule,
    next_run,
)

if TYPE_CHECKING:
    import xarray as xr
    from matplotlib.axes import Axes

# Rounds of "the runs that would tell" that `until_decided` does at most.
_ROUNDS = 12


@dataclass(frozen=True)
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
            interval that is open is NaN.
        result: The sweep behind it; None where runs were judged that somebody else trained.
        axis, base: The size dimension and the size that was tuned. Along a path of widths and depths the dimension
            is "size" and holds labels.
        next_runs: Rule by rule, the cheapest runs that would tell where the verdict is "cannot tell".
    """

    data: xr.Dataset
    result: SweepResult | None
    axis: str
    base: Size
    next_runs: tuple[NextRun, ...] = ()

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
        drift = self.data["drift"].sel({self.axis: self.target})
        edges = self.data["at_edge"].sel({self.axis: [self.base, self.target]})
        far = ~(np.abs(drift.values) <= octaves) | (edges != "").any(self.axis).values
        return self.data["rule"].values[far].tolist()

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

    def _repr_html_(self) -> str:
        """The answer, the table and the figure, for a notebook."""
        from isoscale import report

        table = report.table(self.data).to_html(index=False, escape=True)
        figure = report.svg(report.loss_curves(self.data))
        return f"<p><b>{html.escape(self.answer)}</b></p>{table}{figure}"


def transfer(
    spec: Sweep,
    base: Mapping[str, int] | None = None,
    *,
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
        limits: What still counts as a transfer.
        until_decided: Whether to do the runs that would tell as long as a verdict is "cannot tell", in twelve rounds
            at most.
        runner: Where and how to run; instead of the following.
        **where: As for `isoscale.sweep`: store, engine, workers, device, data, progress, engine_address, gpu_share.

    Of hyperparameters beside the learning rate the best at each rate and seed counts.

    Raises:
        InvalidValueError: Sizes on no axis, on both without a path, or a base that is not among the sizes.

    >>> from isoscale.runs import log2_grid
    >>> transfer(Sweep(widths=[16, 32], depths=[2, 4], lrs=log2_grid(-4, 0)))
    Traceback (most recent call last):
    isoscale.errors.InvalidValueError: transfer goes along one axis: give several depths or several widths, not both; \
or both as a path (`paired`, or a `base` that names both)
    """
    spec, axis = asked(spec, base)
    limits = limits or Limits()
    runner = runner or Runner(**where)
    started = time.monotonic()
    # What a search will ask for is not known before: a grid of about its cost is announced.
    announcing = runner.announced(spec if spec.search == "grid" else announced(spec))
    with announcing.session() as session:
        result = _trained(session, spec, axis)
        found = of_sweep(result, axis, limits)
        for _ in range(_ROUNDS if until_decided else 0):
            if not found.next_runs:
                break
            result = _continued(session, result, axis, found.next_runs)
            found = of_sweep(result, axis, limits)
    found.data.attrs["seconds"] = time.monotonic() - started
    return found


def _trained(session: Session, spec: Sweep, axis: Axis) -> SweepResult:
    if spec.search == "grid":
        (result,) = session.run([spec])
        return result
    # The base first: its optimum is where the others begin.
    cells = sorted(spec.cells, key=lambda values: _size_of(spec, values) != axis.base)
    return gathered(session, spec, search_cells(session, spec, chains_of(spec, cells)))


def _continued(session: Session, result: SweepResult, axis: Axis, runs: Sequence[NextRun]) -> SweepResult:
    """The sweep with more trials in it."""
    spec = result.spec
    requested = []
    for run in runs:
        for values in _cells(spec, run.rule, run.size):
            requested.append(dataclasses.replace(spec.only(values), lrs=run.lrs, seeds=run.seeds))
    session.run(requested)
    lrs = set(spec.lrs).union(*(run.lrs for run in runs))
    seeds = set(result.data["seed"].values.tolist()).union(*(run.seeds for run in runs))
    (found,) = session.read([dataclasses.replace(spec, lrs=sorted(lrs), seeds=sorted(seeds))])
    return found


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
        raise InvalidValueError("transfer goes along one axis: give several depths or several widths, at least two")
    is_path = len(many) > 1
    if is_path and not spec.paired and base is None:
        raise InvalidValueError(
            "transfer goes along one axis: give several depths or several widths, not both; or both as a path "
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
def of_sweep(result: SweepResult, axis: Axis, limits: Limits | None = None) -> Transfer:
    """The verdict on a finished sweep."""
    limits = limits or Limits()
    verdicts: dict[str, dict[Size, Verdict]] = {}
    runs = []
    for rule in result.spec.axes["rule"]:
        curves = {size: _curve(result, rule, size) for size in axis.sizes}
        verdicts[rule] = judge_rule(curves, axis, limits)
        for size in (axis.base, axis.target):
            # What is left of trials that crashed is not what was asked for.
            if _is_incomplete(result, rule, size):
                why = f"trials failed at {axis.words(size)}"
                verdicts[rule][axis.target] = dataclasses.replace(
                    verdicts[rule][axis.target], answer="cannot tell", reason=why, undecided=()
                )
        run = next_run(rule, verdicts[rule][axis.target], curves, axis)
        if run is not None:
            runs.append(run)
    data = dataset(verdicts, axis).merge(_of_trials(result, axis))
    data.attrs = _attributes(result, data, axis, limits)
    return Transfer(data, result, axis.name, axis.base, tuple(runs))


def _curve(result: SweepResult, rule: str, size: Size) -> Curve:
    """The runs of one size; of each rate and seed the best over the hyperparameters."""
    curves = [result.curve(values) for values in _cells(result.spec, rule, size)]
    if len(curves) == 1:
        return curves[0]
    least: dict[tuple[float, Any], float] = {}
    for curve in curves:
        lrs = (2.0**curve.log2_lr).tolist()
        for lr, seed, loss in zip(lrs, curve.names[curve.seed].tolist(), curve.loss.tolist(), strict=True):
            least[lr, seed] = min(loss, least.get((lr, seed), loss))
    return Curve.of_runs([lr for lr, _ in least], [seed for _, seed in least], list(least.values()))


def _is_incomplete(result: SweepResult, rule: str, size: Size) -> bool:
    """Whether trials failed, or of a grid are missing; a search leaves most of the grid out."""
    for values in _cells(result.spec, rule, size):
        status = result.data["status"].sel(values)
        is_failed = status == STATUS["failed"]
        is_missing = (status == STATUS["missing"]) & (result.spec.search != "adaptive")
        if bool((is_failed | is_missing).any()):
            return True
    return False


def _of_trials(result: SweepResult, axis: Axis) -> xr.Dataset:
    """`loss`, `test_loss`, `status` and `curve` of the trials, over the sizes of the question.

    Of several hyperparameters, those of the least loss at each rate and seed.
    """
    import xarray as xr

    names = [name for name in ("loss", "test_loss", "status", "curve") if name in result.data]
    kept = result.data[names]
    spec = result.spec
    tuned = list(spec.hyperparameters)
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


def _attributes(result: SweepResult, data: xr.Dataset, axis: Axis, limits: Limits) -> dict[str, Any]:
    spec = result.spec
    trained = int((data["status"] != STATUS["missing"]).sum())
    return attributes(data, axis, limits) | {
        "model": spec.subject,
        "dataset": spec.dataset_name,
        "optimizer": spec.optimizer,
        "dataset_note": result.note,
        "versions": json.dumps(result.versions[-1] if result.versions else {}),
        "spec": spec.to_toml(),
        "trials": trained,
        "diverged": result.count("diverged"),
        "failed": result.count("failed"),
    }
