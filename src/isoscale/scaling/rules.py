"""The table: how a tensor's init and learning rate follow the width and the depth of its network.

Two size ratios, both relative to the tuned base: m = width / base width, r = depth / base depth.
Every factor is a product of powers, m^a r^b; a rule is a table of the exponents a and b.
A multiplier stands on the output of a linear layer (for a vector: on the vector itself); `Factors.fold`
moves it into init and learning rate, so that a model's forward pass need not change.

Weights are in ordinary units (entries ~ 1/sqrt(fan_in)). Source: docs/theory.md, section 5, whose rows
cite TP5 (arXiv 2203.03466, table 8), TP6 (2310.02244), NFD v1 (2512.21075), CompleteP (2505.01618),
Spectral (2603.00541) and AM-muP (2510.04327).

>>> get("completep").factors(Role.BRANCH_LAST, "adamw", width=4.0, depth=2.0)
Factors(init_std=0.5, multiplier=0.5, lr=0.25, weight_decay=4.0, eps=0.125)
"""

from __future__ import annotations

import math
import numbers
import re
from collections.abc import Mapping
from dataclasses import astuple, dataclass, replace

from isoscale.errors import InvalidTypeError, InvalidValueError, unknown
from isoscale.scaling.factors import Exponents, Factors
from isoscale.scaling.optimizers import Family, OptimizerFamily, stepping
from isoscale.scaling.roles import Role, check_role


# --- width ------------------------------------------------------------------------------------------------
@dataclass(frozen=True, kw_only=True)
class WidthRow:
    """Powers of the width ratio m for one role: one row of a width table.

    Attributes:
        init_std, multiplier: Initial entries and explicit output multiplier.
        sgd, adam: Learning rates; sign descent follows adam.
        muon: Learning rate of hidden maps under Muon (update of spectral norm 1).
        eps: Size of a gradient entry, which Adam's eps follows.
    """

    init_std: float = 0.0
    multiplier: float = 0.0
    sgd: float = 0.0
    adam: float = 0.0
    muon: float = 0.0
    eps: float = 0.0

    def exponents(self, row: Family) -> Exponents:
        """The row's powers for one optimizer."""
        lr = {"linear": self.sgd, "entrywise": self.adam, "spectral": self.muon}[row.answer]
        return Exponents(
            init_std=self.init_std,
            multiplier=self.multiplier,
            lr=lr,
            weight_decay=-lr if row.keeps_lr_times_decay else 0.0,
            eps=self.eps if row.has_eps else 0.0,
        )


_TORCH = {Role.HIDDEN: WidthRow(init_std=-0.5), Role.OUTPUT: WidthRow(init_std=-0.5)}

# SGD's column is the neural tangent parametrization; the others make steps of the same size.
_KERNEL = {
    Role.INPUT: WidthRow(adam=-0.5, eps=-0.5),
    Role.HIDDEN: WidthRow(init_std=-0.5, sgd=-1, adam=-1.5, muon=-0.5, eps=-0.5),
    Role.OUTPUT: WidthRow(init_std=-0.5, sgd=-1, adam=-1),
    Role.VECTOR: WidthRow(adam=-0.5, eps=-0.5),
}

_MUP = {
    Role.INPUT: WidthRow(sgd=1, eps=-1),
    Role.HIDDEN: WidthRow(init_std=-0.5, adam=-1, eps=-1),
    Role.OUTPUT: WidthRow(multiplier=-1, sgd=1, eps=-1),
    Role.VECTOR: WidthRow(sgd=1, eps=-1),
}


# --- depth ------------------------------------------------------------------------------------------------
@dataclass(frozen=True, kw_only=True)
class DepthRow:
    """Powers of the depth ratio r: one row of the depth table.

    Attributes:
        branch: Explicit multiplier of a residual branch, r^-alpha; stands on its last map.
        init_internal, init_last: Init of the branch's inner maps and of its last map.
        sgd_internal, sgd_last: SGD learning rates.
        adam_internal, adam_last: Learning rates of Adam, sign descent and Muon.
        stream: Learning rate of gains and biases on the stream, whatever the optimizer: as many as the blocks.
        everywhere: Learning rate of every tensor, in and outside the branches.
    """

    branch: float = 0.0
    init_internal: float = 0.0
    init_last: float = 0.0
    sgd_internal: float = 0.0
    sgd_last: float = 0.0
    adam_internal: float = 0.0
    adam_last: float = 0.0
    stream: float = 0.0
    everywhere: float = 0.0

    def exponents(self, role: Role, row: Family) -> Exponents:
        """The row's powers for one tensor and optimizer."""
        lr = self.everywhere
        init_std = multiplier = eps = 0.0
        if role is Role.STREAM_VECTOR:
            lr += self.stream
        if role.in_branch:
            lr += self._lr_in_branch(role, row)
            # A gradient inside a branch has passed through the branch's multiplier.
            eps = self.branch if row.has_eps else 0.0
        if role is Role.BRANCH_INTERNAL:
            init_std = self.init_internal
        elif role is Role.BRANCH_LAST:
            init_std = self.init_last
            multiplier = self.branch
        decay = -lr if row.keeps_lr_times_decay else 0.0
        return Exponents(init_std=init_std, multiplier=multiplier, lr=lr, weight_decay=decay, eps=eps)

    def _lr_in_branch(self, role: Role, row: Family) -> float:
        """Biases and gains of a branch follow its last linear layer."""
        internal = role is Role.BRANCH_INTERNAL
        if row.answer == "linear":
            return self.sgd_internal if internal else self.sgd_last
        return self.adam_internal if internal else self.adam_last


def _family_row(alpha: float, beta: float) -> DepthRow:
    return DepthRow(
        branch=-alpha,
        init_last=alpha - beta,
        sgd_internal=2 * beta - 1,
        sgd_last=2 * alpha - 1,
        adam_internal=beta - 1,
        adam_last=alpha - 1,
        stream=-1.0,
    )


@dataclass(frozen=True, kw_only=True)
class Rule:
    """A named way to scale: a width table and a row of the depth table.

    Attributes:
        name: What `get` finds it by.
        keeps: What the rule keeps constant, in one line.
        source: The paper.
        width: Its width table.
        depth: Its row of the depth table.
        embedding: Power of the width ratio in the learning rate of input maps and embeddings where a step is entrywise,
            beside the width table.
        head_size: Power of the head-size ratio that multiplies attention logits, beside torch's own 1/sqrt(head size).
        counts_forward: Whether numbers in the forward that depend on the size count as multipliers, so that the rule
            holds for the two together. Without, the forward is left to the user.
    """

    name: str
    keeps: str
    source: str
    width: Mapping[Role, WidthRow]
    depth: DepthRow = DepthRow()
    embedding: float = 0.0
    head_size: float = -0.5
    counts_forward: bool = True

    def __post_init__(self) -> None:
        # It stands in figures, and no page holds control characters.
        if not self.name.isprintable():
            raise InvalidValueError(f"`name` of a rule must be printable, got {self.name!r}")

    @property
    def is_named(self) -> bool:
        """Whether `get` returns this very rule for its name."""
        return _RULES.get(self.name) == self or (bool(_FAMILY.fullmatch(self.name)) and get(self.name) == self)

    @property
    def counts_branches(self) -> bool:
        """Whether the rule multiplies branches, so that what a forward multiplies them by at its depth counts."""
        return self.counts_forward and self.depth.branch != 0

    def factors(
        self,
        role: Role,
        optimizer: OptimizerFamily,
        *,
        width: float = 1.0,
        depth: float = 1.0,
        fan_out: float | None = None,
    ) -> Factors:
        """Factors of one tensor relative to the base, multiplier not folded.

        Args:
            role: What the tensor does.
            optimizer: Its optimizer's family; "muon" gives Adam's factors to all but hidden maps.
            width: Target width / base width, > 0; for a map the ratio of fan_in, if that of fan_out is given.
            depth: Target depth / base depth, > 0.
            fan_out: Target / base fan_out of a weight matrix. With it the two sides say what the matrix is: hidden if
                both grow, an input map if only fan_out does, an output map if only fan_in does (a fixed latent, a
                router, keys of a fixed number of heads).

        Raises:
            InvalidValueError: Unknown optimizer family or a ratio that is not positive and finite.

        >>> get("depth-mup").factors(Role.BRANCH_INTERNAL, "sgd", depth=16).lr
        1.0
        >>> get("depth-mup-corrected").factors(Role.BRANCH_INTERNAL, "sgd", depth=16).lr
        4.0
        """
        role = check_role(role)
        row = stepping(optimizer, role)
        m = _ratio("width", width)
        r = _ratio("depth", depth)
        by_depth = self.depth.exponents(role, row).at(r)
        if role is Role.INPUT and row.answer == "entrywise":
            grown = m if fan_out is None else _ratio("fan_out", fan_out)
            decay = -self.embedding if row.keeps_lr_times_decay else 0.0
            by_depth = by_depth * Exponents(lr=self.embedding, weight_decay=decay).at(grown)
        if fan_out is not None:
            return self._by_sides(role, row, m, _ratio("fan_out", fan_out)) * by_depth
        return self._of_width(role, row).at(m) * by_depth

    def _of_width(self, role: Role, row: Family) -> Exponents:
        return self.width.get(role.width_role, WidthRow()).exponents(row)

    def _by_sides(self, role: Role, row: Family, fan_in: float, fan_out: float) -> Factors:
        """A weight matrix's factors from the ratios of its two sides (docs/theory.md, section 5.1)."""
        both = self._of_width(role if role.is_hidden_map else Role.HIDDEN, row)
        if fan_in == fan_out:
            return both.at(fan_in)
        outward = self._of_width(Role.INPUT, row)
        # What the input map's row does not explain by the fan_out is due to the fan_in.
        inward = Exponents(*(b - o for b, o in zip(astuple(both), astuple(outward), strict=True)))
        found = inward.at(fan_in) * outward.at(fan_out)

        if fan_out != 1:
            return found
        # Into a fixed size. An output map's rates are these too, once its multiplier is folded; its init is not.
        readout = self._of_width(Role.OUTPUT, row).at(fan_in)
        return replace(found, init_std=readout.init_std * readout.multiplier)


_ROWS = (
    Rule(
        name="sp",
        keeps="nothing: PyTorch's defaults",
        source="standard parametrization",
        width=_TORCH,
        head_size=0.0,
        counts_forward=False,
    ),
    Rule(
        name="sp-embedding",
        keeps="nothing; embeddings keep pace where the one rate is tuned at each width",
        source="docs/theory.md, section 5.2",
        width=_TORCH,
        embedding=1.0,
        head_size=0.0,
        counts_forward=False,
    ),
    Rule(
        name="ntp",
        keeps="the function's first-order change; features stop moving with width",
        source="Jacot et al., arXiv 1806.07572",
        width=_KERNEL,
        head_size=0.0,
        counts_forward=False,
    ),
    Rule(name="mup", keeps="feature learning at every width", source="TP5, arXiv 2203.03466", width=_MUP),
    Rule(
        name="depth-mup",
        keeps="stream and output at every depth; inner maps of a branch stop learning like r^-1/2",
        source="TP6, arXiv 2310.02244",
        width=_MUP,
        depth=_family_row(0.5, 0.5),
    ),
    Rule(
        name="depth-mup-corrected",
        keeps="depth-mup with inner maps that learn at every depth",
        source="NFD v1, arXiv 2512.21075",
        width=_MUP,
        depth=replace(_family_row(0.5, 0.5), sgd_internal=0.5, adam_internal=0.0),
    ),
    Rule(
        name="completep",
        keeps="every map's learning, at every width and depth",
        source="CompleteP, arXiv 2505.01618",
        width=_MUP,
        depth=_family_row(1.0, 1.0),
    ),
    Rule(
        name="am-mup",
        keeps="the mean over layers of the squared feature change",
        source="AM-muP, arXiv 2510.04327",
        width=_MUP,
        depth=DepthRow(init_internal=-0.5, init_last=-0.5, everywhere=-1.5),
    ),
)
_RULES = {rule.name: rule for rule in _ROWS}
_FAMILY = re.compile(r"residual-family\(([^,()]+),([^,()]+)\)")


def names() -> list[str]:
    """The named rules, sorted.

    >>> names()
    ['am-mup', 'completep', 'depth-mup', 'depth-mup-corrected', 'mup', 'ntp', 'sp', 'sp-embedding']
    """
    return sorted(_RULES)


def get(name: str | Rule) -> Rule:
    """The rule of that name; also reads `residual-family(ALPHA,BETA)`.

    Raises:
        InvalidValueError: No such rule; the message names the nearest.
    """
    if isinstance(name, Rule):
        return name
    if match := _FAMILY.fullmatch(str(name).replace(" ", "")):
        return residual_family(alpha=_number("alpha", match[1]), beta=_number("beta", match[2]))
    if name not in _RULES:
        raise unknown("rule", name, _RULES, listing="isoscale rules")
    return _RULES[name]


def residual_family(alpha: float, beta: float) -> Rule:
    """The family of stable depth rules: branch multiplier r^-alpha, last map's init r^(alpha-beta).

    depth-mup is (1/2, 1/2), completep (1, 1), a small-init last layer (1/2, 1). Larger beta gives
    quieter branches at init and more learning in their inner maps; the product of the two is always
    r^-1/2 (docs/theory.md, section 4).

    Args:
        alpha: Exponent of the branch multiplier, in [0, 1].
        beta: Exponent of the branch's size at init, in [1/2, 1].

    >>> residual_family(alpha=0.5, beta=0.75).name
    'residual-family(0.5,0.75)'
    """
    if not 0.0 <= alpha <= 1.0:
        raise InvalidValueError(f"`alpha` must be in [0, 1], got {alpha}")
    if not 0.5 <= beta <= 1.0:
        raise InvalidValueError(
            f"`beta` must be in [1/2, 1], got {beta}: below 1/2 the stream's noise grows with depth"
        )
    return Rule(
        name=f"residual-family({alpha:g},{beta:g})",
        keeps=f"initial noise ~ r^{0.5 - beta:g}, inner maps' learning ~ r^{beta - 1:g}",
        source="docs/theory.md, section 4",
        width=_MUP,
        depth=_family_row(alpha, beta),
    )


def _ratio(name: str, value: float) -> float:
    if isinstance(value, bool) or not isinstance(value, numbers.Real):
        raise InvalidTypeError(f"`{name}` must be a number (target / base), got {value!r}")
    if not (math.isfinite(value) and value > 0):
        raise InvalidValueError(f"`{name}` must be a positive, finite ratio target / base, got {value}")
    return float(value)


def _number(name: str, text: str) -> float:
    try:
        return float(text)
    except ValueError:
        raise InvalidValueError(f"`{name}` of residual-family(alpha,beta) must be a number, got {text!r}") from None
