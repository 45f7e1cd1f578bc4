"""`--help` answers at once: it imports no torch, nor anything else that takes its time."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Callable
from dataclasses import fields

import pytest

from isoscale import cli
from isoscale.cli.store import VERBS

Run = Callable[..., tuple[int, str, str]]
NAMES = [*cli._COMMANDS, *(f"store {verb}" for verb in VERBS)]

SLOW = {"torch", "scipy", "pandas", "xarray", "matplotlib", "jinja2", "pebble"}


EACH = """
import sys
from isoscale.__main__ import main
for line in sys.stdin.read().splitlines():
    sys.argv = ["isoscale", *line.split()]
    try:
        main()
    except SystemExit as ended:
        packages = {name.partition(".")[0] for name in sys.modules}
        print(line, ended.code, *sorted(packages & {"tyro", *SLOW}), sep="|", file=sys.stderr)
"""


def test_no_slow_import():
    """One after the other in one process: the first that imports too much is named."""
    commands = ["--help", "rules", "sweep --rule dept"]
    commands += [f"{name} --help" for name in NAMES]
    done = subprocess.run(
        [sys.executable, "-c", f"SLOW = {SLOW!r}{EACH}"],
        input="\n".join(commands),
        capture_output=True,
        text=True,
        timeout=300,
    )
    said = [line for line in done.stderr.splitlines() if "|" in line]
    for command in commands:
        code = 2 if "dept" in command else 0
        assert f"{command}|{code}|tyro" in said, done.stderr


@pytest.mark.parametrize("name", NAMES)
def test_each_help_has_an_example_that_parses(isoscale: Run, monkeypatch: pytest.MonkeyPatch, name: str):
    monkeypatch.setenv("COLUMNS", "200")
    code, out, errors = isoscale(*name.split(), "--help")
    assert (code, errors) == (0, "")
    example = re.search(rf"Example: isoscale ({name}\b.*)$", out, flags=re.MULTILINE)
    assert example
    assert type(cli.parsed(example[1].split())) is cli._COMMANDS[name.split()[0]]
    # What is left out is left out: no flag asks for the word None.
    assert "{None}" not in out


def test_the_command_alone_lists_all_with_a_line_for_each(isoscale: Run):
    alone = isoscale()
    assert alone == isoscale("--help")
    code, out, errors = alone
    assert (code, errors) == (0, "")
    assert [name for name in cli._COMMANDS if f" {name} " not in out] == []
    assert "Example:" not in out


@pytest.mark.parametrize(
    ("typed", "said"),
    [
        ("trasnfer", "no command named 'trasnfer'. Nearest: transfer"),
        ("store chekc", "no store command named 'chekc'. Nearest: check"),
    ],
)
def test_a_command_that_there_is_not_names_the_nearest(isoscale: Run, typed: str, said: str):
    code, out, errors = isoscale(*typed.split())
    assert (code, out) == (2, "")
    assert errors.startswith(f"error: {said}")
    assert errors.count("\n") == 1


@pytest.mark.parametrize("name", [name for name in cli._COMMANDS if name != "store"])
def test_a_model_stands_behind_the_command_or_its_flag(name: str):
    kind = cli._COMMANDS[name]
    of_grid = name in ("sweep", "transfer")
    if not of_grid and "model" not in {field.name for field in fields(kind)}:
        return
    rest = ["--base", "width=2", "--target", "width=4"] if name == "plan" else ["--seeds", "2"]
    forms = [["gpt", *rest], ["--model", "gpt", *rest], ["--model=gpt", *rest], [*rest, "--model", "gpt"]]
    read = [cli.parsed([name, *form]) for form in forms]
    assert all(command == read[0] for command in read)
    assert (read[0].grid if of_grid else read[0]).model == "gpt"


def test_the_same_defaults_everywhere():
    """Where a flag has a default of its own, it is the other commands' too; a study of the papers states theirs."""
    given = {"plan": ["--model", "m", "--base", "a=1", "--target", "a=2"], "judge": ["runs.csv"]}
    values: dict[str, set] = {}
    for name in ("transfer", "sweep", "judge", "plan", "audit", "check", "lr", "doctor"):
        command = cli.parsed([name, *given.get(name, [])])
        parts = [getattr(command, part) for part in ("grid", "place", "on", "verdict") if hasattr(command, part)]
        for part in (command, *parts):
            for flag in ("optimizer", "lr", "weight_decay", "batch_size", "store", "device", "level", "report", "data"):
                if getattr(part, flag, None) is not None:
                    values.setdefault(flag, set()).add(getattr(part, flag))
    assert {flag: found for flag, found in values.items() if len(found) > 1} == {}
    assert values["optimizer"] == {"adamw"}


@pytest.mark.skipif(sys.platform == "win32", reason="no SIGPIPE")
def test_a_reader_that_has_gone_gets_no_traceback():
    command = f"{sys.executable} -m isoscale rules | true; echo ${{PIPESTATUS[0]}}"
    done = subprocess.run(["bash", "-c", command], capture_output=True, text=True, timeout=60)
    assert "Traceback" not in done.stderr
    assert "Exception" not in done.stderr


@pytest.mark.parametrize("shell", ["bash", "zsh"])
def test_completion_is_printed(isoscale: Run, shell: str):
    code, out, errors = isoscale("--tyro-print-completion", shell)
    assert (code or 0, errors) == (0, "")
    assert "transfer" in out
