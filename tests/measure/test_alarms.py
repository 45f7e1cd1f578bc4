"""`check` and `audit` on correct plans and on injected faults: a part of the study in benchmarks/alarms.py."""

import importlib.util
import sys
from pathlib import Path

import pytest
from rich.console import Console

ROOT = Path(__file__).parents[2]
SEED = 7_000  # of no other use


def _load():
    spec = importlib.util.spec_from_file_location("alarms", ROOT / "benchmarks" / "alarms.py")
    module = importlib.util.module_from_spec(spec)
    sys.modules["alarms"] = module
    spec.loader.exec_module(module)
    return module


alarms = _load()


def measured(model, optimizer, axis, rule="completep", fault=""):
    case = alarms.Case(model=model, optimizer=optimizer, axis=axis, rule=rule, fault=fault, seed=SEED)
    return alarms.Result(case=case, **alarms.measure(case))


@pytest.mark.parametrize(
    ("model", "optimizer", "axis"),
    [("plain", "adamw", "width"), ("plain", "sgd", "width"), ("biases, tanh", "adamw", "depth")],
)
def test_correct_plans_raise_no_alarm(model, optimizer, axis):
    found = measured(model, optimizer, axis)
    assert not found.alarm("either"), (found.check_rows, found.audit_rows)


@pytest.mark.parametrize(
    ("fault", "model", "optimizer", "axis", "by"),
    [
        ("readout multiplier forgotten", "plain", "adamw", "width", "check"),
        ("readout multiplier forgotten", "plain", "sgd", "width", "audit"),
        ("hidden layer taken for an input", "plain", "adamw", "width", "check"),
        ("hidden layer taken for an input", "plain", "adamw", "width", "audit"),
        ("Muon scaled twice", "plain", "muon", "width", "audit"),
        ("decay coupled to the rate", "plain", "adamw", "width", "check"),
        ("groups flattened", "plain", "adamw", "width", "check"),
        ("branch multiplier missing", "biases, tanh", "adamw", "depth", "check"),
        ("branch multiplier missing", "biases, tanh", "adamw", "depth", "audit"),
    ],
)
def test_faults_are_found(fault, model, optimizer, axis, by):
    assert measured(model, optimizer, axis, fault=fault).alarm(by)


def test_an_audit_sees_neither_decay_nor_what_becomes_of_the_groups():
    """It steps by the plan itself: only `check` runs the user's optimizer."""
    for fault in ("decay coupled to the rate", "groups flattened"):
        assert not measured("plain", "adamw", "width", fault=fault).alarm("audit")


def test_every_case_is_drawn_once_and_half_are_correct():
    chosen = alarms.Study(cases=300)
    drawn = alarms.drawn(chosen)
    assert len(set(drawn)) == len(drawn) == 300
    assert sum(not case.fault for case in drawn) == 150
    assert {case.fault for case in drawn} >= set(alarms.FAULTS)
    seeds = [case.seed for case in drawn]
    assert len(set(seeds)) == len(seeds)
    assert min(seeds) >= chosen.seed


def test_the_page_and_the_kept_cases(tmp_path):
    results = []
    for number, case in enumerate(alarms.drawn(alarms.Study(cases=6))):
        answer = alarms.DEPENDS if number == 0 or case.fault else "the same at every size"
        rows = ["output change explodes like n^0.5"] if number == 0 else []
        results.append(alarms.Result(case=case, check=answer, audit="not decided at these sizes", check_rows=rows))
    text = alarms.page(results, alarms.Study())
    assert "| correct plans (an alarm is false) | 1 of 3: 33.3 % [6.1, 79.2] | 0 of 3: 0.0 %" in text
    assert text.count("* false alarm: ") == 1
    assert "missed" not in text
    # Another run reads what is kept, and measures nothing.
    chosen = alarms.Study(cases=6, kept=tmp_path / "kept.jsonl", seconds=-1.0)
    lines = [alarms.json.dumps(alarms.dataclasses.asdict(result)) for result in results]
    chosen.kept.write_text("\n".join(lines))
    assert alarms.run(chosen, Console(quiet=True)) == results


@pytest.mark.nightly
def test_error_rates():
    """At most 2 % of false alarms and at least 90 % of the injected faults, less four standard errors."""
    drawn = alarms.drawn(alarms.Study(seed=SEED, cases=120))
    results = [alarms.Result(case=case, **alarms.measure(case)) for case in drawn]
    correct = [result.alarm("either") for result in results if not result.case.fault]
    faulty = [result.alarm("either") for result in results if result.case.fault not in ("", "rule")]
    assert sum(correct) / len(correct) <= 0.02 + 4 * (0.02 * 0.98 / len(correct)) ** 0.5
    assert sum(faulty) / len(faulty) >= 0.9 - 4 * (0.9 * 0.1 / len(faulty)) ** 0.5
