"""Which dimension of a tensor grows decides its factors: fan_in and fan_out have ratios of their own.

Expected learning rates are those of docs/theory.md, section 5.1: Adam 1 / (ratio of fan_in), whatever fan_out does,
before a readout's 1/m is folded; SGD (ratio of fan_out) / (ratio of fan_in).
"""

import pytest
import torch
import torch.nn.functional as F
from block_zoo import conv
from small_nets import seeded, tokens_in, transformer
from torch import nn

from isoscale import Role, parametrize

M, LR = 4.0, 0.01


def entries(model, base, inputs, optimizer="adamw", rule="mup", **options):
    plan = parametrize(model, base, rule, optimizer, lr=LR, example_inputs=inputs, **options)
    rates = {name: group["lr"] / LR for group in plan.param_groups() for name in group["param_names"]}
    return {entry.name: (entry.role, entry.fan_in, entry.fan_out, rates.get(entry.name)) for entry in plan.entries}


def trains(model, plan_inputs, base, out, steps=10, optimizer=torch.optim.AdamW):
    """A few steps of regression on random numbers."""
    plan = parametrize(model, base, lr=LR, optimizer=optimizer, example_inputs=plan_inputs)
    stepper = optimizer(plan.param_groups())
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(8, *plan_inputs[0].shape[1:], generator=generator)
    y = torch.randn(8, *out, generator=generator)
    losses = []
    for _ in range(steps):
        loss = F.mse_loss(model(x), y)
        stepper.zero_grad()
        loss.backward()
        stepper.step()
        losses.append(loss.item())
    assert losses[-1] < losses[0]


def convnet(width, groups):
    return nn.Sequential(conv(3, width), nn.ReLU(), conv(width, width, groups=groups), nn.ReLU(), conv(width, 2, 1))


@pytest.mark.parametrize("optimizer", ["sgd", "adamw"])
def test_grouped_and_depthwise_convolutions(optimizer):
    """A fixed number of groups: fan_in grows. Depthwise: the number grows, fan_in is the kernel's alone."""
    image = (torch.zeros(1, 3, 5, 5),)
    for groups, fan_in in (((2, 2), M), ((32, 8), 1.0)):
        model, base = (seeded(lambda w=w, g=g: convnet(w, g)) for w, g in zip((32, 8), groups, strict=True))
        found = entries(model, base, image, optimizer)
        lr = M / fan_in if optimizer == "sgd" else 1 / fan_in
        assert found["2.weight"] == (Role.HIDDEN, fan_in, M, pytest.approx(lr))
        trains(model, image, base, (2, 5, 5))


def test_a_convolution_as_readout():
    image = (torch.zeros(1, 3, 5, 5),)
    model, base = (seeded(lambda w=w: convnet(w, 1)) for w in (32, 8))
    found = entries(model, base, image)
    assert found["4.weight"] == (Role.OUTPUT, M, 1.0, 1 / M)
    assert found["4.bias"] == (Role.SCALAR, 1.0, 1.0, 1.0)
    assert found["0.weight"] == (Role.INPUT, 1.0, M, 1.0)


def test_a_transposed_convolution_has_its_fans_the_other_way_round():
    def make(width, inner):
        return nn.Sequential(conv(3, width), nn.ConvTranspose2d(width, inner, 2, 2), nn.ReLU(), conv(inner, 2))

    model, base = seeded(lambda: make(32, 16)), seeded(lambda: make(8, 8))
    assert entries(model, base, (torch.zeros(1, 3, 4, 4),))["1.weight"][:3] == (Role.HIDDEN, M, 2.0)


@pytest.mark.parametrize("optimizer", ["sgd", "adamw"])
def test_a_fixed_bottleneck(optimizer):
    """Into 3 units its map is all fan_in, out of them all fan_out."""

    def make(width):
        maps = [nn.Linear(width, 3), nn.ReLU(), nn.Linear(3, width), nn.ReLU()]
        return nn.Sequential(nn.Linear(5, width), nn.ReLU(), *maps, nn.Linear(width, 2))

    model, base = seeded(lambda: make(32)), seeded(lambda: make(8))
    found = entries(model, base, (torch.zeros(1, 5),), optimizer)
    assert found["2.weight"] == (Role.HIDDEN, M, 1.0, 1 / M)
    assert found["4.weight"] == (Role.HIDDEN, 1.0, M, M if optimizer == "sgd" else 1.0)
    trains(model, (torch.zeros(1, 5),), base, (2,))


@pytest.mark.parametrize("optimizer", ["sgd", "adamw"])
def test_grouped_queries_with_a_fixed_number_of_keys(optimizer):
    """Width and query heads x4, one head of keys and values at either size."""
    model = transformer(32, 1, heads=8, kv_heads=1, head=4)
    base = transformer(8, 1, seed=7, heads=2, kv_heads=1, head=4)
    found = entries(model, base, tokens_in(), optimizer)
    attention = {
        name.split(".")[-2]: value for name, value in found.items() if "attention" in name and "weight" in name
    }
    same = 1.0 if optimizer == "sgd" else 1 / M
    assert attention["out"] == (Role.BRANCH_LAST, M, M, same)
    assert attention["q"] == (Role.BRANCH_INTERNAL, M, M, same)
    assert attention["k"] == attention["v"] == (Role.BRANCH_INTERNAL, M, 1.0, 1 / M)


class Experts(nn.Module):
    """Two experts in one tensor each, all of them on every row, summed by a gate."""

    def __init__(self, width):
        super().__init__()
        self.input, self.gate = nn.Linear(5, width), nn.Linear(width, 2)
        self.up = nn.Parameter(torch.randn(2, width, 2 * width) / width**0.5)
        self.down = nn.Parameter(torch.randn(2, 2 * width, width) / (2 * width) ** 0.5)
        self.readout = nn.Linear(width, 3)

    def forward(self, x):
        h = self.input(x)
        z = torch.bmm(h.expand(2, *h.shape), self.up).relu()
        z = torch.bmm(z, self.down)  # (experts, batch, width)
        gates = self.gate(h).softmax(-1).T.unsqueeze(-1)
        return self.readout(h + (gates * z).sum(0))


@pytest.mark.parametrize("optimizer", ["sgd", "adamw"])
def test_experts_in_three_dimensions(optimizer):
    model, base = seeded(lambda: Experts(32)), seeded(lambda: Experts(8))
    found = entries(model, base, (torch.zeros(1, 5),), optimizer)
    lr = 1.0 if optimizer == "sgd" else 1 / M
    assert found["up"] == (Role.BRANCH_INTERNAL, M, M, lr)
    assert found["down"] == (Role.BRANCH_LAST, M, M, lr)
    assert found["gate.weight"][1:] == (M, 1.0, 1 / M)
    trains(model, (torch.zeros(1, 5),), base, (3,))


@pytest.mark.parametrize("spelling", ["einsum", "matmul", "linear"])
def test_a_map_is_known_however_it_is_spelled(spelling):
    class Map(nn.Module):
        def __init__(self, width):
            super().__init__()
            self.input, self.readout = nn.Linear(5, width), nn.Linear(width, 3)
            self.w = nn.Parameter(torch.randn(width, 2 * width))
            self.back = nn.Linear(2 * width, width)

        def forward(self, x):
            h = self.input(x)
            if spelling == "einsum":
                h = torch.einsum("bi,ij->bj", h, self.w)
            elif spelling == "matmul":
                h = h @ self.w
            else:
                h = F.linear(h, self.w.T)
            return self.readout(self.back(h.relu()))

    found = entries(Map(32), Map(8), (torch.zeros(2, 5),))
    assert found["w"] == (Role.HIDDEN, M, M, 1 / M)
    assert found["back.weight"] == (Role.HIDDEN, M, M, 1 / M)


@pytest.mark.parametrize("norm", [nn.BatchNorm1d, nn.LayerNorm, nn.RMSNorm])
def test_gains_of_norms_are_vectors(norm):
    def make(width):
        return nn.Sequential(nn.Linear(5, width), norm(width), nn.ReLU(), nn.Linear(width, 3))

    model, base = seeded(lambda: make(32)), seeded(lambda: make(8))
    for optimizer, lr in (("sgd", M), ("adamw", 1.0)):
        assert entries(model, base, (torch.zeros(4, 5),), optimizer)["1.weight"] == (Role.VECTOR, 1.0, M, lr)
    assert torch.equal(model[1].weight, torch.ones(32))
    trains(model, (torch.zeros(4, 5),), base, (3,))


def test_dimensions_that_are_equal_by_coincidence():
    """Width 16 meets 16 inputs and 16 outputs, and the base's inner width: ratios come from each tensor's own axes."""

    def make(width, inner):
        maps = [nn.Linear(width, inner), nn.ReLU(), nn.Linear(inner, width)]
        return nn.Sequential(nn.Linear(16, width), nn.ReLU(), *maps, nn.Linear(width, 16))

    model, base = seeded(lambda: make(16, 32)), seeded(lambda: make(8, 16))
    found = entries(model, base, (torch.zeros(1, 16),))
    assert found["0.weight"] == (Role.INPUT, 1.0, 2.0, 1.0)
    assert found["2.weight"][:3] == (Role.HIDDEN, 2.0, 2.0)
    assert found["5.weight"] == (Role.OUTPUT, 2.0, 1.0, 0.5)


def test_a_vocabulary_may_differ():
    """Rows of an embedding are picked, not summed over: they are no fan."""

    def make(width, vocabulary):
        return nn.Sequential(nn.Embedding(vocabulary, width), nn.Linear(width, width), nn.Linear(width, vocabulary))

    model, base = seeded(lambda: make(32, 50)), seeded(lambda: make(8, 20))
    found = entries(model, base, (torch.zeros(1, 3, dtype=torch.long),))
    assert found["0.weight"] == (Role.INPUT, 1.0, M, 1.0)
    assert found["2.weight"][:2] == (Role.OUTPUT, M)
