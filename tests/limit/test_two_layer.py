"""Two-layer blocks at infinite width and depth, against reference values, closed forms and one another."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from isoscale.errors import InvalidValueError
from isoscale.limit import depth_returns, optimal_lr, solve
from isoscale.limit.activations import resolve
from isoscale.limit.blocks import depth_rule
from isoscale.limit.kernel_equations import chebyshev
from isoscale.limit.optimizers import path_of
from isoscale.limit.pair_kernels import kernels_of

# Kx = [[1, 1/2], [1/2, 1]]
X = np.sqrt(2) * np.array([[1.0, 0.0], [0.5, 0.75**0.5]])
Y = [1.0, -1.0]


def losses(**given_):
    return solve(X, **{"y": Y, "steps": 4, "lr": 0.4, "block_depth": 2, "kernels": False, **given_}).loss.values


# --- reference values: docs/theory.md, section 9.8 -----------------------------------------------------------------
@pytest.mark.parametrize(
    ("given_", "expected"),
    [
        ({"phi": "erf"}, [0.5, 0.14686, 0.02129, 0.00026, 0.0]),
        ({"phi": "erf", "backward_weights": "independent"}, [0.5, 0.24725, 0.10267, 0.02771, 0.00418]),
        ({"phi": "relu"}, [0.5, 0.13435, 0.01052, 0.00022, 0.00002]),
        ({"phi": "relu", "backward_weights": "independent"}, [0.5, 0.24828, 0.10152, 0.02483, 0.00272]),
        ({"phi": "erf", "beta": 0.6}, [0.5, 0.24472, 0.09589, 0.01974, 0.00139]),
        ({"phi": "relu", "rule": "residual-family(0.5,0.75)"}, [0.5, 0.24442, 0.09605, 0.01896, 0.00098]),
        ({"phi": "erf", "beta": 0.75, "lr": 0.2, "y": [3.0, -3.0]}, [4.5, 3.2551, 1.8668, 0.3451, 0.0102]),
    ],
)
def test_losses_of_reference(given_, expected):
    # Theirs are printed to five digits, and were integrated with an error of up to 1e-5.
    places = 4 if "y" in given_ else 5
    np.testing.assert_allclose(losses(**given_), expected, atol=1.6 * 10.0**-places)


def test_completep_moves_the_features_inside_its_blocks():
    given_ = {"phi": "erf", "block_depth": 2, "rule": "completep", "particles": 1024, "kernels": False}
    found = solve(X, [3.0, -3.0], steps=3, lr=0.2, **given_)
    expected, error = np.array([3.2599, 1.8796, 0.3988]), np.array([0.0008, 0.0018, 0.0014])
    own = found.loss_se.values[1:4]
    assert (np.abs(found.loss.values[1:4] - expected) < 4 * np.hypot(error, own)).all()
    # The equation without moving features is many standard errors away.
    assert abs(found.loss.values[3] - 0.3451) > 10 * own[2]
    assert (own < 5e-3).all()


# --- particles at finite depths, extrapolated ------------------------------------------------------------------------
@pytest.mark.parametrize("mode", ["reused", "independent"])
def test_a_ladder_of_particles_reaches_the_kernel_equations(mode):
    given_ = {"phi": "erf", "steps": 3, "backward_weights": mode}
    given_ |= {"norm": "rms", "momentum": 0.3, "nesterov": True, "weight_decay": 0.2, "schedule": [1.0, 0.5, 1.0]}
    exact = losses(**given_)
    sampled = solve(X, Y, lr=0.4, block_depth=2, kernels=False, ladder=(4, 8, 16), particles=256, replicas=16, **given_)
    error = sampled.loss_se.values[1:]
    assert (np.abs(sampled.loss.values - exact)[1:] < 3 * error).all()
    assert (error < 4e-3).all()


def test_particles_under_completep_approach_the_mean_field_equation():
    given_ = {"phi": "erf", "steps": 2, "lr": 0.2, "block_depth": 2, "rule": "completep", "kernels": False}
    limit = solve(X, [3.0, -3.0], **given_, particles=512)
    by_depth = [solve(X, [3.0, -3.0], **given_, depth=depth, particles=256, replicas=16) for depth in (8, 16)]
    # c/L is gone; the next term, what is left of the first, is allowed for by its square.
    found = 2 * by_depth[1].loss - by_depth[0].loss
    apart = np.abs(by_depth[1].loss - by_depth[0].loss).values
    error = np.hypot(np.hypot(2 * by_depth[1].loss_se, by_depth[0].loss_se), limit.loss_se).values
    assert (np.abs(found - limit.loss).values[1:] < (3 * error + apart / 4)[1:]).all()


def test_three_layers_and_a_finite_depth_are_sampled():
    found = solve(X, Y, steps=1, depth=2, block_depth=3, particles=128, replicas=4, rule="depth-mup-corrected")
    assert found.attrs["depths"] == [2]
    assert found.attrs["block_depth"] == 3
    unstable = solve(X, Y, steps=0, depth=2, block_depth=2, particles=128, replicas=2, rule="depth-mup-corrected",
                     backward_weights="independent")  # fmt: skip
    assert "do not make depth-mup-corrected stable" in unstable.attrs["warning"]


@pytest.mark.parametrize(
    ("rule", "law"), [("depth-mup", "1/L"), ("residual-family(0.5,0.75)", "none"), ("depth-mup-corrected", "none")]
)
def test_returns_of_depth(rule, law):
    found = depth_returns(X, Y, (2, 4, 8), 2, 0.3, "erf", particles=128, replicas=6, block_depth=2, rule=rule)
    assert found.attrs["law"] == law
    np.testing.assert_allclose(found.gain[:-1], -found.loss.diff("depth"), atol=1e-12)
    assert np.isfinite(found.gain[-1]) == (law == "1/L")
    assert np.isfinite(found.limit) == (rule != "depth-mup-corrected")


# --- closed forms ----------------------------------------------------------------------------------------------------
@pytest.mark.parametrize(("mode", "factor"), [("reused", lambda t: 2 * (1 + t)), ("independent", lambda t: 2.0)])
@pytest.mark.parametrize("horizon", [0.5, 1.0])
def test_first_step_of_a_linear_branch(mode, factor, horizon):
    lr = 1e-6
    found = solve([[1.0]], [1.0], steps=1, lr=lr, phi="linear", horizon=horizon, block_depth=2, backward_weights=mode)
    change = float(found.prediction[1, 0])
    assert change / lr == pytest.approx(factor(horizon) * np.exp(horizon), rel=2e-5)


@given(
    st.lists(st.floats(0.2, 1.4), min_size=2, max_size=2),
    st.floats(-0.95, 0.95),
    st.sampled_from(["tanh", "gelu", "erf", "linear"]),
)
@settings(max_examples=25)
def test_kernels_are_expectations(stds, rho, phi):
    covariance = np.outer(stds, stds) * np.array([[1.0, rho], [rho, 1.0]])
    variance = np.diag(covariance)
    of = kernels_of(phi)(covariance, variance[None, :], variance[:, None])
    function, derivative = resolve(phi)
    # u_a = std_a z and u_b = std_b (rho z + sqrt(1 - rho^2) z') by Gauss-Hermite quadrature: exact to 1e-6.
    nodes, weights = np.polynomial.hermite_e.hermegauss(96)
    z, other = np.meshgrid(nodes, nodes, indexing="ij")
    u_a, u_b = torch.from_numpy(stds[0] * z), torch.from_numpy(stds[1] * (rho * z + (1 - rho**2) ** 0.5 * other))
    density = np.outer(weights, weights) / weights.sum() ** 2
    value = (density * (function(u_a) * function(u_b)).numpy()).sum()
    slope = (density * (derivative(u_a, function(u_a)) * derivative(u_b, function(u_b))).numpy()).sum()
    np.testing.assert_allclose(of.value[1, 0], value, atol=1e-6)
    np.testing.assert_allclose(of.slope[1, 0], slope, atol=1e-6)


@given(st.floats(0.3, 1.5), st.floats(0.3, 1.5), st.floats(-0.9, 0.9), st.sampled_from(["relu", "erf", "tanh"]))
@settings(max_examples=25)
@pytest.mark.parametrize("norm", [None, "rms"])
def test_kernels_derivatives(norm, std_a, std_b, rho, phi):
    kernels = kernels_of(phi, norm)
    cov, var_a, var_b = (np.full((1, 1), value) for value in (rho * std_a * std_b, std_a**2, std_b**2))
    of, e = kernels(cov, var_a, var_b), 1e-5

    def slope_of(name, first, second):
        return (getattr(second, name) - getattr(first, name)) / (2 * e)

    up, down = kernels(cov + e, var_a, var_b), kernels(cov - e, var_a, var_b)
    np.testing.assert_allclose(slope_of("value", down, up), of.slope, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(slope_of("slope", down, up), of.bend, rtol=1e-4, atol=1e-5)
    up, down = kernels(cov, var_a, var_b + e), kernels(cov, var_a, var_b - e)
    np.testing.assert_allclose(slope_of("value", down, up), of.value_b, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(slope_of("slope", down, up), of.slope_b, rtol=1e-4, atol=1e-5)


@given(st.integers(2, 12), st.lists(st.floats(-2, 2), min_size=1, max_size=4))
def test_integrals_of_polynomials_are_exact(points, coefficients):
    time, integral = chebyshev(points)
    polynomial = np.polynomial.Polynomial(coefficients[: points - 1])
    np.testing.assert_allclose(integral @ polynomial(time), polynomial.integ()(time), atol=1e-12)


@given(
    st.lists(st.floats(0, 0.5), min_size=1, max_size=5),
    st.floats(0, 0.9),
    st.floats(0, 1),
    st.integers(0, 2**32 - 1),
)
def test_what_steps_leave_is_what_sgd_does(rates, momentum, weight_decay, seed):
    path = path_of(np.array(rates), momentum, weight_decay)
    gradients = np.random.default_rng(seed).standard_normal(len(rates))
    weight, velocity = 1.0, 0.0
    for k, (rate, gradient) in enumerate(zip(rates, gradients, strict=True), start=1):
        velocity = momentum * velocity + gradient
        weight = (1 - rate * weight_decay) * weight - rate * velocity
        assert path.left[k] - path.omega[k, : len(rates)] @ gradients == pytest.approx(weight, abs=1e-12)


# --- what must not matter --------------------------------------------------------------------------------------------
def test_alpha_is_a_gauge():
    assert depth_rule(None, 0.5, 1.0) == depth_rule(None, 1.0, 1.0) == depth_rule("completep", 0.5, 0.5)
    np.testing.assert_array_equal(losses(phi="erf", alpha=0.2), losses(phi="erf", alpha=0.9))


@pytest.mark.parametrize("beta", [0.5, 0.7])
def test_a_second_output_without_an_error_changes_nothing(beta):
    alone = losses(phi="erf", beta=beta)
    beside = losses(phi="erf", beta=beta, y=np.stack([Y, [0.0, 0.0]], axis=1))
    np.testing.assert_allclose(beside, alone, atol=1e-7)


@pytest.mark.parametrize("beta", [0.5, 0.7])
def test_an_unseen_copy_of_a_sample_is_predicted_as_it_is(beta):
    found = solve(X, Y, steps=3, lr=0.3, phi="tanh", block_depth=2, beta=beta, x_test=X[1:])
    np.testing.assert_allclose(found.test_prediction[:, 0], found.prediction[:, 1], atol=1e-7)
    without = solve(X, Y, steps=3, lr=0.3, phi="tanh", block_depth=2, beta=beta)
    np.testing.assert_allclose(found.loss, without.loss, atol=1e-7)


@pytest.mark.parametrize("given_", [{"y": [0.0, 0.0]}, {"lr": 0.0}, {"steps": 0}])
def test_nothing_to_learn(given_):
    found = solve(X, **{"y": Y, "steps": 2, "lr": 0.3, "phi": "relu", "block_depth": 2, **given_})
    assert float(np.abs(found.prediction).max()) == 0
    assert float(found.displacement.max()) < 1e-12


def test_a_norm_forgets_the_size_of_the_stream():
    # The branch sees directions alone; the ends are frozen, and the kernel at the start is what the ends make it.
    one = solve(X, Y, steps=2, lr=0.3, phi="tanh", block_depth=2, norm="rms")
    other = solve(X, Y, steps=2, lr=0.3, phi="tanh", block_depth=2, norm="layer")
    np.testing.assert_array_equal(one.loss, other.loss)
    assert float(one.stream_kernel[0, -1, 0, 0]) != pytest.approx(float(one.stream_kernel[0, 0, 0, 0]))
    features = solve(2 * X, Y, steps=0, phi="tanh", block_depth=2, norm="rms").feature_kernel[0, 0]
    np.testing.assert_allclose(features, one.feature_kernel[0, 0], atol=1e-9)


def test_momentum_and_decay_change_training_and_a_schedule_is_a_rate():
    plain = losses(phi="erf")
    assert abs(losses(phi="erf", momentum=0.5)[2] - plain[2]) > 1e-3
    assert abs(losses(phi="erf", weight_decay=0.1)[2] - plain[2]) > 1e-3
    np.testing.assert_allclose(losses(phi="erf", lr=0.8, schedule=[0.5] * 4), plain, atol=1e-12)


# --- refusals --------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("given_", "says"),
    [
        ({"rule": "depth-mup-corrected"}, "no limit at a fixed learning rate"),
        ({"rule": "completp"}, "Nearest: completep"),
        ({"beta": 0.75, "ladder": (8, 16)}, "no ladder reaches the limit"),
        ({"beta": 0.3}, r"`beta` must be in \[1/2, 1\]"),
        ({"block_depth": 3}, "must be 1 or 2, got 3"),
        ({"clip": 1.0}, "`clip` is not solved for blocks of two layers at infinite depth"),
        ({"norm": "batch"}, "All: layer, rms"),
        ({"rule": "completep", "norm": "rms"}, "not derived for completep"),
        ({"rule": "completep", "backward_weights": "independent"}, "reused backward weights"),
        ({"momentum": 1.0}, r"`momentum` must be in \[0, 1\)"),
        ({"schedule": [1.0]}, "one factor for each of the 4 steps"),
        ({"phi": lambda z: z.abs()}, "kink"),
        ({"block_depth": 1, "beta": 0.75}, "for blocks of two layers"),
        ({"weight_decay": 2.5}, "their product must not be 1"),
        ({"nesterov": True}, "give `momentum`"),
        ({"rule": "completep", "particles": 1000}, "power of two"),
    ],
)
def test_what_has_no_solution_is_refused(given_, says):
    with pytest.raises(InvalidValueError, match=says):
        losses(**given_)


def test_a_divergence_is_recorded():
    found = solve(X, [30.0, -30.0], steps=6, lr=4.0, phi="linear", block_depth=2, kernels=False)
    assert found.attrs["diverged_step"] > 0
    assert np.isnan(found.loss.values[found.attrs["diverged_step"] :]).all()
    assert np.isfinite(found.loss.values[: found.attrs["diverged_step"]]).all()


def test_a_divergence_is_a_result_where_the_kernel_of_zeros_has_no_derivative():
    found = solve(X, Y, steps=4, lr=30.0, phi="relu", block_depth=2, beta=0.75)
    assert found.attrs["diverged_step"] > 0
    assert np.isnan(found.feature_kernel[-1]).all()


# --- the best learning rate ------------------------------------------------------------------------------------------
@pytest.mark.parametrize("blocks", [{"phi": "erf", "norm": "rms"}, {"phi": "relu"}])
def test_the_best_rate_is_better_than_its_neighbours(blocks):
    given_ = {"steps": 3, "block_depth": 2, **blocks}
    best = optimal_lr(X, Y, **given_)
    assert float(best.lr_low) < float(best.lr) < float(best.lr_high)
    # Located to 0.02 octaves: a step of 0.1 to either side is worse.
    beside = [float(best.lr) * 2.0**octaves for octaves in (-0.1, 0.1)]
    assert min(losses(**given_, lr=lr)[-1] for lr in beside) > float(best.loss)
    # Wherever the walk begins.
    other = optimal_lr(X, Y, **given_, start=float(best.lr) * 20)
    assert float(other.lr) == pytest.approx(float(best.lr), rel=0.02)


def test_a_sampled_optimum_shares_its_noise_and_knows_its_error():
    found = optimal_lr(X, Y, steps=2, depth=4, phi="tanh", tolerance=0.01)
    assert np.isfinite(found.loss_tried_se.values[np.isfinite(found.loss_tried.values)]).all()
    assert float(found.lr_low) < float(found.lr) < float(found.lr_high)
    assert found.attrs["particles"] >= 512


@pytest.mark.parametrize(
    ("given_", "says"),
    [({"y": [0.0, 0.0]}, "all zero"), ({"lr": 0.1}, "no option of a search"), ({"start": 0}, "`start` must be > 0")],
)
def test_no_best_rate(given_, says):
    with pytest.raises(InvalidValueError, match=says):
        optimal_lr(X, **{"y": Y, "steps": 2, "block_depth": 2, "phi": "erf", **given_})


@pytest.mark.parametrize(
    "options",
    [{"beta": 0.5, "steps": 10**5}, {"beta": 0.75, "steps": 10**5}, {"beta": 1.0, "particles": 2**40}],
)
def test_what_does_not_fit_is_said_before_it_is_allocated(options: dict) -> None:
    with pytest.raises(InvalidValueError, match="GiB and the machine has"):
        solve([[1.0, 0.0], [0.0, 1.0]], [1.0, -1.0], block_depth=2, **options)
