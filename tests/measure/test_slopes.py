"""Verdicts on exponents: what a law of each shape is called, and how often chance alone makes a failure."""

import numpy as np
import pytest

from isoscale.errors import InvalidTypeError, InvalidValueError
from isoscale.measure import Thresholds
from isoscale.measure.tools.slopes import DEPENDS, SAME, UNDECIDED, Effect, answer, failures, judged

SIZES = [2, 4, 8, 16]
L = np.array(SIZES, float)[:, None]


def effect(law, sizes=SIZES, scatter=0.01, seeds=3, axis="depth", **given):
    """The values of a law, (sizes, 1), with a relative scatter over seeds."""
    generator = np.random.default_rng(0)
    factor = np.exp(scatter * generator.standard_normal((len(sizes), seeds)))
    named = {"module": "layer", "quantity": "change", "axis": axis}
    return Effect(named=named, sizes=sizes, values=law * factor, expected=given.pop("expected", 0.0), **given)


def verdict(one, **given):
    (row,) = judged([one], given.pop("thresholds", Thresholds()), **given).itertuples()
    return row.verdict


@pytest.mark.parametrize(
    ("law", "said"),
    [
        (L**0.5, "explodes like L^0.5"),
        (L**-0.5, "vanishes like L^-0.5"),
        (L**0, "stable"),
        (L**0.15, "stable"),
        # L - 1 of L blocks add up: the exponent over these sizes is 0.28, and 0.1 between the last two.
        (1 - 1 / L, "stable"),
        # Twice that could be a failure of 0.5 that began small.
        ((1 - 1 / L) ** 2, "not decided: it dies out"),
        # The failure stays where finite size adds to it.
        ((1 - 1 / L) * L**0.5, "explodes like L^0.7"),
        (np.exp(-1 / L) * L**-0.5, "vanishes like L^-0.3"),
    ],
)
def test_laws(law, said):
    assert verdict(effect(law)).startswith(said)


def test_the_expected_exponent_is_no_failure():
    assert verdict(effect(L**-1.0, expected=-1.0)) == "stable"
    assert verdict(effect(L**-0.5, expected=-1.0)) == "explodes like L^-0.5"
    assert verdict(effect(L**-1.0, may_vanish=True)) == "stable"
    assert verdict(effect(L**1.0, may_vanish=True)) == "explodes like L^1"


def test_the_order_of_the_sizes_is_free():
    turned = effect(L**0.5)
    turned = Effect(named=turned.named, sizes=SIZES[::-1], values=turned.values[::-1], expected=0.0)
    assert verdict(turned) == verdict(effect(L**0.5))


def test_two_sizes_decide_nothing_but_that_all_is_well():
    assert verdict(effect(L[:2] ** 0.5, sizes=SIZES[:2])) == "not decided: two sizes show no trend"
    assert verdict(effect(L[:2] ** 0, sizes=SIZES[:2])) == "stable"


def test_chance():
    assert verdict(effect(L**0.5, scatter=1.0)) == "not decided: chance explains it"
    # One seed shows its scatter about the law; three sizes leave it one degree of freedom.
    assert verdict(effect(L**0.5, seeds=1)) == "explodes like L^0.5"
    assert verdict(effect(L[:3] ** 0.5, sizes=SIZES[:3], seeds=1, scatter=0.1)) == "not decided: chance explains it"


def test_initial_noise_that_dies_out():
    """A norm divides by a stream of size (e^2 + 1 / L)^(1/2), and by its square under SGD."""
    stream = np.sqrt(0.01 + 1 / L)
    for power in (1, 2):
        seen = effect(stream**-power, noise=np.repeat(stream**-power, 3, axis=1))
        assert verdict(seen) == "not decided: the initial noise dies out"
        # Without that stream it would be a failure, and with it a failure beyond it is one.
        assert verdict(effect(stream**-power)).startswith("explodes")
        worse = effect(stream**-power * L**0.5, noise=np.repeat(stream**-power, 3, axis=1))
        assert verdict(worse).startswith("explodes")


def test_too_many_positions():
    """An update that sums over P positions is (1 + P / n)^(1/2) in size: n^-1/2 in a network that P crowds."""
    crowded = effect(np.sqrt(1 + 256 / L), axis="width")
    assert verdict(crowded, crowded=True) == "not decided: too many positions"
    assert verdict(crowded).startswith("vanishes like n^-0.")
    assert verdict(effect(L**-1.0, axis="width"), crowded=True) == "vanishes like n^-1"
    assert verdict(effect(L**0.5, axis="width"), crowded=True) == "explodes like n^0.5"


def test_numbers_that_are_none():
    assert verdict(effect(np.where(L > 4, np.inf, 1.0))) == "explodes beyond all numbers"
    assert verdict(effect(L * np.nan)) == "not measured"
    assert verdict(effect(L * 0)) == "not measured"


def test_answers():
    fine, unclear, broken = effect(L**0), effect((1 - 1 / L) ** 2), effect(L**0.5)
    assert answer(judged([fine], Thresholds())) == SAME
    assert answer(judged([fine, unclear], Thresholds())) == UNDECIDED
    table = judged([fine, unclear, broken], Thresholds())
    assert answer(table) == DEPENDS
    assert failures(table)["verdict"].tolist() == ["explodes like L^0.5"]


def test_thresholds_can_be_set():
    assert verdict(effect(L**0.15), thresholds=Thresholds(tolerance=0.1)) == "explodes like L^0.15"
    assert verdict(effect(L**0.5), thresholds=Thresholds(tolerance=0.6, failure=1.0)) == "stable"
    noisy = effect(L**0.5, scatter=0.15)
    assert verdict(noisy).startswith("explodes")
    assert verdict(noisy, thresholds=Thresholds(level=1 - 1e-9)) == "not decided: chance explains it"
    assert "0.2" in Thresholds().statement
    for given, error in (
        ({"tolerance": 0.0}, InvalidValueError),
        ({"level": 1.0}, InvalidValueError),
        ({"failure": 0.1}, InvalidValueError),
    ):
        with pytest.raises(error, match=next(iter(given))):
            Thresholds(**given)
    with pytest.raises(InvalidTypeError, match="tolerance"):
        Thresholds(tolerance="wide")


@pytest.mark.parametrize("scatter", [0.1, 0.5])
def test_a_table_of_noise_rarely_fails(scatter):
    """At most 1 - level of the tables, here with 20 independent rows each, show a failure."""
    generator = np.random.default_rng(1)
    tables, rows = 150, 20
    failed = 0
    named = {"module": "layer", "quantity": "change", "axis": "depth"}
    for _ in range(tables):
        values = np.exp(scatter * generator.standard_normal((rows, 4, 3)))
        effects = [Effect(named=named, sizes=SIZES, values=one, expected=0.0) for one in values]
        failed += answer(judged(effects, Thresholds())) == DEPENDS
    assert failed / tables < 0.05 + 4 * np.sqrt(0.05 * 0.95 / tables)
