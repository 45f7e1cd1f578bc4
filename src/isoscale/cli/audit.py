"""`isoscale audit`: does one step do the same at every size, and which layer is to blame when not?"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import tyro
from rich.console import Console

from isoscale.cli import exponents
from isoscale.cli.problem import On
from isoscale.cli.terminal import bar, console, framed

if TYPE_CHECKING:
    from isoscale.measure import Audit


@dataclass(frozen=True, kw_only=True)
class AuditCommand:
    """Audit a rule without training: exponents, in width and depth, of what each role's first step does.

    Exits with 1 if an effect depends on the size; `--strict` also if that cannot be told at these sizes.

    Example: isoscale audit model.py:make --rule completep --widths 64 128 256 --depths 4 8 16
    """

    model: Annotated[str, tyro.conf.Positional] = "residual-mlp"
    """A built-in model, or a factory pkg.module:make or file.py:make that takes width and depth.
    Also as --model NAME."""
    rule: str = "completep"
    """Scaling rule; `isoscale rules` lists them."""
    optimizer: str = "adamw"
    """sgd, adam, adamw, sign or muon."""
    widths: tuple[int, ...] = (64, 128, 256)
    """Widths; measured at the smallest depth."""
    depths: tuple[int, ...] = (4, 8, 16, 32)
    """Depths; measured at the largest width."""
    seeds: int = 3
    """Number of seeds: 0, 1, ..."""
    by_tensor: bool = False
    """One line each kind of tensor instead of each role."""
    suggest: bool = False
    """Suggest the depth exponents that would make every effect flat."""
    tolerance: float = 0.2
    """An exponent no further than this from what is expected is none."""
    failure: float = 0.5
    """The failures that theory knows are this far from it or further."""
    level: float = 0.95
    """Of the intervals; a table without a failure shows one by chance in 1 - level of the cases."""
    strict: bool = False
    """Exit with 1 also if it cannot be told at these sizes."""
    on: On = field(default_factory=On)
    out: str = "isoscale-audit"
    """Folder for the figure (SVG, PNG) and the data (NetCDF)."""
    quiet: bool = False
    """Print errors only."""
    json: bool = False
    """Print the result as one JSON object instead of tables."""

    def run(self) -> int:
        from isoscale import measure, report
        from isoscale.report.files import check_writable

        check_writable(Path(self.out), flag="--out")
        # The first step of training sees one batch.
        problem = self.on.problem(self.model, batches=1)
        by = "tensor" if self.by_tensor else "role"
        silent = self.quiet or self.json
        out = console(quiet=silent)
        out.print(f"{self.model}, {self.rule}, {self.optimizer}: first-order effects of one step at each size")
        with bar("audit", quiet=silent) as show:
            found = measure.audit(
                problem.make,
                problem.batches[0],
                problem.loss_fn,
                **exponents.sizes(problem, self.widths, self.depths),
                rule=self.rule,
                optimizer=self.optimizer,
                seeds=self.seeds,
                by=by,
                thresholds=measure.Thresholds(tolerance=self.tolerance, failure=self.failure, level=self.level),
                progress=show,
            )
        exponents.show(found.exponents, by, out)
        extra = _suggestion(found, out) if self.suggest else {}
        exponents.close(found, out, extra, as_json=self.json)
        exponents.write(self.out, "audit", report.audit(found.data), found.data, out)
        return exponents.exit_code(found, strict=self.strict)


def _suggestion(found: Audit, out: Console) -> dict[str, object]:
    """Print the depth exponents that would make every effect flat; the same for JSON."""
    from isoscale import measure

    suggestion = measure.suggest(found)
    rows = []
    for row in suggestion.exponents.itertuples():
        exponent = f"L^{row.exponent:+.2f}"
        interval = f"[{row.low:+.2f}, {row.high:+.2f}]"
        rows.append((row.what, exponent, interval, f"{row.simplest:+.2g}"))
    out.print("\nSuggested", style="bold")
    out.print(framed(["", "exponent in depth", "95 %", "simplest in it"], rows))
    out.print(suggestion.statement)
    details = {
        "exponents": suggestion.exponents.to_dict("records"),
        "flat": suggestion.flat,
        "statement": suggestion.statement,
    }
    return {"suggestion": details}
