"""Rescaling a model's own init to what a rule asks of it.

A rule says how the size of the initial entries follows from the base's. The model's code has its own law: entries
of a fixed size, or ~ 1/sqrt(fan_in), with or without a factor for depth. Which law it is can be measured, because
target and base were both drawn by it; the target's entries are then multiplied by an exact number, not by a noisy one.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

# Entries of a normal draw: the standard deviation of log(rms) is sqrt(1 / 2N); flatter laws have less.
_ALLOWED_DEVIATIONS = 5.0


@dataclass(frozen=True, kw_only=True)
class Rescaling:
    """By what a tensor's entries are multiplied, and how that was found.

    Attributes:
        scale: The factor.
        law: What the model's own init was found to follow, or how the factor came about.
    """

    scale: float
    law: str


def rescaling(
    *,
    factor: float,
    actual: float,
    base: float,
    entries: tuple[int, int],
    fan_in: float,
    fan_out: float,
    fans: tuple[float, float, float, float],
    depth: float,
) -> Rescaling:
    """The factor that takes the target's entries from their own law to base x factor.

    Args:
        factor: What the rule asks: target entries / base entries.
        actual, base: Root mean squares of the target's and the base's entries now.
        entries: Their numbers.
        fan_in, fan_out, depth: Ratios target / base.
        fans: fan_in and fan_out of the target, fan_in and fan_out of the base.
    """
    if actual == 0 or base == 0:
        return Rescaling(scale=1.0 if actual == base else factor * base / actual if actual else 1.0, law="zeros")
    seen = actual / base
    noise = math.sqrt(sum(1 / (2 * n) for n in entries))
    laws = _laws(factor, fan_in, fan_out, fans, depth)
    name, ratio = min(laws, key=lambda law: abs(math.log(seen / law[1])))
    if abs(math.log(seen / ratio)) <= _ALLOWED_DEVIATIONS * noise + 1e-6:
        return Rescaling(scale=factor / ratio, law=name)
    return Rescaling(scale=factor / seen, law="measured")


def _laws(
    factor: float, fan_in: float, fan_out: float, fans: tuple[float, float, float, float], depth: float
) -> list[tuple[str, float]]:
    """Target / base entries under each law that initialisers are known to follow."""
    a, b, a0, b0 = fans
    widths = [
        ("fixed size", 1.0),
        ("1/sqrt(fan_in)", fan_in**-0.5),
        ("1/sqrt(fan_out)", fan_out**-0.5),
        ("1/sqrt(fan_in + fan_out)", math.sqrt((a0 + b0) / (a + b))),
    ]
    deep = [(f"{name}, 1/sqrt(depth)", ratio * depth**-0.5) for name, ratio in widths] if depth != 1 else []
    return [*widths, *deep, ("already rescaled", factor)]


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
