"""`run` has the mean and the spread of explicit networks, in every recorded variable."""

from __future__ import annotations

import pytest
import torch
from explicit import Explicit, X, Y, problem, worst_mean_and_spread

from isoscale.limit.network import Size, run
from isoscale.limit.noise import GaussianNoise

RUNS, WIDTH, DEPTH = 800, 48, 4
ERRORS = 4.5  # standard errors allowed for the worst of some hundred entries
CLASSES = torch.tensor([0, 1, 2])
TABLE = torch.tensor([[1.0, 0.0], [0.0, -1.0], [0.5, 0.5]])
CASES = {
    "tanh": {},
    "relu": {"phi": "relu"},
    "gelu, long horizon": {"phi": "gelu", "horizon": 2.0, "lr": 0.2},
    "frozen input and output layers": {"train_ends": False},
    "two outputs": {"y": TABLE},
    "cross-entropy": {"y": CLASSES, "loss": "cross-entropy", "lr": 1.5},
    "mini-batches": {"batches": [[0, 1], [2], [1, 2]]},
}


@pytest.mark.parametrize("reused", [True, False], ids=["reused", "independent"])
@pytest.mark.parametrize("case", CASES)
def test_mean_and_spread_are_an_explicit_networks(case: str, reused: bool) -> None:
    task = problem(**CASES[case])
    check(task, X, n=WIDTH, reused=reused)


@pytest.mark.parametrize("reused", [True, False], ids=["reused", "independent"])
@pytest.mark.parametrize("n", [40, 20, 8])
def test_explicit_matrices_take_over_without_changing_the_law(n: int, reused: bool) -> None:
    # 3 samples and 3 steps reach rank 12: the switch at n / 4 comes after two steps, one step, and at once
    check(problem(), X, n=n, reused=reused)


def test_samples_never_trained_on_change_nothing_and_are_predicted() -> None:
    task = problem(X[:2], Y[:2], x_test=X[2:])
    check(task, X, n=WIDTH, reused=True)


def check(task, x, n: int, reused: bool) -> None:
    size = Size(n=n, depth=DEPTH, replicas=RUNS, reused=reused, kernel_layers=tuple(range(DEPTH + 1)))
    history = run(task, size, GaussianNoise(5))
    truth = Explicit(task, x, n, DEPTH, RUNS, reused=reused, seed=1).run()
    for name, expected in truth.items():
        got = history.kernels[name] if name in history.kernels else getattr(history, name)
        mean, spread = worst_mean_and_spread(got, expected)
        assert mean < ERRORS, f"mean of {name} off by {mean:.1f} standard errors"
        assert spread < ERRORS, f"spread of {name} off by {spread:.1f} standard errors"
