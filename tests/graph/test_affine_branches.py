"""A multiplier is folded through what is homogeneous, f(c z) = c f(z), and through nothing else."""

import pytest
import torch
from torch import nn

from isoscale import Multiplier, parametrize
from isoscale.errors import PlanError

X = (torch.zeros(2, 5),)


class Net(nn.Module):
    """h + end(W h), `depth` times."""

    def __init__(self, end, width, depth):
        super().__init__()
        self.input, self.readout = nn.Linear(5, width), nn.Linear(width, 3)
        self.maps = nn.ModuleList(nn.Linear(width, width) for _ in range(depth))
        self.gain = nn.Parameter(torch.ones(width))
        self.multipliers = nn.ModuleList(Multiplier() for _ in range(depth))
        self.register_buffer("shift", torch.zeros(width))
        self.end = end

    def forward(self, x):
        h = self.input(x) * self.gain
        for linear, multiplier in zip(self.maps, self.multipliers, strict=True):
            h = h + self.end(linear(h), self, multiplier)
        return self.readout(h)


def plan_of(end, rule="depth-mup"):
    return parametrize(Net(end, 16, 4), Net(end, 8, 2), rule, lr=0.1, example_inputs=X)


def half(z):
    return torch.arange(z.shape[-1]) % 2 == 0


AFFINE = {
    "a number less": lambda z, *_: torch.relu(z) - 0.4,
    "a number more": lambda z, *_: torch.relu(z) + 1,
    "less from a number": lambda z, *_: 0.4 - torch.relu(z),
    "in place": lambda z, *_: torch.relu(z).sub_(0.4),
    "a tensor of ones": lambda z, *_: torch.relu(z) + torch.ones(z.shape[-1]),
    "a table": lambda z, *_: torch.relu(z) + torch.arange(z.shape[-1]).cos(),
    "a buffer that is zero now": lambda z, net, _: torch.relu(z) + net.shift,
    "filled with a number": lambda z, *_: torch.relu(z).masked_fill(half(z), -1.0),
    "a number elsewhere": lambda z, *_: torch.where(half(z), torch.relu(z), 2.0),
    "joined with ones": lambda z, *_: torch.cat([torch.relu(z)[..., 1:], torch.ones(len(z), 1)], -1),
    "padded with a number": lambda z, *_: nn.functional.pad(torch.relu(z)[..., 1:], (1, 0), value=3.0),
    "before the last view": lambda z, *_: (torch.relu(z) - 0.4).clone().view(z.shape),
    "ones written since they were zeros": lambda z, *_: torch.relu(z) + torch.zeros(z.shape[-1]).add_(1.0),
}
OTHERWISE = {
    "a product with itself": lambda z, *_: square(torch.relu(z)),
    "a division by it": lambda z, *_: torch.tensor(1.0) / (torch.relu(z) + z.abs()),
    "a division that rounds": lambda z, *_: torch.div(torch.relu(z), 3, rounding_mode="floor"),
}


def square(z):
    return z * z


FOLDED = {
    "relu": lambda z, *_: torch.relu(z),
    "scaled": lambda z, *_: torch.relu(z) * 0.5 / 3,
    "nothing added": lambda z, *_: torch.relu(z) + 0.0,
    "zeros added": lambda z, *_: torch.relu(z) + torch.zeros_like(z),
    "filled with zero": lambda z, *_: torch.relu(z).masked_fill(half(z), 0.0),
    "zero elsewhere": lambda z, *_: torch.where(half(z), torch.relu(z), 0.0),
    "zeros elsewhere": lambda z, *_: torch.where(half(z), torch.relu(z), torch.zeros_like(z)),
    "written into zeros": lambda z, *_: torch.zeros(len(z), 16)[:, : z.shape[-1]].index_add(0, rows(z), torch.relu(z)),
    "padded with zeros": lambda z, *_: nn.functional.pad(torch.relu(z)[..., 1:], (1, 0)),
    "its mean less": lambda z, *_: torch.relu(z) - torch.relu(z).mean(-1, keepdim=True),
    "two of it": lambda z, *_: torch.relu(z) + torch.relu(-z),
}


def rows(z):
    return torch.arange(len(z))


@pytest.mark.parametrize("kind", AFFINE)
def test_the_addition_of_a_constant_is_named(kind):
    with pytest.raises(PlanError, match=r"branch of `maps\.0` ends in the addition of a constant.*Multiplier"):
        plan_of(AFFINE[kind])
    assert not plan_of(AFFINE[kind], "mup").open_items  # no depth factor, nothing to fold


@pytest.mark.parametrize("reason", OTHERWISE)
def test_what_else_is_not_homogeneous_for_these_arguments_is_named(reason):
    with pytest.raises(PlanError, match=f"ends in {reason}"):
        plan_of(OTHERWISE[reason])


@pytest.mark.parametrize("kind", FOLDED)
def test_a_homogeneous_end_is_passed(kind):
    plan = plan_of(FOLDED[kind])
    folded = {entry.name for entry in plan.entries if entry.carries}
    assert folded == {f"maps.{i}.{leaf}" for i in range(4) for leaf in ("weight", "bias")}


def test_a_multiplier_after_the_constant_takes_it():
    plan = plan_of(lambda z, net, multiplier: multiplier(torch.relu(z) - 0.4))
    assert plan.multipliers == dict.fromkeys(
        [f"multipliers.{i}" for i in range(4)], plan.scaling.multiplier_of_branches()
    )
    assert not any(entry.carries for entry in plan.entries)


def test_a_constant_bias_is_no_parameter():
    """The product's weight would take the multiplier, its constant bias would not."""

    class Shifted(Net):
        def forward(self, x):
            h = self.input(x) * self.gain
            for linear in self.maps:
                h = h + torch.addmm(torch.ones(h.shape[-1]), torch.tanh(h + linear.bias), linear.weight)
            return self.readout(h)

    with pytest.raises(PlanError, match="the addition of a constant"):
        parametrize(Shifted(None, 16, 4), Shifted(None, 8, 2), "depth-mup", lr=0.1, example_inputs=X)


def test_a_constant_on_attention_logits_is_in_nobodys_way():
    class Attending(Net):
        def forward(self, x):
            h = self.input(x) * self.gain
            for linear in self.maps:
                logits = (h @ h.T / h.shape[-1] + torch.arange(len(h))).masked_fill(
                    torch.eye(len(h)) > 0, float("-inf")
                )
                h = h + logits.softmax(-1) @ linear(h)
            return self.readout(h)

    plan = parametrize(Attending(None, 16, 4), Attending(None, 8, 2), "depth-mup", lr=0.1, example_inputs=X)
    assert {entry.name for entry in plan.entries if entry.carries} >= {f"maps.{i}.weight" for i in range(4)}
