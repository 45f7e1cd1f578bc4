"""One tensor of a plan, and what a rule makes of it."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any, Literal

from isoscale.parametrization import initial
from isoscale.rules import Factors, OptimizerFamily, Role, Rule

Decay = Literal["independent", "coupled", "none"]
MuonAdjustment = Literal["original", "match_rms_adamw"]


@dataclass(frozen=True, kw_only=True)
class Scaling:
    """How far the target is from the base.

    Attributes:
        rule: The rule.
        depth: Ratio of the numbers of residual branches.
        head_size: Ratio of the sizes of attention heads.
        init_law: What the model's own init is taken to follow where the base has no numbers.
    """

    rule: Rule
    depth: float = 1.0
    head_size: float = 1.0
    init_law: str = "1/sqrt(fan_in)"

    def multiplier_of_branches(self) -> float:
        return self.rule.factors(Role.BRANCH_LAST, "sgd", depth=self.depth).multiplier

    def multiplier_of_logits(self) -> float:
        return self.head_size**self.rule.head_size


@dataclass(frozen=True, kw_only=True)
class Settings:
    """What the base was tuned with.

    Attributes:
        optimizer: Family.
        lr: Learning rate; for "muon" that of the matrices.
        adamw_lr: Learning rate of what Muon does not step.
        weight_decay, eps: As torch's arguments of that name.
        decay: What stays constant: lr x weight_decay ("independent"), weight_decay itself ("coupled"), or no decay.
        adjust_lr_fn: Muon's argument of that name.
    """

    optimizer: OptimizerFamily
    lr: float
    adamw_lr: float
    weight_decay: float = 0.0
    eps: float = 1e-8
    decay: Decay = "independent"
    adjust_lr_fn: MuonAdjustment = "original"


@dataclass(frozen=True, kw_only=True)
class Entry:
    """One tensor: what it is, and its ratios to its counterpart in the base.

    Attributes:
        name, shape, base_shape: Of the tensor.
        role, block, place: See `anatomy.Part`.
        fan_in, fan_out: Ratios target / base.
        fans: Sizes: fan_in and fan_out of the target, then of the base.
        carries: Whether its branch's multiplier is folded into it.
        attention: Whether the logits' multiplier is folded into it.
        explicit: Whether a readout's multiplier stands in the forward instead of being folded.
        tied: Whether it is the embedding and the readout at once.
        frozen: Whether it is not trained: then it is left as it is.
        base_rms: Root mean square of the base's entries; None if unknown.
    """

    name: str
    role: Role
    shape: tuple[int, ...]
    base_shape: tuple[int, ...]
    fan_in: float = 1.0
    fan_out: float = 1.0
    fans: tuple[float, float, float, float] = (1.0, 1.0, 1.0, 1.0)
    block: str | None = None
    place: str = ""
    carries: bool = False
    attention: bool = False
    explicit: bool = False
    tied: bool = False
    frozen: bool = False
    base_rms: float | None = None

    @property
    def kind(self) -> str:
        """The name with its block's indices left open: `h.*.mlp.0.weight` of `h.3.mlp.0.weight` in `h.3`."""
        if not self.block or not self.name.startswith(f"{self.block}."):
            return self.name
        starred = ".".join("*" if step.isdecimal() else step for step in self.block.split("."))
        return starred + self.name[len(self.block) :]

    def family(self, optimizer: OptimizerFamily) -> OptimizerFamily:
        """Muon steps the hidden matrices; AdamW stands beside it for the rest."""
        if optimizer != "muon":
            return optimizer
        return "muon" if self.role.is_hidden_map and len(self.shape) == 2 else "adamw"

    def raw(self, scaling: Scaling, optimizer: OptimizerFamily) -> Factors:
        """The rule's factors, with every multiplier that acts on this tensor, not folded."""
        rule, family = scaling.rule, self.family(optimizer)
        if self.role in (Role.VECTOR, Role.BRANCH_VECTOR, Role.INPUT) and self.fan_in == 1:
            found = rule.factors(self.role, family, width=self.fan_out, depth=scaling.depth)
        elif self.role is Role.OUTPUT and self.fan_out == 1:
            found = rule.factors(self.role, family, width=self.fan_in, depth=scaling.depth)
        else:
            found = rule.factors(self.role, family, width=self.fan_in, depth=scaling.depth, fan_out=self.fan_out)
        branch = scaling.multiplier_of_branches()
        multiplier = found.multiplier / (branch if self.role is Role.BRANCH_LAST else 1.0)
        multiplier *= branch if self.carries else 1.0
        multiplier *= scaling.multiplier_of_logits() if self.attention else 1.0
        return replace(found, multiplier=1.0 if self.explicit else multiplier)

    def factors(self, scaling: Scaling, settings: Settings) -> Factors:
        """The factors on init, lr, weight_decay and eps, multipliers folded in."""
        family = self.family(settings.optimizer)
        folded = self.raw(scaling, settings.optimizer).fold(family)
        lr = folded.lr * (self._muon_adjustment(settings) if family == "muon" else 1.0)
        decay = {
            "independent": folded.weight_decay if family == "adam" else 1 / lr,
            "coupled": 1.0,
            "none": 0.0,
        }[settings.decay]
        return replace(folded, lr=lr, weight_decay=decay if self.role.decays else 0.0)

    def _muon_adjustment(self, settings: Settings) -> float:
        """Torch scales Muon's step by the shape; the step's spectral norm must grow like sqrt(fan_out / fan_in)."""

        def torchs(rows: int, columns: int) -> float:
            largest = max(rows, columns) if settings.adjust_lr_fn == "match_rms_adamw" else max(1.0, rows / columns)
            return math.sqrt(largest)

        wanted = math.sqrt(self.fan_out / self.fan_in)
        return wanted / (torchs(*self.shape) / torchs(*self.base_shape))

    def drawn(self, scaling: Scaling, optimizer: OptimizerFamily, actual: float) -> initial.Drawn | None:
        """The entries, their root mean square being `actual` now; None if the base's are unknown."""
        if self.base_rms is None:
            return None
        return initial.Drawn(
            factor=self.raw(scaling, optimizer).fold(self.family(optimizer)).init_std,
            actual=actual,
            base=self.base_rms,
            entries=(math.prod(self.shape), math.prod(self.base_shape)),
            fan_in=self.fan_in,
            fan_out=self.fan_out,
            fans=self.fans,
            depth=scaling.depth,
        )

    def rescaling_without_base(self, scaling: Scaling, optimizer: OptimizerFamily) -> initial.Rescaling:
        """By what the entries are to be multiplied if the base's size is unknown."""
        factor = self.raw(scaling, optimizer).fold(self.family(optimizer)).init_std
        return initial.without_base(factor, scaling.init_law if self.role.decays else "fixed size", self.fan_in)

    def group(self, scaling: Scaling, settings: Settings) -> dict[str, Any]:
        """What an optimizer is told: lr, weight_decay, and eps for the Adam family."""
        factors, family = self.factors(scaling, settings), self.family(settings.optimizer)
        beside_muon = settings.optimizer == "muon" and family != "muon"
        told: dict[str, Any] = {
            "lr": (settings.adamw_lr if beside_muon else settings.lr) * factors.lr,
            "weight_decay": settings.weight_decay * factors.weight_decay,
        }
        if family in ("adam", "adamw"):
            told["eps"] = settings.eps * factors.eps
        if settings.optimizer == "muon":
            told["optimizer"] = family
        if family == "muon":
            told["adjust_lr_fn"] = settings.adjust_lr_fn
        return told

    def row(self, scaling: Scaling, settings: Settings) -> dict[str, Any]:
        """A line of the plan's table."""
        told = self.group(scaling, settings)
        init = self.factors(scaling, settings).init_std * (math.nan if self.base_rms is None else self.base_rms)
        return {
            "name": self.name,
            "role": str(self.role),
            "block": self.block or "",
            "place": self.place,
            "shape": self.shape,
            "base_shape": self.base_shape,
            "init_std": init,
            "lr": 0.0 if self.frozen else told["lr"],
            "weight_decay": told["weight_decay"],
            "eps": told.get("eps", math.nan),
            "reason": "; ".join(self._reasons(scaling, settings)),
        }

    def _reasons(self, scaling: Scaling, settings: Settings) -> Iterator[str]:
        if self.frozen:
            yield "frozen: left as it is, in no group"
            return
        yield from self._sizes(scaling)
        raw, factors = self.raw(scaling, settings.optimizer), self.factors(scaling, settings)
        if self.carries and scaling.multiplier_of_branches() != 1:
            yield f"branch multiplier {_times(scaling.multiplier_of_branches())} folded in"
        if self.attention and scaling.multiplier_of_logits() != 1:
            yield f"logit multiplier {_times(scaling.multiplier_of_logits())} folded in"
        if self.role is Role.OUTPUT and raw.multiplier != 1:
            yield f"output multiplier {_times(raw.multiplier)} folded in"
        if self.tied:
            yield "embedding and readout: the readout's multiplier stands in the forward"
        changes = {"init": factors.init_std, "lr": factors.lr}
        if self.role.decays and settings.weight_decay:
            changes["decay"] = factors.weight_decay
        yield ", ".join(f"{name} {_times(factor)}" for name, factor in changes.items())
        if settings.optimizer == "muon" and self.family("muon") != "muon":
            yield "stepped by AdamW beside Muon"

    def _sizes(self, scaling: Scaling) -> Iterator[str]:
        if self.fan_in != 1 or self.fan_out != 1:
            names = {"fan_in": self.fan_in, "fan_out": self.fan_out} if self.role.decays else {"size": self.fan_out}
            yield ", ".join(f"{name} {_times(value)}" for name, value in names.items())
        if self.role.in_branch and scaling.depth != 1:
            yield f"depth {_times(scaling.depth)}"


def _times(factor: float) -> str:
    """A factor as people write it: x4, x1/8, x0.35."""
    if factor and factor < 1 and math.isclose(1 / factor, round(1 / factor), rel_tol=1e-9):
        return f"x1/{round(1 / factor)}"
    return f"x{factor:.3g}"
