"""Conditions on measured quantities, the same for all claims: an exponent is the claimed one, a number is in a range.

An exponent "is" the claimed one if its 95 % interval comes within 0.1 of it (finite sizes bend a power law by about
that much) and excludes every rival: the other multiples of 1/2 from -2 to 1 that theories and protocols lead to. It is
not if the interval stays further away. Between the two nothing is decided.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

from isoscale.reproduce.claim import Part
from isoscale.reproduce.measured import Quantity

if TYPE_CHECKING:
    import xarray as xr

TOLERANCE = 0.1
# More seeds than that many times are no answer.
_MOST_SEEDS = 30
RIVALS = (-2.0, -1.5, -1.0, -0.5, 0.0, 0.5, 1.0)


def quantity(data: xr.Dataset, name: str) -> Quantity:
    """A quantity of a claim's data set; NaN if it was not measured."""
    if name not in data["quantity"].values:
        return Quantity(math.nan, math.nan, math.nan)
    of = data.sel(quantity=name)
    return Quantity(float(of["value"]), float(of["low"]), float(of["high"]))


def named(data: xr.Dataset, start: str) -> list[str]:
    """The quantities whose name begins so."""
    return [name for name in data["quantity"].values.tolist() if name.startswith(start)]


def exponent(data: xr.Dataset, name: str, claimed: float, rivals: Sequence[float] = RIVALS) -> Part:
    """Whether an exponent is the claimed one.

    >>> import numpy as np, xarray as xr
    >>> def of(value, low, high):
    ...     columns = {"value": [value], "low": [low], "high": [high]}
    ...     variables = {key: ("quantity", np.array(column)) for key, column in columns.items()}
    ...     return xr.Dataset(variables, {"quantity": ["law"]})
    >>> exponent(of(-1.45, -1.6, -1.3), "law", -1.5).holds, exponent(of(-1.2, -1.3, -1.1), "law", -1.5).holds
    (True, False)
    >>> exponent(of(-1.3, -1.7, -0.9), "law", -1.5).why
    '-1.30 [-1.70, -0.90], claimed -1.5, not told from -1 (2 times the seeds would tell); excluded: -2, -0.5, 0, 0.5, 1'
    """
    found = quantity(data, name)
    if not math.isfinite(found.low) or not math.isfinite(found.high):
        return Part(name, None, "too few points for an interval")
    others = [rival for rival in rivals if rival != claimed]
    inside = [rival for rival in others if found.low <= rival <= found.high]
    outside = [rival for rival in others if rival not in inside]
    is_near = found.low <= claimed + TOLERANCE and found.high >= claimed - TOLERANCE
    why = f"{_words(found)}, claimed {claimed:g}"
    if inside:
        why += f", not told from {_listed(inside)} ({_would_tell(found, inside)})"
    if outside:
        why += f"; excluded: {_listed(outside)}"
    if not is_near:
        return Part(name, False, why)
    return Part(name, None if inside else True, why)


def within(data: xr.Dataset, name: str, low: float = -math.inf, high: float = math.inf) -> Part:
    """Whether a quantity's whole interval lies in a range; open where it straddles an end of it."""
    found = quantity(data, name)
    if not math.isfinite(found.low) or not math.isfinite(found.high):
        return Part(name, None, "no interval")
    why = f"{_words(found)}, claimed {_range(low, high)}"
    if low <= found.low and found.high <= high:
        return Part(name, True, why)
    if found.high < low or found.low > high:
        return Part(name, False, why)
    return Part(name, None, why)


def _would_tell(found: Quantity, rivals: Sequence[float]) -> str:
    """What would shrink the interval until it excludes the nearest rival: it goes like seeds^-1/2."""
    nearest = min(abs(found.value - rival) for rival in rivals)
    half = (found.high - found.low) / 2
    if nearest * _MOST_SEEDS**0.5 < half:
        return "only a longer range of sizes would tell"
    return f"{math.ceil((half / nearest) ** 2)} times the seeds would tell"


def _words(found: Quantity) -> str:
    form = ".2f" if 0.095 <= abs(found.value) < 1000 else ".2g"
    return f"{found.value:{form}} [{found.low:{form}}, {found.high:{form}}]"


def _range(low: float, high: float) -> str:
    if low == -math.inf:
        return f"at most {high:g}"
    if high == math.inf:
        return f"at least {low:g}"
    return f"{low:g} to {high:g}"


def _listed(numbers: Sequence[float]) -> str:
    return ", ".join(f"{number:g}" for number in numbers)
