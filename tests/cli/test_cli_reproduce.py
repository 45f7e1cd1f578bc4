"""`isoscale reproduce` as it is typed."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from isoscale import reproduce
from isoscale.reproduce.claim import Preset


@pytest.fixture
def small(monkeypatch):
    """The quick preset of a claim, made tiny."""
    claim = reproduce.get("nfd-9")
    changes = {"width": 8, "depths": (2, 4), "batch_size": 8, "steps": 1, "seeds": 2, "block_depths": (1,)}
    settings = {**claim.presets["quick"].settings, **changes}
    monkeypatch.setitem(claim.presets, "quick", Preset(minutes=0.1, settings=settings))


def test_measures_decides_writes_and_resumes(isoscale, small):
    code, out, _ = isoscale("reproduce", "stability", "--out", "pages")
    assert code == 0
    assert out.startswith("NFD-9")
    assert "Preset quick: about 5 s" in out
    assert "Verdict: " in out
    assert "blocks of 1, sp" in out
    assert Path("pages/nfd-9.md").exists()
    code, again, _ = isoscale("reproduce", "nfd-9", "--json")
    # Nothing is measured again.
    assert code == 0
    assert json.loads(again)["claim"] == "nfd-9"


def test_lists_every_claim(isoscale):
    code, out, _ = isoscale("reproduce", "--list")
    assert code == 0
    assert all(name in out for name in reproduce.names())


@pytest.mark.parametrize(
    ("arguments", "words"),
    [(("colapse",), "Nearest: collapse"), ((), "--list"), (("nfd-2", "--time-limit", 0.01), "--time-limit")],
    ids=str,
)
def test_bad_input_is_one_line(isoscale, arguments, words):
    code, _, errors = isoscale("reproduce", *arguments)
    assert code == 2
    assert words in errors
    assert "Traceback" not in errors
