"""How batch size and duration move the best learning rate, and width and duration the best weight decay: measured.

Every study is an adaptive search at five sizes over a factor of 16 (`isoscale.size_law`), all runs end in a cosine:

* *batch*: at a fixed number of samples, steps x batch; the smallest batch has the most steps;
* *steps*: at a fixed batch.

Together they give lr ~ batch^x steps^y. The largest size's rate is predicted from the smaller ones by the fitted law
and by every published exponent, and trained. The *decay* studies tune the learning rate at the base and train a grid of
weight decays around it at three widths, at fixed steps and at fixed samples per parameter: the four decay rules are
four exponents of one optimum.

Sizes, ranges and seeds are those that a time limit affords; none was chosen by an exponent. Studies run in the order
of the list, the store keeps every trial, and what is finished is kept beside it: run again to resume. `--write` writes
the page from what is finished.

    ISOSCALE_DATA=data python benchmarks/budget.py --preset short --minutes 45
    python benchmarks/budget.py --write
"""

from __future__ import annotations

import dataclasses
import gzip
import io
import json
import math
import os
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pandas as pd
import tyro
from matplotlib.figure import Figure
from rich.console import Console

import isoscale
from isoscale.data import Dataset, load
from isoscale.report import drawing
from isoscale.report.numbers import ends, with_ends
from isoscale.report.output import svg
from isoscale.runs import Runner, Sweep, log2_grid
from isoscale.stats.optimum import find_optimum, t_interval
from isoscale.stats.power_law import fit_power_law
from isoscale.studies.size_law import survives

FOLDER = Path(__file__).parents[1] / "docs" / "results"
SEEDS = 3
OPTIMIZERS = ("adamw", "sgd", "muon")
# Where a search begins; it goes on where the best lies at an end.
LRS = {"adamw": (-12, -4), "sgd": (-8, 2), "muon": (-10, -2)}
# A user's decay; of SGD none, which is what its rules are stated for.
DECAY = {"adamw": 0.1, "sgd": 0.0, "muon": 0.1}

# Exponents of the learning rate that are claimed, in batch at fixed samples and in steps (samples) at fixed batch.
CLAIMS = {
    "batch": {"constant": 0.0, "sqrt": 0.5, "linear": 1.0},
    "steps": {"constant": 0.0, "0.28": -0.28, "0.30": -0.30, "0.32": -0.32, "1/2": -0.5},
}
# Exponents of the decay in width, where lr ~ 1/width in hidden matrices.
DECAYS = {"independent": 1.0, "sqrt": 0.5, "coupled": 0.0}

NORMED = {"block_depth": 2, "phi": "relu", "norm": "layer"}


@dataclass(frozen=True, kw_only=True)
class Task:
    """A data set with a network, and the samples that a run of it sees."""

    model: str
    model_args: dict[str, Any]
    dataset: str
    dataset_args: dict[str, Any]
    depth: int
    width: int
    batches: tuple[int, ...]
    lengths: tuple[int, ...]
    batch: int
    """Of the studies along steps."""

    @property
    def samples(self) -> int:
        """Of the studies along batches."""
        return self.batch * self.lengths[len(self.lengths) // 2]


def _task(samples: int, **changes: Any) -> Task:
    """A residual MLP; batches of 8 to 128, and lengths a factor of 4 to either side of those of batch 32."""
    middle = samples // 32
    settings: dict[str, Any] = {
        "model": "residual-mlp",
        "model_args": NORMED,
        "dataset_args": {},
        "depth": 2,
        "width": 32,
        "batches": (8, 16, 32, 64, 128),
        "batch": 32,
        "lengths": tuple(middle * 2**k // 4 for k in range(5)),
    }
    return Task(**settings | changes)


def _tasks(samples: int, windows: int, context: int, gpt: dict[str, Any]) -> dict[str, Task]:
    """The three tasks of a preset: samples of images, windows of text."""
    lengths = tuple(windows // 8 * 2**k // 4 for k in range(5))
    return {
        "cifar10": _task(samples, dataset="cifar10", dataset_args={"batches": (1, 2), "pool": 4}),
        "fashion-mnist": _task(samples, dataset="fashion-mnist"),
        "text": _task(
            samples,
            model="gpt",
            dataset="text",
            dataset_args={"context": context},
            batches=(2, 4, 8, 16, 32),
            batch=8,
            lengths=lengths,
            **gpt,
        ),
    }


@dataclass(frozen=True, kw_only=True)
class Preset:
    """Sizes by their cost."""

    tasks: dict[str, Task]
    widths: tuple[int, ...]
    """Of the decay studies; the samples for each parameter are those of the first."""
    decay_steps: int
    decays: tuple[float, ...]


PRESETS = {
    # About 20 minutes of one core.
    "short": Preset(
        tasks=_tasks(12_800, 3_200, 16, {"depth": 1, "model_args": {"heads": 1}}),
        widths=(16, 32, 64),
        decay_steps=100,
        decays=tuple(2.0**k for k in range(-7, 6, 2)),
    ),
    # About 3 hours of two cores.
    "long": Preset(
        tasks=_tasks(51_200, 12_800, 32, {"depth": 2, "model_args": {"heads": 2}}),
        widths=(16, 32, 64, 128),
        decay_steps=200,
        decays=tuple(2.0**k for k in range(-9, 6)),
    ),
}

Kind = Literal["batch", "steps", "decay"]


@dataclass(frozen=True, kw_only=True)
class Study:
    """One optimum against one size."""

    task: str
    optimizer: str
    kind: Kind
    fixed: str = "tokens"

    @property
    def name(self) -> str:
        """Of its files."""
        return f"{self.task}-{self.optimizer}-{self.kind}" + (f"-{self.fixed}" if self.kind == "decay" else "")


def studies() -> Iterator[Study]:
    """All of them, so that whenever time is up some of everything is finished."""
    yield from _laws("cifar10", OPTIMIZERS)
    for fixed in ("steps", "tokens-per-parameter"):
        yield Study(task="cifar10", optimizer="adamw", kind="decay", fixed=fixed)
    yield from _laws("text", OPTIMIZERS[:1])
    yield from _laws("fashion-mnist", OPTIMIZERS)
    yield from _laws("text", OPTIMIZERS[1:])


def _laws(task: str, optimizers: Sequence[str]) -> Iterator[Study]:
    kinds: tuple[Kind, ...] = ("steps", "batch")
    for optimizer in optimizers:
        for kind in kinds:
            yield Study(task=task, optimizer=optimizer, kind=kind)


def sweep_of(study: Study, preset: Preset) -> Sweep:
    """The sweep of a study; of a decay study at the base alone."""
    task = preset.tasks[study.task]
    settings: dict[str, Any] = {
        "model": task.model,
        "model_args": task.model_args,
        "dataset": task.dataset,
        "dataset_args": task.dataset_args,
        "widths": (task.width,),
        "depths": (task.depth,),
        "rule": "mup",
        "optimizer": study.optimizer,
        "weight_decay": DECAY[study.optimizer],
        "schedule": "cosine",
        "warmup": 0.1,
        "lrs": log2_grid(*LRS[study.optimizer]),
        "seeds": SEEDS,
        "search": "adaptive",
    }
    if study.kind == "batch":
        steps = task.samples // min(task.batches)
        settings |= {"batch_sizes": task.batches, "steps": steps, "budget_axis": "tokens"}
    elif study.kind == "steps":
        settings |= {"batch_size": task.batch, "steps": task.lengths}
    else:
        axis = study.fixed if study.fixed != "tokens" else "steps"
        settings |= {"batch_size": task.batch, "widths": preset.widths, "steps": preset.decay_steps}
        settings |= {"budget_axis": axis}
    if task.dataset == "text":
        settings |= {"dataset": _text(task.dataset_args["context"]), "dataset_args": {}}
    return Sweep(**settings)


# Windows of text to test on: the test is no part of a verdict, and of thousands it would be most of the cost.
_TESTED = 128


def _text(context: int) -> Dataset:
    whole = load("text", context=context, folder=os.environ["ISOSCALE_DATA"])
    test = whole.test_x[:_TESTED], whole.test_y[:_TESTED]
    note = f"{whole.note}; tested on the first {_TESTED}"
    return Dataset.from_arrays(whole.train_x, whole.train_y, test=test, classes=whole.classes, name="text", note=note)


# --- what a study finds -------------------------------------------------------------------------------------------
def measured(study: Study, preset: Preset, runner: Runner) -> dict[str, Any]:
    """The numbers of a study, as plain values, with all of its full trials."""
    spec = sweep_of(study, preset)
    if study.kind == "decay":
        return _decay(spec, preset, runner)
    found = isoscale.size_law(spec, runner=runner)
    of = found.data.isel(rule=0)
    numbers = {name: of[name].item() for name in of.data_vars if of[name].ndim == 0}
    sizes = {name: of[name].values.tolist() for name in of.data_vars if of[name].ndim == 1}
    return {
        "axis": found.axis,
        "sizes": {"size": of[found.axis].values.tolist(), **sizes},
        "law": numbers,
        "zero_shot": found.zero_shot.to_dict("records"),
        "runs": found.runs.to_dict("records"),
    }


def _decay(spec: Sweep, preset: Preset, runner: Runner) -> dict[str, Any]:
    """The best decay at each width, in the base's terms; what each rule's decay costs at the largest."""
    base = spec.only(spec.cells[0])
    tuned = runner.sweep(base)
    lr = _rounded(find_optimum(tuned.curve(base.cells[0])).log2_lr)
    settings = {"lrs": (lr,), "hyperparameters": {"weight_decay": preset.decays}, "search": "grid"}
    grid = runner.sweep(dataclasses.replace(spec, **settings))
    found = isoscale.judge(grid, size="width", hyperparameter="weight_decay")
    of = found.data.isel(rule=0)
    widths = of["width"].values.tolist()
    spent = [spec.spending({"width": width, "depth": spec.depths[0]}) for width in widths]
    # In the base's terms the plan has multiplied decay by the width's ratio already ("independent").
    ratios = np.array(widths) / widths[0]
    optima = of["optimal_lr"].values * ratios
    edges = of["at_edge"].values.tolist()
    law = {"exponent": math.nan, "exponent_low": math.nan, "exponent_high": math.nan, "points": edges.count("")}
    inside = [index for index, edge in enumerate(edges) if not edge]
    if len(inside) >= 2:
        fitted = fit_power_law(ratios[inside], optima[inside])
        law |= {name: getattr(fitted, name) for name in law}
    sizes = {
        "size": widths,
        "decay": optima.tolist(),
        "decay_low": (of["optimal_lr_low"].values * ratios).tolist(),
        "decay_high": (of["optimal_lr_high"].values * ratios).tolist(),
        "at_edge": edges,
        "steps": [one.steps for one in spent],
        "tokens": [one.tokens for one in spent],
        "loss": of["best_loss"].values.tolist(),
    }
    costs, rows = _decay_costs(spec, grid, lr, float(of["optimal_lr"].values[0]), edges[0], runner)
    runs = pd.concat([tuned.runs_table().assign(weight_decay=spec.weight_decay), grid.runs_table(), rows])
    return {
        "axis": "width",
        "lr": lr,
        "sizes": sizes,
        "law": law,
        "zero_shot": costs,
        "runs": runs.to_dict("records"),
    }


def _decay_costs(
    spec: Sweep, grid: isoscale.SweepResult, lr: float, decay: float, edge: str, runner: Runner
) -> tuple[list[dict[str, Any]], pd.DataFrame]:
    """Loss of each decay rule at the largest width above that of the best decay of the grid, seed by seed."""
    cell = spec.only(spec.cells[-1])
    ratio = spec.widths[-1] / spec.widths[0]
    at_largest = grid.loss.isel(rule=0, depth=0, lr=0).sel(width=spec.widths[-1])
    means = at_largest.mean("seed", skipna=False)
    best = at_largest.isel(weight_decay=int(means.fillna(np.inf).argmin()))
    rules = {name: decay * ratio ** (exponent - 1) for name, exponent in DECAYS.items()}
    rows, tables = [], []
    for name, value in {**rules, "none": 0.0}.items():
        kept = 0.0 if value == 0 else _rounded(math.log2(value))
        result = runner.sweep(dataclasses.replace(cell, lrs=(lr,), weight_decay=kept, search="grid"))
        losses = result.loss.values.reshape(-1)
        above = t_interval(losses - best.values)
        rows.append(
            {
                "method": name,
                "decay": kept * ratio,
                "loss": float(losses.mean()),
                "regret": above.mean,
                "regret_low": above.mean - above.half,
                "regret_high": above.mean + above.half,
                "diverged": result.count("diverged"),
                "base_at_edge": edge,
            }
        )
        tables.append(result.runs_table().assign(weight_decay=kept))
    return rows, pd.concat(tables)


def _rounded(log2: float) -> float:
    """No optimum is known to nine digits."""
    return float(f"{2.0**log2:.6g}")


# --- the page -----------------------------------------------------------------------------------------------------
def page(kept: Mapping[str, dict[str, Any]], preset: str, versions: str) -> str:
    """The results of the finished studies, with what they leave open."""
    laws = {name: one for name, one in kept.items() if one["study"]["kind"] != "decay"}
    decays = {name: one for name, one in kept.items() if one["study"]["kind"] == "decay"}
    missing = [study.name for study in studies() if study.name not in kept]
    parts = [
        _HEAD.format(preset=preset, versions=versions, runs=sum(len(one["runs"]) for one in kept.values())),
        "## Exponents of the best learning rate\n\n" + _exponents(laws),
        "## What is published, against these intervals\n\n" + _claims(laws),
        "## The largest size, from the four smaller ones\n\n" + _predicted(laws),
        "## Weight decay against width\n\n" + (_decay_tables(decays) or "No study of it is finished."),
        "## Every optimum\n\n" + _optima(laws),
        "## What this does not decide\n\n" + _LIMITS,
    ]
    if missing:
        parts.append(f"Studies of this preset that are not finished: {', '.join(missing)}.")
    return "\n\n".join(parts) + "\n"


_HEAD = """# Batch, duration and weight decay: what was measured

`python benchmarks/budget.py --preset {preset}`, written by `--write`: {runs} full trials in
[budget-runs.csv.gz](budget-runs.csv.gz), {versions}. Seeds 0, 1, 2 in every study.

Five sizes over a factor of 16 in each study; every run warms up over a tenth of its steps and ends in a cosine.
*batch*: the samples seen are fixed, so that steps fall as the batch grows. *steps*: the batch is fixed, so that samples
grow with the steps. The loss is the mean training loss of the last tenth of the steps. Optima are searched for
adaptively, three seeds each; a search begins in the same range for all sizes of an optimizer. Intervals are 95 %: of an
exponent from the scatter of the optima about the law, of a regret over seeds. Sizes and ranges were fixed by their cost
before any run.

![Best learning rate against batch and steps](budget.svg)"""

_LIMITS = """\
* Networks of a few thousand to fifty thousand parameters, runs of seconds. Exponents of large models may differ;
  published fits are of language models many thousand times larger.
* Weight decay is 0.1 for AdamW and Muon and 0 for SGD along batch and steps, betas are torch's: rules that move decay
  and betas along with the learning rate are judged by their learning rate's exponent alone.
* The data are small: images are seen up to a few times, so that a longer run is also one of more epochs. Loss is the
  training loss.
* Batches span 8 to 128 (windows of text: 2 to 32). Far below the critical batch everything may look like one power;
  far above it none holds.
* Three seeds and five sizes: an interval that holds two published exponents does not choose between them. Rows that lie
  0.02 to 0.04 apart (0.28, 0.30, 0.32) are not told apart by any study of this size.
* The interval of an exponent does not show a law that is wrong; its curvature and the error at the largest size do."""


def _table(header: list[str], rows: list[list[str]]) -> str:
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def _of(one: dict[str, Any]) -> list[str]:
    study = one["study"]
    return [study["task"], study["optimizer"], study["kind"]]


def _exponents(laws: Mapping[str, dict[str, Any]]) -> str:
    rows = []
    for one in laws.values():
        law = one["law"]
        bend = with_ends(law["curvature"], law["curvature_low"], law["curvature_high"], "+.2f")
        exponent = with_ends(law["exponent"], law["exponent_low"], law["exponent_high"], "+.2f")
        rows.append([*_of(one), exponent, bend, f"{law['points']:.0f} of {len(one['sizes']['size'])}"])
    header = ["data", "optimizer", "along", "exponent", "its change with each doubling", "optima inside"]
    return _table(header, rows)


def _claims(laws: Mapping[str, dict[str, Any]]) -> str:
    parts = []
    for kind, claims in CLAIMS.items():
        rows = []
        for one in laws.values():
            if one["study"]["kind"] != kind:
                continue
            low, high = one["law"]["exponent_low"], one["law"]["exponent_high"]
            rows.append([*_of(one)[:2], *(survives(value, low, high) for value in claims.values())])
        if rows:
            names = [f"{name} ({value:+.2f})" for name, value in claims.items()]
            parts.append(f"Along {kind}:\n\n" + _table(["data", "optimizer", *names], rows))
    return "\n\n".join(parts)


_PREDICTED = """\
Octaves: predicted above measured, with the measured optimum's interval. Regret: training loss above the best trained
rate's, seed by seed; the best rate was chosen by the same seeds, so that regrets are a little too large. *fitted*: the
power law through the smaller sizes; *unchanged*: the smallest size's rate; a published exponent has the constant that
fits the smaller sizes.

"""


def _predicted(laws: Mapping[str, dict[str, Any]]) -> str:
    rows = []
    for one in laws.values():
        for row in one["zero_shot"]:
            if row["method"] == "tuned":
                continue
            octaves = with_ends(row["octaves"], row["octaves_low"], row["octaves_high"], "+.2f")
            regret = with_ends(row["regret"], row["regret_low"], row["regret_high"], "+.4f")
            if row["diverged"]:
                regret = f"{row['diverged']} diverged"
            rows.append([*_of(one), row["method"], f"{row['lr']:.3g}", octaves, regret, f"{row['loss']:.4f}"])
    header = ["data", "optimizer", "along", "rule", "lr", "octaves", "regret", "loss"]
    return _PREDICTED + _table(header, rows)


def _decay_tables(decays: Mapping[str, dict[str, Any]]) -> str:
    parts = []
    for one in decays.values():
        law, sizes, fixed = one["law"], one["sizes"], one["study"]["fixed"]
        rows = []
        for index, width in enumerate(sizes["size"]):
            low, high = sizes["decay_low"][index], sizes["decay_high"][index]
            best = f"{sizes['decay'][index]:.3g} {ends(low, high, '.3g')}"
            edge = sizes["at_edge"][index]
            bound = {"low": "at most ", "high": "at least "}.get(edge, "")
            rows.append([f"{width}", f"{sizes['steps'][index]}", bound + best, f"{sizes['loss'][index]:.4f}"])
        exponent = with_ends(law["exponent"], law["exponent_low"], law["exponent_high"], "+.2f")
        verdicts = [
            f"{name} ({value:g}) {survives(value, law['exponent_low'], law['exponent_high'])}"
            for name, value in DECAYS.items()
        ]
        costs = []
        for row in one["zero_shot"]:
            regret = with_ends(row["regret"], row["regret_low"], row["regret_high"], "+.4f")
            costs.append([row["method"], f"{row['decay']:.3g}", regret, f"{row['loss']:.4f}"])
        parts.append(
            f"At fixed {fixed}, AdamW, learning rate {one['lr']:.3g} at the base and 1/width in hidden matrices:\n\n"
            + _table(["width", "steps", "best decay", "loss"], rows)
            + f"\n\nExponent of the best decay in width: {exponent}; {', '.join(verdicts)}.\n\n"
            + "At the largest width, each rule's decay from the base's best:\n\n"
            + _table(["rule", "decay", "regret", "loss"], costs)
        )
    return "\n\n".join(parts)


def _optima(laws: Mapping[str, dict[str, Any]]) -> str:
    rows = []
    for one in laws.values():
        sizes = one["sizes"]
        for index in range(len(sizes["size"])):
            batch, steps = (sizes.get(name, sizes["size"])[index] for name in ("batch_size", "steps"))
            low, high = sizes["lr_low"][index], sizes["lr_high"][index]
            edge = sizes["at_edge"][index]
            kind = f"edge: {edge}" if edge else "limit of stability" if sizes["is_limit"][index] else "minimum"
            best = f"{sizes['lr'][index]:.3g} {ends(low, high, '.3g')}"
            rows.append([*_of(one), f"{batch}", f"{steps}", best, kind, f"{sizes['loss'][index]:.4f}"])
    return _table(["data", "optimizer", "along", "batch", "steps", "best lr", "is", "loss"], rows)


def figure(laws: Mapping[str, dict[str, Any]]) -> Figure:
    """The optima with their intervals and fitted laws: a row for each axis, a column for each data set."""
    tasks = list(dict.fromkeys(one["study"]["task"] for one in laws.values()))
    wide, high = 2.6, 2.0
    with drawing.style():
        drawn = drawing.blank((wide + 0.7) * len(tasks) + 0.3, 2 * (high + 0.75) + 0.35)
        for column, task in enumerate(tasks):
            for row, kind in enumerate(("batch", "steps")):
                left, bottom = 0.7 + (wide + 0.7) * column, 0.5 + (high + 0.75) * (1 - row)
                axes = drawing.panel(drawn, left=left, bottom=bottom, width=wide, height=high)
                axes.set_title(f"{task}: lr* against {kind}", fontsize=9, loc="left")
                axes.set_xscale("log", base=2)
                axes.set_yscale("log", base=2)
                for place, optimizer in enumerate(OPTIMIZERS):
                    one = laws.get(f"{task}-{optimizer}-{kind}")
                    if one is not None:
                        _line(axes, one, drawing.RULES[place], optimizer)
                axes.legend(fontsize=7, frameon=False)
    return drawn


def _line(axes: Any, one: dict[str, Any], colour: str, name: str) -> None:
    sizes, law = one["sizes"], one["law"]
    x, lr = np.array(sizes["size"], float), np.array(sizes["lr"], float)
    inside = np.array([not edge for edge in sizes["at_edge"]])
    low, high = np.array(sizes["lr_low"], float), np.array(sizes["lr_high"], float)
    axes.vlines(x[inside], low[inside], high[inside], color=colour, lw=1.2)
    axes.plot(x[inside], lr[inside], "o", color=colour, ms=4)
    if math.isfinite(law["coefficient"]):
        label = f"{name}: {law['exponent']:+.2f}"
        axes.plot(x, law["coefficient"] * x ** law["exponent"], color=colour, lw=1.2, label=label)


# --- the command --------------------------------------------------------------------------------------------------
@dataclass(frozen=True)
class Benchmark:
    """What to run."""

    preset: Literal["short", "long"] = "short"
    """Sizes, by their cost."""
    folder: Path = Path("budget-study")
    """For the store and what is finished."""
    minutes: float = math.inf
    """Begin no study after so many."""
    workers: int = 1
    """Processes at once."""
    write: bool = False
    """Write docs/results/budget.md from what is finished, and run nothing."""

    def run(self) -> None:
        """Run what is missing, or write the page."""
        place = self.folder / self.preset
        place.mkdir(parents=True, exist_ok=True)
        if self.write:
            self._write(place)
            return
        out = Console()
        runner = Runner(store=place / "runs.db", workers=self.workers, device="cpu", data=os.environ["ISOSCALE_DATA"])
        started = time.monotonic()
        for study in studies():
            file = place / f"{study.name}.json"
            if file.exists():
                continue
            if time.monotonic() - started > 60 * self.minutes:
                break
            before = time.monotonic()
            found = measured(study, PRESETS[self.preset], runner)
            found |= {"study": dataclasses.asdict(study), "versions": _versions()}
            file.write_text(json.dumps(found, default=str))
            out.print(f"{study.name}: {len(found['runs'])} runs, {time.monotonic() - before:.0f} s")

    def _write(self, place: Path) -> None:
        kept = {}
        for study in studies():
            file = place / f"{study.name}.json"
            if file.exists():
                kept[study.name] = json.loads(file.read_text())
        if not kept:
            raise SystemExit(f"nothing is finished in {place}")
        versions = ", ".join(sorted({one["versions"] for one in kept.values()}))
        (FOLDER / "budget.md").write_text(page(kept, self.preset, versions))
        laws = {name: one for name, one in kept.items() if one["study"]["kind"] != "decay"}
        (FOLDER / "budget.svg").write_text(svg(figure(laws)))
        text = io.StringIO()
        pd.concat([_all_runs(name, one) for name, one in kept.items()]).to_csv(text, index=False, float_format="%.6g")
        # The same runs give the same bytes.
        content = gzip.compress(text.getvalue().encode(), mtime=0)
        (FOLDER / "budget-runs.csv.gz").write_bytes(content)


def _all_runs(name: str, one: dict[str, Any]) -> pd.DataFrame:
    """Every full trial of a study, with what it spent."""
    study, sizes, axis = one["study"], dict(one["sizes"]), one["axis"]
    spent = {axis: sizes["size"], "steps": sizes.get("steps", sizes["size"]), "tokens": sizes["tokens"]}
    if "batch_size" in sizes:
        spent["batch_size"] = sizes["batch_size"]
    runs = pd.DataFrame(one["runs"])
    runs = runs.merge(pd.DataFrame(spent)[[axis, *(key for key in spent if key not in runs)]], on=axis)
    named = {"study": name, "dataset": study["task"], "optimizer": study["optimizer"]}
    return runs.assign(**named, batch_size=runs.get("batch_size", runs["tokens"] // runs["steps"]))


def _versions() -> str:
    from importlib import metadata

    return f"isoscale {metadata.version('isoscale')}, torch {metadata.version('torch')}"


if __name__ == "__main__":
    tyro.cli(Benchmark).run()
