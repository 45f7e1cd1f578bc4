"""Trials of a user's model that train together are what each of them is alone; and what cannot, trains alone."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

import isoscale
from isoscale.runs import Sweep, sweep
from isoscale.runs.trainers import stack

GRID: dict[str, Any] = {
    "lrs": [2.0**-9, 2.0**-7],
    "seeds": 2,
    "steps": 9,
    "batch_size": 8,
    "rule": ["sp", "mup"],
    "base_width": 2,
}

# A few steps below the edge of stability: float32 keeps 6e-8, and Adam's quotient of small moments amplifies it; far
# from eps it turns the round-off in place of a zero gradient, of a bias below a batch norm, into whole steps.
ROUND_OFF = {"rtol": 2e-4, "atol": 1e-6}


class Mlp(nn.Module):
    """A norm, running statistics, weights that get no gradient and a bias that is not trained."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.up, self.down = nn.Linear(4, width), nn.Linear(width, 1)
        self.hidden, self.running = nn.Linear(width, width), nn.BatchNorm1d(width)
        self.norm, self.fixed = nn.LayerNorm(width), nn.Linear(width, width)
        self.down.bias.requires_grad_(False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.running(self.up(x)).relu()
        return self.down(self.norm(x + self.hidden(x) + self.fixed(x).detach()).relu())


class Attention(nn.Module):
    """Tokens, with the embedding's weight in the readout once more."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.tokens, self.qkv = nn.Embedding(11, width), nn.Linear(width, 3 * width)
        self.out, self.head = nn.Linear(width, width), nn.Linear(width, 11)

    def forward(self, index: torch.Tensor) -> torch.Tensor:
        x = self.tokens(index)
        q, k, v = (part.unflatten(2, (-1, 4)).transpose(1, 2) for part in self.qkv(x).chunk(3, dim=2))
        x = x + self.out(F.scaled_dot_product_attention(q, k, v, is_causal=True).transpose(1, 2).flatten(2))
        return self.head(x)


def numbers() -> Any:
    """Drawn from the global generator: each trial has its own sequence, whoever trains beside it."""
    while True:
        x = torch.randn(8, 4)
        yield x, x[:, :2].prod(1, keepdim=True) + float(np.random.rand())  # noqa: NPY002


def tokens(trial: Any) -> Any:
    generator = torch.Generator().manual_seed(trial.seed)
    while True:
        index = torch.randint(11, (8, 7), generator=generator)
        yield {"index": index[:, :-1]}, index[:, 1:]


def squares(output: Any, y: Any) -> Any:
    return (output - y).square().mean()


def entropy(output: Any, y: Any) -> Any:
    return F.cross_entropy(output.flatten(0, -2), y.flatten())


def held_out() -> Any:
    return [(torch.randn(5, 4), torch.ones(5, 1)), (torch.zeros(3, 4), torch.zeros(3, 1))]


MLP: dict[str, Any] = {"model": Mlp, "batches": numbers, "loss_fn": squares, "eval_batches": held_out, "widths": [8]}
GPT: dict[str, Any] = {"model": Attention, "batches": tokens, "loss_fn": entropy, "widths": [8, 16], "base_width": 4}


@pytest.fixture
def run(inline: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., isoscale.SweepResult]:
    """`run(together=True, **settings)`: in stacks wherever that can be, whatever it costs, or never."""

    def swept(*, together: bool, **settings: Any) -> isoscale.SweepResult:
        monkeypatch.setattr(stack, "_measured", {})
        monkeypatch.setattr(stack, "LEAST_STEPS", 1 if together else 10**9)
        monkeypatch.setattr(stack, "_SIGN_OF_GAIN", 0.0)
        monkeypatch.setattr(stack, "_GAIN", 0.0)
        inline.ran.clear()
        # No memory limit and no timing decides here, so that the test says the same on every machine.
        return sweep(Sweep(**(GRID | settings)), store=tmp_path / f"{together}.db", workers=1)

    return swept


def stacked(ran: Any) -> list[int]:
    """How many trials each stack that ran was of."""
    return [len(work.members) for work in ran if isinstance(work, stack.Stack)]


def logs(folder: Path) -> str:
    return "".join(path.read_text() for path in sorted(folder.glob("True.db.logs/*")))


@pytest.mark.parametrize(
    "settings",
    [
        MLP | {"optimizer": "sgd", "momentum": 0.9, "weight_decay": 0.01, "clip": 0.5},
        MLP | {"optimizer": "adam", "eps": 1e-4, "schedule": "cosine", "warmup": 0.3, "accumulate": 2},
        MLP | {"hyperparameters": {"weight_decay": [0.0, 0.1]}, "eps": 1e-4, "rule": "mup", "clip": 0.01},
        GPT | {"optimizer": "adamw", "schedule": "wsd", "clip": 1.0},
        GPT | {"optimizer": "sgd", "autocast": "bfloat16", "widths": [8]},
    ],
    ids=["sgd, clipped", "adam, cosine, accumulated", "adamw, two decays", "attention", "bfloat16"],
)
def test_together_as_alone(run: Callable[..., Any], inline: Any, tmp_path: Path, settings: dict[str, Any]):
    alone = run(together=False, **settings)
    assert stacked(inline.ran) == []
    found = run(together=True, **settings)
    assert found.reasons == alone.reasons == ()
    assert "trains alone" not in logs(tmp_path)
    assert len(stacked(inline.ran)) == len(settings["widths"])
    assert "trained together with 7 others" in logs(tmp_path)
    # That of bfloat16 is 2^-8 of a logit, of which a loss averages a hundred.
    round_off = {"rtol": 2.0**-9} if "autocast" in settings else ROUND_OFF
    np.testing.assert_allclose(found.data["curve"], alone.data["curve"], **round_off)
    np.testing.assert_allclose(found.data["test_loss"], alone.data["test_loss"], **round_off)
    moved = np.abs(alone.data["curve"].isel(step=-1) - alone.data["curve"].isel(step=0))
    assert float(moved.min()) > 1e-4, "the test must train"


def test_divergence_of_one_does_not_touch_the_others(run: Callable[..., Any], inline: Any):
    settings = MLP | {"optimizer": "sgd", "lrs": [2.0**-7, 1e30]}
    alone, found = run(together=False, **settings), run(together=True, **settings)
    assert stacked(inline.ran) == [8]
    assert found.count("diverged") == 4
    assert sorted(found.reasons) == sorted(alone.reasons)
    np.testing.assert_array_equal(np.isnan(found.data["curve"]), np.isnan(alone.data["curve"]))
    np.testing.assert_allclose(found.data["curve"].sel(lr=2.0**-7), alone.data["curve"].sel(lr=2.0**-7), **ROUND_OFF)


class Dropped(Mlp):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return F.dropout(super().forward(x), 0.1)


class Deciding(Mlp):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        found = super().forward(x)
        return found if found.sum() > 0 else found * 0.5


class Drawing(Mlp):
    """Models that differ in a number that is no tensor."""

    def __init__(self, width: int) -> None:
        super().__init__(width)
        self.scale = float(torch.rand(()))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.scale * super().forward(x)


class Averaging(Mlp):
    """A buffer that is replaced rather than written to."""

    def __init__(self, width: int) -> None:
        super().__init__(width)
        self.register_buffer("average", torch.zeros(4))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.average = 0.9 * self.average + 0.1 * x.detach().mean(0)
        return super().forward(x)


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        ({"model": Dropped}, "random operation"),
        ({"model": Deciding}, "data-dependent control flow"),
        ({"model": Drawing}, "in company"),
        ({"model": Averaging}, "its buffer `average` has other numbers"),
        ({"loss_fn": lambda output, y: squares(output, y) + 0 * squares(output, y).item()}, ".item()"),
        ({"optimizer": "sign"}, ""),
        ({"time_limit": 60.0}, ""),
    ],
    ids=["dropout", "a branch on numbers", "a number of its own", "a replaced buffer", "item", "signs", "a limit"],
)
def test_what_cannot_train_together_trains_alone(
    run: Callable[..., Any], inline: Any, tmp_path: Path, changes: dict[str, Any], why: str
):
    # At the base's own size, where nothing else that the model draws has a part in its plan.
    settings = MLP | {"rule": "mup", "base_width": 8} | changes
    alone, found = run(together=False, **settings), run(together=True, **settings)
    assert found.reasons == ()
    assert found.count("done") == 4
    assert stacked(inline.ran) == ([4] if why else [])
    np.testing.assert_array_equal(found.data["curve"], alone.data["curve"])
    np.testing.assert_array_equal(found.data["test_loss"], alone.data["test_loss"])
    assert why in logs(tmp_path)
    assert logs(tmp_path).count("trains alone") == (4 if why else 0)


def test_a_trial_that_fails_takes_no_other_with_it(run: Callable[..., Any], inline: Any):
    def some(trial: Any) -> Any:
        for step, batch in enumerate(numbers()):
            if trial.seed == 1 and trial.lr == 2.0**-7 and step == 7:
                raise OSError("disk")
            yield batch

    found = run(together=True, **(MLP | {"batches": some, "rule": "mup"}))
    assert stacked(inline.ran) == [4]
    assert (found.count("failed"), found.count("done")) == (1, 3)


@pytest.mark.parametrize(
    ("cost", "longest", "works", "said"),
    [
        (1.0, 600, [16, *[1] * 15], "4 together take 1.00 times"),
        (0.5, 600, [16], "together with 15 others, each 2.0 times as fast"),
        (0.5, 30, [16, 6, 4], ""),
    ],
    ids=["no gain", "twice as fast", "all take too long"],
)
def test_the_faster_way_is_taken(
    inline: Any,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    cost: float,
    longest: float,
    works: list[int],
    said: str,
):
    """By a clock that says what a step of each member costs in company; alone it costs one second."""
    now = [0.0]
    group_step, descend = stack._Group._step, stack.ModuleProgram.descend

    def stepped(group: Any, *arguments: Any) -> None:
        group_step(group, *arguments)
        now[0] += cost * len(group.members)

    def descended(*arguments: Any) -> Any:
        for loss in descend(*arguments):
            now[0] += 1.0
            yield loss

    monkeypatch.setattr(stack._Group, "_step", stepped)
    monkeypatch.setattr(stack.ModuleProgram, "descend", descended)
    monkeypatch.setattr(stack, "_clock", lambda device: lambda: now[0])
    monkeypatch.setattr(stack, "_measured", {})
    monkeypatch.setattr(stack, "_LONGEST", longest)
    monkeypatch.setattr(stack, "LEAST_STEPS", 36)
    settings = GRID | MLP | {"rule": "mup", "seeds": 8}
    found = sweep(Sweep(**settings), store=tmp_path / "True.db", workers=1)
    assert found.count("done") == 16
    assert [len(work.members) for work in inline.ran] == works
    # Sixteen together take 72 seconds, six of them 27, and these come first.
    assert not said or logs(tmp_path).count(said) == 16
    # Less than a measurement is worth is not measured.
    inline.ran.clear()
    sweep(Sweep(**(settings | {"steps": 2})), store=tmp_path / "True.db", workers=1)
    assert stacked(inline.ran) == []
