"""`isoscale judge`: the verdict of `transfer`, read off runs that exist already."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Annotated, Literal

import tyro

from isoscale.cli.terminal import console, print_notes, typed_command
from isoscale.cli.transfer import print_verdicts, result_of
from isoscale.cli.verdict import VerdictFlags

if TYPE_CHECKING:
    from isoscale.studies.transfer import Transfer


@dataclass(frozen=True, kw_only=True)
class JudgeCommand:
    """Judge whether the optimum of the small model serves the large one, from a table of finished runs.

    Takes a CSV, TSV, Parquet, JSON or JSON-lines file, also one exported from W&B. Columns are recognised by their
    usual names, and what was guessed is said.

    Example: isoscale judge runs.csv --size width --lr-column learning_rate
    """

    runs: Annotated[str, tyro.conf.Positional]
    """The table, one row for each run."""
    size: str | None = None
    """Column of sizes: width, depth, ... or its own name; by default the one that has several values."""
    hyperparameter: str = "lr"
    """What was tuned."""
    base: int | None = None
    """The tuned size; the smallest by default."""
    lr_column: str | None = None
    """What the column of learning rates is called."""
    loss_column: str | None = None
    """What the column of losses is called."""
    better: Literal["lower", "higher"] | None = None
    """Which losses are: "higher" for a column of accuracies; by default "lower", unless it sounds like a score."""
    size_column: str | None = None
    """What the column of sizes is called."""
    seed_column: str | None = None
    """What the column of seeds is called."""
    rule_column: str | None = None
    """What the column of scaling rules is called, if there are several."""
    hold: Annotated[dict[str, float | str] | None, tyro.conf.arg(metavar="NAME VALUE [NAME VALUE ...]")] = None
    """Values of other columns to keep: --hold weight_decay 0.1. What is not held is minimised over."""
    verdict: VerdictFlags = field(default_factory=VerdictFlags)
    report: Annotated[str, tyro.conf.arg(aliases=["--out"])] = "isoscale-report"
    """Folder of the report."""
    quiet: bool = False
    """Print errors only."""
    json: bool = False
    """Print the result as one JSON object instead of tables."""

    def run(self) -> int:
        import isoscale
        from isoscale import report

        out = console(quiet=self.quiet or self.json)
        found = isoscale.judge(
            self.runs,
            size=self._size(),
            hyperparameter=self.hyperparameter,
            base=self.base,
            hold=self.hold,
            columns=self._columns(),
            better=self.better,
            limits=self.verdict.limits(),
        )
        out.print(str(found.data.attrs["question"]), style="bold")
        print_notes(out, json.loads(found.data.attrs["notes"]))
        found.data.attrs["command"] = typed_command()
        if self.json:
            self._print_json(found)
        else:
            print_verdicts(found, out)
        page = report.write(found.data, self.report)
        out.print(f"Report: {page}      Data: {page.parent / 'transfer.nc'}")
        return 0

    def _size(self) -> str | None:
        return self.size or ("size" if self.size_column else None)

    def _columns(self) -> dict[str, str]:
        """What the flags say that columns are called."""
        given = {
            self.hyperparameter: self.lr_column,
            "loss": self.loss_column,
            self._size() or "size": self.size_column,
            "seed": self.seed_column,
            "rule": self.rule_column,
        }
        return {name: column for name, column in given.items() if column is not None}

    @staticmethod
    def _print_json(found: Transfer) -> None:
        from isoscale.cli.terminal import print_json

        print_json(result_of(found) | {"notes": json.loads(found.data.attrs["notes"])})
