"""Folding changes no trajectory: explicit multipliers in the forward against a plan's init and groups.

The explicit side is written out from docs/theory.md, section 5, with m the ratio of widths and r that of depths:
multipliers stand in the forward, entries keep the tables' own sizes, groups the tables' own learning rates.
"""

import pytest
import torch
import torch.nn.functional as F
from small_nets import features_in, mlp, mlp_batches, train
from torch import nn

from isoscale import parametrize

WIDTH, DEPTH, M, R = 24, 6, 3.0, 3.0
LR, EPS, DECAY = {"sgd": 0.05, "adam": 0.01, "adamw": 0.01}, 1e-3, 0.1
CLASSES = {"sgd": torch.optim.SGD, "adam": torch.optim.Adam, "adamw": torch.optim.AdamW}
# alpha, and the power of r of the inner maps' SGD and Adam learning rates
RULES = {"mup": (0.0, 0.0, 0.0), "depth-mup": (0.5, 0.0, -0.5), "depth-mup-corrected": (0.5, 0.5, 0.0)} | {
    "completep": (1.0, 1.0, 0.0)
}


class Explicit(nn.Module):
    """The residual MLP with its multipliers where the papers write them."""

    def __init__(self, model, branch, output):
        super().__init__()
        self.model, self.branch, self.output = model, branch, output

    def forward(self, x):
        h = self.model.input(x)
        for block in self.model.blocks:
            up, down = block.maps
            h = h + self.branch * down(F.relu(up(h)))
        return self.output * self.model.readout(h)


def explicit(rule, optimizer):
    """The explicit model, from the initial weights of the ordinary one, and its optimizer."""
    alpha, sgd_internal, adam_internal = RULES[rule]
    model = mlp(WIDTH, DEPTH, dtype=torch.float64)
    # Drawn with 1/fan_in variance; the output map's variance is that of the base, m^0: times sqrt(m).
    model.readout.weight.data *= M**0.5
    sgd = {"input": M, "internal": R**sgd_internal, "last": R ** (2 * alpha - 1) if alpha else 1.0, "output": M}
    adam_last = R ** (alpha - 1) if alpha else 1.0
    adam = {"input": 1.0, "internal": R**adam_internal / M, "last": adam_last / M, "output": 1.0}
    eps = {"input": 1 / M, "internal": R**-alpha / M, "last": R**-alpha / M, "output": 1 / M}
    maps = [block.maps for block in model.blocks]
    tensors = {
        "input": [model.input.weight],
        "internal": [up.weight for up, _ in maps],
        "last": [down.weight for _, down in maps],
        "output": [model.readout.weight],
    }
    groups = []
    for role, params in tensors.items():
        factor = (sgd if optimizer == "sgd" else adam)[role]
        # Decoupled, or coupled to a plain gradient: lr x decay stays. In Adam's gradient it is divided away.
        decay = DECAY if optimizer == "adam" else DECAY / factor
        group = {"params": params, "lr": LR[optimizer] * factor, "weight_decay": decay}
        groups.append(group if optimizer == "sgd" else group | {"eps": EPS * eps[role]})
    return Explicit(model, R**-alpha, 1 / M), CLASSES[optimizer](groups)


def folded(rule, optimizer, **options):
    """The ordinary model and the plan's groups."""
    model = mlp(WIDTH, DEPTH, dtype=torch.float64)
    base = mlp(int(WIDTH / M), int(DEPTH / R), seed=7, dtype=torch.float64)
    settings = {"lr": LR[optimizer], "weight_decay": DECAY, "eps": EPS} | options
    plan = parametrize(model, base, rule, optimizer, example_inputs=features_in(torch.float64), **settings)
    return model, CLASSES[optimizer](plan.param_groups())


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("optimizer", CLASSES)
def test_a_plan_trains_as_explicit_multipliers_do(rule, optimizer):
    """To 1e-9 over 20 steps in float64, weight decay and a visible eps included."""
    batches = mlp_batches(4, dtype=torch.float64) * 5
    losses = train(*explicit(rule, optimizer), batches)
    assert train(*folded(rule, optimizer), batches) == pytest.approx(losses, rel=1e-9)
    assert losses[-1] < losses[0] - 0.01


def test_eps_matters_in_this_comparison():
    """The same run with the base's eps everywhere is another run, so the test above sees eps."""
    batches = mlp_batches(20, dtype=torch.float64)
    losses = train(*explicit("completep", "adamw"), batches)
    model, stepper = folded("completep", "adamw")
    for group in stepper.param_groups:
        group["eps"] = EPS
    assert abs(train(model, stepper, batches)[-1] / losses[-1] - 1) > 1e-3


def test_sp_leaves_the_model_and_its_training_alone():
    model, stepper = folded("sp", "adamw", weight_decay=0.0)
    plain = mlp(WIDTH, DEPTH, dtype=torch.float64)
    assert all(torch.equal(p, model.get_parameter(name)) for name, p in plain.named_parameters())
    batches = mlp_batches(5, dtype=torch.float64)
    ordinary = torch.optim.AdamW(plain.parameters(), lr=LR["adamw"], eps=EPS, weight_decay=0.0)
    assert train(model, stepper, batches) == train(plain, ordinary, batches)
