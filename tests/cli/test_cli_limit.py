"""`isoscale limit` on problems that take a moment."""

import json
import re
from collections.abc import Callable
from pathlib import Path

import pandas as pd
import pytest
import xarray as xr

from isoscale.cli.limit_words import sizes
from isoscale.errors import InvalidValueError

Run = Callable[..., tuple[int, str, str]]
TINY = ("--samples", 2, "--steps", 2, "--tolerance", 0.02)


def test_table_figure_and_data(isoscale: Run, tmp_path: Path):
    code, out, errors = isoscale("limit", *TINY, "--depth", 4, "--out", "here")
    assert (code, errors) == (0, "")
    first = next(line for line in out.splitlines() if line.startswith("0 "))
    # At initialisation both versions predict 0, so the loss of targets +-1 is 1/2.
    assert re.findall(r"(\d\.\d+) ±", first) == ["0.5000", "0.5000"]
    assert sorted(path.name for path in (tmp_path / "here").iterdir()) == [
        "independent.nc",
        "reused.nc",
        "training.png",
        "training.svg",
    ]
    kept = xr.load_dataset(tmp_path / "here" / "reused.nc")
    last = next(line for line in out.splitlines() if line.startswith("2 "))
    assert f"{float(kept.loss[2]):.4f}" in last


def test_the_effort_can_be_set(isoscale: Run, tmp_path: Path):
    assert isoscale("limit", *TINY, "--depth", 2, "--particles", 128, "--replicas", 5, "--out", "here")[0] == 0
    attrs = xr.load_dataset(tmp_path / "here" / "reused.nc").attrs
    assert (attrs["particles"], attrs["replicas"]) == (128, 5)


def test_compare_splits_the_distance(isoscale: Run):
    code, out, _ = isoscale("limit", *TINY, "--compare", "width=32,depth=2", "--networks", 3)
    assert code == 0
    assert re.search(r"Width 32, depth 2 is \d\.\d+ ± \d\.\d+ from the limit .* depth makes .* width", out)


def test_a_finite_network_of_two_layers_with_every_option(isoscale: Run, tmp_path: Path):
    flags = (
        "--block-depth",
        2,
        "--norm",
        "rms",
        "--momentum",
        0.5,
        "--nesterov",
        "--weight-decay",
        0.1,
        "--phi",
        "silu",
    )
    size = ("--compare", "width=32,depth=2", "--networks", 2, "--schedule", "cosine")
    samples = ("--classes", "3,5", "--sample-seed", 1, "--out", "all.csv")
    code, out, errors = isoscale("limit", *TINY, *flags, *size, *samples)
    assert (code, errors) == (0, "")
    assert "Width 32, depth 2 is" in out
    table = pd.read_csv(tmp_path / "all.csv")
    assert set(table.data) == {"reused", "independent", "width-32-depth-2", "depth-2"}
    assert set(table[table.variable == "target"].value) <= {-1.0, 1.0}


def test_returns_of_depth(isoscale: Run, tmp_path: Path):
    code, out, errors = isoscale("limit", *TINY, "--returns", "--particles", 128, "--replicas", 4)
    assert (code, errors) == (0, "")
    assert re.search(r"infinity +\d\.\d+ ±", out)
    assert "All depth beyond 32" in out
    kept = xr.load_dataset(tmp_path / "isoscale-limit" / "returns.nc")
    assert kept.depth.values.tolist() == [4, 8, 16, 32]
    figure = (tmp_path / "isoscale-limit" / "returns.svg").read_text()
    assert "2 of digits" in figure
    assert "momentum 0" in figure
    assert isoscale("limit", *TINY, "--depth", 2, "--out", "figure.pdf", "--quiet")[0] == 0
    assert (tmp_path / "figure.pdf").read_bytes().startswith(b"%PDF")


def test_the_best_rate_of_a_finite_size_and_of_infinite_size(isoscale: Run, tmp_path: Path):
    flags = ("--optimal-lr", "--compare", "width=16,depth=2", "--networks", 3, "--particles", 64, "--replicas", 3)
    blocks = ("--block-depth", 2, "--phi", "erf", "--norm", "rms")
    code, out, errors = isoscale("limit", "--samples", 2, "--steps", 1, *blocks, *flags)
    assert (code, errors) == (0, "")
    assert re.search(r"Best learning rate [0-9.]+ \[[0-9.]+, [0-9.]+\]", out)
    assert re.search(r"Width 16, depth 2: best learning rate [0-9.]+, .* octaves from infinite size", out)
    kept = xr.load_dataset(tmp_path / "isoscale-limit" / "lr-drift.nc")
    assert kept.depth.values.tolist() == [2, 4, 8]


def test_json_and_quiet(isoscale: Run):
    _, out, _ = isoscale("limit", *TINY, "--depth", 2, "--json")
    rows = json.loads(out)
    assert [row["step"] for row in rows] == ["0", "1", "2"]
    adam = ("--optimizer", "adamw", "--betas", "0.9,0.95", "--weight-decay", 0.1, "--schedule", "wsd", "--lr", 0.05)
    assert isoscale("limit", *TINY, "--depth", 2, *adam, "--quiet") == (0, "", "")


def test_gap_is_measured_against_depth_and_horizon(isoscale: Run, tmp_path: Path):
    code, out, _ = isoscale("limit", *TINY, "--gap", "--particles", 128, "--replicas", 8)
    assert code == 0
    assert "depth inf" in out
    gap = xr.load_dataset(tmp_path / "isoscale-limit" / "gap.nc")
    assert float(abs(gap.gap.sel(step=0)).max()) < 1e-9, "the versions agree until something was learned"
    assert (abs(gap.gap) > 4 * gap.gap_se).sel(step=2).all()


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (("--samples", 0), "`samples`"),
        (("--samples", 5000), "`samples` must be from 1 to the 1438"),
        (("--depth", 0), "`depth`"),
        (("--particles", 3), "`particles`"),
        (("--replicas", 1), "`replicas`"),
        (("--steps", -1), "`steps`"),
        (("--compare", "width=8"), "width=512,depth=8"),
        (("--compare", "width=8,depth=2,height=3"), "width=512,depth=8"),
        (("--compare", "width=8,depth=2", "--networks", 1), "`networks`"),
        (("--gap", "--convergence"), "run one after the other"),
        (("--compare", "width=8,depth=2", "--returns"), "`--compare` goes with"),
        (("--depth", 8, "--lr-drift"), "leave out `--depth`"),
        (("--block-depth", 2, "--gap"), "know blocks of one layer"),
        (("--returns", "--gap"), "`--returns`"),
        (("--clip", 1.0, "--convergence"), "leave out `--clip`"),
        (("--optimizer", "lion"), "give a finite `depth`, or use sgd"),
        (("--optimizer", "adam", "--betas", "0.9"), "betas are written 0.9,0.999"),
        (("--phi", "silo"), "Nearest: silu"),
        (("--classes", "3"), "`classes` must hold two or more"),
        (("--classes", "3,x"), "classes are written 3,5"),
        (("--sample-seed", -1), "`sample_seed` must be >= 0"),
        (("--depth", 2, "--out", "here.txt"), "All: .csv, .nc, .pdf"),
        (("--block-depth", 2, "--rule", "depth-mup-corrected"), "no limit at a fixed learning rate"),
        (("--rule", "completep"), "Give block_depth=2"),
        (("--dataset", "digit"), "Nearest: digits"),
        (("--lr", "nan"), "`lr`"),
        (("--horizon", 0), "`horizon`"),
    ],
)
def test_bad_input_is_one_line(isoscale: Run, tmp_path: Path, flags: tuple, said: str):
    code, _, errors = isoscale("limit", *TINY, *flags)
    assert code == 2
    assert errors.startswith("error:")
    assert errors.count("\n") == 1
    assert said in errors
    assert not list(tmp_path.iterdir())


def test_sizes():
    assert sizes("depth=8,width=512") == {"width": 512, "depth": 8}
    with pytest.raises(InvalidValueError):
        sizes("width=512 depth=8")


def test_divergence_is_said(isoscale: Run):
    code, out, _ = isoscale("limit", "--samples", 2, "--steps", 12, "--depth", 2, "--phi", "linear", "--lr", 1000)
    assert code == 0
    assert re.search(r"reused: diverged at step \d+", out)
