"""`isoscale plan`: built-in models, the user's own factories, and what it refuses."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

import isoscale
from isoscale.cli import main

FACTORY = """
from torch import nn

class Net(nn.Module):
    def __init__(self, width, depth, tied):
        super().__init__()
        self.embed = nn.Embedding(11, width)
        self.blocks = nn.ModuleList(nn.Sequential(nn.Linear(width, width), nn.ReLU(), nn.Linear(width, width))
                                    for _ in range(depth))
        self.readout = nn.Linear(width, 11, bias=False)
        if tied:
            self.readout.weight = self.embed.weight

    def forward(self, tokens):
        h = self.embed(tokens)
        for block in self.blocks:
            h = h + block(h)
        return self.readout(h)

def make(width, depth, tied=0):
    return Net(width, depth, tied)

def of_seven(width, depth):
    return nn.Linear(7, width)
"""
SIZES = ["--base", "width=8,depth=2", "--target", "width=32,depth=8"]
BUDGET = ["--model", "residual-mlp", *SIZES, "--budget"]


@pytest.fixture
def factory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.chdir(tmp_path)
    Path("net.py").write_text(FACTORY)
    return "net.py:make"


def run(*arguments: str) -> int:
    with pytest.raises(SystemExit) as stopped:
        main(["plan", *arguments])
    assert isinstance(stopped.value.code, int)
    return stopped.value.code


def test_factory_in_a_file(factory: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("--model", factory, *SIZES, "--inputs", "int:2x5", "--lr", "0.01") == 0
    out = capsys.readouterr().out
    assert "8 residual blocks" in out
    assert "width x4, depth x4" in out
    assert out.count("blocks.*.0.weight") == 1  # eight blocks, one line
    plan = isoscale.Plan.load("plan.json")
    row = plan.table().set_index("name").loc["blocks.7.2.weight"]
    assert row["role"] == "branch_last"
    assert row["lr"] == pytest.approx(0.01 / 4 / 4)  # completep, Adam: 1/m, and the branch's 1/r folded in


def test_tied_embeddings_are_an_open_item(factory: str, capsys: pytest.CaptureFixture[str]) -> None:
    sizes = [text + ",tied=1" if "=" in text else text for text in SIZES]
    assert run("--model", factory, *sizes, "--inputs", "int:2x5") == 1
    out = capsys.readouterr().out
    assert "embed.weight" in out
    assert "Multiplier" in out
    assert "plan.json not written" in out
    assert not Path("plan.json").exists()
    assert run("--model", factory, *sizes, "--inputs", "int:2x5", "--force") == 0
    assert isoscale.Plan.load("plan.json").open_items


def test_built_in_model_as_json(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "plan.json"
    assert run("--model", "residual-mlp", *SIZES, "--optimizer", "sgd", "--json", "--out", str(out)) == 0
    assert json.loads(capsys.readouterr().out) == json.loads(out.read_text())


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--model", "net.py:nothing", *SIZES], "has no function `nothing`; it has: "),
        (["--model", "no.such.module:make", *SIZES], "cannot import no.such.module"),
        (["--model", "net.py:make", *SIZES], "`--inputs` is needed"),
        (["--model", "net.py:make", *SIZES, "--inputs", "int:2xx"], "written dtype:shape"),
        (["--model", "net.py:make", "--base", "width=8", "--target", "width=8"], "missing 1 required"),
        (["--model", "net.py:make", "--base", "width", "--target", "width=8"], "`--base` is written width=512,depth=8"),
        (["--model", "net.py:make", *SIZES, "--inputs", "int:2x5", "--rule", "completp"], "Nearest: completep"),
        (["--model", "net.py:make", *SIZES, "--inputs", "int:2x5", "--optimizer", "lbfgs"], "no optimizer family"),
        (["--model", "net.py:make", *SIZES, "--inputs", "int:2x5", "--lr", "-1"], "`lr` must be > 0"),
        (["--model", "net.py:of_seven", *SIZES, "--inputs", "float:2x5"], "fails on the meta device"),
        (["--model", "residual-mpl", *SIZES], "Nearest: residual-mlp"),
        ([*BUDGET, "completed-p", "--batch", "x0"], "`batch` must be > 0, got 0"),
        ([*BUDGET, "completed-p", "--tokens", "x-4"], "`tokens` must be > 0, got -4"),
        ([*BUDGET, "completed-p", "--betas", "0.9", "1"], "`betas` must be in [0, 1), got 1"),
        ([*BUDGET, "linear", "--batch", "x8"], "stated for sgd, not for adamw. For adamw: completed-p"),
    ],
)
def test_bad_input(factory: str, arguments: list[str], said: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(*arguments) == 2
    assert said in capsys.readouterr().err
    assert not Path("plan.json").exists()


# x sqrt(width), in training alone: no trace for inference sees it.
ROOT = FACTORY.replace(
    "h = self.embed(tokens)", "h = self.embed(tokens) * (self.embed.weight.shape[1] ** 0.5 if self.training else 1)"
)


def test_a_plan_is_checked_by_measurement(factory: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("--model", factory, *SIZES, "--inputs", "int:2x5", "--verify-seconds", "30") == 0
    out = capsys.readouterr().out
    assert "Measuring the plan's first step: depth 2, 4, 8; width 8, 16, 32; at most 30 s" in out
    assert "as promised: 6 of 6 kinds of tensor" in out


def test_no_verify(factory: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("--model", factory, *SIZES, "--inputs", "int:2x5", "--no-verify") == 0
    assert "Measuring" not in capsys.readouterr().out


def test_what_deviates_is_a_thing_to_fix(factory: str, capsys: pytest.CaptureFixture[str]) -> None:
    Path("net.py").write_text(ROOT)
    assert run("--model", factory, *SIZES, "--inputs", "int:2x5") == 1
    out = capsys.readouterr().out
    assert "to fix: `embed.weight`: its output at the start grows like n^" in out
    assert not Path("plan.json").exists()
