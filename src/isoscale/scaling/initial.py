"""Rescaling a model's own init to what a rule asks of it.

A rule says how the size of the initial entries follows from the base's. The model's code has its own law: entries
of a fixed size, or ~ 1/sqrt(fan_in), with or without a factor for depth. Which law it is can be measured, because
target and base were both drawn by it; the target's entries are then multiplied by an exact number, not by a noisy one.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

# In squared standard deviations. Entries of a normal draw: that of log(rms) is sqrt(1 / 2N); flatter laws have less.
_ALLOWED = 25.0
_INDISTINCT = 16.0


@dataclass(frozen=True, kw_only=True)
class Rescaling:
    """By what a tensor's entries are multiplied, and how that was found.

    Attributes:
        scale: The factor.
        law: What the model's own init was found to follow, or how the factor came about.
    """

    scale: float
    law: str


@dataclass(frozen=True, kw_only=True)
class Drawn:
    """One tensor's entries as they were drawn, and what a rule asks of them.

    Attributes:
        factor: What the rule asks: target entries / base entries.
        actual, base: Root mean squares of the target's and the base's entries now.
        entries: Their numbers.
        fan_in, fan_out, depth: Ratios target / base.
        fans: fan_in and fan_out of the target, fan_in and fan_out of the base.
    """

    factor: float
    actual: float
    base: float
    entries: tuple[int, int]
    fan_in: float
    fan_out: float
    fans: tuple[float, float, float, float]
    depth: float

    def rescaling(self, likely: Sequence[str] = ()) -> Rescaling:
        """The factor that takes the target's entries from their own law to base x factor.

        Args:
            likely: Laws by how well they explain the whole model. A small tensor's entries agree with several laws
                within their noise: the first of these is taken. Constant entries agree exactly with their own.
        """
        if self.actual == 0 or self.base == 0:
            scale = self.factor * self.base / self.actual if self.actual else 1.0
            return Rescaling(scale=1.0 if self.actual == self.base else scale, law="zeros")
        laws, misfits = self._laws(), self.misfits()
        best = min(misfits.values())
        allowed = min(best + _INDISTINCT, _ALLOWED) if best else 0.0
        for name in [*likely, *sorted(laws, key=misfits.__getitem__)]:
            if misfits.get(name, math.inf) <= allowed:
                return Rescaling(scale=self.factor / laws[name], law=name)
        return Rescaling(scale=self.factor * self.base / self.actual, law="measured")

    def misfits(self) -> dict[str, float]:
        """Of each law the squared deviation of the entries' size from it, in units of its sampling variance."""
        if self.actual == 0 or self.base == 0:
            return {}
        seen = self.actual / self.base
        # A single number is no draw, but a constant of the model's code, such as 1 / depth.
        variance = sum(1 / (2 * n) for n in self.entries if n > 1)
        misses = {name: max(0.0, abs(math.log(seen / ratio)) - 1e-6) for name, ratio in self._laws().items()}
        return {name: _squared(miss, variance) for name, miss in misses.items()}

    def _laws(self) -> dict[str, float]:
        """Target / base entries under each law that initialisers are known to follow."""
        a, b, a0, b0 = self.fans
        widths = {"1/sqrt(fan_in)": self.fan_in**-0.5, "fixed size": 1.0, "1/sqrt(fan_out)": self.fan_out**-0.5}
        if a > 1 or a0 > 1:
            widths["1/sqrt(fan_in + fan_out)"] = math.sqrt((a0 + b0) / (a + b))
        deep = {f"{name}, 1/sqrt(depth)": ratio * self.depth**-0.5 for name, ratio in widths.items()}
        return widths | (deep if self.depth != 1 else {}) | {"already rescaled": self.factor}


def _squared(miss: float, variance: float) -> float:
    """A deviation squared, in units of its variance."""
    if variance == 0:
        return math.inf if miss else 0.0
    return miss**2 / variance


def likely_laws(tensors: Iterable[Drawn]) -> list[str]:
    """Laws by how well they explain the tensors; what one excludes by far counts no more than what one excludes.

    Laws that explain them about equally well stand in the order of how common they are: which of them fits best is
    noise, and must not make a difference between two draws of one model.
    """
    totals: dict[str, float] = {}
    for drawn in tensors:
        misfits = drawn.misfits()
        if 0.0 in misfits.values():  # constant entries say nothing about what is drawn
            continue
        for name, misfit in misfits.items():
            totals[name] = totals.get(name, 0.0) + min(misfit, _ALLOWED)
    best = min(totals.values(), default=0.0)
    # Dictionaries keep their order, in which `_laws` names the more common ones first.
    common = [name for name, total in totals.items() if total <= best + _INDISTINCT]
    others = [name for name, total in totals.items() if total > best + _INDISTINCT]
    return common + sorted(others, key=totals.__getitem__)


def assumed_law(kinds: Sequence[Sequence[tuple[float, float]]]) -> str:
    """Which law a model without a measured base follows: "fixed size" or "1/sqrt(fan_in)".

    Args:
        kinds: (fan_in, root mean square) of its maps, those that are initialised alike together.

    >>> assumed_law([[(64, 0.02), (256, 0.02)]])
    'fixed size'
    """
    logs = [[(math.log(fan_in), math.log(size)) for fan_in, size in kind if size > 0] for kind in kinds]
    fixed = sum(_spread([size for _, size in kind]) for kind in logs)
    scaled = sum(_spread([size + 0.5 * fan_in for fan_in, size in kind]) for kind in logs)
    return "fixed size" if fixed < scaled else "1/sqrt(fan_in)"


def _spread(values: Sequence[float]) -> float:
    return sum(abs(value - sum(values) / len(values)) for value in values)


def without_base(factor: float, law: str, fan_in: float) -> Rescaling:
    """The factor if the base's numbers are unknown and the model follows `law`."""
    own = fan_in**-0.5 if law == "1/sqrt(fan_in)" else 1.0
    return Rescaling(scale=factor / own, law=f"{law} (assumed: the base has no numbers)")
