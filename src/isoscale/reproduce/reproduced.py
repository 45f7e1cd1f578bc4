"""`run`: measure one claim at one preset, decide it, and keep what a page needs."""

from __future__ import annotations

import dataclasses
import math
import os
import platform
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Unpack

import numpy as np
import torch

import isoscale
from isoscale import data, report
from isoscale.checks import check_memory
from isoscale.data.registry import needs_folder
from isoscale.errors import InvalidValueError, unknown
from isoscale.reproduce import page, registry
from isoscale.reproduce.claim import PRESETS, Claim, Preset, Ruling
from isoscale.reproduce.measured import Quantity
from isoscale.reproduce.work import Say, Work
from isoscale.runs import Runner, RunOptions

if TYPE_CHECKING:
    import pandas as pd
    import xarray as xr
    from matplotlib.figure import Figure

FIGURES = ("svg", "pdf", "png")

# Minutes that a preset may take unless somebody allows more; "paper" is asked for with a GPU and the time it takes.
TIME_LIMITS = {"quick": 2.0, "cpu": 45.0, "paper": math.inf}


@dataclass(frozen=True, kw_only=True)
class Reproduced:
    """A claim that was measured and decided.

    Attributes:
        claim, preset: What was measured.
        measured: Dataset with the points of the figure and the quantities that decide.
        ruling: The verdict and its conditions.
        runs: Every trial of its sweeps; None where it needs none.
        seconds: Processor time of all its parts, those computed in earlier runs included.
    """

    claim: Claim
    preset: str
    measured: xr.Dataset
    ruling: Ruling
    runs: pd.DataFrame | None = field(repr=False)
    seconds: float

    @property
    def verdict(self) -> str:
        """ "holds", "holds within limits", "does not hold" or "cannot be decided at this size"."""
        return self.ruling.verdict

    @property
    def interval(self) -> Quantity:
        """The claim's first quantity: its value and the ends of its 95 % interval."""
        first = self.measured.isel(quantity=0)
        return Quantity(float(first["value"]), float(first["low"]), float(first["high"]))

    def plot(self, style: str = "page") -> Figure:
        """The figure: "page", or "column" for a single column in print."""
        return report.claim(self.measured, style)

    def save(self, folder: str | os.PathLike[str], *, style: str = "page", figures: Sequence[str] = FIGURES) -> Path:
        """Write page, figure, points and quantities, runs and the index; the page's path.

        Args:
            folder: Where to; pages of other claims and presets that lie there are kept.
            style: As for `plot`.
            figures: Of "svg", "pdf" and "png", those to write.

        Raises:
            InvalidValueError: Nothing is named in `figures`, or something else, or the folder cannot be written to.
        """
        for kind in figures:
            if kind not in FIGURES:
                raise unknown("kind of figure", kind, FIGURES)
        if not figures:
            raise InvalidValueError(f"`figures` names none of {', '.join(FIGURES)}: a page shows its figure")
        record = self.record() | {"figures": list(figures)}
        return page.write(record, self.measured, self.runs, self.plot(style), Path(folder))

    def record(self) -> dict[str, Any]:
        """All that the page says of this preset, its figure's files apart, as JSON."""
        settings = self.claim.presets[self.preset].settings
        command = f"isoscale reproduce {self.claim.id} --preset {self.preset}"
        if any(needs_folder(name) for name, _ in data_sets(settings)):
            command += " --data DIR"
        quantities = {}
        for name in self.measured["quantity"].values.tolist():
            of = self.measured.sel(quantity=name)
            quantities[name] = [float(of[end]) for end in Quantity._fields]
        return {
            "claim": self.claim.id,
            "preset": self.preset,
            "verdict": self.verdict,
            "why": self.ruling.why,
            "parts": [{**dataclasses.asdict(part), "word": part.word} for part in self.ruling.parts],
            "quantities": quantities,
            "settings": dict(settings),
            "command": command,
            "seconds": round(self.seconds, 1),
            "versions": versions(),
            "has_runs": self.runs is not None,
        }


def run(
    claim: str,
    preset: str = "quick",
    *,
    time_limit: float | None = None,
    runner: Runner | None = None,
    say: Say | None = None,
    **where: Unpack[RunOptions],
) -> Reproduced:
    """Decide one claim of the papers.

    Finished parts lie beside the store (`isoscale.db.parts`), trials in it: run again to resume.

    Args:
        claim: Identifier or alias: "nfd-7" or "collapse".
        preset: "quick" (two minutes at most), "cpu" (decides where two cores can) or "paper" (the papers' sizes).
        time_limit: Minutes that it may be expected to take; by default 2, 45 and, for "paper", any number.
        runner: Where and how its sweeps run; instead of the following.
        say: Called with the name of each part that begins.
        **where: As for `isoscale.sweep`: store, data, device, workers, ...

    Raises:
        InvalidValueError: No such claim or preset, or one that does not fit into time or memory.
        DataError: Its data set is missing.

    >>> run("collapse", "qick")
    Traceback (most recent call last):
    isoscale.errors.InvalidValueError: no preset named 'qick'. Nearest: quick. All: cpu, paper, quick
    """
    chosen = registry.get(claim)
    size = preset_of(chosen, preset)
    runner = runner or Runner(**where)
    check(chosen, preset, runner, time_limit)
    work = Work(
        claim=chosen.id,
        preset=preset,
        folder=Path(f"{os.fspath(runner.store)}.parts"),
        runner=runner,
    )
    if say is not None:
        work.say = say
    found = chosen.measure(size.settings, work)
    measured = found.dataset()
    return Reproduced(
        claim=chosen,
        preset=preset,
        measured=measured,
        ruling=chosen.decide(measured),
        runs=found.runs,
        seconds=work.seconds,
    )


def preset_of(claim: Claim, name: str) -> Preset:
    """A claim's preset by name.

    Raises:
        InvalidValueError: There is no such preset.
    """
    if name not in PRESETS:
        raise unknown("preset", name, PRESETS)
    return claim.presets[name]


def check(claim: Claim, preset: str, runner: Runner, time_limit: float | None = None) -> None:
    """Refuse what cannot run to its end, before it begins.

    Raises:
        InvalidValueError: It needs a GPU, more memory than there is, or more time than is allowed.
        DataError: Its data set is missing.
    """
    size = claim.presets[preset]
    for name, options in data_sets(size.settings):
        data.load(name, runner.data, **options)
    what = f"{claim.id} with preset {preset}"
    allowed = TIME_LIMITS[preset] if time_limit is None else time_limit
    if size.minutes > allowed:
        raise InvalidValueError(
            f"{what} takes about {size.minutes:g} minutes, and {allowed:g} are allowed: "
            f"`--time-limit {math.ceil(size.minutes)}` allows it, `--preset quick` is smaller"
        )
    if size.needs_gpu and runner.device != "cpu" and not torch.cuda.is_available():
        raise InvalidValueError(
            f"{what} takes about {size.minutes / 60:.1f} hours on a large GPU, and here is none: "
            "`--preset cpu` is for this machine, `--device cpu` insists"
        )
    check_memory(int(size.gibibytes * 2**30), f"It is {what}: `--preset quick` needs less.")


def data_sets(settings: Mapping[str, Any]) -> list[tuple[str, Mapping[str, Any]]]:
    """Names and options of the data sets that a protocol reads: its own, or one for each of its networks."""
    found = []
    for place in (settings, *settings.get("networks", {}).values()):
        if "dataset" in place:
            found.append((place["dataset"], place.get("dataset_args", {})))
    return found


def versions() -> dict[str, str]:
    """What measured it."""
    return {
        "isoscale": isoscale.__version__,
        "torch": str(torch.__version__),
        "numpy": np.__version__,
        "python": platform.python_version(),
        "machine": platform.machine(),
    }
