"""A command line with placeholders: `python train.py --width {width} --lr {lr}`.

What is no word in braces stays as it is ({"a": 1}, ${HOME}), and so does a doubled pair: {{width}} is {width}.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Collection, Iterable, Mapping
from typing import Any

from isoscale.errors import InvalidValueError, unknown

_PLACEHOLDER = re.compile(r"\{\{(?P<literal>[A-Za-z_]\w*)\}\}|(?<!\$)\{(?P<name>[A-Za-z_]\w*)\}")


def names(command: str) -> set[str]:
    """Names of the placeholders.

    >>> sorted(names("./run {width} {{no}} ${HOME} '{\\"a\\": 1}' {lr}"))
    ['lr', 'width']
    """
    return {match["name"] for match in _PLACEHOLDER.finditer(command) if match["name"]}


def words(command: str) -> list[str]:
    """The words of a command line.

    Raises:
        InvalidValueError: A quotation that does not end.
    """
    try:
        return shlex.split(command)
    except ValueError as error:
        raise InvalidValueError(f"`command` cannot be read: {error}: {command}") from error


def check(command: str, needed: Iterable[str], known: Collection[str]) -> None:
    """Raise InvalidValueError unless a command has a placeholder for all that is needed, and none that is unknown."""
    words(command)
    found = names(command)
    for name in sorted(found):
        if name not in known:
            raise unknown("placeholder", f"{{{name}}}", [f"{{{one}}}" for one in known])
    missing = [f"{{{name}}}" for name in needed if name not in found]
    if missing:
        raise InvalidValueError(
            f"`command` has no {' and no '.join(missing)}, which the sweep has: the program would never hear of it: "
            f"{command}"
        )


def arguments(command: str, values: Mapping[str, Any]) -> list[str]:
    """The command as a list of arguments: a shell's where the command needs one, else its own words.

    >>> arguments("train --note 'a b' --lr {lr}", {"lr": 0.5})
    ['train', '--note', 'a b', '--lr', '0.5']
    >>> arguments("train {width} | tee out.txt", {"width": 8})
    ['/bin/sh', '-c', 'train 8 | tee out.txt']
    """
    if needs_shell(command):
        return ["/bin/sh", "-c", _filled(command, {name: shlex.quote(str(value)) for name, value in values.items()})]
    return [_filled(word, values) for word in words(command)]


def needs_shell(command: str) -> bool:
    """Whether a command has pipes, redirections, variables or patterns outside of quotation marks."""
    lexer = shlex.shlex(command, posix=False, punctuation_chars=True)
    lexer.whitespace_split = True
    lexer.commenters = ""
    for token in lexer:
        if token.startswith("'"):
            continue
        is_quoted = token.startswith('"')
        if "$" in token or "`" in token or (not is_quoted and re.search(r"[|&;<>()*?]|^~", token)):
            return True
    return False


def _filled(text: str, values: Mapping[str, Any]) -> str:
    def fill(match: re.Match[str]) -> str:
        return f"{{{match['literal']}}}" if match["literal"] else str(values[match["name"]])

    return _PLACEHOLDER.sub(fill, text)
