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


ALONG = [
    "--axis",
    "batch",
    "--sizes",
    "4",
    "8",
    "16",
    "--dataset",
    "synthetic",
    "--dataset-args",
    "classes",
    "3",
    "channels",
    "1",
    "size",
    "5",
    "train",
    "100",
    "test",
    "20",
    "--width",
    "4",
    "--depths",
    "1",
    "--steps",
    "8",
    "--batch-size",
    "8",
    "--seeds",
    "2",
    "--log2-lr",
    "-6",
    "-2",
    "--grid",
    "--device",
    "cpu",
]


def test_a_law_along_batches_from_flags_and_from_its_file(isoscale, engine):
    code, out, _ = isoscale("law", "--preset", "cpu", *ALONG)
    assert code == 0
    for title in ("Law", "Published", "Zero-shot", "Optima", "fixed: tokens"):
        assert title in out
    assert {shard.config.batch_size * shard.config.steps for shard in engine.ran} == {64}
    files = {path.name for path in Path("isoscale-law").iterdir()}
    assert files == {f"law-batch-size.{kind}" for kind in ("md", "nc", "png", "svg")} | {"runs.csv"}
    Path("law.toml").write_text(
        'batch_sizes = [4, 8, 16]\nsteps = 16\nbudget_axis = "tokens"\nwidths = [4]\ndepths = [1]\nrule = "sp"\n'
        'model = "residual-mlp"\ndataset = "synthetic"\noptimizer = "adamw"\nschedule = "cosine"\nwarmup = 0.1\n'
        'search = "grid"\nseeds = 2\nlrs = [0.015625, 0.03125, 0.0625, 0.125, 0.25]\n'
        'model_args = {block_depth = 2, phi = "relu", norm = "layer"}\n'
        "dataset_args = {accuracy = 0.7, classes = 3, channels = 1, size = 5, train = 100, test = 20}\n"
    )
    engine.ran.clear()
    code, out, _ = isoscale("law", "--axis", "batch", "--config", "law.toml", "--device", "cpu", "--json")
    found = json.loads(out)
    assert (code, found["axis"]) == (0, "batch_size")
    assert set(found["rules"]["sp"]["lr"]) == {"4", "8", "16"}


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("--axis", "batch", "--sizes", 4, 8), "three sizes or more"),
        (("--axis", "batch", "--sizes", 4, 8, 24), "`batch_size` 24 does not divide"),
        (("--axis", "batch", "--sizes", 4, 8, 128, "--budget-axis", "steps"), "at most the 100 training samples"),
        (("--axis", "tokens", "--sizes", 0, 8, 16), "`steps` must be >= 1, got 0"),
        (("--axis", "batch", "--target", 0.5), "`--target` is for --axis depth"),
        (("--axis", "depth"), "`--sizes` is for --axis batch"),
        (("--config", "law.toml"), "cannot be given beside --config"),
    ],
    ids=str,
)
def test_bad_input_along_batches_is_one_line(isoscale, engine, arguments, words):
    code, _, errors = isoscale("law", *ALONG, *arguments)
    assert code == 2
    assert words in errors
    assert "Traceback" not in errors
    assert engine.ran == []


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
