"""Which family an optimizer class belongs to: how its step answers to the gradient's size."""

from __future__ import annotations

from typing import Any, cast

from isoscale.errors import InvalidValueError, unknown
from isoscale.rules import OPTIMIZERS, OptimizerFamily

# By class name, so that no optimizer package need be there. Only classes whose step is the family's up to a
# constant: Adafactor and LAMB scale by the parameter, LBFGS searches along a line.
_CLASSES: dict[str, OptimizerFamily] = {
    "SGD": "sgd",
    "Adam": "adam",
    "NAdam": "adam",
    "RAdam": "adam",
    "Adamax": "adam",
    "RMSprop": "adam",
    "Adagrad": "adam",
    "SparseAdam": "adam",
    "AdamW": "adamw",
    "Adam8bit": "adam",
    "AdamW8bit": "adamw",
    "PagedAdamW8bit": "adamw",
    "Lion": "sign",
    "Lion8bit": "sign",
    "SignSGD": "sign",
    "Muon": "muon",
}


def family_of(optimizer: Any) -> OptimizerFamily:
    """The family of a name, an optimizer class or an optimizer.

    Raises:
        InvalidValueError: A name or class that is not known; a family can always be declared by its name.

    >>> import torch
    >>> family_of(torch.optim.NAdam), family_of("sign")
    ('adam', 'sign')
    """
    if isinstance(optimizer, str):
        if optimizer not in OPTIMIZERS:
            raise unknown("optimizer family", optimizer, OPTIMIZERS)
        return cast(OptimizerFamily, optimizer)
    cls = optimizer if isinstance(optimizer, type) else type(optimizer)
    for base in cls.__mro__:
        if base.__name__ in _CLASSES:
            return _CLASSES[base.__name__]
    raise InvalidValueError(
        f"no rule for optimizer class {cls.__name__}: declare how its step answers to the gradient, by its family: "
        f"optimizer={', '.join(map(repr, OPTIMIZERS))}"
    )
