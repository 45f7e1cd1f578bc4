"""Save, stop, load, go on: bitwise the run that was never interrupted."""

import pytest
import torch
from small_nets import (
    features_in,
    mlp,
    mlp_batches,
    planned_mlp,
    planned_transformer,
    same_weights,
    text_batches,
    train,
    transformer,
)

from isoscale import Plan, parametrize
from isoscale.errors import PlanError

ADAPTIVE = {"lr": 0.01, "weight_decay": 0.1}


@pytest.mark.parametrize("optimizer", [torch.optim.AdamW, torch.optim.NAdam, torch.optim.RMSprop])
def test_a_resumed_run_is_the_uninterrupted_one(tmp_path, optimizer):
    batches = text_batches(6)
    straight, plan = planned_transformer(optimizer=optimizer)
    losses = train(straight, optimizer(plan.param_groups()), batches)

    model, plan = planned_transformer(optimizer=optimizer)
    stepper = optimizer(plan.param_groups())
    first = train(model, stepper, batches[:3])
    plan.save(tmp_path / "plan.json")
    torch.save({"model": model.state_dict(), "optimizer": stepper.state_dict()}, tmp_path / "checkpoint.pt")

    held = torch.load(tmp_path / "checkpoint.pt", weights_only=True)
    model = transformer(16, 4, seed=99, heads=4)
    model.load_state_dict(held["model"])
    loaded = Plan.load(tmp_path / "plan.json")
    stepper = optimizer(loaded.param_groups(model))
    stepper.load_state_dict(held["optimizer"])
    loaded.check(stepper, model=model)
    assert loaded == plan
    assert first + train(model, stepper, batches[3:]) == losses
    assert same_weights(model, straight)


def test_the_state_dict_is_that_of_a_plain_model():
    model, _ = planned_mlp()
    plain = mlp(16, 4)
    assert model.state_dict().keys() == plain.state_dict().keys()
    plain.load_state_dict(model.state_dict())
    x = mlp_batches(1)[0][0]
    assert torch.equal(plain(x), model(x))


def test_an_optimizer_state_of_another_width_is_caught():
    """Torch restores the groups' learning rates without a look at the shapes."""
    base = mlp(8, 2, seed=7)
    steppers, plans = {}, {}
    for width in (32, 64):
        model = mlp(width, 4)
        plans[width] = parametrize(model, base, optimizer="sgd", example_inputs=features_in(), **ADAPTIVE)
        steppers[width] = torch.optim.SGD(plans[width].param_groups())
        train(model, steppers[width], mlp_batches(1))
        plans[width].check(steppers[width])
    steppers[64].load_state_dict(steppers[32].state_dict())
    with pytest.raises(PlanError, match=r"`input\.weight` has weight_decay 0\.025, the plan asks 0\.0125"):
        plans[64].check(steppers[64])


def test_a_plan_of_another_width_refuses_the_model(tmp_path):
    _, plan = planned_mlp(width=16)
    plan.save(tmp_path / "plan.json")
    with pytest.raises(PlanError, match=r"`input\.weight` has shape \(32, 5\), the plan was made for \(16, 5\)"):
        Plan.load(tmp_path / "plan.json").param_groups(mlp(32, 4))
