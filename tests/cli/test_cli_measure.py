"""`isoscale audit`, `check` and `lr`: what they print and write, how they exit, and what they say to bad input."""

from __future__ import annotations

import dataclasses
import json
import math
import re
from collections.abc import Callable
from pathlib import Path

import pytest
import xarray as xr

from isoscale import measure
from isoscale.report import files

Run = Callable[..., tuple[int, str, str]]

SMALL = "--widths 8 --depths 2 3 4 --seeds 2 --batch-size 4"
TINY = "--size width=8,depth=2 --batch-size 4"

FACTORY = """
import torch
from torch import nn


class Net(nn.Module):
    def __init__(self, width, depth, gain):
        super().__init__()
        self.first, self.readout = nn.Linear(3, width), nn.Linear(width, 1)
        self.blocks = nn.ModuleList(
            nn.Sequential(nn.Linear(width, width), nn.ReLU(), nn.Linear(width, width)) for _ in range(depth)
        )
        self.gain = gain

    def forward(self, x):
        h = self.first(x)
        for block in self.blocks:
            h = h + self.gain * block(h)
        return self.readout(h)


def make(width, depth, gain=1.0):
    return Net(width, depth, gain)


def silent(width, depth):
    model = Net(width, depth, 1.0)
    nn.init.zeros_(model.readout.weight)
    return model


def deep(depth):
    return Net(8, depth, 1.0)


def broken(width, depth):
    raise RuntimeError("no such luck")


def number(width, depth):
    return 3


def batches():
    generator = torch.Generator().manual_seed(0)
    while True:  # as many as are asked for
        x = torch.randn(4, 3, generator=generator)
        yield x, x.sum(1)


def loss_fn(output, y):
    return (output[:, 0] - y).square().mean()
"""


@pytest.fixture
def factory(tmp_path: Path) -> str:
    (tmp_path / "mine.py").write_text(FACTORY)
    return "mine.py"


def _json(text: str) -> dict:
    return json.loads(text, parse_constant=pytest.fail)  # no NaN, which is no JSON


def test_audit(isoscale: Run, tmp_path: Path):
    code, out, errors = isoscale("audit", *SMALL.split(), "--rule", "depth-mup", "--optimizer", "adam")
    assert (code, errors) == (1, "")
    assert "exponents in depth (95 % interval" in out
    assert re.search(r"branch_internal +L\^-0\.[45]\d±\S+ ✗", out)
    # Its interval holds what is expected, and the lack of it: two seeds and three depths do not tell.
    assert re.search(r"branch_last +L\^-0\.\d\d±\S+ \(-0\.5\) \?", out)
    assert "branch_internal own update vanishes like L^-0." in out
    assert (tmp_path / "isoscale-audit" / "audit.svg").read_text().startswith("<?xml")
    assert (tmp_path / "isoscale-audit" / "audit.png").read_bytes()[:4] == b"\x89PNG"
    with xr.open_dataset(tmp_path / "isoscale-audit" / "audit.nc") as data:
        assert dict(data.sizes) == {"role": 4, "width": 1, "depth": 3, "seed": 2}
    assert isoscale("audit", *SMALL.split(), "--quiet", "--rule", "depth-mup", "--optimizer", "adam") == (1, "", "")


def test_audit_as_json_and_its_suggestion(isoscale: Run):
    flags = "--widths 8 --depths 2 4 8 16 --seeds 1 --batch-size 4 --suggest --json --optimizer adam"
    code, out, errors = isoscale("audit", *flags.split())
    assert errors == ""
    found = _json(out)
    assert found["ok"] is (code == 0)
    assert {row["quantity"] for row in found["exponents"]} >= {"own_update", "stream_update"}
    assert found["suggestion"]["exponents"][0]["what"] == "branch multiplier"
    assert isinstance(found["suggestion"]["flat"], bool)


def test_check(isoscale: Run, tmp_path: Path):
    flags = "--widths 16 32 64 128 --depths 2 --seeds 3 --batch-size 2 --steps 2 --rule mup"
    code, out, errors = isoscale("check", *flags.split())
    assert (code, errors) == (0, "")
    assert "exponents in width" in out
    assert "exponents in depth" not in out
    assert "Verdict: the same at every size" in out
    assert (tmp_path / "isoscale-check" / "check.png").exists()
    code, out, _ = isoscale("check", *SMALL.split(), "--lr", "1e9", "--rule", "sp", "--optimizer", "sgd", "--json")
    assert code == 1
    found = _json(out)
    assert not found["ok"]
    assert any("diverges" in note for note in found["notes"])


def test_what_is_not_decided_is_no_failure(isoscale: Run):
    """Two depths show no trend: exit code 0, unless --strict asks for a decision."""
    flags = [
        "--widths",
        "8",
        "--depths",
        "2",
        "4",
        "--seeds",
        "2",
        "--batch-size",
        "4",
        "--rule",
        "depth-mup",
        "--optimizer",
        "adam",
    ]
    code, out, errors = isoscale("audit", *flags)
    assert (code, errors) == (0, "")
    assert "Verdict: not decided at these sizes" in out
    assert "branch_internal own update not decided: two sizes show no trend" in out
    assert isoscale("audit", *flags, "--strict", "--quiet")[0] == 1
    code, out, _ = isoscale("audit", *flags, "--json", "--tolerance", "2", "--failure", "3", "--strict")
    found = _json(out)
    assert (code, found["answer"]) == (0, "the same at every size")
    assert found["thresholds"] == {"tolerance": 2.0, "failure": 3.0, "level": 0.95}


def test_a_late_check_and_one_without_control(isoscale: Run):
    flags = "--widths 8 16 32 --depths 2 --seeds 2 --batch-size 4 --steps 1 --late 3 --rule mup --json --no-control"
    code, out, errors = isoscale("check", *flags.split())
    found = _json(out)
    assert errors == ""
    assert code == (1 if found["answer"] == "depends on the size" else 0)
    assert {row["quantity"] for row in found["exponents"]} == {"start", "change", "late_change"}
    assert any(note.startswith("stable rank of an update, from step 1 to 3") for note in found["notes"])


def test_lr(isoscale: Run):
    flags = [*TINY.split(), "--seeds", "2", "--batches", "3"]
    code, out, errors = isoscale("lr", *flags, "--no-race")
    assert (code, errors) == (0, "")
    assert "Recommended" not in out
    assert "is the noise of 2 seeds and 3 batches, not how far it is from the best learning rate" in out
    assert "Cost: 6 gradients and 6 Jacobian-vector products (forward-mode), 2 seeds x 3 batches" in out
    assert "Confirm with: --sweep" in out
    code, out, _ = isoscale("lr", *flags, "--no-race", "--json")
    found = _json(out)
    assert code == 0
    assert "recommended_lr" not in found
    assert found["lr"] == pytest.approx((sum(found["moments"].values()) / len(found["moments"])) ** -0.5, rel=1e-9)
    branch = _json(isoscale("lr", *flags, "--no-race", "--json", "--count", "branch")[1])
    assert set(branch["moments"]) == {name for name in found["moments"] if name.startswith("blocks.")}
    alone = _json(isoscale("lr", *TINY.split(), "--seeds", "1", "--batches", "1", "--no-race", "--json")[1])
    assert alone["lr_se"] is None


def test_lr_recommends_what_a_race_finds(isoscale: Run):
    flags = [*TINY.split(), "--seeds", "1", "--batches", "1", "--optimizer", "adamw"]
    code, out, errors = isoscale("lr", *flags)
    assert (code, errors) == (0, "")
    found = _json(isoscale("lr", *flags, "--json")[1])
    first, *others = out.splitlines()
    assert first == f"Recommended learning rate: {found['recommended_lr']:.3g}"
    error = measure.race_error("adamw")
    assert error is not None
    assert found["method_error"] == dataclasses.asdict(error)
    (said,) = [line for line in others if line.startswith("Error of the method: ")]
    assert f"within a factor {2**error.nine_in_ten:.1f} of a sweep's best in 9 of 10 of the shipped networks" in said
    assert f"median {error.median:.2g} octaves" in said
    assert f"worst {error.worst:.2g} (factor {2**error.worst:.1f})" in said
    race = found["race"]
    assert race["lr"] == found["recommended_lr"]
    assert race["loss"] < race["untrained_loss"]
    assert set(race["estimates"]) >= {"AM-muP", "line-search minimum"}
    assert len(race["heats"][0]["lrs"]) == 8
    assert f"Cost: {race['steps']} training steps" in out
    # The paper's number is under it, and none of the two is called the other's error.
    assert f"Maximal-update learning rate (AM-muP): {found['lr']:.3g}" in others


def test_lr_says_where_its_error_was_not_measured(isoscale: Run):
    flags = [*TINY.split(), "--seeds", "1", "--batches", "1", "--optimizer", "sign"]
    _, out, _ = isoscale("lr", *flags)
    assert "Error of the method: not measured under sign, only under sgd and adamw" in out
    assert _json(isoscale("lr", *flags, "--json")[1])["method_error"] is None


def test_a_readout_of_zeros_has_no_maximal_update_rate_and_races(isoscale: Run, factory: str):
    flags = [f"{factory}:silent", "--size", "width=8,depth=2", "--seeds", "1", "--batches", "1"]
    code, out, errors = isoscale("lr", *flags)
    assert (code, errors) == (0, "")
    assert "Maximal-update learning rate (AM-muP): none, as no pre-activation moves" in out
    found = _json(isoscale("lr", *flags, "--json")[1])
    assert found["lr"] is None
    assert math.isfinite(found["recommended_lr"])
    code, _, errors = isoscale("lr", *flags, "--no-race")
    assert code == 2
    assert "Is the readout initialised to zero?" in errors
    assert "leave out --no-race" in errors


@pytest.mark.parametrize("optimizer", ["sgd", "adamw", "sign", "muon"])
def test_lr_and_its_sweep(isoscale: Run, optimizer: str):
    flags = [*TINY.split(), "--seeds", "1", "--batches", "1", "--sweep", "--steps", "2"]
    code, out, errors = isoscale("lr", *flags, "--optimizer", optimizer)
    assert (code, errors) == (0, "")
    assert "Sweep: 9 learning rates x 1 seeds, 18 training steps" in out
    assert "Found: " in out


def test_a_users_factory(isoscale: Run, factory: str):
    code, out, errors = isoscale(
        "audit", f"{factory}:make", *SMALL.split(), "--optimizer", "adam", "--rule", "depth-mup"
    )
    assert (code, errors) == (1, "")
    assert "branch_internal own update vanishes like L^-0." in out
    code, out, errors = isoscale("check", f"{factory}:deep", *SMALL.split(), "--steps", "2", "--lr", "1e-4")
    assert errors == ""
    assert "exponents in depth" in out
    assert "blocks.*" in out
    code, out, errors = isoscale(
        "lr", f"{factory}:make", "--size", "width=8,depth=2", "--model-args", "gain", "0.5", "--json"
    )
    assert (code, errors) == (0, "")
    assert math.isfinite(_json(out)["lr"])


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ("audit nomodel", "no model named 'nomodel'"),
        ("audit nofile.py:make", "cannot import nofile.py"),
        ("audit mine.py:nothing", "has no function `nothing`; it has: "),
        ("audit mine.py:broken", "RuntimeError: no such luck"),
        ("audit mine.py:number", "must return a torch.nn.Module, got int"),
        ("audit mine.py:make --model-args gian 2", "unexpected keyword argument 'gian'"),
        ("audit silent.py:make", "says nothing of its data: define `batches`"),
        ("audit wrong.py:make", "the loss of wrong.py:make fails on the model's output: RuntimeError"),
        ("audit unpaired.py:make", "`batches` must be a list of one pair (x, y) or more"),
        ("audit --rule compltep", "no rule named 'compltep'. Nearest: completep"),
        ("audit --optimizer adamx", "no optimizer family named 'adamx'"),
        ("audit --seeds 0", "`seeds` must name one seed or more"),
        ("audit --widths 8 --depths 2", "two sizes or more"),
        ("audit --depths 0 2", "`depths` must hold numbers >= 1, got 0"),
        ("audit --batch-size 0", "`--batch-size` must be >= 1"),
        ("audit --dataset digitz", "no data set named 'digitz'"),
        ("audit --widths 8 --depths 2 4 --seeds 1 --suggest", "four depths or more"),
        ("audit --tolerance 0", "`tolerance` must be > 0"),
        ("check --failure 0.1", "`failure` must be > 0.2"),
        ("check --level 1", "`level` must be below 1"),
        ("check --late 5", "`late` must be beyond the 5 steps"),
        ("check --steps 0", "`--steps` must be >= 1, got 0"),
        ("check --lr nan", "`lr` must be finite, got nan"),
        ("check --lr -1", "`lr` must be > 0, got -1"),
        ("lr --size width", "`--size` is written width=512,depth=8"),
        ("lr --size widht=3", "unexpected keyword argument 'widht'"),
        ("lr --size width=8,depth=2 --batches 0", "`--batches` must be >= 1"),
        ("lr --size width=8,depth=2 --sweep --steps 0", "`--steps` must be >= 1"),
        ("lr conv-net --size width=8,depth=2 --count stream", "no residual branches"),
    ],
)
def test_bad_input(isoscale: Run, factory: str, tmp_path: Path, arguments: str, said: str):
    head, _, _ = FACTORY.partition("def batches")
    (tmp_path / "silent.py").write_text(head)
    (tmp_path / "wrong.py").write_text(head + "batches = [(torch.zeros(4, 3), torch.zeros(7))]")
    (tmp_path / "unpaired.py").write_text(head + "batches = [torch.zeros(4, 3)]")
    code, _, errors = isoscale(*arguments.split())
    assert code == 2
    assert errors.startswith("error: ")
    assert errors.count("\n") == 1
    assert said in errors


@pytest.mark.parametrize("command", ["audit", "check"])
def test_a_folder_that_cannot_be_written_is_named_first_and_costs_no_verdict(
    isoscale: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, command: str
):
    (tmp_path / "file").touch()
    said = "error: cannot write the report to `file/x`: not a directory. Choose another folder with --out\n"
    given = command, *SMALL.split(), "--seeds", 1, "--out", "file/x"
    assert isoscale(*given) == (2, "", said)
    monkeypatch.setattr(files, "check_writable", lambda *_, **__: None)  # the disk fills up meanwhile
    code, out, errors = isoscale(*given)
    assert (code, errors) == (2, said)
    assert "Verdict:" in out
