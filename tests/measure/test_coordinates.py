"""Coordinate checks: what passes, what fails, and which module is to blame."""

import functools

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from isoscale.errors import InvalidTypeError, InvalidValueError
from isoscale.measure import coordinate_check
from isoscale.models import GPT, ResidualMLP

GENERATOR = torch.Generator().manual_seed(0)
BATCHES = [
    (torch.randn(4, 8, generator=GENERATOR), torch.randn(4, 1, generator=GENERATOR)) for _ in range(3)
]  # fmt: skip


def mse(f, y):
    return (f - y).square().mean()


def make(width=64, depth=2, seed=0):
    return ResidualMLP(8, 1, width=width, depth=depth, seed=seed)


@functools.cache
def checked(axis, rule, optimizer, lr):
    sizes = {"widths": [32, 64, 128, 256]} if axis == "width" else {"depths": [4, 8, 16, 32]}
    return coordinate_check(make, BATCHES, mse, **sizes, rule=rule, optimizer=optimizer, lr=lr, steps=3)


def rows(found, quantity="change"):
    return found.exponents[found.exponents["quantity"] == quantity].set_index("module")


@pytest.mark.parametrize(("optimizer", "lr"), [("sgd", 0.05), ("adam", 1e-3), ("sign", 1e-3)])
@pytest.mark.parametrize(("axis", "rule"), [("width", "mup"), ("width", "completep"), ("depth", "completep")])
def test_passes(axis, rule, optimizer, lr):
    found = checked(axis, rule, optimizer, lr)
    assert found.ok, found.exponents
    assert set(rows(found).index) == {"input", "blocks.*.maps.0", "blocks.*.maps.1", "blocks.*", "readout", "output"}


def test_sp_fails_in_width_and_mup_in_depth():
    # Adam's entries move by 1 each under sp: changes behind a sum over n units grow like n, at least as n^1/2.
    wide = checked("width", "sp", "adam", 1e-3)
    assert not wide.ok
    assert rows(wide).loc["output", "verdict"].startswith("explodes like n^")
    # Without a branch multiplier the stream's noise alone grows with the number of blocks.
    deep = checked("depth", "mup", "adam", 1e-3)
    assert not deep.ok
    assert rows(deep, "start").loc["blocks.*", "verdict"].startswith("explodes like L^")
    assert rows(deep).loc["blocks.*", "verdict"].startswith("explodes like L^")


def test_expectations():
    """A branch's own output starts and moves as its multiplier does; a mean-field readout's start may shrink."""
    deep = checked("depth", "completep", "adam", 1e-3)
    assert rows(deep).loc["blocks.*.maps.1", "expected"] == -1.0
    assert rows(deep, "start").loc["blocks.*.maps.1", "exponent"] == pytest.approx(-1, abs=0.1)
    assert (rows(deep)["expected"].drop("blocks.*.maps.1") == 0).all()
    wide = checked("width", "mup", "adam", 1e-3)
    start = rows(wide, "start").loc["readout"]
    assert start["exponent"] < -0.2
    assert start["verdict"] == "stable"


def test_divergence_is_recorded():
    with torch.random.fork_rng():
        found = coordinate_check(make, BATCHES, mse, depths=[2, 4, 8], rule="sp", optimizer="sgd", lr=1e4, steps=12)
    assert not found.ok
    assert "explodes beyond all numbers" in set(rows(found)["verdict"])
    assert any("diverges at depth" in note for note in found.notes)
    assert not np.isfinite(found.data["loss"].isel(step=-1)).any()


def test_the_changes_are_those_of_training():
    found = coordinate_check(
        make, BATCHES, mse, widths=[16, 32], rule="sp", optimizer="sgd", lr=0.1, steps=2, seeds=[3]
    )
    model = make(32, seed=3)
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    before = model(BATCHES[0][0]).detach()
    for step in range(2):
        optimizer.zero_grad()
        loss = mse(model(BATCHES[step][0]), BATCHES[step][1])
        assert float(found.data["loss"].sel(width=32, seed=3, step=step + 1)) == pytest.approx(loss.item(), rel=1e-6)
        loss.backward()
        optimizer.step()
        change = (model(BATCHES[0][0]).detach() - before).square().mean().sqrt()
        seen = found.data["change"].sel(module="output", width=32, seed=3, step=step + 1)
        assert float(seen) == pytest.approx(change.item(), rel=1e-5)


class Halved(torch.optim.SGD):
    """A user's own optimizer, of a family that is known by its base class."""

    def step(self, closure=None):
        for group in self.param_groups:
            for param in group["params"]:
                param.grad.mul_(0.5)
        return super().step(closure)


@pytest.mark.parametrize("optimizer", ["muon", torch.optim.NAdam, Halved])
def test_other_optimizers(optimizer):
    if optimizer == "muon" and not hasattr(torch.optim, "Muon"):
        pytest.skip("torch without Muon")
    found = coordinate_check(
        make, BATCHES, mse, depths=[2, 4, 8], rule="completep", optimizer=optimizer, lr=1e-2, steps=2, seeds=2
    )
    assert (rows(found)["exponent"].abs() < np.inf).all()
    assert rows(found)["exponent"].notnull().all()


def test_a_users_own_optimizer_takes_its_own_steps():
    settings = {"widths": [16, 32], "rule": "sp", "steps": 1, "seeds": 1}
    whole = coordinate_check(make, BATCHES, mse, optimizer="sgd", lr=0.05, **settings)
    halved = coordinate_check(make, BATCHES, mse, optimizer=Halved, lr=0.1, **settings)
    assert np.allclose(whole.data["change"], halved.data["change"], rtol=1e-5)


def test_a_transformer_has_the_same_modules_at_every_depth():
    tokens = torch.randint(7, (2, 6), generator=torch.Generator().manual_seed(0))

    def gpt(depth, seed):
        return GPT(vocab=7, context=6, width=32, depth=depth, seed=seed)

    def loss(f, y):
        return F.cross_entropy(f.flatten(0, 1), y.flatten())

    found = coordinate_check(gpt, [(tokens, tokens)], loss, depths=[1, 2, 4], steps=2, seeds=1)
    assert not [name for name in found.data["module"].values if ".0." in name]
    assert found.data["change"].notnull().all()


def test_running_statistics_and_dropout():
    def noisy(width, seed):
        return nn.Sequential(
            nn.Linear(8, width), nn.BatchNorm1d(width), nn.ReLU(), nn.Dropout(0.5), nn.Linear(width, 1)
        )

    found = coordinate_check(noisy, BATCHES, mse, widths=[16, 32], rule="mup", steps=2, seeds=1)
    assert any("batch statistics" in note for note in found.notes)
    assert any("dropout active" in note for note in found.notes)


@pytest.mark.parametrize(
    ("given", "error", "words"),
    [
        ({"widths": [8]}, InvalidValueError, "two sizes or more"),
        ({"steps": 0}, InvalidValueError, "`steps`"),
        ({"steps": True}, InvalidTypeError, "`steps`"),
        ({"lr": float("nan")}, InvalidValueError, "`lr`"),
        ({"batches": []}, InvalidValueError, "`batches`"),
        ({"batches": BATCHES[0]}, InvalidTypeError, "pair"),
        ({"optimizer": "adamx"}, InvalidValueError, "adam"),
        ({"optimizer": torch.optim.LBFGS}, InvalidValueError, "LBFGS"),
        ({"loss_fn": lambda f, y: f}, InvalidTypeError, "one number"),
    ],
)
def test_bad_input(given, error, words):
    settings = {"widths": [8, 16], "batches": BATCHES, "loss_fn": mse} | given
    with pytest.raises(error, match=words):
        coordinate_check(make, settings.pop("batches"), settings.pop("loss_fn"), **settings)
