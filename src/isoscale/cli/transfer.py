"""`isoscale transfer`: does the small model's learning rate serve the large one?"""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from rich.console import Console
from rich.text import Text

from isoscale.cli import running
from isoscale.cli.grid import Grid, Place
from isoscale.cli.terminal import console, framed, typed_command

if TYPE_CHECKING:
    from isoscale.studies.transfer import Transfer


@dataclass(frozen=True, kw_only=True)
class TransferCommand:
    """Sweep several sizes and judge whether the best learning rate of the smallest serves the largest.

    Prints a table with the optimum at each size, its drift in octaves and the regret of using the base's, and
    writes an HTML report with figures.
    """

    grid: Grid = field(default_factory=Grid)
    place: Place = field(default_factory=Place)
    report: str = "isoscale-report"
    """Folder of the report."""
    fail_on_drift: float | None = None
    """Exit with 1 if the optimum of any rule drifts by more than that many octaves, or is not found."""

    def run(self) -> int:
        spec = self.grid.spec()  # before the slow imports: a typo is answered at once
        from isoscale import report
        from isoscale.studies import transfer as hp_transfer

        out = console(quiet=self.place.quiet or self.place.json)
        axis, base, target = hp_transfer.question(spec)
        out.print(
            Text.assemble(
                (hp_transfer.ask(axis, base, target), "bold"),
                f"   {hp_transfer.describe_model(spec)}, {spec.dataset}, {spec.optimizer}",
            )
        )
        running.announce(spec, self.place, out)
        if self.place.dry_run:
            return 0
        with running.progress(self.place) as show:
            found = hp_transfer.transfer(spec, progress=show, **running.run_arguments(self.place))
        found.data.attrs["command"] = typed_command()
        self._print(found, out)
        page = report.write(found.data, self.report)
        out.print(f"Report: {page}      Data: {page.parent / 'transfer.nc'}      Again (instant): {typed_command()}")
        return self._exit_code(found)

    def _print(self, found: Transfer, out: Console) -> None:
        from isoscale import report

        if self.place.json:
            console().print_json(_json(found))
            return
        for rule in report.ordered(found.data):
            verdict = Text.assemble("\n", (rule, "bold"), f"  {report.verdict_cell(found.data, rule)}")
            out.print(verdict, style="green" if found.is_good(rule) else "red")
            cells = report.by_size(found.data, rule)
            out.print(framed(cells.columns, cells.values))
        out.print()
        out.print(found.answer, style="bold")
        for reason in found.result.reasons:
            out.print(f"failed: {reason}", style="red")

    def _exit_code(self, found: Transfer) -> int:
        drifting = self.fail_on_drift is not None and found.drifts_beyond(self.fail_on_drift)
        return 1 if drifting or found.result.count("failed") else 0


def _json(found: Transfer) -> str:
    data = found.data
    sizes = data[found.axis].values.tolist()
    rules = {
        rule: {
            "verdict": found.verdicts[rule],
            "good": found.is_good(rule),
            **{
                name: dict(zip(sizes, _finite(data[name].sel(rule=rule).values.tolist()), strict=True))
                for name in ("optimal_lr", "at_edge", "drift", "regret", "best_loss")
            },
        }
        for rule in data["rule"].values.tolist()
    }
    return json.dumps({"question": data.attrs["question"], "answer": found.answer, "rules": rules})


def _finite(values: list) -> list:
    """JSON has no NaN and no infinity."""
    return [value if not isinstance(value, float) or abs(value) < float("inf") else None for value in values]
