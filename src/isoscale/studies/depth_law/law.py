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

from isoscale.errors import InvalidTypeError, InvalidValueError, unknown
from isoscale.runs import Runner, RunOptions, Sweep
from isoscale.runs.driver import prepare
from isoscale.runs.engines.engine import resolve_device
from isoscale.runs.search import LIMITS, Grid, Search
from isoscale.stats import PowerLaw
from isoscale.studies.depth_law import estimates, fits
from isoscale.studies.depth_law.published import CLAIM, published, verdict
from isoscale.studies.depth_law.runs import Curve, at_optimum, joined, run_searches
from isoscale.studies.depth_law.zero_shot import Known, tuned_lr, zero_shot

if TYPE_CHECKING:
    import pandas as pd
    import xarray as xr

_log = logging.getLogger(__name__)

Method = Literal["adaptive", "grid"]
_MEASURES = ("blocks", "effective", "path_sum")


@dataclass(frozen=True, repr=False)
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
        predictions: One row per network, measure of depth and law: its error at the deepest optimum, left out.
        segments: The papers' segments in the same way.
        zero_shot: One row per network and method of choosing the deepest one's learning rate.
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
        found = {}
        for network in self.data["network"].values.tolist():
            of = self.data.sel(network=network)
            points = int(of["points"])
            if points >= 2:
                found[network] = PowerLaw(
                    exponent=float(of["exponent"]),
                    exponent_low=float(of["exponent_low"]),
                    exponent_high=float(of["exponent_high"]),
                    coefficient=float(of["coefficient"]),
                    r2=float(of["r2"]),
                    points=points,
                )
        return found

    def __repr__(self) -> str:
        """The exponent of each network that has one."""
        laws = [
            f"{name} {law.exponent:.2f} [{law.exponent_low:.2f}, {law.exponent_high:.2f}]"
            for name, law in self.slopes.items()
        ]
        return f"<DepthLaw of the best learning rate: {', '.join(laws) or 'no network has one'}>"

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
    """Measure how the best learning rate falls with depth, and compare with what needs no sweep.

    Source: docs/theory.md, section 6.

    The optimum is the published one: the least mean training loss over all steps, averaged over seeds.

    Args:
        networks: A sweep for each network, by name: one width, three depths or more, the rule "sp". Its learning rates
            are the exhaustive grid, and the ends of its range are where the adaptive search begins. Where at some depth
            the best one lies at an end, or none is stable, the range is extended, to 2^-40 and to 2^10 at most; if that
            does not help, `at_edge`, a warning and the report say so.
        search: "adaptive" (`isoscale.runs.search`) or "grid", every learning rate of the sweep.
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
    at_depth = by_depth(specs)
    searches = {}
    for curve, spec in at_depth.items():
        searches[curve] = _search(spec, search, target, most_seeds)
        # What cannot be trained is refused before anything is.
        prepare(dataclasses.replace(spec, lrs=spec.lrs[:1]), data)
    with runner.session() as session:
        tables = run_searches(at_depth, searches, session)
        found = _dataset(specs, searches, joined(tables), data, here)
        known = _known(specs, found, searches, data)
        methods, trained = zero_shot(known, session) if known else ([], [])
    runs = joined([*tables, *trained])
    return _law(specs, found, methods, runs)


def by_depth(specs: Mapping[str, Sweep]) -> dict[Curve, Sweep]:
    """The sweep of each network at each depth.

    Each depth is its own base: the law is about networks as their own code draws them.
    """
    found = {}
    for name, spec in specs.items():
        for depth in spec.depths:
            found[Curve(name, depth)] = dataclasses.replace(spec, depths=(depth,), base_depth=depth)
    return found


def _checked(networks: Sweep | Mapping[str, Sweep]) -> dict[str, Sweep]:
    if isinstance(networks, Sweep):
        networks = {networks.model: networks}
    is_mapping = isinstance(networks, Mapping)
    if not is_mapping or not all(isinstance(spec, Sweep) for spec in networks.values()):
        raise InvalidTypeError(f"`networks` must be a Sweep, or a mapping of names to Sweeps, got {networks!r}")
    if not networks:
        raise InvalidValueError("`networks` is empty: give at least one")
    for name, spec in networks.items():
        fits.check_depths(spec.depths)
        if not isinstance(spec.steps, int):
            lengths = ", ".join(map(str, spec.steps))
            raise InvalidValueError(f"a depth law is of runs of one length, got `steps` {lengths} for {name}")
        if len(spec.widths) > 1 or tuple(spec.rule) != ("sp",):
            widths = ", ".join(map(str, spec.widths))
            rules = ", ".join(spec.rule)
            raise InvalidValueError(
                "a depth law is of one width and the rule sp (the others are compared by themselves), "
                f"got widths {widths} and {rules} for {name}"
            )
    return dict(networks)


def _search(spec: Sweep, method: Method, target: float, most_seeds: int) -> Search | Grid:
    seeds = tuple(spec.seeds)  # pyrefly: ignore[bad-argument-type]  the spec made it a tuple
    if method == "grid":
        return Grid(lrs=tuple(spec.lrs), seeds=seeds, steps=spec.longest)
    unused = [seed for seed in range(most_seeds) if seed not in seeds]
    count = max(0, most_seeds - len(seeds))
    return Search(
        low=min(spec.lrs),
        high=max(spec.lrs),
        seeds=seeds,
        steps=spec.longest,
        target=target,
        more_seeds=tuple(unused[:count]),
    )


# --- the numbers ---
def _dataset(
    specs: Mapping[str, Sweep],
    searches: Mapping[Curve, Search | Grid],
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
        row = dataclasses.asdict(curve)
        row |= _optimum(search)
        row |= _without_sweep(spec, curve.depth, dataset, device)
        # ln(classes) is the loss of a network that knows nothing.
        chance = math.log(dataset.classes)
        row |= at_optimum(runs, curve, float(row["lr"]), chance)
        _say_if_unstable(row, search)
        rows.append(row)
    table = pd.DataFrame(rows).set_index(["network", "depth"])
    found = table.to_xarray()
    # pandas sorts; the order given is the order of the report.
    found = found.reindex(network=list(specs))
    edges = found["at_edge"].fillna("")
    found["at_edge"] = edges.astype(str)
    for name in ("lr", "estimate"):
        found[name].attrs["units"] = "learning rate"
    return found


def _optimum(search: Search | Grid) -> dict[str, Any]:
    best = search.optimum
    return {
        "lr": 2.0**best.log2_lr,
        "lr_low": 2.0**best.low,
        "lr_high": 2.0**best.high,
        "lr_se": math.log(2) * best.se * 2.0**best.log2_lr,
        "at_edge": best.edge,
        "half_width": (best.high - best.low) / 2,
        "trials": search.trials,
        "full_trials": search.full_trials,
    }


def _without_sweep(spec: Sweep, depth: int, dataset: Any, device: str) -> dict[str, float]:
    estimate = estimates.estimate(spec, depth, dataset, device)
    if estimate.why:
        _log.warning("depth %d has no sweep-free estimate: %s", depth, estimate.why)
    depths = estimates.depths_of(spec, depth, dataset)
    return {
        "estimate": estimate.lr,
        "estimate_se": estimate.se,
        **depths._asdict(),
    }


def _say_if_unstable(row: Mapping[str, Any], search: Search | Grid) -> None:
    lrs = search.tried
    where = f"{row['network']}, depth {row['depth']}"
    # A search whose optimum is at an end extends its range: it ends only at the limit.
    edge = row["at_edge"]
    if edge == "none":
        nothing = "%s: no learning rate from %.3g to %.3g trains most seeds; less is not tried"
        _log.warning(nothing, where, lrs[0], lrs[-1])
    elif edge:
        beyond = {"low": "less", "high": "more"}[edge]
        bound = "%s: the optimum is at the %s end, %.3g; %s is not tried"
        _log.warning(bound, where, edge, row["lr"], beyond)


def _inside(found: xr.Dataset, network: str) -> xr.Dataset:
    """The depths of a network whose optimum is a value, not a bound."""
    of = found.sel(network=network)
    is_value = (of["at_edge"].values == "") & np.isfinite(of["lr"].values)
    return of.isel(depth=np.flatnonzero(is_value))


def _known(
    specs: Mapping[str, Sweep],
    found: xr.Dataset,
    searches: Mapping[Curve, Search | Grid],
    folder: str | None,
) -> dict[str, Known]:
    """Networks whose deepest size has an optimum, and two others at least."""
    known = {}
    for name, spec in specs.items():
        of = _inside(found, name)
        depths = of["depth"].values
        deepest = max(spec.depths)
        if len(depths) < 3 or depths[-1] != deepest:
            continue
        search = searches[Curve(name, deepest)]
        dataset = estimates.data_of(spec, folder)
        known[name] = Known(
            spec=spec,
            depths=depths,
            lrs=of["lr"].values,
            estimates=of["estimate"].values,
            tuned=tuned_lr(search.curve),
            has_branches=estimates.has_branches(spec, dataset),
        )
    return known


def _law(
    specs: Mapping[str, Sweep],
    found: xr.Dataset,
    methods: list[dict[str, Any]],
    runs: pd.DataFrame,
) -> DepthLaw:
    """The laws of every network, and what they predict."""
    import pandas as pd

    of_networks, predictions, segments = [], [], []
    for name, spec in specs.items():
        inside = _inside(found, name)
        depths, lrs = inside["depth"].values, inside["lr"].values
        swept = fits.law_of(depths, lrs, _weights(inside["lr_se"].values))
        row = {"network": name} | swept
        row |= _law_of_estimates(found.sel(network=name))
        row |= _compared(spec, swept)
        of_networks.append(row)
        if len(depths) < 3:
            continue
        measures = {measure: inside[measure].values for measure in _MEASURES}
        for row in fits.out_of_sample(measures, lrs):
            predictions.append({"network": name} | row)
        for row in fits.segments(depths, measures, lrs):
            segments.append({"network": name} | row)
    table = pd.DataFrame(of_networks).set_index("network")
    of_network = table.to_xarray().reindex(network=list(specs))
    return DepthLaw(
        data=found.merge(of_network),
        predictions=pd.DataFrame(predictions),
        segments=pd.DataFrame(segments),
        zero_shot=pd.DataFrame(methods),
        runs=runs,
    )


def _law_of_estimates(of: xr.Dataset) -> dict[str, float]:
    """The law of one network's estimates at every depth that has one, weighed by their errors if all are known."""
    estimate = of["estimate"].values
    has_estimate = np.isfinite(estimate)
    depths = of["depth"].values[has_estimate]
    errors = of["estimate_se"].values[has_estimate]
    law = fits.law_of(depths, estimate[has_estimate], _weights(errors))
    return {f"estimate_{name}": value for name, value in law.items()}


def _weights(errors: np.ndarray) -> np.ndarray | None:
    """Standard errors to weigh a fit by, if all of them are known."""
    is_known = np.isfinite(errors) & (errors > 0)
    return errors if is_known.all() else None


def _compared(spec: Sweep, law: Mapping[str, float]) -> dict[str, Any]:
    """What the papers print for this kind of network, beside the interval of the swept exponent."""
    low, high = law["exponent_low"], law["exponent_high"]
    found: dict[str, Any] = {
        "published_low": math.nan,
        "published_high": math.nan,
        "published_kind": "",
        "claim_verdict": verdict(low, high, (CLAIM, CLAIM)),
        "published_verdict": "nothing published",
        "settings": json.dumps(_settings(spec)),
    }
    printed = published(spec)
    if printed is not None:
        found |= {
            "published_low": printed.low,
            "published_high": printed.high,
            "published_kind": printed.kind,
            "published_verdict": verdict(low, high, (printed.low, printed.high)),
        }
    return found


def _settings(spec: Sweep) -> dict[str, Any]:
    """The sweep of one network, with the range of its learning rates and how far that is extended."""
    settings = spec.to_mapping()
    del settings["lrs"]
    settings["lr_range"] = [min(spec.lrs), max(spec.lrs)]
    settings["lr_limits"] = [2.0**limit for limit in LIMITS]
    return settings
