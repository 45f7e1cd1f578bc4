"""The one solver of least squares against numpy's and scipy's, and the summaries over seeds."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from isoscale.errors import InvalidValueError
from isoscale.stats.least_squares import least_squares, t_quantile
from isoscale.stats.summary import mean_and_se, seed_mean, standard_error


def noisy(seed, points=9, degree=2):
    rng = np.random.default_rng(seed)
    x = np.sort(rng.uniform(-2, 2, points))
    y = np.polyval(rng.standard_normal(degree + 1), x) + 0.3 * rng.standard_normal(points)
    return x, y, rng.uniform(0.1, 3, points)


@given(st.integers(0, 2**16), st.integers(1, 3), st.booleans())
def test_coefficients_and_covariance_are_those_of_polyfit(seed, degree, weighed):
    x, y, weights = noisy(seed, degree=degree)
    # polyfit weighs the residuals, not their squares.
    expected, covariance = np.polyfit(x, y, degree, w=np.sqrt(weights) if weighed else None, cov=True)
    fit = least_squares(np.vander(x, degree + 1), y, weights if weighed else None)
    np.testing.assert_allclose(fit.coefficients, expected, rtol=1e-8, atol=1e-10)
    np.testing.assert_allclose(fit.variance * fit.unit_covariance, covariance, rtol=1e-8, atol=1e-10)
    assert fit.freedom == len(x) - degree - 1


def test_a_line_is_that_of_scipy():
    x, y, _ = noisy(0, degree=1)
    fit, line = least_squares(np.vander(x, 2), y), stats.linregress(x, y)
    assert fit.coefficients[0] == pytest.approx(line.slope)
    assert fit.se(0) == pytest.approx(line.stderr)
    assert fit.half_width(0, 0.9) == pytest.approx(stats.t.ppf(0.95, len(x) - 2) * line.stderr)


@given(st.floats(1e-100, 1e100))
def test_weights_have_no_scale(scale):
    x, y, weights = noisy(1)
    one, other = (least_squares(np.vander(x, 3), y, w) for w in (weights, weights * scale))
    np.testing.assert_allclose(one.coefficients, other.coefficients, rtol=1e-9)
    np.testing.assert_allclose(one.se(0), other.se(0), rtol=1e-9)


def test_fits_side_by_side_are_the_fits_of_each():
    x, _, weights = noisy(2)
    y = np.random.default_rng(2).standard_normal((len(x), 4))
    together = least_squares(np.vander(x, 3), y, weights)
    for column in range(4):
        alone = least_squares(np.vander(x, 3), y[:, column], weights)
        np.testing.assert_allclose(together.coefficients[:, column], alone.coefficients, rtol=1e-12)
        np.testing.assert_allclose(together.variance[column], alone.variance, rtol=1e-12)


def test_intercepts_that_were_taken_off_count_as_fitted():
    """Means taken off each group's x and y leave the fit with one intercept for each group."""
    x, y, _ = noisy(3)
    group = np.repeat([0, 1, 2], 3)
    dummies = np.eye(3)[group]
    explicit = least_squares(np.column_stack([x, dummies]), y)
    means = dummies / dummies.sum(0) @ dummies.T
    absorbed = least_squares((x - means @ x)[:, None], y - means @ y, absorbed=3)
    assert absorbed.freedom == explicit.freedom == 5
    assert absorbed.coefficients[0] == pytest.approx(explicit.coefficients[0])
    assert absorbed.se(0) == pytest.approx(explicit.se(0))


@pytest.mark.parametrize("x", [[1.0], [2.0, 2.0, 2.0], [0.0, 0.0]])
def test_points_that_determine_too_little_are_refused(x):
    with pytest.raises(InvalidValueError, match="do not determine 2 coefficients"):
        least_squares(np.vander(np.array(x), 2), np.ones(len(x)))


def test_without_points_to_spare_there_is_no_error():
    fit = least_squares(np.vander(np.array([1.0, 2.0]), 2), np.array([3.0, 5.0]))
    np.testing.assert_allclose(fit.coefficients, [2.0, 1.0])
    assert fit.freedom == 0
    assert math.isnan(fit.se(0))
    assert math.isnan(t_quantile(0))


# --- summaries ------------------------------------------------------------------------------------------------------
def test_the_standard_error_is_that_of_scipy():
    values = np.random.default_rng(0).standard_normal((3, 5, 2))
    for axis in range(3):
        mean, error = mean_and_se(values, axis)
        np.testing.assert_allclose(mean, values.mean(axis))
        np.testing.assert_allclose(error, stats.sem(values, axis))


def test_what_has_no_standard_error():
    for seeds in (0, 1):
        error = standard_error(np.ones((seeds, 3)))
        np.testing.assert_array_equal(error, [np.nan] * 3)
    mean, error = mean_and_se(np.array([[1e200, 1.0, np.inf], [-1e200, 3.0, 1.0]]))
    np.testing.assert_array_equal(mean, [0.0, 2.0, np.inf])
    np.testing.assert_array_equal(error, [np.nan, 1.0, np.nan])


def test_a_mean_needs_more_than_half_of_the_seeds():
    losses = np.array([[1.0, 3.0, np.nan], [1.0, np.nan, np.inf], [np.nan] * 3])
    np.testing.assert_array_equal(seed_mean(losses), [2.0, np.nan, np.nan])
    np.testing.assert_array_equal(seed_mean(losses[:, :2]), [2.0, np.nan, np.nan])
