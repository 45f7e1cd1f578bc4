"""Rules by measurement: how init and learning rates must follow a size, read off the network itself.

A rule of `isoscale.rules` knows width and depth. Any other size of the user's own (the rank of an adapter, the number
of experts, the size of a state), or an architecture that no rule was derived for, can be asked directly. At each size
one gradient and the optimizer's first step say, for every kind of tensor, how the value that it makes, what its step
changes in that, and what this changes in the loss grow. Powers of the size on init and learning rate that cancel this
growth are the rule:

    learning rate   the loss's change by each kind of tensor stays what it is at the base
    init            the value that each weight matrix makes at the start stays, over the size of its data
    gates           what all gradients pass through (the readout; a residual branch's end) starts so small that the
                    update before it stays, too

Powers act on each other, so they are measured again with what was found, until they stay. Known rules come out: muP for
the width, CompleteP for the depth (docs/measured-rules.md).
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from isoscale import checks
from isoscale.errors import PlanError, unknown
from isoscale.graph.anatomy import Roles
from isoscale.measure.tools.building import Factory
from isoscale.measure.tools.by_kind import ENTRIES, ENTRY_GRADIENT, Measured, arguments, measured
from isoscale.measure.tools.deviations import Cell, kinds_of
from isoscale.measure.tools.passes import LossFn
from isoscale.measure.tools.promises import GAIN, GRADIENT, LOSS, UPDATE
from isoscale.measure.tools.slopes import Slope, fit
from isoscale.measure.verify import cells_of
from isoscale.parametrization import Plan
from isoscale.parametrization.make_plan import settings
from isoscale.scaling.optimizers import FAMILIES
from isoscale.scaling.roles import Role
from isoscale.scaling.rules import Rule
from isoscale.scaling.tensor import TensorPlan
from isoscale.stats.summary import LEVEL

if TYPE_CHECKING:
    import pandas as pd

# The rule that changes nothing: what is measured are the factory's own networks.
UNCHANGED = Rule(
    name="measured",
    keeps="what the first step of each tensor does to its output and to the loss",
    source="isoscale.measure.exponents",
    width={},
    head_size=0.0,
)

# Rounds of measuring with what was found. Two give the powers of a network with norms; a residual stream without norms,
# whose size changes all others, takes more.
_ROUNDS = 5


@dataclass(frozen=True, kw_only=True)
class Powers:
    """Of one kind of tensor along one axis, relative to the base, as a plan's numbers are: every multiplier folded.

    Attributes:
        init: Power of the root mean square of its initial entries.
        lr: Power of its learning rate.
        eps: Power of the size of its gradient's entries.
        init_se, lr_se: Standard errors, from the scatter over sizes and seeds.
        update: Power that is left in what its step changes in its output: 0 where every condition can be met.
        freedom: Degrees of freedom of the errors.
    """

    init: float = 0.0
    lr: float = 0.0
    eps: float = 0.0
    init_se: float = math.nan
    lr_se: float = math.nan
    update: float = math.nan
    freedom: int = 0


@dataclass(frozen=True, kw_only=True)
class MeasuredRule:
    """What `exponents` found.

    Attributes:
        powers: axis -> kind of tensor -> its powers.
        base: The base's size of each axis.
        optimizer: The family that was measured.
    """

    powers: Mapping[str, Mapping[str, Powers]]
    base: Mapping[str, float]
    optimizer: str

    def table(self) -> pd.DataFrame:
        """A row for each kind and axis: kind, axis, init, lr, each with _low and _high (95 %), eps, update."""
        import pandas as pd

        rows = []
        for axis, by_kind in self.powers.items():
            for kind, powers in by_kind.items():
                row: dict[str, Any] = {"kind": kind, "axis": axis}
                for name, power, se in (("init", powers.init, powers.init_se), ("lr", powers.lr, powers.lr_se)):
                    low, high = Slope(exponent=power, se=se, freedom=powers.freedom).interval(LEVEL)
                    row |= {name: power, f"{name}_low": low, f"{name}_high": high}
                rows.append(row | {"eps": powers.eps, "update": powers.update})
        return pd.DataFrame(rows)

    def _repr_html_(self) -> str:
        return self.table().to_html(index=False, escape=True, float_format="{:.2f}".format)

    def at(self, **sizes: float) -> dict[str, Powers]:
        """The factors at some sizes, by kind of tensor: powers of each ratio size / base, multiplied.

        Returns:
            `Powers` whose init, lr and eps are factors.

        Raises:
            InvalidValueError: An axis that was not measured; a size that is not positive.
        """
        total: dict[str, Powers] = {}
        for axis, size in sizes.items():
            if axis not in self.powers:
                raise unknown("measured axis", axis, self.powers)
            ratio = checks.number(axis, size, above=0) / self.base[axis]
            for kind, powers in self.powers[axis].items():
                before = total.get(kind, Powers(init=1.0, lr=1.0, eps=1.0))
                total[kind] = replace(
                    before,
                    init=before.init * ratio**powers.init,
                    lr=before.lr * ratio**powers.lr,
                    eps=before.eps * ratio**powers.eps,
                )
        return total


def exponents(
    make_model: Factory,
    batch: Any,
    *,
    sizes: Mapping[str, Sequence[Any]],
    loss_fn: LossFn | None = None,
    optimizer: str | type = "adamw",
    lr: float = 1e-3,
    eps: float = 1e-8,
    roles: Roles | str | None = None,
    seeds: int | Sequence[int] = 3,
) -> MeasuredRule:
    """Measure how init and learning rate of each kind of tensor must follow each size.

    Args:
        make_model: Called with sizes as keyword arguments, and with `seed` if it takes one.
        batch: Arguments of the forward pass with numbers, as for `verify`.
        sizes: For each size that grows its values, the base's first: {"rank": [4, 8, 16, 32]}. Three or more tell.
        loss_fn: loss_fn(model(x), y) is the loss; None: the output is pushed in a fixed random direction.
        optimizer, lr, eps, roles: As for `isoscale.parametrize`. Roles say only which tensors are gates: the readout,
            and the ends of residual branches.
        seeds: How many (0, 1, ...) or which.

    Returns:
        `MeasuredRule`, for `isoscale.parametrize(model, base, rule="measured", measured=found.at(rank=64))`.

    Raises:
        InvalidValueError, InvalidTypeError, PlanError, TraceError: As `verify`.

    >>> import torch
    >>> from isoscale.models import ResidualMLP
    >>> make = lambda width, seed: ResidualMLP(4, 2, width=width, depth=2, seed=seed)
    >>> x = torch.randn(4, 4, generator=torch.Generator().manual_seed(0))
    >>> found = exponents(make, x, sizes={"width": [32, 64, 128]})
    >>> round(found.powers["width"]["blocks.*.maps.0.weight"].lr)
    -1
    """
    made = settings(optimizer, lr, eps=eps)
    cells = cells_of(
        make_model,
        arguments(batch, loss_fn),
        sizes=sizes,
        rule=UNCHANGED,
        made=made,
        roles=roles,
        seeds=checks.seeds(seeds),
    )
    kinds = kinds_of([cell.plan for cell in cells])
    powers: dict[str, dict[str, Powers]] = {}
    base: dict[str, float] = {}
    for axis in dict.fromkeys(cell.axis for cell in cells):
        along = [cell for cell in cells if cell.axis == axis]
        base[axis] = _base_of(axis, sizes[axis][0])
        powers[axis] = powers_along(along, kinds, batch, loss_fn)
    return MeasuredRule(powers=powers, base=base, optimizer=made.optimizer)


def powers_along(
    cells: Sequence[Cell], kinds: Mapping[str, str], batch: Any, loss_fn: LossFn | None
) -> dict[str, Powers]:
    """The powers of each kind of tensor, from networks along one axis."""
    return _Axis(cells, kinds, batch, loss_fn).solved()


def _base_of(axis: str, value: Any) -> float:
    """The base's size: of several keyword arguments that of the axis's name, or 1, so that ratios are given."""
    if isinstance(value, Mapping):
        value = value.get(axis, 1.0)
    return float(value)


class _Axis:
    """The networks along one axis, and the powers that are found in turn."""

    def __init__(self, cells: Sequence[Cell], kinds: Mapping[str, str], batch: Any, loss_fn: LossFn | None) -> None:
        self.cells = cells
        self.kinds = kinds
        self.batch = batch
        self.loss_fn = loss_fn
        self.entries = {kinds[entry.name]: entry for cell in cells for entry in cell.plan.entries}
        self.in_depth = any(cell.growth.get("depth", 1.0) != 1 for cell in cells)

    def solved(self) -> dict[str, Powers]:
        powers = self._own_law()
        for _ in range(_ROUNDS):
            slopes = self._slopes(powers)
            powers = self._corrected(powers, slopes)
        slopes = self._slopes(powers)
        found: dict[str, Powers] = {}
        for kind, power in powers.items():
            loss, update = slopes[LOSS].get(kind), slopes[UPDATE].get(kind)
            gain, entry = slopes[GAIN].get(kind), slopes[ENTRY_GRADIENT].get(kind)
            found[kind] = replace(
                power,
                eps=entry.exponent if entry else 0.0,
                init_se=gain.se if gain else math.nan,
                lr_se=loss.se if loss else math.nan,
                update=update.exponent if update else math.nan,
                freedom=loss.freedom if loss else 0,
            )
        return found

    def _own_law(self) -> dict[str, Powers]:
        """How the factory's own init follows the size, from which the search begins."""
        seen = [(cell, self._measure(cell, None)) for cell in self.cells]
        entries = self._fitted(seen, ENTRIES)
        return {kind: Powers(init=entries[kind].exponent if kind in entries else 0.0) for kind in self.entries}

    def _slopes(self, powers: Mapping[str, Powers]) -> dict[str, dict[str, Slope]]:
        """quantity -> kind -> its power over the sizes, with these powers on init and learning rate."""
        seen = []
        for cell in self.cells:
            at = {kind: _at(power, cell.size) for kind, power in powers.items()}
            seen.append((cell, self._measure(cell, at)))
        quantities = (GAIN, UPDATE, LOSS, GRADIENT, ENTRY_GRADIENT)
        return {quantity: self._fitted(seen, quantity) for quantity in quantities}

    def _measure(self, cell: Cell, factors: Mapping[str, Powers] | None) -> Measured:
        """One network with these factors; None: as the factory makes it."""
        if factors is None:
            return measured(cell.build(), cell.plan, self.kinds, self.batch, self.loss_fn, cell.seed)
        plan = with_factors(cell.plan, factors, self.kinds)
        model = cell.build()
        plan.apply(model)
        return measured(model, plan, self.kinds, self.batch, self.loss_fn, cell.seed)

    def _fitted(self, seen: Sequence[tuple[Cell, Measured]], quantity: str) -> dict[str, Slope]:
        sizes = sorted({cell.size for cell, _ in seen})
        seeds = sorted({cell.seed for cell, _ in seen})
        at = {(cell.size, cell.seed): found.values[quantity] for cell, found in seen}
        slopes: dict[str, Slope] = {}
        for kind in self.entries:
            rows = [[at[size, seed].get(kind, math.nan) for seed in seeds] for size in sizes]
            values = np.array(rows)
            # What gets no gradient, or is zero, has no power.
            if np.isfinite(values).all() and (values > 0).all():
                slopes[kind] = fit(sizes, values)
        return slopes

    def _corrected(self, powers: Mapping[str, Powers], slopes: Mapping[str, Mapping[str, Slope]]) -> dict[str, Powers]:
        """The powers after one more round."""
        gates = self._gates()
        through = self._through(gates, slopes)
        found: dict[str, Powers] = {}
        for kind, power in powers.items():
            gain, loss = slopes[GAIN].get(kind), slopes[LOSS].get(kind)
            init, lr = power.init, power.lr
            if kind in gates:
                init -= through
            elif gain is not None and self.entries[kind].role.decays:
                init -= gain.exponent
            if loss is not None:
                lr -= loss.exponent
            found[kind] = replace(power, init=init, lr=lr)
        return found

    def _gates(self) -> set[str]:
        """What the gradients of all else pass through: in depth the ends of the branches, else the readout."""
        trained = {kind: entry for kind, entry in self.entries.items() if not entry.frozen}
        if self.in_depth:
            return {kind for kind, entry in trained.items() if entry.carries}
        return {kind for kind, entry in trained.items() if entry.role is Role.OUTPUT}

    def _through(self, gates: set[str], slopes: Mapping[str, Mapping[str, Slope]]) -> float:
        """The power of the gradient that the gates let pass."""
        behind = []
        for kind, slope in slopes[GRADIENT].items():
            entry = self.entries[kind]
            # In depth, of what lies inside the branches.
            if kind not in gates and entry.role.decays and (entry.role.in_branch or not self.in_depth):
                behind.append(slope.exponent)
        return float(np.median(behind)) if behind and gates else 0.0


def matched(names: Sequence[str], kinds: Sequence[str]) -> dict[str, str]:
    """The measured kind of each tensor, by name: the indices that were open when it was measured may be any.

    Raises:
        PlanError: A tensor that was not measured.

    >>> matched(["experts.7.weight"], ["experts.*.weight"])
    {'experts.7.weight': 'experts.*.weight'}
    """
    found: dict[str, str] = {}
    for name in names:
        steps = name.split(".")
        for kind in kinds:
            pattern = kind.split(".")
            if len(pattern) == len(steps) and all(map(_fits, steps, pattern)):
                found[name] = kind
        if name not in found:
            raise PlanError(f"`{name}` is of no kind that was measured; measured were {', '.join(kinds)}")
    return found


def _fits(step: str, pattern: str) -> bool:
    return step == pattern or (pattern == "*" and step.isdecimal())


def _at(power: Powers, ratio: float) -> Powers:
    return replace(power, init=ratio**power.init, lr=ratio**power.lr, eps=ratio**power.eps)


def with_factors(plan: Plan, factors: Mapping[str, Powers], kinds: Mapping[str, str]) -> Plan:
    """A plan with other factors on init, learning rate and eps, by kind of tensor; lr x weight_decay stays."""
    entries: list[TensorPlan] = []
    for entry in plan.entries:
        found = factors.get(kinds[entry.name])
        if found is None or entry.frozen:
            entries.append(entry)
            continue
        row = FAMILIES[entry.optimizer]
        decay = entry.weight_decay
        if row.keeps_lr_times_decay and plan.settings.decay == "independent":
            decay /= found.lr
        entries.append(
            replace(
                entry,
                init=found.init,
                lr=entry.lr * found.lr,
                weight_decay=decay,
                eps=None if entry.eps is None else entry.eps * found.eps,
                reason=f"measured: init x{found.init:.3g}, lr x{found.lr:.3g}",
            )
        )
    return replace(plan, entries=tuple(entries))
