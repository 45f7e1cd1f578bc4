"""The numbers of a plan: for each tensor of a model, by name, its init, learning rate, weight decay and eps.

A plan holds no tensors. What it does to a model stands in `isoscale.parametrization.plan`.
"""

from __future__ import annotations

import dataclasses
import json
import math
import os
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

from isoscale import checks
from isoscale.errors import InvalidValueError, PlanError, unknown
from isoscale.files import replacing
from isoscale.scaling import decoding
from isoscale.scaling.budget import NO_BUDGET
from isoscale.scaling.optimizers import family_of
from isoscale.scaling.tensor import Scaling, Settings, TensorPlan, decide

if TYPE_CHECKING:
    import pandas as pd

# Format 3 holds numbers, those of the forward too, which format 2 did not know. Format 1 held a rule's name and ratios,
# from which any isoscale made its own numbers.
FORMAT = 3

# What two plans of the same sizes agree on; `init_std` is left out because it follows from a random draw.
_COMPARED = (
    *("shape", "base_shape", "role", "frozen", "optimizer"),
    *("multiplier", "init", "lr", "weight_decay", "eps", "momentum", "betas", "reason"),
)

# One rule's factors may be multiplied in another order than another's.
_ROUND_OFF = 1e-12


@dataclass(frozen=True, kw_only=True, repr=False)
class ScalingPlan:
    """What a rule makes of a model's tensors, as numbers.

    Attributes:
        scaling: Rule and size ratios.
        settings: What the base was tuned with, and the optimizer's family.
        entries: One for each parameter, in the model's order.
        multipliers: Factor of each `isoscale.Multiplier` module, by name.
        forward_multipliers: By place, what the forward itself multiplies by at base and target, where the two differ:
            a parameter's name for what multiplies it, "NAME (logits)" for the attention logits of the queries that it
            makes, "NAME (readout)" for a tied embedding as readout, "NAME (branch)" for a branch that ends in it. All
            of this is counted in.
        open_items: What must be fixed before the plan is right; empty unless it was forced.
        notes: What was assumed.
    """

    scaling: Scaling
    settings: Settings
    entries: tuple[TensorPlan, ...]
    multipliers: Mapping[str, float] = field(default_factory=dict)
    forward_multipliers: Mapping[str, tuple[float, float]] = field(default_factory=dict)
    open_items: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()

    @property
    def ratios(self) -> dict[str, float]:
        """Target / base: of the width, the depth (residual branches) and the attention heads' size.

        Where the plan has a budget, also of "batch" and "tokens".
        """
        sizes = {"width": self.scaling.width, "depth": self.scaling.depth, "head_size": self.scaling.head_size}
        budget = self.scaling.budget
        if budget != NO_BUDGET:
            sizes |= {"batch": budget.batch, "tokens": budget.tokens}
        return sizes

    def with_optimizer(self, optimizer: str | type) -> Self:
        """The plan for another optimizer, from the same rule and the same base.

        Raises:
            PlanError: The plan comes from a file, and today's rules would give it other numbers.
        """
        family = family_of(optimizer)
        if family == self.settings.optimizer:
            return self
        self._check_rule()
        settings = replace(self.settings, optimizer=family, momentum=None, betas=None)
        entries = tuple(decide(entry, self.scaling, settings) for entry in self.entries)
        return replace(self, settings=settings, entries=entries)

    def _check_rule(self) -> None:
        """Numbers for another optimizer come from the rules' table: it must be the one that made this plan."""
        for entry in self.entries:
            again = decide(entry, self.scaling, self.settings)
            for name in ("init", "lr", "weight_decay", "eps"):
                now, then = getattr(again, name), getattr(entry, name)
                if not _same(now, then):
                    raise PlanError(
                        f"the rule {self.scaling.rule.name} now gives `{entry.name}` {name} {now:g}, this plan holds "
                        f"{then:g}: make the plan anew for another optimizer"
                    )

    # --- as a table ---
    def table(self) -> pd.DataFrame:
        """One row per tensor: name, role, block, place, shape, base_shape, init_std, lr, weight_decay, eps, reason.

        `init_std` is the root mean square of the initial entries, NaN if the base's numbers are unknown.
        """
        import pandas as pd

        return pd.DataFrame([entry.row() for entry in self.entries])

    def explain(self, name: str) -> str:
        """In a few lines: what a tensor is and from what that was read, its sizes, and why it has its numbers.

        Raises:
            InvalidValueError: No tensor of that name; the message names the nearest.

        >>> import isoscale, torch
        >>> base, model = (torch.nn.Sequential(torch.nn.Linear(2, n), torch.nn.Linear(n, 1)) for n in (4, 8))
        >>> plan = isoscale.parametrize(model, base, "mup", lr=1.0, example_inputs=(torch.zeros(1, 2),))
        >>> print(plan.explain("1.weight").splitlines()[1])
          read from   map, no other weight matrix follows it, 8 -> 1
        """
        entries = {entry.name: entry for entry in self.entries}
        if name not in entries:
            raise unknown("tensor", name, entries)
        return entries[name].explanation(self.scaling, self.settings)

    def diff(self, other: ScalingPlan) -> pd.DataFrame:
        """What differs between two plans: columns name, what, this, other.

        Numbers that a rule gives are compared, and no numbers that were drawn: plans of the same sizes differ in
        nothing, whatever the seeds of the models that they were made from.
        """
        import pandas as pd

        mine = {entry.name: entry for entry in self.entries}
        theirs = {entry.name: entry for entry in other.entries}
        rows = []
        for name in dict.fromkeys([*mine, *theirs]):
            if name not in mine or name not in theirs:
                rows.append((name, "tensor", name in mine, name in theirs))
                continue
            for what in _COMPARED:
                this, that = getattr(mine[name], what), getattr(theirs[name], what)
                if not _same(this, that):
                    rows.append((name, what, this, that))
        return pd.DataFrame(rows, columns=["name", "what", "this", "other"])

    def _repr_html_(self) -> str:
        return self.table().to_html(index=False, escape=True)

    def __repr__(self) -> str:
        return f"<{type(self).__name__}: {self}>"

    def __str__(self) -> str:
        return (
            f"{self.scaling.rule.name} for {self.settings.optimizer}: {len(self.entries)} tensors, "
            f"width x{self.scaling.width:g}, depth x{self.scaling.depth:g}"
        )

    # --- as a file ---
    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the plan as JSON; a file that is there is replaced in one piece or not at all."""
        text = json.dumps(self.to_dict(), indent=1) + "\n"
        with replacing(path) as scratch:
            scratch.write_text(text, encoding="utf-8")

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> Self:
        """Read a plan; it is bound to no model yet.

        Raises:
            PlanError: The file is missing or holds no plan; the message names the key.
        """
        try:
            return cls.from_dict(json.loads(Path(path).read_text(encoding="utf-8")))
        except PlanError as error:
            raise PlanError(f"{path}: {error}") from error
        except (OSError, ValueError, RecursionError) as error:
            raise PlanError(f"cannot read a plan from {path}: {error}") from error

    def to_dict(self) -> dict[str, Any]:
        """The plan as JSON-able values."""
        shown: dict[str, Any] = {"isoscale_plan": FORMAT}
        for item in dataclasses.fields(ScalingPlan):
            shown[item.name] = _plain(getattr(self, item.name))
        rule, budget = self.scaling.rule, self.scaling.budget.rule
        if rule.is_named:
            shown["scaling"]["rule"] = rule.name
        if budget.is_named:
            shown["scaling"]["budget"]["rule"] = budget.name
        return shown

    @classmethod
    def from_dict(cls, given: Any) -> Self:
        """The plan from what `to_dict` returned.

        Raises:
            PlanError: Not a plan, a plan of another format, an unknown or missing key, a value that makes no sense.
        """
        if not isinstance(given, Mapping) or "isoscale_plan" not in given:
            raise PlanError("not a plan: the key 'isoscale_plan' is missing")
        if given["isoscale_plan"] != FORMAT:
            raise PlanError(f"plan format {given['isoscale_plan']!r}, this isoscale reads {FORMAT}: make the plan anew")
        names = {item.name for item in dataclasses.fields(ScalingPlan)}
        parts = decoding.keys(given, {"isoscale_plan", *names}, "")
        listed = decoding.listed(parts["entries"], "entries")
        entries = tuple(decoding.record(TensorPlan, entry, f"entries[{i}]") for i, entry in enumerate(listed))
        for i, entry in enumerate(entries):
            _check_numbers(entry, f"entries[{i}]")
        scaling = decoding.record(Scaling, parts["scaling"], "scaling")
        _check_numbers(scaling, "scaling")
        settings = decoding.record(Settings, parts["settings"], "settings")
        _check_numbers(settings, "settings")
        return cls(
            scaling=scaling,
            settings=settings,
            entries=entries,
            multipliers=decoding.decoded(dict[str, float], parts["multipliers"], "multipliers"),
            forward_multipliers=decoding.decoded(
                dict[str, tuple[float, float]], parts["forward_multipliers"], "forward_multipliers"
            ),
            open_items=decoding.decoded(tuple[str, ...], parts["open_items"], "open_items"),
            notes=decoding.decoded(tuple[str, ...], parts["notes"], "notes"),
        )


def _same(this: object, that: object) -> bool:
    if isinstance(this, float) and isinstance(that, float):
        return math.isclose(this, that, rel_tol=_ROUND_OFF)
    return this == that


def _check_numbers(part: TensorPlan | Settings | Scaling, where: str) -> None:
    """No optimizer takes a negative rate, and no size is 0; a file may hold anything."""
    above = {"width", "depth", "head_size", "uses"}
    if isinstance(part, Settings):
        above |= {"lr", "adamw_lr"}
    least = {"lr", "adamw_lr", "weight_decay", "eps", "init", "multiplier", "base_rms", "fan_in", "fan_out"}
    try:
        for item in dataclasses.fields(part):
            name, value = f"{where}.{item.name}", getattr(part, item.name)
            if value is None:
                continue
            if item.name in above:
                checks.number(name, value, above=0)
            elif item.name in least:
                checks.number(name, value, least=0)
            elif item.name in ("forward", "logits") and value == 0:
                raise PlanError(f"`{name}` must be a ratio other than 0")
            elif item.name == "momentum":
                checks.share(name, value)
            elif item.name == "betas":
                for beta in value:
                    checks.share(name, beta)
    except InvalidValueError as error:
        raise PlanError(str(error)) from error


def _plain(value: Any) -> Any:
    """Dataclasses as objects, all the way down."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {item.name: _plain(getattr(value, item.name)) for item in dataclasses.fields(value)}
    if isinstance(value, Mapping):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, tuple):
        return [_plain(item) for item in value]
    return value
