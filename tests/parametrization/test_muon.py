"""Muon for the hidden matrices and AdamW for the rest, from one plan."""

import math

import pytest
import torch
from small_nets import features_in, mlp, mlp_batches, planned_transformer, text_batches, train, transformer
from torch import nn

from isoscale import parametrize
from isoscale.errors import PlanError

ADJUSTMENTS = ["original", "match_rms_adamw"]


def steppers(plan):
    """The two optimizers that a plan's groups are for."""
    groups = plan.param_groups(optimizer="muon")
    muon, adamw = ([group for group in groups if group["optimizer"] == name] for name in ("muon", "adamw"))
    return torch.optim.Muon(muon, momentum=0.0), torch.optim.AdamW(adamw)


@pytest.mark.parametrize("adjust", ADJUSTMENTS)
def test_muon_and_adamw_train_a_transformer(adjust):
    model, plan = planned_transformer(optimizer="muon", lr={"muon": 0.02, "adamw": 0.003}, adjust_lr_fn=adjust)
    both = steppers(plan)
    losses = train(model, both, text_batches(1) * 8)
    plan.check(*both)
    assert losses[-1] < losses[0] - 0.2
    held = {name for group in both[0].param_groups for name in group["param_names"]}
    assert held == {name for name, p in model.named_parameters() if name.startswith("layers") and p.dim() == 2}
    assert {group["lr"] for group in both[1].param_groups} <= {0.003, 0.0015}


class Bottleneck(nn.Module):
    """Hidden maps whose two sides grow as they please."""

    def __init__(self, width, inner):
        super().__init__()
        self.input, self.readout = nn.Linear(4, width, bias=False), nn.Linear(width, 2, bias=False)
        self.wide, self.back = nn.Linear(width, inner, bias=False), nn.Linear(inner, width, bias=False)

    def forward(self, x):
        return self.readout(self.back(torch.relu(self.wide(self.input(x)))))


def spectral_updates(model, base, adjust):
    """Spectral norm of one real update of each hidden matrix, learning rate included."""
    plan = parametrize(model, base, "mup", "muon", lr=0.1, adjust_lr_fn=adjust, example_inputs=(torch.zeros(1, 4),))
    generator = torch.Generator().manual_seed(0)
    for parameter in model.parameters():
        # Full rank, so that every singular value of the step is near one.
        parameter.grad = torch.randn(parameter.shape, generator=generator)
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    steppers(plan)[0].step()
    moved = {name: p.detach() - before[name] for name, p in model.named_parameters()}
    return {n: torch.linalg.matrix_norm(moved[f"{n}.weight"], 2).item() for n in ("wide", "back")}


@pytest.mark.parametrize("adjust", [*ADJUSTMENTS, "none"])
@pytest.mark.parametrize(("width", "inner"), [(64, 64), (64, 16), (16, 64), (64, 256), (128, 32)])
def test_the_updates_spectral_norm_grows_like_the_root_of_fan_out_over_fan_in(adjust, width, inner):
    """From 16 x 32: torch scales the step by the shape in its own way or not at all, and the plan corrects for it.

    Five Newton-Schulz steps leave the singular values near one, the largest of them between 1 and 1.25."""
    base_updates = spectral_updates(Bottleneck(16, 32), Bottleneck(16, 32), adjust)
    updates = spectral_updates(Bottleneck(width, inner), Bottleneck(16, 32), adjust)
    grows = {"wide": math.sqrt((inner / 32) / (width / 16)), "back": math.sqrt((width / 16) / (inner / 32))}
    for name, ratio in grows.items():
        assert updates[name] / base_updates[name] == pytest.approx(ratio, rel=0.25)


def test_muon_at_the_base_is_plain_muon():
    model, plain = mlp(8, 2), mlp(8, 2)
    plan = parametrize(
        model, mlp(8, 2, seed=7), optimizer="muon", lr={"muon": 0.02, "adamw": 0.003}, example_inputs=features_in()
    )
    losses = train(model, steppers(plan), mlp_batches(4))
    hidden = [p for name, p in plain.named_parameters() if "maps" in name]
    rest = [p for name, p in plain.named_parameters() if "maps" not in name]
    ordinary = (
        torch.optim.Muon(hidden, lr=0.02, momentum=0.0, weight_decay=0.0),
        torch.optim.AdamW(rest, lr=0.003, weight_decay=0.0),
    )
    assert losses == train(plain, ordinary, mlp_batches(4))


@pytest.mark.parametrize("decay", ["independent", "coupled", "none"])
def test_what_a_decay_keeps_constant_under_muon(decay):
    _, plan = planned_transformer(optimizer="muon", lr=0.02, weight_decay=0.1, decay=decay)
    for group in plan.param_groups():
        for name in group["param_names"]:
            if name.endswith("bias") or "norm" in name or decay == "none":
                assert group["weight_decay"] == 0
            elif decay == "coupled":
                assert group["weight_decay"] == 0.1
            else:
                assert group["lr"] * group["weight_decay"] == pytest.approx(0.02 * 0.1)


def test_a_plan_for_adamw_gives_groups_for_muon_too():
    model, base = transformer(16, 4, heads=4), transformer(8, 2, seed=7, heads=2)
    tokens = (torch.zeros(1, 6, dtype=torch.long),)
    plan = parametrize(model, base, optimizer="adamw", lr=0.01, example_inputs=tokens)
    own = parametrize(model, base, optimizer="muon", lr=0.01, example_inputs=tokens)
    assert [told(group) for group in plan.param_groups(optimizer="muon")] == [told(g) for g in own.param_groups()]


def told(group):
    return {key: value for key, value in group.items() if key != "params"}


def test_one_optimizer_is_not_enough_and_a_matrix_in_the_wrong_one_is_caught():
    _, plan = planned_transformer(optimizer="muon", lr=0.02)
    muon, adamw = steppers(plan)
    with pytest.raises(PlanError, match="no group of the optimizer holds `layers"):
        plan.check(adamw)
    everything = torch.optim.AdamW(plan.param_groups())
    with pytest.raises(PlanError, match=r"`layers\.0.* is to be stepped by muon, not adamw"):
        plan.check(everything)
    plan.check(muon, adamw)
    plan.check(adamw, muon)
