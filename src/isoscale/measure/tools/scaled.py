"""One architecture at many sizes, each with the init and the learning rates that a rule gives it.

The base has the smallest width and one block: a branch multiplier r^-1/2 then starts from 1 at depth 1, as in the
papers, and sizes of tens of blocks are close to the limit. From a base of b blocks they would be b times further.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any, TypeVar

from torch import nn

from isoscale.errors import InvalidTypeError, InvalidValueError
from isoscale.measure.tools.building import Factory, build, check_seeds
from isoscale.measure.tools.notes import crowding, notes_on
from isoscale.measure.tools.slopes import TOLERANCE
from isoscale.parametrization import Plan, parametrize, shapes
from isoscale.scaling.optimizers import OptimizerFamily
from isoscale.scaling.rules import Rule

if TYPE_CHECKING:
    import pandas as pd

Found = TypeVar("Found")
Size = tuple[tuple[str, int], ...]
"""A size as a key: (("width", 64), ("depth", 4))."""


@dataclass(frozen=True)
class Scaled:
    """Networks of a factory, relative to the smallest of the sizes.

    Attributes:
        make_model: Called with `width` and `depth`, as far as they are given, and with `seed` if it takes one.
        inputs: Arguments of the network's forward.
        rule, optimizer: What the sizes are scaled by.
        widths, depths: Sizes; None where the factory takes no such argument.
    """

    make_model: Factory
    inputs: tuple[Any, ...]
    rule: Rule
    optimizer: OptimizerFamily
    widths: list[int] | None
    depths: list[int] | None

    @cached_property
    def base(self) -> dict[str, Any]:
        """The base's shapes, init and trace; the smallest depth instead of 1 if the factory makes no network of 1."""
        width = {} if self.widths is None else {"width": min(self.widths)}
        if self.depths is not None and min(self.depths) > 1:
            with contextlib.suppress(Exception):
                return shapes(build(self.make_model, 0, **width, depth=1), self.inputs)
        depth = {} if self.depths is None else {"depth": min(self.depths)}
        return shapes(build(self.make_model, 0, **width, **depth), self.inputs)

    def at(self, seed: int, lr: float = 1.0, **sizes: int) -> tuple[nn.Module, Plan]:
        """The network of these sizes and its plan, applied."""
        model = build(self.make_model, seed, **sizes)
        plan = parametrize(model, self.base, self.rule, self.optimizer, lr=lr, example_inputs=self.inputs, force=True)
        return model, plan

    def line(self, axis: str) -> list[dict[str, int]]:
        """The sizes along one axis: widths at the smallest depth, depths at the largest width."""
        if axis == "width":
            fixed = {} if self.depths is None else {"depth": min(self.depths)}
            return [{"width": width, **fixed} for width in self.widths or []]
        fixed = {} if self.widths is None else {"width": max(self.widths)}
        return [{**fixed, "depth": depth} for depth in self.depths or []]

    def over(
        self,
        seeds: list[int],
        measure: Callable[[int, dict[str, int]], Found],
        progress: Callable[[float], None] | None,
    ) -> dict[Size, list[Found]]:
        """measure(seed, size) at every size along the axes: for each size a list over the seeds.

        Raises:
            InvalidValueError: No axis has two sizes, or the factory makes the same network of different seeds.
        """
        if not self.axes:
            raise InvalidValueError("`widths` or `depths` must hold two sizes or more: an exponent needs them")
        sizes = list(dict.fromkeys(tuple(size.items()) for axis in self.axes for size in self.line(axis)))
        check_seeds(self.make_model, seeds, **dict(sizes[0]))
        found: dict[Size, list[Found]] = {}
        for done, size in enumerate(sizes):
            found[size] = [measure(seed, dict(size)) for seed in seeds]
            if progress:
                progress((done + 1) / len(sizes))
        return found

    def notes(self, seed: int, exponents: pd.DataFrame) -> list[str]:
        """What a reader should know about the networks, their plans and the batch."""
        smallest, largest = self._extremes()
        model, plan = self.at(seed, **largest)
        notes = [*notes_on(model), *plan.open_items]
        if self.widths is not None and len(self.widths) > 1:
            below = exponents["exponent"] < exponents["expected"] - TOLERANCE
            low = bool((below & (exponents["axis"] == "width")).any())
            notes += crowding(self.at(seed, **smallest)[0], self.inputs, min(self.widths), low=low)
        return notes

    def _extremes(self) -> tuple[dict[str, int], dict[str, int]]:
        given = {name: values for name, values in (("width", self.widths), ("depth", self.depths)) if values}
        return {name: min(of) for name, of in given.items()}, {name: max(of) for name, of in given.items()}

    @property
    def axes(self) -> list[str]:
        """The axes with two sizes or more, along which an exponent can be fitted."""
        return [axis for axis, values in (("width", self.widths), ("depth", self.depths)) if len(values or []) > 1]


def size_list(name: str, values: Sequence[int] | None) -> list[int] | None:
    """`widths` or `depths` as rising, distinct whole numbers.

    Raises:
        InvalidTypeError, InvalidValueError: Anything else.
    """
    if values is None:
        return None
    for value in values:
        if isinstance(value, bool) or not isinstance(value, int):
            raise InvalidTypeError(f"`{name}` must hold whole numbers, got {value!r}")
        if value < 1:
            raise InvalidValueError(f"`{name}` must hold numbers >= 1, got {value}")
    if not values:
        raise InvalidValueError(f"`{name}` must hold one size or more, got []")
    return sorted(set(values))
