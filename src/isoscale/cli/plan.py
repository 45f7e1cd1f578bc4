"""`isoscale plan`: what init and learning rate each tensor of the large model gets, and why."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from rich.text import Text

from isoscale.cli.terminal import console, counted, duration, framed, print_labelled, print_notes
from isoscale.errors import InvalidValueError

if TYPE_CHECKING:
    from rich.console import Console
    from torch import nn

    from isoscale.cli.factory import Factory
    from isoscale.parametrization import Plan
    from isoscale.scaling.tensor import TensorPlan


@dataclass(frozen=True, kw_only=True)
class PlanCommand:
    """Plan the init and the optimizer groups of a large model from its tuned base.

    Prints one line a kind of tensor, checks the plan by measurement, and writes it as JSON, for
    `isoscale.Plan.load(...).apply(model)`. To plan, the large model is made on the meta device and needs no memory.

    Example: isoscale plan --model model.py:make --base width=64,depth=4 --target width=1024,depth=32
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
    betas: tuple[float, float] | None = None
    """The base's betas (Adam family), handed on in the plan; by default torch's, 0.9 and 0.999."""
    decay: Literal["independent", "sqrt", "coupled", "none"] = "independent"
    """What stays constant: lr x weight decay, weight decay itself, half way between ("sqrt"), or no decay."""
    budget: str = "none"
    """Rule for batch and duration; `isoscale rules` lists them."""
    batch: str = "x1"
    """Target / base samples in a step: x8."""
    tokens: str = "x1"
    """Target / base samples (tokens) seen in all: x4."""
    inputs: tuple[str, ...] = ()
    """Arguments of forward as dtype:shape: float:2x3x32x32, int:2x16."""
    verify: bool = True
    """Measure what the plan's first step does at the base's size, in between and at the target's; what is not as the
    rule promises is a thing to fix."""
    verify_seconds: float = 60.0
    """Time limit for that: larger sizes are left out."""
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
        base_sizes = keywords(self.base, "--base")
        sizes = keywords(self.target, "--target")
        base = made.build(base_sizes)
        model = made.build(sizes, meta=True)
        inputs = example_inputs(self.inputs, made, base)
        plan = self._plan(model, base, inputs)
        out = console(quiet=self.quiet or self.json)
        out.print(_summary(plan, model, _ratios(base_sizes, sizes)))
        out.print(framed(["tensor", "role", "init std", "lr", "decay", "eps", "why"], _rows(plan)))
        if self.verify:
            plan = self._verified(plan, made, (base_sizes, sizes), (base, inputs), out)
        # A plan with unresolved issues would train something else than the rule: it is not left lying about.
        written = self.force or not plan.open_items
        if written:
            plan.save(self.out)
        if self.json:
            console().print_json(data=plan.to_dict())
        for item in plan.open_items:
            print_labelled(out, "to fix", "bold red", item)
        print_notes(out, plan.notes)
        out.print(_ending(plan, self.out, written), style="bold", soft_wrap=True)
        return 0 if written else 1

    def _verified(
        self,
        plan: Plan,
        made: Factory,
        sizes: tuple[dict[str, Any], dict[str, Any]],
        base: tuple[nn.Module, Any],
        out: Console,
    ) -> Plan:
        """The plan with the open items and notes of its check."""
        from isoscale.cli.factory import axes_between, with_numbers
        from isoscale.measure import verify

        network, inputs = base
        given = network.example_inputs if inputs is None else inputs
        axes = axes_between(made, *sizes)
        if not axes:
            return replace(plan, notes=(*plan.notes, "not verified: no size grows"))
        grown = "; ".join(f"{name} " + ", ".join(str(value[name]) for value in values) for name, values in axes.items())
        limit = f"at most {duration(self.verify_seconds)} (--verify-seconds, --no-verify)"
        out.print(f"Measuring the plan's first step: {grown}; {limit}")
        fixed = {name: [value] for name, value in sizes[0].items()}
        try:
            found = verify(
                made.build_from_seed,
                with_numbers(given, network),
                sizes=fixed | axes,
                rule=self.rule,
                optimizer=self.optimizer,
                lr=self.lr,
                eps=self.eps,
                seconds=self.verify_seconds,
            )
        except Exception as error:  # code that can be planned need not run on this machine
            why = " ".join(str(error).split()) or type(error).__name__
            return replace(plan, notes=(*plan.notes, f"not verified: {why}"))
        flat = max(0, found.kinds - len(found.open_items))
        out.print(f"  as promised: {flat} of {counted(found.kinds, 'kind')} of tensor ({found.seconds:.0f} s)")
        return replace(plan, open_items=(*plan.open_items, *found.open_items), notes=(*plan.notes, *found.notes))

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
            betas=self.betas,
            decay=self.decay,
            budget=self.budget,
            batch=_ratio("--batch", self.batch),
            tokens=_ratio("--tokens", self.tokens),
            example_inputs=inputs,
            force=True,
        )


def _summary(plan: Plan, model: nn.Module, ratios: str) -> Text:
    """What was planned, on one line."""
    blocks = {entry.block for entry in plan.entries if entry.block}
    millions = sum(parameter.numel() for parameter in model.parameters()) / 1e6
    return Text.assemble(
        (type(model).__name__, "bold"),
        f", {len(blocks)} residual blocks, {millions:,.3g} M parameters.  {ratios}.  ",
        f"{plan.scaling.rule.name}, {plan.settings.optimizer}.  Init and groups only: forward untouched",
    )


def _ratios(base: dict[str, Any], target: dict[str, Any]) -> str:
    """ "width x4, depth x8": the sizes that were given for both and differ."""
    ratios = []
    for name, size in target.items():
        if isinstance(size, int) and isinstance(base.get(name), int):
            ratios.append(f"{name} x{size / base[name]:.4g}")
    return ", ".join(ratios) or "same sizes"


def _ratio(flag: str, text: str) -> float:
    """8 of "x8" or "8"."""
    try:
        return float(text.removeprefix("x"))
    except ValueError:
        raise InvalidValueError(f"`{flag}` must be a ratio target / base, such as x8; got {text!r}") from None


def _rows(plan: Plan) -> Iterator[tuple[str, ...]]:
    """One line for all tensors that differ in their block's index alone."""
    # Tensors with the same numbers share a line, which shows the mean of their initial standard deviations:
    # the base was drawn at random, so these differ a little from block to block.
    stds: dict[tuple[str, ...], list[float]] = {}
    for entry in plan.entries:
        lr = 0.0 if entry.frozen else entry.lr
        eps = "-" if entry.eps is None else f"{entry.eps:.3g}"
        kind = (
            entry.kind,
            _role(entry),
            f"{lr:.3g}",
            f"{entry.weight_decay:.3g}",
            eps,
            entry.reason,
        )
        stds.setdefault(kind, []).append(entry.init_std)
    for (name, role, lr, decay, eps, reason), of_kind in stds.items():
        mean = sum(of_kind) / len(of_kind)
        init = "-" if math.isnan(of_kind[0]) else f"{mean:.3g}"
        yield name, role, init, lr, decay, eps, reason


def _role(entry: TensorPlan) -> str:
    """The role in words, and which layer of its branch the tensor is."""
    role = entry.role.replace("_", " ")
    if entry.place.startswith("map "):
        return f"{role}, {entry.place}"
    return role


def _ending(plan: Plan, path: str, written: bool) -> str:
    things = counted(len(plan.open_items), "thing")
    notes = counted(len(plan.notes), "note")
    if not written:
        return f"{things} to fix, {notes}. {path} not written (use --force to write a plan with open items)"
    use = f'isoscale.Plan.load("{path}").apply(model).param_groups()'
    return f"{things} to fix, {notes}. Plan: {Path(path)}   Use it: {use}"
