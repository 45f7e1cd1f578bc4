"""`isoscale sweep`: train a grid, keep every trial, print each curve's optimum."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from rich.console import Console

from isoscale.cli import running
from isoscale.cli.grid import Grid, Place
from isoscale.cli.terminal import console, framed, print_failures

if TYPE_CHECKING:
    from isoscale.runs import SweepResult


@dataclass(frozen=True, kw_only=True)
class SweepCommand:
    """Train a grid of rules, widths, depths, learning rates and seeds; resumes by itself.

    Example: isoscale sweep --model residual-mlp --rule completep --depths 4 12 --log2-lr -10 -4 --seeds 3
    """

    grid: Grid = field(default_factory=Grid)
    place: Place = field(default_factory=Place)
    out: str | None = None
    """Also write every loss to this NetCDF file."""

    def run(self) -> int:
        spec = self.grid.spec()  # before the slow imports: a typo is answered at once
        out = console(quiet=self.place.quiet or self.place.json)
        if self.place.dry_run:
            running.dry_run(spec, self.place, out)
            return 0
        with running.runner(self.place, out) as runner:
            result = runner.sweep(spec)
        self._print(result, out)
        if self.out is not None:
            result.save(self.out)
        return 1 if result.failures else 0

    def _print(self, result: SweepResult, out: Console) -> None:
        best = result.optima()
        if self.place.json:
            console().print_json(best.to_json(orient="records"))
            return
        # Trials that were in the store already count too.
        done = result.count("done")
        diverged = result.count("diverged")
        out.print(framed(best.columns, best.values))
        if result.searched is not None:
            out.print(str(result.searched))
        out.print(f"{done} trials done, {diverged} diverged, in {self.place.store}")
        print_failures(out, result.failures)
