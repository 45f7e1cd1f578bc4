"""`isoscale law` as it is typed, on tiny networks in this process."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from isoscale.runs.engines import engine as engine_
from isoscale.testing import InlineEngine

FLAGS = (
    "--dataset synthetic --dataset-args classes 3 channels 1 size 5 train 100 test 20 --width 4 --depths 1 2 3 "
    "--steps 8 --batch-size 16 --seeds 2 --log2-lr -6 0 --device cpu"
)
TINY = FLAGS.split()


@pytest.fixture
def engine(monkeypatch):
    engine = type("Engine", (InlineEngine,), {"ran": []})
    monkeypatch.setattr(engine_, "LocalEngine", engine)
    return engine


def test_prints_the_law_writes_the_report_and_resumes(isoscale, engine):
    code, out, _ = isoscale("law", "conv-net", *TINY)
    assert code == 0
    for title in ("Law", "Without a sweep", "Which depth predicts", "Optima", "adaptive search instead of"):
        assert title in out
    assert "-1.39 to -1.34 (CNN)" in out
    files = {path.name for path in Path("isoscale-law").iterdir()}
    assert files == {"depth-law.md", "depth-law.nc", "depth-law.png", "depth-law.svg", "runs.csv"}
    assert "init" in Path("isoscale-law/depth-law.md").read_text()  # the published initialisation
    engine.ran.clear()
    assert isoscale("law", "conv-net", *TINY)[0] == 0
    assert engine.ran == []


def test_json_of_the_grid(isoscale, engine):
    code, out, _ = isoscale("law", "conv-net", *TINY, "--grid", "--per-octave", 1, "--json")
    found = json.loads(out)
    assert code == 0
    assert set(found["networks"]["conv-net"]["lr"]) == {"1", "2", "3"}
    assert {shard.config.steps for shard in engine.ran} == {8}


def test_a_dry_run_trains_nothing(isoscale, engine):
    code, out, _ = isoscale("law", "cnn relu zero", *TINY, "--dry-run")
    assert (code, engine.ran) == (0, [])
    assert "1 network on synthetic" in out


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("conv-nett",), "conv-net"),
        (("conv-net", "--depths", 3, 4), "three `depths`"),
        (("all", "--model-args", "kernel", 5), "--model-args"),
        (("conv-net", "--model-args", "kernel", 7), "kernel"),
        (("conv-net", "--target", 0.001), "target"),
    ],
    ids=str,
)
def test_bad_input_is_one_line(isoscale, engine, arguments, words):
    code, _, errors = isoscale("law", *arguments[:1], *TINY, *arguments[1:])
    assert code == 2
    assert words in errors
    assert "Traceback" not in errors
    assert engine.ran == []
