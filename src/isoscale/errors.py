"""What isoscale raises: each message names the thing, the value and the way out."""

from __future__ import annotations

import difflib
from collections.abc import Iterable

_LONGEST_NAME = 200


class IsoscaleError(Exception):
    """Base of every error that isoscale raises on purpose."""


class InvalidValueError(IsoscaleError, ValueError):
    """An argument has the right type and a value that makes no sense."""


class MissingExtraError(InvalidValueError, ImportError):
    """A package that an extra brings is not installed; the message has the command that installs it."""


class NothingMovesError(InvalidValueError):
    """No pre-activation moves at the first step, so that no learning rate moves any by 1."""


class InvalidTypeError(IsoscaleError, TypeError):
    """An argument has a type that cannot be used."""


class DataError(IsoscaleError, ValueError):
    """A data file is missing, cut short or damaged."""


class StoreError(IsoscaleError, ValueError):
    """The result store cannot be read or written."""


class ClusterError(IsoscaleError, ValueError):
    """Workers or a cluster are gone, or no longer have what a sweep needs; what finished is kept."""


class TraceError(IsoscaleError, ValueError):
    """A model's forward pass cannot be followed; the message names the operation and the way round it."""


class PlanError(IsoscaleError, ValueError):
    """A plan cannot be made, does not fit a model, or was not kept by an optimizer."""


def unknown(what: str, name: object, known: Iterable[str], *, listing: str | None = None) -> InvalidValueError:
    """The error for a name that is not in a registry, with the nearest names in it.

    Args:
        what: The kind of thing, as a user calls it ("rule", "data set").
        name: What was asked for.
        known: Every legal name.
        listing: Where the user finds all of them; by default they are written out.

    Returns:
        The error, for the caller to raise.

    >>> print(unknown("rule", "dept-mup", ["depth-mup", "sp"]))
    no rule named 'dept-mup'. Nearest: depth-mup. All: depth-mup, sp
    """
    known = sorted(known)
    text = str(name)
    # The time to find the nearest grows with the length, and a whole file may have been given for a name.
    if len(text) > _LONGEST_NAME:
        text = text[:_LONGEST_NAME] + "..."
    nearest = difflib.get_close_matches(text, known, n=3, cutoff=0.5)
    hint = ""
    if nearest:
        likely = ", ".join(nearest)
        hint = f" Nearest: {likely}."
    if listing is None:
        listing = ", ".join(known)
    return InvalidValueError(f"no {what} named {text!r}.{hint} All: {listing}")
