"""The cheapest claims, each at the smallest size: the machinery of a verdict, not the verdict."""

from __future__ import annotations

import gzip
import json
import math
import re
from pathlib import Path

import numpy as np
import pytest
import torch

from isoscale import reproduce
from isoscale.errors import DataError, InvalidValueError
from isoscale.reproduce import conditions, depth_laws, page
from isoscale.reproduce.claim import FAILS, HOLDS, LIMITS, OPEN, PRESETS, Part, Preset, ruling
from isoscale.reproduce.measured import Measured
from isoscale.runs.engines import engine as engine_
from isoscale.runs.spec import log2_grid
from isoscale.testing import InlineEngine

SWEEP = {
    "widths": (4,),
    "depths": (1, 2, 3),
    "steps": 6,
    "batch_size": 16,
    "seeds": 2,
    "dataset": "synthetic",
    "dataset_args": {"classes": 3, "channels": 1, "size": 5, "train": 100, "test": 20},
    "lrs": log2_grid(-5, 0),
}
MLP = {"model": "residual-mlp", "block_depth": 2, "width": 8, "internal": ["blocks.*.maps.0"], "dataset": "digits"}
# What of a claim's quick preset is made smaller.
TINY = {
    "nfd-3": {"samples": 2, "steps": 1, "phis": ("tanh",), "horizons": (1.0,), "depths": (2, 4), "particles": 32}
    | {"layer_depths": (2, 4)},
    "nfd-7": {"networks": {"MLP": MLP}, "depths": (2, 4), "batch_size": 8, "steps": 2, "seeds": 2, "lr": {"sgd": 0.1}},
    "nfd-9": {"width": 8, "depths": (2, 4), "batch_size": 8, "steps": 1, "seeds": 2, "block_depths": (1,)},
    "am-8": {**SWEEP, "networks": {"plain": depth_laws.plain()}},
    "am-10": {"width": 8, "depth": 5, "seeds": 2, "batches": 1, "batch_sizes": (2,)},
}


@pytest.fixture
def engine(monkeypatch):
    engine = type("Engine", (InlineEngine,), {"ran": []})
    monkeypatch.setattr(engine_, "LocalEngine", engine)
    return engine


@pytest.fixture
def tiny(monkeypatch, tmp_path, engine):
    """Measure a claim with its quick preset made tiny, in an empty folder."""
    monkeypatch.chdir(tmp_path)

    def run(name: str, **changes) -> reproduce.Reproduced:
        claim = reproduce.get(name)
        settings = {**claim.presets["quick"].settings, **TINY[name], **changes}
        monkeypatch.setitem(claim.presets, "quick", Preset(minutes=0.1, settings=settings))
        return reproduce.run(name, store="runs.db", device="cpu")

    return run


def exponents(low: float, high: float):
    found = Measured()
    found.quantity("law", (low + high) / 2, low, high)
    return found.dataset()


# --- the rules ---
def test_a_verdict_follows_from_its_conditions():
    holds, fails, is_open = (Part("part", value, "") for value in (True, False, None))
    assert ruling([holds, holds]).verdict == HOLDS
    assert ruling([holds, fails]).verdict == ruling([holds, is_open]).verdict == LIMITS
    assert ruling([fails, is_open]).verdict == FAILS
    assert ruling([is_open]).verdict == ruling([]).verdict == OPEN


@pytest.mark.parametrize(
    ("low", "high", "holds"),
    [(-1.6, -1.4, True), (-1.38, -1.2, False), (-1.41, -1.2, True), (-1.6, -0.9, None), (-2.6, -1.7, False)],
)
def test_an_exponent_is_the_claimed_one_near_it_and_clear_of_every_rival(low, high, holds):
    assert conditions.exponent(exponents(low, high), "law", -1.5).holds is holds


def test_what_was_not_measured_decides_nothing():
    data = exponents(0.0, 1.0)
    assert conditions.exponent(data, "nothing", -1.5).holds is None
    assert conditions.within(data, "nothing", high=0.0).holds is None
    assert [conditions.within(data, "law", -1, high).holds for high in (1.5, 0.5, -0.5)] == [True, None, False]


def test_a_law_leaves_out_distances_that_are_noise():
    found = Measured()
    # 1/x, and then a point of noise.
    law = found.law("law", [1, 2, 4, 8], [1.0, 0.5, 0.25, 0.9], [0.01, 0.01, 0.01, 0.5])
    assert law.value == pytest.approx(-1.0)
    assert math.isnan(found.law("noise", [1, 2], [1.0, 1.0], [1.0, 1.0]).value)


def test_a_depth_at_chance_or_at_a_bound_is_left_out():
    chance = math.log(10)
    law = {"classes": 10, "lr": [0.1] * 4, "at_edge": ["", "", "high", ""]}
    law["final_loss"] = [0.97 * chance, 0.99 * chance, 1.0, float("nan")]
    assert depth_laws.counted(law).tolist() == [True, False, False, False]


# --- the claims ---
def test_every_claim_says_what_it_takes():
    sentences = set()
    for name in reproduce.names():
        claim = reproduce.get(name)
        assert reproduce.get(claim.alias) is claim
        assert tuple(claim.presets) == PRESETS
        assert claim.presets["quick"].minutes <= 2
        assert claim.presets["cpu"].minutes <= 45
        json.dumps([preset.settings for preset in claim.presets.values()])
        sentences.add(claim.sentence)
    assert len(sentences) == len(reproduce.names())


@pytest.mark.parametrize("name", [name for name in TINY if name != "am-8"])
def test_a_claim_is_measured_and_decided(name, tiny):
    found = tiny(name)
    assert found.verdict in (HOLDS, LIMITS, FAILS, OPEN)
    # Every condition is about something that was measured.
    known = found.measured["quantity"].values.tolist()
    assert {part.name for part in found.ruling.parts} <= {*known}


def test_pages_figures_and_index(tiny):
    found = tiny("nfd-9")
    found.save("out")
    names = {path.name for path in Path("out").iterdir()}
    kinds = ("svg", "pdf", "png", "csv", "json")
    assert names == {"nfd-9.md", "index.md", *(f"nfd-9-quick.{kind}" for kind in kinds)}
    first = str(found.measured["quantity"].values[0])
    assert found.interval == pytest.approx(conditions.quantity(found.measured, first), nan_ok=True)
    assert found.plot("column").get_size_inches()[0] < 3.5 < found.plot().get_size_inches()[0]
    # A larger preset comes first on the page, and is what the index says.
    record = {**found.record(), "preset": "cpu", "verdict": FAILS, "figures": ["pdf"]}
    page.write(record, found.measured, None, found.plot(), Path("out"))
    text = Path("out/nfd-9.md").read_text()
    assert found.claim.sentence in text
    assert text.index("Preset cpu") < text.index("Preset quick")
    # The same numbers give the same bytes.
    assert Path("out/nfd-9-cpu.pdf").read_bytes() == Path("out/nfd-9-quick.pdf").read_bytes()
    index = Path("out/index.md").read_text()
    assert re.search(rf"\| cpu \| \*\*{FAILS}\*\*: .* of {len(found.ruling.parts)} \|", index)
    assert "not run yet" in index


def test_a_page_links_the_figures_that_were_written(tiny):
    found = tiny("nfd-9")
    found.save("out", figures=["png"])
    assert {path.suffix for path in Path("out").iterdir()} == {".md", ".csv", ".json", ".png"}
    links = re.findall(r"\]\(([^)]*)\)", Path("out/nfd-9.md").read_text())
    assert [link for link in links if not Path("out", link).exists()] == []
    # What lies there of other presets may be damaged, or another version's: a run is not lost to it.
    Path("out/nfd-9-cpu.json").write_text("{")
    Path("out/nfd-9-paper.json").write_text('{"claim": "nfd-9"}')
    found.save("out", figures=["png"])
    assert "Preset cpu" not in Path("out/nfd-9.md").read_text()
    for wrong in (["gif"], []):
        with pytest.raises(InvalidValueError, match="svg"):
            found.save("out", figures=wrong)


def test_killed_half_way_it_goes_on_where_it_was(tiny, monkeypatch):
    from isoscale.reproduce import nfd_9

    growth, done = nfd_9._growth, []

    def killed(settings, block_depth, rule, folder):
        if len(done) == 2:
            raise KeyboardInterrupt
        done.append(rule)
        return growth(settings, block_depth, rule, folder)

    monkeypatch.setattr(nfd_9, "_growth", killed)
    with pytest.raises(KeyboardInterrupt):
        tiny("nfd-9")
    monkeypatch.setattr(nfd_9, "_growth", lambda *arguments: done.append("again") or growth(*arguments))
    resumed = tiny("nfd-9")
    assert done.count("again") == 1
    # A third time nothing is measured, and the numbers are the same.
    assert tiny("nfd-9").measured.equals(resumed.measured)
    assert done.count("again") == 1


def test_sweeps_are_kept_in_the_store_and_written_as_runs(tiny, engine):
    found = tiny("am-8")
    assert found.verdict in (HOLDS, LIMITS, FAILS, OPEN)
    found.save("out")
    assert b"network,stage,rule" in gzip.decompress(Path("out/am-8-quick-runs.csv.gz").read_bytes())
    ran = len(engine.ran)
    assert ran > 0
    tiny("am-8")
    assert len(engine.ran) == ran


def test_stability_is_told_from_growth(tiny):
    """What the sizes of a test decide: without depth scaling the stream grows, with it hardly."""
    sizes = {"depths": (4, 8, 16), "width": 32, "batch_size": 16, "seeds": 4, "rules": ("depth-mup", "sp")}
    found = tiny("nfd-9", **sizes)
    growth = conditions.quantity(found.measured, "octaves a doubling, sp, forward pass, blocks of 1, start")
    assert growth.low > 0.5
    for name in conditions.named(found.measured, "exponent"):
        assert abs(conditions.quantity(found.measured, name).value) < 0.3


# --- bad input ---
def test_refused_before_it_begins(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("ISOSCALE_DATA", raising=False)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(InvalidValueError, match="Nearest: collapse"):
        reproduce.run("colapse")
    with pytest.raises(InvalidValueError, match="`--time-limit"):
        reproduce.run("nfd-2", "cpu", time_limit=1)
    with pytest.raises(DataError, match="ISOSCALE_DATA"):
        reproduce.run("am-1", "cpu")
    with pytest.raises(InvalidValueError, match="large GPU"):
        reproduce.run("nfd-1", "paper")
    claim = reproduce.get("nfd-1")
    monkeypatch.setitem(claim.presets, "quick", Preset(minutes=1, gibibytes=1e6, settings={}))
    with pytest.raises(InvalidValueError, match="preset quick: `--preset"):
        reproduce.run("nfd-1")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.nightly
@pytest.mark.parametrize("name", reproduce.names())
def test_quick_presets_run(name, tmp_path):
    found = reproduce.run(name, store=tmp_path / "runs.db", workers=1, device="cpu")
    assert np.isfinite(found.measured["value"]).any()
