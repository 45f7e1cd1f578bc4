"""The flags that say what still counts as a transfer, shared by `transfer` and `judge`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from isoscale.stats import Limits


@dataclass(frozen=True, kw_only=True)
class VerdictFlags:
    """What still counts as a transfer."""

    regret_limit: float = 0.02
    """Largest regret, as a share of the loss (or of the metric) at the largest size's own optimum."""
    worse_limit: float = 0.02
    """By which share of the base's loss the largest size may end above it, or below it where higher is better."""
    lost_seeds_limit: float = 0.0
    """Largest share of seeds that may diverge at the rate used."""
    level: float = 0.95
    """Level of every interval."""

    def limits(self) -> Limits:
        """The same as the statistics take it."""
        from isoscale.stats import Limits

        return Limits(
            regret=self.regret_limit,
            worse=self.worse_limit,
            lost_seeds=self.lost_seeds_limit,
            level=self.level,
        )
