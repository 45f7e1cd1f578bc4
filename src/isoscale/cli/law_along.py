"""`isoscale law --axis batch|tokens|width`: the law of the learning rate along sizes other than depth."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console

from isoscale.cli import running
from isoscale.cli.grid import stated
from isoscale.cli.terminal import console, framed, print_failures, print_json, print_notes, typed_command
from isoscale.errors import InvalidValueError
from isoscale.runs.spec import Sweep, log2_grid

if TYPE_CHECKING:
    from isoscale.cli.law import LawCommand
    from isoscale.studies.size_law import SizeLaw

# The sizes of each axis unless they are given: five over a factor of 16.
_SIZES = {"batch": (8, 16, 32, 64, 128), "tokens": (50, 100, 200, 400, 800), "width": (16, 32, 64, 128, 256)}
# What a sweep calls each axis.
_AXES = {"batch": "batch_size", "tokens": "steps", "width": "width"}


def run(command: LawCommand) -> int:
    """Measure, print and write the law that the flags ask for."""
    spec = _spec(command)
    from isoscale.studies.size_law import checked, size_law

    checked(spec)
    place = command.place
    out = console(quiet=place.quiet or place.json)
    words = {"batch": "batch size", "tokens": "steps (samples)", "width": "width"}[command.axis]
    out.print(f"How does the best learning rate move with the {words}?", style="bold")
    out.print(f"{spec.subject}; fixed: {spec.budget_axis}; schedule: {spec.schedule}.  Store: {place.store}")
    if place.dry_run:
        running.dry_run(spec, place, out)
        return 0
    with running.runner(place, console(quiet=True)) as runner:
        # What a search will ask for is not known before: its rounds are not announced.
        found = size_law(spec, runner=dataclasses.replace(runner, announce=None))
    _print(found, out, as_json=place.json)
    written = _write(found, Path(command.report), words)
    out.print(f"Report: {written}      Again (instant): {typed_command()}")
    assert found.transfer.result is not None
    return 1 if found.transfer.result.failures else 0


def _spec(command: LawCommand) -> Sweep:
    """The sweep of the flags, or of the file."""
    if command.config is not None:
        spec = Sweep.from_toml(command.config)
        axis = _AXES[command.axis]
        if len(spec.axes.get(axis, ())) < 2:
            raise InvalidValueError(f"`--axis {command.axis}`: {command.config} has no several values of {axis}")
        return spec
    sizes = command.sizes or _SIZES[command.axis]
    model = "residual-mlp" if command.model == "all" else command.model
    dataset = command.dataset or "synthetic"
    model_args, dataset_args = stated(model, dataset)
    low, high = command.log2_lr or (-12.0, 0.0)
    depths = command.depths or (2,)
    if len(depths) > 1:
        raise InvalidValueError(f"`--axis {command.axis}` is a law at one depth: give one of `--depths`")
    settings: dict[str, Any] = {
        "model": model,
        "model_args": model_args | (command.model_args or {}),
        "dataset": dataset,
        "dataset_args": dataset_args | (command.dataset_args or {}),
        "optimizer": command.optimizer or "adamw",
        # At one width and depth every rule is the same; along width, PyTorch's own shows the exponent.
        "rule": command.rule or ("sp",),
        "widths": (command.width or 32,),
        "depths": depths,
        "steps": command.steps or 200,
        "batch_size": command.batch_size or 32,
        "seeds": command.seeds or 3,
        "schedule": command.schedule,
        "warmup": command.warmup,
        "lrs": log2_grid(low, high, command.per_octave if command.grid else 1),
        "search": "grid" if command.grid else "adaptive",
    }
    if command.axis == "batch":
        fixed = command.budget_axis or "tokens"
        # The steps of --steps are those of --batch-size: the smallest batch has more, at fixed samples.
        steps = settings["steps"]
        if fixed == "tokens":
            steps = max(1, steps * settings["batch_size"] // min(sizes))
        settings |= {"batch_sizes": sizes, "budget_axis": fixed, "steps": steps}
    else:
        name = "steps" if command.axis == "tokens" else "widths"
        settings |= {name: sizes, "budget_axis": command.budget_axis or "steps"}
    return Sweep(**settings)


def _print(found: SizeLaw, out: Console, *, as_json: bool) -> None:
    from isoscale import report

    if as_json:
        print_json(result_of(found))
        return
    for title, table in report.size_law_tables(found).items():
        out.print()
        out.print(title, style="bold")
        out.print(framed(table.columns, table.values))
    print_notes(out, found.notes)
    assert found.transfer.result is not None
    print_failures(out, found.transfer.result.failures)


def _write(found: SizeLaw, folder: Path, words: str) -> Path:
    from isoscale import report
    from isoscale.report.files import write_all

    name = f"law-{found.axis.replace('_', '-')}"
    report.write_figures(folder, {name: report.optimum(found.transfer.data)}, {name: found.data})
    page = report.size_law_page(
        found, heading=f"The best learning rate against {words}", command=typed_command(), figure=f"{name}.svg"
    )
    runs = found.runs.to_csv(index=False, float_format="%.6g")
    write_all(folder, {f"{name}.md": page.encode(), "runs.csv": runs.encode()})
    return folder / f"{name}.md"


def result_of(found: SizeLaw) -> dict[str, Any]:
    """The law of each rule, its optima by size, what is published and what was predicted, for programs."""
    rules = {}
    for rule in found.data["rule"].values.tolist():
        of = found.data.sel(rule=rule)
        result: dict[str, Any] = {str(name): of[name].item() for name in of.data_vars if of[name].ndim == 0}
        sizes = [str(size) for size in of[found.axis].values.tolist()]
        for name in of.data_vars:
            if of[name].ndim == 1:
                result[str(name)] = dict(zip(sizes, of[name].values.tolist(), strict=True))
        rules[rule] = result
    # pandas writes what a table holds as JSON would, NaN as null and numpy's numbers as numbers.
    tables = {name: json.loads(getattr(found, name).to_json(orient="records")) for name in ("published", "zero_shot")}
    return {"axis": found.axis, "rules": rules, **tables, "notes": list(found.notes)}
