"""Schedules that multiply keep a plan's ratios; those that set one value for all groups are caught."""

import pytest
import torch
from small_nets import mlp_batches, planned_mlp, train
from torch.optim import lr_scheduler

from isoscale.errors import PlanError

STEPS = 10


def warmup(optimizer):
    return lr_scheduler.LinearLR(optimizer, start_factor=0.1, total_iters=4)


def then_cosine(optimizer):
    cosine = lr_scheduler.CosineAnnealingLR(optimizer, T_max=8)
    return lr_scheduler.SequentialLR(optimizer, [warmup(optimizer), cosine], milestones=[4])


def rates(optimizer):
    return [group["lr"] for group in optimizer.param_groups]


KEEPS = {
    "lambda": lambda opt: lr_scheduler.LambdaLR(opt, lambda step: 0.97**step),
    "warmup": warmup,
    "warmup-cosine": then_cosine,
    "cosine": lambda opt: lr_scheduler.CosineAnnealingLR(opt, T_max=20),
    "step": lambda opt: lr_scheduler.StepLR(opt, step_size=3, gamma=0.3),
    "exponential": lambda opt: lr_scheduler.ExponentialLR(opt, gamma=0.9),
    "polynomial": lambda opt: lr_scheduler.PolynomialLR(opt, total_iters=20),
    "one-cycle-list": lambda opt: lr_scheduler.OneCycleLR(opt, max_lr=rates(opt), total_steps=20, cycle_momentum=False),
}

LOSES = {
    "one-cycle": lambda opt: lr_scheduler.OneCycleLR(opt, max_lr=0.01, total_steps=20, cycle_momentum=False),
    "cosine-floor": lambda opt: lr_scheduler.CosineAnnealingLR(opt, T_max=20, eta_min=1e-4),
    "restarts-floor": lambda opt: lr_scheduler.CosineAnnealingWarmRestarts(opt, T_0=20, eta_min=1e-4),
    "cyclic": lambda opt: lr_scheduler.CyclicLR(opt, 1e-4, 1e-2, cycle_momentum=False),
}


def stepped(schedule):
    """Train under a schedule; plan, optimizer and the learning rates that it began with."""
    model, plan = planned_mlp()
    optimizer = torch.optim.AdamW(plan.param_groups())
    planned = rates(optimizer)
    scheduler = schedule(optimizer)
    for batch in mlp_batches(STEPS):
        train(model, optimizer, [batch])
        scheduler.step()
    return plan, optimizer, planned


@pytest.mark.parametrize("schedule", KEEPS.values(), ids=KEEPS.keys())
def test_a_schedule_that_multiplies_is_fine(schedule):
    plan, optimizer, planned = stepped(schedule)
    plan.check(optimizer)
    factors = [now / then for now, then in zip(rates(optimizer), planned, strict=True)]
    assert factors == pytest.approx([factors[0]] * len(factors), rel=1e-12)


@pytest.mark.parametrize("schedule", LOSES.values(), ids=LOSES.keys())
def test_a_schedule_that_sets_one_value_is_caught(schedule):
    plan, optimizer, _ = stepped(schedule)
    with pytest.raises(PlanError, match=r"ratios of the learning rates are lost: `blocks.*use one that multiplies"):
        plan.check(optimizer)


def test_a_schedule_at_zero_says_nothing_against_the_ratios():
    model, plan = planned_mlp()
    optimizer = torch.optim.AdamW(plan.param_groups())
    scheduler = lr_scheduler.CosineAnnealingLR(optimizer, T_max=2)
    for batch in mlp_batches(2):
        train(model, optimizer, [batch])
        scheduler.step()
    assert rates(optimizer) == [0.0] * len(rates(optimizer))
    plan.check(optimizer)


def test_a_learning_rate_finder_is_caught():
    """It sets one value in every group."""
    _, plan = planned_mlp()
    optimizer = torch.optim.AdamW(plan.param_groups())
    for group in optimizer.param_groups:
        group["lr"] = 3e-4
    with pytest.raises(PlanError, match="LR finder"):
        plan.check(optimizer)


@pytest.mark.parametrize(("key", "value"), [("weight_decay", 0.1), ("eps", 1e-8)])
def test_one_decay_or_eps_for_all_is_caught(key, value):
    _, plan = planned_mlp()
    optimizer = torch.optim.AdamW(plan.param_groups())
    for group in optimizer.param_groups:
        group[key] = value
    with pytest.raises(PlanError, match=f"has {key} "):
        plan.check(optimizer)


def test_tensor_learning_rates_are_read():
    """A capturable optimizer holds its learning rates in tensors."""
    _, plan = planned_mlp()
    groups = [group | {"lr": torch.tensor(group["lr"], dtype=torch.float64)} for group in plan.param_groups()]
    optimizer = torch.optim.AdamW(groups, foreach=False)
    plan.check(optimizer)
    optimizer.param_groups[0]["lr"] *= 2
    with pytest.raises(PlanError, match="ratios"):
        plan.check(optimizer)


def test_groups_are_the_callers_to_change():
    _, plan = planned_mlp()
    first = plan.param_groups()
    first[0]["lr"] = 7.0
    first[0]["params"].clear()
    again = plan.param_groups()
    assert again[0]["lr"] != 7.0
    assert again[0]["params"]


def test_missing_parameters_are_caught():
    _, plan = planned_mlp()
    groups = plan.param_groups()
    with pytest.raises(PlanError, match=r"no group of the optimizer holds `input\.weight`"):
        plan.check(torch.optim.AdamW(groups[1:]))
