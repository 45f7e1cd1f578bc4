"""Which modules' outputs count, and whether they lie on the residual stream or in a branch."""

from __future__ import annotations

import fnmatch
from collections.abc import Callable, Sequence
from typing import Any, Literal

from torch import nn

from isoscale.errors import InvalidValueError
from isoscale.measure.tools.observe import maps
from isoscale.measure.tools.places import places

Kind = Literal["stream", "branch"]
Select = Sequence[str] | Callable[[str, nn.Module], bool]
"""Modules by glob, segment by segment ("blocks.*" is "blocks.0", not "blocks.0.fc"), or by a predicate."""


def which(model: nn.Module, blocks: Select) -> dict[str, Kind]:
    """Where each pre-activation lies, given the modules whose output is the residual stream.

    The maps inside a block are its "branch"; the block's own output and the maps outside are "stream".

    >>> model = nn.Sequential(nn.Linear(2, 2), nn.Sequential(nn.Linear(2, 2)))
    >>> which(model, ["1"])
    {'0': 'stream', '1': 'stream', '1.0': 'branch'}
    """
    inside = chosen(model, blocks, "blocks")
    linear = maps(model)
    kinds: dict[str, Kind] = {}
    for name, _ in model.named_modules():
        if name in inside:
            kinds[name] = "stream"
        elif name in linear:
            kinds[name] = "branch" if any(name.startswith(f"{block}.") for block in inside) else "stream"
    return kinds


def traced(model: nn.Module, inputs: tuple[Any, ...]) -> dict[str, Kind]:
    """Where each pre-activation lies, as the computation graph says: the stream is seen after each residual addition.

    Raises:
        InvalidValueError: There are no residual branches.
        TraceError: The model cannot be traced.
    """
    where = places(model, inputs)
    if not where.blocks and not where.owners:
        raise InvalidValueError('the model has no residual branches: count "all", or say which modules are `blocks`')
    kinds: dict[str, Kind] = {name: "branch" if name in where.owners else "stream" for name in maps(model)}
    for place in where.blocks:
        kinds[place] = "stream"
    return kinds


def chosen(model: nn.Module, select: Select, argument: str) -> list[str]:
    """The names of the modules that `select` means; every glob must match one.

    Raises:
        InvalidValueError: A glob, or the predicate, that matches no module.
    """
    names = dict(model.named_modules())
    if callable(select):
        found = [name for name, module in names.items() if select(name, module)]
        if not found:
            raise InvalidValueError(f"`{argument}` matches none of the {len(names)} modules")
        return found
    if isinstance(select, str):
        raise InvalidValueError(f"`{argument}` must be a list of globs, got the string {select!r}: write [{select!r}]")
    for glob in select:
        if not any(_matches(name, glob) for name in names):
            raise InvalidValueError(f"`{argument}`: no module matches {glob!r}; see model.named_modules()")
    return [name for name in names if any(_matches(name, glob) for glob in select)]


def _matches(name: str, glob: str) -> bool:
    parts, patterns = name.split("."), glob.split(".")
    return len(parts) == len(patterns) and all(map(fnmatch.fnmatchcase, parts, patterns))
