"""A plan and the model that it is for: rescaled initial weights, parameter groups, and whether they were kept.

A plan is bound to a model by name, so it survives copying, sharding, compiling and checkpoints.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import nn

from isoscale.errors import PlanError
from isoscale.graph.multiplier import Multiplier
from isoscale.graph.unwrapping import named_modules, named_parameters
from isoscale.parametrization import groups, sizes
from isoscale.scaling import initial
from isoscale.scaling.plan import ScalingPlan
from isoscale.scaling.tensor import TensorPlan


@dataclass(frozen=True, kw_only=True, repr=False)
class Plan(ScalingPlan):
    """What `parametrize` found and decided; `param_groups()` is what an optimizer gets.

    Attributes:
        scaling: Rule and size ratios.
        settings: The base's own learning rate, weight decay and eps, and the optimizer's family.
        entries: One for each parameter, in the model's order, with its numbers.
        multipliers: Factor of each `isoscale.Multiplier` module, by name.
        forward_multipliers: By place, what the forward itself multiplies by at base and target, where the two differ.
        open_items: What must be fixed before the plan is right; empty unless it was forced.
        notes: What was assumed.
    """

    _model: nn.Module | None = field(default=None, repr=False, compare=False)

    def apply(self, model: nn.Module) -> Plan:
        """Rescale a freshly initialised model in place, set its Multipliers, and bind the plan to it.

        A model that was rescaled before is left as it is, and so is one on the meta device: apply the plan after
        `to_empty` and the model's own init. Trained weights it would rescale once more: for them there is `bind`.
        Frozen tensors are rescaled like the others if they are freshly drawn, by what is known of the model's init;
        those that are not stay as they are, and a note names them.

        Returns:
            The plan, bound to the model.

        Raises:
            PlanError: A parameter is missing, unknown or of another shape.
        """
        parameters = self._checked(model)
        actual = {entry.name: sizes.rms(parameters[entry.name], entry.offset) for entry in self.entries}
        likely = self._likely_laws(actual)
        kept: list[str] = []
        entries: list[TensorPlan] = []
        for entry in self.entries:
            size = actual[entry.name]
            is_open = entry.frozen and not entry.unused and size is not None
            if is_open and self._is_pretrained(entry, size, likely):
                kept.append(f"`{entry.name}`")
                entries.append(entry)
            else:
                entries.append(self._rescale(entry, parameters[entry.name], size, likely))
        notes = self.notes
        if kept:
            notes += (
                f"{len(kept)} frozen tensor{'s' * (len(kept) > 1)} left as they are, as their sizes follow no init: "
                f"taken to be trained elsewhere ({_listed(kept)})",
            )
        return replace(self, entries=tuple(entries), notes=tuple(dict.fromkeys(notes))).bind(model)

    def bind(self, model: nn.Module) -> Plan:
        """Bind the plan to a model whose weights are already its own, as after loading a checkpoint.

        Its Multipliers are set, which no `state_dict` holds; its weights stay as they are.

        Returns:
            The plan, bound to the model.

        Raises:
            PlanError: A parameter is missing, unknown or of another shape, or a Multiplier is missing.
        """
        self._checked(model)
        modules = named_modules(model)
        for name, factor in self.multipliers.items():
            module = modules.get(name)
            if not isinstance(module, Multiplier):
                raise PlanError(f"the plan sets an isoscale.Multiplier `{name}`, and the model has none of that name")
            module.factor = factor
        return replace(self, _model=model)

    def _likely_laws(self, actual: Mapping[str, float | None]) -> dict[bool, list[str]]:
        """What the model's init most likely follows, its weight matrices (True), its biases and gains (False)."""
        drawn: dict[bool, list[initial.Drawn]] = {}
        for entry in self.entries:
            tensors = drawn.setdefault(entry.role.decays, [])
            size = actual[entry.name]
            found = None if size is None else entry.drawn(size, self.scaling.depth)
            if found and not entry.unused:
                tensors.append(found)
        return {matrices: initial.likely_laws(tensors) for matrices, tensors in drawn.items()}

    def _is_pretrained(self, entry: TensorPlan, actual: float, likely: Mapping[bool, list[str]]) -> bool:
        """Whether a tensor's size follows from its base's by none of the laws of init, so that it is no fresh draw."""
        drawn = entry.drawn(actual, self.scaling.depth)
        if drawn is None or actual == 0:
            return False
        rescaling = drawn.rescaling(likely[entry.role.decays])
        return rescaling.law == "measured" or (drawn.base == 0 and rescaling.law == "zeros")

    def _rescale(
        self,
        entry: TensorPlan,
        parameter: nn.Parameter,
        actual: float | None,
        likely: Mapping[bool, list[str]],
    ) -> TensorPlan:
        """Rescale one tensor; what its base must have been is kept, so that a second time changes nothing."""
        if actual is None or entry.unused:
            return entry
        if drawn := entry.drawn(actual, self.scaling.depth):
            scale = drawn.rescaling(likely[entry.role.decays]).scale
        else:
            scale = entry.rescaling_without_base(self.scaling.init_law).scale
        if scale != 1:
            with torch.no_grad():
                parameter.mul_(scale)
                if entry.offset:
                    # c (a + p) = a + p' with p' = c p + (c - 1) a
                    parameter.add_((scale - 1) * entry.offset)
        if entry.base_rms is not None:
            return entry
        return replace(entry, base_rms=actual * scale / entry.init)

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
            family), `momentum` or `betas` (where the plan was made with them) and `name`. Frozen parameters are in
            none.

        Raises:
            PlanError: The model's parameters are not the plan's, or no model is bound.
        """
        plan = self if optimizer is None else self.with_optimizer(optimizer)
        return groups.make(plan.entries, plan.settings, self._checked(model))

    def check(self, *optimizers: Any, model: nn.Module | None = None) -> None:
        """Raise if the optimizer no longer has the ratios of the plan.

        A scheduler that multiplies all learning rates alike is fine. One that sets them all to one value
        (OneCycleLR with one `max_lr`, CosineAnnealingLR with an `eta_min`, an LR finder) is not, nor are groups
        restored from another width, nor parameters that no group holds. Parameters that are not the plan's model's (of
        the loss, of another model) may be in any group: they are let be.

        Args:
            optimizers: The optimizer, or all of several (for "muon" both); wrapped by Accelerate, Lightning, SAM or
                Lookahead, or inside a scheduler, too. How it decays is read off its groups (`decoupled_weight_decay`).
                A class of one's own, with a step of its own, is taken to be of the family that the plan was made for.
            model: Whose parameters they step; by default the model that the plan is bound to. A plan that was
                loaded, or a copy of the model, needs it.

        Raises:
            PlanError: The message names a tensor, its ratio and what the plan asks.
        """
        groups.check(self.entries, self.settings, self._checked(model), optimizers)

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


def _listed(names: list[str]) -> str:
    """The first few of them."""
    return ", ".join([*names[:3], "..."] if len(names) > 3 else names)
