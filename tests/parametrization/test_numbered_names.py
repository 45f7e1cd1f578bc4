"""Blocks are told apart by numbers anywhere in their names: `3`, `layer_3`, `denselayer3`, `weight_ih_l3`."""

import pytest
import torch
from torch import nn

from isoscale import Role, parametrize
from isoscale.errors import PlanError
from isoscale.parametrization.sizes import counterparts


def test_the_first_last_and_middle_of_numbered_tensors_correspond():
    def names(layers):
        kinds = [(kind, end) for kind in ("ih", "hh") for end in ("", "_reverse")]
        return [f"rnn.weight_{kind}_l{i}{end}" for i in range(layers) for kind, end in kinds]

    target, base = dict.fromkeys(names(12), (4,)), dict.fromkeys(names(3), (2,))
    pairs = counterparts(target, base)
    for kind in ("ih", "hh"):
        for end in ("", "_reverse"):
            found = [pairs[f"rnn.weight_{kind}_l{i}{end}"] for i in range(12)]
            assert found == [f"rnn.weight_{kind}_l{i}{end}" for i in (0, *[1] * 10, 2)]


def test_numbers_that_count_no_blocks_stay():
    """Where both have the same names, they correspond by name; of the rest only what differs is matched."""
    target = {f"layer{stage}.{i}.conv{k}": (4,) for stage in (1, 2) for i in range(4) for k in (1, 2)}
    base = {f"layer{stage}.{i}.conv{k}": (2,) for stage in (1, 2) for i in range(2) for k in (1, 2)}
    pairs = counterparts(target, base)
    assert pairs["layer2.3.conv1"] == "layer2.1.conv1"
    assert pairs["layer1.2.conv2"] == "layer1.0.conv2"


class Block(nn.Module):
    def __init__(self, width, extra=False):
        super().__init__()
        self.fc1, self.fc2 = nn.Linear(width, 2 * width), nn.Linear(2 * width, width)
        self.shortcut = nn.Linear(width, width) if extra else nn.Identity()

    def forward(self, x):
        return self.shortcut(x) + self.fc2(torch.relu(self.fc1(x)))


class Net(nn.Module):
    def __init__(self, width, depth, name, extra=()):
        super().__init__()
        self.stem, self.head, self.body = nn.Linear(5, width), nn.Linear(width, 3), nn.Sequential()
        for i in range(depth):
            self.body.add_module(name.format(i + 1), Block(width, i in extra))

    def forward(self, x):
        return self.head(self.body(self.stem(x)))


def planned(model, base):
    return parametrize(model, base, "completep", "adamw", lr=1.0, example_inputs=(torch.randn(4, 5),))


@pytest.mark.parametrize("name", ["layer_{}", "denselayer{}", "block1-{}", "l{}_x"])
def test_blocks_with_numbered_names_scale_as_those_of_a_list(name):
    plan, plain = planned(Net(32, 8, name), Net(8, 2, name)), planned(Net(32, 8, "{}"), Net(8, 2, "{}"))
    assert [entry.lr for entry in plan.entries] == [entry.lr for entry in plain.entries]
    assert plan.ratios == plain.ratios
    for entry, of_list in zip(plan.entries, plain.entries, strict=True):
        if of_list.block:
            number = of_list.block.split(".")[1]
            assert entry.block == f"body.{name.format(number)}"
            assert entry.kind == of_list.kind.replace("*", name.format("*"))
    assert {entry.role for entry in plan.entries if entry.block} == {
        Role.BRANCH_INTERNAL,
        Role.BRANCH_LAST,
        Role.BRANCH_VECTOR,
    }


def test_a_base_of_shapes_alone_knows_its_depth_from_them():
    base = {name: tuple(parameter.shape) for name, parameter in Net(8, 2, "layer_{}").named_parameters()}
    assert planned(Net(32, 8, "layer_{}"), base).ratios["depth"] == 4


@pytest.mark.parametrize("name", ["{}", "layer_{}"])
def test_a_block_of_a_kind_that_the_base_lacks_is_told_by_what_it_has(name):
    with pytest.raises(PlanError, match=r"answers to `body\.\S*1` .*it has shortcut\.bias, shortcut\.weight"):
        planned(Net(32, 8, name, extra=(0, 4)), Net(8, 2, name))
    with pytest.raises(PlanError, match=r"answers to `body\.\S*2` .*it lacks shortcut.*one block of each kind"):
        planned(Net(32, 8, name, extra=(0,)), Net(8, 1, name, extra=(0,)))
    planned(Net(32, 8, name, extra=(0,)), Net(8, 2, name, extra=(0,)))


def test_a_name_of_one_of_the_two_is_named():
    with pytest.raises(PlanError, match=r"only the target has `body\.layer_1`"):
        planned(Net(32, 8, "layer_{}"), Net(8, 2, "block_{}"))


def test_stages_of_one_sequential_answer_to_their_own():
    """Blocks of two widths in one Sequential, as in MobileNet: a block answers to one of its own stage."""
    base = {f"{i}.w": (2 if i < 2 else 4, 2) for i in range(4)}
    target = {f"{i}.w": (8 if i < 6 else 16, 8) for i in range(12)}
    pairs = counterparts(target, base)
    assert {pairs[f"{i}.w"] for i in range(6)} == {"0.w", "1.w"}
    assert {pairs[f"{i}.w"] for i in range(6, 12)} == {"2.w", "3.w"}


def test_a_base_without_a_stage_has_one_run():
    """Where the runs do not match, the first answers to the first, the last to the last."""
    target = {"0.w": (8, 3), "1.w": (8, 8), "2.w": (8, 8), "3.w": (5, 8)}
    base = {"0.w": (2, 3), "1.w": (5, 2)}
    assert counterparts(target, base) == {"0.w": "0.w", "1.w": "0.w", "2.w": "0.w", "3.w": "1.w"}
