"""`isoscale plan`: what init and learning rate each tensor of the large model gets, and why."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from rich.console import Console
from rich.text import Text

from isoscale.cli.terminal import console, framed

if TYPE_CHECKING:
    from torch import nn

    from isoscale.parametrization import Plan


@dataclass(frozen=True, kw_only=True)
class PlanCommand:
    """Plan the init and the optimizer groups of a large model from its tuned base.

    Prints one line a kind of tensor and writes the plan as JSON, for `isoscale.Plan.load(...).apply(model)`.
    The large model is made on the meta device, so it needs no memory.
    """

    model: str
    """Factory of the model, pkg.module:make or file.py:make, called with the sizes; or a built-in model."""
    base: str
    """Sizes of the tuned model: width=128,depth=4 (any keyword arguments of the factory)."""
    target: str
    """Sizes of the large model: width=1024,depth=32."""
    rule: str = "completep"
    """Scaling rule; `isoscale rules` lists them."""
    optimizer: str = "adamw"
    """sgd, adam, adamw, sign or muon."""
    lr: float = 1e-3
    """The base's learning rate."""
    weight_decay: float = 0.0
    """The base's weight decay."""
    eps: float = 1e-8
    """The base's eps (Adam family)."""
    decay: Literal["independent", "coupled", "none"] = "independent"
    """What stays constant: lr x weight decay, weight decay itself, or no decay."""
    inputs: tuple[str, ...] = ()
    """Arguments of forward as dtype:shape: float:2x3x32x32, int:2x16."""
    out: str = "plan.json"
    """File for the plan."""
    force: bool = False
    """Write a plan that has open items."""
    json: bool = False
    """Print the plan as JSON instead of the table."""
    quiet: bool = False
    """Print errors only."""

    def run(self) -> int:
        from isoscale.cli.factory import example_inputs, factory, keywords

        made = factory(self.model)
        base_sizes, sizes = keywords(self.base, "--base"), keywords(self.target, "--target")
        base, model = made.build(base_sizes), made.build(sizes, meta=True)
        plan = self._plan(model, base, example_inputs(self.inputs, made, base))
        out = console(quiet=self.quiet or self.json)
        self._print(plan, model, _ratios(base_sizes, sizes), out)
        written = self.force or not plan.open_items
        if written:
            plan.save(self.out)
        if self.json:
            console().print_json(data=plan.to_dict())
        for item in plan.open_items:
            out.print(Text.assemble(("to fix: ", "bold red"), item), soft_wrap=True)
        for note in plan.notes:
            out.print(Text.assemble(("note: ", "bold"), note), soft_wrap=True)
        out.print(_ending(plan, self.out, written), style="bold", soft_wrap=True)
        return 0 if written else 1

    def _plan(self, model: nn.Module, base: nn.Module, inputs: Any) -> Plan:
        from isoscale.parametrization import parametrize

        return parametrize(
            model,
            base,
            self.rule,
            self.optimizer,
            lr=self.lr,
            weight_decay=self.weight_decay,
            eps=self.eps,
            decay=self.decay,
            example_inputs=inputs,
            force=True,
        )

    def _print(self, plan: Plan, model: nn.Module, ratios: str, out: Console) -> None:
        blocks = len({entry.block for entry in plan.entries if entry.block})
        millions = sum(parameter.numel() for parameter in model.parameters()) / 1e6
        out.print(
            Text.assemble(
                (type(model).__name__, "bold"),
                f", {blocks} residual blocks, {millions:,.3g} M parameters.  {ratios}.  {plan.scaling.rule.name}, "
                f"{plan.settings.optimizer}.  Init and groups only: forward untouched",
            )
        )
        out.print(framed(["tensor", "role", "init std", "lr", "decay", "eps", "why"], _rows(plan)))


def _ratios(base: dict[str, Any], target: dict[str, Any]) -> str:
    """ "width x4, depth x8": the sizes that were given for both and differ."""
    shared = [name for name in target if isinstance(base.get(name), int) and isinstance(target[name], int)]
    return ", ".join(f"{name} x{target[name] / base[name]:.4g}" for name in shared) or "same sizes"


def _rows(plan: Plan) -> Iterator[tuple[str, ...]]:
    """One line for all tensors that differ in their block's index alone."""
    kinds: dict[tuple[str, ...], list[float]] = {}
    for entry, row in zip(plan.entries, plan.table().to_dict("records"), strict=True):
        numbers = (f"{row[key]:.3g}" if row[key] == row[key] else "-" for key in ("lr", "weight_decay", "eps"))
        role = row["role"].replace("_", " ") + (f", {row['place']}" if row["place"].startswith("map ") else "")
        kinds.setdefault((entry.kind, role, *numbers, row["reason"]), []).append(float(row["init_std"]))
    for (kind, role, lr, decay, eps, reason), stds in kinds.items():
        init = f"{sum(stds) / len(stds):.3g}" if stds[0] == stds[0] else "-"
        yield kind, role, init, lr, decay, eps, reason


def _ending(plan: Plan, path: str, written: bool) -> str:
    things, warnings = len(plan.open_items), len(plan.notes)
    counted = f"{things} thing{'s' * (things != 1)} to fix, {warnings} note{'s' * (warnings != 1)}."
    if not written:
        return f"{counted} {path} not written (use --force to write a plan with open items)"
    return f'{counted} Plan: {Path(path)}   Use it: isoscale.Plan.load("{path}").apply(model).param_groups()'
