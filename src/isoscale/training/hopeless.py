"""When a trial is hopeless: by a step of its training it has come hardly any of the way that another one had come.

The *progress* of a trial at a step is its first loss less the mean loss of the tenth of the steps before that one. A
*mark* is a step and the least progress of a trial that goes on from there. Progress keeps its meaning whatever is added
to a loss and whatever it is multiplied by, so that the share of another trial's progress does not depend on units.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Float

# A progress is seen, and a smaller one is less, by so many standard errors of what single batches add.
_SEEN = 3.0


class Mark(NamedTuple):
    """A step after which a trial of less progress is stopped.

    Attributes:
        step: Steps trained.
        least: The least progress of a trial that goes on.
    """

    step: int
    least: float


def window(step: int) -> int:
    """Over how many of the losses before a step the last loss is averaged."""
    return max(1, step // 10)


def progress(curve: Float[np.ndarray, " steps"], step: int) -> float:
    """How far a trial has come in so many steps: NaN if it diverged before.

    >>> progress(np.array([3.0, 2.0, 1.0, 1.0]), 4)
    2.0
    """
    last = np.asarray(curve[step - window(step) : step], float)
    return float(curve[0]) - float(last.mean())


def mark(curve: Float[np.ndarray, " steps"], step: int, share: float) -> Mark | None:
    """The mark that a good trial sets for others of its size; None where it has come no further than noise goes.

    Args:
        curve: Training loss of the good trial at each step.
        step: Where.
        share: Share of its progress below which another one is hopeless.

    >>> step, least = mark(np.linspace(2.0, 1.0, 21), 20, share=0.25)
    >>> step, round(least, 5)
    (20, 0.23125)
    """
    come = progress(curve, step)
    # What neighbouring steps differ by beyond their trend is twice the variance of one batch.
    moves = np.diff(np.asarray(curve[:step], float))
    noise = float(moves.std()) / math.sqrt(2) if len(moves) else 0.0
    error = noise * math.sqrt(1 + 1 / window(step))
    if not come > _SEEN * error:
        return None
    return Mark(step, share * come - _SEEN * error)


def stopped_at(curve: Float[np.ndarray, " steps"], marks: Sequence[Mark]) -> int:
    """After how many steps a trial is stopped; -1 if it goes on to the end, or diverges before a mark."""
    for step, least in marks:
        if step <= len(curve) and progress(curve, step) < least:
            return step
    return -1


def stopped_words(curve: Float[np.ndarray, " steps"], step: int) -> str:
    """Why a trial was stopped.

    >>> stopped_words(np.array([2.0, 2.5, 3.5, np.nan]), 3)
    'hopeless after 3 steps: loss 3.5, 2 at first'
    """
    last = np.asarray(curve[step - window(step) : step], float).mean()
    return f"hopeless after {step} steps: loss {last:.4g}, {curve[0]:.4g} at first"
