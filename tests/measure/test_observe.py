"""Hooks see every call before it is overwritten, and always come off."""

import pytest
import torch
from networks import Attention, Take, network
from torch import nn

from isoscale.errors import InvalidValueError
from isoscale.measure.tools.observe import linear_layers, observe
from isoscale.measure.tools.selection import chosen, which
from isoscale.models import ResidualMLP


def hooks(model):
    return [len(module._forward_hooks) + len(module._forward_pre_hooks) for module in model.modules()]


def test_outputs_are_seen_before_they_are_overwritten():
    model = nn.Sequential(nn.Linear(3, 4), nn.ReLU(inplace=True), nn.Linear(4, 2))
    x, seen = torch.randn(5, 3), {}
    with observe(model, ["0", "2"], lambda name, inputs, output: seen.update({name: output.clone()})):
        model(x)
    assert torch.equal(seen["0"], model[0](x))
    assert (seen["0"] < 0).any()


def test_tuples_dicts_and_repeated_calls_have_names():
    linear = nn.Linear(4, 4)
    model = nn.Sequential(linear, linear, nn.LSTM(4, 4), Take(0), Attention(4))
    names = []
    with observe(model, ["0", "2", "4"], lambda name, *_: names.append(name)):
        model(torch.randn(2, 3, 4))
    assert names == ["0", "0@2", "2[0]", "2[1][0]", "2[1][1]", "4[out]"]


@pytest.mark.parametrize("failure", [RuntimeError, KeyboardInterrupt])
def test_hooks_come_off_after_failures(failure):
    model = nn.Sequential(nn.Linear(3, 4), nn.Linear(4, 2))

    def see(*_):
        raise failure

    with pytest.raises(failure), observe(model, ["0", "1"], see):
        model(torch.randn(5, 3))
    assert hooks(model) == [0, 0, 0]


def test_an_unknown_module_leaves_no_hook():
    model = nn.Sequential(nn.Linear(3, 4))
    with pytest.raises(InvalidValueError, match="no module named '9'"), observe(model, ["0", "9"], print):
        pass
    assert hooks(model) == [0, 0]


def test_stream_and_branch():
    kinds = which(ResidualMLP(3, 2, width=4, depth=2), ["blocks.*"])
    assert kinds["input"] == kinds["readout"] == kinds["blocks.1"] == "stream"
    assert kinds["blocks.0.maps.1"] == "branch"
    assert set(kinds) == {
        "input",
        "readout",
        "blocks.0",
        "blocks.1",
        *(f"blocks.{i}.maps.{j}" for i in (0, 1) for j in (0, 1)),
    }


def test_a_glob_must_match():
    model, _, _ = network("convolutions")
    with pytest.raises(InvalidValueError, match=r"no module matches 'block\.\*'"):
        chosen(model, ["0", "block.*"], "blocks")
    with pytest.raises(InvalidValueError, match=r"write \['0'\]"):
        chosen(model, "0", "blocks")
    with pytest.raises(InvalidValueError, match="matches none"):
        chosen(model, lambda name, module: False, "blocks")
    assert chosen(model, lambda name, module: isinstance(module, nn.Conv2d), "blocks") == ["0", "3"]
    assert list(linear_layers(model)) == ["0", "3", "7", "9"]
