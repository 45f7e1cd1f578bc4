"""A plan is bound by name: it survives compiling, copying, the meta device and stacking."""

import copy

import pytest
import torch
from small_nets import (
    features_in,
    loss_of,
    mlp,
    mlp_batches,
    planned_mlp,
    planned_transformer,
    same_weights,
    seeded,
    text_batches,
    tokens_in,
    train,
    transformer,
)
from torch import nn
from torch.func import functional_call, grad_and_value, stack_module_state, vmap

from isoscale import parametrize
from isoscale.errors import PlanError


def adamw(plan, model=None):
    return torch.optim.AdamW(plan.param_groups(model), foreach=False)


@pytest.mark.parametrize("backend", ["eager", "aot_eager"])
def test_a_compiled_model_trains_as_the_plain_one(backend):
    batches = text_batches(4)
    plain, plan = planned_transformer()
    losses = train(plain, adamw(plan), batches)
    model, plan = planned_transformer()
    compiled = torch.compile(model, backend=backend)
    optimizer = adamw(plan, compiled)
    compiled_losses = train(compiled, optimizer, batches)
    plan.check(optimizer)
    # aot_eager fuses nothing, but decomposes some operations: float32 rounding over four steps.
    assert compiled_losses == pytest.approx(losses, rel=0 if backend == "eager" else 1e-6)
    assert losses[-1] != losses[0]


def test_a_model_compiled_before_planning_keeps_the_plain_names():
    model, base = transformer(16, 4, heads=4), transformer(8, 2, seed=7)
    compiled = torch.compile(model, backend="eager")
    plan = parametrize(compiled, base, lr=0.01, weight_decay=0.1, example_inputs=tokens_in())
    twin, twin_plan = planned_transformer()
    assert [entry.name for entry in plan.entries] == [name for name, _ in model.named_parameters()]
    assert same_weights(model, twin)
    assert train(compiled, adamw(plan), text_batches(3)) == train(twin, adamw(twin_plan), text_batches(3))


def test_a_deep_copy_has_its_own_groups():
    model, plan = planned_mlp()
    copied = copy.deepcopy(model)
    optimizer, copied_optimizer = adamw(plan), adamw(plan, copied)
    batches = mlp_batches(5)
    assert train(model, optimizer, batches) == train(copied, copied_optimizer, batches)
    assert same_weights(model, copied)
    held = {id(p) for group in copied_optimizer.param_groups for p in group["params"]}
    assert held == {id(p) for p in copied.parameters()}
    plan.check(optimizer)
    plan.check(copied_optimizer, model=copied)
    with pytest.raises(PlanError, match="none that is the plan's model's"):
        plan.check(copied_optimizer)


def test_a_deep_copied_plan_is_the_same_plan():
    model, plan = planned_mlp()
    twins = copy.deepcopy({"model": model, "plan": plan})
    assert twins["plan"] == plan
    losses = train(twins["model"], adamw(twins["plan"]), mlp_batches(4))
    assert losses == train(model, adamw(plan), mlp_batches(4))


def test_weight_averaging_keeps_names():
    model, plan = planned_mlp()
    averaged = torch.optim.swa_utils.AveragedModel(model)
    groups = plan.param_groups(averaged)
    assert [group["param_names"] for group in groups] == [group["param_names"] for group in plan.param_groups()]
    assert groups[0]["params"][0] is next(averaged.module.parameters())


@pytest.mark.parametrize("rule", ["completep", "depth-mup", "sp"])
def test_a_model_planned_on_meta_is_the_one_planned_on_weights(rule):
    """Plan without memory, allocate, draw, apply: bitwise the model and the losses of the ordinary way."""
    base = mlp(8, 2, seed=7)
    settings = {"rule": rule, "lr": 0.01, "weight_decay": 0.1, "example_inputs": features_in()}
    real = mlp(16, 4)
    real_plan = parametrize(real, base, **settings)
    model = mlp(16, 4, device="meta")
    plan = parametrize(model, base, **settings)
    assert all(parameter.is_meta for parameter in model.parameters())
    model.to_empty(device="cpu")
    model.reset_parameters(seed=0)
    plan = plan.apply(model)
    assert plan == real_plan
    assert same_weights(model, real)
    assert train(model, adamw(plan), mlp_batches(4)) == train(real, adamw(real_plan), mlp_batches(4))


def test_a_torch_model_on_meta_draws_its_own_init():
    def encoder(width, depth, device="cpu"):
        layer = nn.TransformerEncoderLayer(width, width // 8, 2 * width, 0.0, batch_first=True, device=device)
        stack = nn.TransformerEncoder(layer, depth, enable_nested_tensor=False)
        return nn.Sequential(nn.Linear(5, width, device=device), stack, nn.Linear(width, 3, device=device))

    def draw(model):
        generator = torch.Generator().manual_seed(3)
        with torch.no_grad():
            for parameter in model.parameters():
                fan_in = parameter.shape[-1] if parameter.dim() > 1 else 1
                parameter.copy_(torch.randn(parameter.shape, generator=generator) * fan_in**-0.5)
        return model

    base = draw(seeded(lambda: encoder(16, 1)))
    settings = {"lr": 0.01, "optimizer": torch.optim.AdamW, "example_inputs": (torch.zeros(1, 2, 5),)}
    real = draw(seeded(lambda: encoder(32, 3)))
    real_plan = parametrize(real, base, **settings)
    model = encoder(32, 3, "meta")
    plan = parametrize(model, base, **settings).apply(draw(model.to_empty(device="cpu")))
    x = torch.randn(3, 2, 5, generator=torch.Generator().manual_seed(0))
    batches = [(x, torch.tensor([[0, 1], [2, 1], [0, 2]]))] * 3
    losses = train(model, adamw(plan), batches)
    assert losses == train(real, adamw(real_plan), batches)
    assert losses[-1] < losses[0]


def test_a_stacked_ensemble_trains_as_its_members():
    """stack_module_state + functional_call: parameters lose every attribute, names stay."""
    members = [mlp(16, 4, seed=seed, dtype=torch.float64) for seed in range(3)]
    base = mlp(8, 2, seed=7, dtype=torch.float64)
    plans = [
        parametrize(member, base, optimizer="sgd", lr=0.05, example_inputs=features_in(torch.float64))
        for member in members
    ]
    stacked, buffers = stack_module_state(members)
    skeleton = copy.deepcopy(members[0]).to("meta")

    def loss(weights, batch):
        return loss_of(lambda x: functional_call(skeleton, (weights, buffers), (x,)), batch)

    stacked = {name: value.detach() for name, value in stacked.items()}
    rates = {name: group["lr"] for group in plans[0].param_groups() for name in group["param_names"]}
    together = []
    for batch in mlp_batches(5, dtype=torch.float64):
        gradients, losses = vmap(grad_and_value(loss), in_dims=(0, None))(stacked, batch)
        stacked = {name: value - rates[name] * gradients[name] for name, value in stacked.items()}
        together.append(losses)
    apart = [
        train(member, torch.optim.SGD(plan.param_groups()), mlp_batches(5, dtype=torch.float64))
        for member, plan in zip(members, plans, strict=True)
    ]
    # Batched and single matrix products sum in another order: float64 rounding over five steps.
    assert torch.stack(together).T.tolist() == [pytest.approx(losses, rel=1e-11) for losses in apart]
