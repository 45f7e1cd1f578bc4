"""All claims by identifier and by alias; a claim's file is imported when it is asked for."""

from __future__ import annotations

import importlib

from isoscale.errors import unknown
from isoscale.reproduce.claim import Claim

_ALIASES = {
    "nfd-1": "initial-error",
    "nfd-2": "training-error",
    "nfd-3": "gradient-independence",
    "nfd-4": "cifar-figure",
    "nfd-5": "nondegeneracy",
    "nfd-6": "returns",
    "nfd-7": "collapse",
    "nfd-8": "correction",
    "nfd-9": "stability",
    "am-1": "plain-nets",
    "am-2": "residual-nets",
    "am-3": "padding",
    "am-4": "activation",
    "am-5": "prefactor",
    "am-6": "sequences",
    "am-7": "zero-shot",
    "am-8": "which-depth",
    "am-9": "adam",
    "am-10": "cubic",
    "am-11": "robust-in-width",
    "am-12": "across-data",
    "own-1": "trade-off",
    "own-2": "optimum-at-infinity",
}


def names() -> list[str]:
    """Identifiers of all claims.

    >>> names()[:2], len(names())
    (['nfd-1', 'nfd-2'], 23)
    """
    return list(_ALIASES)


def get(name: str) -> Claim:
    """A claim by its identifier or alias.

    Raises:
        InvalidValueError: There is none of that name; the nearest are named.

    >>> get("collapse").id
    'nfd-7'
    """
    identifiers = {alias: identifier for identifier, alias in _ALIASES.items()}
    found = identifiers.get(name, name)
    if found not in _ALIASES:
        raise unknown("claim", name, [*_ALIASES, *identifiers], listing="isoscale reproduce --list")
    module = importlib.import_module(f"isoscale.reproduce.{found.replace('-', '_')}")
    claim: Claim = module.CLAIM
    assert (claim.id, claim.alias) == (found, _ALIASES[found])
    return claim
