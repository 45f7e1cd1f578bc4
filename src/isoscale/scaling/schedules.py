"""How a learning rate changes over a run."""

from __future__ import annotations

import math

SCHEDULES = ("constant", "cosine", "linear", "wsd")

# Share of a "wsd" run (warmup, stable, decay) in which the learning rate falls to zero.
_DECAY_SHARE = 0.2


def lr_factor(schedule: str, done: float) -> float:
    """What a schedule multiplies the learning rate by once this share of its steps is done.

    >>> [lr_factor("wsd", done) for done in (0.0, 0.5, 0.9)]
    [1.0, 1.0, 0.4999999999999999]
    """
    if schedule == "cosine":
        return 0.5 * (1 + math.cos(math.pi * done))
    if schedule == "linear":
        return 1 - done
    if schedule == "wsd":
        return min(1.0, (1 - done) / _DECAY_SHARE)
    return 1.0
