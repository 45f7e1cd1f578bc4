"""Optimizers, one row each: how a step answers to the gradient's size, how decay enters, what torch calls it.

A rule has one column of learning rates for each way in which a step can answer:

    linear      the step is proportional to the gradient (SGD)
    entrywise   every entry's step is free of the gradient's size (Adam, sign descent, Lion)
    spectral    the step's spectral norm is free of the gradient's size (Muon)

Everything that depends on the optimizer asks this table, so a new optimizer is a new row.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, cast, get_args

from isoscale.errors import InvalidValueError, PlanError, unknown
from isoscale.scaling.roles import Role

OptimizerFamily = Literal["sgd", "adam", "adamw", "sign", "muon"]
Answer = Literal["linear", "entrywise", "spectral"]
OPTIMIZERS: tuple[OptimizerFamily, ...] = get_args(OptimizerFamily)


@dataclass(frozen=True, kw_only=True)
class Family:
    """One row: optimizers whose steps are alike up to a constant.

    Attributes:
        name: What the row is called everywhere.
        answer: How the step answers to the gradient's size.
        coupled_decay: Whether weight decay is added to the gradient (L2) instead of shrinking the weight.
        has_eps: Whether the step divides by the gradient's size plus `eps`.
        momentum: Default momentum; None for a family that takes `betas` instead.
        beside: The family that steps what this one cannot step; empty if it steps everything.
        other_decay: The family that differs in how decay enters alone; empty if there is none.
        torch_class: The class that a group of this family goes to, by name; in torch.optim unless isoscale has it.
        aliases: Further classes of the family. By name, so that no optimizer package need be installed. Only those
            whose step is the family's up to a constant: Adafactor and LAMB scale by the parameter, LBFGS searches
            along a line.
    """

    name: OptimizerFamily
    answer: Answer
    coupled_decay: bool
    has_eps: bool = False
    momentum: float | None = None
    beside: Literal["", "adamw"] = ""
    other_decay: Literal["", "adam", "adamw"] = ""
    torch_class: str
    aliases: tuple[str, ...] = ()

    @property
    def takes_betas(self) -> bool:
        """Whether its options are `betas` rather than `momentum`."""
        return self.momentum is None

    @property
    def lr_power(self) -> int:
        """Power of a folded multiplier c in the learning rate: w' = c w has the gradient g / c.

        A linear step must grow by c in spite of that, so lr c^2; the others are free of the gradient's size, so lr c.
        """
        return 2 if self.answer == "linear" else 1

    @property
    def decay_power(self) -> int:
        """Power of a folded multiplier c by which the decay argument is divided.

        Decoupled decay keeps lr * weight_decay. Coupled decay is part of the gradient:
        (g + wd w) / c = g' + (wd / c^2) w'.
        """
        return 2 if self.coupled_decay else 1

    @property
    def keeps_lr_times_decay(self) -> bool:
        """Whether lr * weight_decay is the share of a weight that one step removes.

        So it is for SGD and for every decoupled decay. Adam with coupled decay divides it by the gradient's size.
        """
        return self.answer == "linear" or not self.coupled_decay


FAMILIES: dict[OptimizerFamily, Family] = {
    row.name: row
    for row in (
        Family(name="sgd", answer="linear", coupled_decay=True, momentum=0.0, torch_class="SGD"),
        Family(
            name="adam",
            answer="entrywise",
            coupled_decay=True,
            has_eps=True,
            other_decay="adamw",
            torch_class="Adam",
            aliases=("NAdam", "RAdam", "Adamax", "RMSprop", "Adagrad", "SparseAdam", "Adam8bit"),
        ),
        Family(
            name="adamw",
            answer="entrywise",
            coupled_decay=False,
            has_eps=True,
            other_decay="adam",
            torch_class="AdamW",
            aliases=("AdamW8bit", "PagedAdamW8bit"),
        ),
        Family(
            name="sign",
            answer="entrywise",
            coupled_decay=False,
            momentum=0.9,
            torch_class="SignSGD",
            aliases=("Lion", "Lion8bit"),
        ),
        Family(name="muon", answer="spectral", coupled_decay=False, momentum=0.95, beside="adamw", torch_class="Muon"),
    )
}
# What classes call an argument, and a key of their groups, that says whether decay shrinks the weight.
_DECOUPLED = ("decoupled_weight_decay", "weight_decouple", "decouple")
_OF_CLASS = {name: row.name for row in FAMILIES.values() for name in (row.torch_class, *row.aliases)}
_OF_NAME = {name.lower(): of for name, of in _OF_CLASS.items()}
# Whose row depends on how they are set (docs/theory.md, section 5.4).
_BY_SETTING = ("shampoo", "soap")


def family(name: str) -> Family:
    """The row of that name.

    Raises:
        InvalidValueError: No such family; the message names the nearest.
    """
    if name not in FAMILIES:
        raise unknown("optimizer family", name, OPTIMIZERS)
    return FAMILIES[cast(OptimizerFamily, name)]


def stepping(name: str, role: Role, dimensions: int = 2) -> Family:
    """The row that steps one tensor: Muon steps hidden matrices, and the family beside it all else.

    Args:
        name: The optimizer's family.
        role: What the tensor does.
        dimensions: How many axes it has; torch's Muon takes matrices only.

    >>> stepping("muon", Role.HIDDEN).name, stepping("muon", Role.INPUT).name
    ('muon', 'adamw')
    """
    row = family(name)
    if row.beside and not (role.is_hidden_map and dimensions == 2):
        return FAMILIES[row.beside]
    return row


def family_of(optimizer: Any) -> OptimizerFamily:
    """The family of a name, an optimizer class or an optimizer.

    Of an optimizer, and of a class with its arguments (`functools.partial`), a flag for decoupled decay counts:
    `NAdam(..., decoupled_weight_decay=True)` is of AdamW's family.

    Raises:
        InvalidValueError: A name or class that is not known; a family can always be declared by its name.
        PlanError: An optimizer whose groups decay in two ways.

    >>> import functools, torch
    >>> family_of(torch.optim.NAdam), family_of("sign"), family_of("lion")
    ('adam', 'sign', 'sign')
    >>> family_of(functools.partial(torch.optim.NAdam, decoupled_weight_decay=True))
    'adamw'
    """
    if isinstance(optimizer, str):
        name = optimizer.lower()
        if name in _BY_SETTING:
            raise InvalidValueError(
                f"the step of {optimizer!r} depends on how it is set: with updates of spectral norm 1 (Shampoo with "
                "exponents that add up to 1/2, SOAP that rotates both sides) declare "
                'optimizer="muon", adjust_lr_fn="none"; SOAP that rotates neither side is "adam"'
            )
        return _OF_NAME[name] if name in _OF_NAME else family(optimizer).name
    options: list[Mapping[str, Any]] = []
    made: Any = optimizer
    if isinstance(optimizer, functools.partial):
        options.append(optimizer.keywords)
        made = optimizer.func
    elif not isinstance(optimizer, type):
        options += getattr(optimizer, "param_groups", [])
        made = type(optimizer)
    row = FAMILIES[_of_class(made)]
    decoupled: set[bool] = set()
    for told in options:
        decoupled |= {bool(told[name]) for name in _DECOUPLED if name in told}
    if len(decoupled) > 1:
        raise PlanError(
            f"some groups of {made.__name__} decouple the decay and others do not: give all of them one "
            f"`{_DECOUPLED[0]}`"
        )
    if row.other_decay and decoupled == {row.coupled_decay}:
        return row.other_decay
    return row.name


def _of_class(cls: type) -> OptimizerFamily:
    return _OF_CLASS[_known_class(cls).__name__]


def _known_class(cls: type) -> type:
    """The class of the table that a class is or derives from."""
    for base in cls.__mro__:
        if base.__name__ in _OF_CLASS:
            return base
    raise InvalidValueError(
        f"no rule for optimizer class {cls.__name__}: declare how its step answers to the gradient, by its family: "
        f"optimizer={', '.join(map(repr, OPTIMIZERS))}"
    )


def steps_in_its_own_way(cls: type) -> bool:
    """Whether a class overrides the step of the class of the table that it derives from, or derives from none.

    Then its name says nothing, and only its user knows its family.
    """
    try:
        known = _known_class(cls)
    except InvalidValueError:
        return True
    # torch puts a wrapper around the step of whatever is made.
    return inspect.unwrap(cast(Any, cls).step) is not inspect.unwrap(cast(Any, known).step)
