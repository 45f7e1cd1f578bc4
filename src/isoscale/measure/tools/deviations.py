"""Powers of the size that a plan's first step shows, held to what its rule promises.

A tensor's own numbers show in its gain and its action. What those do to others, upstream and downstream, is told only
where no tensor's own numbers explain it.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np
from torch import nn

from isoscale.measure.tools.by_kind import Measured
from isoscale.measure.tools.promises import (
    ACTION,
    GAIN,
    GRADIENT,
    QUANTITIES,
    START,
    UPDATE,
    promised,
    promises_depth,
)
from isoscale.measure.tools.slopes import Slope, fit
from isoscale.parametrization import Plan
from isoscale.scaling.roles import Role
from isoscale.scaling.tensor import TensorPlan, decide
from isoscale.stats.least_squares import normal_quantile, t_quantile
from isoscale.stats.summary import LEVEL

if TYPE_CHECKING:
    import pandas as pd
    import xarray as xr


@dataclass(frozen=True)
class Cell:
    """One network to measure.

    Attributes:
        axis: The size that differs from the base's, as the user calls it.
        size: How large it is, relative to the base.
        growth: Ratios by which the rule's promise grows: {"width": 4.0, "depth": 1.0}.
        seed: Of the draw.
        build: Makes the network as its own code draws it.
        plan: Its plan.
    """

    axis: str
    size: float
    growth: Mapping[str, float]
    seed: int
    build: Callable[[], nn.Module]
    plan: Plan


@dataclass(frozen=True, kw_only=True)
class Thresholds:
    """When a measured power is not the promised one.

    Attributes:
        tolerance: Of the powers; finite width and depth alone make up to 0.3 of them.
        fades: Of powers that are too small: a part of a network whose gradient is a sum of random signs at the start
            (a router, a map onto a few tokens) begins to learn late, whatever its plan.
        finite: What finite width and depth are granted beside chance.
        level: Of the interval that chance explains.
    """

    tolerance: float = 0.35
    fades: float = 0.4
    finite: float = 0.15
    level: float = 0.99


def parameters_of(plan: Plan) -> int:
    return sum(math.prod(entry.shape) for entry in plan.entries)


def kinds_of(plans: Sequence[Plan]) -> dict[str, str]:
    """The kind of each tensor by name: its name, with the index of every module open that not all sizes have."""
    children: dict[str, list[set[str]]] = {}
    for plan in plans:
        of_plan: dict[str, set[str]] = {}
        for entry in plan.entries:
            steps = entry.name.split(".")
            for at, step in enumerate(steps[:-1]):
                of_plan.setdefault(".".join(steps[:at]), set()).add(step)
        for path, below in of_plan.items():
            children.setdefault(path, []).append(below)
    varying = {path for path, sets in children.items() if any(below != sets[0] for below in sets)}
    kinds: dict[str, str] = {}
    for plan in plans:
        for entry in plan.entries:
            steps = entry.name.split(".")
            opened = entry.kind.split(".")
            for at, step in enumerate(steps[:-1]):
                if step.isdecimal() and ".".join(steps[:at]) in varying:
                    opened[at] = "*"
            kinds[entry.name] = ".".join(opened)
    return kinds


# --- the verdict ---
STAYS = "as promised"
_BEFORE = "before"
_SYMBOLS = {"width": "n", "depth": "L"}
# What a tensor's own numbers decide, and what follows for others.
_OWN = (GAIN, ACTION)
_FOLLOWING = (START, GRADIENT)
_EFFECTS = {
    GAIN: "its output at the start",
    ACTION: "what its step changes in its output",
    START: "its output at the start",
    GRADIENT: "what its output does to the loss",
    _BEFORE: "what comes before it changes the loss, and that",
}


@dataclass(frozen=True)
class _Power:
    """One quantity of one kind along one axis."""

    kind: str
    quantity: str
    axis: str
    slope: Slope
    last: float
    promised: float
    usual: float = 0.0

    @property
    def off(self) -> float:
        return self.slope.exponent - self.promised

    def interval(self, level: float = LEVEL) -> tuple[float, float]:
        """By its own error, and no narrower than the error that is usual for the quantity makes it.

        A few seeds may scatter little by chance. With very few of them, Student's law would tell nothing at all: its
        quantile is bounded.
        """
        by_own = min(t_quantile(self.slope.freedom, level), _LARGEST_QUANTILE) * self.slope.se
        by_usual = normal_quantile(level) * self.usual
        half = max(by_own, by_usual)
        return self.slope.exponent - half, self.slope.exponent + half


_LARGEST_QUANTILE = 5.0


def _with_usual_errors(powers: Sequence[_Power]) -> Iterator[_Power]:
    """The powers, each with the median error of its quantity over all kinds of tensor."""
    errors: dict[tuple[str, str], list[float]] = {}
    for power in powers:
        errors.setdefault((power.quantity, power.axis), []).append(power.slope.se)
    for power in powers:
        usual = float(np.median(errors[power.quantity, power.axis]))
        yield replace(power, usual=usual)


class Deviations:
    """What was measured, by kind, quantity and axis."""

    def __init__(
        self, found: Sequence[tuple[Cell, Measured]], names: Mapping[str, str], thresholds: Thresholds
    ) -> None:
        self.found = found
        self.thresholds = thresholds
        largest = max(found, key=lambda pair: parameters_of(pair[0].plan))
        self.order = list(largest[1].order)
        self.entries: dict[str, TensorPlan] = {}
        for cell, _ in found:
            for entry in cell.plan.entries:
                self.entries.setdefault(names[entry.name], entry)
        # Of the largest network: what a message shows.
        self.scaling = largest[0].plan.scaling
        self.shown = {names[entry.name]: entry for entry in largest[0].plan.entries}
        self.names = names
        self.axes = list(dict.fromkeys(cell.axis for cell, _ in found))
        self.readout = self._readout()
        self.opened = any(seen.opened for _, seen in found)
        self.tied = any(entry.tied for entry in self.entries.values())
        self.powers = list(_with_usual_errors(list(self._powers())))
        self.steps_grow = any(power.promised > 0 for power in self.powers if power.quantity == UPDATE)

    def _readout(self) -> str | None:
        """The last weight matrix, if it ends in an output of one shape at every size."""
        if len({measured.outputs for _, measured in self.found}) > 1:
            return None
        matrices = [kind for kind in self.order if self.entries[kind].role.decays]
        return matrices[-1] if matrices else None

    def _powers(self) -> Iterator[_Power]:
        for axis in self.axes:
            pairs = [(cell, values) for cell, values in self.found if cell.axis == axis]
            seeds = sorted({cell.seed for cell, _ in pairs})
            counts = Counter(cell.size for cell, _ in pairs)
            # A size that the time limit cut short is left out.
            sizes = sorted(size for size, count in counts.items() if count == len(seeds))
            if len(sizes) < 2:
                continue
            largest = next(cell for cell, _ in pairs if cell.size == sizes[-1])
            entries = {self.names[entry.name]: entry for entry in largest.plan.entries}
            growth = largest.growth
            if growth.get("depth", 1.0) != 1 and not promises_depth(self.scaling.rule):
                continue
            at = {(cell.size, cell.seed): values for cell, values in pairs}
            for kind in self.order:
                for quantity in QUANTITIES:
                    values = np.array(
                        [[at[size, seed].values[quantity].get(kind, math.nan) for seed in seeds] for size in sizes]
                    )
                    if not (np.isfinite(values).all() and (values > 0).all()):
                        continue
                    yield _Power(
                        kind=kind,
                        quantity=quantity,
                        axis=axis,
                        slope=fit(sizes, values),
                        last=fit(sizes[-2:], values[-2:]).exponent,
                        promised=self._promise(entries.get(kind, self.entries[kind]), growth)[quantity],
                    )

    def _promise(self, entry: TensorPlan, growth: Mapping[str, float], role: Role | None = None) -> dict[str, float]:
        """The powers that the rule promises of what grows most, where several sizes may grow at once."""
        role = role or entry.role
        total = dict.fromkeys(QUANTITIES, 0.0)
        scale = math.log(max(growth.values()))
        for axis, ratio in growth.items():
            powers = promised(self.scaling.rule, entry, role, axis, tied=self.tied)
            for quantity, power in powers.items():
                total[quantity] += power * math.log(ratio) / scale
        return total

    def _is_told(self, power: _Power) -> bool:
        """Whether a power of a tensor's own can be judged."""
        # The few numbers that a readout makes say little of it; what they do to all that comes before says more.
        if power.kind == self.readout and power.quantity in (GAIN, START):
            return False
        # A tensor that is the embedding and the readout at once has two promises.
        if self.entries[power.kind].tied and power.quantity != GRADIENT:
            return False
        return power.quantity in _EFFECTS

    # --- what deviates ---
    def deviates(self, power: _Power) -> bool:
        """Whether a power is further from its promise than chance and finite size explain."""
        if not self._is_told(power):
            return False
        # Gates that were opened are as large as their own step, which a rule may let grow: then so does all that
        # passes them.
        if power.quantity != ACTION and self.opened and self.steps_grow:
            return False
        # What fades by the work of others is how parts begin whose signals have random signs.
        if power.quantity in _FOLLOWING and power.off < 0:
            return False
        allowed = self.thresholds.tolerance if power.off > 0 else self.thresholds.fades
        sign = math.copysign(1, power.off)
        if sign * power.off <= allowed or sign * (power.last - power.promised) <= allowed:
            return False
        low, high = power.interval(self.thresholds.level)
        # Without points to spare nothing is known of the error, and no comparison holds.
        return power.promised < low - self.thresholds.finite or power.promised > high + self.thresholds.finite

    def open_items(self) -> Iterator[str]:
        """Each tensor whose own numbers deviate; what follows from it downstream and upstream is not repeated."""
        for axis in self.axes:
            off = [power for power in self.powers if power.axis == axis and self.deviates(power)]
            own = [power for power in off if power.quantity in _OWN]
            following = [power for power in off if power.quantity in _FOLLOWING]
            kinds = sorted({power.kind for power in own}, key=self.order.index)
            for kind in kinds:
                yield self._item([power for power in own if power.kind == kind])
            if not own and following:
                yield self._from_what_follows(following)

    def _from_what_follows(self, powers: Sequence[_Power]) -> str:
        """An item where no tensor's own numbers show a cause."""
        axis = powers[0].axis
        worst = max(powers, key=lambda power: abs(power.off))
        kinds = {power.kind for power in powers}
        also = f" (and {len(kinds) - 1} other kinds of tensor)" if len(kinds) > 1 else ""
        # In depth a gradient grows with the number of tensors that are no branches': they are the cause themselves. In
        # width one that is too large comes from what follows: the first weight matrix behind all that feel it.
        in_depth = any(cell.growth.get("depth", 1.0) != 1 for cell, _ in self.found if cell.axis == axis)
        if in_depth or any(power.quantity != GRADIENT for power in powers):
            return self._item([worst]) + also
        last = max(self.order.index(kind) for kind in kinds)
        behind = [kind for kind in self.order[last + 1 :] if self.entries[kind].role.decays]
        if not behind:
            return self._item([worst]) + also
        words = f"`{behind[0]}`: {self._in_words(replace(worst, quantity=_BEFORE))} (as `{worst.kind}`{also})"
        return words + self._assumed(behind[0], axis, worst)

    def _item(self, powers: Sequence[_Power]) -> str:
        kind, axis = powers[0].kind, powers[0].axis
        parts = [self._in_words(power) for power in powers]
        return f"`{kind}`: {' and '.join(parts)}" + self._assumed(kind, axis, None)

    def _assumed(self, kind: str, axis: str, gradient: _Power | None) -> str:
        """The role that a tensor was taken for, and the one that would explain what is seen."""
        words = f". Taken as {self._taken(self.shown.get(kind, self.entries[kind]))}"
        better = self._better(kind, axis, gradient)
        if better is not None:
            words += f"; as {better} it would be flat: roles={{{kind!r}: {str(better)!r}}}"
        return words

    def _in_words(self, power: _Power) -> str:
        low, high = power.interval()
        symbol = self._symbol(power.axis)
        how = "grows" if power.slope.exponent > 0 else "fades"
        return (
            f"{_EFFECTS[power.quantity]} {how} like {symbol}^{power.slope.exponent:.2f} [{low:.2f}, {high:.2f}] "
            f"where {self.scaling.rule.name} promises {symbol}^{power.promised:g}"
        )

    def _symbol(self, axis: str) -> str:
        return _SYMBOLS.get(axis, axis)

    def _taken(self, entry: TensorPlan) -> str:
        role = str(entry.role).replace("_", " ")
        place = f", {entry.place}" if entry.place else ""
        base = " x ".join(map(str, entry.base_shape))
        shape = " x ".join(map(str, entry.shape))
        return f"{role}{place} ({base} -> {shape})"

    def _better(self, kind: str, axis: str, gradient: _Power | None) -> Role | None:
        """The role under which every power of a kind would be as that role promises.

        Args:
            kind, axis: Of the tensor.
            gradient: What deviates before it, where its own powers do not.
        """
        cell = max((cell for cell, _ in self.found if cell.axis == axis), key=lambda cell: cell.size)
        own = [entry for entry in cell.plan.entries if self.names[entry.name] == kind]
        powers = {power.quantity: power for power in self.powers if power.kind == kind and power.axis == axis}
        for role in self._candidates(own[0]) if own else ():
            tried = decide(replace(own[0], role=role, given=True), cell.plan.scaling, cell.plan.settings)
            scale = math.log(cell.size)
            shifts = {GAIN: math.log(tried.init / own[0].init) / scale}
            # Learning rates of different optimizers cannot be compared.
            if tried.optimizer == own[0].optimizer:
                shifts[ACTION] = math.log(tried.lr / own[0].lr) / scale
            promise = self._promise(own[0], cell.growth, role)
            left: list[float] = []
            for quantity, shift in shifts.items():
                # The few numbers of an output are too noisy to tell; what comes before it tells more.
                if quantity in powers and not (quantity == GAIN and gradient is not None):
                    left.append(powers[quantity].slope.exponent + shift - promise[quantity])
            if gradient is not None:
                left.append(gradient.off + shifts[GAIN])
            # Vectors do alike wherever they are: what becomes of it tells on what they act.
            elif not role.decays and GRADIENT in powers:
                left.append(powers[GRADIENT].slope.exponent - promise[GRADIENT])
            changes = any(abs(shift) > self.thresholds.tolerance for shift in shifts.values())
            if changes and all(abs(value) <= self.thresholds.tolerance for value in left):
                return role
        return None

    def _candidates(self, entry: TensorPlan) -> list[Role]:
        """The roles that a tensor of its kind may have, its own left out; the likelier first."""
        onto_fixed_size = entry.fan_in != 1 and entry.fan_out == 1

        def unlikely(role: Role) -> int:
            return ((role is Role.BRANCH_LAST) != entry.carries) + ((role is Role.OUTPUT) != onto_fixed_size)

        roles = [role for role in Role if role is not entry.role and role.decays == entry.role.decays]
        return sorted(roles, key=unlikely)

    # --- as data ---
    def notes(self) -> Iterator[str]:
        missed = {kind: why for _, measured in self.found for kind, why in measured.missed.items()}
        for kind, why in missed.items():
            yield f"`{kind}`: what its step does could not be followed ({why})"
        told = {power.kind for power in self.powers if power.quantity == ACTION}
        untold = [kind for kind in self.entries if kind not in told and not self.entries[kind].frozen]
        if untold and self.powers:
            shown = ", ".join(f"`{kind}`" for kind in untold[:3]) + (", ..." if len(untold) > 3 else "")
            yield f"no gradient reaches {len(untold)} kinds of tensor at the start ({shown}): not verified"
        for axis in self.axes:
            if not any(power.axis == axis for power in self.powers):
                yield f"{self.scaling.rule.name} promises nothing along {axis}: not verified"

    def frame(self) -> pd.DataFrame:
        import pandas as pd

        rows = []
        for power in self.powers:
            low, high = power.interval()
            verdict = STAYS
            if self.deviates(power):
                verdict = "grows" if power.off > 0 else "fades"
            rows.append(
                {
                    "kind": power.kind,
                    "role": str(self.entries[power.kind].role),
                    "quantity": power.quantity,
                    "axis": power.axis,
                    "exponent": power.slope.exponent,
                    "low": low,
                    "high": high,
                    "promised": power.promised,
                    "verdict": verdict,
                }
            )
        columns = ["kind", "role", "quantity", "axis", "exponent", "low", "high", "promised", "verdict"]
        return pd.DataFrame(rows, columns=columns)

    def dataset(self) -> xr.Dataset:
        import xarray as xr

        kinds = list(self.order)
        data = {}
        for quantity in QUANTITIES:
            values = [[seen.values[quantity].get(kind, math.nan) for _, seen in self.found] for kind in kinds]
            data[quantity] = (("kind", "network"), np.array(values), {"units": "1"})
        return xr.Dataset(
            data,
            coords={
                "kind": kinds,
                "axis": ("network", [cell.axis for cell, _ in self.found]),
                "size": ("network", [cell.size for cell, _ in self.found]),
                "seed": ("network", [cell.seed for cell, _ in self.found]),
            },
        )
