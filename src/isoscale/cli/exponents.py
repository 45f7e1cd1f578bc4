"""What `audit` and `check` print: a table of exponents per axis, a verdict in words, where the files are."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypedDict

from rich.console import Console

from isoscale.cli.terminal import framed, print_json, print_notes

if TYPE_CHECKING:
    import pandas as pd
    import xarray as xr
    from matplotlib.figure import Figure

    from isoscale.cli.problem import Problem
    from isoscale.measure import Audit, CoordinateCheck

_SYMBOL = {"width": "n", "depth": "L"}

_STYLE = {
    "the same at every size": "bold green",
    "not decided at these sizes": "bold yellow",
    "depends on the size": "bold red",
}

# Failures that a verdict names; the others are counted.
_NAMED = 4


class Sizes(TypedDict):
    """Arguments of `audit` and `coordinate_check`."""

    widths: Sequence[int] | None
    depths: Sequence[int] | None


def sizes(problem: Problem, widths: Sequence[int], depths: Sequence[int]) -> Sizes:
    """The sizes that the model's factory takes."""
    return Sizes(
        widths=widths if "width" in problem.takes else None,
        depths=depths if "depth" in problem.takes else None,
    )


def show(table: pd.DataFrame, by: str, out: Console) -> None:
    """One table per axis: a row per role (or module), a column per quantity, each cell exponent, interval and sign."""
    for axis in table["axis"].unique():
        part = table[table["axis"] == axis]
        quantities = list(part["quantity"].unique())
        rows = []
        for label in part[by].unique():
            of = part[part[by] == label].set_index("quantity")
            cells = [_cell(of.loc[quantity], axis) for quantity in quantities]
            rows.append([label, *cells])
        headings = [quantity.replace("_", " ") for quantity in quantities]
        out.print(f"\nexponents in {axis} (95 % interval; expected where it is not 0)", style="bold")
        out.print(framed([by, *headings], rows))


def _cell(row: pd.Series, axis: str) -> str:
    """One exponent: "L^-0.48±0.02 (-0.5) ✓"."""
    if row["verdict"] == "not measured":
        return "-"
    text = f"{_SYMBOL[axis]}^{row['exponent']:+.2f}"
    # Too few sizes give an exponent without an interval.
    half = (row["high"] - row["low"]) / 2
    if math.isfinite(half):
        text += f"±{half:.2f}"
    if row["expected"]:
        text += f" ({row['expected']:+.2g})"
    if row["verdict"] == "stable":
        mark = "✓"
    elif row["verdict"].startswith("not decided"):
        mark = "?"
    else:
        mark = "✗"
    return f"{text} {mark}"


def close(found: Audit | CoordinateCheck, out: Console, extra: dict[str, Any], *, as_json: bool) -> None:
    """The notes and the verdict; or everything as JSON. Before the files: what cannot be written loses no verdict."""
    if as_json:
        # pandas writes what a table holds as JSON would, NaN as null and numpy's numbers as numbers.
        table = json.loads(found.exponents.to_json(orient="records"))
        result = {
            "ok": found.ok,
            "answer": found.answer,
            "exponents": table,
            "notes": list(found.notes),
            "thresholds": asdict(found.thresholds),
        }
        print_json(result | extra)
        return
    print_notes(out, found.notes)
    out.print(f"\nVerdict: {verdict(found)}", style=_STYLE[found.answer], soft_wrap=True)
    out.print(found.thresholds.statement, style="dim", soft_wrap=True)


def write(folder: str, name: str, figure: Figure, data: xr.Dataset, out: Console) -> None:
    """The figure and the data, and where they are."""
    from isoscale import report

    written = report.write_figures(Path(folder), {name: figure}, {name: data}, flag="--out")
    # Figures come as SVG and PNG, then the data.
    image, table = written[1], written[-1]
    out.print(f"Figure: {image}      Data: {table}")


def verdict(found: Audit | CoordinateCheck) -> str:
    """The answer, and which rows fail or cannot be told, in words."""
    from isoscale.measure.tools.slopes import failures, unclear

    table = found.exponents
    failing = failures(table)
    if len(failing):
        return f"{len(failing)} of {len(table)} effects depend on the size: {_named(failing)}"
    open_ones = unclear(table)
    if len(open_ones):
        return f"{found.answer}, {len(open_ones)} of {len(table)} effects: {_named(open_ones)}"
    return found.answer


def _named(rows: pd.DataFrame) -> str:
    """The first few of them, with their verdicts."""
    # The finest of the columns that say what a row is about.
    by = next(name for name in ("tensor", "role", "module") if name in rows)
    told = []
    for _, row in rows.head(_NAMED).iterrows():
        quantity = row["quantity"].replace("_", " ")
        told.append(f"{row[by]} {quantity} {row['verdict']}")
    named = "; ".join(told)
    if len(rows) > _NAMED:
        named += f"; and {len(rows) - _NAMED} more"
    return named


def exit_code(found: Audit | CoordinateCheck, *, strict: bool) -> int:
    """1 if an effect depends on the size; with `strict` also if that cannot be told."""
    from isoscale.measure.tools.slopes import DEPENDS, SAME

    failed = found.answer != SAME if strict else found.answer == DEPENDS
    return int(failed)
