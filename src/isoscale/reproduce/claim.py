"""What a claim is, what a preset of it costs, and what can be said of it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import xarray as xr

    from isoscale.reproduce.measured import Measured
    from isoscale.reproduce.work import Work

HOLDS = "holds"
LIMITS = "holds within limits"
FAILS = "does not hold"
OPEN = "cannot be decided at this size"
# Of a single condition.
UNDECIDED = "open"

# Smallest first.
PRESETS = ("quick", "cpu", "paper")


@dataclass(frozen=True, kw_only=True)
class Preset:
    """One size of a claim's protocol.

    Attributes:
        minutes: Expected time on one core of the machine that the results were made on; of "paper" on one large GPU.
        gibibytes: Expected memory.
        settings: The protocol: sizes, steps, seeds, data. Whatever is in it stands on the page.
        needs_gpu: Whether a machine without one is refused.
    """

    minutes: float
    settings: Mapping[str, Any]
    gibibytes: float = 1.0
    needs_gpu: bool = False


@dataclass(frozen=True)
class Part:
    """One condition of a claim: `holds` is None where the interval leaves it open."""

    name: str
    holds: bool | None
    why: str

    @property
    def word(self) -> str:
        """The condition's verdict in a word or two."""
        if self.holds is None:
            return UNDECIDED
        return HOLDS if self.holds else FAILS


@dataclass(frozen=True)
class Ruling:
    """A verdict and the conditions that it rests on.

    >>> ruling([Part("at init", True, "-0.5"), Part("in training", None, "-0.4 +- 0.6")]).verdict
    'holds within limits'
    """

    verdict: str
    parts: tuple[Part, ...]

    @property
    def why(self) -> str:
        """Where the claim holds, where not, and where it is open, in one sentence each."""
        said = []
        for words, holds in (("Holds", True), ("Does not hold", False), ("Not decided", None)):
            named = [f"{part.name} ({part.why})" for part in self.parts if part.holds is holds]
            if named:
                said.append(f"{words}: {'; '.join(named)}.")
        return " ".join(said)


def ruling(parts: Sequence[Part]) -> Ruling:
    """The verdict on a claim from that on its conditions.

    All hold: it holds. Some hold, the others fail or are open: it holds within limits. None holds and one fails: it
    does not hold. All are open: it cannot be decided.
    """
    found = [part.holds for part in parts]
    if found and all(holds is True for holds in found):
        verdict = HOLDS
    elif True in found:
        verdict = LIMITS
    elif False in found:
        verdict = FAILS
    else:
        verdict = OPEN
    return Ruling(verdict, tuple(parts))


@dataclass(frozen=True, kw_only=True)
class Claim:
    """A claim of a paper.

    Attributes:
        id, alias: "nfd-7" and "collapse".
        sentence: The claim, in one sentence.
        source: Paper and place.
        rule: How the measured numbers decide it, stated before they are measured.
        presets: "quick", "cpu" and "paper".
        measure: Runs a preset's protocol: settings and work -> points to draw and quantities to decide on.
        decide: Quantities -> verdict.
        reading: How the claim was read where the paper leaves it open, and what is not covered.
        reason: Why a condition may fail or stay open: the most likely reason, and what in the page tests it.
    """

    id: str
    alias: str
    sentence: str
    source: str
    rule: str
    presets: Mapping[str, Preset]
    measure: Callable[[Mapping[str, Any], Work], Measured] = field(repr=False)
    decide: Callable[[xr.Dataset], Ruling] = field(repr=False)
    reading: str = ""
    reason: str = ""
