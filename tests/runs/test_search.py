"""The adaptive search on loss curves whose optimum is known."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import pytest

from isoscale.errors import InvalidValueError
from isoscale.runs import log2_grid
from isoscale.runs.search import LATTICE, LIMITS, Grid, Request, Search
from isoscale.stats import Optimum

Losses = dict[tuple[float, int], float]
Train = Callable[[Request], Losses]


def valley(centre: float, *, cliff: float = math.inf, offsets: tuple[float, ...] = (0.0, 0.0, 0.0)) -> Train:
    """A parabola of log loss in log2(lr), its vertex at `centre` plus a seed's offset, NaN from `cliff` on."""

    def train(request: Request) -> Losses:
        losses = {}
        for lr in request.lrs:
            for seed in request.seeds:
                x = math.log2(lr)
                loss = math.exp(0.1 * (x - centre - offsets[seed]) ** 2)
                losses[lr, seed] = math.nan if x >= cliff + offsets[seed] else loss
        return losses

    return train


def falling(cliff: float, offsets: tuple[float, ...] = (0.0, 0.0, 0.0)) -> Train:
    """Log loss falls by 7 % an octave, up to where a seed diverges."""

    def train(request: Request) -> Losses:
        losses = {}
        for lr in request.lrs:
            for seed in request.seeds:
                x = math.log2(lr)
                losses[lr, seed] = math.nan if x >= cliff + offsets[seed] else math.exp(-0.07 * x)
        return losses

    return train


def run(search: Search | Grid, train: Train) -> Optimum:
    asked: set[tuple[float, int, int]] = set()
    while requests := search.wanted():
        assert search.trials < 1000
        for request in requests:
            trials = {(lr, seed, request.steps) for lr in request.lrs for seed in request.seeds}
            assert not trials & asked  # nothing is asked for twice
            asked |= trials
            search.tell(train(request), request.steps)
    assert search.trials == len(asked)
    return search.optimum


def searching(**changes) -> Search:
    settings = {"low": 2.0**-14, "high": 1.0, "seeds": (0, 1, 2), "steps": 100}
    return Search(**(settings | changes))


def places(search: Search | Grid) -> np.ndarray:
    return np.unique(search.curve.log2_lr)


@pytest.mark.parametrize("centre", [-13.9, -7.3, -4.0, -0.2])
def test_finds_the_vertex_of_a_parabola(centre):
    found = run(searching(), valley(centre))
    assert found.log2_lr == pytest.approx(centre, abs=1e-6)
    assert found.edge == ""


@pytest.mark.parametrize("centre", [-25.0, 6.0])
def test_the_range_extends_to_where_the_valley_is(centre):
    assert run(searching(), valley(centre)).log2_lr == pytest.approx(centre, abs=1e-6)


@pytest.mark.parametrize(("centre", "edge", "limit"), [(-60.0, "low", LIMITS[0]), (30.0, "high", LIMITS[1])])
def test_the_range_ends_at_the_limits_and_the_optimum_is_a_bound(centre, edge, limit):
    search = searching()
    found = run(search, valley(centre))
    assert found.edge == edge
    assert limit in places(search)
    assert places(search).min() >= LIMITS[0]
    assert places(search).max() <= LIMITS[1]


def test_nothing_stable_is_said_so_after_the_whole_range_was_tried():
    search = searching()
    found = run(search, valley(-5.0, cliff=-1000))
    assert found.edge == "none"
    assert math.log2(search.tried[0]) == LIMITS[0]
    assert search.full_trials == search.trials / 4  # pilots only


@pytest.mark.parametrize("cliff", [-3.9, -3.6, -3.0])
def test_the_limit_of_stability_is_known_to_an_eighth_of_an_octave(cliff):
    found = run(searching(), falling(cliff))
    assert found.is_limit
    assert found.log2_lr < cliff
    assert found.cliff == pytest.approx(cliff, abs=1 / LATTICE)


def test_a_gap_is_halved_for_the_seeds_that_it_holds():
    offsets = (-0.6, 0.0, 0.7)
    found = run(searching(), falling(-4.1, offsets))
    for seed, offset in enumerate(offsets):
        assert found.by_seed[seed] == pytest.approx(-4.1 + offset, abs=1 / LATTICE)


@pytest.mark.parametrize("train", [valley(-7.3, offsets=(-0.2, 0.0, 0.3)), falling(-7.3, (-0.2, 0.0, 0.3))])
def test_takes_no_more_than_25_full_trials(train):
    search = searching()
    run(search, train)
    assert search.full_trials <= 25


def test_another_sizes_optimum_saves_most_of_the_pilot():
    alone, started = searching(), searching(start=2.0**-6.8)
    assert run(alone, valley(-7.3)).log2_lr == pytest.approx(run(started, valley(-7.3)).log2_lr)
    assert started.full_trials < alone.full_trials - 2


def test_a_start_that_is_far_off_is_left():
    search = searching(start=2.0**-2)
    assert run(search, valley(-11.0)).log2_lr == pytest.approx(-11.0, abs=1e-6)


def test_another_sizes_rate_is_trained_with_every_seed():
    search = searching(start=2.0**-6, also=(2.0**-5.3,))
    run(search, valley(-7.0))
    curve = search.curve
    is_there = np.abs(curve.log2_lr + 5.3) < 1e-9
    assert sorted(curve.names[curve.seed[is_there]]) == [0, 1, 2]


def test_of_two_valleys_the_deeper_one_is_followed():
    """A short pilot of one seed prefers the shallow one."""

    def train(request: Request) -> Losses:
        is_pilot = request.steps < 100
        losses = {}
        for lr in request.lrs:
            for seed in request.seeds:
                x = math.log2(lr)
                left = 0.1 * (x + 10) ** 2 + (0.2 if is_pilot else 0.0)
                right = 0.1 * (x + 3) ** 2 + (0.1 if is_pilot else 0.3)
                losses[lr, seed] = math.exp(min(left, right))
        return losses

    assert run(searching(), train).log2_lr == pytest.approx(-10.0, abs=0.1)


def test_far_learning_rates_are_trained_by_the_pilot_only():
    search = searching()
    run(search, valley(-4.0))
    assert places(search).min() >= -6


def test_a_pilot_that_misleads_is_walked_back():
    """Early on larger learning rates look better than they are: the full trials then move down."""

    def train(request: Request) -> Losses:
        return valley(-3.0 if request.steps < 100 else -6.5)(request)

    assert run(searching(), train).log2_lr == pytest.approx(-6.5, abs=1e-6)


def test_seeds_that_disagree_are_joined_by_more():
    offsets = tuple(np.random.default_rng(0).normal(0, 0.4, 12))
    few, many = searching(), searching(more_seeds=tuple(range(3, 12)))
    narrow, wide = (run(search, valley(-6.0, offsets=offsets)) for search in (many, few))
    assert few.curve.seeds == 3
    assert many.curve.seeds > 3
    assert narrow.high - narrow.low < wide.high - wide.low


def test_seeds_that_agree_are_enough():
    search = searching(more_seeds=(3, 4))
    run(search, valley(-6.0, offsets=(0.0,) * 5))
    assert search.curve.seeds == 3


def test_trials_that_failed_are_not_asked_for_again():
    def fails(request: Request) -> Losses:
        return {trial: loss for trial, loss in valley(-6.0)(request).items() if trial[1] != 1}

    search = searching()
    run(search, fails)
    assert search.curve.names.tolist() == [0, 2]
    nothing = searching()
    run(nothing, lambda request: {})
    assert nothing.optimum.edge == "none"


def test_asking_twice_is_asking_once():
    search = searching(more_seeds=(3,))
    train = valley(-6.0, offsets=(0.5, -0.5, 0.0, 0.2))
    while requests := search.wanted():
        assert search.wanted() == requests
        for request in requests:
            search.tell(train(request), request.steps)


def test_a_trial_that_cannot_be_shortened_is_piloted_in_full():
    search = searching(shortens=False)
    assert {request.steps for request in search.wanted()} == {100}
    assert run(search, valley(-6.0)).log2_lr == pytest.approx(-6.0, abs=1e-6)


@pytest.mark.parametrize("bad", [{"target": 0.01}, {"low": 0.0}, {"high": 2.0**-15}], ids=str)
def test_what_cannot_be_searched(bad):
    with pytest.raises(InvalidValueError, match=next(iter(bad))):
        searching(**bad)


# --- the exhaustive grid ---
GRIDS = {
    "octaves": log2_grid(-6, -2),
    "sixths": log2_grid(-6, -2, 6),
    "decades": tuple(10 ** (-2 + k / 20) for k in range(21)),
    "wide": (2.0**-6, 2.0**-1),
}


def extended(lrs: tuple[float, ...], train: Train) -> tuple[Grid, list[Request]]:
    grid, requests = Grid(lrs=lrs, seeds=(0, 1, 2), steps=10), []

    def note(request: Request) -> Losses:
        requests.append(request)
        return train(request)

    run(grid, note)
    return grid, requests


def test_the_exhaustive_grid_asks_for_everything_at_once():
    grid, requests = extended((0.25, 0.5, 1.0), valley(-1.2))
    assert [request.lrs for request in requests] == [(0.25, 0.5, 1.0)]
    assert (grid.trials, grid.full_trials) == (9, 9.0)
    assert grid.optimum.log2_lr == pytest.approx(-1.2, abs=1e-6)


@pytest.mark.parametrize("lrs", GRIDS.values(), ids=GRIDS)
@pytest.mark.parametrize("centre", [-20.3, 5.7])
def test_a_grid_goes_on_with_its_own_spacing_to_where_the_valley_is(lrs, centre):
    grid, _ = extended(lrs, valley(centre))
    found = grid.optimum
    spacing = math.log2(lrs[1] / lrs[0])
    assert found.edge == ""
    np.testing.assert_allclose(np.diff(places(grid)), spacing, rtol=1e-6)
    assert abs(places(grid) - centre).min() <= spacing / 2
    beyond = places(grid).max() - centre if centre > 0 else centre - places(grid).min()
    assert beyond <= max(4, spacing) + spacing


@pytest.mark.parametrize("lrs", GRIDS.values(), ids=GRIDS)
@pytest.mark.parametrize(("centre", "edge"), [(-60.0, "low"), (30.0, "high")])
def test_a_grid_ends_at_the_limits_of_the_search(lrs, centre, edge):
    grid, _ = extended(lrs, valley(centre))
    assert grid.optimum.edge == edge
    spacing = math.log2(lrs[1] / lrs[0])
    low, high = LIMITS
    assert low - 1e-9 <= places(grid).min()
    assert places(grid).max() <= high + 1e-9
    # As near as its spacing allows.
    assert min(places(grid).min() - low, high - places(grid).max()) < spacing - 1e-6


def test_a_grid_without_a_stable_learning_rate_goes_down_until_there_is_one():
    grid, requests = extended(GRIDS["octaves"], valley(-13.0, cliff=-12.5))
    assert [request.lrs[0] for request in requests] == [2.0**-6, 2.0**-10, 2.0**-14]
    assert grid.optimum.edge == ""
    grid, _ = extended(GRIDS["octaves"], valley(-13.0, cliff=-1000))
    assert grid.optimum.edge == "none"
    assert math.log2(grid.tried[0]) == LIMITS[0]


def test_a_single_learning_rate_is_extended_by_octaves():
    grid, _ = extended((0.5,), valley(-4.0, cliff=-2.5))
    assert places(grid).tolist() == [-5, -4, -3, -2, -1]
