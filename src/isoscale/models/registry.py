"""Models by name, for sweeps and the shell. Listing the names loads no torch."""

from __future__ import annotations

import functools
import importlib
import inspect
import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

from isoscale.errors import InvalidValueError, unknown

if TYPE_CHECKING:
    from isoscale.models.base import Model

Takes = Literal["features", "images", "tokens"]


class _Row(NamedTuple):
    """Where the class is, and what one of its samples is: a vector, channels over places, or whole numbers."""

    module: str
    attribute: str
    takes: Takes


_MODELS = {
    "conv-net": _Row("isoscale.models.conv_net", "ConvNet", "images"),
    "conv-resnet": _Row("isoscale.models.conv_resnet", "ConvResNet", "images"),
    "gpt": _Row("isoscale.models.gpt", "GPT", "tokens"),
    "residual-mlp": _Row("isoscale.models.residual_mlp", "ResidualMLP", "features"),
    "vit": _Row("isoscale.models.vit", "ViT", "images"),
}

# Where models keep their hidden layers.
_HIDDEN = ("blocks.", "layers.")

# What a sweep sets itself, so that nobody sets it twice.
_OWNED = {
    *("in_features", "in_shape", "out_features", "vocab", "context"),
    *("width", "depth", "seed", "device", "dtype"),
}


def names() -> list[str]:
    """The built-in models, sorted.

    >>> names()
    ['conv-net', 'conv-resnet', 'gpt', 'residual-mlp', 'vit']
    """
    return sorted(_MODELS)


def takes(name: str) -> Takes:
    """What one sample of a model's input is.

    "features": a vector, (features,). "images": channels over places, (channels, height, width) or
    (channels, length). "tokens": whole numbers, (time,).

    Raises:
        InvalidValueError: There is no such model.

    >>> takes("gpt")
    'tokens'
    """
    return _row(name).takes


def check(name: str, options: Mapping[str, Any]) -> None:
    """Raise InvalidValueError if there is no such model or it takes no such option."""
    legal = set(inspect.signature(_constructor(name)).parameters) - _OWNED
    for option in options:
        if option not in legal:
            raise unknown(f"option of {name}", option, legal)


def canonical(name: str, options: Mapping[str, Any], in_shape: Sequence[int]) -> dict[str, Any]:
    """A model's own options, every default said: two ways to write one network give equal values.

    Args:
        name, options: As for `build`.
        in_shape: Shape of one sample, which some defaults follow.

    Raises:
        InvalidValueError: No such model, or it takes no such option.

    >>> canonical("residual-mlp", {"phi": "tanh"}, (64,))
    {'block_depth': 2, 'phi': 'tanh', 'norm': None}
    """
    check(name, options)
    found = {}
    for option, parameter in inspect.signature(_constructor(name)).parameters.items():
        if option not in _OWNED:
            found[option] = options.get(option, parameter.default)
    # A conv net without `dims` has as many as its samples have places' axes.
    if "dims" in found and found["dims"] is None:
        found["dims"] = len(in_shape) - 1
    return found


def build(
    name: str,
    options: Mapping[str, Any] | None = None,
    *,
    in_shape: Sequence[int] | None = None,
    out_features: int | None = None,
    **sizes: Any,
) -> Model:
    """Build a model by name.

    Args:
        name: One of `names()`.
        options: Keyword arguments of that model's own (`block_depth`, `phi`, ...).
        in_shape: Shape of one sample, from which each model takes what it needs (see `takes`).
        out_features: Number of outputs: classes, or different tokens.
        **sizes: `width`, `depth`, `seed`, `device`, `dtype`; and instead of `in_shape` the model's own arguments
            for its input, such as `in_features`.

    Raises:
        InvalidValueError: Unknown model or option, or a value that the model refuses.
    """
    check(name, options or {})
    if out_features is not None:
        sizes["vocab" if takes(name) == "tokens" else "out_features"] = out_features
    if in_shape is not None:
        sizes |= _inputs(name, tuple(in_shape))
    try:
        return _constructor(name)(**sizes, **(options or {}))
    except TypeError as error:
        raise InvalidValueError(f"model {name}: {error}") from error


def hidden_parameters(name: str, options: Mapping[str, Any], *, width: int, depth: int) -> int:
    """Parameters of a model's hidden layers: all but those of its input and output layers, which the data shape.

    Raises:
        InvalidValueError: As for `build`.

    >>> hidden_parameters("residual-mlp", {"block_depth": 2}, width=16, depth=3)  # 3 blocks of two 16 x 16 matrices
    1536
    """
    return _hidden_parameters(name, tuple(sorted(options.items())), width, depth)


@functools.lru_cache(maxsize=1024)
def _hidden_parameters(name: str, options: tuple[tuple[str, Any], ...], width: int, depth: int) -> int:
    # Of an input that all of these models take: the hidden layers do not know of its size.
    side = 2 * dict(options).get("patch", 8)
    shapes = {"features": (1,), "tokens": (8,), "images": (1, side, side)}
    sizes = {"in_shape": shapes[takes(name)], "out_features": 2, "width": width, "depth": depth}
    model = build(name, dict(options), device="meta", **sizes)
    count = 0
    for parameter_name, parameter in model.named_parameters():
        if parameter_name.startswith(_HIDDEN):
            count += parameter.numel()
    return count


def _inputs(name: str, in_shape: tuple[int, ...]) -> dict[str, Any]:
    """A sample's shape in the model's own words."""
    kind = takes(name)
    if kind == "features":
        return {"in_features": math.prod(in_shape)}
    if kind == "tokens":
        return {"context": in_shape[0]}
    if len(in_shape) == 1:
        raise InvalidValueError(
            f"model {name} takes images or sequences, (channels, ...), got vectors of {in_shape[0]} numbers"
        )
    return {"in_shape": in_shape}


def _row(name: str) -> _Row:
    if name not in _MODELS:
        raise unknown("model", name, _MODELS)
    return _MODELS[name]


def _constructor(name: str) -> type[Model]:
    row = _row(name)
    return getattr(importlib.import_module(row.module), row.attribute)
