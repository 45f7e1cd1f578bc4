"""Torch's optimizers of each family, over a plan's parameter groups."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import torch
from torch import Tensor

from isoscale.errors import InvalidValueError
from isoscale.scaling.optimizers import FAMILIES, OptimizerFamily


class SignSGD(torch.optim.Optimizer):
    """Signed momentum with decoupled decay, which torch has no class for.

        m <- momentum m + (1 - momentum) g,     w <- (1 - lr weight_decay) w - lr sign(m)

    Args:
        params: Parameters or groups, as for any torch optimizer.
        lr: Learning rate.
        momentum: Of the average, in [0, 1).
        weight_decay: Decoupled: lr * weight_decay of the weight goes in each step.

    Source: Bernstein et al., arXiv 1802.04434 (Signum).

    >>> w = torch.nn.Parameter(torch.tensor([1.0, 1.0]))
    >>> w.grad = torch.tensor([3.0, -0.5])
    >>> SignSGD([w], lr=0.25).step()
    >>> w.tolist()
    [0.75, 1.25]
    """

    def __init__(
        self,
        params: Iterable[Any],
        lr: float = 1e-3,
        momentum: float = 0.9,
        weight_decay: float = 0.0,
    ) -> None:
        super().__init__(params, {"lr": lr, "momentum": momentum, "weight_decay": weight_decay})

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> float | None:  # pyrefly: ignore[bad-override]
        """One update of every parameter that has a gradient."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            for param in group["params"]:
                if param.grad is not None:
                    self._step(param, group)
        return loss

    def _step(self, param: Tensor, group: dict[str, Any]) -> None:
        state = self.state[param]
        if "mean" not in state:
            state["mean"] = torch.zeros_like(param)
        mean = state["mean"].lerp_(param.grad, 1 - group["momentum"])
        if group["weight_decay"]:
            param.mul_(1 - group["lr"] * group["weight_decay"])
        # The sign of NaN is 0 in torch, which would freeze a diverged parameter instead of showing it.
        direction = mean.sign().add_(mean, alpha=0)
        param.add_(direction, alpha=-group["lr"])


def optimizers(family: OptimizerFamily, groups: Sequence[dict[str, Any]]) -> list[torch.optim.Optimizer]:
    """The optimizers that step these groups: one, or two where a family needs another beside it (Muon).

    Args:
        family: A name of `isoscale.scaling.optimizers.FAMILIES`.
        groups: As torch's optimizers take them; for a family with another beside it, each with the key "optimizer".

    Raises:
        InvalidValueError: Torch has no such optimizer, or a tensor that it does not step.
    """
    row = FAMILIES[family]
    if not row.beside:
        return [_make(row.name, list(groups))]
    made = []
    for name in (row.name, row.beside):
        own = [group for group in groups if group["optimizer"] == name]
        if own:
            made.append(_make(name, own))
    return made


def _make(family: OptimizerFamily, groups: list[dict[str, Any]]) -> torch.optim.Optimizer:
    name = FAMILIES[family].torch_class
    if name == SignSGD.__name__:
        return SignSGD(groups)
    cls = getattr(torch.optim, name, None)
    if cls is None:
        raise InvalidValueError(
            f"torch {torch.__version__} has no {name}: use torch 2.9 or newer, or another optimizer"
        )
    try:
        return cls(groups)
    except ValueError as error:
        raise InvalidValueError(f"torch's {name} does not step this model: {error}; use another optimizer") from error
