"""The adaptive search on loss curves whose optimum is known."""

from __future__ import annotations

import math

import numpy as np
import pytest
import xarray as xr

from isoscale import stats as laws
from isoscale.errors import InvalidValueError
from isoscale.runs import log2_grid
from isoscale.studies.depth_law.search import LATTICE, LIMITS, Exhaustive, Request, Search, half_width


def valley(centre: float, *, cliff: float = math.inf, offsets: tuple[float, ...] = (0.0, 0.0, 0.0)):
    """Log loss is a parabola in log2(lr), its vertex at `centre` plus a seed's offset, NaN from `cliff` on."""

    def train(request: Request) -> xr.DataArray:
        x = np.log2(request.lrs)[:, None]
        vertex = centre + np.array(offsets)[list(request.seeds)]
        loss = np.where(x >= cliff, np.nan, np.exp(0.1 * (x - vertex) ** 2))
        return xr.DataArray(loss, {"lr": list(request.lrs), "seed": list(request.seeds)}, dims=("lr", "seed"))

    return train


def run(search, train) -> xr.Dataset:
    while (request := search.wanted()) is not None:
        assert search.trials < 1000
        search.tell(train(request))
    return laws.optimal_lr(search.loss)


def searching(**changes) -> Search:
    settings = {"low": 2.0**-14, "high": 1.0, "seeds": (0, 1, 2), "steps": 100}
    return Search(**(settings | changes))


@pytest.mark.parametrize("centre", [-13.9, -7.3, -4.0, -0.2])
def test_finds_the_vertex_of_a_parabola(centre):
    found = run(searching(), valley(centre))
    # Three points of a parabola give its vertex exactly.
    assert math.log2(float(found.lr)) == pytest.approx(centre, abs=1e-9)
    assert found.at_edge.item() == ""


@pytest.mark.parametrize("centre", [-25.0, 6.0])
def test_the_range_extends_to_where_the_valley_is(centre):
    found = run(searching(), valley(centre))
    assert math.log2(float(found.lr)) == pytest.approx(centre, abs=1e-9)


@pytest.mark.parametrize(("centre", "edge", "limit"), [(-60.0, "low", LIMITS[0]), (30.0, "high", LIMITS[1])])
def test_the_range_ends_at_the_limits_and_the_optimum_is_a_bound(centre, edge, limit):
    search = searching()
    found = run(search, valley(centre))
    assert found.at_edge.item() == edge
    places = np.round(np.log2(search.loss["lr"].values) * LATTICE)
    assert limit in places
    assert places.min() >= LIMITS[0]
    assert places.max() <= LIMITS[1]


def test_nothing_stable_is_said_so_after_the_whole_range_was_tried():
    search = searching()
    found = run(search, valley(-5.0, cliff=-1000))
    assert found.at_edge.item() == "none"
    assert math.log2(search.loss["lr"].values.min()) == LIMITS[0] / LATTICE
    assert search.full_trials == search.trials / 4  # pilots only


@pytest.mark.parametrize("cliff", [-3.9, -3.6, -3.0])
def test_an_optimum_beside_a_cliff_stays_below_it(cliff):
    found = run(searching(), valley(-4.0, cliff=cliff))
    assert math.log2(float(found.lr)) <= cliff
    # Known to a quarter of an octave, which the target asks for.
    assert math.log2(float(found.lr)) == pytest.approx(min(-4.0, cliff), abs=0.25)


def test_takes_less_than_a_third_of_the_grids_trials():
    search = searching()
    run(search, valley(-7.3, offsets=(-0.2, 0.0, 0.3)))
    assert search.trials <= 240 / 3
    assert search.full_trials < search.trials


def test_far_learning_rates_are_trained_by_the_pilot_only():
    search = searching()
    run(search, valley(-4.0))
    assert search.loss["lr"].values.min() >= 2.0**-6


def test_a_pilot_that_misleads_is_walked_back():
    """Early on larger learning rates look better than they are: the full trials then move down."""

    def train(request: Request) -> xr.DataArray:
        return valley(-3.0 if request.steps < 100 else -6.5)(request)

    assert math.log2(float(run(searching(), train).lr)) == pytest.approx(-6.5, abs=1e-9)


def test_seeds_that_disagree_are_joined_by_more():
    offsets = tuple(np.random.default_rng(0).normal(0, 0.4, 12))
    few, many = searching(), searching(more_seeds=tuple(range(3, 12)))
    narrow, wide = (run(search, valley(-6.0, offsets=offsets)) for search in (many, few))
    assert few.loss.sizes["seed"] == 3
    assert many.loss.sizes["seed"] > 3
    assert half_width(narrow) < half_width(wide)


def test_seeds_that_agree_are_enough():
    search = searching(more_seeds=(3, 4))
    run(search, valley(-6.0, offsets=(0.0,) * 5))
    assert search.loss.sizes["seed"] == 3


def test_a_finer_target_takes_more_trials():
    coarse, fine = searching(target=0.25), searching(target=1 / 16)
    for search in (coarse, fine):
        run(search, valley(-6.1))
    assert coarse.trials < fine.trials
    gaps = np.diff(np.log2(fine.loss["lr"].values))
    assert gaps.min() == pytest.approx(1 / LATTICE)


def test_asking_twice_is_asking_once():
    search = searching(more_seeds=(3,))
    while (request := search.wanted()) is not None:
        assert search.wanted() == request
        search.tell(valley(-6.0, offsets=(0.5, -0.5, 0.0, 0.2))(request))


@pytest.mark.parametrize("bad", [{"target": 0.01}, {"steps": 3}, {"low": 0.0}, {"high": 2.0**-15}], ids=str)
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


def extended(lrs: tuple[float, ...], train) -> tuple[Exhaustive, list[Request]]:
    grid, requests = Exhaustive(lrs=lrs, seeds=(0, 1, 2), steps=10), []
    run(grid, lambda request: requests.append(request) or train(request))
    return grid, requests


def test_the_exhaustive_grid_asks_for_everything_at_once():
    grid, requests = extended((0.25, 0.5, 1.0), valley(-1.2))
    assert [request.lrs for request in requests] == [(0.25, 0.5, 1.0)]
    assert (grid.trials, grid.full_trials) == (9, 9.0)
    assert math.log2(float(laws.optimal_lr(grid.loss).lr)) == pytest.approx(-1.2, abs=1e-9)


@pytest.mark.parametrize("lrs", GRIDS.values(), ids=GRIDS)
@pytest.mark.parametrize("centre", [-20.3, 5.7])
def test_a_grid_goes_on_with_its_own_spacing_to_where_the_valley_is(lrs, centre):
    grid, requests = extended(lrs, valley(centre))
    found = laws.optimal_lr(grid.loss)
    assert found.at_edge.item() == ""
    assert math.log2(float(found.lr)) == pytest.approx(centre, abs=1e-6)
    places = np.log2(grid.loss["lr"].values)
    spacing = math.log2(lrs[1] / lrs[0])
    np.testing.assert_allclose(np.diff(places), spacing, rtol=1e-6)
    # Nothing is asked for twice, and no more than four octaves, or one point, beyond what is needed.
    assert sum(request.trials for request in requests) == grid.trials
    assert abs(places - centre).min() <= spacing / 2
    beyond = places.max() - centre if centre > 0 else centre - places.min()
    assert beyond <= max(4, spacing) + spacing


@pytest.mark.parametrize("lrs", GRIDS.values(), ids=GRIDS)
@pytest.mark.parametrize(("centre", "edge"), [(-60.0, "low"), (30.0, "high")])
def test_a_grid_ends_at_the_limits_of_the_search(lrs, centre, edge):
    grid, _ = extended(lrs, valley(centre))
    assert laws.optimal_lr(grid.loss).at_edge.item() == edge
    places, spacing = np.log2(grid.loss["lr"].values), math.log2(lrs[1] / lrs[0])
    low, high = (limit / LATTICE for limit in LIMITS)
    assert low - 1e-9 <= places.min()
    assert places.max() <= high + 1e-9
    # As near as its spacing allows.
    assert min(places.min() - low, high - places.max()) < spacing - 1e-6


def test_a_grid_without_a_stable_learning_rate_goes_down_until_there_is_one():
    grid, requests = extended(GRIDS["octaves"], valley(-13.0, cliff=-12.5))
    assert [request.lrs[0] for request in requests] == [2.0**-6, 2.0**-10, 2.0**-14]
    assert laws.optimal_lr(grid.loss).at_edge.item() == ""
    grid, _ = extended(GRIDS["octaves"], valley(-13.0, cliff=-1000))
    assert laws.optimal_lr(grid.loss).at_edge.item() == "none"
    assert math.log2(grid.loss["lr"].values.min()) == LIMITS[0] / LATTICE


def test_a_single_learning_rate_is_extended_by_octaves():
    grid, _ = extended((0.5,), valley(-4.0, cliff=-2.5))
    assert np.log2(grid.loss["lr"].values).tolist() == [-5, -4, -3, -2, -1]
