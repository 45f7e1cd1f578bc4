"""Optima, drifts, regrets and power laws against curves whose answer is known."""

import math

import numpy as np
import pytest
import xarray as xr
from hypothesis import given
from hypothesis import strategies as st

from fuzzing import cases
from isoscale import stats as laws
from isoscale.errors import InvalidTypeError, InvalidValueError

LRS = 2.0 ** np.arange(-8, 3)


def curves(optimum, *, seeds=3, cliff=math.inf, scale=0.1, floor=0.3, noise=0.0, lrs=LRS, rng_seed=0):
    """Quadratic bowls in log2(lr) with their vertex at `optimum`, NaN from `cliff` on."""
    rng = np.random.default_rng(rng_seed)
    loss = (
        floor + scale * (np.log2(lrs)[:, None] - np.log2(optimum)) ** 2 + noise * rng.standard_normal((len(lrs), seeds))
    )
    loss[lrs >= cliff] = np.nan
    return xr.DataArray(loss, {"lr": lrs, "seed": np.arange(seeds)}, dims=("lr", "seed"))


def by_depth(*optima, **options):
    depths = [4 * 2**k for k in range(len(optima))]
    return xr.concat([curves(o, **options) for o in optima], dim=xr.IndexVariable("depth", depths))


# --- optimal learning rate ------------------------------------------------------------------------------------------
@given(st.floats(-6.9, 0.9), st.floats(0.01, 3))
def test_vertex_of_a_parabola_of_log_loss_is_exact(log2_optimum, scale):
    found = laws.optimal_lr(np.exp(curves(2.0**log2_optimum, scale=scale, floor=0.0)))
    assert float(np.log2(found.lr)) == pytest.approx(log2_optimum, abs=1e-6)
    # What was interpolated is never below the least loss that was measured.
    assert 1.0 <= float(found.loss) <= math.exp(0.25 * scale) * (1 + 1e-9)
    assert found.at_edge.item() == ""


@given(st.floats(-6.9, 0.9), st.floats(0.001, 0.3))
def test_vertex_of_a_parabola_of_loss_is_near(log2_optimum, scale):
    found = laws.optimal_lr(curves(2.0**log2_optimum, scale=scale))
    assert float(np.log2(found.lr)) == pytest.approx(log2_optimum, abs=0.1)


def test_interval_covers_the_vertex_as_often_as_it_says():
    """Over 100 noisy experiments with 8 seeds the interval covers 95 %, within 4 standard errors."""
    covered = []
    for experiment in range(100):
        found = laws.optimal_lr(curves(0.3, seeds=8, noise=0.02, rng_seed=experiment))
        covered.append(float(found.lr_low) <= 0.3 <= float(found.lr_high))
    # 4 standard errors of a 95 % proportion over 100 experiments are 0.088.
    assert 0.95 - 0.088 <= np.mean(covered) <= 1.0


@pytest.mark.parametrize(("optimum", "edge", "bound"), [(2.0**-12, "low", LRS[0]), (2.0**9, "high", LRS[-1])])
def test_an_optimum_at_the_grids_edge_is_a_bound(optimum, edge, bound):
    found = laws.optimal_lr(curves(optimum))
    assert found.at_edge.item() == edge
    assert float(found.lr) == bound
    assert math.isnan(float(found[{"low": "lr_low", "high": "lr_high"}[edge]]))


def test_the_optimum_is_not_extrapolated_towards_a_cliff():
    found = laws.optimal_lr(curves(2.0, cliff=0.25))
    assert float(found.lr) == 0.125
    assert found.at_edge.item() == ""
    assert float(found.lr_high) == 0.25, "the cliff lies somewhere before the first diverged rate"


def test_everything_diverged():
    found = laws.optimal_lr(curves(0.1, cliff=0.0))
    assert found.at_edge.item() == "none"
    assert all(math.isnan(float(found[name])) for name in ("lr", "lr_low", "lr_high", "loss", "loss_se"))


def test_a_seed_that_diverges_at_the_optimum_moves_only_its_own():
    loss = curves(0.25, seeds=4)
    loss.loc[{"lr": LRS[LRS >= 0.25], "seed": 0}] = np.nan
    found = laws.Optima(loss)
    # Three seeds at -2, one whose cliff lies between -3 and -2.
    assert -2.5 <= float(np.log2(found.best().lr)) < -2
    assert float(found.best().lr_low) < 0.25


def test_other_dimensions_come_back():
    loss = xr.concat([by_depth(0.5, 0.25), by_depth(0.5, 0.5)], dim=xr.IndexVariable("rule", ["a", "b"]))
    found = laws.optimal_lr(loss)
    assert found.lr.dims == ("rule", "depth")
    np.testing.assert_allclose(found.lr, [[0.5, 0.25], [0.5, 0.5]])


@pytest.mark.parametrize("rates", [1, 2])
def test_tiny_grids(rates):
    found = laws.optimal_lr(curves(0.1, lrs=LRS[:rates], seeds=1))
    assert float(found.lr) in LRS[:rates]
    assert math.isnan(float(found.loss_se))


# --- the order of what comes in ---
@st.composite
def sweeps(draw):
    """A noisy sweep over depths, learning rates and seeds, some runs diverged, and the same in another order."""
    rates, seeds = draw(st.integers(1, 7)), draw(st.integers(1, 6))
    rng = np.random.default_rng(draw(st.integers(0, 2**16)))
    loss = by_depth(2.0**-6, 2.0**-4, seeds=seeds, noise=0.1, lrs=LRS[:rates], rng_seed=rng)
    loss = loss.where(rng.random(loss.shape) > draw(st.sampled_from([0.0, 0.3])))
    order = {"lr": draw(st.permutations(range(rates))), "seed": draw(st.permutations(range(seeds)))}
    dims = draw(st.permutations(loss.dims))
    return loss, loss.isel(order).transpose(*dims)


@cases(15)
@given(sweeps())
def test_the_order_of_learning_rates_seeds_and_dimensions_changes_nothing(both):
    ordered, shuffled = (laws.Optima(loss, seed=1) for loss in both)
    for found, again in (
        (ordered.best(), shuffled.best()),
        (ordered.drift("depth", 4), shuffled.drift("depth", 4)),
        (ordered.regret("depth", 4), shuffled.regret("depth", 4)),
    ):
        assert again.identical(found)


def test_two_grids_joined_are_one_grid():
    loss = by_depth(0.11, 0.03, noise=0.01)
    halves = [loss.isel(lr=slice(start, None, 2)) for start in (1, 0)]
    joined = xr.concat(halves, "lr")
    assert laws.regret(joined, "depth", 4).identical(laws.regret(loss, "depth", 4))


@pytest.mark.parametrize(
    ("changed", "named"),
    [
        (0.0, r"`lr` of `loss` must be positive and finite, got \[0.0\]"),
        (-0.5, r"positive and finite, got \[-0.5\]"),
        (math.nan, r"positive and finite, got \[nan\]"),
        (math.inf, r"positive and finite, got \[inf\]"),
        (LRS[1], r"`lr` of `loss` must be distinct, got \[0.0078125\]"),
        (LRS[1] * (1 + 1e-15), r"must be distinct, got \[0.00781"),
    ],
)
@pytest.mark.parametrize(
    "ask",
    [
        laws.optimal_lr,
        laws.Optima,
        lambda loss: laws.drift(loss, "depth", 4),
        lambda loss: laws.regret(loss, "depth", 4),
    ],
)
def test_learning_rates_that_are_none_are_named(ask, changed, named):
    loss = by_depth(0.1, 0.1)
    loss = loss.assign_coords(lr=[*LRS[:-1], changed])
    with pytest.raises(InvalidValueError, match=named):
        ask(loss)


def test_axes_without_numbers_are_named():
    loss = curves(0.5)
    with pytest.raises(InvalidValueError, match="`lr` of `loss` must be positive"):
        laws.optimal_lr(loss.drop_vars("lr"))
    with pytest.raises(InvalidTypeError, match=r"must hold numbers, got \['a'"):
        laws.optimal_lr(loss.assign_coords(lr=list("abcdefghijk")))
    with pytest.raises(InvalidValueError, match="empty along 'seed'"):
        laws.optimal_lr(loss.isel(seed=[]))


def test_one_set_of_optima_answers_as_the_three_functions_do():
    loss = by_depth(0.5, 0.25, 0.0625, seeds=6, noise=0.05)
    optima = laws.Optima(loss, seed=3)
    assert optima.best().identical(laws.optimal_lr(loss, seed=3))
    assert optima.drift("depth", 8).identical(laws.drift(loss, "depth", 8, seed=3))
    assert optima.regret("depth", 8).identical(laws.regret(loss, "depth", 8, seed=3))


# --- drift and regret -----------------------------------------------------------------------------------------------
def test_drift_is_the_shift_in_octaves():
    found = laws.drift(by_depth(0.5, 0.25, 0.0625), "depth", 4)
    np.testing.assert_allclose(found.drift, [0, -1, -3], atol=1e-9)
    np.testing.assert_allclose(found.drift_low, found.drift, atol=1e-9)
    from_the_middle = laws.drift(by_depth(0.5, 0.25, 0.0625), "depth", 8)
    np.testing.assert_allclose(from_the_middle.drift, [1, 0, -2], atol=1e-9)


def test_regret_is_the_bowls_height():
    found = laws.regret(by_depth(0.5, 0.25, 0.0625, scale=0.1), "depth", 4)
    np.testing.assert_allclose(found.regret, [0, 0.1, 0.9], atol=1e-9)


def test_regret_where_the_transferred_rate_diverges():
    loss = by_depth(0.5, 0.5)
    loss.loc[{"depth": 8, "lr": LRS[LRS >= 0.5]}] = np.nan
    found = laws.regret(loss, "depth", 4)
    assert math.isinf(float(found.regret.sel(depth=8)))
    loss.loc[{"depth": 8}] = np.nan
    assert math.isnan(float(laws.regret(loss, "depth", 4).regret.sel(depth=8)))


def test_drift_intervals_are_paired_over_seeds():
    """Seeds shift every depth's optimum alike, so the drift is known far better than either optimum."""
    shifts = np.array([-0.4, 0.0, 0.4])
    x = np.log2(LRS)[:, None]
    loss = np.stack([0.1 * (x - shift) ** 2 for shift in shifts], axis=-1)[:, 0]
    both = xr.DataArray(
        np.stack([loss, np.roll(loss, -1, axis=0)]),
        {"depth": [4, 8], "lr": LRS, "seed": [0, 1, 2]},
        dims=("depth", "lr", "seed"),
    ).isel(lr=slice(0, -1))
    drift = laws.drift(both, "depth", 4).sel(depth=8)
    optimum = laws.optimal_lr(both).sel(depth=8)
    assert float(drift.drift_high - drift.drift_low) < 1e-6
    assert float(np.log2(optimum.lr_high / optimum.lr_low)) > 0.5


def test_unknown_base_and_missing_dimension():
    with pytest.raises(InvalidValueError, match=r"`base` depth 5 .* \[4, 8\]"):
        laws.drift(by_depth(0.5, 0.5), "depth", 5)
    with pytest.raises(InvalidValueError, match="'seed'"):
        laws.optimal_lr(curves(0.5).mean("seed"))
    with pytest.raises(InvalidValueError, match=r"`axis` must be a size of the sweep, \['depth'\], got 'lr'"):
        laws.drift(by_depth(0.5, 0.5), "lr", 4)
    twice = xr.concat([by_depth(0.5, 0.5)] * 2, "depth")
    with pytest.raises(InvalidValueError, match="`base` depth 4 is more than once in the sweep"):
        laws.regret(twice, "depth", 4)


# --- power laws -----------------------------------------------------------------------------------------------------
@given(st.floats(-3, 3), st.floats(0.01, 100), st.integers(2, 8))
def test_exact_laws_are_found(exponent, coefficient, points):
    x = 2.0 ** np.arange(points)
    law = laws.fit_power_law(x, coefficient * x**exponent)
    assert law.exponent == pytest.approx(exponent, abs=1e-9)
    assert law.coefficient == pytest.approx(coefficient, rel=1e-9)
    assert law.points == points
    assert law(8.0) == pytest.approx(coefficient * 8.0**exponent)


def test_against_scipy():
    from scipy import stats

    rng = np.random.default_rng(0)
    x = np.arange(3.0, 12)
    y = 2 * x**-1.5 * np.exp(0.1 * rng.standard_normal(len(x)))
    law, reference = laws.fit_power_law(x, y), stats.linregress(np.log(x), np.log(y))
    assert law.exponent == pytest.approx(reference.slope)
    assert law.r2 == pytest.approx(reference.rvalue**2)
    half = stats.t.ppf(0.975, len(x) - 2) * reference.stderr
    assert (law.exponent_low, law.exponent_high) == pytest.approx((reference.slope - half, reference.slope + half))


def test_interval_covers_the_exponent_as_often_as_it_says():
    rng = np.random.default_rng(1)
    x = np.arange(3.0, 12)
    experiments = 1000
    covered = 0
    for _ in range(experiments):
        law = laws.fit_power_law(x, x**-1.5 * np.exp(0.1 * rng.standard_normal(len(x))))
        covered += law.exponent_low <= -1.5 <= law.exponent_high
    assert abs(covered / experiments - 0.95) < 4 * math.sqrt(0.95 * 0.05 / experiments)


def test_weights_trust_the_precise_points():
    x, y = np.array([1.0, 2, 4, 8]), np.array([1.0, 0.5, 0.25, 1.0])
    law = laws.fit_power_law(x, y, y_se=[1e-4, 1e-4, 1e-4, 1.0])
    assert law.exponent == pytest.approx(-1.0, abs=1e-3)


def test_curvature_is_weighed_too():
    x, y = [1.0, 2, 4, 8], [1.0, 0.5, 0.125, 8.0]
    assert laws.fit_curvature(x, y, y_se=[1e-6, 1e-6, 1e-6, 10.0]).per_octave == pytest.approx(-1.0, abs=1e-6)


positive = st.floats(1e-300, 1e300)


@given(st.lists(st.tuples(positive, positive, positive), min_size=2, max_size=6), st.booleans())
def test_an_exponent_is_a_number_or_refused(points, weighed):
    x, y, y_se = (list(column) for column in zip(*points, strict=True))
    # Two x with different logarithms are enough, unless the weights leave only one.
    few = len({math.log(one) for one in x}) < 2
    try:
        exponent = laws.fit_power_law(x, y, y_se if weighed else None).exponent
    except InvalidValueError as error:
        exponent, few = None, few or (weighed and "`y_se`" in str(error))
    assert few if exponent is None else math.isfinite(exponent)


def test_weights_of_any_range_keep_the_digits():
    law = laws.fit_power_law([1e6, 2e6, 4e6], [3e-9, 6e-9, 12e-9], y_se=[1e-9, 1e-30, 1e-9])
    assert law.exponent == pytest.approx(1.0, rel=1e-12)
    assert law.coefficient == pytest.approx(3e-15, rel=1e-9)


def test_what_is_constant_has_no_r2():
    assert math.isnan(laws.fit_power_law([1, 2, 5], [0.7] * 3).r2)


@pytest.mark.parametrize(
    ("y_se", "named"),
    [
        ([0.1, 0.1], "`y_se` must hold an error for each of 3 points"),
        ([0.1, 0.1, 0.0], "`y_se` of a power law must be positive"),
        ([0.1, 0.1, math.nan], "`y_se` of a power law must be positive"),
        ([1e-300, 1e300, 1e300], "`y_se` leaves weight to fewer than 2"),
    ],
)
def test_errors_that_weigh_nothing_are_named(y_se, named):
    with pytest.raises(InvalidValueError, match=named):
        laws.fit_power_law([1, 2, 3], [1, 2, 3], y_se)


@pytest.mark.parametrize(
    ("x", "y"),
    [
        ([1, 2], [1.0, -1.0]),
        ([1, 1], [1.0, 2.0]),
        ([1], [1.0]),
        ([0, 1], [1, 2]),
        ([1, 2], [1, math.nan]),
        ([1, 2], np.ma.masked_array([1.0, 2.0], [0, 1])),
    ],
)
def test_what_has_no_power_law(x, y):
    with pytest.raises(InvalidValueError, match="power law"):
        laws.fit_power_law(x, y)


# --- diminishing returns --------------------------------------------------------------------------------------------
@given(st.floats(-2, 2), st.floats(0.1, 5))
def test_an_exact_inverse_law_is_found(limit, coefficient):
    depths = [4, 8, 16, 32]
    found = laws.diminishing_returns({d: limit + coefficient / d for d in depths}, loss_se=[1e-9] * 4)
    assert float(found.limit) == pytest.approx(limit, abs=1e-9)
    np.testing.assert_allclose(found.gain, [coefficient / (2 * d) for d in depths], rtol=1e-6)
    np.testing.assert_allclose(found.share, [1 / 2, 1 / 4, 1 / 8, 1 / 16], rtol=1e-6)


@pytest.mark.parametrize("known", [True, False])
def test_interval_of_the_returns_covers_the_truth(known):
    rng = np.random.default_rng(2)
    depths, se, experiments = np.array([4, 8, 16, 32]), 0.003, 200
    covered = 0
    for _ in range(experiments):
        losses = 1 + 0.5 / depths + se * rng.standard_normal(4)
        losses = dict(zip(depths.tolist(), losses, strict=True))
        found = laws.diminishing_returns(losses, 1.0 if known else None, loss_se=[se] * 4)
        covered += float(found.coefficient_low) <= 0.5 <= float(found.coefficient_high)
    assert abs(covered / experiments - 0.95) < 4 * math.sqrt(0.95 * 0.05 / experiments)


def test_scatter_and_seeds_give_intervals_too():
    rng = np.random.default_rng(3)
    losses = 1 + 0.5 / np.array([4, 8, 16])[:, None] + 0.01 * rng.standard_normal((3, 6))
    by_seed = xr.DataArray(losses, {"depth": [4, 8, 16]}, dims=("depth", "seed"))
    for found in (laws.diminishing_returns(by_seed), laws.diminishing_returns(by_seed.mean("seed"))):
        assert float(found.limit_low) < float(found.limit) < float(found.limit_high)


@pytest.mark.parametrize("losses", [{4: 1.0}, {4: 1.0, 8: 0.9}, {4: 1.0, 8: math.nan, 16: 0.8}])
def test_too_few_or_diverged_depths_are_named(losses):
    with pytest.raises(InvalidValueError, match="`loss_at_depths`"):
        laws.diminishing_returns(losses)


@pytest.mark.parametrize("depth", [0, -4, math.nan])
def test_depths_that_are_none_are_named(depth):
    with pytest.raises(InvalidValueError, match="`depth` of `loss_at_depths` must be positive"):
        laws.diminishing_returns({depth: 2.0, 8: 1.1, 16: 1.0})


@given(st.permutations(range(4)))
def test_the_order_of_the_depths_changes_nothing(order):
    depths, losses, errors = [4, 8, 16, 32], [1.12, 1.07, 1.03, 1.01], [0.01, 0.02, 0.04, 0.08]
    expected = laws.diminishing_returns(dict(zip(depths, losses, strict=True)), loss_se=errors)
    shuffled = {depths[i]: losses[i] for i in order}
    assert laws.diminishing_returns(shuffled, loss_se=[errors[i] for i in order]).identical(expected)


@pytest.mark.parametrize(
    "options",
    [{"limit": math.nan}, {"limit": 1.0, "limit_se": -1.0}, {"loss_se": [0.1, 0.1]}, {"loss_se": [0.1, 0.1, -1.0]}],
    ids=str,
)
def test_errors_and_limits_that_are_none_are_named(options):
    with pytest.raises(InvalidValueError, match=f"`{list(options)[-1]}`"):
        laws.diminishing_returns({4: 1.2, 8: 1.1, 16: 1.0}, **options)
