"""`Multiplier.after`: the way out where a branch's multiplier, or queries', can be folded into nothing."""

import copy
from typing import NamedTuple

import pytest
import torch
from torch import Tensor, nn
from torch.distributed.algorithms._checkpoint.checkpoint_wrapper import checkpoint_wrapper

from isoscale import Multiplier, Plan, parametrize
from isoscale.errors import InvalidTypeError, PlanError

X = torch.randn(4, 5, generator=torch.Generator().manual_seed(0))


class Net(nn.Module):
    """Branches that end in a nonlinearity."""

    def __init__(self, width, depth, wrap=lambda module: module):
        super().__init__()
        self.stem, self.head = nn.Linear(5, width), nn.Linear(width, 3)
        self.blocks = nn.ModuleList(wrap(nn.Sequential(nn.Linear(width, width), nn.Tanh())) for _ in range(depth))

    def forward(self, x):
        h = self.stem(x)
        for block in self.blocks:
            h = h + block(h)
        return self.head(h)


def after_each(model):
    for block in model.blocks:
        Multiplier.after(block)
    return model


def planned(model, base):
    return parametrize(model, base, "completep", lr=0.1, example_inputs=(X,))


def test_a_branch_that_ends_in_a_nonlinearity_gets_its_multiplier(tmp_path):
    with pytest.raises(PlanError, match=r"ends in tanh.*Multiplier\.after\(module\)"):
        planned(Net(16, 8), Net(8, 2))
    names = list(Net(16, 8).state_dict())
    model = after_each(Net(16, 8))
    plan = planned(model, after_each(Net(8, 2)))
    assert plan.multipliers == {f"blocks.{i}.1.output_multiplier": 0.25 for i in range(8)}
    h = model.stem(X)
    assert torch.equal(model.blocks[0](h), 0.25 * torch.tanh(model.blocks[0][0](h)))
    assert list(model.state_dict()) == names

    plan.save(tmp_path / "plan.json")
    other = after_each(Net(16, 8))
    other.load_state_dict(model.state_dict())
    Plan.load(tmp_path / "plan.json").bind(other)
    assert torch.equal(other(X), model(X))
    assert torch.equal(copy.deepcopy(model)(X), model(X))


@pytest.mark.parametrize("wrap", [lambda module: torch.compile(module, backend="eager"), checkpoint_wrapper])
def test_after_a_wrapped_block(wrap):
    model, base = after_each(Net(16, 8, wrap)), after_each(Net(8, 2, wrap))
    plan = planned(model, base)
    plain = after_each(Net(16, 8))
    # Checkpointing keeps the names of a state_dict by itself.
    plain.load_state_dict({name.replace("_orig_mod.", ""): value for name, value in model.state_dict().items()})
    plan.bind(plain)
    with torch.no_grad():
        assert torch.equal(model(X), plain(X))


def test_before_a_sequential_is_before_its_first():
    block = nn.Sequential(nn.Sequential(nn.Linear(5, 5), nn.Tanh()), nn.Linear(5, 5))
    Multiplier.before(block).factor = 2.0
    assert torch.equal(block(X), block[1](torch.tanh(2 * X @ block[0][0].weight.T + block[0][0].bias)))
    assert len(block) == 2


def test_where_it_would_act_twice_or_never_it_is_refused():
    act = nn.Tanh()
    with pytest.raises(InvalidTypeError, match="Sequential: Tanh runs 2 times in it"):
        Multiplier.after(nn.Sequential(nn.Linear(2, 2), act, nn.Linear(2, 2), act))
    for holder in (nn.ModuleList([nn.Linear(2, 2)]), nn.ModuleDict(), nn.Sequential()):
        with pytest.raises(InvalidTypeError, match="runs or hands on whatever it holds"):
            Multiplier.before(holder)


def test_a_second_one_is_the_first():
    layer = nn.Linear(2, 2)
    assert Multiplier.after(layer) is Multiplier.after(layer)
    assert Multiplier.before(layer) is Multiplier.before(layer)
    Multiplier.after(layer).factor, Multiplier.before(layer).factor = 2.0, 3.0
    x = torch.ones(1, 2)
    assert torch.allclose(layer(x), 2 * (3 * x @ layer.weight.T + layer.bias))


class Two(NamedTuple):
    first: Tensor
    second: int


@pytest.mark.parametrize(
    ("output", "expected"),
    [
        ((torch.ones(2), torch.ones(2)), (torch.full((2,), 0.5), torch.ones(2))),
        ([torch.ones(2)], [torch.full((2,), 0.5)]),
        (Two(torch.ones(2), 3), Two(torch.full((2,), 0.5), 3)),
    ],
)
def test_of_several_values_the_first_is_multiplied(output, expected):
    class Returns(nn.Module):
        def forward(self):
            return output

    module = Returns()
    Multiplier.after(module).factor = 0.5
    found = module()
    assert type(found) is type(output)
    assert all(torch.equal(torch.as_tensor(a), torch.as_tensor(b)) for a, b in zip(found, expected, strict=True))


def test_a_module_that_returns_something_else_is_named():
    class Returns(nn.Module):
        def forward(self):
            return {"a": 1}

    module = Returns()
    Multiplier.after(module)
    with pytest.raises(InvalidTypeError, match=r"after\(Returns\): it returns dict"):
        module()
