"""What runs are judged by: a loss, or a quantity of the user's own, of which lower or higher is better."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

from isoscale.errors import unknown

Better = Literal["lower", "higher"]


@dataclass(frozen=True)
class Quantity:
    """A number that a run ends with.

    Everything that is judged falls where training gets better: of a quantity that rises, minus it is judged.

    Attributes:
        name: What a person calls it.
        better: Which values of it are the better ones, "lower" or "higher".

    Raises:
        InvalidValueError: Another word.

    >>> Quantity("accuracy", "higher").sign, Quantity().name
    (-1, 'loss')
    """

    name: str = "loss"
    better: Better = "lower"

    def __post_init__(self) -> None:
        if self.better not in get_args(Better):
            raise unknown("`better`", str(self.better), get_args(Better))

    @property
    def sign(self) -> int:
        """What its values are multiplied by to be judged, and what is judged to be shown."""
        return 1 if self.better == "lower" else -1
