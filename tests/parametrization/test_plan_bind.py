"""A plan meets a model that is trained already: nothing is rescaled, and what no checkpoint holds is set."""

from __future__ import annotations

import pytest
import torch
from torch import nn

import isoscale
from isoscale.errors import PlanError


class Tied(nn.Module):
    def __init__(self, width: int, *, multiplier: bool = True) -> None:
        super().__init__()
        self.embedding = nn.Embedding(7, width)
        self.hidden = nn.Linear(width, width)
        self.readout = nn.Linear(width, 7, bias=False)
        self.readout.weight = self.embedding.weight
        if multiplier:
            isoscale.Multiplier.before(self.readout)

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        return self.readout(torch.relu(self.hidden(self.embedding(tokens))))


@pytest.fixture
def resumed(tmp_path):
    """A trained model, and its plan and checkpoint in a fresh process's hands."""
    tokens = torch.arange(7)
    model = Tied(32)
    plan = isoscale.parametrize(model, Tied(8), "mup", lr=1e-2, example_inputs=(tokens,))
    optimizer = torch.optim.AdamW(plan.param_groups())
    nn.functional.cross_entropy(model(tokens), tokens).backward()
    optimizer.step()
    plan.save(tmp_path / "plan.json")
    again = Tied(32)
    again.load_state_dict(model.state_dict())
    return model, again, isoscale.Plan.load(tmp_path / "plan.json"), tokens


def test_binding_gives_the_trained_function_back(resumed):
    model, again, plan, tokens = resumed
    assert not torch.equal(again(tokens), model(tokens))  # the checkpoint does not hold the multiplier
    plan.bind(again)
    assert torch.equal(again(tokens), model(tokens))


def test_a_bound_plan_has_groups_and_checks_them(resumed):
    _, again, plan, _ = resumed
    bound = plan.bind(again)
    optimizer = torch.optim.AdamW(bound.param_groups())
    bound.check(optimizer)
    optimizer.param_groups[0]["lr"] *= 2
    with pytest.raises(PlanError, match="ratios"):
        bound.check(optimizer)


def test_a_model_without_the_multiplier_is_refused(resumed):
    _, _, plan, _ = resumed
    with pytest.raises(PlanError, match=r"readout\.input_multiplier"):
        plan.bind(Tied(32, multiplier=False))
