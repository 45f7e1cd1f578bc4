"""One tensor of a plan: what it is, and the numbers that a rule gives it.

`TensorFacts` says what the tensor does and how its sizes relate to its counterpart's in the base. `decide` turns that,
a rule and the base's own settings into a `TensorPlan`, which holds numbers: whatever reads a plan reads those, and no
later change of the rules' table changes a plan that was made before.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any, Literal

from isoscale.scaling import initial
from isoscale.scaling.budget import NO_BUDGET, TORCH_BETAS, Budget, BudgetFactors
from isoscale.scaling.factors import Decay, Factors
from isoscale.scaling.names import starred
from isoscale.scaling.optimizers import FAMILIES, Family, OptimizerFamily, stepping
from isoscale.scaling.roles import Role
from isoscale.scaling.rules import Rule

MuonAdjustment = Literal["original", "match_rms_adamw", "none"]

# torch's own factor on Muon's update under adjust_lr_fn="match_rms_adamw", beside sqrt(max(rows, columns)).
MATCHED_RMS = 0.2

# Of numbers that a forward may hold in single precision.
_ROUNDING = 1e-6


@dataclass(frozen=True, kw_only=True)
class Scaling:
    """How far the target is from the base.

    Attributes:
        rule: The rule.
        width: Ratio of the widths: the ratio that most weight matrices grow by.
        depth: Ratio of the numbers of residual branches.
        head_size: Ratio of the sizes of attention heads; of most of them, if they differ.
        init_law: What the model's own init is taken to follow where the base has no numbers.
        budget: Batch and duration, and the rule that the settings follow them by.
    """

    rule: Rule
    width: float = 1.0
    depth: float = 1.0
    head_size: float = 1.0
    init_law: str = "1/sqrt(fan_in)"
    budget: Budget = NO_BUDGET

    def missing(self, wanted: float, forward: float) -> float:
        """What is still to be multiplied by where the rule wants one factor and the forward has another.

        A rule that leaves the forward to the user takes it as it is.
        """
        if not self.rule.counts_forward:
            return wanted
        missing = wanted / forward
        # The forward may hold its number in single precision.
        return 1.0 if math.isclose(missing, 1.0, rel_tol=_ROUNDING) else missing

    def multiplier_of_branches(self, forward: float = 1.0) -> float:
        """What a residual branch is multiplied by, beside what the forward does already.

        A rule without a multiplier for branches leaves those that a deeper forward has.
        """
        wanted = self.rule.factors(Role.BRANCH_LAST, "sgd", depth=self.depth).multiplier
        if self.depth != 1 and not self.rule.counts_branches:
            return wanted
        return self.missing(wanted, forward)

    def multiplier_of_logits(self, head_size: float, forward: float) -> float:
        """What attention logits are multiplied by, beside what the forward does already.

        A rule's power of the head size stands beside torch's own 1/sqrt(head size).

        Args:
            head_size: Size of the heads, target / base.
            forward: What the forward multiplies the logits by, target / base.
        """
        if not self.rule.counts_forward:
            return 1.0
        return self.missing(head_size ** (self.rule.head_size - 0.5), forward)

    def budget_factors(self, settings: Settings) -> BudgetFactors:
        """What batch and duration do to the base's settings.

        Raises:
            InvalidValueError: The budget is not stated for this optimizer.
        """
        _, beta2 = settings.base_betas
        return self.budget.factors(settings.optimizer, beta2)


@dataclass(frozen=True, kw_only=True)
class Settings:
    """What the base was tuned with.

    Attributes:
        optimizer: Family.
        lr: Learning rate; for "muon" that of the matrices.
        adamw_lr: Learning rate of what Muon does not step.
        weight_decay, eps: As torch's arguments of that name.
        momentum, betas: As torch's; None leaves them to the optimizer.
        decay: What stays constant across sizes (`Factors.with_decay`).
        adjust_lr_fn: Muon's argument of that name.
    """

    optimizer: OptimizerFamily
    lr: float
    adamw_lr: float
    weight_decay: float = 0.0
    eps: float = 1e-8
    momentum: float | None = None
    betas: tuple[float, float] | None = None
    decay: Decay = "independent"
    adjust_lr_fn: MuonAdjustment = "original"

    @property
    def base_betas(self) -> tuple[float, float]:
        """The betas that the base was tuned with: given, or torch's own."""
        return self.betas or TORCH_BETAS


@dataclass(frozen=True, kw_only=True)
class TensorFacts:
    """What one tensor is, and its ratios to its counterpart in the base.

    Attributes:
        name, shape, base_shape: Of the tensor.
        role, block, place: See `isoscale.graph.anatomy.Part`.
        fan_in, fan_out: Ratios target / base.
        fans: Sizes: fan_in and fan_out of the target, then of the base.
        carries: Whether its branch's multiplier is folded into it.
        attention: Whether the logits' multiplier is folded into it.
        explicit: Whether a readout's multiplier stands in the forward instead of being folded.
        tied: Whether it is the embedding and the readout at once.
        given: Whether its role was given by hand, which then says what counts: not the fan_in of an input layer (whose
            data may be sparse), not the fan_out of an output layer.
        frozen: Whether it is not trained: then it is in no group.
        unused: Whether the forward does not use it: then it is left as it is, at the base's learning rate.
        offset: The number that the forward adds to it before it acts; what is said of its entries is said of the sum.
        forward: What the forward multiplies it by, target / base.
        head_size, logits: Of the attention that it makes the queries of: size of the heads, and what the forward
            multiplies the logits by; target / base.
        uses: How often it acts in one forward, target / base: more often if one block runs at every depth.
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
    given: bool = False
    frozen: bool = False
    unused: bool = False
    offset: float = 0.0
    forward: float = 1.0
    head_size: float = 1.0
    logits: float = 1.0
    uses: float = 1.0
    base_rms: float | None = None

    @property
    def kind(self) -> str:
        """The name with its block's indices left open: `h.*.mlp.0.weight` of `h.3.mlp.0.weight` in `h.3.mlp`."""
        if not self.block:
            return self.name
        # A norm that ends a branch need not lie inside the module that holds the branch's linear layers: what the
        # two paths share is the block's.
        steps = self.name.split(".")
        shared = 0
        for own, of_block in zip(steps, self.block.split("."), strict=False):
            if own != of_block:
                break
            shared += 1
        if not shared:
            return self.name
        return ".".join([starred(".".join(steps[:shared])), *steps[shared:]])


@dataclass(frozen=True, kw_only=True)
class TensorPlan(TensorFacts):
    """One tensor with its numbers, every multiplier folded in.

    Attributes:
        optimizer: The family that steps it.
        multiplier: The multiplier that the other numbers contain; 1 if none was folded.
        init: What its initial entries are multiplied by, relative to the base's.
        lr, weight_decay: As torch's arguments of that name.
        eps: Likewise; None for a family without.
        momentum, betas: Likewise; None leaves them to the optimizer.
        reason: Why, in words.
    """

    optimizer: OptimizerFamily
    multiplier: float
    init: float
    lr: float
    weight_decay: float
    eps: float | None = None
    momentum: float | None = None
    betas: tuple[float, float] | None = None
    reason: str = ""

    @property
    def init_std(self) -> float:
        """Root mean square of its initial entries; NaN if the base's is unknown."""
        return math.nan if self.base_rms is None else self.init * self.base_rms

    def group(self, settings: Settings) -> dict[str, Any]:
        """What an optimizer is told: lr, weight_decay, and what else its family takes.

        Under Muon, a group also names the optimizer that it belongs to.
        """
        told: dict[str, Any] = {"lr": self.lr, "weight_decay": self.weight_decay}
        options = {"eps": self.eps, "momentum": self.momentum, "betas": self.betas}
        told |= {name: value for name, value in options.items() if value is not None}
        if FAMILIES[settings.optimizer].beside:
            told["optimizer"] = self.optimizer
        if FAMILIES[self.optimizer].answer == "spectral":
            told["adjust_lr_fn"] = settings.adjust_lr_fn
        return told

    def drawn(self, actual: float, depth: float) -> initial.Drawn | None:
        """The entries, their root mean square being `actual` now; None if the base's are unknown."""
        if self.base_rms is None:
            return None
        return initial.Drawn(
            factor=self.init,
            actual=actual,
            base=self.base_rms,
            entries=(math.prod(self.shape), math.prod(self.base_shape)),
            fan_in=self.fan_in,
            fan_out=self.fan_out,
            fans=self.fans,
            depth=depth,
        )

    def rescaling_without_base(self, init_law: str) -> initial.Rescaling:
        """By what the entries are to be multiplied if the base's size is unknown."""
        law = init_law if self.role.decays else "fixed size"
        return initial.without_base(self.init, law, self.fan_in)

    def explanation(self, scaling: Scaling, settings: Settings) -> str:
        """What the tensor is and from what that was read, its sizes, and its numbers with their factors."""
        a, b, a0, b0 = self.fans
        sides = f", {a:g} -> {b:g}" if self.role.decays and not self.unused else ""
        base_sides = f", {a0:g} -> {b0:g}" if sides else ""
        width = f"fan_in {_times(self.fan_in)}, fan_out {_times(self.fan_out)}"
        if not self.role.decays:
            width = f"size {_times(self.fan_out)}"
        lines = [
            f"{self.name}: {self.role}",
            f"  read from   {_provenance(self)}{sides}",
            f"  sizes       {self.shape}; in the base {self.base_shape}{base_sides}: {width}, "
            f"depth {_times(scaling.depth)}",
        ]
        if not self.frozen:
            lr = settings.lr if self.optimizer == settings.optimizer else settings.adamw_lr
            lines += [
                f"  init std    {self.init_std:.4g}, the base's {_times(self.init)}",
                f"  lr          {self.lr:.4g}, the base's {_times(self.lr / lr)}",
                f"  decay       {self.weight_decay:.4g}",
            ]
            if self.eps is not None:
                lines.append(f"  eps         {self.eps:.4g}")
        lines.append(f"  because     {self.reason} (rule {scaling.rule.name}, {self.optimizer})")
        return "\n".join(lines)

    def row(self) -> dict[str, Any]:
        """A line of the plan's table."""
        return {
            "name": self.name,
            "role": str(self.role),
            "block": self.block or "",
            "place": self.place,
            "shape": self.shape,
            "base_shape": self.base_shape,
            "init_std": self.init_std,
            "lr": 0.0 if self.frozen else self.lr,
            "weight_decay": self.weight_decay,
            "eps": math.nan if self.eps is None else self.eps,
            "reason": self.reason,
        }


# --- from facts to numbers ---
def decide(facts: TensorFacts, scaling: Scaling, settings: Settings) -> TensorPlan:
    """The numbers of one tensor under a rule."""
    row = stepping(settings.optimizer, facts.role, len(facts.shape))
    unfolded = _unfolded(facts, scaling, row.name)
    folded = unfolded.fold(row.name)
    if row.answer == "spectral":
        adjustment = _muon_adjustment(facts, settings.adjust_lr_fn)
        folded = folded * Factors(lr=adjustment, weight_decay=1 / adjustment)
    factors = folded.with_decay(settings.decay if facts.role.decays else "none")
    beside = row.name != settings.optimizer
    base_lr = settings.adamw_lr if beside else settings.lr
    by_budget = scaling.budget_factors(settings)
    # A budget that leaves the betas alone leaves them to the optimizer as well.
    betas = settings.betas if by_budget.keeps_betas else by_budget.betas(settings.base_betas)
    known = {field.name: getattr(facts, field.name) for field in dataclasses.fields(TensorFacts)}
    return TensorPlan(
        **known,
        optimizer=row.name,
        multiplier=unfolded.multiplier,
        init=factors.init_std,
        lr=base_lr * factors.lr * by_budget.lr,
        weight_decay=settings.weight_decay * factors.weight_decay * by_budget.weight_decay,
        eps=settings.eps * factors.eps * by_budget.eps if row.has_eps else None,
        momentum=None if row.takes_betas else settings.momentum,
        betas=betas if row.takes_betas else None,
        reason="; ".join(_reasons(facts, scaling, settings, unfolded, factors)),
    )


def _unfolded(facts: TensorFacts, scaling: Scaling, family: OptimizerFamily) -> Factors:
    """The rule's factors, with every multiplier that acts on this tensor, not folded."""
    if facts.unused:
        return Factors()
    rule, role, depth = scaling.rule, facts.role, scaling.depth
    is_vector = role.is_vector and facts.fan_in == 1
    if role is Role.OUTPUT and (facts.fan_out == 1 or facts.explicit or facts.given):
        found = rule.factors(role, family, width=facts.fan_in, depth=depth)
    elif is_vector or (role is Role.INPUT and facts.given):
        found = rule.factors(role, family, width=facts.fan_out, depth=depth)
    else:
        found = rule.factors(role, family, width=facts.fan_in, depth=depth, fan_out=facts.fan_out)
    found = found * _of_uses(facts.uses, FAMILIES[family])
    if facts.explicit:
        return replace(found, multiplier=1.0)
    # The table puts a branch's multiplier on its last linear layer. Where the trace found that something else
    # carries it (a norm after that layer), it stands there instead.
    multiplier = found.multiplier
    if role is Role.BRANCH_LAST:
        multiplier /= scaling.multiplier_of_branches()
    if facts.carries:
        multiplier *= scaling.multiplier_of_branches(facts.forward)
    else:
        multiplier = scaling.missing(multiplier, facts.forward)
    if facts.attention:
        multiplier *= scaling.multiplier_of_logits(facts.head_size, facts.logits)
    return replace(found, multiplier=multiplier)


def _of_uses(uses: float, row: Family) -> Factors:
    """A gradient that is the sum over more uses: the step is to be that of one (docs/theory.md, section 5.2)."""
    if row.answer == "linear":
        return Factors(lr=1 / uses, weight_decay=uses)
    return Factors(eps=uses) if row.has_eps else Factors()


def muon_scale(rows: int, columns: int, adjust_lr_fn: MuonAdjustment) -> float:
    """What torch's Muon multiplies the orthogonalised update of a matrix by; "none" is a Muon without a factor."""
    if adjust_lr_fn == "none":
        return 1.0
    if adjust_lr_fn == "match_rms_adamw":
        return MATCHED_RMS * math.sqrt(max(rows, columns))
    return math.sqrt(max(1.0, rows / columns))


def _muon_adjustment(facts: TensorFacts, adjust_lr_fn: MuonAdjustment) -> float:
    """Torch scales Muon's step by the shape; its spectral norm must grow like sqrt(fan_out / fan_in) instead.

    Source: docs/theory.md, section 5.4.
    """
    rows, columns = facts.shape
    base_rows, base_columns = facts.base_shape
    wanted = math.sqrt(facts.fan_out / facts.fan_in)
    return wanted / (muon_scale(rows, columns, adjust_lr_fn) / muon_scale(base_rows, base_columns, adjust_lr_fn))


# --- in words ---
# What a weight matrix outside of branches was known by.
_SEEN = {
    Role.INPUT: "no other weight matrix precedes it",
    Role.HIDDEN: "between other weight matrices, in no residual branch",
    Role.OUTPUT: "no other weight matrix follows it",
}


def _provenance(facts: TensorFacts) -> str:
    """From what a role was read."""
    if facts.block:
        return f"{facts.place} of branch {facts.block}"
    if facts.place in ("map", "convolution"):
        return f"{facts.place}, {_SEEN.get(facts.role, 'in no residual branch')}"
    return facts.place


def _reasons(
    facts: TensorFacts, scaling: Scaling, settings: Settings, unfolded: Factors, factors: Factors
) -> Iterator[str]:
    if facts.frozen:
        yield "frozen: in no group"
    if facts.unused:
        yield f"{facts.place}: left as it is"
        return
    yield from _sizes(facts, scaling)
    if facts.forward != 1 and scaling.rule.counts_forward:
        yield f"the forward already multiplies by {_times(facts.forward)}"
    if facts.carries and scaling.multiplier_of_branches(facts.forward) != 1:
        yield f"branch multiplier {_times(scaling.multiplier_of_branches(facts.forward))} folded in"
    if facts.attention:
        logits = scaling.multiplier_of_logits(facts.head_size, facts.logits)
        if logits != 1:
            yield f"logit multiplier {_times(logits)} folded in"
    if facts.role is Role.OUTPUT and unfolded.multiplier != 1:
        yield f"output multiplier {_times(unfolded.multiplier)} folded in"
    if facts.tied:
        yield "embedding and readout: the readout's multiplier stands in the forward"
    if facts.offset:
        yield f"acts as {facts.offset:g} + itself"
    changes = {"init": factors.init_std}
    if not facts.frozen:
        changes["lr"] = factors.lr
    if facts.role.decays and settings.weight_decay and not facts.frozen:
        changes["decay"] = factors.weight_decay
    yield ", ".join(f"{name} {_times(factor)}" for name, factor in changes.items())
    row = stepping(settings.optimizer, facts.role, len(facts.shape))
    if scaling.budget != NO_BUDGET and not facts.frozen:
        yield _budget_reason(facts, scaling, settings, row)
    if row.name != settings.optimizer and not facts.frozen:
        yield f"stepped by {row.torch_class} beside {FAMILIES[settings.optimizer].torch_class}"


def _budget_reason(facts: TensorFacts, scaling: Scaling, settings: Settings, row: Family) -> str:
    """ "batch x8, tokens x4 (completed-p): lr x1.41, eps x0.707": what the budget changes for this tensor."""
    factors = scaling.budget_factors(settings)
    changes = {"lr": factors.lr}
    if facts.role.decays and settings.weight_decay:
        changes["decay"] = factors.weight_decay
    if row.has_eps:
        changes["eps"] = factors.eps
    if row.takes_betas and factors.one_minus_beta1 == factors.one_minus_beta2:
        changes["1 - betas"] = factors.one_minus_beta1
    elif row.takes_betas:
        changes["1 - beta1"] = factors.one_minus_beta1
        changes["1 - beta2"] = factors.one_minus_beta2
    said = [f"{name} {_times(factor)}" for name, factor in changes.items() if factor != 1]
    budget = scaling.budget
    ratios = f"batch {_times(budget.batch)}, tokens {_times(budget.tokens)} ({budget.rule.name})"
    return f"{ratios}: {', '.join(said) or 'nothing changes'}"


def _sizes(facts: TensorFacts, scaling: Scaling) -> Iterator[str]:
    if facts.fan_in != 1 or facts.fan_out != 1:
        names = {"fan_in": facts.fan_in, "fan_out": facts.fan_out} if facts.role.decays else {"size": facts.fan_out}
        yield ", ".join(f"{name} {_times(value)}" for name, value in names.items())
    if facts.role.is_hidden_map and facts.fan_in != 1 and facts.fan_out == 1:
        yield "from the width to a fixed size: init as an output layer"
    if (facts.role.in_branch or facts.role is Role.STREAM_VECTOR) and scaling.depth != 1:
        yield f"depth {_times(scaling.depth)}"
    if facts.uses != 1:
        yield f"used {_times(facts.uses)} as often"


def _times(factor: float) -> str:
    """A factor as people write it: x4, x1/8, x0.35."""
    if factor and factor < 1 and math.isclose(1 / factor, round(1 / factor), rel_tol=1e-9):
        return f"x1/{round(1 / factor)}"
    return f"x{factor:.3g}"
