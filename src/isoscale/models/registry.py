"""Models by name, for sweeps and the shell. Listing the names loads no torch."""

from __future__ import annotations

import importlib
import inspect
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from isoscale.errors import InvalidValueError, unknown

if TYPE_CHECKING:
    from isoscale.models.base import Model

_MODELS = {"residual-mlp": ("isoscale.models.residual_mlp", "ResidualMLP")}

# What a sweep sets itself, so that nobody sets it twice.
_OWNED = {"in_features", "out_features", "width", "depth", "seed", "device", "dtype"}


def names() -> list[str]:
    """The built-in models, sorted."""
    return sorted(_MODELS)


def check(name: str, options: Mapping[str, Any]) -> None:
    """Raise InvalidValueError if there is no such model or it takes no such option."""
    if name not in _MODELS:
        raise unknown("model", name, _MODELS)
    legal = set(inspect.signature(_constructor(name)).parameters) - _OWNED
    for option in options:
        if option not in legal:
            raise unknown(f"option of {name}", option, legal)


def build(name: str, options: Mapping[str, Any] | None = None, **sizes: Any) -> Model:
    """Build a model by name.

    Args:
        name: One of `names()`.
        options: Keyword arguments of that model's own (`block_depth`, `phi`, ...).
        **sizes: `in_features`, `out_features`, `width`, `depth`, `seed`, `device`, `dtype`.

    Raises:
        InvalidValueError: Unknown model or option, or a value that the model refuses.
    """
    check(name, options or {})
    try:
        return _constructor(name)(**sizes, **(options or {}))
    except TypeError as error:
        raise InvalidValueError(f"model {name}: {error}") from error


def _constructor(name: str) -> type[Model]:
    module, attribute = _MODELS[name]
    return getattr(importlib.import_module(module), attribute)
