"""In training, networks of depth L are within O(1/L) of the limit, with backward weights reused and independent."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from scipy.stats import chi2

from isoscale import limit
from isoscale.reproduce import conditions, inputs
from isoscale.reproduce.claim import Claim, Part, Preset, Ruling, ruling
from isoscale.reproduce.measured import Measured

if TYPE_CHECKING:
    import xarray as xr

    from isoscale.reproduce.work import Work

_SHARED = {"dataset": "digits", "phi": "tanh", "lr": 0.15, "seed": 0}
PRESETS = {
    "quick": Preset(
        minutes=0.1,
        settings=_SHARED
        | {"samples": 4, "steps": 4, "depths": (4, 8, 16, 32), "particles": 256, "replicas": 16, "draws": 32},
    ),
    "cpu": Preset(
        minutes=3,
        gibibytes=2,
        settings=_SHARED
        | {
            "samples": 6,
            "steps": 6,
            "depths": (4, 8, 16, 32, 64, 128),
            "particles": 512,
            "replicas": 48,
            "draws": 64,
        },
    ),
    "paper": Preset(
        minutes=240,
        gibibytes=16,
        settings=_SHARED
        | {
            "samples": 16,
            "steps": 10,
            "depths": (4, 8, 16, 32, 64, 128),
            "particles": 2048,
            "replicas": 64,
            "draws": 128,
        },
    ),
}
MODES = ("reused", "independent")

# A fit that chance gives more rarely is no fit.
_RARE = 0.01


def measure(settings: Mapping[str, Any], work: Work) -> Measured:
    """Rates of convergence in depth, as one power and as c1/L + c2/L^2."""
    x, y = inputs.problem(settings, work.data)

    def rates() -> dict[str, Any]:
        data = limit.convergence(
            x,
            y,
            depths=settings["depths"],
            widths=(64, 128, 256),
            steps=settings["steps"],
            lr=settings["lr"],
            phi=settings["phi"],
            particles=settings["particles"],
            replicas=settings["replicas"],
            networks=settings["draws"],
            seed=settings["seed"],
        )
        return data.to_dict()

    import xarray as xr

    data = xr.Dataset.from_dict(work.part("rates of convergence", settings, rates))
    found = Measured()
    found.panel("error in depth", x="depth L", y="|loss - limit|, rms over steps")
    deepest = max(settings["depths"])
    for mode in MODES:
        of = data.sel(mode=mode)
        found.line("error in depth", mode, of["depth"].values, of["depth_error"].values, of["depth_error_se"].values)
        law = data.sel(law=f"depth error, {mode}")
        ends = [float(law[name]) for name in ("exponent", "exponent_low", "exponent_high")]
        found.quantity(f"exponent over all depths, {mode}", *ends)
        ratios = [float(of[f"c2_over_c1{end}"]) for end in ("", "_low", "_high")]
        local = [_local_exponent(ratio, deepest) for ratio in ratios]
        found.quantity(f"exponent at depth {deepest}, {mode}", local[0], min(local), max(local))
        found.quantity(f"c2 / c1, {mode}", *ratios)
        freedom = data.attrs["degrees_of_freedom"]
        found.quantity(f"p-value of c1/L + c2/L^2, {mode}", float(chi2.sf(float(of["chi_squared"]), freedom)))
        single = float(of["chi_squared_of_one_term"])
        found.quantity(f"p-value of c1/L alone, {mode}", float(chi2.sf(single, freedom + 1)))
    return found


def _local_exponent(ratio: float, depth: float) -> float:
    """d log(1/L + ratio/L^2) / d log L."""
    return -(1 + 2 * ratio / depth) / (1 + ratio / depth)


def decide(data: xr.Dataset) -> Ruling:
    """The two-term law must fit, and its exponent at the deepest network be -1."""
    parts = []
    for mode in MODES:
        (name,) = [name for name in conditions.named(data, "exponent at depth") if name.endswith(mode)]
        parts.append(conditions.exponent(data, name, -1.0))
        probability = conditions.quantity(data, f"p-value of c1/L + c2/L^2, {mode}").value
        parts.append(Part(f"c1/L + c2/L^2 fits, {mode}", bool(probability >= _RARE), f"p = {probability:.2g}"))
    return ruling(parts)


CLAIM = Claim(
    id="nfd-2",
    alias="training-error",
    sentence="In training, the error of a finite depth is O(1/L), with backward weights reused and independent.",
    source="NFD, arXiv 2512.21075; docs/theory.md, sections 2 and 3",
    rule="c1/L + c2/L^2 fits the changes with each doubling of depth (p >= 0.01), and its exponent at the deepest "
    "network is -1. One power fitted over all depths is shown, and decides nothing: c2 bends it.",
    reading="Each mode against its own limit, at infinite width.",
    presets=PRESETS,
    measure=measure,
    decide=decide,
)
