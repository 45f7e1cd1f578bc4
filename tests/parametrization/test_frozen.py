"""Frozen tensors: fresh draws carry init and multiplier like all others, pretrained ones stay what they are."""

import pytest
import torch
from torch import nn

from isoscale import Plan, parametrize

X = torch.randn(64, 8, generator=torch.Generator().manual_seed(0))


class Net(nn.Module):
    """Readout of a stream of branches."""

    def __init__(self, width, depth, device=None):
        super().__init__()
        self.stem, self.head = nn.Linear(8, width, device=device), nn.Linear(width, 4, device=device)
        self.blocks = nn.ModuleList(self.block(width, device) for _ in range(depth))

    @staticmethod
    def block(width, device):
        first, last = nn.Linear(width, width, device=device), nn.Linear(width, width, device=device)
        return nn.Sequential(nn.LayerNorm(width, device=device), first, nn.ReLU(), last)

    def forward(self, x):
        h = self.stem(x)
        for block in self.blocks:
            h = h + block(h)
        return self.head(h)


FREEZE = {
    "readout": lambda model: [model.head.weight],
    "last maps": lambda model: [block[3].weight for block in model.blocks],
    "random features": lambda model: [*model.stem.parameters(), *(block[1].weight for block in model.blocks)],
    "all but the readout": lambda model: [p for name, p in model.named_parameters() if not name.startswith("head")],
}


def make(width, depth, frozen=None, device=None, seed=0):
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = Net(width, depth, device)
    for parameter in FREEZE[frozen](model) if frozen else ():
        parameter.requires_grad_(False)
    return model


def planned(model, base, rule="completep"):
    return parametrize(model, base, rule, "adamw", lr=0.01, example_inputs=(X,))


@pytest.mark.parametrize("rule", ["completep", "mup", "depth-mup"])
@pytest.mark.parametrize("frozen", FREEZE)
def test_fresh_frozen_tensors_start_as_if_they_were_trained(frozen, rule):
    model, free = make(64, 8, frozen, seed=1), make(64, 8, seed=1)
    plan = planned(model, make(16, 2, frozen), rule)
    all_free = planned(free, make(16, 2), rule)
    assert torch.equal(model(X), free(X))
    assert [entry.init for entry in plan.entries] == [entry.init for entry in all_free.entries]
    held = {name for group in plan.param_groups() for name in group["param_names"]}
    assert held == {name for name, parameter in model.named_parameters() if parameter.requires_grad}
    count = len(FREEZE[frozen](model))
    assert [note for note in plan.notes if note.startswith(f"{count} frozen tensor")]
    before = model.head.weight.clone()
    assert torch.equal(plan.apply(model)._model.head.weight, before)


def test_what_was_trained_elsewhere_stays_as_it_is(tmp_path):
    """Its size follows no law of init: that of a draw differs from its law's by sampling noise alone."""
    model, base = make(64, 8, "last maps", seed=1), make(16, 2, "last maps")
    with torch.no_grad():
        model.blocks[3][3].weight.mul_(1.37)
        base.head.bias.zero_()
        base.head.bias.requires_grad_(False)
        model.head.bias.fill_(0.3).requires_grad_(False)
    trained, fresh = model.blocks[3][3].weight.clone(), model.blocks[2][3].weight.clone()
    plan = planned(model, base)
    assert torch.equal(model.blocks[3][3].weight, trained)
    assert torch.equal(model.blocks[2][3].weight, fresh / 4)
    assert torch.equal(model.head.bias, torch.full((4,), 0.3))
    (note,) = [note for note in plan.notes if "trained elsewhere" in note]
    assert "`blocks.3.3.weight`" in note
    assert "`head.bias`" in note
    plan.save(tmp_path / "plan.json")
    assert Plan.load(tmp_path / "plan.json").notes == plan.notes


def test_without_the_bases_numbers_all_are_taken_to_be_fresh():
    model = make(64, 8, "last maps", seed=1)
    fresh = model.blocks[2][3].weight.clone()
    plan = planned(model, make(16, 2, "last maps", device="meta"))
    assert torch.equal(model.blocks[2][3].weight, fresh / 4)
    assert any("8 frozen tensors in no group" in note and "taken to be fresh" in note for note in plan.notes)


def test_planned_on_meta_and_applied_later():
    plan = planned(make(64, 8, "last maps", device="meta"), make(16, 2, "last maps"))
    model, twin = make(64, 8, "last maps", seed=1), make(64, 8, "last maps", seed=1)
    plan.apply(model)
    planned(twin, make(16, 2, "last maps"))
    assert torch.equal(model(X), twin(X))
