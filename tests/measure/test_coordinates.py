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


# --- what a check looks at beside the changes ---
class OneRate(torch.optim.AdamW):
    """What a scheduler with one `max_lr` makes of a plan's groups."""

    def step(self, closure=None):
        most = max(group["lr"] for group in self.param_groups)
        for group in self.param_groups:
            group["lr"] = most
        return super().step(closure)


class OneDecay(torch.optim.AdamW):
    """One decay for every group: lr x decay then falls as the rate does."""

    def __init__(self, groups):
        super().__init__([{**group, "weight_decay": 0.1} for group in groups])


WIDE = {"widths": [16, 32, 64, 128], "rule": "mup", "lr": 1e-3, "steps": 2, "control": False}


def test_groups_that_a_scheduler_flattened():
    found = coordinate_check(make, BATCHES, mse, optimizer=OneRate, **WIDE)
    assert not found.ok
    assert rows(found).loc["output", "verdict"].startswith("explodes like n^")


def test_decay_is_checked_where_there_is_any():
    fine = coordinate_check(make, BATCHES, mse, weight_decay=0.1, seeds=1, **WIDE)
    # A step of decay removes lr x decay of every matrix, at every width.
    shares = fine.data["decay"].sel(module="blocks.*.maps.0").values
    assert np.allclose(shares, 1e-4, rtol=1e-3)
    assert (rows(fine, "decay")["verdict"] == "stable").all()
    coupled = coordinate_check(make, BATCHES, mse, weight_decay=0.1, optimizer=OneDecay, **WIDE)
    assert rows(coupled, "decay").loc["blocks.*.maps.0", "exponent"] == pytest.approx(-1, abs=1e-3)
    assert rows(coupled, "decay").loc["blocks.*.maps.0", "verdict"] == "vanishes like n^-1"
    assert not coupled.ok
    without = coordinate_check(make, BATCHES, mse, seeds=1, **WIDE)
    assert "decay" not in set(without.exponents["quantity"])


def test_a_role_that_was_misread():
    found = coordinate_check(make, BATCHES, mse, roles={"blocks.*.maps.0.weight": "input"}, **WIDE)
    assert rows(found).loc["blocks.*.maps.0", "verdict"].startswith("explodes like n^")


@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode])
def test_a_callers_gradient_mode_changes_nothing(mode):
    sizes = {"widths": [8, 16], "steps": 2, "seeds": 1}
    plain = coordinate_check(make, BATCHES, mse, **sizes)
    with mode():
        # Autograd takes no tensor that was made in inference mode.
        made_here = [(x.clone(), y.clone()) for x, y in BATCHES]
        inside = coordinate_check(make, made_here, mse, **sizes)
    np.testing.assert_array_equal(inside.exponents["exponent"], plain.exponents["exponent"])


def test_a_second_look():
    settings = {"widths": [16, 32], "rule": "mup", "steps": 2, "late": 6, "seeds": 1, "control": False}
    found = coordinate_check(make, BATCHES, mse, **settings)
    assert found.data["step"].values.tolist() == [1, 2, 6]
    assert {"change", "late_change"} <= set(found.exponents["quantity"])
    longer = coordinate_check(make, BATCHES, mse, **(settings | {"steps": 6, "late": None}))
    assert np.allclose(found.data["change"].sel(step=6), longer.data["change"].sel(step=6), rtol=1e-5)
    # One sample's gradient is of rank 1, four samples' of rank 4 at most; Adam's first step may have any rank.
    ranks = found.data["stable_rank"].sel(module="blocks.*.maps.0", width=32, seed=0)
    assert np.isnan(ranks.sel(step=1))
    assert ((ranks.sel(step=[2, 6]) >= 1) & (ranks.sel(step=[2, 6]) <= 32)).all()
    assert any(note.startswith("stable rank of an update, from step 2 to 6") for note in found.notes)
    plain = coordinate_check(make, BATCHES, mse, **(settings | {"optimizer": "sgd"}))
    of_sgd = plain.data["stable_rank"].sel(module="blocks.*.maps.0", width=32, step=[2, 6])
    assert float(of_sgd.max()) <= 4 + 1e-6


def test_a_check_that_could_not_have_failed():
    """Without rates to speak of nothing moves: standard parametrization passes as well, and the check says so."""
    still = coordinate_check(
        make, BATCHES, mse, depths=[1, 2, 3], widths=[64], rule="completep", optimizer="sgd", lr=1e-3, steps=1, seeds=2
    )
    assert still.toothless == ("depth",)
    assert still.answer == "not decided at these sizes"
    assert still.ok
    assert any("the check could not have failed" in note for note in still.notes)
    sharp = coordinate_check(make, BATCHES, mse, widths=[16, 32, 64, 128], rule="mup", steps=2)
    assert sharp.toothless == ()
    assert sharp.answer == "the same at every size"


class NormLast(nn.Module):
    """h + norm(branch(h)): the norm carries the branch's multiplier."""

    def __init__(self, width, depth):
        super().__init__()
        self.first, self.last = nn.Linear(8, width), nn.Linear(width, 1)
        self.blocks = nn.ModuleList(
            nn.ModuleList(
                [nn.Sequential(nn.Linear(width, width), nn.ReLU(), nn.Linear(width, width)), nn.LayerNorm(width)]
            )
            for _ in range(depth)
        )

    def forward(self, x):
        h = self.first(x)
        for branch, norm in self.blocks:
            h = h + norm(branch(h))
        return self.last(h)


@pytest.mark.parametrize("rule", ["completep", "depth-mup"])
def test_a_norm_that_ends_the_branch_carries_its_multiplier(rule):
    found = coordinate_check(
        NormLast, BATCHES, mse, widths=[32], depths=[2, 4, 8, 16], rule=rule, steps=3, control=False
    )
    carried = {"completep": -1.0, "depth-mup": -0.5}[rule]
    start = rows(found, "start")
    # The norm starts at the branch's size, and the layer before it at 1.
    assert start.loc["blocks.*.1", "exponent"] == pytest.approx(carried, abs=1e-4)
    assert start.loc["blocks.*.1", "expected"] == carried
    assert start.loc["blocks.*.*.2", "expected"] == 0.0
    assert rows(found).loc["blocks.*.*.2", "expected"] == 0.0
    assert found.ok, found.exponents


def test_attention_logits_are_seen():
    tokens = torch.randint(7, (2, 6), generator=torch.Generator().manual_seed(0))

    def gpt(width, seed):
        return GPT(vocab=7, context=6, width=width, depth=1, head_size=8, seed=seed)

    def loss(f, y):
        return F.cross_entropy(f.flatten(0, 1), y.flatten())

    found = coordinate_check(
        gpt, [(tokens, tokens)], loss, widths=[16, 32], rule="mup", optimizer="sgd", steps=1, seeds=[3], control=False
    )
    model = gpt(32, 3)
    model.blocks[0].attention.register_forward_hook(lambda module, given, out: seen.append(given[0]))
    seen = []
    model(tokens)
    block = model.blocks[0].attention
    q, k, _ = block.qkv(seen[0]).unflatten(-1, (3, block.heads, -1)).movedim(-3, 0).transpose(-2, -3)
    logits = (block.logit_scale * q @ k.transpose(-1, -2)).detach()
    visible = logits[..., torch.ones(6, 6).tril().bool()]
    size = float(found.data["start"].sel(module="softmax", width=32, seed=3))
    assert size == pytest.approx(float(visible.square().mean().sqrt()), rel=1e-5)


@pytest.mark.parametrize(
    ("given", "error", "words"),
    [
        ({"widths": [8]}, InvalidValueError, "two sizes or more"),
        ({"steps": 0}, InvalidValueError, "`steps`"),
        ({"steps": True}, InvalidTypeError, "`steps`"),
        ({"late": 5}, InvalidValueError, "`late` must be beyond the 5 steps"),
        ({"weight_decay": -1.0}, InvalidValueError, "`weight_decay`"),
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
