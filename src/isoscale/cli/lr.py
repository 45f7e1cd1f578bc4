"""`isoscale lr`: a learning rate without a sweep, with the measured error of how it was found."""

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
from isoscale.errors import InvalidValueError, NothingMovesError

if TYPE_CHECKING:
    from isoscale.measure import MaxUpdate, Race, RaceError


@dataclass(frozen=True, kw_only=True)
class LrCommand:
    """A learning rate without a sweep: a short race, and how far off such races are.

    Beside it the maximal-update learning rate (AM-muP), at which pre-activations change by 1 in mean square at the
    first step; a model with a readout of zeros, whose hidden layers do not move then, has none. With --sweep,
    trains at learning rates around the recommended one and says how far the best one is.

    Example: isoscale lr model.py:make --size width=64,depth=4 --optimizer adamw
    """

    model: Annotated[str, tyro.conf.Positional] = "residual-mlp"
    """A built-in model, or a factory pkg.module:make or file.py:make. Also as --model NAME."""
    size: str = "width=64,depth=4"
    """Sizes of the model: any keyword arguments of the factory."""
    optimizer: Literal["sgd", "adam", "adamw", "sign", "muon"] = "adamw"
    """Whose learning rate."""
    batches: int = 4
    """Batches to average the maximal-update learning rate over."""
    seeds: int = 3
    """Initialisations to average the maximal-update learning rate over, and seeds of the sweep; a race has one."""
    count: Literal["all", "stream", "branch"] = "all"
    """Which pre-activations count for it: all, those on the residual stream, or those inside the branches."""
    mean: Literal["arithmetic", "geometric"] = "arithmetic"
    """Mean over layers."""
    race: bool = True
    """Recommend a learning rate, after about 300 training steps; --no-race gives the maximal-update one alone."""
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
        # What trains takes a batch for each step; the first of them are what the first step is measured on.
        trained_on = [self.batches]
        if self.race:
            trained_on.append(measure.RACE_BATCHES)
        if self.sweep:
            trained_on.append(self.steps)
        problem = self.on.problem(self.model, batches=max(trained_on))
        sizes = keywords(self.size, "--size")
        batches = problem.batches[: self.batches]
        out = console(quiet=self.quiet or self.json)
        found, missing = self._max_update(problem, sizes, batches)
        error = measure.race_error(self.optimizer)
        told: dict[str, Any] = {}
        race = self._race(problem, sizes) if self.race else None
        if race is not None:
            self._print_race(race, error, out)
            told |= {
                "recommended_lr": race.lr,
                "race": _as_json(race),
                "method_error": None if error is None else asdict(error),
            }
        if found is None:
            out.print(f"Maximal-update learning rate (AM-muP): none, as {missing}", soft_wrap=True)
            told |= {"lr": None, "no_max_update": missing}
        else:
            self._print_max_update(found, len(batches), error, out)
            told |= asdict(found) | {"lowest": found.lowest, "highest": found.highest}
        if not self.sweep:
            out.print("Confirm with: --sweep")
        asked = math.nan if found is None else found.lr
        if race is not None and math.isfinite(race.lr):
            asked = race.lr
        if self.sweep and math.isfinite(asked):
            told |= self._confirm(asked, problem, sizes, out)
        elif self.sweep:
            out.print("Nothing to confirm: there is neither a recommended learning rate nor a maximal-update one")
        if self.json:
            print_json(told)
        return 0

    def _max_update(self, problem: Problem, sizes: dict[str, Any], batches: list[Any]) -> tuple[MaxUpdate | None, str]:
        """The maximal-update learning rate, or why there is none, if a race stands in for it."""
        from isoscale import measure

        try:
            found = measure.max_update_lr(
                lambda seed: measure.build(problem.make, seed, **sizes),
                problem.loss_fn,
                batches,
                optimizer=self.optimizer,
                count=self.count,
                mean=self.mean,
                seeds=self.seeds,
            )
        except NothingMovesError as error:
            if self.race:
                return None, str(error)
            raise InvalidValueError(f"{error}. A race needs no such thing: leave out --no-race") from error
        return found, ""

    def _race(self, problem: Problem, sizes: dict[str, Any]) -> Race:
        from isoscale import measure

        with bar("race", quiet=self.quiet or self.json) as show:
            return measure.race_lr(
                lambda **given: problem.make(**sizes, **given),
                problem.batches,
                problem.loss_fn,
                optimizer=self.optimizer,
                progress=show,
            )

    def _print_race(self, race: Race, error: RaceError | None, out: Console) -> None:
        if math.isnan(race.lr):
            out.print(Text.assemble("Recommended learning rate: ", ("none", "bold")))
            lowest = min(lr for heat in race.heats for lr in heat.lrs)
            out.print(f"No learning rate from {lowest:.3g} up ends below the untrained loss, {race.untrained_loss:.4g}")
        else:
            out.print(Text.assemble("Recommended learning rate: ", (f"{race.lr:.3g}", "bold")))
            out.print(f"Loss after {race.heats[-1].steps} steps: {race.loss:.4g}, untrained {race.untrained_loss:.4g}")
            out.print(_error_in_words(self.optimizer, error), soft_wrap=True)
        heats = ", ".join(f"{len(heat.lrs)} x {heat.steps}" for heat in race.heats)
        out.print(f"Cost: {race.steps} training steps (learning rates x steps: {heats})")
        print_notes(out, race.notes)

    def _print_max_update(self, found: MaxUpdate, batches: int, error: RaceError | None, out: Console) -> None:
        out.print(Text.assemble("Maximal-update learning rate (AM-muP): ", (f"{found.lr:.3g}", "bold")))
        if not math.isnan(found.lr_se):
            out.print(
                f"± {found.lr_se:.2g} is the noise of {self.seeds} seeds and {batches} batches, not how far it is from "
                "the best learning rate"
            )
        if error is not None:
            out.print(
                f"In the same networks it was {error.max_update_median:.2g} octaves from a sweep's best in the median, "
                f"{error.max_update_worst:.2g} at worst"
            )
        at_low, low = found.lowest
        at_high, high = found.highest
        out.print(f"Layer by layer: min {low:.3g} at {at_low}, max {high:.3g} at {at_high}")
        passes = self.seeds * batches
        out.print(
            f"Cost: {passes} gradients and {passes} Jacobian-vector products ({found.method}), "
            f"{self.seeds} seeds x {batches} batches"
        )
        print_notes(out, found.notes)

    def _confirm(self, asked: float, problem: Problem, sizes: dict[str, Any], out: Console) -> dict[str, Any]:
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
                asked,
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


def _error_in_words(optimizer: str, error: RaceError | None) -> str:
    if error is None:
        return f"Error of the method: not measured under {optimizer}, only under sgd and adamw"
    octaves = {"median": error.median, "nine in ten": error.nine_in_ten, "worst": error.worst}
    factors = {name: f"{2**size:.1f}" for name, size in octaves.items()}
    measured_on = f"{error.races} races of {error.networks}, {error.optimizer}, {error.steps} steps"
    return (
        f"Error of the method: within a factor {factors['nine in ten']} of a sweep's best in 9 of 10 of the shipped "
        f"networks ({measured_on}); median {error.median:.2g} octaves (factor {factors['median']}), worst "
        f"{error.worst:.2g} (factor {factors['worst']}); "
        f"within one octave or 2 % of the best loss in {error.good:.0%}"
    )


def _as_json(race: Race) -> dict[str, Any]:
    """Without the AM-muP estimate's parts, which the command gives over more batches and seeds."""
    told: dict[str, Any] = {**asdict(race)}
    del told["max_update"]
    heats: list[dict[str, Any]] = []
    for heat in race.heats:
        heats.append(heat._asdict())
    told["heats"] = heats
    return told
