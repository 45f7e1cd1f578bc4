"""`run` has the mean and the spread of explicit networks, in every recorded variable."""

from __future__ import annotations

import pytest
import torch
from explicit import Explicit, X, Y, problem, worst_mean_and_spread

from isoscale.limit.gaussian import LazyGaussian, _directions, _split, inner
from isoscale.limit.network import Network, Size, Workspace, run
from isoscale.limit.noise import GaussianNoise

RUNS, WIDTH, DEPTH = 800, 28, 3
# Standard errors allowed for the worst entry: chance alone passes 5.5 once in 2.6e7, and all cases together compare
# some 32,000 means and spreads.
ERRORS = 5.5
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
    "two layers": {"blocks": {"layers": 2}},
    "two layers, completep, RMSNorm": {"blocks": {"layers": 2, "rule": "completep", "norm": "rms"}},
    "three layers, corrected, LayerNorm": {
        "blocks": {"layers": 3, "rule": "depth-mup-corrected", "norm": "layer"}, "lr": 0.2, "train_ends": False,
    },
    "every option of SGD": {
        "momentum": 0.6, "nesterov": True, "weight_decay": 0.3, "clip": 0.2, "schedule": [1.0, 0.7, 0.4],
        "batches": [[0, 1], [2], [1, 2]],
    },
}  # fmt: skip


@pytest.mark.parametrize("reused", [True, False], ids=["reused", "independent"])
@pytest.mark.parametrize("case", CASES)
def test_mean_and_spread_are_an_explicit_networks(case: str, reused: bool) -> None:
    task = problem(**CASES[case])
    check(task, X, n=WIDTH, reused=reused)


@pytest.mark.parametrize(
    ("reused", "case"),
    [
        (True, CASES["every option of SGD"]),
        (False, {"optimizer": "adam", "lr": 0.2}),
        (True, {"optimizer": "muon", "momentum": 0.5, "lr": 0.2}),
    ],
)
def test_explicit_matrices_have_the_same_law(reused: bool, case: dict) -> None:
    task = problem(**case, blocks={"layers": 2})
    check(task, X, n=20, reused=reused, explicit=True)


def test_samples_never_trained_on_change_nothing_and_are_predicted() -> None:
    task = problem(X[:2], Y[:2], x_test=X[2:])
    check(task, X, n=WIDTH, reused=True)


def check(task, x, n: int, reused: bool, explicit: bool = False) -> None:
    layers = tuple(range(DEPTH + 1))
    size = Size(n=n, depth=DEPTH, replicas=RUNS, reused=reused, explicit=explicit, kernel_layers=layers)
    history = run(task, size, GaussianNoise(5))
    truth = Explicit(task, x, n, DEPTH, RUNS, reused=reused, seed=1).run()
    for name, expected in truth.items():
        got = history.kernels[name] if name in history.kernels else getattr(history, name)
        mean, spread = worst_mean_and_spread(got, expected)
        assert mean < ERRORS, f"mean of {name} off by {mean:.1f} standard errors"
        assert spread < ERRORS, f"spread of {name} off by {spread:.1f} standard errors"


# --- exactly, where the matrices are given ---------------------------------------------------------------------------
class Given(LazyGaussian):
    """W_0 is given, and what the noise would be follows from it."""

    truth: torch.Tensor

    def _query(self, here, there, a, noise, uncorrelated):
        alpha, residual = _split(a, here.e)
        _, up, turn, _ = _directions(alpha, residual, self.tolerance)
        matrix = self.truth if here is self._forward else self.truth.mT
        image = up @ residual @ matrix.mT
        return super()._query(here, there, a, turn @ image, uncorrelated)


EXACT = {
    "plain": {},
    "schedule and mini-batches": {"schedule": [1.0, 0.5, 0.2, 1.0], "batches": [[0, 1], [2], [1, 2], [0]]},
    "heavy ball": {"momentum": 0.7},
    "Nesterov": {"momentum": 0.7, "nesterov": True},
    "decay": {"weight_decay": 0.4, "momentum": 0.3},
    "clipping": {"clip": 0.05, "momentum": 0.3},
    "Adam": {"optimizer": "adamw", "weight_decay": 0.4, "lr": 0.1, "batches": [[0, 1], [2], [1, 2], [0]]},
    "Lion": {"optimizer": "lion", "betas": (0.5, 0.7), "lr": 0.1, "clip": 0.05},
    "Muon": {"optimizer": "muon", "momentum": 0.7, "nesterov": True, "weight_decay": 0.4, "lr": 0.2},
}


@pytest.mark.parametrize("layers", [1, 2])
@pytest.mark.parametrize("case", EXACT)
def test_optimizers_act_on_the_small_matrices_as_on_explicit_ones(case: str, layers: int) -> None:
    n, depth = 32, 2
    task = problem(steps=4, blocks={"layers": layers, "norm": "rms", "beta": (0.5, 0.75)[layers - 1]}, **EXACT[case])
    truth = Explicit(task, X, n, depth, 2, reused=True)
    network = Network(task, Size(n=n, depth=depth, replicas=2, explicit=False), GaussianNoise(0), Workspace())
    network.v, network.h0 = truth.v, truth.forward()[0][0]
    for branch, block in zip(network.branches, truth.w, strict=True):
        for matrix, w in zip(branch.matrices, block, strict=True):
            matrix = getattr(matrix, "start", matrix)  # what is trained stands beside it
            matrix.__class__ = Given
            matrix.truth = w / n**0.5
    expected = truth.run()["loss"]
    for k in range(task.steps + 1):
        stream = network.forward()
        loss, chi = task.loss(inner(stream[-1], network.v), task.y)
        # Small gradients, and their rounding, weigh as much as large ones in Adam.
        error = 1e-9 if task.optimizer.name == "adamw" else 1e-12
        torch.testing.assert_close(loss, expected[:, k], rtol=0, atol=error)
        if k < task.steps:
            network.backward(stream, chi, k)


def test_alpha_is_a_gauge() -> None:
    task = problem(blocks={"layers": 2, "rule": "completep"})
    runs = [Explicit(task, X, 16, 4, 2, reused=True, alpha=alpha).run()["loss"] for alpha in (0.5, 1.0)]
    torch.testing.assert_close(*runs, rtol=0, atol=1e-12)


def test_explicit_networks_have_the_gradients_of_autograd() -> None:
    task = problem(steps=1, blocks={"layers": 2, "norm": "layer"}, clip=0.1)
    network = Explicit(task, X, 12, 2, 1, reused=True)
    before = [w for block in network.w for w in block]
    for w in before:
        w.requires_grad_()
    loss, _ = task.loss(network.forward()[1], task.y)
    gradients = torch.autograd.grad(loss.sum(), before)
    # In units of W / sqrt(n)
    norm = sum(12 * g.square().sum() for g in gradients) ** 0.5
    assert norm > 0.1
    with torch.no_grad():
        network.run()
    after = [w for block in network.w for w in block]
    for old, new, gradient in zip(before, after, gradients, strict=True):
        torch.testing.assert_close(old - new, task.optimizer.rates[0] * 12 * gradient * 0.1 / norm)
