"""The exponents that the papers print, beside the claim (docs/theory.md, section 6, last paragraph)."""

from __future__ import annotations

from typing import NamedTuple

from isoscale.runs import Sweep

# What other theories and protocols lead to: an interval that holds one of them does not tell a claim from it.
RIVALS = (0.0, -0.5, -1.0, -2.0)

# AM-muP (arXiv 2510.04327): eta* = kappa L^(-3/2).
CLAIM = -1.5


class Published(NamedTuple):
    """The lowest and the highest exponent printed for a kind of network; `kind` in words."""

    low: float
    high: float
    kind: str


_ADAM = Published(-1.2, -1.2, "Adam, about")
_BATCH_NORM = Published(-1.70, -1.70, "BatchNorm")
_PLAIN = Published(-1.39, -1.34, "CNN")
_RESIDUAL = Published(-1.57, -1.36, "ResNet")
_VIT = Published(-1.44, -1.18, "ViT")
_OF_MODEL = {"conv-net": _PLAIN, "conv-resnet": _RESIDUAL, "vit": _VIT}


def published(spec: Sweep) -> Published | None:
    """What MultiPath (arXiv 2602.07494) prints for that kind of network; None where it prints nothing.

    >>> published(Sweep(model="conv-net")).kind
    'CNN'
    """
    if spec.model not in _OF_MODEL:
        return None
    if spec.optimizer in ("adam", "adamw"):
        return _ADAM
    if spec.optimizer != "sgd":
        return None
    return _BATCH_NORM if spec.model_args.get("norm") == "batch" else _OF_MODEL[spec.model]


def verdict(low: float, high: float, expected: tuple[float, float]) -> str:
    """Whether an interval of a measured exponent meets the expected one, in words.

    An interval that meets it and holds a rival exponent, too (0, -1/2, -1 or -2), decides nothing: "cannot tell".

    >>> verdict(-3.5, -0.2, (-1.5, -1.5)), verdict(-1.5, -0.5, (-1.5, -1.5))
    ('cannot tell', 'cannot tell')
    >>> verdict(-1.6, -1.4, (-1.5, -1.5)), verdict(-1.2, -1.0, (-1.5, -1.4)), verdict(-2.0, -1.8, (-1.5, -1.5))
    ('agrees', 'shallower', 'steeper')
    """
    if not low <= high:
        return "no verdict"
    if low > expected[1]:
        return "shallower"
    if high < expected[0]:
        return "steeper"
    return "cannot tell" if held(low, high) else "agrees"


def held(low: float, high: float) -> list[float]:
    """The rival exponents that an interval does not exclude.

    >>> held(-2.2, -0.9)
    [-1.0, -2.0]
    """
    return [rival for rival in RIVALS if low <= rival <= high]
