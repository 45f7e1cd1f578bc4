"""Predictions from laws that hold exactly, verdicts, curvature."""

from __future__ import annotations

import math

import numpy as np
import pytest

from isoscale import stats as laws
from isoscale.errors import InvalidValueError
from isoscale.runs import Sweep
from isoscale.studies.depth_law import fits, preset
from isoscale.studies.depth_law.published import published, verdict

DEPTHS = np.array([3.0, 4.0, 5.0, 7.0, 9.0, 10.0, 11.0, 13.0])


def test_an_exact_law_predicts_the_deepest_exactly():
    rows = fits.out_of_sample({"blocks": DEPTHS, "effective": DEPTHS + 2}, 0.3 * (DEPTHS + 2) ** -1.2)
    error = {(row["measure"], row["law"]): row["octaves"] for row in rows}
    assert error["effective", "fitted"] == pytest.approx(0, abs=1e-12)
    assert abs(error["blocks", "fitted"]) > 0.01
    # The constant of slope -1.5 is fitted at the mean of the logs, from where the slopes part.
    away = math.log2(15) - np.log2(DEPTHS[:-1] + 2).mean()
    assert error["effective", "claimed"] == pytest.approx((-1.5 + 1.2) * away)


def test_segments_are_those_whose_depths_are_there():
    rows = fits.segments(DEPTHS, {"blocks": DEPTHS}, 0.5 * DEPTHS**-1.5)
    assert [(row["segment"], row["depths"]) for row in rows[::2]] == [("3,4 to 5-9", 3), ("10,11 to 12-16", 1)]
    assert all(row["worst"] == pytest.approx(0, abs=1e-12) for row in rows)
    assert fits.segments(DEPTHS[1:], {"blocks": DEPTHS[1:]}, DEPTHS[1:] ** -1.0)[0]["segment"] == "10,11 to 12-16"


def test_too_few_points_give_no_law():
    assert math.isnan(fits.law_of([], [])["exponent"])
    assert math.isnan(fits.law_of([3.0, 4.0], [1.0, 0.5])["curvature"])
    with pytest.raises(InvalidValueError, match="three"):
        fits.check_depths([3, 4])


def test_a_law_is_weighed_by_the_errors_of_its_points():
    lrs = np.array([1.0, 0.5, 0.25, 1.0])
    law = fits.law_of([1.0, 2.0, 4.0, 8.0], lrs, [1e-6, 1e-6, 1e-6, 1.0])
    assert law["exponent"] == pytest.approx(-1, abs=1e-6)
    assert law["curvature"] == pytest.approx(0, abs=1e-6)
    assert fits.law_of([1.0, 2.0, 4.0, 8.0], lrs)["exponent"] > -0.5


def test_curvature_is_the_change_of_the_exponent_per_octave():
    x = np.array([1.0, 2.0, 4.0, 8.0, 16.0])
    bent = laws.fit_curvature(x, 2 ** (-np.log2(x) - 0.25 * np.log2(x) ** 2))
    assert bent.per_octave == pytest.approx(-0.5)
    assert bent.bent
    noise = 2 ** np.random.default_rng(0).normal(0, 0.1, (400, 5))
    found = [laws.fit_curvature(x, x**-1.5 * row) for row in noise]
    covered = np.mean([not curvature.bent for curvature in found])
    # 95 % of 400 at four standard errors.
    assert covered == pytest.approx(0.95, abs=4 * math.sqrt(0.95 * 0.05 / 400))
    assert math.isnan(laws.fit_curvature(x[:3], x[:3]).low)
    with pytest.raises(InvalidValueError, match="three different"):
        laws.fit_curvature([1, 2], [1, 2])


@pytest.mark.parametrize(
    ("interval", "words"),
    [
        ((-1.6, -1.45), "agrees"),
        ((-1.4, -1.2), "shallower"),
        ((-2.0, -1.6), "steeper"),
        ((-2.2, -1.1), "cannot tell"),
        ((math.nan, math.nan), "no verdict"),
    ],
)
def test_verdicts(interval, words):
    low, high = interval
    assert verdict(low, high, (-1.5, -1.5)) == words


def test_published_slopes_follow_the_network_and_the_optimizer():
    networks = preset("cpu")
    found = {name: published(spec) for name, spec in networks.items()}
    assert found["cnn relu zero"][:2] == (-1.39, -1.34)
    assert found["resnet pre he/sqrt(K)"][:2] == (-1.57, -1.36)
    assert found["resnet post he batchnorm"][:2] == (-1.70, -1.70)
    assert found["cnn relu circular adam"][:2] == (-1.2, -1.2)
    assert published(Sweep(model="residual-mlp")) is None
    assert published(Sweep(model="conv-net", optimizer="muon")) is None


def test_presets_have_the_networks_that_the_claims_are_about():
    cpu, paper = preset("cpu"), preset("paper")
    assert list(cpu) == list(paper)
    assert {spec.model_args.get("padding", "circular") for spec in cpu.values()} == {"zero", "circular"}
    assert {spec.optimizer for spec in cpu.values()} == {"sgd", "adam"}
    assert sum(name.startswith("resnet") for name in cpu) >= 4
    first = paper["cnn relu circular"]
    assert (first.widths, first.depths[0], first.depths[-1], len(first.lrs)) == ((64,), 3, 30, 80)
    assert (first.lrs[0], first.lrs[-1]) == pytest.approx((1e-5, 1e-1))
    with pytest.raises(InvalidValueError, match="preset"):
        preset("gpu")
