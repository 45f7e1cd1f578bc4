"""What a sweep is said to cost, on a clock that only training moves."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any

import pytest

from isoscale.runs import Sweep, cost
from isoscale.runs.driver import prepare

SETUP, STEP, WARM_UP = 0.5, 0.01, 7.0


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> SimpleNamespace:
    """Seconds: a stack of members takes `SETUP` and `STEP` for each step, the very first one `WARM_UP` more."""
    clock = SimpleNamespace(now=0.0, trained=0)

    def train(config: Any, members: Sequence[Any], data: Any, **_: Any) -> None:
        clock.now += SETUP + STEP * config.steps + (WARM_UP if clock.trained == 0 else 0)
        clock.trained += 1

    monkeypatch.setattr(cost, "train", train)
    monkeypatch.setattr(cost.time, "perf_counter", lambda: clock.now)
    monkeypatch.setattr(cost, "members_at_once", lambda config, data: 4)
    return clock


@pytest.mark.parametrize("steps", [1, 100, 5000])
def test_what_is_paid_once_is_counted_once(clock: SimpleNamespace, steps: int) -> None:
    shards = prepare(Sweep(widths=[8], depths=[1], lrs=[0.1, 0.2], seeds=4, steps=steps))
    # Eight members are two stacks.
    expected = 2 * (SETUP + STEP * steps)
    assert cost.estimate_seconds(shards, 1, "cpu") == pytest.approx(cost._WORKER_START_SECONDS + expected)
    assert cost.estimate_seconds([], 1, "cpu") == 0


def test_workers_share_the_shards(clock: SimpleNamespace) -> None:
    shards = prepare(Sweep(widths=[8], depths=[1], lrs=[0.1, 0.2], seeds=4, steps=100, rule=["sp", "completep"]))
    one = cost.estimate_seconds(shards, 1, "cpu") - cost._WORKER_START_SECONDS
    two = cost.estimate_seconds(shards, 2, "cpu") - cost._WORKER_START_SECONDS
    many = cost.estimate_seconds(shards, 9, "cpu") - cost._WORKER_START_SECONDS
    assert (two, many) == (pytest.approx(one / 2), pytest.approx(one / 2))


def test_what_is_left_is_told_by_the_pace_so_far() -> None:
    """On a clock that a test moves: what was announced first does not matter."""
    now = 0.0
    expected = prepare(Sweep(widths=[8], depths=[1, 2], rule=["sp", "completep"], lrs=[0.1, 0.2], seeds=2, steps=50))
    # Four trials of each size and rule, but the base's are the same under both.
    whole = 4 * 50 * (1 + 2 * 2) * 8**2
    pace = cost.Pace(expected, lambda: now)
    assert pace.left(whole) is None
    pace.move(whole / 10)
    # Nothing is known of a speed before some time has passed.
    assert pace.left(0.9 * whole) is None
    for moved, seconds, left in ((0.1, 30.0, 240.0), (0.3, 120.0, 150.0)):
        pace.move(moved * whole)
        now = seconds
        # So much of the work took so long; a search goes on after this round.
        assert pace.left(0.01 * whole) == pytest.approx(left)
    # It took more trials than was thought: what is left of this round is known all the same.
    pace.move(whole)
    now = 420.0
    assert pace.left(0.35 * whole) == pytest.approx(420 / 1.4 * 0.35)


def test_code_of_the_users_is_timed_while_it_trains() -> None:
    """A size that was not timed yet costs in proportion to its parameters, and a shorter trial in proportion to it."""
    whole = Sweep(train="math:sqrt", widths=[8, 16], lrs=[0.1, 0.2], seeds=2, steps=100)
    small, large = [list(prepare(whole.only({"width": width}))) for width in (8, 16)]
    watch = cost.Stopwatch()
    assert watch.left(small, 1) is None
    watch.see(small[0], 3.0)
    assert watch.left(small[1:], 1) == pytest.approx(9)
    assert watch.left(large, 1) == pytest.approx(4 * 3 * 4)
    watch.see(large[0], 5.0)
    # No schedule beats the longest trial.
    assert [watch.left(large[1:], workers) for workers in (1, 3, 9)] == [15, 5, 5]
    pilots = list(prepare(dataclasses.replace(whole.only({"width": 8}), steps=25)))
    assert watch.left(pilots, 1) == pytest.approx(4 * 3 / 4)


def test_a_search_says_what_its_further_rounds_will_cost() -> None:
    expected = prepare(Sweep(train="math:sqrt", widths=[8], lrs=[0.1, 0.2], seeds=2))
    watch = cost.Stopwatch(expected)
    watch.see(expected[0], 3.0)
    assert watch.left(expected[1:2], 1) == pytest.approx(9)
    for _ in range(5):
        watch.see(expected[0], 3.0)
    # It took longer than was thought: what is left of this round is known all the same.
    assert watch.left(expected[1:2], 1) == pytest.approx(3)
