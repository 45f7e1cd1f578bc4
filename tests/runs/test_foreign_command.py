"""Sweeps over any program: what it is told, where its loss is found, and what becomes of it when it is interrupted."""

from __future__ import annotations

import math
import os
import signal
import stat
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest

import isoscale
from isoscale.errors import InvalidTypeError, InvalidValueError
from isoscale.runs import Store, Sweep, sweep
from isoscale.runs.trainers import command, template

GRID: dict[str, Any] = {"widths": [4, 8], "lrs": [0.25, 0.5], "seeds": 1}


@pytest.fixture
def store(tmp_path: Path) -> Path:
    return tmp_path / "s.db"


@pytest.fixture
def run(
    inline: Any, store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Callable[..., isoscale.SweepResult]:
    """`run("./train {width} {lr}")` in a folder of its own."""
    monkeypatch.chdir(tmp_path)

    def swept(text: str, **changes: Any) -> isoscale.SweepResult:
        options = {name: changes.pop(name) for name in ("reuse", "fresh") if name in changes}
        return sweep(Sweep(command=text, **(GRID | changes)), store=store, **options)

    return swept


@pytest.fixture
def program(tmp_path: Path) -> Callable[[str], str]:
    """`program("echo loss $1")`: a shell script and its name, which starts far faster than Python."""

    def write(text: str) -> str:
        path = tmp_path / "train.sh"
        path.write_text(f"#!/bin/sh\n{text}\n")
        path.chmod(path.stat().st_mode | stat.S_IXUSR)
        return "./train.sh"

    return write


ONE = {"widths": [4], "lrs": [0.5]}


def test_the_last_match_is_the_loss(run: Callable[..., Any], program: Callable[[str], str]):
    train = program('echo "val loss 9.5"; echo "step 2 val loss $1.25, lr $2"; echo bye')
    found = run(f"{train} {{width}} {{lr}}", loss_pattern=r"val loss ([0-9.]+)")
    assert found.loss.dims == ("rule", "width", "lr", "seed")
    assert found.loss.squeeze().values.tolist() == [[4.25, 4.25], [8.25, 8.25]]
    assert "curve" not in found.data


def test_without_a_pattern_a_line_of_json_has_it(run: Callable[..., Any], program: Callable[[str], str]):
    train = program(
        """echo '{"loss": 3}'; echo '{"step": 1}'; echo '{"loss": 0.1, "tokens": 5, "name": "x"}'; echo end"""
    )
    found = run(f"{train} {{width}} {{lr}}")
    assert (found.loss == 0.1).all()
    assert (found.data["tokens"] == 5).all()
    assert "name" not in found.data


def test_every_placeholder(run: Callable[..., Any], program: Callable[[str], str], tmp_path: Path):
    train = program('echo "$@" > "$1/said"; echo \'{"loss": 1}\'')
    found = run(
        f"{train} "
        "{folder} {rule} {width} {depth} {batch_size} {experts} {dropout} {lr} {seed} {steps} "
        "{device} {optimizer} {{literal}} '{\"a\": {width}}'",
        rule=["sp"],
        depths=[2],
        batch_sizes=[16],
        sizes={"experts": [3]},
        hyperparameters={"dropout": [0.5]},
        lrs=[2.0**-10],
        widths=[4],
        seeds=[7],
        steps=9,
        optimizer="adamw",
    )
    assert found.reasons == ()
    (folder,) = Path(tmp_path, "s.db.trials").iterdir()
    said = (folder / "said").read_text().split(" ", 1)
    assert said[0] == str(folder)
    assert said[1] == 'sp 4 2 16 3 0.5 0.0009765625 7 9 cpu adamw {literal} {"a": 4}\n'


@pytest.mark.parametrize("said", ["nan", "NaN", "inf", "-inf", "Infinity", "+inf"])
@pytest.mark.parametrize("pattern", [r"loss ([0-9.]+)", r"loss (\d\.\d+)", r"loss (\S+)", r"loss ([-+.\de]+)"])
def test_a_loss_that_is_not_finite_hides_behind_no_earlier_one(
    run: Callable[..., Any], program: Callable[[str], str], said: str, pattern: str
):
    """A pattern of digits passes over a "nan"; the finite loss before it is not the result."""
    found = run(f"{program(f'echo loss 0.5; echo loss {said} now')} {{width}} {{lr}}", loss_pattern=pattern, **ONE)
    assert found.count("diverged") == 1


def test_a_nan_beside_the_loss_is_none_of_its_business(run: Callable[..., Any], program: Callable[[str], str]):
    found = run(f"{program('echo loss 0.5, accuracy nan')} {{width}} {{lr}}", loss_pattern=r"loss ([0-9.]+)", **ONE)
    assert found.loss.item() == 0.5


def test_divergence_in_json(run: Callable[..., Any], program: Callable[[str], str]):
    train = program("""echo '{"loss": NaN}'""")
    assert run(f"{train} {{width}} {{lr}}", **ONE).count("diverged") == 1


@pytest.mark.parametrize(
    ("text", "changes", "reason"),
    [
        ("echo hello", {}, 'it printed no loss: no line is a JSON object with "loss"; its last line: hello'),
        (
            "echo hello",
            {"loss_pattern": "loss (.*)"},
            "it printed no loss: no line has 'loss (.*)'; its last line: hello",
        ),
        ("true", {}, "it printed no loss"),
        ("true", {}, "it printed nothing"),
        ("echo 'CUDA is gone' >&2; echo; exit 3", {}, "exit code 3; its last line: CUDA is gone"),
        ("kill -9 $$", {}, "ended by SIGKILL"),
        ("echo loss 1.2.3", {"loss_pattern": r"loss ([0-9.]+)"}, "train.sh printed '1.2.3': a loss is one number"),
        ("sleep 60", {"time_limit": 0.2}, "the time limit of 0.2 s passed"),
    ],
)
def test_a_program_that_fails_says_why(
    run: Callable[..., Any], program: Callable[[str], str], text: str, changes: dict[str, Any], reason: str
):
    found = run(f"{program(text)} {{width}} {{lr}}", **ONE, **changes)
    (said,) = found.reasons
    assert reason in said
    assert found.count("failed") == 1
    assert Path(said.rpartition("log: ")[2].rstrip(")")).is_file()


def test_a_program_that_is_not_there(run: Callable[..., Any]):
    (reason,) = run("pyton train.py {width} {lr}").reasons
    assert reason.startswith("cannot run `pyton`: No such file or directory (4 trials, one's log: ")


def test_a_sentence_may_end_after_the_loss(run: Callable[..., Any], program: Callable[[str], str]):
    found = run(f"{program('echo The loss is 0.25.')} {{width}} {{lr}}", loss_pattern=r"loss is ([0-9.]+)", **ONE)
    assert found.loss.item() == 0.25


def test_a_large_output_is_in_the_log_and_never_in_memory(
    run: Callable[..., Any], program: Callable[[str], str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
):
    """Of lines without an end, too: no piece that is read is longer than the limit."""
    train = program("head -c 20000000 /dev/zero | tr '\\0' x; echo; echo loss 0.5")
    longest = []
    lines = command._lines

    def spy(log: Path, begins: int) -> Any:
        for line in lines(log, begins):
            longest.append(len(line))
            yield line

    monkeypatch.setattr(command, "_lines", spy)
    found = run(f"{train} {{width}} {{lr}}", loss_pattern=r"loss ([0-9.]+)", **ONE)
    assert found.loss.item() == 0.5
    assert max(longest) <= command._LINE_BYTES
    (log,) = Path(tmp_path, "s.db.logs").iterdir()
    assert log.stat().st_size > 20_000_000


def test_a_pipe_needs_a_shell(run: Callable[..., Any], program: Callable[[str], str]):
    train = program("echo loss 0.75; echo loss 0.5")
    found = run(f"{train} {{width}} {{lr}} | head -n 1", loss_pattern=r"loss ([0-9.]+)", **ONE)
    assert found.loss.item() == 0.75


@pytest.mark.parametrize(
    ("text", "needs"),
    [
        ("train --lr {lr}", False),
        ("train 'a | b' --json '{\"a\": 1}'", False),
        ("train | tee log", True),
        ("A=1 train && echo", True),
        ("train $HOME", True),
        ("train '$HOME'", False),
        ('train "$HOME"', True),
        ("train *.txt", True),
        ("train > out", True),
        ("~/bin/train", True),
    ],
)
def test_when_a_shell_is_needed(text: str, needs: bool):
    assert template.needs_shell(text) is needs


def test_the_time_limit_ends_the_whole_group(
    run: Callable[..., Any], program: Callable[[str], str], tmp_path: Path, until: Callable[..., bool]
):
    """Also what the program started and left running."""
    train = program("sleep 300 & echo $! > child; sleep 300")
    run(f"{train} {{width}} {{lr}}", time_limit=0.5, **ONE)
    child = int((tmp_path / "child").read_text())
    assert until(lambda: _is_gone(child), 10)


def _is_gone(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] in "ZX"
    except (FileNotFoundError, ProcessLookupError):
        return True


def test_its_text_and_its_script_are_its_source(
    run: Callable[..., Any], program: Callable[[str], str], inline: Any, tmp_path: Path
):
    text = f"sh {program('echo loss 1')} {{width}} {{lr}}"
    pattern = r"loss ([0-9.]+)"
    run(text, loss_pattern=pattern)
    inline.ran.clear()
    run(text, loss_pattern=pattern)
    assert inline.ran == []
    program("echo loss 2")
    with pytest.raises(InvalidValueError, match=r"train.sh changed: of these 4 trials, .* has 4 .*--fresh"):
        run(text, loss_pattern=pattern)
    assert (run(text, loss_pattern=pattern, reuse=True).loss == 1).all()
    assert (run(text, loss_pattern=pattern, fresh=True).loss == 2).all()
    with pytest.raises(InvalidValueError, match=r"train\.sh changed"):
        run(f"{text} --faster", loss_pattern=pattern)


@pytest.mark.parametrize(
    ("settings", "error", "message"),
    [
        ({"command": "t {lr}"}, InvalidValueError, r"`command` has no \{width\}, which the sweep has"),
        ({"command": "t {width} {lr}", "seeds": 2}, InvalidValueError, r"has no \{seed\}"),
        ({"command": "t {width} {lr}", "rule": "sp"}, InvalidValueError, r"has no \{rule\}"),
        ({"command": "t {width} {lr}", "steps": 7}, InvalidValueError, r"has no \{steps\}"),
        ({"command": "t {width} {lr}", "sizes": {"a": [1]}}, InvalidValueError, r"has no \{a\}"),
        (
            {"command": "t {width} {lr} {wdth}"},
            InvalidValueError,
            r"no placeholder named '\{wdth\}'. Nearest: \{width\}",
        ),
        ({"command": "t {width} {lr} {depth}"}, InvalidValueError, r"no placeholder named '\{depth\}'"),
        (
            {"command": "t {width} {lr}", "weight_decay": 0.1},
            InvalidValueError,
            "`weight_decay` does not reach a command",
        ),
        ({"command": "t {width} {lr} 'x"}, InvalidValueError, "`command` cannot be read: No closing quotation"),
        ({"command": " "}, InvalidTypeError, "`command` must be a command line"),
        ({"command": ["t"]}, InvalidTypeError, "`command` must be a command line"),
        (
            {"command": "t {width} {lr}", "loss_pattern": "("},
            InvalidValueError,
            "`loss_pattern` is no regular expression",
        ),
        ({"command": "t {width} {lr}", "loss_pattern": "loss"}, InvalidValueError, "`loss_pattern` has no group"),
    ],
)
def test_what_makes_no_sense_is_named(settings: dict[str, Any], error: type[Exception], message: str):
    with pytest.raises(error, match=message):
        Sweep(**(GRID | settings))


def test_a_command_has_no_parts():
    with pytest.raises(InvalidValueError, match="is a program, which has no parts here"):
        Sweep(command="t {width} {lr}", **GRID).trial(width=4, lr=0.25)


def test_how_long_it_took_is_kept(run: Callable[..., Any], program: Callable[[str], str], store: Path):
    run(f"{program('echo loss 1')} {{width}} {{lr}}", loss_pattern=r"loss ([0-9.]+)", **ONE)
    with Store(store) as opened:
        (trial,) = opened.trials()
    assert 0 < trial.measured["seconds"] < 60
    assert trial.settings()["loss_pattern"] == r"loss ([0-9.]+)"


# --- processes --------------------------------------------------------------------------------------------------

INTERRUPTED: dict[str, Any] = {
    "command": "./train.sh {lr}", "loss_pattern": "loss ([0-9.]+)", "lrs": [1.0, 2.0, 3.0], "seeds": 1,
}  # fmt: skip
SCRIPT = f"""
    import isoscale
    isoscale.sweep(isoscale.Sweep(**{INTERRUPTED!r}), store="s.db", workers=1)
"""


@pytest.mark.parametrize(
    "number",
    [
        pytest.param(signal.SIGINT, marks=pytest.mark.nightly, id="SIGINT"),
        pytest.param(signal.SIGTERM, marks=pytest.mark.nightly, id="SIGTERM"),
        pytest.param(signal.SIGKILL, id="SIGKILL"),
    ],
)
def test_an_interrupted_sweep_loses_what_is_in_flight_and_leaves_nothing_running(
    program: Callable[[str], str],
    inline: Any,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    start: Callable[..., Any],
    until: Callable[..., bool],
    number: signal.Signals,
):
    """The first trial waits until another may go on; it is stored, the second is killed with all it started."""
    program('echo $1 >> ran; if [ "$1" != 1.0 ] && [ ! -e go ]; then sleep 300 & wait; fi; echo loss $1')
    process = start(SCRIPT)
    assert until(lambda: _lines_of(tmp_path / "ran") == 2, 60), "the second trial runs"
    assert until(lambda: _stored(tmp_path / "s.db") == 1, 30)
    process.signal(number)
    process.wait()
    assert process.gone_within(20), "a program outlives its sweep"
    (tmp_path / "go").touch()
    monkeypatch.chdir(tmp_path)
    assert sweep(Sweep(**INTERRUPTED), store="s.db").count("done") == 3
    assert _lines_of(tmp_path / "ran") == 4, "one trial ran twice"


def _lines_of(path: Path) -> int:
    return len(path.read_text().splitlines()) if path.exists() else 0


def _stored(path: Path) -> int:
    if not path.exists():
        return 0
    with Store(path) as opened:
        return opened.count()


def test_values_are_written_so_that_a_float_reads_them_back():
    arguments = template.arguments("t {lr}", {"lr": 0.1 + 0.2})
    assert float(arguments[1]) == 0.1 + 0.2
    assert not math.isnan(float(arguments[1]))
    assert np.float64(arguments[1]) == 0.1 + 0.2
    assert os.sep not in arguments[1]


@pytest.mark.parametrize(
    ("device", "visible", "seen"),
    [
        ("cpu", "", ""),
        ("cuda:1", "", "1"),
        ("cuda:1", "4,6", "6"),
        ("cuda", "2", "2"),
        ("cuda:0", "GPU-aa,GPU-bb", "GPU-aa"),
    ],
)
def test_a_program_sees_the_gpu_of_its_worker(monkeypatch: pytest.MonkeyPatch, device: str, visible: str, seen: str):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    assert command._environment(device).get("CUDA_VISIBLE_DEVICES") == seen


def test_a_program_gets_one_thread_unless_it_was_told_otherwise(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    assert command._environment("cpu")["OMP_NUM_THREADS"] == "1"
    monkeypatch.setenv("OMP_NUM_THREADS", "4")
    assert command._environment("cpu")["OMP_NUM_THREADS"] == "4"


def test_what_a_program_started_ends_with_it_also_where_there_are_no_groups(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    """As on Windows: no process groups, and no shell to keep watch."""
    monkeypatch.delattr(os, "killpg")
    grandchild = f"open({str(tmp_path / 'ready')!r}, 'w').close(); import time; time.sleep(60)"
    child = f"import subprocess, sys; subprocess.run([sys.executable, '-c', {grandchild!r}])"
    process = subprocess.Popen([sys.executable, "-c", child])
    while not (tmp_path / "ready").exists():
        assert process.poll() is None
    (started,) = psutil.Process(process.pid).children(recursive=True)
    command.end_group(process.pid)
    process.wait()
    psutil.wait_procs([started], timeout=30)
    assert not started.is_running()
    command.end_group(process.pid)  # gone already
