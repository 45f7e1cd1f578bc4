"""`isoscale check`: train for a few steps at every size; fail if a module's change depends on it."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated

import tyro

from isoscale.cli import exponents
from isoscale.cli.problem import On
from isoscale.cli.terminal import bar, console
from isoscale.errors import InvalidValueError


@dataclass(frozen=True, kw_only=True)
class CheckCommand:
    """Coordinate check: a few real steps at every width and depth, the exponents of each module's change, a verdict.

    Exits with 1 if a module's change depends on the size, for use in continuous integration; `--strict` also if that
    cannot be told at these sizes.

    Example: isoscale check model.py:make --rule completep --lr 0.001 --steps 5
    """

    model: Annotated[str, tyro.conf.Positional] = "residual-mlp"
    """A built-in model, or a factory pkg.module:make or file.py:make that takes width and depth.
    Also as --model NAME."""
    rule: str = "completep"
    """Scaling rule; `isoscale rules` lists them."""
    optimizer: str = "adamw"
    """sgd, adam, adamw, sign or muon."""
    lr: float = 1e-3
    """The base's learning rate."""
    widths: tuple[int, ...] = (64, 128, 256)
    """Widths; checked at the smallest depth."""
    depths: tuple[int, ...] = (4, 8, 16)
    """Depths; checked at the largest width."""
    steps: int = 5
    """Optimizer steps."""
    late: int | None = None
    """Look once more after so many steps, at the changes and at the stable rank of the updates."""
    control: bool = True
    """Where nothing fails, check standard parametrization as well, and say so if that passes too."""
    seeds: int = 3
    """Number of seeds: 0, 1, ..."""
    tolerance: float = 0.2
    """An exponent no further than this from what is expected is none."""
    failure: float = 0.5
    """The failures that theory knows are this far from it or further."""
    level: float = 0.95
    """Of the intervals; a table without a failure shows one by chance in 1 - level of the cases."""
    strict: bool = False
    """Exit with 1 also if it cannot be told at these sizes."""
    on: On = field(default_factory=On)
    out: str = "isoscale-check"
    """Folder for the figure (SVG, PNG) and the data (NetCDF)."""
    quiet: bool = False
    """Print errors only."""
    json: bool = False
    """Print the result as one JSON object instead of tables."""

    def run(self) -> int:
        from isoscale import measure, report
        from isoscale.report.files import check_writable

        if self.steps < 1:
            raise InvalidValueError(f"`--steps` must be >= 1, got {self.steps}")
        check_writable(Path(self.out), flag="--out")
        # Every step has a batch of its own; all sizes see the same ones.
        problem = self.on.problem(self.model, batches=self.steps)
        silent = self.quiet or self.json
        out = console(quiet=silent)
        out.print(f"{self.model}, {self.rule}, {self.optimizer}, lr {self.lr:g}: {self.steps} steps at each size")
        with bar("check", quiet=silent) as show:
            found = measure.coordinate_check(
                problem.make,
                problem.batches,
                problem.loss_fn,
                **exponents.sizes(problem, self.widths, self.depths),
                rule=self.rule,
                optimizer=self.optimizer,
                lr=self.lr,
                steps=self.steps,
                late=self.late,
                control=self.control,
                seeds=self.seeds,
                thresholds=measure.Thresholds(tolerance=self.tolerance, failure=self.failure, level=self.level),
                progress=show,
            )
        exponents.show(found.exponents, "module", out)
        exponents.close(found, out, {}, as_json=self.json)
        exponents.write(self.out, "check", report.coordinates(found.data), found.data, out)
        return exponents.exit_code(found, strict=self.strict)
