"""Exponents of a transfer on curves in closed form: power laws, and a linear network whose finite widths are exact."""

import math

import numpy as np
import pytest

from isoscale.errors import InvalidValueError
from isoscale.stats import Curve, find_optimum, worth, worth_of_optima

SIZES = np.array([8.0, 16, 32, 64, 128])


def measured(alpha, beta, gamma, *, noise=0.0, rng=None, se=1e-5):
    """The three laws with limits of their own; noise in units of the standard error."""
    draw = (lambda: rng.standard_normal(len(SIZES)) * se) if noise else (lambda: 0.0)
    errors = np.full(len(SIZES), se)
    return worth(
        SIZES,
        loss=0.3 + SIZES**-alpha + draw(),
        loss_se=errors,
        log2_lr=-4 + 2 * SIZES**-beta + draw(),
        log2_lr_se=errors,
        curvature=0.1 * SIZES**gamma + draw(),
        curvature_se=errors,
    )


@pytest.mark.parametrize(
    ("alpha", "beta", "gamma", "words"),
    [(1.0, 1.0, 0.0, "fast"), (1.0, 0.3, 0.0, "useful"), (1.0, 0.3, 0.8, "not"), (0.5, 0.6, 0.2, "fast")],
)
def test_laws_are_found_and_said(alpha, beta, gamma, words):
    found = measured(alpha, beta, gamma)
    assert found.alpha.value == pytest.approx(alpha, abs=0.01)
    assert found.beta.value == pytest.approx(beta, abs=0.01)
    assert found.gamma.value == pytest.approx(gamma, abs=0.01)
    assert found.kappa.value == pytest.approx(alpha - 2 * beta + gamma, abs=0.03)
    assert found.words == words


def test_intervals_hold_the_exponents():
    rng = np.random.default_rng(0)
    held = np.zeros(4)
    experiments = 100
    for _ in range(experiments):
        found = measured(1.0, 0.8, 0.1, noise=1.0, rng=rng, se=1e-3)
        truths = (1.0, 0.8, 0.1, 1.0 - 1.6 + 0.1)
        exponents = (found.alpha, found.beta, found.gamma, found.kappa)
        for place, (one, truth) in enumerate(zip(exponents, truths, strict=True)):
            held[place] += not (one.low > truth or one.high < truth)
    assert (held / experiments >= 0.95 - 4 * math.sqrt(0.95 * 0.05 / experiments)).all()


def test_what_does_not_move_has_no_exponent():
    flat = np.full(3, 1.0)
    se = np.full(3, 0.01)
    found = worth([4, 8, 16], loss=flat, loss_se=se, log2_lr=flat, log2_lr_se=se, curvature=flat, curvature_se=se)
    assert math.isnan(found.beta.value)
    assert found.words.startswith("cannot tell")


@pytest.mark.parametrize("sizes", [[4, 8], [4, 4, 8], [0, 4, 8]])
def test_sizes_that_are_too_few_are_named(sizes):
    ones = np.ones(len(sizes))
    with pytest.raises(InvalidValueError, match="`sizes`"):
        worth(sizes, loss=ones, loss_se=ones, log2_lr=ones, log2_lr_se=ones, curvature=ones, curvature_se=ones)


# --- a linear network ---
SINGULAR_VALUES = (1.0, 0.25)
STEPS = 2


def linear_network(width, lr):
    """Expected loss of f(x) = a . (w x) / width^(1/2), of which a is trained, after steps of gradient descent.

    Along a direction of the data with singular value s the error is multiplied by 1 - lr s W at each step, where
    W = |w|^2 / width has the moments of a chi^2 law, E W^k = (1 + 2 / width) ... (1 + 2 (k - 1) / width). The loss is
    a polynomial in them, so that the gap, the drift and the curvature's change all fall like 1 / width.
    """
    loss = 0.0
    moment = 1.0
    for power in range(2 * STEPS + 1):
        for value in SINGULAR_VALUES:
            loss += 0.5 * math.comb(2 * STEPS, power) * (-lr * value) ** power * moment
        moment *= 1 + 2 * power / width
    return loss


def test_a_linear_network_transfers_fast():
    """Exponents 1, 1 and 0, kappa = -1, from minima that are found numerically."""
    from scipy.optimize import minimize_scalar

    losses, rates, curvatures = [], [], []
    widths = np.array([64, 128, 256, 512, 1024])
    for width in widths:
        loss = lambda log2_lr, width=width: linear_network(width, 2.0**log2_lr)  # noqa: E731
        least = minimize_scalar(loss, bracket=(-3.0, 0.0, 2.0), tol=1e-10)
        rates.append(least.x)
        losses.append(least.fun)
        curvatures.append((loss(least.x + 0.01) - 2 * least.fun + loss(least.x - 0.01)) / 0.01**2 / 2)
    found = worth(
        widths,
        loss=losses,
        loss_se=np.full(5, 1e-5),
        log2_lr=rates,
        log2_lr_se=np.full(5, 1e-4),
        curvature=curvatures,
        curvature_se=np.full(5, 1e-3),
    )
    assert found.alpha.value == pytest.approx(1.0, abs=0.15)
    assert found.beta.value == pytest.approx(1.0, abs=0.15)
    assert found.gamma.value == pytest.approx(0.0, abs=0.15)
    assert found.words == "fast"


def test_depth_at_infinite_width_transfers_fast():
    """The limit solver without noise: two steps of a linear residual network of infinite width.

    Its loss is a smooth function of 1 / depth, so that the gap and the drift vanish like it and the curvature stays:
    exponents 1, 1 and 0, kappa = -1. Those of small depths are off like 1 / depth, too: twice the depths halve the
    errors, and extrapolated so they are gone.
    """
    from scipy.optimize import minimize_scalar

    from isoscale.limit import closed_form

    def loss(log2_lr, depth):
        x, y = [[1.0, 0.0], [0.6, 0.8]], [1.0, -0.5]
        setting = {"steps": 2, "backward_weights": "reused", "train_ends": False, "kernels": False}
        return float(closed_form.linear(x, y, depth=depth, lr=2.0**log2_lr, **setting).loss[-1])

    at = {}
    for depth in (2, 4, 8, 16):
        least = minimize_scalar(loss, args=(depth,), bounds=(0.2, 2.5), method="bounded", options={"xatol": 1e-5})
        beside = loss(least.x + 0.01, depth) + loss(least.x - 0.01, depth)
        at[depth] = least.fun, least.x, (beside - 2 * least.fun) / 0.01**2 / 2

    def exponents(depths):
        losses, rates, curvatures = np.array([at[depth] for depth in depths]).T
        found = worth(
            depths,
            loss=losses,
            loss_se=np.full(3, 1e-6),
            log2_lr=rates,
            log2_lr_se=np.full(3, 1e-4),
            curvature=curvatures,
            curvature_se=np.full(3, 1e-3),
        )
        assert found.words == "fast"
        return np.array([one.value for one in (found.alpha, found.beta, found.gamma, found.kappa)])

    limit = np.array([1.0, 1.0, 0.0, -1.0])
    coarse, fine = exponents([2, 4, 8]), exponents([4, 8, 16])
    np.testing.assert_array_less(np.abs(fine - limit), 0.75 * np.abs(coarse - limit))
    np.testing.assert_allclose(2 * fine - coarse, limit, atol=0.15)


def test_optima_of_curves_say_the_same():
    optima = {}
    rng = np.random.default_rng(1)
    x, seed = np.meshgrid(np.arange(-8.0, 0.0, 0.5), np.arange(8))
    for size in (8, 16, 32, 64):
        vertex = -4 + 8 / size
        logs = np.log(0.3 + 4 / size) + 0.1 * (x - vertex) ** 2 + 1e-4 * rng.standard_normal(x.shape)
        optima[size] = find_optimum(Curve.of_runs(2.0 ** x.ravel(), seed.ravel(), np.exp(logs).ravel()))
    found = worth_of_optima(optima)
    assert found.alpha.value == pytest.approx(1.0, abs=0.1)
    assert found.beta.value == pytest.approx(1.0, abs=0.2)
