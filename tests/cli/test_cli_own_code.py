"""`isoscale sweep` and `transfer` of the user's own code."""

from __future__ import annotations

import json
import logging
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from isoscale import testing
from isoscale.runs.progress import Progress
from isoscale.testing import InlineEngine

FILE = """
def train(trial):
    # The best rate is 2^-3 at every size.
    import math
    return 1 + (math.log2(trial.lr) + 3) ** 2 / 10 + 0.001 * trial.seed + 1 / trial.sizes.get("experts", trial.width)
"""


@pytest.fixture(autouse=True)
def inline(monkeypatch: pytest.MonkeyPatch) -> Iterator[type[InlineEngine]]:
    monkeypatch.setattr(sys, "path", list(sys.path))
    with testing.inline() as engine:
        yield engine
    sys.modules.pop("mytrain", None)


@pytest.fixture
def script(tmp_path: Path) -> Path:
    path = tmp_path / "mytrain.py"
    path.write_text(FILE)
    (tmp_path / "run.sh").write_text("echo training; echo loss $1\n")
    return path


def test_a_function_is_swept(isoscale: Callable[..., Any], script: Path, inline: Any):
    grid = ["--widths", 16, 32, "--log2-lr", -5, -1, "--seeds", 2, "--size", "experts", 2, 4, "--store", "own.db"]
    code, out, err = isoscale("sweep", "--train", "mytrain.py:train", *grid)
    assert (code, err) == (0, "")
    assert len(inline.ran) == 2 * 2 * 5 * 2
    assert "40 trials in 40 shards, on 2 workers, how long shows when the first is done" in out
    assert "experts" in out
    assert "40 trials done, 0 diverged, in own.db" in out


def test_a_random_search_over_lengths_about_another_hyperparameter(
    isoscale: Callable[..., Any], script: Path, inline: Any
):
    grid = ["--widths", 16, "--steps", 20, 40, "--log2-lr", -6, 0, "--seeds", 2, "--search", "random", "--points", 8]
    tuned = ["--hyperparameter", "weight_decay", 0.01, 1, "--about", "weight_decay"]
    code, out, err = isoscale("transfer", "--train", "mytrain.py:train", *grid, *tuned, "--json")
    assert (code, err) == (0, "")
    assert len(inline.ran) == 2 * 8 * 2
    found = json.loads(out)
    assert found["question"] == "Does the weight_decay of steps 20 serve steps 40?"
    assert found["hyperparameter"] == "weight_decay"
    told = [(row["hyperparameter"], row["others"]) for row in found["tuned"]]
    assert told == [(name, others) for name in ("learning rate", "weight_decay") for others in ("best", "held")]
    code, _, err = isoscale("transfer", "--train", "mytrain.py:train", *grid, "--hyperparameter", "weight_decay")
    assert code == 2
    assert "what a question is about: --about" in err


def test_a_command_is_swept_and_shown_first(isoscale: Callable[..., Any], script: Path, inline: Any, tmp_path: Path):
    flags = ["--command", "sh run.sh {width} {lr}", "--loss-pattern", "loss ([0-9.]+)", "--widths", 4, 8]
    code, out, _ = isoscale("sweep", *flags, "--lrs", 0.5, 0.25, "--seeds", 1, "--dry-run")
    assert code == 0
    assert [line for line in out.splitlines() if line.startswith("sh ")] == [
        f"sh run.sh {width} {lr}" for width in (8, 4) for lr in (0.25, 0.5)
    ]
    assert inline.ran == []
    assert not (tmp_path / "isoscale.db").exists()
    code, out, _ = isoscale("sweep", *flags, "--lrs", 0.5, 0.25, "--seeds", 1, "--json")
    assert code == 0
    assert [row["loss"] for row in json.loads(out)] == [4, 8]


def test_a_failed_trial_names_its_log(isoscale: Callable[..., Any], tmp_path: Path):
    code, out, _ = isoscale("sweep", "--command", "sh nothing.sh {lr}", "--lrs", 0.5, 0.25, "--seeds", 1)
    assert code == 1
    assert "failed: exit code" in out
    assert "(2 trials, one's log: " in out


def test_a_changed_file_is_asked_about(isoscale: Callable[..., Any], script: Path):
    command = ["sweep", "--train", "mytrain.py:train", "--widths", 16, "--lrs", 0.5, "--seeds", 1]
    assert isoscale(*command)[0] == 0
    script.write_text(FILE.replace("/ 10", "/ 20"))
    code, _, err = isoscale(*command)
    assert code == 2
    assert "mytrain.py:train changed: of these 1 trials" in err
    assert isoscale(*command, "--reuse")[0] == 0
    assert isoscale(*command, "--fresh")[0] == 0
    assert isoscale(*command)[0] == 0


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ("--train nofile.py:train", "cannot import nofile.py"),
        ("--train mytrain.py:tran", "has no function `tran`; it has: train"),
        ("--train mytrain.py:train --model gpt", "`model` is for models that isoscale trains"),
        ("--train mytrain.py:train --phi relu", "`model_args` is for models that isoscale trains"),
        ("--train mytrain.py:train --size experts", "`--size` is written --size name value value ..., got experts"),
        ("--train mytrain.py:train --size a 1 --size a 2", "`--size a` is given twice"),
        ("--size experts 2", "residual-mlp has widths and depths"),
        ("--loss-pattern x", "`loss_pattern` finds the loss"),
    ],
)
def test_what_makes_no_sense_is_one_line(isoscale: Callable[..., Any], script: Path, flags: str, message: str):
    code, _, err = isoscale("sweep", *flags.split())
    assert code == 2
    assert message in err
    assert err.count("\n") == 1


def test_off_a_terminal_a_line_says_how_far_it_is(monkeypatch: pytest.MonkeyPatch, capsys: Any):
    """Every half minute by the clock, and nothing in between."""
    from isoscale.runs import progress

    now = [0.0]
    monkeypatch.setattr(progress.time, "monotonic", lambda: now[0])
    with progress.bars() as show:
        for seconds in range(0, 121, 5):
            now[0] = float(seconds)
            show(Progress({"sp": 100}, {"sp": 10 + seconds / 4}, 0))
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 4
    assert lines[0] == "17 of 100 trials after 0.5 min, about 6 min left"


def test_a_model_is_swept_with_what_is_beside_it(isoscale: Callable[..., Any], tmp_path: Path):
    (tmp_path / "mymodel.py").write_text(
        "import torch\n"
        "nn = torch.nn\n"
        "def make(width): return nn.Sequential(nn.Linear(3, width), nn.Tanh(), nn.Linear(width, 1))\n"
        "def batches(): return [(torch.ones(2, 3), torch.ones(2, 1))]\n"
        "def loss_fn(output, y): return (output - y).square().mean()\n"
    )
    flags = [
        "--widths",
        "4",
        "8",
        "--lrs",
        "0.01",
        "0.1",
        "--seeds",
        "1",
        "--steps",
        "5",
        "--rule",
        "mup",
        "--schedule",
        "cosine",
        "--warmup",
        "0.2",
    ]
    code, out, err = isoscale("sweep", "--model", "mymodel.py:make", *flags)
    assert (code, err) == (0, "")
    assert "4 trials done" in out
    sys.modules.pop("mymodel", None)


def test_a_log_file_has_every_trial_with_its_time(
    isoscale: Callable[..., Any], script: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    root = logging.getLogger()
    # As in a process of its own: pytest has handlers there.
    monkeypatch.setattr(root, "handlers", [])
    monkeypatch.setattr(root, "level", logging.WARNING)
    grid = ["--widths", 16, 32, "--lrs", 0.125, "--seeds", 2, "--log-file", "run.log"]
    code, _, err = isoscale("sweep", "--train", "mytrain.py:train", *grid)
    for handler in root.handlers:
        handler.close()
    assert (code, err) == (0, "")
    lines = (tmp_path / "run.log").read_text().splitlines()
    assert sum("INFO isoscale.runs.driver: trial " in line and ": done, loss 1." in line for line in lines) == 4
    code, _, err = isoscale("rules", "--log-file")
    assert (code, "`--log-file` needs the name of a file" in err) == (2, True)
    monkeypatch.setattr(root, "handlers", [])
    code, _, err = isoscale("rules", "--log-file=missing/run.log")
    assert (code, "`--log-file` missing/run.log cannot be written: No such file" in err) == (2, True)
