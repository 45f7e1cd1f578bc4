"""What every model of isoscale offers beyond an ordinary module."""

from __future__ import annotations

import contextlib
from abc import ABC, abstractmethod
from collections.abc import Generator
from contextvars import ContextVar

from torch import Tensor, nn

_DEFAULT_SEED: ContextVar[int] = ContextVar("default_seed", default=0)


def default_seed() -> int:
    """The seed of a model that is given none: 0, or that of the surrounding `seeding`."""
    return _DEFAULT_SEED.get()


@contextlib.contextmanager
def seeding(seed: int) -> Generator[None, None, None]:
    """Inside, models that are given no seed draw from this one: a factory without a seed then makes many networks."""
    before = _DEFAULT_SEED.set(seed)
    try:
        yield
    finally:
        _DEFAULT_SEED.reset(before)


class Model(nn.Module, ABC):
    """An ordinary module that can draw its weights from a seed and say what its forward takes.

    Attributes:
        positions: Places of one sample at which the stream has `width` numbers: pixels, patches or
            tokens; 1 where a sample is one vector.
        expansion: How many times larger than the stream the largest activation of a branch is.
    """

    positions: int = 1
    expansion: int = 1

    @property
    @abstractmethod
    def example_inputs(self) -> tuple[Tensor, ...]:
        """Arguments of `forward` for one sample: what a trace needs."""

    @abstractmethod
    def reset_parameters(self, seed: int = 0) -> None:
        """Draw every weight anew from `seed`; the global generator is not touched."""
