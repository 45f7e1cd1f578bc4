"""Budget rules against docs/theory.md, section 8.2, and what they do to a plan."""

import dataclasses
import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import isoscale
from isoscale import rules
from isoscale.errors import InvalidTypeError, InvalidValueError
from isoscale.models import ResidualMLP
from isoscale.rules import BudgetFactors, BudgetRule, Powers

ratios = st.floats(0.05, 50.0)
every_row = st.sampled_from(rules.budget_names())

B, T = 8.0, 4.0
Q = B / T
# lr, 1 - beta1, 1 - beta2, eps, decay
ROWS = {
    "none": ("sgd", 1, 1, 1, 1, 1),
    "linear": ("sgd", B, 1, 1, 1, 1 / T),
    "sde": ("adam", B**0.5, B, B, B**-0.5, B**0.5),
    "sdew": ("adamw", 1, 1, B**0.5, 1, B**0.5),
    "sqrt-batch": ("sign", B**0.5, 1, 1, 1, 1),
    "completed-p": ("adamw", Q**0.5, Q, Q, Q**-0.5, Q**0.5),
    "marin": ("adamw", B**0.5 * T**-0.3, 1, (1 - 0.999**B) / (1 - 0.999), Q**-0.5, 1),
    "hyperp": ("muon", B**0.5 * T**-0.32, 1, 1, 1, 1),
    "ema-timescale": ("muon", 1, 1, 1, 1, Q),
    "nanochat": ("adamw", B**0.5, 1, 1, 1, B**0.5 / T),
}


# --- the table ----------------------------------------------------------------------------------------------------
def test_rows():
    assert set(ROWS) == set(rules.budget_names())
    for name, (optimizer, *wanted) in ROWS.items():
        found = rules.budget(name).factors(optimizer, batch=B, tokens=T)
        of_row = (found.lr, found.one_minus_beta1, found.one_minus_beta2, found.eps, found.weight_decay)
        assert of_row == pytest.approx(wanted, rel=1e-12), name


@given(every_row, st.floats(0, 0.9999))
def test_base_is_the_identity(name, beta2):
    for optimizer in rules.budget(name).optimizers:
        assert rules.budget(name).factors(optimizer, beta2=beta2) == BudgetFactors()


@given(every_row.filter(lambda name: name != "marin"), ratios, ratios, ratios, ratios)
def test_rules_compose(name, b1, b2, t1, t2):
    rule = rules.budget(name)
    for optimizer in rule.optimizers:
        both = dataclasses.astuple(rule.factors(optimizer, batch=b1 * b2, tokens=t1 * t2))
        first = dataclasses.astuple(rule.factors(optimizer, batch=b1, tokens=t1))
        second = dataclasses.astuple(rule.factors(optimizer, batch=b2, tokens=t2))
        assert [x * y for x, y in zip(first, second, strict=True)] == pytest.approx(both, rel=1e-12)


@given(st.sampled_from(["linear", "completed-p", "ema-timescale", "nanochat"]), ratios, ratios)
def test_lr_times_decay_times_steps_stays(name, b, t):
    rule = rules.budget(name)
    found = rule.factors(rule.optimizers[-1], batch=b, tokens=t)
    assert found.lr * found.weight_decay * t / b == pytest.approx(1, rel=1e-12)


@given(st.floats(0.1, 1000), st.floats(0, 0.99999))
def test_marin_keeps_beta2_in_its_range(b, beta2):
    found = rules.budget("marin").factors("adamw", batch=b, beta2=beta2).betas((0.9, beta2))[1]
    assert min(0.9, beta2) - 1e-12 <= found <= max(0.9999, beta2) + 1e-12
    if 0.9 < beta2**b < 0.9999:
        assert found == pytest.approx(beta2**b, rel=1e-9)


@given(every_row, ratios, ratios, st.floats(0, 0.9999), st.floats(0, 0.9999))
def test_betas_are_betas_and_a_cap_is_said(name, b, t, beta1, beta2):
    rule = rules.budget(name)
    factors = rule.factors(rule.optimizers[0], batch=b, tokens=t, beta2=beta2)
    first, second = factors.betas((beta1, beta2))
    assert 0 <= first < 1
    assert 0 <= second < 1
    follows = (1 - first) == pytest.approx((1 - beta1) * factors.one_minus_beta1, rel=1e-9) and (
        1 - second
    ) == pytest.approx((1 - beta2) * factors.one_minus_beta2, rel=1e-9)
    assert follows == (not list(factors.capped((beta1, beta2))))


@pytest.mark.parametrize(
    ("given_", "error", "says"),
    [
        ({"optimizer": "sgd"}, InvalidValueError, "stated for adam, adamw, not for sgd. For sgd: linear, none"),
        ({"optimizer": "adamv"}, InvalidValueError, "adamw"),
        ({"batch": 0}, InvalidValueError, "`batch` must be > 0, got 0"),
        ({"tokens": -1.0}, InvalidValueError, "`tokens` must be > 0"),
        ({"tokens": math.inf}, InvalidValueError, "`tokens` must be finite"),
        ({"batch": True}, InvalidTypeError, "`batch` must be a number"),
        ({"batch": 1e300, "tokens": 1e-300}, InvalidValueError, "no number holds what 'completed-p' asks for"),
        ({"beta2": 1.0}, InvalidValueError, "`beta2` must be in"),
    ],
)
def test_bad_ratios(given_, error, says):
    with pytest.raises(error, match=says.replace("(", r"\(")):
        rules.budget("completed-p").factors(**{"optimizer": "adamw", **given_})


# --- in a plan ----------------------------------------------------------------------------------------------------
def _plan(optimizer="adamw", *, width=64, **given_):
    base, model = ResidualMLP(6, 3, width=16, depth=2), ResidualMLP(6, 3, width=width, depth=2)
    given_ = {"lr": 1e-2, "weight_decay": 0.1, **given_}
    return isoscale.parametrize(model, base, "completep", optimizer, **given_)


@pytest.mark.parametrize("name", [name for name in ROWS if name != "none"])
def test_groups_hold_the_budget(name):
    optimizer = rules.budget(name).optimizers[-1]
    with_budget = _plan(optimizer, budget=name, batch=B, tokens=T)
    factors = rules.budget(name).factors(optimizer, batch=B, tokens=T)
    for one, other in zip(with_budget.entries, _plan(optimizer).entries, strict=True):
        assert one.lr == pytest.approx(other.lr * factors.lr)
        assert one.weight_decay == pytest.approx(other.weight_decay * factors.weight_decay)
        assert (one.init, one.multiplier) == (other.init, other.multiplier)
        if one.eps is not None:
            assert one.eps == pytest.approx(other.eps * factors.eps)
        if one.betas is not None:
            assert one.betas == factors.betas((0.9, 0.999))
        assert name in one.reason
    if optimizer == "adamw":
        torch.optim.AdamW(with_budget.param_groups())


def test_a_capped_beta_is_noted():
    plan = _plan(budget="completed-p", batch=16.0)
    assert any("beta1 would have to be -0.6" in note for note in plan.notes)
    assert plan.param_groups()[0]["betas"][0] == pytest.approx(0.01)
    assert plan.ratios["batch"] == 16


def test_a_plan_file_holds_the_budget(tmp_path):
    own = BudgetRule(name="mine", keeps="nothing", source="me", optimizers=("adamw",), lr=Powers(tokens=-0.28))
    for budget in ("completed-p", own):
        plan = _plan(budget=budget, batch=2.0, tokens=4.0)
        plan.save(tmp_path / "plan.json")
        assert isoscale.Plan.load(tmp_path / "plan.json") == plan


@pytest.mark.parametrize(
    ("given_", "says"),
    [
        ({"batch": 8.0}, "need a rule"),
        ({"budget": "completed"}, "Nearest: completed-p"),
        ({"budget": "linear"}, "stated for sgd, not for adamw"),
        ({"budget": "completed-p", "batch": -8.0}, "`batch` must be > 0"),
        ({"budget": "completed-p", "optimizer": "adam", "batch": 2.0}, "use optimizer='adamw'"),
        ({"budget": "completed-p", "betas": (1.0, 0.9)}, r"must be in \[0, 1\)"),
    ],
)
def test_bad_budgets(given_, says):
    with pytest.raises(InvalidValueError, match=says):
        _plan(**given_)
