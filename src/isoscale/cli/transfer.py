"""`isoscale transfer`: does the small model's learning rate serve the large one?"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.text import Text

from isoscale.cli import running
from isoscale.cli.grid import Grid, Place
from isoscale.cli.terminal import console, framed, print_failures, print_json, typed_command

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
        question = hp_transfer.ask(axis, base, target)
        out.print(Text.assemble((question, "bold"), f"   {spec.subject}"))
        if self.place.dry_run:
            running.dry_run(hp_transfer.based(spec), self.place, out)
            return 0
        with running.runner(self.place, out) as runner:
            found = hp_transfer.transfer(spec, runner=runner)
        found.data.attrs["command"] = typed_command()
        self._print(found, out)
        page = report.write(found.data, self.report)
        out.print(f"Report: {page}      Data: {page.parent / 'transfer.nc'}      Again (instant): {typed_command()}")
        return self._exit_code(found)

    def _print(self, found: Transfer, out: Console) -> None:
        from isoscale import report

        if self.place.json:
            print_json(_result(found))
            return
        for rule in report.ordered(found.data):
            verdict = report.verdict_cell(found.data, rule)
            heading = Text.assemble("\n", (rule, "bold"), f"  {verdict}")
            out.print(heading, style="green" if found.is_good(rule) else "red")
            cells = report.by_size(found.data, rule)
            out.print(framed(cells.columns, cells.values))
        # The answer comes last: that is where a reader of a terminal looks.
        out.print()
        out.print(found.answer, style="bold")
        print_failures(out, found.result.reasons)

    def _exit_code(self, found: Transfer) -> int:
        # A verdict without the failed trials is not on what was asked for.
        if found.result.count("failed"):
            return 1
        if self.fail_on_drift is None:
            return 0
        return 1 if found.drifts_beyond(self.fail_on_drift) else 0


def _result(found: Transfer) -> dict[str, Any]:
    """The verdict of each rule and its numbers by size, for programs."""
    data = found.data
    sizes = data[found.axis].values.tolist()
    rules = {}
    for rule in data["rule"].values.tolist():
        of = data.sel(rule=rule)
        numbers: dict[str, Any] = {"verdict": found.verdicts[rule], "good": found.is_good(rule)}
        for name in ("optimal_lr", "at_edge", "drift", "regret", "best_loss"):
            values = of[name].values.tolist()
            numbers[name] = dict(zip(sizes, values, strict=True))
        rules[rule] = numbers
    return {
        "question": data.attrs["question"],
        "answer": found.answer,
        "rules": rules,
    }
