"""The `isoscale` command: each verb reads its flags, calls one function, prints and draws.

Exit codes: 0 done, 1 a check that was asked for failed, trials failed or the cluster was lost, 2 bad input,
130 interrupted.
Nothing here imports torch before a command runs, so that `--help` answers at once.
"""

from __future__ import annotations

import functools
import io
import logging
import operator
import sys
from collections.abc import Sequence
from typing import Annotated, Any, Protocol

import tyro

import isoscale
from isoscale.cli.audit import AuditCommand
from isoscale.cli.check import CheckCommand
from isoscale.cli.doctor import Doctor
from isoscale.cli.judge import JudgeCommand
from isoscale.cli.law import LawCommand
from isoscale.cli.limit import LimitCommand
from isoscale.cli.lr import LrCommand
from isoscale.cli.plan import PlanCommand
from isoscale.cli.reproduce import ReproduceCommand
from isoscale.cli.rules import Rules
from isoscale.cli.store import VERBS, StoreCommand
from isoscale.cli.sweep import SweepCommand
from isoscale.cli.terminal import console, error_console, print_error
from isoscale.cli.transfer import TransferCommand
from isoscale.cli.typed import as_parsed
from isoscale.errors import ClusterError, InvalidValueError, IsoscaleError


class Command(Protocol):
    """What was typed, with its flags."""

    def run(self) -> int:
        """Do it; the exit code."""
        ...


_COMMANDS: dict[str, type[Command]] = {
    "transfer": TransferCommand,
    "sweep": SweepCommand,
    "judge": JudgeCommand,
    "law": LawCommand,
    "limit": LimitCommand,
    "reproduce": ReproduceCommand,
    "plan": PlanCommand,
    "audit": AuditCommand,
    "check": CheckCommand,
    "lr": LrCommand,
    "rules": Rules,
    "store": StoreCommand,
    "doctor": Doctor,
}

# Commands whose trials are kept in a store: interrupted, they go on where they were.
_SWEEPS = (TransferCommand, SweepCommand, LawCommand, ReproduceCommand)

# Say what happens while it happens; of every command, so none has it as a flag of its own.
_VERBOSE = ("-v", "--verbose")

# Where to write it beside.
_LOG_FILE = "--log-file"

# Flags without the names of their groups, each in one form, and no "None" to type where a flag may be left out.
_FORM = (
    tyro.conf.DisallowNone,
    tyro.conf.FlagCreatePairsOff,
    tyro.conf.OmitArgPrefixes,
    tyro.conf.OmitSubcommandPrefixes,
)

_DESCRIPTION = (
    "Make a neural network train the same way at every width and depth: tune a small model once, "
    "get the init and learning rates of the large one, proved by measurement. "
    "`isoscale COMMAND --help` has the flags and an example; --version prints the version, -v says more, "
    "--log-file FILE writes it down."
)


def main(arguments: Sequence[str] | None = None) -> None:
    """Run one command and exit with its code."""
    given = list(sys.argv[1:] if arguments is None else arguments)
    # What a terminal without Unicode cannot show is escaped, as it is on standard error.
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")
    if given == ["--version"]:
        console().print(f"isoscale {isoscale.__version__}")
        sys.exit(0)
    verbose = [flag for flag in given if flag in _VERBOSE]
    given = [flag for flag in given if flag not in _VERBOSE]
    given, log_file = _log_file(given)
    try:
        command = parsed(given)
    except InvalidValueError as error:
        print_error(error)
        sys.exit(2)
    try:
        _log(bool(verbose), log_file)
        code = command.run()
    except IsoscaleError as error:
        # Anything else that is raised is our own mistake and shows its traceback.
        print_error(error)
        code = 1 if isinstance(error, ClusterError) else 2
    except KeyboardInterrupt:
        said = "interrupted"
        if isinstance(command, _SWEEPS):
            said += ": every finished shard is in the store; the same command goes on from there"
        error_console().print(said)
        code = 130  # what a shell says of a command that Ctrl-C ended
    sys.exit(code)


def parsed(given: Sequence[str]) -> Command:
    """The command with its flags; what asks for help or cannot be parsed ends the process.

    Raises:
        InvalidValueError: No such command.
    """
    own = {name: VERBS if kind is StoreCommand else () for name, kind in _COMMANDS.items()}
    arguments = as_parsed(list(given), own)
    # The list of all commands has a line for each; the help of one has all that there is to say.
    is_list = arguments[0] in ("-h", "--help")
    kinds: list[Any] = []
    for name, kind in _COMMANDS.items():
        summary = (kind.__doc__ or "").partition("\n")[0] if is_list else None
        kinds.append(Annotated[kind, tyro.conf.subcommand(name, description=summary)])
    return tyro.cli(
        functools.reduce(operator.or_, kinds),
        prog="isoscale",
        description=_DESCRIPTION,
        args=arguments,
        config=_FORM,
    )


def _log_file(given: list[str]) -> tuple[list[str], str | None]:
    """The arguments without `--log-file FILE`, and the file."""
    rest: list[str] = []
    file: str | None = None
    words = iter(given)
    for word in words:
        name, equals, value = word.partition("=")
        if name != _LOG_FILE:
            rest.append(word)
            continue
        file = value if equals else next(words, "")
        if not file:
            print_error(InvalidValueError(f"`{_LOG_FILE}` needs the name of a file"))
            sys.exit(2)
    return rest, file


def _log(is_verbose: bool, file: str | None) -> None:
    """What is said goes to standard error, and all that could be said to a file, with its time.

    Raises:
        InvalidValueError: The file cannot be written.
    """
    console = logging.StreamHandler(sys.stderr)
    console.setLevel(logging.INFO if is_verbose else logging.WARNING)
    console.setFormatter(logging.Formatter("%(levelname)s: %(message)s"))
    handlers: list[logging.Handler] = [console]
    if file is not None:
        try:
            to_file = logging.FileHandler(file, encoding="utf-8")
        except OSError as error:
            raise InvalidValueError(f"`{_LOG_FILE}` {file} cannot be written: {error.strerror}") from error
        to_file.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(name)s: %(message)s"))
        handlers.append(to_file)
    level = logging.INFO if is_verbose or file is not None else logging.WARNING
    logging.basicConfig(level=level, handlers=handlers)
