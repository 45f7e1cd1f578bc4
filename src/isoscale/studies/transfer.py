"""Does the optimum of the small model serve the large one? A sweep at several sizes, its law and a verdict."""

from __future__ import annotations

import dataclasses
import json
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Unpack

import numpy as np

from isoscale.errors import InvalidValueError
from isoscale.runs import Runner, RunOptions, Sweep, SweepResult
from isoscale.runs.adaptive import Cell, announced, gathered, search_cells, spec_of
from isoscale.runs.driver import Session
from isoscale.runs.result import STATUS
from isoscale.stats import Curve, Limits, Verdict
from isoscale.studies.judged import (
    Axis,
    NextRun,
    Size,
    answer,
    dataset,
    judge_rule,
    limits_words,
    next_run,
)

if TYPE_CHECKING:
    import xarray as xr

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
            `coefficient` (optimum against size). An end of an interval that is open is NaN.
        result: The sweep behind it.
        axis, base: The size dimension and the size that was tuned. Along a path of widths and depths the dimension
            is "size" and holds labels.
        next_runs: Rule by rule, the cheapest runs that would tell where the verdict is "cannot tell".
    """

    data: xr.Dataset
    result: SweepResult
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

    def _repr_html_(self) -> str:
        return self.data._repr_html_()


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

    Raises:
        InvalidValueError: Sizes on no axis, on both without a path, or a base that is not among the sizes.

    >>> from isoscale.runs import log2_grid
    >>> transfer(Sweep(widths=[16, 32], depths=[2, 4], lrs=log2_grid(-4, 0)))
    Traceback (most recent call last):
    isoscale.errors.InvalidValueError: transfer goes along one axis: give several depths or several widths, not both; \
or both as a path (`paired`, or a `base` that names both)
    """
    spec = based(spec, base)
    limits = limits or Limits()
    runner = runner or Runner(**where)
    started = time.monotonic()
    # What a search will ask for is not known before: a grid of about its cost is announced.
    announcing = runner.announced(spec if spec.search == "grid" else announced(spec))
    with announcing.session() as session:
        result = _trained(session, spec)
        found = judge(result, limits)
        for _ in range(_ROUNDS if until_decided else 0):
            if not found.next_runs:
                break
            result = _continued(session, result, found.next_runs)
            found = judge(result, limits)
    found.data.attrs["seconds"] = time.monotonic() - started
    return found


def _trained(session: Session, spec: Sweep) -> SweepResult:
    if spec.search == "grid":
        (result,) = session.run([spec])
        return result
    return gathered(session, spec, search_cells(session, spec, _chains(spec)))


def _chains(spec: Sweep) -> list[list[Cell]]:
    """Every rule's sizes: the base first, then the others from the smallest on."""
    axis = axis_of(spec)
    others = [size for size in axis.sizes if size != axis.base]
    chains = []
    for rule in spec.rule:
        chains.append([_cell(spec, rule, size) for size in (axis.base, *others)])
    return chains


def _continued(session: Session, result: SweepResult, runs: Sequence[NextRun]) -> SweepResult:
    """The sweep with more trials in it."""
    spec = result.spec
    requested = []
    for run in runs:
        of_cell = spec_of(spec, _cell(spec, run.rule, run.size))
        requested.append(dataclasses.replace(of_cell, lrs=run.lrs, seeds=run.seeds))
    session.run(requested)
    lrs = set(spec.lrs).union(*(run.lrs for run in runs))
    seeds = set(result.data["seed"].values.tolist()).union(*(run.seeds for run in runs))
    (found,) = session.read([dataclasses.replace(spec, lrs=sorted(lrs), seeds=sorted(seeds))])
    return found


# --- the question ---
def based(spec: Sweep, base: Mapping[str, int] | None = None) -> Sweep:
    """The sweep with the tuned size as the rules' base.

    Raises:
        InvalidValueError: As for `transfer`.
    """
    changes: dict[str, Any] = {}
    if base is not None:
        is_path = len(spec.widths) > 1 and len(spec.depths) > 1
        names = {"width", "depth"} if is_path else {axis_of(spec).name}
        if set(base) != names:
            what = " and the ".join(sorted(names, reverse=True))
            raise InvalidValueError(f"`base` must name the {what} that was tuned, got {dict(base)!r}")
        changes = {f"base_{axis}": size for axis, size in base.items()}
        changes["paired"] = is_path
    spec = dataclasses.replace(spec, search=spec.search or "adaptive", **changes)
    _check_base(axis_of(spec))
    return spec


def axis_of(spec: Sweep) -> Axis:
    """Along which sizes a spec asks its question.

    >>> axis_of(Sweep(depths=[4, 8, 16]))
    Axis(name='depth', sizes=[4, 8, 16], base=4)
    >>> axis_of(Sweep(widths=[16, 32], depths=[2, 4], paired=True)).sizes
    ['width 16, depth 2', 'width 32, depth 4']
    """
    many = [axis for axis, sizes in (("depth", spec.depths), ("width", spec.widths)) if len(sizes) > 1]
    if len(many) == 2 and spec.paired:
        pairs = [_label(width, depth) for width, depth in spec.pairs]
        assert spec.base_width is not None
        assert spec.base_depth is not None
        return Axis("size", pairs, _label(spec.base_width, spec.base_depth))
    if len(many) == 2:
        raise InvalidValueError(
            "transfer goes along one axis: give several depths or several widths, not both; or both as a path "
            "(`paired`, or a `base` that names both)"
        )
    if not many:
        raise InvalidValueError("transfer goes along one axis: give several depths or several widths, at least two")
    (name,) = many
    sizes = spec.depths if name == "depth" else spec.widths
    base = spec.base_depth if name == "depth" else spec.base_width
    assert base is not None
    return Axis(name, list(sizes), base)


def _check_base(axis: Axis) -> None:
    if axis.base not in axis.sizes:
        sizes = ", ".join(map(str, axis.sizes))
        raise InvalidValueError(f"`base` {axis.words(axis.base)} is not among the {axis.name}s {sizes}")


def ask(axis: Axis) -> str:
    """The question in words."""
    return f"Does the learning rate of {axis.words(axis.base)} serve {axis.words(axis.target)}?"


def _label(width: int, depth: int) -> str:
    return f"width {width}, depth {depth}"


def _cell(spec: Sweep, rule: str, size: Size) -> Cell:
    for width, depth in spec.pairs:
        if size in (_label(width, depth), width if len(spec.widths) > 1 else depth):
            return Cell(rule, width, depth)
    raise InvalidValueError(f"`size` {size} is not among the sizes of the sweep")


# --- the verdict ---
def judge(result: SweepResult, limits: Limits | None = None) -> Transfer:
    """The verdict on a finished sweep whose base is the tuned size."""
    limits = limits or Limits()
    axis = axis_of(result.spec)
    verdicts: dict[str, dict[Size, Verdict]] = {}
    runs = []
    for rule in result.spec.rule:
        curves = dict(_curves(result, rule, axis))
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


def _curves(result: SweepResult, rule: str, axis: Axis) -> Iterator[tuple[Size, Curve]]:
    """The curve of every size."""
    for size in axis.sizes:
        yield size, result.curve(*_cell(result.spec, rule, size))


def _is_incomplete(result: SweepResult, rule: str, size: Size) -> bool:
    """Whether trials failed, or of a grid are missing; a search leaves most of the grid out."""
    rule, width, depth = _cell(result.spec, rule, size)
    status = result.data["status"].sel(rule=rule, width=width, depth=depth)
    is_failed = status == STATUS["failed"]
    is_missing = status == STATUS["missing"]
    if result.spec.search == "adaptive":
        return bool(is_failed.any())
    return bool((is_failed | is_missing).any())


def _of_trials(result: SweepResult, axis: Axis) -> xr.Dataset:
    """`loss`, `test_loss`, `status` and `curve` of the trials, over the sizes of the question."""
    import xarray as xr

    kept = result.data[["loss", "test_loss", "status", "curve"]]
    cells = [_cell(result.spec, result.spec.rule[0], size) for size in axis.sizes]
    picked = [kept.sel(width=cell.width, depth=cell.depth).drop_vars(["width", "depth"]) for cell in cells]
    found = xr.concat(picked, axis.name).assign_coords({axis.name: list(axis.sizes)})
    return found.transpose("rule", axis.name, "lr", "seed", ...)


def _attributes(result: SweepResult, data: xr.Dataset, axis: Axis, limits: Limits) -> dict[str, Any]:
    spec = result.spec
    trained = int((data["status"] != STATUS["missing"]).sum())
    return {
        "axis": axis.name,
        "base": axis.base,
        "question": ask(axis),
        "answer": answer(data, axis),
        "limits": json.dumps(limits_words(limits)),
        "model": describe_model(spec),
        "dataset": spec.dataset,
        "optimizer": spec.optimizer,
        "dataset_note": result.note,
        "versions": json.dumps(result.versions[-1] if result.versions else {}),
        "spec": spec.to_toml(),
        "trials": trained,
        "diverged": result.count("diverged"),
        "failed": result.count("failed"),
        "created": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
    }


def describe_model(spec: Sweep) -> str:
    """The model and its options, as a person says it: "residual-mlp (block_depth=2, phi=relu)"."""
    options = ", ".join(f"{key}={value}" for key, value in spec.model_args.items())
    return f"{spec.model} ({options})" if options else spec.model
