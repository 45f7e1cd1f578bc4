"""What all verbs share: sizes, bases, optimizers and tables of runs."""

import pytest
import torch
from torch import nn
from torch.distributed.algorithms._checkpoint.checkpoint_wrapper import checkpoint_wrapper

from isoscale import rules
from isoscale.errors import InvalidTypeError, InvalidValueError
from isoscale.measure import feature_speed, gradient_independence
from isoscale.measure.tools.experiment import Experiment
from isoscale.models import ResidualMLP
from isoscale.scaling.optimizers import OPTIMIZERS

BATCH = (
    torch.randn(4, 8, generator=torch.Generator().manual_seed(0)),
    torch.randn(4, 1, generator=torch.Generator().manual_seed(1)),
)


def mse(f, y):
    return (f - y).square().mean()


def make(width=8, depth=2, seed=0):
    return ResidualMLP(8, 1, width=width, depth=depth, seed=seed)


def experiment(factory=make, **options):
    return Experiment.of(factory, [BATCH], mse, **{"seeds": 2, "rule": rules.get("completep")} | options)


def test_the_lines_of_sizes_cross_once():
    sizes = experiment(axes={"width": [8, 16], "depth": [2, 4, 8]}).lines()
    assert [(size["width"], size["depth"]) for size in sizes] == [(8, 2), (16, 2), (16, 4), (16, 8)]
    assert experiment(axes={"width": [8, 16], "depth": [3]}).line("width") == [
        {"depth": 3, "width": 8},
        {"depth": 3, "width": 16},
    ]
    assert experiment(axes={"width": None, "depth": [4, 8]}).lines() == [{"depth": 4}, {"depth": 8}]


def test_the_grid_is_every_combination_in_the_order_given():
    sizes = experiment(axes={"depth": [4, 2], "width": None, "horizon": [0.5, 1.0]}).grid()
    assert [tuple(size.items()) for size in sizes] == [
        (("depth", depth), ("horizon", horizon)) for depth in (4, 2) for horizon in (0.5, 1.0)
    ]
    assert experiment().grid() == [{}]


def test_the_base_has_one_block_if_the_factory_makes_such_a_network():
    built = []

    def noted(depth, seed):
        built.append(depth)
        return make(8, depth, seed)

    def at_least_two(depth, seed):
        if depth < 2:
            raise RuntimeError
        return noted(depth, seed)

    _, plan = experiment(noted, axes={"depth": [4, 8]}).scaled(0, depth=4)
    assert plan.scaling.depth == 4
    # The smallest two, to see whether one block can be their base.
    assert built == [4, 1, 4, 8]
    _, plan = experiment(at_least_two, axes={"depth": [4, 8]}).scaled(0, depth=8)
    assert plan.scaling.depth == 2


def test_a_table_of_runs_has_a_row_for_each_cell_and_tells_its_progress():
    shares = []
    table = experiment(seeds=[5, 7], progress=shares.append).over("abcd", lambda cell, seed: (cell, seed))
    assert table == [[(cell, 5), (cell, 7)] for cell in "abcd"]
    assert shares == [0.25, 0.5, 0.75, 1.0]


@pytest.mark.parametrize("family", OPTIMIZERS)
def test_every_parameter_is_stepped_by_one_optimizer(family):
    if family == "muon" and not hasattr(torch.optim, "Muon"):
        pytest.skip("torch without Muon")
    model = make()
    model.input.weight.requires_grad_(False)
    stepped = []
    for optimizer in experiment(optimizer=family, lr=0.1).optimizers(model):
        for group in optimizer.param_groups:
            assert group["lr"] == 0.1
            stepped += group["params"]
    trained = [param for param in model.parameters() if param.requires_grad]
    assert sorted(map(id, stepped)) == sorted(map(id, trained))


@pytest.mark.skipif(not hasattr(torch.optim, "Muon"), reason="torch without Muon")
def test_muon_steps_what_lies_between_the_first_and_the_last_layer():
    model = nn.Sequential(nn.Linear(8, 6), nn.Linear(6, 6), nn.Linear(6, 1))
    muon, adamw = experiment(optimizer="muon").optimizers(model)
    assert [id(param) for param in muon.param_groups[0]["params"]] == [id(model[1].weight)]
    assert len(adamw.param_groups[0]["params"]) == 5


@pytest.mark.parametrize("verb", [feature_speed, gradient_independence])
@pytest.mark.parametrize("family", ["sign", "muon"])
def test_the_verbs_train_by_any_family(verb, family):
    if family == "muon" and not hasattr(torch.optim, "Muon"):
        pytest.skip("torch without Muon")
    still = verb(make, [BATCH], mse, [2], steps=1, seeds=2, optimizer=family, lr=1e-30)
    found = verb(make, [BATCH], mse, [2], steps=1, seeds=2, optimizer=family, lr=1e-2)
    name = "total" if verb is feature_speed else "feature_change"
    assert float(still[name].isel(step=-1).max()) == 0
    assert float(found[name].isel(step=-1).min()) > 0


@pytest.mark.parametrize(
    ("given", "error", "words"),
    [
        ({"seeds": []}, InvalidValueError, "one seed or more"),
        ({"seeds": "0"}, InvalidTypeError, "a number of seeds or a list"),
        ({"seeds": 1.5}, InvalidTypeError, "a number of seeds or a list"),
        ({"axes": {"depth": []}}, InvalidValueError, "`depths` must hold one size"),
        ({"steps": 1.5}, InvalidTypeError, "`steps` must be a whole number"),
        ({"steps": 0, "least_steps": 1}, InvalidValueError, "`steps` must be >= 1"),
    ],
)
def test_bad_input(given, error, words):
    with pytest.raises(error, match=words):
        experiment(**given)


class Stage(nn.Module):
    """A stage begins with a block of its own kind: at depth 1 there is no other."""

    def __init__(self, width, depth):
        super().__init__()
        blocks = [nn.Sequential(nn.Linear(width, width), nn.ReLU(), nn.Linear(width, width)) for _ in range(depth)]
        self.stem, self.readout, self.skip = nn.Linear(4, width), nn.Linear(width, 1), nn.Linear(width, width)
        self.blocks = nn.ModuleList(blocks)
        self.blocks[0].add_module("norm", nn.LayerNorm(width))

    def forward(self, x):
        h = self.stem(x)
        for i, block in enumerate(self.blocks):
            h = (h if i else self.skip(h)) + block(h)
        return self.readout(h)


@pytest.mark.parametrize("depths", [[2, 4, 8], [1, 2, 4]])
def test_the_base_of_a_staged_net_has_a_block_of_each_kind(depths):
    x = torch.randn(8, 4, generator=torch.Generator().manual_seed(0))
    experiment = Experiment.of(
        lambda width, depth: Stage(width, depth),
        [(x, torch.ones(8, 1))],
        lambda f, y: (f - y).square().mean(),
        axes={"width": [16], "depth": depths},
        rule=rules.get("completep"),
        optimizer="adamw",
        seeds=2,
    )
    if 1 in depths:
        # What depth 1 lacks would be taken for an effect of depth.
        with pytest.raises(InvalidValueError, match=r"leave it out, `depths=\[2, 4\]`"):
            experiment.scaled(0, width=16, depth=4)
        return
    assert experiment.base["depth"] == 2
    _, plan = experiment.scaled(0, width=16, depth=4)
    assert plan.ratios["depth"] == 2


def test_wrapped_blocks_are_measured_as_plain_ones():
    def wrapped(width, seed):
        model = make(width, 2, seed)
        for i, block in enumerate(model.blocks):
            model.blocks[i] = torch.compile(checkpoint_wrapper(block), backend="eager")
        return model

    plain = experiment(lambda width, seed: make(width, 2, seed), axes={"width": [8, 16]})
    same = experiment(wrapped, axes={"width": [8, 16]})
    model, plan = same.scaled(0, width=16)
    assert plan.entries == plain.scaled(0, width=16)[1].entries
    points = same.hook_points(model, {"width": 16})
    assert points == plain.hook_points(plain.build(0, width=16), {"width": 16})
