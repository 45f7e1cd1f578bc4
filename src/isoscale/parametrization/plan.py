"""A plan: for each tensor of a model, by name, its init, learning rate, weight decay and eps.

A plan holds no tensors. It is bound to a model by name, so it survives copying, sharding, compiling and checkpoints,
and it is written to JSON.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from isoscale.errors import PlanError
from isoscale.parametrization import groups, initial, sizes
from isoscale.parametrization.binding import named_parameters, unwrapped
from isoscale.parametrization.entry import Entry, Scaling, Settings
from isoscale.parametrization.families import family_of
from isoscale.parametrization.multiplier import Multiplier

if TYPE_CHECKING:
    import pandas as pd

_FORMAT = 1


@dataclass(frozen=True, kw_only=True)
class Plan:
    """What `parametrize` found and decided; `param_groups()` is what an optimizer gets.

    Attributes:
        scaling: Rule and size ratios.
        settings: The base's own learning rate, weight decay and eps, and the optimizer's family.
        entries: One for each parameter, in the model's order.
        multipliers: Factor of each `isoscale.Multiplier` module, by name.
        open_items: What must be mended before the plan is right; empty unless it was forced.
        notes: What was assumed.
    """

    scaling: Scaling
    settings: Settings
    entries: tuple[Entry, ...]
    multipliers: Mapping[str, float] = field(default_factory=dict)
    open_items: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    _model: nn.Module | None = field(default=None, repr=False, compare=False)

    # --- with a model ---
    def apply(self, model: nn.Module) -> Plan:
        """Rescale a freshly initialised model in place, set its Multipliers, and bind the plan to it.

        A model that was rescaled before is left as it is, and so is one on the meta device: apply the plan after
        `to_empty` and the model's own init. Trained weights it would rescale once more: for them there is `bind`.

        Returns:
            The plan, bound to the model.

        Raises:
            PlanError: A parameter is missing, unknown or of another shape.
        """
        parameters = self._checked(model)
        actual = {name: sizes.rms(parameter) for name, parameter in parameters.items()}
        likely = self._likely_laws(actual)
        entries = tuple(self._rescale(e, parameters[e.name], actual[e.name], likely) for e in self.entries)
        return replace(self, entries=entries).bind(model)

    def bind(self, model: nn.Module) -> Plan:
        """Bind the plan to a model whose weights are already its own, as after loading a checkpoint.

        Its Multipliers are set, which no `state_dict` holds; its weights stay as they are.

        Returns:
            The plan, bound to the model.

        Raises:
            PlanError: A parameter is missing, unknown or of another shape, or a Multiplier is missing.
        """
        self._checked(model)
        modules = dict(unwrapped(model).named_modules())
        for name, factor in self.multipliers.items():
            module = modules.get(name)
            if not isinstance(module, Multiplier):
                raise PlanError(f"the plan sets an isoscale.Multiplier `{name}`, and the model has none of that name")
            module.factor = factor
        return replace(self, _model=model)

    def _likely_laws(self, actual: Mapping[str, float | None]) -> dict[bool, list[str]]:
        """What the model's init most likely follows: its maps (True), its biases and gains (False)."""
        drawn: dict[bool, list[initial.Drawn]] = {True: [], False: []}
        for entry in self.entries:
            size = actual[entry.name]
            found = None if size is None else entry.drawn(self.scaling, self.settings.optimizer, size)
            if found and not entry.frozen:
                drawn[entry.role.decays].append(found)
        return {maps: initial.likely_laws(tensors) for maps, tensors in drawn.items()}

    def _rescale(
        self, entry: Entry, parameter: nn.Parameter, actual: float | None, likely: Mapping[bool, list[str]]
    ) -> Entry:
        """Rescale one tensor; what its base must have been is kept, so that a second time changes nothing."""
        if actual is None or entry.frozen:
            return entry
        family = self.settings.optimizer
        if drawn := entry.drawn(self.scaling, family, actual):
            scale = drawn.rescaling(likely[entry.role.decays]).scale
        else:
            scale = entry.rescaling_without_base(self.scaling, family).scale
        if scale != 1:
            with torch.no_grad():
                parameter.mul_(scale)
        if entry.base_rms is not None:
            return entry
        return replace(entry, base_rms=actual * scale / entry.factors(self.scaling, self.settings).init_std)

    def param_groups(
        self, model: nn.Module | None = None, *, optimizer: str | type | None = None
    ) -> list[dict[str, Any]]:
        """Parameter groups for any optimizer that takes torch's.

        Args:
            model: Whose parameters; by default the model that the plan is bound to. A model wrapped by DDP,
                torch.compile, or sharded by FSDP2 is the same model.
            optimizer: Another family than the plan's own. "muon" gives the groups of two optimizers, told apart by
                their key "optimizer": "muon" for the hidden matrices, "adamw" for the rest.

        Returns:
            One group for each distinct setting, with `params`, `param_names`, `lr`, `weight_decay`, `eps` (Adam
            family) and `name`. Frozen parameters are in none.

        Raises:
            PlanError: The model's parameters are not the plan's, or no model is bound.
        """
        settings = self.settings if optimizer is None else replace(self.settings, optimizer=family_of(optimizer))
        return groups.make(self.entries, self.scaling, settings, self._checked(model))

    def check(self, *optimizers: Any, model: nn.Module | None = None) -> None:
        """Raise if the optimizer no longer has the ratios of the plan.

        A scheduler that multiplies all learning rates alike is fine. One that sets them all to one value
        (OneCycleLR with one `max_lr`, CosineAnnealingLR with an `eta_min`, an LR finder) is not, nor are groups
        restored from another width, or parameters that no group holds.

        Args:
            optimizers: The optimizer; for "muon" both of them.
            model: Whose parameters they step; by default the model that the plan is bound to. A plan that was
                loaded, or a copy of the model, needs it.

        Raises:
            PlanError: The message names a tensor, its ratio and what the plan asks.
        """
        groups.check(self.entries, self.scaling, self.settings, self._checked(model), optimizers)

    # --- as a table ---
    def table(self) -> pd.DataFrame:
        """One row a tensor: name, role, block, place, shape, base_shape, init_std, lr, weight_decay, eps, reason.

        `init_std` is the root mean square of the initial entries, NaN if the base's numbers are unknown.
        """
        import pandas as pd

        rows = [entry.row(self.scaling, self.settings) for entry in self.entries]
        return pd.DataFrame(rows)

    def diff(self, other: Plan) -> pd.DataFrame:
        """What differs between two plans: columns name, what, this, other."""
        import pandas as pd

        mine, theirs = ({row["name"]: row for row in plan.table().to_dict("records")} for plan in (self, other))
        rows = []
        for name in dict.fromkeys([*mine, *theirs]):
            if name not in mine or name not in theirs:
                rows.append((name, "tensor", name in mine, name in theirs))
                continue
            changed = (key for key in mine[name] if _differs(mine[name][key], theirs[name][key]))
            rows += [(name, key, mine[name][key], theirs[name][key]) for key in changed]
        return pd.DataFrame(rows, columns=["name", "what", "this", "other"])

    def _repr_html_(self) -> str:
        return self.table().to_html(index=False, escape=True)

    def __str__(self) -> str:
        return (
            f"{self.scaling.rule.name} for {self.settings.optimizer}: {len(self.entries)} tensors, "
            f"depth x{self.scaling.depth:g}"
        )

    # --- as a file ---
    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the plan as JSON; a file that is there is replaced in one piece or not at all."""
        target = Path(path)
        scratch = target.with_name(f".{target.name}.{os.getpid()}")
        try:
            scratch.write_text(json.dumps(self.to_dict(), indent=1) + "\n", encoding="utf-8")
            scratch.replace(target)
        finally:
            with contextlib.suppress(FileNotFoundError):
                scratch.unlink()

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> Plan:
        """Read a plan; it is bound to no model yet.

        Raises:
            PlanError: The file is missing or holds no plan; the message names the key.
        """
        try:
            return cls.from_dict(json.loads(Path(path).read_text(encoding="utf-8")))
        except (OSError, ValueError, RecursionError) as error:
            if isinstance(error, PlanError):
                raise PlanError(f"{path}: {error}") from error
            raise PlanError(f"cannot read a plan from {path}: {error}") from error

    def to_dict(self) -> dict[str, Any]:
        """The plan as JSON-able values."""
        own = {item.name for item in dataclasses.fields(self) if not item.name.startswith("_")}
        shown = dataclasses.asdict(replace(self, _model=None))
        rule = self.scaling.rule
        if rule.is_named:
            shown["scaling"]["rule"] = rule.name
        return {"isoscale_plan": _FORMAT} | {key: value for key, value in shown.items() if key in own}

    @classmethod
    def from_dict(cls, given: Any) -> Plan:
        """The plan from what `to_dict` returned."""
        from isoscale.parametrization.reading import read_plan

        return read_plan(given, _FORMAT)

    def _checked(self, model: nn.Module | None) -> dict[str, nn.Parameter]:
        """The model's parameters by name, if they are the plan's."""
        model = self._model if model is None else model
        if model is None:
            raise PlanError(
                "the plan is bound to no model: call plan.apply(model) if it is fresh, plan.bind(model) if trained"
            )
        parameters = named_parameters(model)
        planned = {entry.name: entry.shape for entry in self.entries}
        for name in dict.fromkeys([*planned, *parameters]):
            if name not in parameters or name not in planned:
                has, lacks = ("plan", "model") if name in planned else ("model", "plan")
                raise PlanError(f"`{name}` is in the {has} and not in the {lacks}: the plan was made for another model")
            if tuple(parameters[name].shape) != planned[name]:
                raise PlanError(
                    f"`{name}` has shape {tuple(parameters[name].shape)}, the plan was made for {planned[name]}"
                )
        return parameters


def _differs(a: object, b: object) -> bool:
    return a != b and not (a != a and b != b)  # NaN is the same as NaN
