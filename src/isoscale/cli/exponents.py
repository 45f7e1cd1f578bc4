"""What `audit` and `check` print: a table of exponents an axis, a verdict in words, where the files are."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.text import Text

from isoscale.cli.terminal import console, finite, framed

if TYPE_CHECKING:
    import pandas as pd

    from isoscale.cli.problem import Problem
    from isoscale.measure import Audit, CoordinateCheck

_SYMBOL = {"width": "n", "depth": "L"}


def sizes(problem: Problem, widths: Sequence[int], depths: Sequence[int]) -> dict[str, Sequence[int] | None]:
    """The sizes that the model's factory takes."""
    given = {"width": widths, "depth": depths}
    return {f"{name}s": given[name] if name in problem.takes else None for name in given}


def show(table: pd.DataFrame, by: str, out: Console) -> None:
    """One table an axis: a row a role (or module), a column a quantity, each cell exponent, interval and sign."""
    for axis in table["axis"].unique():
        part = table[table["axis"] == axis]
        quantities = list(part["quantity"].unique())
        rows = []
        for label in part[by].unique():
            of = part[part[by] == label].set_index("quantity")
            rows.append([label, *(_cell(of.loc[quantity], axis) for quantity in quantities)])
        out.print(f"\nexponents in {axis} (95 % interval; expected where it is not 0)", style="bold")
        out.print(framed([by, *(quantity.replace("_", " ") for quantity in quantities)], rows))


def _cell(row: pd.Series, axis: str) -> str:
    if row["verdict"] == "not measured":
        return "-"
    half = (row["high"] - row["low"]) / 2
    interval = f"±{half:.2f}" if math.isfinite(half) else ""
    expected = f" ({row['expected']:+.2g})" if row["expected"] else ""
    mark = "✓" if row["verdict"] == "stable" else "✗"
    return f"{_SYMBOL[axis]}^{row['exponent']:+.2f}{interval}{expected} {mark}"


def close(
    found: Audit | CoordinateCheck, out: Console, written: Sequence[Path], extra: dict[str, Any], *, as_json: bool
) -> None:
    """The verdict, notes and files; or everything as JSON."""
    if as_json:
        table = json.loads(found.exponents.to_json(orient="records"))
        console().print_json(data=finite({"ok": found.ok, "exponents": table, "notes": list(found.notes), **extra}))
        return
    for note in found.notes:
        out.print(Text.assemble(("note: ", "bold"), note), soft_wrap=True)
    out.print(f"\nVerdict: {verdict(found.exponents)}", style="bold green" if found.ok else "bold red", soft_wrap=True)
    out.print(f"Figure: {written[1]}      Data: {written[-1]}")


def verdict(table: pd.DataFrame) -> str:
    """Which rows fail, in words."""
    bad = table[~table["verdict"].isin(["stable", "not measured"])]
    if bad.empty:
        return "the same at every size"
    by = "tensor" if "tensor" in table else "role" if "role" in table else "module"
    said = [f"{row[by]} {row['quantity'].replace('_', ' ')} {row['verdict']}" for _, row in bad.iterrows()]
    more = f"; and {len(said) - 4} more" if len(said) > 4 else ""
    return f"{len(said)} of {len(table)} effects depend on the size: {'; '.join(said[:4])}{more}"
