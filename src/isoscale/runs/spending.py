"""What a trial spends: how many steps of how many samples, at a fixed number of steps, of samples, or of samples a
parameter.

Samples are counted as they are seen, again in each epoch; of text a sample is a window of tokens.
"""

from __future__ import annotations

from typing import NamedTuple

from isoscale.errors import InvalidValueError

# What stays as it is at the base while a size changes.
BUDGET_AXES = ("steps", "tokens", "tokens-per-parameter")


class Spending(NamedTuple):
    """Samples in a step, and steps.

    >>> Spending(batch_size=16, steps=100).tokens
    1600
    """

    batch_size: int
    steps: int

    @property
    def tokens(self) -> int:
        """Samples seen in all."""
        return self.batch_size * self.steps


def at_tokens(tokens: int, *, batch_size: int | None = None, steps: int | None = None) -> Spending:
    """Exactly so many samples: given the batch size, the steps follow; given the steps, the batch size.

    Raises:
        InvalidValueError: The number of samples is not divisible.

    >>> at_tokens(1600, steps=50)
    Spending(batch_size=32, steps=50)
    """
    found = near_tokens(tokens, batch_size=batch_size, steps=steps)
    if found.tokens != tokens:
        what = f"`batch_size` {batch_size}" if steps is None else f"`steps` {steps}"
        raise InvalidValueError(f"{what} does not divide the base's {tokens:,} samples (steps x batch size)")
    return found


def near_tokens(tokens: float, *, batch_size: int | None = None, steps: int | None = None) -> Spending:
    """As `at_tokens`, to the nearest whole step (or sample in each step), and one at least.

    >>> near_tokens(1500.0, batch_size=64)
    Spending(batch_size=64, steps=23)
    """
    if steps is not None:
        return Spending(max(1, round(tokens / steps)), steps)
    assert batch_size is not None
    return Spending(batch_size, max(1, round(tokens / batch_size)))
