"""Sweeps over a model of the user's: trained as a plain torch loop over its plan's groups trains it."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

import isoscale
from isoscale.errors import InvalidTypeError, InvalidValueError
from isoscale.runs import Sweep, sweep
from isoscale.training import Loop

GRID: dict[str, Any] = {"widths": [8, 16], "lrs": [2.0**-8, 2.0**-6], "seeds": 2, "steps": 6, "rule": "mup"}


def make(width: int, seed: int) -> nn.Module:
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(4, width), nn.Tanh(), nn.Linear(width, width), nn.Tanh(), nn.Linear(width, 1))


def batches(trial: Any) -> Any:
    generator = torch.Generator().manual_seed(trial.seed)
    while True:
        x = torch.randn(trial.batch_size, 4, generator=generator)
        yield x, x[:, :2].prod(1, keepdim=True)


def squares(output: Any, y: Any) -> Any:
    return (output - y).square().mean()


HELD_OUT = [(torch.linspace(-1, 1, 20).reshape(5, 4), torch.ones(5, 1)), (torch.zeros(3, 4), torch.zeros(3, 1))]


@pytest.fixture
def run(inline: Any, tmp_path: Path) -> Callable[..., isoscale.SweepResult]:
    def swept(**changes: Any) -> isoscale.SweepResult:
        given = {"model": make, "batches": batches, "loss_fn": squares} | GRID | changes
        return sweep(Sweep(**given), store=tmp_path / "s.db")

    return swept


@pytest.mark.parametrize("optimizer", ["sgd", "adamw", "muon"])
def test_the_curve_is_that_of_a_plain_loop(run: Callable[..., Any], optimizer: str):
    """Schedule, warmup, clipping and accumulation written out, and `isoscale.parametrize` called by hand."""
    loop = {"schedule": "cosine", "warmup": 1 / 3, "clip": 0.1, "accumulate": 2}
    found = run(optimizer=optimizer, weight_decay=0.1, eval_batches=HELD_OUT, batch_size=16, **loop)
    assert found.reasons == ()
    lr, seed = 2.0**-6, 1
    model = make(16, seed)
    x = torch.zeros(1, 4)
    plan = isoscale.parametrize(model, make(8, seed), "mup", optimizer, lr=lr, weight_decay=0.1, example_inputs=(x,))
    steppers = isoscale.training.torch_optimizers.optimizers(optimizer, plan.param_groups())
    rates = [[group["lr"] for group in stepper.param_groups] for stepper in steppers]
    trial = Sweep(train=make, batch_size=16, **GRID).trial(width=16, lr=lr, seed=seed)
    source = batches(trial)
    losses = []
    schedule = Loop(schedule="cosine", warmup=1 / 3)
    for step, factor in enumerate(
        [0.5, 1, 1, 0.5 + 0.5 * math.cos(math.pi / 4), 0.5, 0.5 - 0.5 * math.cos(math.pi / 4)]
    ):
        assert schedule.lr_factor(step, 6) == pytest.approx(factor)
        for stepper, starts in zip(steppers, rates, strict=True):
            stepper.zero_grad()
            for group, rate in zip(stepper.param_groups, starts, strict=True):
                group["lr"] = rate * schedule.lr_factor(step, 6)
        two = [squares(model(x), y) / 2 for x, y in (next(source), next(source))]
        sum(two).backward()
        nn.utils.clip_grad_norm_(model.parameters(), 0.1)
        for stepper in steppers:
            stepper.step()
        losses.append(float(sum(two).detach()))
    curve = found.data["curve"].sel(width=16, lr=lr, seed=seed).squeeze()
    # Two backward passes add up in another order than one over the sum.
    np.testing.assert_allclose(curve, losses, rtol=1e-4 if optimizer == "muon" else 1e-5)
    with torch.no_grad():
        held_out = np.mean([float(squares(model(x), y)) for x, y in HELD_OUT])
    assert found.data["test_loss"].sel(width=16, lr=lr, seed=seed).item() == pytest.approx(held_out, rel=1e-4)


def test_the_parts_of_a_trial_give_the_stored_curve(run: Callable[..., Any]):
    found = run(optimizer="sgd")
    spec = found.spec
    trial = spec.trial(width=16, lr=2.0**-6, seed=1)
    model = trial.model()
    optimizer = torch.optim.SGD(trial.plan.param_groups())
    losses = []
    for _, (x, y) in zip(range(spec.steps), trial.batches(), strict=False):
        loss = trial.loss(model(x), y)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    np.testing.assert_array_equal(found.data["curve"].sel(width=16, lr=2.0**-6, seed=1).squeeze(), np.float32(losses))


def test_every_size_of_a_seed_sees_the_same_batches(run: Callable[..., Any]):
    """Also those that are drawn from the global generator, from which the models draw too."""

    def drawn() -> Any:
        while True:
            x = torch.randn(8, 4)
            yield x, x[:, :1]

    def first_input(output: Any, y: Any) -> Any:
        return output.mean() * 0 + y.mean()

    found = run(batches=drawn, loss_fn=first_input)
    assert found.reasons == ()
    curves = found.data["curve"]
    assert (curves.isel(width=0) == curves.isel(width=1)).all()
    assert (curves.isel(seed=0) != curves.isel(seed=1)).all()


def test_a_loader_is_gone_through_again_and_again(run: Callable[..., Any]):
    data = torch.utils.data.TensorDataset(torch.randn(6, 4), torch.zeros(6, 1))
    loader = torch.utils.data.DataLoader(data, batch_size=3, shuffle=True)
    found = run(batches=loader, steps=7)
    assert found.count("done") == 8
    assert np.isfinite(found.data["curve"]).all()


def test_a_model_that_takes_no_seed_and_a_data_set_of_ours(run: Callable[..., Any]):
    def readout(width: int, depth: int) -> nn.Module:
        layers = [nn.Flatten(), nn.Linear(64, width), nn.ReLU()]
        for _ in range(depth):
            layers += [nn.Linear(width, width), nn.ReLU()]
        return nn.Sequential(*layers, nn.Linear(width, 10))

    found = run(model=readout, depths=[1], batches=None, loss_fn=None, dataset="digits", steps=20, lrs=[2.0**-6])
    assert found.reasons == ()
    assert (found.data["curve"].isel(step=-1) < found.data["curve"].isel(step=0)).all()
    assert np.isfinite(found.data["test_loss"]).all()


X, Y = torch.linspace(-1, 1, 80).reshape(20, 4).sin(), torch.arange(20.0)[:, None] / 20


class Pairs(torch.utils.data.Dataset):
    """Samples one by one; one of them cannot be read."""

    def __init__(self, torn: int = -1) -> None:
        self.torn = torn

    def __len__(self) -> int:
        return len(X)

    def __getitem__(self, at: int) -> Any:
        if at == self.torn:
            raise OSError("truncated")
        return X[at], Y[at]


def test_batches_of_samples_are_drawn_by_the_seed(run: Callable[..., Any]):
    """Two whole arrays and a data set of torch's: epoch by epoch without replacement, whatever the accumulation."""
    settings = {"batch_size": 5, "steps": 6, "accumulate": 2, "loss_fn": squares}
    by_arrays = run(batches=(X.numpy(), Y.numpy()), eval_batches=(X, Y), **settings)
    by_samples = run(batches=Pairs(), version="samples", eval_batches=(X, Y), **settings)
    assert by_arrays.reasons == by_samples.reasons == ()
    np.testing.assert_array_equal(by_arrays.data["curve"], by_samples.data["curve"])
    trial = by_arrays.spec.trial(width=8, lr=2.0**-6, seed=1)
    drawn = torch.stack([y.flatten() for _, (_, y) in zip(range(8), trial.batches(), strict=False)])
    for epoch in (drawn[:4], drawn[4:]):
        assert sorted(epoch.flatten().tolist()) == Y.flatten().tolist()
    assert not torch.equal(drawn[:4], drawn[4:])
    failed = run(batches=Pairs(torn=13), version="torn", widths=[8], lrs=[0.01], seeds=1, **settings)
    assert "sample 13 of `batches` cannot be read: OSError: truncated" in failed.reasons[0]
    with pytest.raises(InvalidValueError, match="`x` has 20 samples and `y` has 19"):
        run(batches=(X, Y[1:]))


@pytest.mark.parametrize("model", ["residual-mlp", None], ids=["ours", "one's own"])
def test_a_data_set_in_memory(inline: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, model: str | None):
    """It is the same data set under any trainer, in the cache folder, and equal data are equal trials."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    classes = torch.arange(20) % 3

    def swept() -> Any:
        dataset = isoscale.data.Dataset.from_arrays(X, classes, test=(X, classes))
        own = {"model": lambda width: nn.Sequential(nn.Linear(4, width), nn.ReLU(), nn.Linear(width, 3))}
        given = {"model": model, "depths": [1]} if model else own
        spec = Sweep(**(GRID | given), dataset=dataset, batch_size=5)
        assert spec.subject.endswith(", arrays, sgd" if model else ", arrays, adamw")
        return sweep(spec, store=tmp_path / "s.db")

    found = swept()
    assert found.reasons == ()
    assert np.isfinite(found.data["test_loss"]).all()
    inline.ran.clear()
    swept()
    assert inline.ran == []


def test_the_base_of_a_size_of_ones_own_stays_where_it_is(run: Callable[..., Any], inline: Any):
    """One size alone is the same trial as among others, given the base that it had there."""

    def deep(width: int, layers: int) -> nn.Module:
        hidden = [part for _ in range(layers) for part in (nn.Linear(width, width), nn.Tanh())]
        return nn.Sequential(nn.Linear(4, width), *hidden, nn.Linear(width, 1))

    both = run(model=deep, sizes={"layers": [1, 2]}, widths=[8], seeds=1)
    assert both.reasons == ()
    assert both.spec.base_sizes == {"layers": 1}
    inline.ran.clear()
    run(model=deep, sizes={"layers": [2]}, base_sizes={"layers": 1}, widths=[8], seeds=1)
    assert inline.ran == []
    run(model=deep, sizes={"layers": [2]}, widths=[8], seeds=1)
    assert len(inline.ran) == 2
    with pytest.raises(InvalidValueError, match="no axis of `sizes` named 'layer'"):
        run(model=deep, sizes={"layers": [2]}, base_sizes={"layer": 1})


def test_whatever_trains_it_is_part_of_its_key(run: Callable[..., Any], inline: Any):
    run(widths=[8], seeds=1, lrs=[0.01])
    for changes in (
        {"schedule": "linear"},
        {"clip": 1.0},
        {"accumulate": 2},
        {"warmup": 0.5},
        {"base_width": 4},
        {"autocast": "bfloat16"},
    ):
        inline.ran.clear()
        run(widths=[8], seeds=1, lrs=[0.01], **changes)
        assert len(inline.ran) == 1, changes
    inline.ran.clear()
    run(widths=[8], seeds=1, lrs=[0.01])
    assert inline.ran == []


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"model": lambda width: width}, "`model` must make a torch.nn.Module, got int"),
        ({"batches": []}, "`batches` has no batch"),
        ({"batches": [torch.zeros(2, 4)]}, "`batches` must be pairs (x, y), got Tensor"),
        ({"batches": [(torch.zeros(2, 3), torch.zeros(2, 1))]}, "RuntimeError"),
        ({"loss_fn": lambda output, y: output}, "RuntimeError: grad can be implicitly created only for scalar"),
    ],
    ids=["no module", "no batch", "no pair", "wrong shape", "no scalar"],
)
def test_what_cannot_be_trained_says_why(run: Callable[..., Any], changes: dict[str, Any], reason: str):
    found = run(widths=[8], seeds=1, lrs=[0.01], **changes)
    assert found.count("failed") == 1
    assert reason in found.reasons[0] or "TraceError" in found.reasons[0]


def test_divergence_is_a_result(run: Callable[..., Any]):
    found = run(optimizer="sgd", lrs=[2.0**-6, 1e30])
    assert (found.data["status"].sel(lr=1e30) == 1).all()
    assert (found.data["status"].sel(lr=2.0**-6) == 0).all()


@pytest.mark.parametrize(("schedule", "last"), [("constant", 1.0), ("cosine", 0.0), ("linear", 0.0), ("wsd", 0.0)])
def test_a_schedule_begins_at_the_rate_and_ends_where_it_says(schedule: str, last: float):
    factors = [Loop(schedule=schedule, warmup=0.1).lr_factor(step, 1000) for step in range(1000)]
    assert factors[0] == 0.01
    assert factors[99] == factors[100] == 1.0
    assert all(0 < factor <= 1 for factor in factors)
    assert factors[-1] == pytest.approx(last, abs=0.01)
    if schedule == "wsd":
        assert set(factors[100:820]) == {1.0}


@pytest.mark.parametrize(
    ("settings", "error", "message"),
    [
        (
            {"model": nn.Linear(1, 1), "dataset": "digits"},
            InvalidTypeError,
            "`model` must be a function that makes one of any size",
        ),
        ({"model": make}, InvalidValueError, "trains on `batches` or on a `dataset`"),
        ({"model": make, "batches": [], "dataset": "digits"}, InvalidValueError, "trains on `batches` or on a"),
        ({"model": make, "batches": []}, InvalidValueError, "`batches` need a `loss_fn`"),
        ({"model": make, "dataset": "digits", "eval_batches": []}, InvalidValueError, "`eval_batches` go with"),
        ({"model": make, "dataset": "digits", "schedule": "cosin"}, InvalidValueError, "Nearest: cosine"),
        ({"model": make, "dataset": "digits", "warmup": 1.0}, InvalidValueError, "`warmup` must be in"),
        ({"model": make, "dataset": "digits", "clip": 0}, InvalidValueError, "`clip` must be > 0"),
        ({"model": make, "dataset": "digits", "accumulate": 1.5}, InvalidTypeError, "`accumulate` must be a whole"),
        ({"model": make, "dataset": "digits", "model_args": {"phi": "relu"}}, InvalidValueError, "bind yours"),
        ({"schedule": "cosin"}, InvalidValueError, "Nearest: cosine"),
        ({"autocast": "float16"}, InvalidValueError, "no `autocast` named 'float16'"),
        ({"train": make, "schedule": "cosine"}, InvalidValueError, "with `train`, do it there"),
        ({"command": "./run {lr} {seed}", "clip": 1.0}, InvalidValueError, "with `command`, do it there"),
        ({"model": make, "train": make}, InvalidValueError, "`model` is for models that isoscale trains"),
    ],
)
def test_what_makes_no_sense_is_named(settings: dict[str, Any], error: type[Exception], message: str):
    with pytest.raises(error, match=message):
        Sweep(**settings)
