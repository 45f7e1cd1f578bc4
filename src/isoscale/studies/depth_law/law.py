"""eta*(L) measured and estimated side by side, the law fitted to both, and what it predicts."""

from __future__ import annotations

import dataclasses
import json
import logging
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, Unpack

import numpy as np

from isoscale import stats as laws
from isoscale.errors import InvalidTypeError, InvalidValueError, unknown
from isoscale.runs import Runner, RunOptions, Sweep
from isoscale.runs.driver import prepare
from isoscale.runs.engines.engine import resolve_device
from isoscale.stats import PowerLaw
from isoscale.studies.depth_law import estimates, fits
from isoscale.studies.depth_law.published import CLAIM, published, verdict
from isoscale.studies.depth_law.runs import Curve, at_optimum, joined, run_searches
from isoscale.studies.depth_law.search import LATTICE, LIMITS, Exhaustive, Search, half_width
from isoscale.studies.depth_law.zero_shot import Known, tuned_lr, zero_shot

if TYPE_CHECKING:
    import pandas as pd
    import xarray as xr

_log = logging.getLogger(__name__)

Method = Literal["adaptive", "grid"]
_MEASURES = ("blocks", "effective", "path_sum")


@dataclass(frozen=True)
class DepthLaw:
    """How the best learning rate of networks falls with depth.

    Attributes:
        data: Dataset over (network, depth): `lr`, `lr_low`, `lr_high` (swept optimum, 95 % over seeds), `at_edge` as in
            `isoscale.laws.optimal_lr`, `half_width` (octaves); `loss`, `final_loss`, `final_loss_se` (mean over all
            steps and over the last tenth) and `seeds_diverged` at the trained learning rate nearest to the optimum;
            `learns` (1 where that final loss is two standard errors below the chance level, ln of the classes),
            `trials` and `full_trials` (pilots counted by their length), `estimate`, `estimate_se`
            (sweep-free), `blocks`, `effective`, `path_sum` (measures of depth); and over network: `exponent`,
            `coefficient`, `r2`, `points`, `curvature` (change of the exponent with each doubling of depth) with
            `_low` and `_high`, the same as `estimate_...`, `published_low`, `published_high`, `published_kind`,
            `claim_verdict`, `published_verdict`, `settings` (JSON). NaN where there is nothing.
        predictions: A row for each network, measure of depth and law: its error at the deepest optimum, left out.
        segments: The papers' segments in the same way.
        zero_shot: A row for each network and method of choosing the deepest one's learning rate.
        runs: Every trial.
    """

    data: xr.Dataset
    predictions: pd.DataFrame
    segments: pd.DataFrame
    zero_shot: pd.DataFrame
    runs: pd.DataFrame

    @property
    def slopes(self) -> dict[str, PowerLaw]:
        """The swept law of each network that has one."""
        names = ("exponent", "exponent_low", "exponent_high", "coefficient", "r2")
        found = {}
        for network in self.data["network"].values.tolist():
            of = self.data.sel(network=network)
            if float(of["points"]) >= 2:
                found[network] = PowerLaw(*(float(of[name]) for name in names), points=int(of["points"]))
        return found

    def _repr_html_(self) -> str:
        return self.data._repr_html_()


def depth_law(
    networks: Sweep | Mapping[str, Sweep],
    *,
    search: Method = "adaptive",
    target: float = 0.125,
    most_seeds: int = 0,
    runner: Runner | None = None,
    **where: Unpack[RunOptions],
) -> DepthLaw:
    """Measure how the best learning rate falls with depth, and compare with what needs no sweep (THEORY.md section 6).

    The optimum is the published one: the least mean training loss over all steps, averaged over seeds.

    Args:
        networks: A sweep for each network, by name: one width, three depths or more, the rule "sp". Its learning rates
            are the exhaustive grid, and the ends of its range are where the adaptive search begins. Where at some depth
            the best one lies at an end, or none is stable, the range is extended, to 2^-40 and to 2^10 at most; if that
            does not help, `at_edge`, a warning and the report say so.
        search: "adaptive" (`isoscale.studies.depth_law.search`) or "grid", every learning rate of the sweep.
        target: Half-width of an optimum's 95 % interval for the adaptive search to reach, in octaves.
        most_seeds: Seeds that the adaptive search may use where the sweep's own disagree; 0: no more than those.
        runner: Where and how to run; instead of the following.
        **where: As for `isoscale.sweep` (`store`, `data`, `workers`, `engine`, ...); run again to resume. Sweep-free
            estimates are made here, on `device` or, if the sweep runs on a cluster, on the CPU.

    Raises:
        InvalidValueError, InvalidTypeError, DataError, StoreError: As `isoscale.sweep`; too few depths, more than one
            width or rule.

    >>> spec = Sweep(model="conv-net", rule="sp", widths=[4], depths=[1, 2], steps=8)
    >>> depth_law(spec)
    Traceback (most recent call last):
    isoscale.errors.InvalidValueError: a depth law needs three `depths` or more, got 1, 2
    """
    specs = _checked(networks)
    if search not in ("adaptive", "grid"):
        raise unknown("`search`", search, ("adaptive", "grid"))
    runner = runner or Runner(**where)
    here = resolve_device(runner.device if runner.engine == "local" else "cpu")
    data = runner.data
    at_depth = {
        Curve(name, depth): dataclasses.replace(spec, depths=(depth,), base_depth=depth)
        for name, spec in specs.items()
        for depth in spec.depths
    }
    for spec in at_depth.values():
        prepare(dataclasses.replace(spec, lrs=spec.lrs[:1]), data)
    searches = {curve: _search(spec, search, target, most_seeds) for curve, spec in at_depth.items()}
    tables = run_searches(at_depth, searches, runner)
    found = _dataset(specs, searches, joined(tables), data, here)
    known = _known(specs, found, searches, data)
    methods, trained = zero_shot(known, runner) if known else ([], [])
    return _law(specs, found, methods, joined([*tables, *trained]))


def _checked(networks: Sweep | Mapping[str, Sweep]) -> dict[str, Sweep]:
    if isinstance(networks, Sweep):
        networks = {networks.model: networks}
    if not isinstance(networks, Mapping) or not all(isinstance(spec, Sweep) for spec in networks.values()):
        raise InvalidTypeError(f"`networks` must be a Sweep, or a mapping of names to Sweeps, got {networks!r}")
    if not networks:
        raise InvalidValueError("`networks` is empty: give at least one")
    for name, spec in networks.items():
        fits.check_depths(spec.depths)
        if len(spec.widths) > 1 or tuple(spec.rule) != ("sp",):
            raise InvalidValueError(
                f"a depth law is of one width and the rule sp (the others are compared by themselves), got widths "
                f"{', '.join(map(str, spec.widths))} and {', '.join(spec.rule)} for {name}"
            )
    return dict(networks)


def _search(spec: Sweep, method: Method, target: float, most_seeds: int) -> Search | Exhaustive:
    seeds = tuple(spec.seeds)  # pyrefly: ignore[bad-argument-type]  the spec made it a tuple
    if method == "grid":
        return Exhaustive(lrs=tuple(spec.lrs), seeds=seeds, steps=spec.steps)
    unused = [seed for seed in range(most_seeds) if seed not in seeds]
    more = tuple(unused[: max(0, most_seeds - len(seeds))])
    low, high = min(spec.lrs), max(spec.lrs)
    return Search(low=low, high=high, seeds=seeds, steps=spec.steps, target=target, more_seeds=more)


# --- the numbers ---
def _dataset(
    specs: Mapping[str, Sweep],
    searches: Mapping[Curve, Search | Exhaustive],
    runs: pd.DataFrame,
    folder: str | None,
    device: str,
) -> xr.Dataset:
    """Everything over (network, depth)."""
    import pandas as pd

    rows = []
    for curve, search in searches.items():
        spec = specs[curve.network]
        dataset = estimates.data_of(spec, folder)
        row = dataclasses.asdict(curve) | _optimum(search) | _without_sweep(spec, curve.depth, dataset, device)
        row |= at_optimum(runs, curve, float(row["lr"]), math.log(dataset.classes))
        _say_if_unstable(row, search)
        rows.append(row)
    found = pd.DataFrame(rows).set_index(["network", "depth"]).to_xarray()
    # pandas sorts; the order given is the order of the report.
    found = found.reindex(network=list(specs))
    found["at_edge"] = found["at_edge"].fillna("").astype(str)
    for name in ("lr", "estimate"):
        found[name].attrs["units"] = "learning rate"
    return found


def _optimum(search: Search | Exhaustive) -> dict[str, Any]:
    loss = search.loss
    best = laws.optimal_lr(loss)
    row = {name: best[name].item() for name in ("lr", "lr_low", "lr_high", "at_edge")}
    width = half_width(best) if math.isfinite(row["lr_low"] + row["lr_high"]) else math.nan
    return row | {"half_width": width, "trials": search.trials, "full_trials": search.full_trials}


def _without_sweep(spec: Sweep, depth: int, dataset: Any, device: str) -> dict[str, float]:
    guess, depths = estimates.estimate(spec, depth, dataset, device), estimates.depths_of(spec, depth, dataset)
    if guess.why:
        _log.warning("depth %d has no sweep-free estimate: %s", depth, guess.why)
    return {"estimate": guess.lr, "estimate_se": guess.se, **depths._asdict()}


def _say_if_unstable(row: Mapping[str, Any], search: Search | Exhaustive) -> None:
    lrs = search.loss["lr"].values
    where = f"{row['network']}, depth {row['depth']}"
    # A search whose optimum is at an end extends its range: it ends only at the limit.
    if row["at_edge"] == "none":
        span = lrs.min(), lrs.max()
        _log.warning("%s: no learning rate from %.3g to %.3g trains most seeds; less is not tried", where, *span)
    elif row["at_edge"]:
        end, beyond = row["at_edge"], {"low": "less", "high": "more"}[row["at_edge"]]
        _log.warning("%s: the optimum is at the %s end, %.3g; %s is not tried", where, end, row["lr"], beyond)


def _inside(found: xr.Dataset, network: str) -> xr.Dataset:
    """The depths of a network whose optimum is a value, not a bound."""
    of = found.sel(network=network)
    return of.isel(depth=np.flatnonzero((of["at_edge"].values == "") & np.isfinite(of["lr"].values)))


def _known(
    specs: Mapping[str, Sweep], found: xr.Dataset, searches: Mapping[Curve, Search | Exhaustive], folder: str | None
) -> dict[str, Known]:
    """Networks whose deepest size has an optimum, and two others at least."""
    known = {}
    for name, spec in specs.items():
        of = _inside(found, name)
        if of.sizes["depth"] >= 3 and int(of["depth"][-1]) == max(spec.depths):
            depths, lrs, free = (of[column].values for column in ("depth", "lr", "estimate"))
            branches = estimates.has_branches(spec, estimates.data_of(spec, folder))
            deepest = searches[Curve(name, max(spec.depths))]
            known[name] = Known(spec, depths, lrs, free, tuned_lr(deepest.loss), branches)
    return known


def _law(specs: Mapping[str, Sweep], found: xr.Dataset, methods: list[dict[str, Any]], runs: pd.DataFrame) -> DepthLaw:
    import pandas as pd

    columns, predictions, segments = [], [], []
    for name, spec in specs.items():
        inside = _inside(found, name)
        columns.append({"network": name} | _fitted(inside, found.sel(network=name)) | _compared(spec, inside))
        if inside.sizes["depth"] >= 3:
            measures = {measure: inside[measure].values for measure in _MEASURES}
            predictions += [{"network": name} | row for row in fits.out_of_sample(measures, inside["lr"].values)]
            rows = fits.segments(inside["depth"].values, measures, inside["lr"].values)
            segments += [{"network": name} | row for row in rows]
    of_network = pd.DataFrame(columns).set_index("network").to_xarray().reindex(network=list(specs))
    tables = [pd.DataFrame(rows) for rows in (predictions, segments, methods)]
    return DepthLaw(found.merge(of_network), *tables, runs=runs)


def _fitted(inside: xr.Dataset, everywhere: xr.Dataset) -> dict[str, float]:
    """The swept law, and the law of the estimates at every depth that has one."""
    swept = fits.law_of(inside["depth"].values, inside["lr"].values)
    with_estimate = everywhere.isel(depth=np.flatnonzero(np.isfinite(everywhere["estimate"].values)))
    estimated = fits.law_of(with_estimate["depth"].values, with_estimate["estimate"].values)
    return swept | {f"estimate_{name}": value for name, value in estimated.items()}


def _limits() -> list[float]:
    """How far a range is extended."""
    return [2.0 ** (place / LATTICE) for place in LIMITS]


def _compared(spec: Sweep, inside: xr.Dataset) -> dict[str, Any]:
    law = fits.law_of(inside["depth"].values, inside["lr"].values)
    interval = law["exponent_low"], law["exponent_high"]
    printed = published(spec)
    settings = {key: value for key, value in spec.to_mapping().items() if key != "lrs"}
    return {
        "published_low": printed.low if printed else math.nan,
        "published_high": printed.high if printed else math.nan,
        "published_kind": printed.kind if printed else "",
        "claim_verdict": verdict(*interval, (CLAIM, CLAIM)),
        "published_verdict": verdict(*interval, printed[:2]) if printed else "nothing published",
        "settings": json.dumps(settings | {"lr_range": [min(spec.lrs), max(spec.lrs)], "lr_limits": _limits()}),
    }
