"""`isoscale doctor` finds a sound installation sound, and says what is wrong with one that is not."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable
from importlib import metadata
from pathlib import Path

import numpy as np
import pytest
import torch

from isoscale import doctor, rules
from isoscale.runs import Store, TrialRecord

Run = Callable[..., tuple[int, str, str]]


def _wrong(store: str | None = None, data: str | None = None) -> list[str]:
    return [check.name for check in doctor.examine(store, data) if not check.ok]


def test_a_sound_installation(isoscale: Run, monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    monkeypatch.delenv("ISOSCALE_DATA", raising=False)
    state = torch.random.get_rng_state()
    code, out, errors = isoscale("doctor")
    assert torch.equal(torch.random.get_rng_state(), state)
    assert (code, errors) == (0, "")
    assert f"torch {metadata.version('torch')}" in out
    assert out.splitlines()[-1] == "isoscale is sound"
    assert list(tmp_path.iterdir()) == []
    code, out, _ = isoscale("doctor", "--json")
    found = json.loads(out)
    assert (code, found["ok"]) == (0, True)
    assert all(check["ok"] for check in found["checks"])
    assert sum(check["seconds"] for check in found["checks"]) < 20  # eight, on a machine that does nothing else


def test_a_damaged_store_and_a_missing_data_folder(isoscale: Run, tmp_path: Path):
    nothing = {"shard": "s", "config": "{}", "reason": "", "versions": "{}", "test_loss": 1.0, "test_accuracy": 1.0}
    trials = [TrialRecord(key=key, status="done", curve=np.ones(2, "f4"), **nothing) for key in "ab"]
    with Store(tmp_path / "isoscale.db") as store:
        store.record(trials)
        store._db.execute("UPDATE trials SET test_loss = 0")
    code, out, _ = isoscale("doctor", "--data", "missing")
    assert code == 1
    assert "WRONG  store: " in out
    assert "(and 1 more; see isoscale store check)" in out
    assert "WRONG  data folder: missing: No such file or directory" in out
    assert out.splitlines()[-1].startswith("isoscale is not sound here")
    (tmp_path / "notes.txt").write_text("no database\n" * 100)
    assert _wrong(store="notes.txt") == ["store"]


def test_a_rule_that_is_off(monkeypatch: pytest.MonkeyPatch):
    factors = rules.Rule.factors

    def off(self: rules.Rule, *args: object, **sizes: float) -> rules.Factors:
        found = factors(self, *args, **sizes)
        return dataclasses.replace(found, lr=found.lr * 1.001) if self.name == "completep" else found

    monkeypatch.setattr(rules.Rule, "factors", off)
    assert "rules: the identity at the base" in _wrong()


def test_arithmetic_that_is_off(monkeypatch: pytest.MonkeyPatch):
    """A library that multiplies badly is seen by what must come out."""
    product, cross_entropy = torch.Tensor.mm, torch.nn.functional.cross_entropy
    monkeypatch.setattr(torch.Tensor, "mm", lambda a, b: product(a, b) * 1.01)

    def together_only(logits: torch.Tensor, target: torch.Tensor, **options: str) -> torch.Tensor:
        return cross_entropy(logits, target, **options) * (1.0001 if options else 1.0)

    monkeypatch.setattr(torch.nn.functional, "cross_entropy", together_only)
    assert {"devices", "ensemble: a plain PyTorch loop"} <= set(_wrong())
    linear = doctor.limit.closed_form.linear
    monkeypatch.setattr(doctor.limit.closed_form, "linear", lambda *args, **options: linear(*args, **options) + 1e-3)
    assert "limit: the linear network's closed form" in _wrong()


def test_a_torch_on_which_tracing_fails(monkeypatch: pytest.MonkeyPatch):
    """What traces says so, each by its name; what does not trace goes on."""

    def fails(*_: object, **__: object) -> None:
        raise AttributeError("no such thing in this torch")

    monkeypatch.setattr("isoscale.graph.trace.Recorder", fails)
    # The ensemble's plan may have been made before.
    assert _wrong()[:2] == ["plan: a traced transformer", "audit: finite differences"]


@pytest.mark.parametrize(("name", "lr"), doctor._RATES.items())
def test_the_traced_transformer_has_the_rates_of_completep(monkeypatch: pytest.MonkeyPatch, name: str, lr: float):
    assert doctor._plan()[0]
    monkeypatch.setitem(doctor._RATES, name, 2 * lr)
    assert doctor._plan() == (False, f"{name} has lr {lr:g}, expected {2 * lr:g}")


def test_forward_mode_derivatives_that_are_off(monkeypatch: pytest.MonkeyPatch):
    """A library whose tangents are 1 % too long is seen by finite differences."""
    make_dual = torch.autograd.forward_ad.make_dual
    monkeypatch.setattr(
        "torch.autograd.forward_ad.make_dual", lambda primal, tangent: make_dual(primal, 1.01 * tangent)
    )
    ok, detail = doctor._audit()
    assert not ok
    assert detail == "first-order changes agree to 0.01, differences allow 0.001"
