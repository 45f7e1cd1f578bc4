"""The table against docs/theory.md, section 5, and the algebra that any table of powers must obey."""

import math
from dataclasses import astuple, replace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from isoscale import rules
from isoscale.errors import InvalidTypeError, InvalidValueError
from isoscale.scaling.factors import Factors
from isoscale.scaling.optimizers import FAMILIES, OPTIMIZERS, family_of
from isoscale.scaling.roles import Role
from isoscale.training import Optimizer
from isoscale.training.steppers import stepper
from planned import planned

ratios = st.floats(0.05, 50.0)
every_rule = st.sampled_from([*rules.names(), "residual-family(0.5,0.75)", "residual-family(0.75,1)"])
every_role, every_optimizer = st.sampled_from(list(Role)), st.sampled_from(OPTIMIZERS)


# --- algebra ----------------------------------------------------------------------------------------------------
@given(every_rule, every_role, every_optimizer)
def test_base_is_the_identity(rule, role, optimizer):
    assert rules.get(rule).factors(role, optimizer) == Factors()
    assert Factors().fold(optimizer) == Factors()


@given(every_rule, every_role, every_optimizer, ratios, ratios, ratios, ratios)
def test_factors_compose(rule, role, optimizer, m1, m2, r1, r2):
    rule = rules.get(rule)
    both = rule.factors(role, optimizer, width=m1 * m2, depth=r1 * r2)
    first = rule.factors(role, optimizer, width=m1, depth=r1)
    second = rule.factors(role, optimizer, width=m2, depth=r2)
    assert astuple(first * second) == pytest.approx(astuple(both), rel=1e-12)
    folded = first.fold(optimizer) * second.fold(optimizer)
    assert astuple(folded) == pytest.approx(astuple(both.fold(optimizer)), rel=1e-12)


# What steps matrices whatever their role: Muon leaves input and output layers to another optimizer.
steps_all = st.sampled_from([name for name in OPTIMIZERS if name != "muon"])


@given(every_rule, every_optimizer, ratios)
def test_a_matrix_with_sides_that_grow_alike_is_hidden(rule, optimizer, m):
    rule = rules.get(rule)
    hidden = rule.factors(Role.HIDDEN, optimizer, width=m)
    assert rule.factors(Role.HIDDEN, optimizer, width=m, fan_out=m) == hidden


@given(every_rule, steps_all, ratios)
def test_a_matrix_with_one_side_that_grows_is_an_input_or_an_output_layer(rule, optimizer, m):
    """Whatever the trace calls it, its numbers once folded are theirs."""
    rule = rules.get(rule)
    for role in (Role.HIDDEN, Role.INPUT, Role.OUTPUT):
        if rule.embedding and role is not Role.INPUT:
            continue  # such a rule is about what is called an input layer
        out = rule.factors(role, optimizer, width=1, fan_out=m)
        assert astuple(out) == pytest.approx(astuple(rule.factors(Role.INPUT, optimizer, width=m)), rel=1e-12)
        into = rule.factors(role, optimizer, width=m, fan_out=1)
        output = rule.factors(Role.OUTPUT, optimizer, width=m).fold(optimizer)
        numbers = ["init_std", "multiplier", "lr"] + ["eps"] * FAMILIES[optimizer].has_eps
        for number in numbers:
            assert getattr(into, number) == pytest.approx(getattr(output, number), rel=1e-12)


@given(every_rule, every_role, every_optimizer, ratios, ratios)
def test_the_way_back_undoes_what_two_sides_ask_for(rule, role, optimizer, a, b):
    rule = rules.get(rule)
    there = rule.factors(role, optimizer, width=a, fan_out=b)
    back = rule.factors(role, optimizer, width=1 / a, fan_out=1 / b)
    assert astuple(there * back) == pytest.approx(astuple(Factors()), rel=1e-9)


@given(ratios, ratios.filter(lambda b: b != 1))
def test_sides_that_both_grow_at_rates_of_their_own(a, b):
    """docs/theory.md, section 5.1."""
    found = {name: rules.get("mup").factors(Role.HIDDEN, name, width=a, fan_out=b) for name in ("sgd", "adamw")}
    assert [found[name].init_std for name in found] == pytest.approx([a**-0.5] * 2)
    assert [found["sgd"].lr, found["adamw"].lr] == pytest.approx([b / a, 1 / a])


@given(every_rule, every_role, every_optimizer, ratios, ratios)
def test_folding_keeps_the_invariants(rule, role, optimizer, m, r):
    plain = rules.get(rule).factors(role, optimizer, width=m, depth=r)
    folded = plain.fold(optimizer)
    assert folded.multiplier == 1.0
    assert folded.init_std == pytest.approx(plain.init_std * plain.multiplier)
    power = 2 if optimizer == "sgd" else 1
    assert folded.lr == pytest.approx(plain.lr * plain.multiplier**power)
    if optimizer in ("sgd", "adamw", "sign", "muon"):
        assert folded.lr * folded.weight_decay == pytest.approx(plain.lr * plain.weight_decay)
    if optimizer in ("adam", "adamw"):
        assert folded.eps == pytest.approx(plain.eps / plain.multiplier)


# --- the depth table by row: (branch multiplier, last init, sgd internal, sgd last, adam internal, adam last) ----
R = 16.0
DEPTH_ROWS = {
    "sp": (1, 1, 1, 1, 1, 1),
    "mup": (1, 1, 1, 1, 1, 1),
    "depth-mup": (R**-0.5, 1, 1, 1, R**-0.5, R**-0.5),
    "depth-mup-corrected": (R**-0.5, 1, R**0.5, 1, 1, R**-0.5),
    "residual-family(0.5,0.75)": (R**-0.5, R**-0.25, R**0.5, 1, R**-0.25, R**-0.5),
    "residual-family(0.5,1)": (R**-0.5, R**-0.5, R, 1, 1, R**-0.5),
    "completep": (1 / R, 1, R, R, 1, 1),
    "am-mup": (1, R**-0.5, R**-1.5, R**-1.5, R**-1.5, R**-1.5),
}


@pytest.mark.parametrize(("rule", "row"), DEPTH_ROWS.items())
def test_depth_table(rule, row):
    rule = rules.get(rule)
    internal = {o: rule.factors(Role.BRANCH_INTERNAL, o, depth=R) for o in OPTIMIZERS}
    last = {o: rule.factors(Role.BRANCH_LAST, o, depth=R) for o in OPTIMIZERS}
    found = (last["sgd"].multiplier, last["sgd"].init_std, internal["sgd"].lr, last["sgd"].lr)
    assert found == pytest.approx(row[:4])
    for optimizer in ("adam", "adamw", "sign", "muon"):
        assert (internal[optimizer].lr, last[optimizer].lr) == pytest.approx(row[4:])
    assert internal["sgd"].multiplier == 1.0
    # Biases and gains of a branch follow the column "last"; Adam's eps follows the branch multiplier.
    for optimizer in OPTIMIZERS:
        assert rule.factors(Role.BRANCH_VECTOR, optimizer, depth=R).lr == pytest.approx(last[optimizer].lr)
    assert internal["adamw"].eps == last["adamw"].eps == pytest.approx(row[0])


@pytest.mark.parametrize("role", [Role.INPUT, Role.HIDDEN, Role.OUTPUT, Role.VECTOR, Role.SCALAR])
def test_depth_leaves_everything_outside_the_branches_alone(role):
    for rule in set(rules.names()) - {"am-mup"}:
        for optimizer in OPTIMIZERS:
            assert rules.get(rule).factors(role, optimizer, depth=R) == Factors()
    assert rules.get("am-mup").factors(role, "sgd", depth=R) == Factors(lr=R**-1.5, weight_decay=R**1.5)


def test_am_mup_thins_every_branch_map():
    assert rules.get("am-mup").factors(Role.BRANCH_INTERNAL, "sgd", depth=R).init_std == R**-0.5


# --- the width table: (init variance, multiplier, sgd, adam, adamw decay, muon) -------------------------------------
M = 4.0
WIDTH_ROWS = {
    Role.INPUT: (1, 1, M, 1, 1, 1),
    Role.HIDDEN: (1 / M, 1, 1, 1 / M, M, 1),
    Role.BRANCH_INTERNAL: (1 / M, 1, 1, 1 / M, M, 1),
    Role.BRANCH_LAST: (1 / M, 1, 1, 1 / M, M, 1),
    Role.OUTPUT: (1, 1 / M, M, 1, 1, 1),
    Role.VECTOR: (1, 1, M, 1, 1, 1),
    Role.BRANCH_VECTOR: (1, 1, M, 1, 1, 1),
    Role.SCALAR: (1, 1, 1, 1, 1, 1),
}


@pytest.mark.parametrize(("role", "row"), WIDTH_ROWS.items())
@pytest.mark.parametrize("rule", ["mup", "depth-mup", "depth-mup-corrected", "completep", "am-mup"])
def test_width_table(rule, role, row):
    at = {o: rules.get(rule).factors(role, o, width=M) for o in OPTIMIZERS}
    found = (at["sgd"].init_std ** 2, at["sgd"].multiplier, at["sgd"].lr, at["adam"].lr)
    assert found == pytest.approx(row[:4])
    assert at["adamw"].weight_decay == pytest.approx(row[4])
    assert at["muon"].lr == pytest.approx(row[5])
    assert at["adam"].eps == (1.0 if role is Role.SCALAR else 1 / M)
    assert at["sign"].lr == at["adam"].lr


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
@pytest.mark.parametrize("role", list(Role))
def test_sp_is_torchs_default(role, optimizer):
    shrinks = role.is_hidden_map or role is Role.OUTPUT
    assert rules.get("sp").factors(role, optimizer, width=M, depth=R) == Factors(init_std=0.5 if shrinks else 1.0)


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_sp_embedding_differs_from_sp_in_adams_rate_of_embeddings_alone(optimizer):
    for role in Role:
        found = rules.get("sp-embedding").factors(role, optimizer, width=M, depth=R, fan_out=M)
        entrywise = role is Role.INPUT and optimizer != "sgd"
        expected = rules.get("sp").factors(role, optimizer, width=M, depth=R, fan_out=M).lr * (M if entrywise else 1)
        assert found.lr == expected
    packed = rules.get("sp-embedding").factors(Role.HIDDEN, optimizer, width=M, fan_out=1.0)
    assert packed == rules.get("sp").factors(Role.HIDDEN, optimizer, width=M, fan_out=1.0)


def test_ntp_is_the_kernel_regime():
    ntp = rules.get("ntp")
    assert ntp.factors(Role.INPUT, "sgd", width=M) == Factors()
    for role in (Role.HIDDEN, Role.OUTPUT):
        assert ntp.factors(role, "sgd", width=M) == Factors(init_std=M**-0.5, lr=1 / M, weight_decay=M)


def test_family_contains_the_named_rules():
    for (alpha, beta), name in {(0.5, 0.5): "depth-mup", (1.0, 1.0): "completep"}.items():
        assert rules.residual_family(alpha, beta).depth == rules.get(name).depth


@given(st.floats(0.5, 1.0))
def test_family_trades_noise_for_learning(beta):
    """Initial noise L^{1/2-beta} times the inner maps' own update L^{beta-1} is L^{-1/2}.

    Source: docs/theory.md, section 4.
    """
    family = rules.residual_family(alpha=0.5, beta=beta)
    last = family.factors(Role.BRANCH_LAST, "adam", depth=R)
    internal = family.factors(Role.BRANCH_INTERNAL, "adam", depth=R)
    noise = R**0.5 * last.multiplier * last.init_std
    assert noise * internal.lr == pytest.approx(R**-0.5)


# --- folding changes no trajectory ------------------------------------------------------------------------------------
def _train(optimizer: Optimizer, multiplier: float, *, fold: bool) -> list[float]:
    """20 steps of y = c W2 tanh(W1 x) in float64, the multiplier explicit or folded into W2."""
    generator = torch.Generator().manual_seed(0)
    draw = lambda *shape: torch.randn(*shape, generator=generator, dtype=torch.float64)  # noqa: E731
    x, y, inner, last = draw(32, 6), draw(32, 5), draw(8, 6) / 2, draw(5, 8) / 2
    factors = Factors(multiplier=multiplier)
    if fold:
        factors = factors.fold(optimizer.family)
        last = last * factors.init_std
    params = [inner.requires_grad_(), last.clone().requires_grad_()]
    steppers = [
        stepper(params[0].detach(), [planned(optimizer, Role.BRANCH_INTERNAL)], [0.05]),
        stepper(params[1].detach(), [planned(optimizer, Role.BRANCH_LAST, factors)], [0.05]),
    ]
    losses = []
    for _ in range(20):
        out = factors.multiplier * torch.tanh(x @ params[0].T) @ params[1].T
        loss = (out - y).square().mean()
        losses.append(loss.item())
        for one, grad in zip(steppers, torch.autograd.grad(loss, params), strict=True):
            one.step(grad)
    return losses


@pytest.mark.parametrize("multiplier", [0.3, 1.7])
@pytest.mark.parametrize("family", OPTIMIZERS)
def test_folding_changes_no_trajectory(family, multiplier):
    momentum = None if family in ("adam", "adamw") else 0.5
    optimizer = Optimizer(family=family, momentum=momentum, weight_decay=0.1, eps=1e-3)
    explicit, folded = (_train(optimizer, multiplier, fold=fold) for fold in (False, True))
    assert folded == pytest.approx(explicit, rel=1e-12)
    assert abs(explicit[-1] - explicit[0]) > 0.01, "the test must train"


# --- bad input ---------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("value", [0, -1.0, math.nan, math.inf])
def test_ratio_must_be_positive_and_finite(value):
    with pytest.raises(InvalidValueError, match="`depth`"):
        rules.get("mup").factors(Role.HIDDEN, "sgd", depth=value)


def test_unknown_names_come_with_the_nearest():
    with pytest.raises(InvalidValueError, match="Nearest: depth-mup, depth-mup-corrected"):
        rules.get("dept-mup")
    with pytest.raises(InvalidValueError, match="Nearest: adam, adamw"):
        rules.get("mup").factors(Role.HIDDEN, "adamv")
    with pytest.raises(InvalidValueError, match="no role"):
        rules.get("mup").factors("hiden", "sgd")
    with pytest.raises(InvalidTypeError, match="`width`"):
        rules.get("mup").factors(Role.HIDDEN, "sgd", width="4")


@pytest.mark.parametrize(("alpha", "beta"), [(0.5, 0.4), (0.5, 1.1), (-0.1, 1.0), (2.0, 1.0), (math.nan, 1.0)])
def test_family_refuses_unstable_exponents(alpha, beta):
    with pytest.raises(InvalidValueError, match=r"`(alpha|beta)`"):
        rules.residual_family(alpha, beta)


def test_a_matrix_optimizer_is_told_how_to_be_declared():
    for name in ("SOAP", "shampoo"):
        with pytest.raises(InvalidValueError, match='optimizer="muon", adjust_lr_fn="none"'):
            family_of(name)
    assert family_of("NAdam") == "adam"
    with pytest.raises(InvalidValueError, match="no optimizer family named 'lamb'"):
        family_of("lamb")


@pytest.mark.parametrize("name", ["a\0", "a\nb", "\x1b[31m"])
def test_a_name_that_no_page_can_hold_is_refused(name):
    with pytest.raises(InvalidValueError, match="`name` of a rule must be printable"):
        replace(rules.get("sp"), name=name)


def test_momentum_by_default():
    """Muon's as torch has it; of signs, Lion's first beta."""
    of_torch = torch.optim.Muon([torch.nn.Parameter(torch.ones(2, 2))]).defaults
    assert FAMILIES["muon"].momentum == of_torch["momentum"]
    assert FAMILIES["sign"].momentum == 0.9
