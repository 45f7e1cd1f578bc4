"""Which modules' outputs count, and whether they lie on the residual stream or in a branch."""

from __future__ import annotations

import fnmatch
from collections.abc import Callable, Sequence
from typing import Any, Literal

from torch import nn

from isoscale.errors import InvalidValueError
from isoscale.measure.tools.hook_points import hook_points
from isoscale.measure.tools.observe import linear_layers

Kind = Literal["stream", "branch"]
Select = Sequence[str] | Callable[[str, nn.Module], bool]
"""Modules by glob, segment by segment ("blocks.*" is "blocks.0", not "blocks.0.fc"), or by a predicate."""


def which(model: nn.Module, blocks: Select) -> dict[str, Kind]:
    """Where each pre-activation lies, given the modules whose output is the residual stream.

    The linear layers inside a block are its "branch"; the block's own output and the layers outside are "stream".

    >>> model = nn.Sequential(nn.Linear(2, 2), nn.Sequential(nn.Linear(2, 2)))
    >>> which(model, ["1"])
    {'0': 'stream', '1': 'stream', '1.0': 'branch'}
    """
    # With the dot: "blocks.1" holds nothing of "blocks.10".
    outer = chosen(model, blocks, "blocks")
    inner = tuple(f"{block}." for block in outer)
    linear = linear_layers(model)
    kinds: dict[str, Kind] = {}
    for name, _ in model.named_modules():
        if name in outer:
            kinds[name] = "stream"
        elif name in linear:
            kinds[name] = "branch" if name.startswith(inner) else "stream"
    return kinds


def traced(model: nn.Module, inputs: tuple[Any, ...]) -> dict[str, Kind]:
    """Where each pre-activation lies, as the computation graph says: the stream is seen after each residual addition.

    Raises:
        InvalidValueError: There are no residual branches.
        TraceError: The model cannot be traced.
    """
    points = hook_points(model, inputs)
    if not points.blocks and not points.owners:
        raise InvalidValueError('the model has no residual branches: count "all", or say which modules are `blocks`')
    kinds: dict[str, Kind] = {}
    for name in linear_layers(model):
        kinds[name] = "branch" if name in points.owners else "stream"
    for name in points.blocks:
        kinds[name] = "stream"
    return kinds


def chosen(model: nn.Module, select: Select, argument: str) -> list[str]:
    """The names of the modules that `select` means; every glob must match one.

    Raises:
        InvalidValueError: A glob, or the predicate, that matches no module.
    """
    modules = dict(model.named_modules())
    if callable(select):
        found: list[str] = []
        for name, module in modules.items():
            if select(name, module):
                found.append(name)
        if not found:
            raise InvalidValueError(f"`{argument}` matches none of the {len(modules)} modules")
        return found
    if isinstance(select, str):
        raise InvalidValueError(f"`{argument}` must be a list of globs, got the string {select!r}: write [{select!r}]")
    matched: set[str] = set()
    for glob in select:
        names = {name for name in modules if _matches(name, glob)}
        if not names:
            raise InvalidValueError(f"`{argument}`: no module matches {glob!r}; see model.named_modules()")
        matched |= names
    return [name for name in modules if name in matched]


def _matches(name: str, glob: str) -> bool:
    parts = name.split(".")
    patterns = glob.split(".")
    if len(parts) != len(patterns):
        return False
    # Part by part: a "*" stands for one level of modules, not for several.
    return all(map(fnmatch.fnmatchcase, parts, patterns))
