"""`isoscale law`: how does the best learning rate fall with depth, and is it the claimed power law?"""

from __future__ import annotations

import dataclasses
import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import tyro
from rich.console import Console

from isoscale.cli import running
from isoscale.cli.grid import Integers, Options, Place, Value, Words
from isoscale.cli.terminal import console, counted, framed, print_json, typed_command

if TYPE_CHECKING:
    from isoscale.runs import Sweep
    from isoscale.studies.depth_law import DepthLaw

# The papers' initialisation, unless --model-args says otherwise.
_INIT: dict[str, dict[str, Value]] = {"conv-net": {"init": "he"}, "conv-resnet": {"branch_init": "he/sqrt(K)"}}


# Flags by what they are for; what is in none is for all.
_OF_DEPTH = ("preset", "target", "most_seeds")
_ALONG = ("sizes", "budget_axis", "rule", "schedule", "warmup", "config")
_OF_SWEEP = (
    *("model", "model_args", "optimizer", "dataset", "dataset_args", "width", "depths", "steps", "batch_size", "seeds"),
    *("log2_lr", "per_octave", "grid", "sizes", "budget_axis", "rule", "schedule", "warmup"),
)


@dataclass(frozen=True, kw_only=True)
class LawCommand:
    """Measure how the best learning rate moves with a size, depth by default, and compare with what is published.

    Fits the exponent with its interval, says whether it is a power law at all, and trains the largest network at
    learning rates taken from smaller ones. Along depth it says, too, which measure of depth predicts best, and what is
    known without a sweep. Along --axis batch, tokens or width it takes one sweep, of flags or of a file.

    Example: isoscale law conv-net --data FOLDER --depths 3 6 12
    """

    model: Annotated[str, tyro.conf.Positional] = "all"
    """all: every network of the preset. Or one of them by its name, or a model: conv-net, conv-resnet, vit, gpt or
    residual-mlp. Also as --model NAME."""
    axis: Literal["depth", "batch", "tokens", "width"] = "depth"
    """Which size: tokens are samples seen, along runs of more and more steps."""
    sizes: Integers = None
    """Of batch, tokens (in steps) or width, three or more; by default five over a factor of 16."""
    budget_axis: Literal["steps", "tokens", "tokens-per-parameter"] | None = None
    """What stays fixed along them: by default the samples seen (tokens) along batch, else the steps."""
    rule: Words = None
    """Scaling rules along batch, tokens or width; sp by default."""
    schedule: Literal["constant", "cosine", "linear", "wsd"] = "cosine"
    """Of the learning rate along batch, tokens or width."""
    warmup: float = 0.1
    """Share of the steps in which it rises, there."""
    config: Annotated[str | None, tyro.conf.arg(metavar="FILE.toml")] = None
    """Along batch, tokens or width: the whole sweep from a file, instead of flags."""
    preset: Literal["cpu", "paper"] = "cpu"
    """Sizes and data: cpu (narrow, small images, minutes) or paper (64 channels, 32x32, depths 3 to 30; for a GPU).
    Both use CIFAR-10 from --data."""
    model_args: Options = None
    """Options of the model by name: --model-args padding zero."""
    optimizer: str | None = None
    """sgd, adam, adamw, sign or muon, instead of the preset's."""
    dataset: str | None = None
    """Another data set."""
    dataset_args: Options = None
    """Its options by name: --dataset-args pool 2."""
    width: int | None = None
    """Another width."""
    depths: Integers = None
    """Other depths, three or more."""
    steps: int | None = None
    """Another number of batches to average the training loss over."""
    batch_size: int | None = None
    """Another batch size."""
    seeds: int | None = None
    """Another number of seeds."""
    log2_lr: Annotated[tuple[float, float] | None, tyro.conf.arg(metavar="LOW HIGH")] = None
    """Learning rates from 2^LOW to 2^HIGH: where the adaptive search begins, or the grid ..."""
    per_octave: int = 6
    """... this many to a factor of two."""
    grid: bool = False
    """Train every learning rate of the grid with every seed instead of searching, and more where the best is at an
    end."""
    target: float = 0.125
    """Half-width of an optimum's 95 % interval that the search tries to reach, in octaves."""
    most_seeds: int = 0
    """Seeds that the search may use to reach it; by default no more than --seeds."""
    report: Annotated[str, tyro.conf.arg(aliases=["--out"])] = "isoscale-law"
    """Folder for the page, the figure, the numbers and the table of all runs."""
    place: Place = field(default_factory=Place)

    def run(self) -> int:
        self._refuse_the_other_axis()
        if self.axis != "depth":
            from isoscale.cli import law_along

            return law_along.run(self)
        networks = self._networks()
        from isoscale.runs.driver import prepare
        from isoscale.studies import depth_law as lr_law

        out = console(quiet=self.place.quiet or self.place.json)
        self._announce(networks, out)
        if self.place.dry_run:
            for spec in lr_law.by_depth(networks).values():
                prepare(spec, self.place.data)
            return 0
        # What a search will ask for is not known before: its rounds are not announced.
        with running.runner(self.place, console(quiet=True)) as runner:
            found = lr_law.depth_law(
                networks,
                search="grid" if self.grid else "adaptive",
                target=self.target,
                most_seeds=self.most_seeds,
                runner=dataclasses.replace(runner, announce=None),
            )
        self._print(found, out)
        written = self._write(found)
        out.print(f"Report: {written}      Again (instant): {typed_command()}")
        return 1 if (found.runs["status"] == "failed").any() else 0

    def _refuse_the_other_axis(self) -> None:
        """Flags of one axis say nothing of the other, and those of a sweep nothing beside its file."""
        from isoscale.errors import InvalidValueError

        if self.axis == "depth":
            refused, why = _ALONG, "is for --axis batch, tokens or width"
        elif self.config is not None:
            refused, why = (*_OF_DEPTH, *_OF_SWEEP), f"cannot be given beside --config: put it into {self.config}"
        else:
            refused, why = _OF_DEPTH, "is for --axis depth"
        for field_ in dataclasses.fields(self):
            if field_.name in refused and getattr(self, field_.name) != field_.default:
                raise InvalidValueError(f"`--{field_.name.replace('_', '-')}` {why}")

    def _networks(self) -> dict[str, Sweep]:
        """The sweep of each network, by its name."""
        from isoscale.errors import unknown
        from isoscale.models import names
        from isoscale.runs import Sweep
        from isoscale.studies.depth_law.presets import preset, sized

        changes = self._changes()
        networks = dict(preset(self.preset, **changes))
        if self.model == "all":
            return networks
        if self.model in networks:
            return {self.model: networks[self.model]}
        if self.model not in names():
            raise unknown("network or model", self.model, ["all", *names(), *networks])
        published = _INIT.get(self.model, {})
        chosen: dict[str, Any] = {"model": self.model, "model_args": published | (self.model_args or {})}
        settings = sized(self.preset) | changes | chosen
        return {self.model: Sweep(**settings)}

    def _changes(self) -> dict[str, Any]:
        """The settings that flags change, as those of a sweep."""
        from isoscale.errors import InvalidValueError
        from isoscale.models import names
        from isoscale.runs import log2_grid

        # The networks of a preset differ in their models' options.
        if self.model_args and self.model not in names():
            raise InvalidValueError("`--model-args` needs one model: conv-net, conv-resnet, vit, gpt or residual-mlp")
        changes: dict[str, Any] = {
            "optimizer": self.optimizer,
            "dataset": self.dataset,
            "depths": self.depths,
            "steps": self.steps,
            "batch_size": self.batch_size,
            "seeds": self.seeds,
        }
        # A flag that is not given leaves the preset's setting.
        changes = {name: value for name, value in changes.items() if value is not None}
        # The preset's options are those of its own data set.
        if self.dataset is not None or self.dataset_args is not None:
            changes["dataset_args"] = self.dataset_args or {}
        if self.width is not None:
            changes["widths"] = (self.width,)
        if self.log2_lr is not None:
            changes["lrs"] = log2_grid(*self.log2_lr, self.per_octave)
        return changes

    def _announce(self, networks: dict[str, Sweep], out: Console) -> None:
        first = next(iter(networks.values()))
        trials = sum(spec.trials for spec in networks.values())
        if self.grid:
            how = f"every one of {trials} trials, and more where the best learning rate is at an end"
        else:
            how = f"adaptive search instead of {trials} trials of the grid"
        count = counted(len(networks), "network")
        depths = ", ".join(str(depth) for depth in first.depths)
        sizes = f"width {first.widths[0]}, depths {depths}, {first.steps} batches of {first.batch_size}"
        out.print("How does the best learning rate fall with depth?", style="bold")
        out.print(f"{count} on {first.dataset}, {sizes}; {how}.  Store: {self.place.store}")

    def _print(self, found: DepthLaw, out: Console) -> None:
        from isoscale import report

        if self.place.json:
            print_json(_result(found))
            return
        for title, table in report.law_tables(found).items():
            out.print()
            out.print(title, style="bold")
            out.print(framed(table.columns, table.values))
        out.print()
        out.print(report.law_summary(found.data), style="bold", soft_wrap=True)

    def _write(self, found: DepthLaw) -> Path:
        """The page, the figure and the numbers."""
        from isoscale import report
        from isoscale.report.files import write_all

        folder = Path(self.report)
        figures = {"depth-law": report.depth_law(found.data)}
        report.write_figures(folder, figures, {"depth-law": found.data})
        page = report.law_page(
            found,
            heading="The depth law of learning rates",
            command=typed_command(),
            figure="depth-law.svg",
        )
        runs = found.runs.to_csv(index=False, float_format="%.6g")
        write_all(folder, {"depth-law.md": page.encode(), "runs.csv": runs.encode()})
        return folder / "depth-law.md"


def _result(found: DepthLaw) -> dict[str, Any]:
    """The law of each network and its optima by depth, for programs."""
    numbers = ("exponent", "exponent_low", "exponent_high", "r2", "curvature", "estimate_exponent")
    verdicts = ("claim_verdict", "published_verdict")
    networks = {}
    for network in found.data["network"].values.tolist():
        of = found.data.sel(network=network)
        result = {name: of[name].item() for name in (*numbers, *verdicts)}
        depths = [str(int(depth)) for depth in of["depth"].values]
        for name in ("lr", "lr_low", "lr_high", "at_edge", "estimate"):
            values = of[name].values.tolist()
            result[name] = dict(zip(depths, values, strict=True))
        networks[network] = result
    # pandas writes what a table holds as JSON would, NaN as null and numpy's numbers as numbers.
    zero_shot = json.loads(found.zero_shot.to_json(orient="records"))
    return {"networks": networks, "zero_shot": zero_shot}
