"""What was typed, brought to the one form that the commands parse.

The model stands behind the command or behind `--model`, whichever command it is; a command that there is not is
answered with those whose names are near.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping

from isoscale.errors import unknown

# Commands whose model is parsed by its place, and those whose model is parsed as a flag.
_BY_PLACE = ("audit", "check", "law", "lr")
_BY_FLAG = ("plan", "sweep", "transfer")

_MODEL = "--model"


def as_parsed(given: list[str], commands: Mapping[str, Collection[str]]) -> list[str]:
    """The arguments as the parser takes them; without any, what asks for the help.

    Args:
        given: The words behind `isoscale`.
        commands: Each command's name, with the names of its own commands.

    Raises:
        InvalidValueError: No such command.

    >>> as_parsed(["audit", "--seeds", "2", "--model", "gpt"], {"audit": ()})
    ['audit', 'gpt', '--seeds', '2']
    >>> as_parsed(["plan", "gpt"], {"plan": ()})
    ['plan', '--model', 'gpt']
    >>> as_parsed(["adit"], {"audit": ()})
    Traceback (most recent call last):
    isoscale.errors.InvalidValueError: no command named 'adit'. Nearest: audit. All: audit
    """
    if not given:
        return ["--help"]
    command, *rest = given
    if command.startswith("-"):
        return given
    if command not in commands:
        raise unknown("command", command, commands)
    own = commands[command]
    if own and rest and not rest[0].startswith("-") and rest[0] not in own:
        raise unknown(f"{command} command", rest[0], own)
    if command in _BY_FLAG and rest and not rest[0].startswith("-"):
        return [command, _MODEL, *rest]
    if command in _BY_PLACE:
        return [command, *_model_first(rest)]
    return given


def _model_first(rest: list[str]) -> list[str]:
    """With the value of `--model` in front, without the flag."""
    for place, word in enumerate(rest):
        name, equals, value = word.partition("=")
        if name != _MODEL:
            continue
        before, after = rest[:place], rest[place + 1 :]
        if equals:
            return [value, *before, *after]
        if after and not after[0].startswith("-"):
            return [after[0], *before, *after[1:]]
    return rest
