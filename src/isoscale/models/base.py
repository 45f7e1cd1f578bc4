"""What every model of isoscale offers beyond an ordinary module."""

from __future__ import annotations

from abc import ABC, abstractmethod

from torch import nn

from isoscale.rules import Role


class Model(nn.Module, ABC):
    """An ordinary module that can draw its weights from a seed and say what each of them does.

    Attributes:
        positions: Places of one sample at which the stream has `width` numbers: pixels, patches or
            tokens; 1 where a sample is one vector.
        expansion: How many times larger than the stream the largest activation of a branch is.
    """

    positions: int = 1
    expansion: int = 1

    @property
    @abstractmethod
    def roles(self) -> dict[str, Role]:
        """Role of each parameter, by its name."""

    @abstractmethod
    def reset_parameters(self, seed: int = 0) -> None:
        """Draw every weight anew from `seed`; the global generator is not touched."""
