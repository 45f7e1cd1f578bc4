"""The refusals that are justified: why, and the way out that the message names."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from torch import nn
from torch.nn.utils import parametrize

import isoscale


@dataclass(frozen=True, kw_only=True)
class Refusal:
    """Why a model is refused, and what makes it right.

    Attributes:
        reason: Part of the message.
        why: The same in a few words, for the page.
        way_out: What one does to the model, in place; what it returns are further options of `parametrize`.
        how: The same in words.
    """

    reason: str
    why: str
    way_out: Callable[[nn.Module], dict[str, Any]]
    how: str


def _multiplier_before(*modules: str) -> Callable[[nn.Module], dict[str, Any]]:
    """A Multiplier before every module whose name ends so."""

    def way_out(model: nn.Module) -> dict[str, Any]:
        found = [module for name, module in model.named_modules() if name.endswith(modules)]
        assert found
        for module in found:
            isoscale.Multiplier.before(module)
        return {}

    return way_out


def _multiplier_after(*modules: str) -> Callable[[nn.Module], dict[str, Any]]:
    """A Multiplier after every module whose name ends so."""

    def way_out(model: nn.Module) -> dict[str, Any]:
        for name, module in list(model.named_modules()):
            if name.endswith(modules):
                isoscale.Multiplier.after(module)
        return {}

    return way_out


def _without_weight_norm(model: nn.Module) -> dict[str, Any]:
    for module in model.modules():
        if parametrize.is_parametrized(module):
            parametrize.remove_parametrizations(module, "weight")
    return {}


_WEIGHT_NORM = Refusal(
    reason="its effective weight is computed",
    why="weight norm",
    way_out=_without_weight_norm,
    how='`torch.nn.utils.parametrize.remove_parametrizations(conv, "weight")`',
)
_TIED = Refusal(
    reason="is embedding and readout at once",
    why="embedding and readout are one tensor",
    way_out=_multiplier_before("lm_head"),
    how="`Multiplier.before(model.lm_head)`",
)

REFUSED: dict[str, Refusal] = {
    "gpt2_tied": _TIED,
    "t5": _TIED,
    "umt5": _TIED,
    "fnet": Refusal(
        reason="cannot be folded into a weight",
        why="the Fourier branch has no weight",
        way_out=_multiplier_before("fourier.output"),
        how="`Multiplier.before(layer.fourier.output)` in each layer",
    ),
    "wav2vec2": _WEIGHT_NORM,
    "hubert": _WEIGHT_NORM,
    "detr": Refusal(
        reason="ends in the addition of a constant",
        why="frozen batch norms of the backbone add constants to its branches",
        way_out=_multiplier_after(".layer"),
        how="`Multiplier.after(layer.layer)` in each layer of the backbone",
    ),
    "timm_resnetv2": Refusal(
        reason="cannot be folded into a weight",
        why="branches end in standardised weights without a gain",
        way_out=_multiplier_after(".conv3"),
        how="`Multiplier.after(block.conv3)` in each block",
    ),
}
