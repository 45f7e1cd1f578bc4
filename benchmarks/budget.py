"""How batch size and duration move the best learning rate, and width and duration the best weight decay: measured.

Every study is an adaptive search at five sizes over a factor of 16 (`isoscale.size_law`), all runs end in a cosine:

* *batch*: at a fixed number of samples, steps x batch; the smallest batch has the most steps;
* *steps*: at a fixed batch.

Together they give lr ~ batch^x steps^y. The largest size's rate is predicted from the smaller ones by the fitted law
and by every published exponent, and trained. The *decay* studies tune the learning rate at the base and train a grid of
weight decays around it at several widths, at fixed steps and at fixed samples per parameter, where a wider network
trains longer: the four decay rules are four exponents of one optimum. The base trained for as long as the wider ones
are (*width* fixed) shows how much of that is duration alone.

Sizes, ranges and seeds are those that a time limit affords; none was chosen by an exponent. Studies run in the order
of the list, the store keeps every trial, and what is finished is kept beside it: run again to resume. `--write` writes
the page from what is finished, of every preset.

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
from typing import Any, Literal, cast

import numpy as np
import pandas as pd
import tyro
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from rich.console import Console

import isoscale
from isoscale.data import Dataset, load
from isoscale.report import drawing
from isoscale.report.numbers import ends, signed, significant, with_ends
from isoscale.report.output import svg
from isoscale.runs import Runner, Sweep, log2_grid
from isoscale.stats.optimum import find_optimum, t_interval
from isoscale.stats.power_law import fit_power_law
from isoscale.studies.depth_law.zero_shot import tuned_lr
from isoscale.studies.size_law import survives

FOLDER = Path(__file__).parents[1] / "docs" / "results"
SEEDS = 3
OPTIMIZERS = ("adamw", "sgd", "muon")
# Where a search begins; it goes on where the best lies at an end.
LRS = {"adamw": (-12, -4), "sgd": (-8, 2), "muon": (-10, -2)}
# A user's decay; of SGD none, which is what its rules are stated for.
DECAY = {"adamw": 0.1, "sgd": 0.0, "muon": 0.1}

# By how much batch and samples grow where whole rules are compared.
BATCH, TOKENS = 8.0, 4.0

# Exponents of the learning rate that are claimed, in batch at fixed samples and in steps (samples) at fixed batch.
CLAIMS = {
    "batch": {"constant": 0.0, "sqrt": 0.5, "linear": 1.0},
    "steps": {"constant": 0.0, "0.28": -0.28, "0.30": -0.30, "0.32": -0.32, "1/2": -0.5},
}
# Ends of the weight decays to try.
LIMITS = (2.0**-15, 2.0**9)

# Exponents of the decay in width, where lr ~ 1/width in hidden matrices; and in steps, at one learning rate.
DECAYS = {
    "width": {"independent": 1.0, "sqrt": 0.5, "coupled": 0.0},
    "steps": {"constant": 0.0, "1/sqrt(steps)": -0.5, "1/steps": -1.0},
}

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
    """The tasks of a preset: samples of images, windows of text; a vision transformer sees twice as many samples."""
    lengths = tuple(windows // 8 * 2**k // 4 for k in range(5))
    cifar10: dict[str, Any] = {"dataset": "cifar10", "dataset_args": {"batches": (1, 2), "pool": 4}}
    return {
        "cifar10": _task(samples, **cifar10),
        "fashion-mnist": _task(samples, dataset="fashion-mnist"),
        "cifar10-vit": _task(
            samples,
            model="vit",
            batches=(4, 8, 16, 32, 64),
            batch=16,
            lengths=lengths,
            depth=gpt["depth"],
            model_args={**gpt["model_args"], "patch": 2},
            **cifar10,
        ),
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
    """Sizes by their cost, which is said of all studies together."""

    cost: str
    tasks: dict[str, Task]
    widths: tuple[int, ...]
    """Of the decay studies; the samples for each parameter are those of the first."""
    decay_steps: int
    decays: tuple[float, ...]


PRESETS = {
    "short": Preset(
        cost="under two hours of one core",
        tasks=_tasks(12_800, 3_200, 16, {"depth": 1, "model_args": {"heads": 1}}),
        widths=(16, 32, 64),
        decay_steps=100,
        decays=tuple(2.0**k for k in range(-7, 6, 2)),
    ),
    "long": Preset(
        cost="by estimate about a day of one core",
        tasks=_tasks(51_200, 12_800, 32, {"depth": 2, "model_args": {"heads": 2}}),
        widths=(16, 32, 64, 128),
        decay_steps=200,
        decays=tuple(2.0**k for k in range(-9, 6)),
    ),
}

Kind = Literal["batch", "steps", "rules", "decay"]


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
    """All of them: first what answers most for its time, so that whenever that is up some of everything is finished."""
    yield from _laws("cifar10", OPTIMIZERS)
    for fixed in ("steps", "tokens-per-parameter", "width"):
        yield Study(task="cifar10", optimizer="adamw", kind="decay", fixed=fixed)
    yield from _laws("fashion-mnist", OPTIMIZERS)
    for optimizer in OPTIMIZERS:
        yield from _laws("text", [optimizer])
        yield from _laws("cifar10-vit", [optimizer])


def _laws(task: str, optimizers: Sequence[str]) -> Iterator[Study]:
    kinds: tuple[Kind, ...] = ("steps", "batch", "rules")
    for optimizer in optimizers:
        for kind in kinds:
            yield Study(task=task, optimizer=optimizer, kind=kind)


def sweep_of(study: Study, preset: Preset) -> Sweep:
    """The sweep of a study, of its base where rules or decays are compared."""
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
    elif study.kind == "rules":
        batch, steps = _larger(task)
        settings |= {"batch_size": round(batch / BATCH), "steps": round(steps * BATCH / TOKENS)}
    elif study.fixed == "width":
        longer = sweep_of(dataclasses.replace(study, fixed="tokens-per-parameter"), preset)
        lengths = tuple(longer.spending(cell).steps for cell in longer.cells)
        settings |= {"batch_size": task.batch, "widths": preset.widths[:1], "steps": lengths}
    else:
        settings |= {"batch_size": task.batch, "widths": preset.widths, "steps": preset.decay_steps}
        settings |= {"budget_axis": study.fixed}
    if task.dataset == "text":
        settings |= {"dataset": _text(task.dataset_args["context"]), "dataset_args": {}}
    return Sweep(**settings)


def _larger(task: Task) -> tuple[int, int]:
    """Batch size and steps at which rules are compared: those of the largest batch."""
    batch = max(task.batches)
    return batch, task.samples // batch


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
        return _decay(spec, "steps" if study.fixed == "width" else "width", preset, runner)
    if study.kind == "rules":
        return _rules(spec, *_larger(preset.tasks[study.task]), runner)
    found = isoscale.size_law(spec, runner=runner)
    searched = found.transfer.result.searched
    of = found.data.isel(rule=0)
    numbers = {name: of[name].item() for name in of.data_vars if of[name].ndim == 0}
    sizes = {name: of[name].values.tolist() for name in of.data_vars if of[name].ndim == 1}
    return {
        "axis": found.axis,
        "sizes": {"size": of[found.axis].values.tolist(), **sizes},
        "cost": searched.full_trials / searched.optima,
        "law": numbers,
        "zero_shot": found.zero_shot.to_dict("records"),
        "runs": pd.concat([found.runs, _predicted_runs(spec, found, runner)]).to_dict("records"),
    }


def _predicted_runs(spec: Sweep, found: isoscale.SizeLaw, runner: Runner) -> pd.DataFrame:
    """The runs of the largest size at the predicted rates; all are in the store by now."""
    largest = spec.cells[-1]
    spent = spec.spending(largest)
    tables = []
    for row in found.zero_shot.to_dict("records"):
        if row["method"] == "tuned":
            continue
        result = runner.sweep(dataclasses.replace(spec.only(largest), lrs=(row["lr"],), search="grid"))
        numbers = {"batch_size": spent.batch_size, "steps": spent.steps, "tokens": spent.tokens}
        tables.append(result.runs_table().assign(**numbers, predicted_by=row["method"]))
    return pd.concat(tables) if tables else pd.DataFrame()


def _rules(spec: Sweep, batch: int, steps: int, runner: Runner) -> dict[str, Any]:
    """The base tuned, and each budget rule with all that it moves at the larger batch, beside the best rate there."""
    tuned = runner.sweep(spec)
    lr = _rounded(find_optimum(tuned.curve(spec.cells[0])).log2_lr)
    base = {"batch_size": spec.batch_size, "steps": spec.steps}
    larger = dataclasses.replace(spec, batch_sizes=(batch,), steps=(steps,), base_sizes=base)
    searched = runner.sweep(larger)
    curve = searched.curve(larger.cells[0])
    own = find_optimum(curve)
    best = searched.loss.sel(lr=tuned_lr(curve)).values.reshape(-1)
    tables = [tuned.runs_table().assign(**base), searched.runs_table().assign(steps=steps)]
    rows = []
    for name in isoscale.rules.budget_names(spec.optimizer):
        result = runner.sweep(dataclasses.replace(larger, lrs=(lr,), budget=name, search="grid"))
        given = lr * _lr_factor(name, spec.optimizer)
        rows.append({"method": name, "lr": given, "octaves": math.log2(given) - own.log2_lr} | _cost(result, best))
        tables.append(result.runs_table().assign(steps=steps, budget=name))
    runs = pd.concat(tables).assign(tokens=lambda table: table["batch_size"] * table["steps"])
    return {
        "base": base | {"lr": lr},
        "larger": {"batch_size": batch, "steps": steps, "lr": 2.0**own.log2_lr, "at_edge": own.edge},
        "zero_shot": rows,
        "runs": runs.to_dict("records"),
    }


def _lr_factor(rule: str, optimizer: str) -> float:
    return isoscale.rules.budget(rule).factors(cast(Any, optimizer), batch=BATCH, tokens=TOKENS).lr


def _cost(result: isoscale.SweepResult, best: np.ndarray) -> dict[str, Any]:
    """Loss at one setting, and how much that is above the best one's, seed by seed."""
    losses = result.loss.values.reshape(-1)
    above = t_interval(losses - best)
    return {
        "loss": float(losses.mean()),
        "regret": above.mean,
        "regret_low": above.mean - above.half,
        "regret_high": above.mean + above.half,
        "diverged": result.count("diverged"),
    }


def _decay(spec: Sweep, axis: str, preset: Preset, runner: Runner) -> dict[str, Any]:
    """The best decay at each size, as the optimizer gets it; what each rule's decay costs at the largest."""
    base = spec.only(spec.cells[0])
    tuned = runner.sweep(base)
    lr = _rounded(find_optimum(tuned.curve(base.cells[0])).log2_lr)
    decays = preset.decays
    while True:
        settings = {"lrs": (lr,), "hyperparameters": {"weight_decay": decays}, "search": "grid"}
        grid = runner.sweep(dataclasses.replace(spec, **settings))
        of = isoscale.judge(grid, size=axis, hyperparameter="weight_decay").data.isel(rule=0)
        wider = _wider(decays, of["at_edge"].values.tolist())
        if wider == decays:
            break
        decays = wider
    sizes = of[axis].values
    spent = [spec.spending(cell) for cell in spec.cells]
    # Along width the plan has multiplied the base's decay by the ratio already ("independent").
    planned = sizes / sizes[0] if axis == "width" else np.ones(len(sizes))
    optima = of["optimal_lr"].values * planned
    edges = of["at_edge"].values.tolist()
    law = {"exponent": math.nan, "exponent_low": math.nan, "exponent_high": math.nan, "points": edges.count("")}
    inside = [index for index, edge in enumerate(edges) if not edge]
    if len(inside) >= 2:
        fitted = fit_power_law(sizes[inside], optima[inside])
        law |= {name: getattr(fitted, name) for name in law}
    costs, rows = _decay_costs(spec, axis, grid, lr, float(optima[0]), runner)
    base_runs = tuned.runs_table().assign(**{axis: int(sizes[0]), "weight_decay": spec.weight_decay})
    runs = pd.concat([base_runs, grid.runs_table(), rows])
    return {
        "axis": axis,
        "lr": lr,
        "sizes": {
            "size": sizes.tolist(),
            "decay": optima.tolist(),
            "decay_low": (of["optimal_lr_low"].values * planned).tolist(),
            "decay_high": (of["optimal_lr_high"].values * planned).tolist(),
            "at_edge": edges,
            "steps": [one.steps for one in spent],
            "tokens": [one.tokens for one in spent],
            "loss": of["best_loss"].values.tolist(),
        },
        "law": law,
        "zero_shot": costs,
        "runs": runs.to_dict("records"),
    }


def _wider(decays: tuple[float, ...], edges: Sequence[str]) -> tuple[float, ...]:
    """The grid with two more values at an end where the best of a size lies, as far as a decay does anything."""
    step = decays[1] / decays[0]
    more = set(decays)
    if "low" in edges:
        more |= {decays[0] / step, decays[0] / step**2}
    if "high" in edges:
        more |= {decays[-1] * step, decays[-1] * step**2}
    least, most = LIMITS
    return tuple(sorted(decay for decay in more if least <= decay <= most))


def _decay_costs(
    spec: Sweep, axis: str, grid: isoscale.SweepResult, lr: float, decay: float, runner: Runner
) -> tuple[list[dict[str, Any]], pd.DataFrame]:
    """Loss of each rule's decay at the largest size above that of the grid's best, seed by seed."""
    largest = spec.cells[-1]
    cell = spec.only(largest)
    ratio = spec.axes[axis][-1] / spec.axes[axis][0]
    planned = ratio if axis == "width" else 1.0
    known = {name: value for name, value in largest.items() if name in grid.loss.dims}
    at_largest = grid.loss.sel(known).isel(lr=0)
    means = at_largest.mean("seed", skipna=False)
    best = at_largest.isel(weight_decay=int(means.fillna(np.inf).argmin("weight_decay")))
    rules = {name: decay * ratio**exponent for name, exponent in DECAYS[axis].items()}
    rows, tables = [], []
    for name, value in {**rules, "none": 0.0}.items():
        kept = 0.0 if value == 0 else _rounded(math.log2(value / planned))
        result = runner.sweep(dataclasses.replace(cell, lrs=(lr,), weight_decay=kept, search="grid"))
        rows.append({"method": name, "decay": kept * planned} | _cost(result, best.values))
        tables.append(result.runs_table().assign(**{axis: spec.axes[axis][-1], "weight_decay": kept}))
    return rows, pd.concat(tables)


def _rounded(log2: float) -> float:
    """No optimum is known to nine digits."""
    return float(f"{2.0**log2:.6g}")


# --- the page -----------------------------------------------------------------------------------------------------
Kept = Sequence[dict[str, Any]]
"""What was kept of finished studies, each with its study and its preset."""


def page(kept: Kept, versions: str) -> str:
    """The results of the finished studies, with what they leave open."""
    laws = _laws_of(kept)
    decays = [one for one in kept if one["study"]["kind"] == "decay"]
    rules = [one for one in kept if one["study"]["kind"] == "rules"]
    presets = list(dict.fromkeys(one["preset"] for one in kept))
    pictures = [f"![Best learning rate against batch and steps, {name}](budget-{name}.svg)" for name in presets]
    runs = sum(len(one["runs"]) for one in kept)
    parts = [
        _HEAD.format(runs=runs, versions=versions) + "\n\n" + _networks(presets),
        "\n\n".join(pictures),
        "## In short\n\n" + _short(laws),
        "## Whole rules: eight times the batch, four times the samples\n\n" + _whole_rules(rules),
        "## Exponents of the best learning rate\n\n" + _exponents(laws),
        "## What is published, against these intervals\n\n" + _claims(laws),
        "## The largest size, from the four smaller ones\n\n" + _predicted(laws),
        "## Weight decay against width\n\n" + (_decays(decays) or "No study of it is finished."),
        "## Every optimum\n\n" + _optima(laws),
        "## What this does not decide\n\n" + _LIMITS + _missing(kept),
    ]
    return "\n\n".join(parts) + "\n"


def _laws_of(kept: Kept) -> list[dict[str, Any]]:
    return [one for one in kept if one["study"]["kind"] in CLAIMS]


_HEAD = """# Batch, duration and weight decay: what was measured

`ISOSCALE_DATA=data python benchmarks/budget.py`, written by `--write`: {runs} full trials in
[budget-runs.csv.gz](budget-runs.csv.gz), {versions}. Seeds 0, 1, 2 in every study.

Five sizes over a factor of 16 in each study; every run warms up over a tenth of its steps and ends in a cosine.
*batch*: the samples seen are fixed, so that steps fall as the batch grows. *steps*: the batch is fixed, so that samples
grow with the steps. The loss is the mean training loss of the last tenth of the steps. Optima are searched for
adaptively, three seeds each; a search begins in the same range for all sizes of an optimizer. Intervals are 95 %: of
an exponent from the scatter of the optima about the law, of a regret over seeds. Sizes, ranges and the order of the
studies were fixed by their cost before any exponent was seen, but for this: that the grid of weight decays goes on
where the best lies at its end, as the learning rates' searches do, was added when the first grid had ended in bounds;
and that whole rules are compared, when the first exponents were known."""

_LIMITS = """\
* Networks of a few thousand to fifty thousand parameters, runs of seconds. Exponents of large models may differ;
  published fits are of language models many thousand times larger.
* Weight decay is 0.1 for AdamW and Muon and 0 for SGD along batch and steps, betas are torch's: there, rules that move
  decay and betas along with the learning rate are judged by their learning rate's exponent alone. Whole rules are
  compared at one place.
* The data are small: images are seen up to a few times, so that a longer run is also one of more epochs. Loss is the
  training loss.
* Batches span a factor of 16 from very small ones on. Far below the critical batch everything may look like one power;
  far above it none holds.
* Three seeds and five sizes: an interval that holds two published exponents does not choose between them. Rows that lie
  0.02 to 0.04 apart (0.28, 0.30, 0.32) are not told apart by any study of this size.
* The interval of an exponent does not show a law that is wrong; its curvature and the error at the largest size do.
* The learning rate of the decay studies is the one tuned at the base, also where the run is longer: a rule that moves
  it with the duration would ask for another decay."""


def _networks(presets: Sequence[str]) -> str:
    rows = []
    for name in presets:
        for data, task in PRESETS[name].tasks.items():
            network = f"{task.model}, width {task.width}, depth {task.depth}"
            steps = f"{task.lengths[0]} to {task.lengths[-1]} of batch {task.batch}"
            batches = f"{task.batches[0]} to {task.batches[-1]} of {task.samples:,} samples"
            rows.append([name, data, network, batches, steps])
    return _table(["preset", "data", "network", "batch", "steps"], rows)


def _missing(kept: Kept) -> str:
    """What is not finished, and what would finish it."""
    parts = []
    for preset, about in PRESETS.items():
        finished = {_name(one) for one in kept if one["preset"] == preset}
        missing = [study.name for study in studies() if study.name not in finished]
        if not missing:
            continue
        said = f"No study of the preset *{preset}* is finished."
        if finished:
            said = f"Not finished of the preset *{preset}*: {', '.join(missing)}."
        command = f"`ISOSCALE_DATA=data python benchmarks/budget.py --preset {preset}`"
        parts.append(f"\n\n{said} {command} runs what is missing; the whole preset takes {about.cost}.")
    return "".join(parts)


def _table(header: list[str], rows: list[list[str]]) -> str:
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def _name(one: dict[str, Any]) -> str:
    return Study(**one["study"]).name


def _of(one: dict[str, Any]) -> list[str]:
    study = one["study"]
    return [one["preset"], study["task"], study["optimizer"], study["kind"]]


_OF = ["preset", "data", "optimizer", "along"]

_SHORT = """\
The mean of the exponents over data sets and networks, with its 95 % interval from their scatter, and the published
exponents that this interval leaves. Two of the networks see the same images. A trial that studies have in common counts
in each.

"""


def _short(laws: Kept) -> str:
    rows = []
    for preset in dict.fromkeys(one["preset"] for one in laws):
        for optimizer in OPTIMIZERS:
            for kind, claims in CLAIMS.items():
                of = [one for one in laws if _of(one)[0::2] == [preset, optimizer] and one["study"]["kind"] == kind]
                found = [one["law"]["exponent"] for one in of if math.isfinite(one["law"]["exponent"])]
                if not found:
                    continue
                mean = t_interval(np.array(found))
                low, high = mean.mean - mean.half, mean.mean + mean.half
                verdicts = {name: survives(value, low, high) for name, value in claims.items()}
                left = [name for name, verdict in verdicts.items() if verdict == "survives"]
                named = "cannot tell" if "cannot tell" in verdicts.values() else ", ".join(left) or "none"
                counts = [f"{name} {_surviving(of, value)}" for name, value in claims.items()]
                exponent = with_ends(mean.mean, low, high, "+.2f")
                rows.append([preset, optimizer, kind, exponent, f"{len(found)}", named, ", ".join(counts)])
    survive = "published exponents that survive"
    header = ["preset", "optimizer", "along", "mean exponent", "studies", survive, "in how many single studies"]
    return _SHORT + _table(header, rows) + "\n\n" + _example(laws)


def _surviving(laws: Kept, value: float) -> int:
    """How many single intervals hold a published exponent."""
    verdicts = [survives(value, one["law"]["exponent_low"], one["law"]["exponent_high"]) for one in laws]
    return verdicts.count("survives")


_EXAMPLE = """\
With lr ~ batch^x samples^y, x of *batch* and y of *steps*, eight times the batch and four times the samples multiply
the best learning rate by 8^x 4^y: measured, the mean over data sets, and by the published rules.

"""


def _example(laws: Kept) -> str:
    rows = []
    for preset in dict.fromkeys(one["preset"] for one in laws):
        for optimizer in OPTIMIZERS:
            exponents: dict[str, dict[str, float]] = {kind: {} for kind in CLAIMS}
            for one in laws:
                if one["preset"] == preset and one["study"]["optimizer"] == optimizer:
                    exponents[one["study"]["kind"]][one["study"]["task"]] = one["law"]["exponent"]
            tasks = [task for task in exponents["batch"] if task in exponents["steps"]]
            octaves = []
            for task in tasks:
                x, y = exponents["batch"][task], exponents["steps"][task]
                octaves.append(x * math.log2(BATCH) + y * math.log2(TOKENS))
            if not tasks:
                continue
            mean = t_interval(np.array(octaves))
            value, low, high = (2.0**place for place in (mean.mean, mean.mean - mean.half, mean.mean + mean.half))
            rules = []
            for name in isoscale.rules.budget_names(optimizer):
                rules.append(f"{name} {_lr_factor(name, optimizer):.3g}")
            rows.append([preset, optimizer, with_ends(value, low, high, ".2f"), f"{len(tasks)}", ", ".join(rules)])
    return _EXAMPLE + _table(["preset", "optimizer", "measured", "data sets", "published"], rows)


_WHOLE_RULES = """\
The base is tuned; its settings go to eight times the batch and four times the samples as each rule says: learning rate,
decay, betas and eps. Octaves: the rule's learning rate above the best one there. Regret: training loss above that of
the best learning rate there, which has the base's other settings, seed by seed; so a rule can be better than that.

The mean over data sets of the regret as a share of the loss, with its 95 % interval from their scatter, and the
largest:

"""


def _whole_rules(kept: Kept) -> str:
    rows, shares = [], {}
    for one in kept:
        preset, data, optimizer, _ = _of(one)
        for row in one["zero_shot"]:
            regret = with_ends(row["regret"], row["regret_low"], row["regret_high"], "+.4f")
            octaves = "—" if one["larger"]["at_edge"] else signed(row["octaves"], 2)
            lost = f"{row['diverged']} diverged" if row["diverged"] else regret
            rows.append([preset, data, optimizer, row["method"], f"{row['lr']:.3g}", octaves, lost, _loss(row)])
            shares.setdefault((preset, optimizer, row["method"]), []).append(_share(row))
    summary = []
    for key, found in shares.items():
        mean = t_interval(100 * np.array(found))
        words = with_ends(mean.mean, mean.mean - mean.half, mean.mean + mean.half, "+.1f")
        lost = sum(map(math.isinf, found))
        largest = f"diverges in {lost}" if lost else f"{100 * max(found):+.1f}"
        summary.append([*key, f"{len(found)}", "—" if lost else words, largest])
    if not rows:
        return "No study of it is finished."
    of = ["preset", "optimizer", "rule", "data sets", "mean regret, %", "largest, %"]
    header = ["preset", "data", "optimizer", "rule", "lr", "octaves", "regret", "loss"]
    return _WHOLE_RULES + _table(of, summary) + "\n\nOne by one:\n\n" + _table(header, rows)


def _loss(row: dict[str, Any]) -> str:
    return f"{row['loss']:.4f}" if math.isfinite(row["loss"]) else "—"


def _share(row: dict[str, Any]) -> float:
    """Regret as a share of the best rate's loss, which is what is left of the loss without it."""
    return math.inf if row["diverged"] else row["regret"] / (row["loss"] - row["regret"])


def _exponents(laws: Kept) -> str:
    rows = []
    for one in laws:
        law, sizes = one["law"], one["sizes"]
        bend = with_ends(law["curvature"], law["curvature_low"], law["curvature_high"], "+.2f")
        exponent = with_ends(law["exponent"], law["exponent_low"], law["exponent_high"], "+.2f")
        rows.append([*_of(one), exponent, bend, f"{law['points']:.0f} of {len(sizes['size'])}", f"{one['cost']:.1f}"])
    costs = [one["cost"] for one in laws]
    said = (
        "*cost*: full trials to an optimum of three seeds, pilots counted by their length; the mean over a study's "
        f"sizes. Over all studies the mean is {np.mean(costs):.1f}, the most {max(costs):.1f}."
    )
    header = [*_OF, "exponent", "its change with each doubling", "optima inside", "cost"]
    return _table(header, rows) + "\n\n" + said


def _claims(laws: Kept) -> str:
    parts = []
    for kind, claims in CLAIMS.items():
        rows = []
        for one in laws:
            if one["study"]["kind"] == kind:
                low, high = one["law"]["exponent_low"], one["law"]["exponent_high"]
                rows.append([*_of(one)[:3], *(survives(value, low, high) for value in claims.values())])
        if rows:
            names = [f"{name} ({value:+.2f})" for name, value in claims.items()]
            parts.append(f"Along {kind}:\n\n" + _table([*_OF[:3], *names], rows))
    return "\n\n".join(parts)


_PREDICTED = """\
*fitted*: the power law through the smaller sizes; *unchanged*: the smallest size's rate; a published exponent has the
constant that fits the smaller sizes. Octaves: predicted above measured, with the measured optimum's interval. Regret:
training loss above the best trained rate's, seed by seed; the best rate was chosen by the same seeds, so that regrets
are a little too large.

Over all studies of an optimizer along an axis, the largest error and the largest regret as a share of the loss:

"""


def _predicted(laws: Kept) -> str:
    rows, worst = [], {}
    for one in laws:
        preset, _, optimizer, kind = _of(one)
        for row in one["zero_shot"]:
            if row["method"] == "tuned":
                continue
            octaves = with_ends(row["octaves"], row["octaves_low"], row["octaves_high"], "+.2f")
            regret = with_ends(row["regret"], row["regret_low"], row["regret_high"], "+.4f")
            if row["diverged"]:
                regret = f"{row['diverged']} diverged"
            rows.append([*_of(one), row["method"], f"{row['lr']:.3g}", octaves, regret, _loss(row)])
            worst.setdefault((preset, optimizer, kind, row["method"]), []).append((row["octaves"], _share(row)))
    summary = []
    for key, found in worst.items():
        # Where the measured optimum is open there is no error.
        octaves = max((octave for octave, _ in found if math.isfinite(octave)), key=abs, default=math.nan)
        share = max(share for _, share in found)
        regret = "diverged" if math.isinf(share) else f"{share:.1%}"
        summary.append([*key, f"{len(found)}", signed(octaves, 2), regret])
    header = [*_OF, "rule", "lr", "octaves", "regret", "loss"]
    of = ["preset", "optimizer", "along", "rule", "studies", "octaves", "regret"]
    return _PREDICTED + _table(of, summary) + "\n\nOne by one:\n\n" + _table(header, rows)


_FIXED = {"steps": "fixed steps", "tokens-per-parameter": "fixed samples per parameter", "width": "fixed width"}


def _decays(decays: Kept) -> str:
    parts = [_decay_table(one) for one in decays]
    for preset in dict.fromkeys(one["preset"] for one in decays):
        of = {one["study"]["fixed"]: one for one in decays if one["preset"] == preset}
        if len(of) == len(_FIXED):
            parts.append(_horizon(of))
    return "\n\n".join(parts)


def _decay_table(one: dict[str, Any]) -> str:
    law, sizes, axis = one["law"], one["sizes"], one["axis"]
    rows = []
    for index, size in enumerate(sizes["size"]):
        spent = [f"{sizes['steps'][index]}", _best_decay(sizes, index), f"{sizes['loss'][index]:.4f}"]
        rows.append(([f"{size}"] if axis == "width" else []) + spent)
    exponent = with_ends(law["exponent"], law["exponent_low"], law["exponent_high"], "+.2f")
    verdicts = [
        f"{name} ({value:g}) {survives(value, law['exponent_low'], law['exponent_high'])}"
        for name, value in DECAYS[axis].items()
    ]
    costs = []
    for row in one["zero_shot"]:
        regret = with_ends(row["regret"], row["regret_low"], row["regret_high"], "+.4f")
        costs.append([row["method"], f"{row['decay']:.3g}", regret, _loss(row)])
    fixed = _FIXED[one["study"]["fixed"]]
    lr = f"learning rate {one['lr']:.3g} at the base"
    lr += ", and 1/width in hidden matrices" if axis == "width" else ""
    largest = f"{axis} {sizes['size'][-1]}"
    return "\n\n".join(
        [
            f"*{one['preset']}*, AdamW at {fixed}, {lr}:",
            _table([*(["width"] if axis == "width" else []), "steps", "best decay", "loss"], rows),
            f"Exponent of the best decay in {axis}: {exponent}; {', '.join(verdicts)}.",
            f"At {largest}, each rule's decay from the base's best:",
            _table(["rule", "decay", "regret", "loss"], costs),
        ]
    )


def _best_decay(sizes: dict[str, Any], index: int) -> str:
    bound = {"low": "at most ", "high": "at least "}.get(sizes["at_edge"][index], "")
    return f"{bound}{sizes['decay'][index]:.3g} {ends(sizes['decay_low'][index], sizes['decay_high'][index], '.3g')}"


_HORIZON = """\
*Does duration explain width?* If it does, the best decay at fixed samples per parameter is that at fixed steps times
what the same duration does to the base alone:

"""


def _horizon(of: Mapping[str, dict[str, Any]]) -> str:
    at = {fixed: one["sizes"] for fixed, one in of.items()}
    alone = at["width"]
    rows = []
    for index, width in enumerate(at["steps"]["size"]):
        duration = alone["decay"][index] / alone["decay"][0]
        expected = at["steps"]["decay"][index] * duration
        is_open = any((at["steps"]["at_edge"][index], alone["at_edge"][index], alone["at_edge"][0]))
        measured_at = at["tokens-per-parameter"]
        row = [f"{width}", f"{measured_at['steps'][index]}", _best_decay(at["steps"], index), f"{duration:.3g}"]
        rows.append([*row, "open" if is_open else f"{expected:.3g}", _best_decay(measured_at, index)])
    header = ["width", "steps", "best at fixed steps", "duration alone", "expected", "measured"]
    return _HORIZON + _table(header, rows)


def _optima(laws: Kept) -> str:
    rows = []
    for one in laws:
        sizes = one["sizes"]
        for index in range(len(sizes["size"])):
            batch, steps = (sizes.get(name, sizes["size"])[index] for name in ("batch_size", "steps"))
            low, high = sizes["lr_low"][index], sizes["lr_high"][index]
            edge = sizes["at_edge"][index]
            kind = f"edge: {edge}" if edge else "limit of stability" if sizes["is_limit"][index] else "minimum"
            best = f"{sizes['lr'][index]:.3g} {ends(low, high, '.3g')}"
            rows.append([*_of(one), f"{batch}", f"{steps}", best, kind, f"{sizes['loss'][index]:.4f}"])
    return _table([*_OF, "batch", "steps", "best lr", "is", "loss"], rows)


_WIDE, _HIGH = 2.6, 2.0
_BESIDE, _BETWEEN = 0.75, 1.0
# Octaves beyond the optima that a panel shows: an interval may be longer.
_AROUND = 1.5


def figure(laws: Kept) -> Figure:
    """The optima with their intervals and fitted laws: a row for each axis, a column for each data set."""
    found = {_name(one): one for one in laws}
    tasks = list(dict.fromkeys(one["study"]["task"] for one in laws))
    with drawing.style():
        drawn = drawing.blank((_WIDE + _BESIDE) * len(tasks) + 0.2, 2 * (_HIGH + _BETWEEN) + 0.1)
        for column, task in enumerate(tasks):
            for row, kind in enumerate(CLAIMS):
                left, bottom = _BESIDE + (_WIDE + _BESIDE) * column, 0.65 + (_HIGH + _BETWEEN) * (1 - row)
                axes = drawing.panel(drawn, left=left, bottom=bottom, width=_WIDE, height=_HIGH)
                axes.set_title(f"{task}: best learning rate against {kind}", fontsize=9, loc="left")
                lines = {name: found.get(f"{task}-{name}-{kind}") for name in OPTIMIZERS}
                _panel(axes, {name: one for name, one in lines.items() if one is not None})
    return drawn


def _panel(axes: Axes, lines: Mapping[str, dict[str, Any]]) -> None:
    """Both axes in octaves, ticks at the sizes and at rates a person would name."""
    places = []
    for name, one in lines.items():
        sizes, law = one["sizes"], one["law"]
        x, lr = np.log2(sizes["size"]), np.log2(sizes["lr"])
        inside = np.array([not edge for edge in sizes["at_edge"]])
        low, high = np.log2(np.array(sizes["lr_low"], float)), np.log2(np.array(sizes["lr_high"], float))
        colour = drawing.RULES[OPTIMIZERS.index(name)]
        axes.vlines(x[inside], low[inside], high[inside], color=colour, lw=1.2)
        label = f"{name} {signed(law['exponent'], 2)}"
        axes.plot(x[inside], lr[inside], "o", color=colour, ms=4)
        axes.plot(x, math.log2(law["coefficient"]) + law["exponent"] * x, color=colour, lw=1.2, label=label)
        axes.set_xticks(x, [f"{size}" for size in sizes["size"]])
        places += lr[inside].tolist()
    if not places:
        return
    bottom, top = min(places) - _AROUND, max(places) + _AROUND
    axes.set_ylim(bottom, top)
    ticks = [place for place in range(-20, 20, 2) if bottom <= place <= top]
    axes.set_yticks(ticks, [significant(2.0**place) for place in ticks])
    beneath: dict[str, Any] = {"loc": "upper center", "bbox_to_anchor": (0.5, -0.1), "ncols": len(OPTIMIZERS)}
    axes.legend(fontsize=8, frameon=False, handlelength=1.0, columnspacing=1.0, **beneath)


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
        if self.write:
            self._write()
            return
        place = self.folder / self.preset
        place.mkdir(parents=True, exist_ok=True)
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

    def _write(self) -> None:
        kept = []
        for preset in PRESETS:
            for study in studies():
                file = self.folder / preset / f"{study.name}.json"
                if file.exists():
                    kept.append(json.loads(file.read_text()) | {"preset": preset})
        if not kept:
            raise SystemExit(f"nothing is finished in {self.folder}")
        versions = ", ".join(sorted({one["versions"] for one in kept}))
        (FOLDER / "budget.md").write_text(page(kept, versions))
        for preset in {one["preset"] for one in kept}:
            laws = [one for one in _laws_of(kept) if one["preset"] == preset]
            (FOLDER / f"budget-{preset}.svg").write_text(svg(figure(laws)))
        text = io.StringIO()
        pd.concat([_all_runs(one) for one in kept]).to_csv(text, index=False, float_format="%.6g")
        # The same runs give the same bytes.
        content = gzip.compress(text.getvalue().encode(), mtime=0)
        (FOLDER / "budget-runs.csv.gz").write_bytes(content)


def _all_runs(one: dict[str, Any]) -> pd.DataFrame:
    """Every full trial of a study, with what it spent."""
    study = one["study"]
    runs = pd.DataFrame(one["runs"])
    if study["kind"] == "decay":
        axis, sizes = one["axis"], one["sizes"]
        spent = pd.DataFrame({axis: sizes["size"], "steps": sizes["steps"], "tokens": sizes["tokens"]})
        runs = runs.merge(spent, on=axis)
        runs = runs.assign(batch_size=runs["tokens"] // runs["steps"])
    named = {"preset": one["preset"], "study": _name(one), "dataset": study["task"], "optimizer": study["optimizer"]}
    return runs.assign(**named)


def _versions() -> str:
    from importlib import metadata

    return f"isoscale {metadata.version('isoscale')}, torch {metadata.version('torch')}"


if __name__ == "__main__":
    tyro.cli(Benchmark).run()
