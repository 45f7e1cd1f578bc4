"""Torch's optimizers of each family, over parameter groups."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import nn

from isoscale.errors import InvalidValueError
from isoscale.measure.observe import maps
from isoscale.measure.passes import called_maps
from isoscale.rules import OptimizerFamily


class SignSGD(torch.optim.SGD):
    """SGD along the signs of the gradient."""

    def step(self, closure: Any = None) -> Any:
        for group in self.param_groups:
            for param in group["params"]:
                if param.grad is not None:
                    param.grad.sign_()
        return super().step(closure)


def optimizers(family: OptimizerFamily, groups: Sequence[dict[str, Any]]) -> list[torch.optim.Optimizer]:
    """The optimizers that step these groups: one, or two under "muon", where each group names its own.

    Args:
        family: "sgd", "adam", "adamw", "sign" or "muon".
        groups: As torch's optimizers take them; under "muon" with the key "optimizer": "muon" or "adamw".

    Raises:
        InvalidValueError: Torch has no Muon, or a tensor that its Muon does not step.
    """
    classes = {"sgd": torch.optim.SGD, "adam": torch.optim.Adam, "adamw": torch.optim.AdamW, "sign": SignSGD}
    if family in classes:
        return [classes[family](list(groups))]
    muon, rest = ([group for group in groups if group["optimizer"] == name] for name in ("muon", "adamw"))
    made: list[torch.optim.Optimizer] = [torch.optim.AdamW(rest)] if rest else []
    return [_muon(muon), *made] if muon else made


def muon_groups(model: nn.Module, x: Any, lr: float) -> list[dict[str, Any]]:
    """Muon's groups of a model without a plan: every map but the first and the last one called; the rest is Adam's."""
    called, linear = called_maps(model, x), maps(model)
    hidden = {id(linear[name].weight) for name in called[1:-1]}
    shared: dict[str, Any] = {"lr": lr, "weight_decay": 0.0}
    trained = [param for param in model.parameters() if param.requires_grad]
    groups = [
        {"params": [p for p in trained if (id(p) in hidden) == inner], "optimizer": name, **shared}
        for name, inner in (("muon", True), ("adamw", False))
    ]
    return [group for group in groups if group["params"]]


def _muon(groups: list[dict[str, Any]]) -> torch.optim.Optimizer:
    cls = getattr(torch.optim, "Muon", None)
    if cls is None:
        raise InvalidValueError(f"torch {torch.__version__} has no Muon: use torch 2.9 or newer, or another optimizer")
    try:
        return cls(groups)
    except ValueError as error:
        raise InvalidValueError(f"torch's Muon does not step this model: {error}; use another optimizer") from error
