"""Docstrings as the site needs them: examples as code, and a row for each of several names that share a description."""

from __future__ import annotations

import re
from typing import Any

import griffe

# "    width, depth: Sizes." of a section of arguments or attributes.
_SHARED = re.compile(r"(?P<indent> +)(?P<names>\*?\w+(?:, \*?\w+)+): (?P<text>.*)")


class Docstrings(griffe.Extension):
    """What Markdown would take for prose, and what griffe would take for one name."""

    def on_object(self, *, obj: griffe.Object, **kwargs: Any) -> None:
        if obj.docstring is not None:
            obj.docstring.value = fenced(one_by_one(obj.docstring.value))


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
