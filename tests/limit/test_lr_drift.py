"""The best learning rates of finite sizes, against one another and against that of infinite size."""

import math

import numpy as np
import pytest

from isoscale.errors import InvalidValueError
from isoscale.limit import lr_drift, optimal_lr
from isoscale.limit.lr_drift import _best

X = np.sqrt(2) * np.array([[1.0, 0.0], [0.5, 0.75**0.5]])
Y = [1.0, -1.0]
GIVEN = {"steps": 1, "phi": "erf", "block_depth": 2, "norm": "rms"}


def test_drifts_are_from_the_optimum_of_the_kernel_equations():
    best = optimal_lr(X, Y, **GIVEN)
    found = lr_drift(X, Y, (2, 4, 8), (16,), particles=64, replicas=6, networks=6, middle=float(best.lr), **GIVEN)
    own = (found.drift_high - found.drift_low).values.max() / 2
    assert own < 0.4
    assert abs(math.log2(found.limit_lr / best.lr)) < own + 0.04
    np.testing.assert_allclose(found.drift, np.log2(found.lr / found.limit_lr), atol=1e-9)
    np.testing.assert_allclose(found.drift_of_size, found.drift_of_width + found.drift[0], atol=1e-9)
    np.testing.assert_allclose(2.0**found.drift_of_size, found.lr_of_width / found.limit_lr, rtol=1e-9)
    assert np.isnan(found.exponent.sel(law="width"))  # one width is no law


@pytest.mark.parametrize(
    ("losses", "expected"),
    [
        ([4.0, 1.0, 0.0, 1.0, 4.0], 0.0),
        ([9.0, 4.0, 1.0, 0.0, 1.0], 1.0),
        # The noise beyond a divergence is no optimum, nor is anything beyond what was tried.
        ([4.0, 1.0, 0.0, 1.0, -7.0], 0.0),
        ([4.0, 1.0, 2.0, math.inf, -7.0], -0.75),
        ([4.0, 1.0, math.nan, math.inf, math.inf], math.nan),
        ([4.0, 3.0, 2.0, 1.0, 0.0], math.nan),
    ],
)
def test_the_best_rate_is_downhill_from_the_middle(losses, expected):
    octaves = np.arange(-2.0, 3.0)
    assert _best(octaves, np.array(losses)) == pytest.approx(expected, nan_ok=True)


@pytest.mark.parametrize(
    ("given_", "says"),
    [
        ({"lr": 0.1}, "`lr` is no option"),
        ({"block_depth": 2, "rule": "residual-family(0.5,0.75)"}, "depth-mup or completep"),
        ({"networks": 2}, "`networks` must be >= 3"),
        ({"depths": (4, 8)}, "three or more depths"),
    ],
)
def test_bad_input_is_said(given_, says):
    with pytest.raises(InvalidValueError, match=says):
        lr_drift(X, Y, **{"middle": 0.3, "steps": 1, **given_})
