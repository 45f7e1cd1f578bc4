"""The synthetic classes: as hard as asked, the same for the same seed."""

import math

import numpy as np
import pytest

from isoscale.data import load
from isoscale.data.synthetic import separation
from isoscale.errors import InvalidTypeError, InvalidValueError


@pytest.mark.parametrize("accuracy", [0.6, 0.9, 0.99])
@pytest.mark.parametrize("label_noise", [0.0, 0.2])
def test_the_best_classifier_reaches_the_accuracy(accuracy, label_noise):
    """The nearest of the class means, which many training samples give without the frame that drew them."""
    data = load("synthetic", accuracy=accuracy, label_noise=label_noise, classes=5, size=4, train=50_000, test=10_000)
    x, y = data.train_x.flatten(1).numpy(), data.train_y.numpy()
    means = np.stack([x[y == k].mean(0) for k in range(5)])
    test = data.test_x.flatten(1).numpy()
    predicted = (test @ means.T - (means**2).sum(1) / 2).argmax(1)
    reachable = accuracy * (1 - label_noise) + label_noise / 5
    error = math.sqrt(reachable * (1 - reachable) / 10_000)
    # The means of 10,000 samples are off by 1/100 a pixel: a loss of accuracy far below one standard error.
    assert abs((predicted == data.test_y.numpy()).mean() - reachable) < 4 * error
    assert data.note.endswith(f"the best accuracy there is: {reachable:.4g}")


def test_two_classes_have_a_closed_form():
    assert math.isclose(separation(0.9, 2), 1.2815515655446004 * math.sqrt(2), rel_tol=1e-9)


def test_same_seed_same_data_and_standardised():
    first, again, other = (load("synthetic", channels=3, seed=seed) for seed in (0, 0, 1))
    assert first.fingerprint == again.fingerprint != other.fingerprint
    assert first.train_y.bincount().tolist() == [200] * 10
    x = first.train_x.double()
    assert x.mean((0, 2, 3)).abs().max() < 1e-6
    assert (x.std((0, 2, 3), correction=0) - 1).abs().max() < 1e-6


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"accuracy": 0.1}, "`accuracy` must be between chance, 1/10, and 1, got 0.1"),
        ({"accuracy": 1.0}, "`accuracy` must be"),
        ({"label_noise": 1.5}, r"`label_noise` must be in \[0, 1\], got 1.5"),
        ({"classes": 1}, "`classes` must be >= 2, got 1"),
        ({"classes": 65}, "`classes` must be at most the 64 pixels of a sample, got 65"),
        ({"train": 0}, "`train` must be >= 1, got 0"),
        ({"seed": -1}, "`seed` must be >= 0, got -1"),
    ],
)
def test_bad_values_are_named(options, message):
    with pytest.raises(InvalidValueError, match=message):
        load("synthetic", **options)


def test_a_count_that_is_none_is_named():
    with pytest.raises(InvalidTypeError, match=r"`size` must be a whole number, got 4\.0"):
        load("synthetic", size=4.0)
