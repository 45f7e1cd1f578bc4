"""The race for a learning rate: closed forms, divergence, what it refuses, and the error that is quoted for it."""

import math
import re
import statistics
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy.optimize import minimize_scalar
from torch import nn

from isoscale.errors import InvalidTypeError, InvalidValueError
from isoscale.measure import race_error, race_lr
from isoscale.measure.tools.experiment import Experiment
from isoscale.measure.tools.heats import Heats, train_alone
from isoscale.measure.tools.line import along_step
from isoscale.models import ConvNet, ConvResNet, ResidualMLP
from isoscale.scaling.optimizers import FAMILIES

PAGE = Path(__file__).parents[2] / "docs/results/lr-without-a-sweep.md"


class Bowl(nn.Module):
    """Parameters w and the loss sum_i c_i w_i^2 / 2, whatever the input."""

    def __init__(self, curvatures, start=1.0):
        super().__init__()
        self.w = nn.Parameter(torch.full((len(curvatures),), start, dtype=torch.float64))
        self.curvatures = torch.tensor(curvatures, dtype=torch.float64)

    def forward(self, x):
        return (self.curvatures * self.w.square()).sum() / 2


class Quartic(Bowl):
    """|w|^4 / 4."""

    def forward(self, x):
        return self.w.square().square().sum() / 4


ANY = (torch.zeros(1), torch.zeros(1))


def as_it_is(f, y):
    return f


def samples(seed, count, *shape):
    """Batches of eight of four classes, which a linear layer can tell apart."""
    generator = torch.Generator().manual_seed(seed)
    pairs = []
    for _ in range(count):
        x = torch.randn(8, *shape, generator=generator)
        pairs.append((x, x.flatten(1)[:, :4].argmax(1)))
    return pairs


def experiment(make, batches, loss_fn, optimizer="sgd"):
    return Experiment.of(make, batches, loss_fn, seeds=[0], optimizer=optimizer)


# --- along the first step ---
@pytest.mark.parametrize("curvature", [1e-6, 1.0, 300.0])
@pytest.mark.parametrize("near", [None, 1e-3, 50.0])
def test_line_of_a_quadratic_loss(curvature, near):
    line = along_step(experiment(lambda: Bowl([curvature]), [ANY], as_it_is), 0, near)
    assert line.start == curvature / 2
    # f(lr) = c (1 - lr c)^2 / 2.
    assert math.log2(line.minimum * curvature) == pytest.approx(0, abs=0.1)
    assert math.log2(line.back * curvature / 2) == pytest.approx(0, abs=0.1)


@pytest.mark.parametrize("optimizer", ["adam", "adamw", "sign"])
def test_line_of_a_step_of_fixed_size(optimizer):
    line = along_step(experiment(lambda: Bowl([3.0], start=5.0), [ANY], as_it_is, optimizer), 0, 0.1)
    # Every unit of learning rate moves w from 5 towards 0 by 1.
    assert line.minimum == pytest.approx(5, rel=0.05)
    assert line.back == pytest.approx(10, rel=0.05)


def test_a_loss_that_never_comes_back_has_a_minimum_only():
    class Slope(Bowl):
        def forward(self, x):
            return torch.exp(-self.w).sum()

    line = along_step(experiment(lambda: Slope([1.0]), [ANY], as_it_is), 0, 1.0)
    assert math.isnan(line.back)


# --- the race ---
@pytest.mark.parametrize("curvatures", [[1.0], [200.0], [1e-4], [1.0, 0.04], [30.0, 10.0, 1.0]])
def test_finds_the_optimum_of_a_quadratic_loss(curvatures):
    found = race_lr(lambda: Bowl(curvatures), [ANY], as_it_is)
    c = np.array(curvatures)
    # A rate between those that raced is tried for 16 steps, others were trained for 56; the second half counts.
    count = found.heats[-1].steps
    assert count in (16, 56)
    steps = np.arange(count // 2, count)[:, None]

    def loss(log2_lr):
        """Mean over the second half of the steps of gradient descent: w_i contracts by 1 - lr c_i."""
        return float((c / 2 * (1 - 2.0**log2_lr * c) ** (2 * steps)).sum(1).mean())

    assert found.loss == pytest.approx(loss(math.log2(found.lr)), rel=1e-6, abs=1e-30)
    assert found.untrained_loss == pytest.approx(c.sum() / 2)
    stable = math.log2(2 / c.max())
    # Of one curvature every rate near 1 / c ends at 0 in double precision, and 1 / c is the middle of them.
    best = minimize_scalar(loss, bounds=(stable - 6, stable), method="bounded").x if len(c) > 1 else stable - 1
    assert abs(math.log2(found.lr) - best) <= 0.75


@pytest.mark.parametrize("optimizer", ["adam", "adamw", "sign"])
def test_finds_a_good_step_of_fixed_size(optimizer):
    found = race_lr(lambda: Bowl([1.0, 1.0], start=8.0), [ANY], as_it_is, optimizer=optimizer)
    assert found.loss < 0.2 * found.untrained_loss


def test_far_from_every_estimate():
    # The first step sees a curvature 4^10 times smaller than all others: the race walks down to them.
    class Trap(nn.Module):
        def __init__(self):
            super().__init__()
            self.w = nn.Parameter(torch.tensor([1.0, 1e-3], dtype=torch.float64))

        def forward(self, x):
            easy, steep = self.w.square() * torch.tensor([1.0, 4.0**10], dtype=torch.float64)
            return easy + torch.where(x.sum() > 0, steep, 0 * steep)

    off, on = (torch.zeros(1), torch.zeros(1)), (torch.ones(1), torch.zeros(1))
    found = race_lr(Trap, [off, *[on] * 55], as_it_is)
    assert found.lr * 2 * 4.0**10 < 2
    assert found.loss < found.untrained_loss


def test_a_plain_loop_at_the_recommended_rate_ends_where_the_race_says():
    batches = samples(0, 64, 6)

    def make(seed):
        return ResidualMLP(6, 4, width=8, depth=2, seed=seed)

    found = race_lr(make, batches, nn.functional.cross_entropy, optimizer="adamw")
    model = make(0)
    optimizer = torch.optim.AdamW(model.parameters(), lr=found.lr, weight_decay=0)
    losses = []
    for x, y in batches:
        loss = nn.functional.cross_entropy(model(x), y)
        losses.append(loss.item())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert np.mean(losses[8:16]) == pytest.approx(found.loss, rel=1e-4)
    assert found.loss < found.untrained_loss
    # Beside the training some forward passes, a third of a step each.
    assert 8 * 6 + 6 * 10 + 4 * 40 + 16 < found.steps <= 330
    assert found.notes == ()
    assert [(len(heat.lrs), heat.steps) for heat in found.heats] == [(8, 6), (6, 16), (4, 56), (1, 16)]
    assert found.heats[-1].lrs == (found.lr,)


@pytest.mark.parametrize("start", [1.0, 30.0, 1e3])
def test_what_it_recommends_never_diverges(start):
    # |w| falls if lr w^2 < 2, and grows for ever beyond.
    found = race_lr(lambda: Quartic([1.0], start=start), [ANY], as_it_is)
    assert found.lr * start**2 < 2
    assert found.loss < found.untrained_loss
    assert any(math.inf in heat.losses for heat in found.heats)


def test_nothing_that_lowers_the_loss_is_nothing_recommended():
    class Uphill(torch.autograd.Function):
        @staticmethod
        def forward(ctx, x):
            return x.clone()

        @staticmethod
        def backward(ctx, grad):
            return -grad

        @staticmethod
        def jvp(ctx, tangent):
            return -tangent

    class Net(nn.Sequential):
        def forward(self, x):
            return Uphill.apply(super().forward(x))

    def make():
        return Net(nn.Linear(3, 4), nn.Linear(4, 1))

    found = race_lr(make, [(torch.ones(2, 3), torch.ones(2, 1))], nn.functional.mse_loss)
    assert math.isnan(found.lr)
    assert math.isnan(found.loss)
    assert set(found.estimates) == {"AM-muP"}
    # A custom function without a rule for vmap is no reason to fail.
    assert any("torch.func.vmap does not take the model" in note for note in found.notes)


def test_a_readout_of_zeros_leaves_the_line_search():
    def make(seed):
        model = ResidualMLP(6, 4, width=8, depth=1, seed=seed)
        nn.init.zeros_(model.readout.weight)
        return model

    found = race_lr(make, samples(0, 64, 6), nn.functional.cross_entropy, optimizer="adamw")
    assert found.max_update is None
    assert "AM-muP" not in found.estimates
    assert any(note.startswith("no AM-muP estimate: no pre-activation moves") for note in found.notes)
    assert found.loss < found.untrained_loss


def test_several_seeds_race_together():
    def make(seed):
        return Quartic([1.0], start=1.0 + seed)

    found = race_lr(make, [ANY], as_it_is, seeds=2)
    alone = race_lr(make, [ANY], as_it_is, seeds=[0])
    assert found.untrained_loss == pytest.approx((1 + 16) / 8)
    assert found.lr * 2**2 < 2  # beyond, the second seed diverges
    assert found.heats[0].losses[-1] == math.inf
    assert found.steps > 1.5 * alone.steps
    with pytest.raises(InvalidValueError, match="makes the same network for seeds 0 and 1"):
        race_lr(lambda: Bowl([1.0]), [ANY], as_it_is, seeds=2)


def test_progress_ends_at_one():
    seen = []
    race_lr(lambda: Bowl([1.0]), [ANY], as_it_is, progress=seen.append)
    assert seen == sorted(seen)
    assert seen[-1] == 1


# --- real modules ---
def conv(seed, norm="batch", dropout=0.0):
    options = {"width": 4, "depth": 1, "norm": norm, "dropout": dropout, "branch_init": "he/sqrt(K)"}
    return ConvResNet((2, 4, 4), 4, seed=seed, **options)


def mixed():
    return nn.Sequential(nn.Flatten(), nn.Linear(32, 8), nn.BatchNorm1d(8), nn.Dropout(0.3), nn.ReLU(), nn.Linear(8, 4))


def test_batch_norm_and_dropout():
    found = race_lr(mixed, samples(0, 60, 2, 4, 4), nn.functional.cross_entropy, optimizer="adamw")
    assert found.loss < found.untrained_loss
    assert not any("one after the other" in note for note in found.notes)
    assert any("batch statistics" in note for note in found.notes)
    assert any("dropout active" in note for note in found.notes)


@pytest.mark.parametrize("optimizer", list(FAMILIES))
@pytest.mark.parametrize("kind", ["mlp", "conv", "batch norm"])
def test_a_stack_trains_as_one_network_alone(kind, optimizer):
    if optimizer == "muon" and (kind == "conv" or not hasattr(torch.optim, "Muon")):
        pytest.skip("torch's Muon steps matrices only, from 2.9 on")

    def make(seed):
        if kind == "conv":
            return conv(seed).double()
        if kind == "mlp":
            return ResidualMLP(32, 4, width=8, depth=1, seed=seed, norm="layer", dtype=torch.float64)
        return nn.Sequential(nn.Linear(32, 8), nn.BatchNorm1d(8), nn.Linear(8, 8), nn.Linear(8, 4)).double()

    shape = (2, 4, 4) if kind == "conv" else (32,)
    batches = [(x.double(), y) for x, y in samples(1, 3, *shape)]
    setting = experiment(make, batches, nn.functional.cross_entropy, optimizer)
    trainer = Heats(setting)
    lrs = [0.003, 0.01]
    stacked = trainer.run(lrs, 0, 5)
    assert trainer.why_alone == ""
    alone = [train_alone(setting, lr, 0, 5) for lr in lrs]
    # Torch's Muon iterates in bfloat16.
    tolerance = 2e-2 if optimizer == "muon" else 1e-9
    np.testing.assert_allclose(stacked, alone, rtol=tolerance)


def test_copies_of_a_stack_share_their_dropout_masks():
    trainer = Heats(experiment(mixed, samples(1, 3, 2, 4, 4), nn.functional.cross_entropy))
    first, second = trainer.run([0.1, 0.1], 0, 6)
    np.testing.assert_array_equal(first, second)


def test_a_model_that_cannot_be_stacked_races_alone():
    class Branching(nn.Linear):
        def forward(self, x):
            h = super().forward(x)
            return h if h.sum().item() > 0 else h + 0

    def make(seed):
        return Branching(6, 4)

    batches = samples(0, 4, 6)
    found = race_lr(make, batches, nn.functional.cross_entropy)
    plain = race_lr(lambda seed: nn.Linear(6, 4), batches, nn.functional.cross_entropy)
    assert found.lr == pytest.approx(plain.lr, rel=1e-3)
    assert any(note.startswith("learning rates raced one after the other, because torch.func") for note in found.notes)


def test_a_large_model_races_alone():
    setting = experiment(lambda: nn.Linear(1024, 1024), [(torch.ones(1, 1024), torch.ones(1, 1024))], nn.MSELoss())
    assert Heats(setting).why_alone == "the model has 1,049,600 parameters"


def test_those_that_go_on_train_as_if_nobody_had_left():
    setting = experiment(
        lambda seed: conv(seed).double(),
        [(x.double(), y) for x, y in samples(1, 5, 2, 4, 4)],
        nn.functional.cross_entropy,
        "adamw",
    )
    lrs = [0.001, 0.003, 0.01]
    whole = Heats(setting).run(lrs, 0, 9)
    group = Heats(setting).start(lrs, 0)
    np.testing.assert_array_equal(group.advance(4), whole[:, :4])
    group.keep(lrs[1:])
    np.testing.assert_allclose(group.advance(9), whole[1:], rtol=1e-9)
    assert group.spent == 3 * 4 + 2 * 5


def test_divergence_stays_where_it_arose():
    curves = Heats(experiment(lambda: Bowl([1.0]), [ANY], as_it_is)).run([0.5, 1e200], 0, 12)
    assert np.isfinite(curves[0]).all()
    assert curves[0, :3].tolist() == [0.5, 0.125, 0.03125]
    first_bad = int(np.argmin(np.isfinite(curves[1])))
    assert 0 < first_bad < 4
    assert np.isnan(curves[1, first_bad:]).all()


# --- what it says and refuses ---
def test_few_batches_are_said():
    (note,) = race_lr(lambda: Bowl([1.0]), [ANY], as_it_is).notes[-1:]
    assert note == "1 batch for 56 steps, used again in turn: what is found is how fast they fit"
    (note,) = race_lr(lambda: Bowl([1.0]), [ANY] * 7, as_it_is).notes[-1:]
    assert note.startswith("7 batches for 56 steps")


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_bad_data_are_refused_by_name(bad):
    batches = samples(0, 3, 6)
    batches[1][0][2, 3] = bad
    with pytest.raises(InvalidValueError, match=r"`batches\[1\]` must hold finite numbers, got 1 of 48 in `x`"):
        race_lr(lambda seed: nn.Linear(6, 4), batches, nn.functional.cross_entropy)


def test_bad_arguments():
    with pytest.raises(InvalidValueError, match="optimizer"):
        race_lr(lambda: Bowl([1.0]), [ANY], as_it_is, optimizer="adamx")
    with pytest.raises(InvalidTypeError, match="`batches` must be a list"):
        race_lr(lambda: Bowl([1.0]), 3, as_it_is)
    with pytest.raises(InvalidTypeError, match="one number"):
        race_lr(lambda: nn.Linear(6, 4), samples(0, 1, 6), lambda f, y: f)
    with pytest.raises(InvalidValueError, match="the loss must be finite, got nan"):
        race_lr(lambda: Bowl([1.0], start=math.nan), [ANY], as_it_is)
    with pytest.raises(InvalidValueError, match="no learning rate lowers the loss"):
        race_lr(lambda: Bowl([1.0], start=0.0), [ANY], as_it_is)


@pytest.mark.skipif(not hasattr(torch.optim, "Muon"), reason="torch has Muon from 2.9 on")
def test_muon_does_not_step_convolutions():
    batch = (torch.ones(2, 1, 4, 4), torch.ones(2, dtype=torch.long))

    def make(seed):
        return ConvNet((1, 4, 4), 2, width=4, depth=3, seed=seed)

    with pytest.raises(InvalidValueError, match="Muon"):
        race_lr(make, [batch], nn.functional.cross_entropy, optimizer="muon")


# --- the quoted error ---
@pytest.mark.parametrize(("optimizer", "title"), [("sgd", "SGD"), ("adamw", "AdamW")])
def test_the_quoted_error_is_that_of_the_results_page(optimizer, title):
    error = race_error(optimizer)
    assert error is not None
    section = re.search(rf"^## {title}$(.*?)(^## |\Z)", PAGE.read_text(), flags=re.DOTALL | re.MULTILINE)
    assert section
    rows = [line.strip("| ").split(" | ") for line in section[1].splitlines() if re.match(r"\| [a-z]", line)][1:]
    octaves = sorted(abs(float(row[4])) for row in rows)
    assert len(rows) == error.races
    assert len({(row[0], row[1]) for row in rows}) == error.networks
    assert error.networks >= 16
    assert error.worst == pytest.approx(octaves[-1], abs=0.011)
    assert error.median == pytest.approx(statistics.median(octaves), abs=0.011)
    assert error.nine_in_ten == pytest.approx(octaves[math.ceil(0.9 * (len(rows) - 1))], abs=0.011)
    alone = sorted(abs(float(row[6])) for row in rows)
    assert error.max_update_median == pytest.approx(statistics.median(alone), abs=0.011)
    assert error.max_update_worst == pytest.approx(alone[-1], abs=0.011)
