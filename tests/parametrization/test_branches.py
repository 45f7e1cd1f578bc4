"""The multiplier of a residual branch is folded into the right tensors, whatever the branch is made of.

Each block trains twice: as it is, from the plan; and with the multiplier written in its forward, from the entries
and learning rates before folding. Both are the same training, in float64 to 1e-9.
"""

import copy

import pytest
import torch
import torch.nn.functional as F
from block_zoo import IMAGES, ROWS, Block, Images, Rows
from small_nets import seeded, train
from torch import nn

from isoscale import Multiplier, Role, parametrize
from isoscale.errors import PlanError

WIDTH, DEPTH, BASE_DEPTH = 8, 4, 2
C = BASE_DEPTH / DEPTH  # completep's branch multiplier
KINDS = {name: (Rows, block, (4, 3, 5)) for name, block in ROWS.items()}
KINDS |= {name: (Images, block, (4, 2, 16, 16)) for name, block in IMAGES.items()}


def built(kind, depth, seed):
    net, block, _ = KINDS[kind]
    return seeded(lambda: net(WIDTH, depth, block).double(), seed)


def batches(shape, count):
    generator = torch.Generator().manual_seed(0)
    rows = shape[:1] if len(shape) == 4 else shape[:2]
    return [
        (torch.randn(shape, generator=generator, dtype=torch.float64), torch.randint(3, rows, generator=generator))
        for _ in range(count)
    ]


def planned(kind, optimizer="adamw", **options):
    model = built(kind, DEPTH, seed=0)
    inputs = (torch.zeros(2, *KINDS[kind][2][1:], dtype=torch.float64),)
    settings = {"lr": 0.01, "weight_decay": 0.1, "eps": 1e-4} | options
    return model, parametrize(
        model, built(kind, BASE_DEPTH, 7), "completep", optimizer, example_inputs=inputs, **settings
    )


def unfolded(plan, model, optimizer):
    """The groups of the model with explicit multipliers: docs/theory.md, section 5, "Folding", read backwards."""
    groups = []
    for group in plan.param_groups(model):
        for name, parameter in zip(group["param_names"], group["params"], strict=True):
            entry = next(entry for entry in plan.entries if entry.name == name)
            c = C if entry.carries else 1.0
            lr = group["lr"] / (c**2 if optimizer == "sgd" else c)
            decay = group["weight_decay"] * (c**2 if optimizer == "sgd" else c)
            own = {"params": [parameter], "lr": lr, "weight_decay": decay}
            groups.append(own if optimizer == "sgd" else own | {"eps": group["eps"] * c})
    return groups


def explicit(kind):
    model = built(kind, DEPTH, seed=0)
    for block in model.modules():
        if isinstance(block, Block):
            block.scale = C
    return model


@pytest.mark.parametrize("optimizer", ["sgd", "adamw"])
@pytest.mark.parametrize("kind", KINDS)
def test_a_block_trains_as_with_an_explicit_multiplier(kind, optimizer):
    model, plan = planned(kind, optimizer)
    cls = {"sgd": torch.optim.SGD, "adamw": torch.optim.AdamW}[optimizer]
    steps = batches(KINDS[kind][2], 2) * 3
    losses = train(model, cls(plan.param_groups()), steps)
    reference = explicit(kind)
    assert losses == pytest.approx(train(reference, cls(unfolded(plan, reference, optimizer)), steps), rel=1e-9)
    assert plan.scaling.depth == DEPTH / BASE_DEPTH
    assert len({entry.block for entry in plan.entries if entry.block}) == DEPTH
    assert losses[-1] != losses[0]


@pytest.mark.parametrize("kind", KINDS)
def test_a_branch_is_scaled_at_initialisation_and_its_skip_is_not(kind):
    before = built(kind, DEPTH, seed=0)
    after, _ = planned(kind)
    assert torch.equal(before.input.weight, after.input.weight)
    x = batches((4, 3, WIDTH) if kind in ROWS else (4, WIDTH, 8, 8), 1)[0][0]
    for block, scaled in zip(before.blocks, after.blocks, strict=True):
        torch.testing.assert_close(scaled.branch(x), C * block.branch(x), rtol=1e-12, atol=1e-15)
        torch.testing.assert_close(scaled.skip(x), block.skip(x), rtol=0, atol=0)


PLACES = {
    "pre-norm": {"branch.1.weight": Role.BRANCH_INTERNAL, "branch.3.weight": Role.BRANCH_LAST}
    | {"branch.0.weight": Role.BRANCH_VECTOR, "branch.3.bias": Role.BRANCH_VECTOR},
    "post-norm": {"branch.2.weight": Role.BRANCH_LAST, "after.weight": Role.VECTOR},
    "one map": {"branch.1.weight": Role.BRANCH_LAST},
    "three maps": {f"branch.{i}.weight": Role.BRANCH_INTERNAL for i in (0, 2, 4)}
    | {"branch.6.weight": Role.BRANCH_LAST},
    "gated": {"branch.gate.weight": Role.BRANCH_INTERNAL, "branch.up.weight": Role.BRANCH_INTERNAL}
    | {"branch.down.weight": Role.BRANCH_LAST},
    "packed attention": {"branch.1.in_proj_weight": Role.BRANCH_INTERNAL, "branch.1.out_proj.weight": Role.BRANCH_LAST},
    "rotary attention": {f"branch.1.{name}.weight": Role.BRANCH_INTERNAL for name in "qkv"}
    | {"branch.1.out.weight": Role.BRANCH_LAST},
    "parallel": {"branch.1.arms.0.q.weight": Role.BRANCH_INTERNAL, "branch.1.arms.0.out.weight": Role.BRANCH_LAST}
    | {"branch.1.arms.1.0.weight": Role.BRANCH_INTERNAL, "branch.1.arms.1.2.weight": Role.BRANCH_LAST},
    "layer scale": {"branch.3.weight": Role.BRANCH_LAST, "branch.4.gamma": Role.BRANCH_VECTOR},
    "basic": {"branch.0.weight": Role.BRANCH_INTERNAL, "branch.3.weight": Role.BRANCH_LAST},
    "bottleneck": {"branch.2.weight": Role.BRANCH_INTERNAL, "branch.4.weight": Role.BRANCH_LAST},
    "depthwise": {"branch.0.weight": Role.BRANCH_INTERNAL, "branch.3.weight": Role.BRANCH_LAST},
    "shortcut conv": {"branch.3.weight": Role.BRANCH_LAST, "skip.0.weight": Role.HIDDEN, "skip.1.weight": Role.VECTOR},
}


@pytest.mark.parametrize("kind", PLACES)
def test_roles_within_a_block(kind):
    _, plan = planned(kind)
    roles = {entry.name: entry.role for entry in plan.entries}
    assert {name: roles[f"blocks.1.{name}"] for name in PLACES[kind]} == PLACES[kind]
    assert {roles["input.weight"], roles["readout.weight"]} == {Role.INPUT, Role.OUTPUT}


def ends_in_gelu(n):
    return Block(nn.Sequential(nn.Linear(n, n), nn.GELU()))


def test_a_branch_that_ends_in_gelu_is_refused_with_its_name_and_the_remedy():
    model, base = (seeded(lambda depth=depth: Rows(WIDTH, depth, ends_in_gelu)) for depth in (4, 2))
    settings = {"lr": 0.1, "example_inputs": (torch.zeros(1, 3, 5),)}
    before = copy.deepcopy(model.state_dict())
    with pytest.raises(PlanError, match=r"branch of `blocks\.3.*ends in gelu.*end in an isoscale\.Multiplier"):
        parametrize(model, base, **settings)
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())
    parametrize(model, base, "mup", **settings)  # no depth factor, nothing to fold
    assert len(parametrize(model, base, force=True, **settings).open_items) == 4


def test_a_multiplier_module_is_kept_by_state_dicts_and_set_anew_by_a_plan():
    model, plan = planned("gelu, mended")
    assert not any("factor" in name for name in model.state_dict())
    fresh = built("gelu, mended", DEPTH, seed=0)
    plan.apply(fresh)
    factors = [module.factor for module in fresh.modules() if isinstance(module, Multiplier)]
    assert factors == [C] * DEPTH
    x = batches((4, 3, 5), 1)[0][0]
    assert torch.equal(F.relu(fresh(x)), F.relu(model(x)))
