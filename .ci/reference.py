"""The reference as the site needs it: examples as code, a row for each of several names that share a description, and
functions in place of the modules that are called like them.
"""

from __future__ import annotations

import re
from typing import Any

import griffe

# "    width, depth: Sizes." of a section of arguments or attributes; what goes on below one stands further in.
_SHARED = re.compile(r"(?P<indent> {4})(?P<names>\*?\w+(?:, \*?\w+)+): (?P<text>.*)")


class Reference(griffe.Extension):
    """What Markdown would take for prose, and what griffe would take for one name."""

    def on_package(self, *, pkg: griffe.Module, loader: griffe.GriffeLoader, **kwargs: Any) -> None:
        rewrite(pkg)
        # Names are followed through the modules while these still stand under their own.
        loader.resolve_aliases(implicit=True, external=False)
        unshadow(pkg)


def rewrite(thing: griffe.Object) -> None:
    """The docstrings of an object and of all that it holds."""
    if thing.docstring is not None:
        thing.docstring.value = fenced(one_by_one(thing.docstring.value))
    for member in thing.members.values():
        if isinstance(member, griffe.Object):
            rewrite(member)


def fenced(text: str) -> str:
    """With each doctest between fences, from its first `>>>` to the end of the paragraph."""
    lines = []
    is_inside = False
    for line in text.split("\n"):
        begins = line.startswith(">>> ")
        if begins and not is_inside:
            lines.append("```pycon")
        if is_inside and not line.strip():
            lines.append("```")
            is_inside = False
        is_inside = is_inside or begins
        lines.append(line)
    if is_inside:
        lines.append("```")
    return "\n".join(lines)


def one_by_one(text: str) -> str:
    """With a description that several names share said of each."""
    lines = text.split("\n")
    found = []
    while lines:
        line = lines.pop(0)
        shared = _SHARED.fullmatch(line)
        if shared is None:
            found.append(line)
            continue
        rest = []
        while lines and lines[0].startswith(shared["indent"] + " "):
            rest.append(lines.pop(0))
        for name in shared["names"].split(", "):
            found += [f"{shared['indent']}{name}: {shared['text']}", *rest]
    return "\n".join(found)


def unshadow(package: griffe.Module) -> None:
    """Let `limit.solve` be the function, as it is for whoever imports `limit`, not the module limit/solve.py."""
    for name, module in list(package.members.items()):
        if module.is_alias or not module.is_module:
            continue
        unshadow(module)
        if name in module.members and not module.members[name].is_module:
            package.members[name] = griffe.Alias(name, module.members[name], parent=package)
