"""`isoscale lr`: a learning rate from one gradient and one forward-mode derivative, without a sweep."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Annotated, Any, Literal

import tyro
from rich.console import Console
from rich.text import Text

from isoscale.cli.factory import keywords
from isoscale.cli.problem import On, Problem
from isoscale.cli.terminal import bar, console, print_json, print_notes
from isoscale.errors import InvalidValueError

if TYPE_CHECKING:
    from isoscale.measure import MaxUpdate


@dataclass(frozen=True, kw_only=True)
class LrCommand:
    """The maximal-update learning rate (AM-muP): pre-activations change by 1 in mean square at the first step.

    With --sweep, trains at learning rates around it and says how far the best one is.
    """

    model: Annotated[str, tyro.conf.Positional] = "residual-mlp"
    """A built-in model, or a factory pkg.module:make or file.py:make."""
    size: str = "width=64,depth=4"
    """Sizes of the model: any keyword arguments of the factory."""
    optimizer: Literal["sgd", "adam", "adamw", "sign", "muon"] = "sgd"
    """Whose first step it is."""
    batches: int = 4
    """Batches to average over."""
    seeds: int = 3
    """Initialisations to average over."""
    count: Literal["all", "stream", "branch"] = "all"
    """Which pre-activations count: all, those on the residual stream, or those inside the branches."""
    mean: Literal["arithmetic", "geometric"] = "arithmetic"
    """Mean over layers."""
    sweep: bool = False
    """Confirm it: train at learning rates up to four octaves away and find the best."""
    steps: int = 100
    """Optimizer steps of each of the sweep's runs."""
    on: On = field(default_factory=On)
    quiet: bool = False
    """Print errors only."""
    json: bool = False
    """Print the result as one JSON object instead of words."""

    def run(self) -> int:
        from isoscale import measure

        for flag, value in (("--batches", self.batches), ("--steps", self.steps)):
            if value < 1:
                raise InvalidValueError(f"`{flag}` must be >= 1, got {value}")
        # The sweep trains on a batch for each step; the first of them are what the learning rate is measured on.
        needed = max(self.batches, self.steps) if self.sweep else self.batches
        problem = self.on.problem(self.model, batches=needed)
        sizes = keywords(self.size, "--size")
        batches = problem.batches[: self.batches]
        found = measure.max_update_lr(
            lambda seed: measure.build(problem.make, seed, **sizes),
            problem.loss_fn,
            batches,
            optimizer=self.optimizer,
            count=self.count,
            mean=self.mean,
            seeds=self.seeds,
        )
        out = console(quiet=self.quiet or self.json)
        self._print(found, len(batches), out)
        confirmed = self._confirm(found, problem, sizes, out) if self.sweep else {}
        if self.json:
            extremes = {"lowest": found.lowest, "highest": found.highest}
            print_json(asdict(found) | extremes | confirmed)
        return 0

    def _print(self, found: MaxUpdate, batches: int, out: Console) -> None:
        lr = f"{found.lr:.3g}"
        if not math.isnan(found.lr_se):
            lr += f" ± {found.lr_se:.2g}"
        out.print(Text.assemble("Maximal-update learning rate (no sweep): ", (lr, "bold")))
        at_low, low = found.lowest
        at_high, high = found.highest
        out.print(f"Layer by layer: min {low:.3g} at {at_low}, max {high:.3g} at {at_high}")
        passes = self.seeds * batches
        out.print(
            f"Cost: {passes} gradients and {passes} Jacobian-vector products ({found.method}), "
            f"{self.seeds} seeds x {batches} batches"
        )
        print_notes(out, found.notes)
        if not self.sweep:
            out.print("Confirm with: --sweep")

    def _confirm(self, found: MaxUpdate, problem: Problem, sizes: dict[str, Any], out: Console) -> dict[str, Any]:
        from isoscale import measure
        from isoscale.measure.confirm import OCTAVES

        rates = len(OCTAVES)
        steps = rates * self.seeds * self.steps
        out.print(f"Sweep: {rates} learning rates x {self.seeds} seeds, {steps} training steps")
        with bar("sweep", quiet=self.quiet or self.json) as show:
            confirmed = measure.confirm_lr(
                lambda **given: problem.make(**sizes, **given),
                problem.batches,
                problem.loss_fn,
                found.lr,
                optimizer=self.optimizer,
                steps=self.steps,
                seeds=self.seeds,
                progress=show,
            )
        out.print(Text.assemble("Found: ", (confirmed.statement, "bold")), soft_wrap=True)
        return {
            "best_lr": confirmed.lr,
            "octaves": confirmed.octaves,
            "statement": confirmed.statement,
        }
