"""Cells of the table against what a person would write."""

from __future__ import annotations

from collections.abc import Callable
from math import inf, nan

import pytest
import xarray as xr

from isoscale import report
from isoscale.report import content, formats

Made = Callable[..., xr.Dataset]


def put(data: xr.Dataset, size: int, **values: object) -> None:
    """Overwrite numbers of the rule "sp" at one size."""
    for name, value in values.items():
        data[name].loc[{"rule": "sp", formats.axis(data): size}] = value


def test_the_whole_table(data: xr.Dataset) -> None:
    rows = report.table(data).to_dict("records")
    sizes = ("depth 4", "depth 8", "depth 16", "depth 32")
    cells = {row["rule"]: [row[size] for size in sizes] + [row["drift"], row["regret"]] for row in rows}
    assert cells == {
        "completep": ["0.27", "0.27", "0.27", "0.27", "0.0 ± 0.3", "0.000"],
        "sp": ["0.27", "0.068", "0.034", "diverged", "—", "—"],
        "depth-mup": ["0.27", "0.14", "0.068", "0.034", "-3.0 ± 0.3", "diverges"],
        "lazy": ["2.2", "≥ 4", "≥ 4", "≥ 4", "≥ +0.9", "≥ +0.364"],
    }
    assert [row["verdict"] for row in rows] == [
        "✓ transfers",
        "? cannot tell",
        "✗ does not transfer",
        "✗ does not transfer",
    ]
    assert [row["rate used"] for row in rows] == ["0.27", "2.2", "0.27", "0.27"]


def test_good_rules_come_first_bad_ones_last_and_others_keep_their_order(data: xr.Dataset) -> None:
    assert [str(rule) for rule in data.rule.values] == ["sp", "completep", "depth-mup", "lazy"]
    assert list(report.table(data)["rule"]) == ["completep", "lazy", "sp", "depth-mup"]


@pytest.mark.parametrize(
    ("lr", "edge", "expected"),
    [
        (0.1302, "", "0.13"),
        (0.125, "", "0.125"),
        (2.0**-7, "", "0.00781"),
        (0.5, "high", "≥ 0.5"),
        (2.0**-7, "low", "≤ 0.00781"),
        (nan, "none", "diverged"),
        (16.0, "", "16"),
        (3.07e-5, "", "3.1e-05"),
    ],
)
def test_best_learning_rate(data: xr.Dataset, lr: float, edge: str, expected: str) -> None:
    put(data, 8, optimal_lr=lr, at_edge=edge)
    assert report.lr_cell(data, "sp", 8) == expected


@pytest.mark.parametrize(("status", "said"), [(2, "failed"), (3, "not run")])
def test_what_did_not_diverge_is_not_called_diverged(data: xr.Dataset, status: int, said: str) -> None:
    put(data, 8, at_edge="none", optimal_lr=nan, status=status)
    assert report.lr_cell(data, "sp", 8) == said


@pytest.mark.parametrize(
    ("low", "high", "expected"),
    [(0.104, 0.1702, "0.10 to 0.17"), (0.104, nan, "from 0.10"), (nan, 0.1702, "up to 0.17"), (nan, nan, "")],
)
def test_interval_of_the_best_learning_rate(data: xr.Dataset, low: float, high: float, expected: str) -> None:
    put(data, 8, optimal_lr_low=low, optimal_lr_high=high)
    assert formats.lr_interval(data, "sp", 8) == expected


@pytest.mark.parametrize(
    ("drift", "low", "high", "base_edge", "edge", "expected"),
    [
        (-1.0, -1.3, -0.7, "", "", "-1.0 ± 0.3"),
        (0.0, -0.2, 0.2, "", "", "0.0 ± 0.2"),
        (2.04, 1.9, 3.1, "", "", "+2.0 [+1.9, +3.1]"),
        (0.01, -0.03, 0.05, "", "", "+0.01 ± 0.04"),
        (-2.0, nan, nan, "", "", "-2.0"),
        (-2.0, -2.0, -2.0 + 1e-15, "", "", "-2.0"),
        (-2.0, nan, nan, "", "low", "≤ -2.0"),
        (3.0, nan, nan, "", "high", "≥ +3.0"),
        # A base optimum that is itself a bound turns the drift into one, the other way round.
        (-2.0, nan, nan, "high", "", "≤ -2.0"),
        (-2.0, nan, nan, "high", "low", "≤ -2.0"),
        (0.0, nan, nan, "high", "high", "—"),
        (1.0, nan, nan, "low", "", "≥ +1.0"),
        (nan, nan, nan, "", "none", "—"),
        (nan, nan, nan, "none", "", "—"),
    ],
)
def test_drift(
    data: xr.Dataset, drift: float, low: float, high: float, base_edge: str, edge: str, expected: str
) -> None:
    put(data, 4, at_edge=base_edge)
    put(data, 8, drift=drift, drift_low=low, drift_high=high, at_edge=edge)
    assert report.drift_cell(data, "sp", 8) == expected


@pytest.mark.parametrize(
    ("regret", "low", "high", "edge", "expected"),
    [
        (0.0021, 0.0011, 0.0031, "", "+0.002 ± 0.001"),
        (0.0, -0.001, 0.001, "", "0.000 ± 0.001"),
        (inf, inf, inf, "", "diverges"),
        (0.5, 0.4, inf, "", "+0.500 [+0.400, ∞]"),
        (0.364, 0.3, 0.4, "high", "≥ +0.364"),
        (nan, nan, nan, "none", "—"),
    ],
)
def test_regret(data: xr.Dataset, regret: float, low: float, high: float, edge: str, expected: str) -> None:
    put(data, 8, regret=regret, regret_low=low, regret_high=high, at_edge=edge)
    assert report.regret_cell(data, "sp", 8) == expected


@pytest.mark.parametrize(
    ("loss", "se", "expected"),
    [
        (0.41237, 0.0031, "0.412 ± 0.003"),
        (0.41237, nan, "0.412"),
        (2.5, 0.0, "2.50"),
        (2.5, 1e-17, "2.50"),
        (1.04e-5, 1e-6, "0.000010 ± 0.000001"),
        (1e-17, nan, "0.000"),
        (nan, nan, "—"),
    ],
)
def test_best_loss(data: xr.Dataset, loss: float, se: float, expected: str) -> None:
    put(data, 8, best_loss=loss, best_loss_se=se)
    assert report.loss_cell(data, "sp", 8) == expected


def test_the_base_has_no_drift_and_no_regret_of_its_own(data: xr.Dataset) -> None:
    assert report.drift_cell(data, "sp", 4) == report.regret_cell(data, "sp", 4) == "base"


def test_the_exponent_has_its_interval_or_nothing(data: xr.Dataset) -> None:
    data["exponent"][:], data["exponent_low"][:], data["exponent_high"][:] = -0.481, -0.54, -0.42
    assert formats.exponent_text(data, "sp") == "-0.48 ± 0.06"
    data["exponent"][:] = nan
    data["exponent_low"][:], data["exponent_high"][:] = nan, nan
    assert formats.exponent_text(data, "sp") == ""


@pytest.mark.parametrize(
    ("low", "high", "edges", "expected"),
    [
        (-1.4, 0.4, ("", "", "", ""), ""),
        (-1.6, 0.6, ("", "", "", ""), "too uncertain for a law"),
        (nan, nan, ("", "", "", ""), "too uncertain for a law"),
        (-0.6, -0.4, ("", "low", "", "none"), "too few optima for a law"),
    ],
)
def test_an_exponent_that_says_nothing_is_not_shown(
    data: xr.Dataset, low: float, high: float, edges: tuple[str, ...], expected: str
) -> None:
    """Fewer than three optima, or an interval wider than ± 1."""
    data["exponent"][:], data["exponent_low"][:], data["exponent_high"][:] = -0.5, low, high
    data["at_edge"].loc[{"rule": "sp"}] = list(edges)
    assert formats.has_law(data, "sp") is (expected == "")
    assert bool(formats.exponent_text(data, "sp")) is (expected == "")
    if expected:
        assert formats.no_law(data, "sp") == expected


def test_what_the_transferred_rate_gives(data: xr.Dataset) -> None:
    put(data, 32, regret=0.01, loss_tuned=0.2, loss_transferred=0.21, at_edge="")
    assert formats.transferred_cell(data, "sp", 32) == "0.210"
    assert formats.regret_share(data, "sp", 32) == "+5.0 %"
    put(data, 32, regret=inf, loss_transferred=inf)
    assert formats.transferred_cell(data, "sp", 32) == formats.transferred_test_cell(data, "sp", 32) == "diverges"
    assert formats.regret_share(data, "sp", 32) == ""
    put(data, 32, regret=nan, loss_transferred=nan, loss_tuned=nan)
    assert formats.transferred_cell(data, "sp", 32) == "—"
    assert formats.regret_share(data, "sp", 32) == ""


def test_the_test_loss_is_that_of_the_nearest_rate_that_was_trained(data: xr.Dataset) -> None:
    put(data, 4, optimal_lr=0.27)
    data["test_loss"].loc[{"rule": "sp", "depth": 4, "lr": 0.25}] = [0.4, 0.5, 0.6]
    assert formats.tuned_test_cell(data, "sp", 4) == "0.50 ± 0.06"
    put(data, 4, optimal_lr=nan)
    assert formats.tuned_test_cell(data, "sp", 4) == "—"


def test_a_rate_that_most_seeds_were_not_trained_at_is_on_no_curve(data: xr.Dataset) -> None:
    """A search bisects a cliff seed by seed, and trains nothing elsewhere."""
    trials = {"rule": "sp", "depth": 4, "lr": 0.25}
    for seeds, is_shared in (([], True), ([0], True), ([0, 1], False), ([0, 1, 2], False)):
        data["status"].loc[trials | {"seed": seeds}] = formats.MISSING
        cell = formats.at(data, "sp", 4)
        assert bool(formats.shared_rates(cell)[cell.lr.values == 0.25]) is is_shared
        assert (formats.nearest_rate(cell, 0.25) == 0.25) is is_shared


def test_every_threshold_is_named(data: xr.Dataset) -> None:
    data.attrs["limits"] = '{"regret": 0.005, "worse": 0.03, "lost_seeds": 0.25, "level": 0.9}'
    words = " ".join(report.terms(data))
    for part in ("0.5 % of the loss at depth 32", "90 % interval", "3 % above that of depth 4", "25 % of the seeds"):
        assert part in words
    for term in ("Octave", "Drift", "Regret", "rate used"):
        assert term in words


def test_columns_carry_the_name_of_the_size(make_data: Made) -> None:
    table = report.table(make_data(axis="width", sizes=(64, 128)))
    assert list(table) == ["rule", "width 64", "width 128", "rate used", "drift", "regret", "verdict"]


def test_facts_say_what_became_of_the_trials(data: xr.Dataset) -> None:
    facts = content.facts(data.assign_attrs(trials=1528, diverged=37, failed=2))
    assert facts["Trials"] == "1,528: 1,489 finished, 37 diverged, 2 failed"
    assert facts["Learning rates"] == "11, from 2⁻⁸ to 2²"
    assert facts["Depth"] == "4, 8, 16 and 32"
    assert facts["Time of this run"] == "1 min 34 s"
