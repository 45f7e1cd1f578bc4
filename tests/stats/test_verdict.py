"""Curves, optima, regrets and verdicts against losses whose truth is known."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from isoscale.errors import InvalidTypeError, InvalidValueError
from isoscale.stats import Curve, Limits, Undecided, find_optimum, judge
from isoscale.stats.curve import BLOWN_UP
from isoscale.stats.simulated import FAMILIES, draw

GRID = np.arange(-8.0, 1.0)
NOTHING = Curve.of_runs([], [], [])


def curve(loss, *, rates=GRID, seeds=3):
    """`loss(x, seed)` at every rate with every seed."""
    x, seed = np.meshgrid(rates, np.arange(seeds))
    return Curve.of_runs(2.0 ** x.ravel(), seed.ravel(), loss(x, seed).ravel())


def bowl(optimum, *, scale=0.1, floor=1.0, cliff=math.inf, spread=0.0):
    """Loss that rises by `scale` per octave^2 and diverges from `cliff` on; seed k is `k * spread` octaves off."""

    def loss(x, seed):
        moved = x - spread * seed
        return np.where(moved >= cliff, np.nan, floor * np.exp(scale * (moved - optimum) ** 2))

    return loss


def falling(cliff, *, per_octave=0.07, spread=0.2):
    """Loss that falls until it diverges, for seed k `k * spread` octaves higher."""

    def loss(x, seed):
        u = x - cliff - spread * seed
        return np.where(u >= 0, np.inf, np.exp(-per_octave * u))

    return loss


# --- curves ---
def test_runs_in_any_order_are_one_curve():
    rng = np.random.default_rng(0)
    lrs, seeds = 2.0 ** rng.integers(-4, 0, 40), rng.integers(0, 5, 40)
    pairs = np.unique(np.stack([lrs, seeds]), axis=1)
    losses = rng.random(pairs.shape[1])
    order = rng.permutation(len(losses))
    first = Curve.of_runs(pairs[0], pairs[1], losses)
    again = Curve.of_runs(pairs[0, order], pairs[1, order], losses[order])
    assert np.array_equal(first.loss, again.loss)
    assert np.array_equal(first.log2_lr, again.log2_lr)


def test_a_grid_is_its_runs():
    loss = np.random.default_rng(1).random((9, 4))
    loss[7:, 2] = np.nan
    grid = Curve.of_grid(GRID, np.array([5, 3, 9, 4]), loss)
    lrs, seeds = np.meshgrid(2.0**GRID, [5, 3, 9, 4], indexing="ij")
    runs = Curve.of_runs(lrs, seeds, loss)
    assert grid.names.tolist() == runs.names.tolist() == [3, 4, 5, 9]
    assert np.array_equal(grid.loss, runs.loss)
    assert np.isinf(grid.loss).sum() == 2


def test_repeated_runs_are_averaged_and_a_diverged_one_counts():
    found = Curve.of_runs([0.5, 0.5, 0.25, 0.25], [0, 0, 0, 0], [1.0, 2.0, 3.0, math.inf])
    assert found.loss.tolist() == [math.inf, 1.5]


def test_what_blew_up_diverged_though_its_numbers_are_finite():
    """A network of tanh under SGD: from one rate to the next its loss goes from 0.04 to 1e11."""
    octaves = np.array([-5.0, -4, -3.5, -3, -2.5, -2, -1])
    loss = np.array(
        [
            [0.131, 0.146, 0.156],
            [0.069, 0.084, 0.087],
            [0.052, 0.063, 0.063],
            [0.045, 0.047, 0.045],
            [1.9e11, 1.4e21, 2.2e15],
            [4.3e29, 1.4e24, 6.3e21],
            [math.nan, math.nan, math.nan],
        ]
    )
    names = np.arange(3)
    found = find_optimum(Curve.of_grid(octaves, names, loss))
    diverged = find_optimum(Curve.of_grid(octaves, names, np.where(loss > 1, math.nan, loss)))
    assert found.is_limit
    assert (found.log2_lr, found.low, found.high, found.loss) == (
        diverged.log2_lr,
        diverged.low,
        diverged.high,
        diverged.loss,
    )


@given(st.lists(st.integers(-50, 50), min_size=2, max_size=12), st.floats(-300, 300), st.integers(0, 3))
def test_only_a_leap_over_every_lower_rate_is_a_blow_up(tenths: list[int], unit: float, seed: int):
    """Whatever the unit of the loss, beside other seeds or alone."""
    logs = [tenth / 10 for tenth in tenths]
    losses = np.exp(np.array(logs) + unit)
    lrs = 2.0 ** np.arange(len(logs))
    others = [(2.0, seed + 1, 1e200), (4.0, seed + 1, 1e-200)]
    runs = [*zip(lrs, [seed] * len(logs), losses, strict=True), *others]
    found = Curve.of_runs(*zip(*runs, strict=True))
    expected = []
    first = None
    for place, log in enumerate(logs):
        if first is None and place > 0 and log > max(logs[:place]) + math.log(BLOWN_UP):
            first = max(logs[:place])
        expected.append(first is not None and log > first + math.log(BLOWN_UP))
    assert np.isinf(found.loss).tolist() == [*expected, False, False]


@pytest.mark.parametrize(("lr", "loss"), [([0.0], [1.0]), ([-1.0], [1.0]), ([math.nan], [1.0]), ([0.1, 0.2], [1.0])])
def test_runs_that_are_none_are_named(lr, loss):
    with pytest.raises(InvalidValueError, match="`lr`"):
        Curve.of_runs(lr, [0] * len(lr), loss)


def test_a_loss_between_rates_follows_the_parabola_and_crosses_no_cliff():
    runs = curve(bowl(-4.3, cliff=-2.0), seeds=1)
    for rate in (-5.0, -4.6, -3.1):
        expected = math.exp(0.1 * (rate + 4.3) ** 2)
        assert runs.losses_at(rate, 0.1)[0] == pytest.approx(expected, rel=1e-12)
    assert math.isnan(runs.losses_at(-2.5)[0]), "the rate above diverged"
    assert math.isinf(runs.losses_at(-2.0)[0])
    assert math.isinf(runs.losses_at(-1.5)[0]), "both neighbours diverged"
    assert math.isnan(runs.losses_at(-9.0)[0])
    assert math.isnan(runs.losses_at(0.5)[0])


# --- the optimum ---
@given(st.floats(-6.4, -1.6), st.floats(0.01, 1.0), st.sampled_from([1.0, 0.5, 0.25]))
def test_seeds_of_one_shape_are_told_apart(optimum, scale, spacing):
    rates = np.arange(-9.0, 1.0, spacing)
    found = find_optimum(curve(bowl(optimum, scale=scale, spread=0.1), rates=rates))
    expected = optimum + 0.1 * np.arange(3)
    np.testing.assert_allclose(found.by_seed, expected, atol=1e-6)
    # Student's t of three seeds 0.1 apart.
    half = 4.302653 * 0.1 / math.sqrt(3)
    assert found.low == pytest.approx(optimum + 0.1 - half, abs=1e-5)
    assert found.high == pytest.approx(optimum + 0.1 + half, abs=1e-5)
    assert found.se == pytest.approx(half / 1.959964, rel=1e-4)


def test_one_seed_has_no_interval():
    found = find_optimum(curve(bowl(-4), seeds=1))
    assert found.log2_lr == pytest.approx(-4)
    assert math.isnan(found.low)
    assert math.isnan(found.high)


def test_a_curve_in_which_only_noise_shows_is_open():
    rng = np.random.default_rng(3)
    found = find_optimum(curve(lambda x, seed: 1 + 0.01 * rng.standard_normal(x.shape)))
    assert math.isnan(found.low)
    assert math.isnan(found.high)


@given(st.integers(0, 2**16), st.sampled_from(FAMILIES), st.sampled_from([1.0, 0.5, None]))
def test_no_loss_is_below_the_least_that_was_measured(seed, family, spacing):
    rng = np.random.default_rng(seed)
    pair = draw(family, seeds=2, spacing=spacing, drift=0.0, rng=rng)
    found = find_optimum(pair.base)
    assert found.loss >= pair.base.loss.min()


def test_where_the_loss_falls_up_to_the_cliff_half_an_octave_is_kept():
    rates = np.arange(-8.0, 0.0, 0.125)
    found = find_optimum(curve(falling(-3.0), rates=rates))
    assert found.is_limit
    # Seeds at -3.0, -2.8 and -2.6.
    assert found.cliff == pytest.approx(-2.8, abs=0.0625)
    assert found.rate == pytest.approx(found.cliff - 0.5)
    assert found.log2_lr < found.cliff
    assert found.low < -2.8 < found.high


def test_an_optimum_well_below_its_cliff_is_handed_on_itself():
    found = find_optimum(curve(bowl(-4.3, cliff=-3.05), rates=np.arange(-8.0, 0.0, 0.25)))
    assert not found.is_limit
    assert found.rate == pytest.approx(-4.3, abs=1e-6)


# --- the verdict ---
@pytest.mark.parametrize(
    ("base", "target", "answer", "reason", "undecided"),
    [
        (curve(bowl(-4)), curve(bowl(-4)), "transfers", "costs 0 %", ()),
        (curve(bowl(-4)), curve(bowl(-2)), "does not transfer", "drifts by +2.0 octaves", ()),
        # The large one trains as well at any rate, but ends worse.
        (curve(bowl(-4)), curve(bowl(-4, floor=2.0)), "does not transfer", "worse than the base", ()),
        (curve(bowl(-4)), curve(bowl(-6, cliff=-5.0)), "does not transfer", "diverges at the target", ()),
        (curve(bowl(-4)), curve(bowl(-4, cliff=-99)), "does not transfer", "not trainable at the target", ()),
        (curve(bowl(-4, cliff=-99)), curve(bowl(-4)), "cannot tell", "not trainable at the base", ("edge low", "base")),
        (curve(bowl(-8)), curve(bowl(-4)), "cannot tell", "try smaller ones", ("edge low", "base")),
        (curve(bowl(0)), curve(bowl(-4)), "cannot tell", "try larger ones", ("edge high", "base")),
        (curve(bowl(-7)), curve(bowl(-8, scale=0.01)), "cannot tell", "try smaller ones", ("edge low", "target")),
        (curve(bowl(-4), seeds=1), curve(bowl(-4)), "cannot tell", "one seed", ("seeds", "base")),
        (curve(bowl(-4)), curve(bowl(-4), seeds=1), "cannot tell", "one seed", ("seeds", "target")),
        (curve(bowl(-4), rates=[-4.0]), curve(bowl(-4)), "cannot tell", "one learning rate", ("edge low", "base")),
        (curve(bowl(-4)), curve(bowl(-4), rates=[-4.0]), "cannot tell", "one learning rate", ("edge low", "target")),
        (curve(bowl(-4)), curve(bowl(-6), rates=[-8.0, -6.0, -5.0]), "cannot tell", "not run", ("rate", "target")),
        (NOTHING, curve(bowl(-4)), "cannot tell", "nothing was run at the base", ("seeds", "base")),
        (curve(bowl(-4)), NOTHING, "cannot tell", "nothing was run at the target", ("seeds", "target")),
        (curve(lambda x, _: x * 0 + 1), curve(lambda x, _: x * 0 + 1), "transfers", "costs 0 %", ()),
        (curve(lambda x, _: x * 0), curve(lambda x, _: x * 0), "transfers", "costs 0 %", ()),
        # A loss that has no logarithm.
        (curve(lambda x, _: (x + 4) ** 2 - 9), curve(lambda x, _: (x + 4) ** 2 - 9), "transfers", "costs 0 %", ()),
    ],
)
def test_answers(base, target, answer, reason, undecided):
    found = judge(base, target)
    assert found.answer == answer
    assert reason in found.reason
    assert bool(found.undecided) is (answer == "cannot tell")
    if undecided:
        assert (found.undecided[0].kind, found.undecided[0].size) == undecided


def test_undecided_names_the_rate_to_run():
    found = judge(curve(bowl(-4)), curve(bowl(-6), rates=[-8.0, -6.0, -5.0]))
    assert found.undecided == (Undecided("rate", "target", 2.0**-4),)


def test_seeds_that_disagree_are_undecided():
    found = judge(curve(bowl(-4, spread=0.4)), curve(bowl(-3.8, spread=-0.4)))
    assert found.answer == "cannot tell"
    assert "seeds" in [one.kind for one in found.undecided]


def test_limits_decide():
    base, target = curve(bowl(-4)), curve(bowl(-3))
    assert judge(base, target).answer == "does not transfer"
    assert judge(base, target, Limits(regret=0.2, worse=0.2)).answer == "transfers"
    lost = curve(lambda x, seed: np.where((seed == 0) & (x >= -4), np.nan, bowl(-4, scale=0.001)(x, seed)))
    assert judge(base, lost).answer == "does not transfer"
    assert "1 of 3 seeds" in judge(base, lost).reason
    assert judge(base, lost, Limits(lost_seeds=0.4)).answer != "does not transfer"


@pytest.mark.parametrize("bad", [{"regret": -0.1}, {"worse": math.nan}, {"lost_seeds": 1.5}, {"level": 1.0}], ids=str)
def test_limits_that_are_none_are_named(bad):
    with pytest.raises((InvalidValueError, InvalidTypeError), match=f"`{next(iter(bad))}`"):
        Limits(**bad)


def test_paired_seeds_cancel_and_others_do_not():
    base = curve(bowl(-4, spread=0.5))
    paired = curve(bowl(-3, spread=0.5))
    other = Curve.of_runs(2.0**paired.log2_lr, paired.seed + 10, paired.loss)
    same, apart = judge(base, paired).numbers, judge(base, other).numbers
    assert same.drift == pytest.approx(1.0)
    assert apart.drift == pytest.approx(1.0)
    assert same.drift_high - same.drift_low < 1e-6
    # Welch: 0.5 octaves between seeds at either size, 4 degrees of freedom.
    half = 2.776445 * 0.5 * math.sqrt(2 / 3)
    assert (apart.drift_high - apart.drift_low) / 2 == pytest.approx(half, rel=1e-3)


def test_a_hundred_thousand_runs_are_judged():
    rng = np.random.default_rng(4)

    def scattered():
        x = rng.uniform(-9, 0, 100_000)
        loss = np.exp(0.05 * (x + 4) ** 2 + 0.01 * rng.standard_normal(len(x)))
        return Curve.of_runs(2.0**x, rng.integers(0, 300, len(x)), loss)

    found = judge(scattered(), scattered())
    assert found.answer == "transfers"
    assert found.target.log2_lr == pytest.approx(-4, abs=0.02)


# --- how often it is right (docs/verdict.md has the whole table) ---
REPLICATIONS = 40


def test_intervals_hold_the_truth_and_verdicts_are_seldom_wrong():
    """Five seeds, half an octave apart, drifts between -1.5 and 1.5: within 4 standard errors of the claims."""
    rng = np.random.default_rng(5)
    held = {"optimum": 0, "drift": 0}
    wrong = 0
    pairs = REPLICATIONS * len(FAMILIES)
    for family in FAMILIES * REPLICATIONS:
        pair = draw(family, seeds=5, spacing=0.5, drift=rng.uniform(-1.5, 1.5), rng=rng)
        found = judge(pair.base, pair.target)
        numbers = found.numbers
        # An end that is NaN is open.
        held["optimum"] += not (found.target.low > pair.optima[1] or found.target.high < pair.optima[1])
        held["drift"] += not (numbers.drift_low > pair.drift or numbers.drift_high < pair.drift)
        truth = pair.regret(numbers.rate)
        if found.answer == "transfers":
            wrong += truth > Limits().regret
        if found.answer == "does not transfer":
            wrong += truth <= Limits().regret and pair.lost(numbers.rate) == 0
    for name, count in held.items():
        assert count / pairs >= 0.9 - 4 * math.sqrt(0.9 * 0.1 / pairs), name
    assert wrong / pairs <= 0.025 + 4 * math.sqrt(0.025 * 0.975 / pairs)


def test_an_optimum_that_noise_hides_is_no_yes():
    """Where nothing but scatter shows at the target, any other rate may be the better one."""
    lrs, seeds = 2.0 ** np.repeat(np.arange(-8, 0), 3), np.tile(np.arange(3), 8)
    answers = []
    for number in range(100):
        rng = np.random.default_rng(number)
        log2_lrs = np.log2(lrs)
        base = Curve.of_runs(lrs, seeds, np.exp(0.02 * (log2_lrs + 4) ** 2 + 0.002 * rng.standard_normal(24)))
        noisy = Curve.of_runs(lrs, seeds, np.exp(0.02 * (log2_lrs + 1) ** 2 + 0.3 * rng.standard_normal(24)))
        answers.append(judge(base, noisy).answer)
    assert answers.count("transfers") <= 1
