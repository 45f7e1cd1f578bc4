"""`isoscale transfer`: does the small model's learning rate serve the large one?"""

from __future__ import annotations

import dataclasses
import json
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Annotated, Any

import tyro
from rich.console import Console
from rich.text import Text

from isoscale.cli import running
from isoscale.cli.grid import Grid, Place
from isoscale.cli.terminal import console, framed, print_failures, print_json, print_notes, typed_command
from isoscale.cli.verdict import VerdictFlags

if TYPE_CHECKING:
    from isoscale.studies.transfer import Transfer

_STYLES = {"transfers": "green", "does not transfer": "red", "cannot tell": "yellow"}


@dataclass(frozen=True, kw_only=True)
class TransferCommand:
    """Search the optimum at several sizes and judge whether the learning rate of the smallest serves the largest.

    The verdict is "transfers", "does not transfer" or "cannot tell", decided by the regret: what the base's rate costs
    at the largest size, in loss. Prints the numbers of each size and writes an HTML report with figures.

    Example: isoscale transfer --train train.py:train --rule mup --widths 64 256
    """

    grid: Grid = field(default_factory=Grid)
    place: Place = field(default_factory=Place)
    report: Annotated[str, tyro.conf.arg(aliases=["--out"])] = "isoscale-report"
    """Folder of the report."""
    about: str = "lr"
    """What the question is about: lr, or a hyperparameter of --hyperparameter. Each of them has its verdict anyway."""
    until_decided: bool = False
    """Where the verdict is "cannot tell", do the runs that would tell, in twelve rounds at most."""
    verdict: VerdictFlags = field(default_factory=VerdictFlags)
    fail_on_drift: float | None = None
    """Exit with 1 if the optimum of any rule drifts by more octaves (factors of two) than that, or is not found."""

    def run(self) -> int:
        spec = self.grid.spec()  # before the slow imports: a typo is answered at once
        from isoscale import report
        from isoscale.studies import transfer as hp_transfer
        from isoscale.studies.judged import ask

        out = console(quiet=self.place.quiet or self.place.json)
        spec, axis = hp_transfer.asked(spec)
        along = hp_transfer.along_of(spec, self.about)
        out.print(Text.assemble((ask(axis, along.words), "bold"), f"   {spec.subject}"))
        if self.place.dry_run:
            running.dry_run(spec, self.place, out)
            return 0
        with running.runner(self.place, out) as runner:
            found = hp_transfer.transfer(
                spec,
                hyperparameter=self.about,
                limits=self.verdict.limits(),
                until_decided=self.until_decided,
                runner=runner,
            )
        found.data.attrs["command"] = typed_command()
        found.data.attrs["next_runs"] = json.dumps([str(run) for run in found.next_runs])
        self._print(found, out)
        page = report.write(found.data, self.report)
        out.print(f"Report: {page}      Data: {page.parent / 'transfer.nc'}      Again (instant): {typed_command()}")
        return self._exit_code(found)

    def _print(self, found: Transfer, out: Console) -> None:
        if self.place.json:
            print_json(result_of(found))
            return
        print_verdicts(found, out)
        print_notes(out, json.loads(found.data.attrs["notes"]))
        if found.next_runs and not self.until_decided:
            out.print(f"Do these runs: {typed_command()} --until-decided")
        assert found.result is not None
        print_failures(out, found.result.failures)

    def _exit_code(self, found: Transfer) -> int:
        assert found.result is not None
        # A verdict without the failed trials is not on what was asked for.
        if found.result.failures:
            return 1
        if self.fail_on_drift is None:
            return 0
        return 1 if found.drifts_beyond(self.fail_on_drift) else 0


def print_verdicts(found: Transfer, out: Console) -> None:
    """The answer and its words, every rule's numbers size by size, and the runs that would tell."""
    from isoscale import report
    from isoscale.runs.spec import NO_RULE

    out.print()
    out.print(found.answer, style="bold")
    for line in report.terms(found.data):
        out.print(line, style="dim")
    for rule in report.ordered(found.data):
        verdict = report.verdict_cell(found.data, rule)
        style = _STYLES[found.verdicts[rule]]
        named = () if rule == NO_RULE else ((rule, "bold"), "  ")
        out.print(Text.assemble("\n", *named, (f"{verdict}: {found.reasons[rule]}", style)))
        out.print(f"rate used: {report.rate_cell(found.data, rule)}")
        cells = report.by_size(found.data, rule)
        out.print(framed(cells.columns, cells.values))
    tuned = report.tuned_table(found.data)
    if not tuned.empty:
        out.print("\nEach hyperparameter by itself", style="bold")
        out.print(framed(tuned.columns, tuned.values))
    out.print()
    if found.data.attrs.get("searched"):
        out.print(found.data.attrs["searched"])
    for run in found.next_runs:
        out.print(f"This would tell: {run}")


# Numbers of each size, in the JSON.
_BY_SIZE = (
    "optimal_lr",
    "optimal_lr_low",
    "optimal_lr_high",
    "at_edge",
    "drift",
    "drift_low",
    "drift_high",
    "regret",
    "regret_low",
    "regret_high",
    "best_loss",
    "loss_tuned",
    "loss_transferred",
    "lost_seeds",
)


def result_of(found: Transfer) -> dict[str, Any]:
    """The verdict of each rule and its numbers by size, for programs."""
    data = found.data
    sizes = data[found.axis].values.tolist()
    rules = {}
    for rule in data["rule"].values.tolist():
        of = data.sel(rule=rule)
        numbers: dict[str, Any] = {
            "verdict": found.verdicts[rule],
            "reason": found.reasons[rule],
            "good": found.is_good(rule),
            "rate_used": float(of["rate_used"]),
        }
        for name in _BY_SIZE:
            values = of[name].values.tolist()
            numbers[name] = dict(zip(sizes, values, strict=True))
        rules[rule] = numbers
    runs = [dataclasses.asdict(run) | {"trials": run.trials} for run in found.next_runs]
    return {
        "question": data.attrs["question"],
        "answer": found.answer,
        "quantity": data.attrs["quantity"],
        "better": data.attrs["better"],
        "hyperparameter": data.attrs["hyperparameter"],
        "tuned": json.loads(data.attrs["tuned"]),
        "limits": json.loads(data.attrs["limits"]),
        "rules": rules,
        "next_runs": runs,
    }
