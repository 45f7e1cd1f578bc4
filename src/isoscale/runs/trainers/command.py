"""Any program that prints its loss: one run, one trial, in a process group of its own."""

from __future__ import annotations

import collections
import contextlib
import json
import math
import os
import re
import signal
import subprocess
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from isoscale.runs.spec import Sweep
from isoscale.runs.trainers import fingerprint, foreign, template
from isoscale.runs.trainers.foreign import ForeignShard, Outcome
from isoscale.runs.trainers.handed import HandedTrial

# Longer lines are read in pieces: a program may print a gigabyte without an end of line.
_LINE_BYTES = 2**16

_TAIL_BYTES = 2**12
_LONGEST_QUOTE = 200

# A loss that is not finite is printed as a word, which a pattern of digits passes over to an earlier, finite one. So
# a line with such a word is read once more with this number in its place: another match is that word's.
_NOT_FINITE = re.compile(r"(?<![\w.])[-+]?(?:nan|inf(?:inity)?)(?!\w)", re.IGNORECASE)
_STAND_IN = "3.14159265358979"

# Reads the program's group, then waits for a word: none comes if the process that started it is gone, however it went.
_SHELL = "/bin/sh"
_GUARD = 'read -r group; read -r word || [ -z "$group" ] || kill -s KILL -- "-$group"'


def shards(spec: Sweep, store: str | os.PathLike[str]) -> list[ForeignShard]:
    """The trials of a sweep, each a shard."""
    assert spec.command is not None
    program = CommandProgram(
        fingerprint.command_name(spec.command), spec.command, spec.loss_pattern, folder=os.getcwd()
    )
    return foreign.shards(spec, program, _settings(spec), fingerprint.of_command(spec.command), store)


def _settings(spec: Sweep) -> dict[str, Any]:
    """What determines a trial beside its axes: the settings that the command has a placeholder for."""
    assert spec.command is not None
    said = {"optimizer": {"family": spec.optimizer}, "steps": spec.longest, "batch_size": spec.batch_size}
    used = template.names(spec.command)
    settings: dict[str, Any] = {name: value for name, value in said.items() if name in used}
    return settings | {"loss_pattern": spec.loss_pattern or ""}


def arguments(shard: ForeignShard, device: str) -> list[str]:
    """What a trial runs, for a person to see; its folder is named and not made."""
    program = shard.program
    assert isinstance(program, CommandProgram)
    return program.arguments(shard.handed(device), shard.folder)


@dataclass(frozen=True)
class CommandProgram:
    """A command line, as it travels to a worker.

    Attributes:
        name: What a person calls it.
        command: With its placeholders.
        loss_pattern: What its first group finds in a line is the loss; None: a line of JSON has it.
        folder: Where it runs.
    """

    name: str
    command: str
    loss_pattern: str | None
    folder: str

    kind = "command"

    def arguments(self, trial: HandedTrial, folder: Path | None) -> list[str]:
        """The command with a trial's values in place of the placeholders."""
        values: dict[str, Any] = {"steps": trial.steps, "batch_size": trial.batch_size, "optimizer": trial.optimizer}
        values |= trial.sizes | trial.hyperparameters
        values |= {"rule": trial.rule, "lr": trial.lr, "seed": trial.seed, "device": trial.device, "folder": folder}
        return template.arguments(self.command, values)

    def run(self, trial: HandedTrial, log: Path, seconds: float | None, count: Callable[[int], None]) -> Outcome:
        """Run the program (`foreign.Program.run`)."""
        # A folder that nobody asks for is not made.
        folder = trial.folder if "folder" in template.names(self.command) else None
        arguments = self.arguments(trial, folder)
        begins = log.stat().st_size
        try:
            with log.open("ab") as output:
                code = self._wait(arguments, output.fileno(), trial.device, seconds)
        except OSError as error:
            return Outcome(status="failed", reason=f"cannot run `{arguments[0]}`: {error.strerror}")
        except subprocess.TimeoutExpired:
            return Outcome(status="failed", reason=f"the time limit of {seconds:g} s passed{_quoted(log, begins)}")
        if code != 0:
            ended = f"exit code {code}" if code > 0 else f"ended by {signal.Signals(-code).name}"
            return Outcome(status="failed", reason=f"{ended}{_quoted(log, begins)}")
        return self._read(log, begins, trial.sizes | trial.hyperparameters)

    def _wait(self, arguments: list[str], output: int, device: str, seconds: float | None) -> int:
        """Run to the end; on an error, a time limit or an interrupt the program's whole group is killed."""
        with _guard() as tell:
            process = subprocess.Popen(
                arguments,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                cwd=self.folder,
                env=_environment(device),
                start_new_session=True,
            )
            try:
                tell(process.pid)
                return process.wait(seconds)
            except BaseException:
                end_group(process.pid)
                process.wait()
                raise

    def _read(self, log: Path, begins: int, axes: Mapping[str, Any]) -> Outcome:
        if self.loss_pattern is None:
            found = _last_json(log, begins)
            wanted = 'no line is a JSON object with "loss"'
        else:
            found = _last_match(log, begins, re.compile(self.loss_pattern))
            wanted = f"no line has {self.loss_pattern!r}"
        if found is None:
            return Outcome(status="failed", reason=f"it printed no loss: {wanted}{_quoted(log, begins)}")
        return foreign.measured(found, f"{self.name} printed", [], axes)


def _environment(device: str) -> dict[str, str]:
    """The program's: a GPU of its own where workers have one each, and one thread unless it was told otherwise."""
    environment = dict(os.environ)
    kind, _, number = device.partition(":")
    if kind == "cuda" and number:
        visible = environment.get("CUDA_VISIBLE_DEVICES", "").split(",")
        environment["CUDA_VISIBLE_DEVICES"] = visible[int(number)] if visible != [""] else number
    environment.setdefault("OMP_NUM_THREADS", "1")
    return environment


def end_group(leader: int) -> None:
    """Kill a process and all that it started: its group, or where there are no groups its children and theirs."""
    if hasattr(os, "killpg"):
        with contextlib.suppress(ProcessLookupError):
            os.killpg(leader, signal.SIGKILL)
        return
    import psutil

    with contextlib.suppress(psutil.NoSuchProcess):
        process = psutil.Process(leader)
        for member in [*process.children(recursive=True), process]:
            with contextlib.suppress(psutil.NoSuchProcess):
                member.kill()


@contextlib.contextmanager
def _guard() -> Iterator[Callable[[int], None]]:
    """A process that kills the group it is told of if this process ends before the block does."""
    if not os.path.exists(_SHELL):  # Windows, where a killed worker's program runs to its own end
        yield lambda group: None
        return
    watcher = subprocess.Popen(
        [_SHELL, "-c", _GUARD], stdin=subprocess.PIPE, stderr=subprocess.DEVNULL, start_new_session=True
    )
    assert watcher.stdin is not None
    pipe = watcher.stdin

    def tell(group: int) -> None:
        pipe.write(b"%d\n" % group)
        pipe.flush()

    try:
        yield tell
    finally:
        with contextlib.suppress(BrokenPipeError):
            pipe.write(b"done\n")
            pipe.close()
        watcher.kill()
        watcher.wait()


# --- what it printed ---
def _lines(log: Path, begins: int) -> Iterator[str]:
    """Lines of a log from a place on, long ones in pieces, so that no log is ever in memory as a whole."""
    with log.open("rb") as file:
        file.seek(begins)
        while piece := file.readline(_LINE_BYTES):
            yield piece.decode("utf-8", "replace").rstrip("\r\n")


def _last_match(log: Path, begins: int, pattern: re.Pattern[str]) -> float | str | None:
    """The loss of the last line that has one; text if that is no number."""
    found: float | str | None = None
    for line in _lines(log, begins):
        text = _last_group(pattern, line)
        stood_in = _NOT_FINITE.sub(_STAND_IN, line)
        if stood_in != line and _last_group(pattern, stood_in) != text:
            found = math.nan
        elif text is not None:
            found = _as_loss(text)
    return found


def _last_group(pattern: re.Pattern[str], line: str) -> str | None:
    found = None
    for match in pattern.finditer(line):
        found = match[1]
    return found


def _as_loss(text: str) -> float | str:
    try:
        # A sentence ends with a full stop, which many a pattern takes along.
        return float(text.rstrip(".,"))
    except ValueError:
        return text


def _last_json(log: Path, begins: int) -> dict[str, Any] | None:
    """The last line that is a JSON object with "loss"."""
    found = None
    for line in _lines(log, begins):
        if line.lstrip().startswith("{") and '"loss"' in line:
            with contextlib.suppress(ValueError, RecursionError):
                value = json.loads(line)
                if isinstance(value, dict) and "loss" in value:
                    found = value
    return found


def _quoted(log: Path, begins: int) -> str:
    """The last line that was printed, as the end of a sentence."""
    with log.open("rb") as file:
        size = file.seek(0, os.SEEK_END)
        file.seek(max(begins, size - _TAIL_BYTES))
        lines = collections.deque(file.read().decode("utf-8", "replace").split("\n"))
    while lines and not lines[-1].strip():
        lines.pop()
    if not lines:
        return "; it printed nothing"
    last = " ".join(lines[-1].split())
    return f"; its last line: {last[:_LONGEST_QUOTE]}"
