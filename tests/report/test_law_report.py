"""The depth law's tables, page and figure, drawn from numbers that are handed in."""

from __future__ import annotations

import json
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import xarray as xr

from isoscale import report
from isoscale.errors import InvalidValueError

DEPTHS = [3, 4, 6]


def handed(
    edges: tuple[str, str, str] = ("", "", ""), verdict: str = "agrees", curvature: float = 0.0, learns: float = 1.0
) -> SimpleNamespace:
    """A law that holds exactly, and whatever verdict."""
    lr = 0.5 * np.array(DEPTHS) ** -1.5
    lr = np.where(np.array(edges) == "none", np.nan, lr)
    over = {"lr": lr, "lr_low": lr / 1.2, "lr_high": lr * 1.2, "at_edge": list(edges), "half_width": [0.26] * 3}
    over |= {
        "loss": [2.0] * 3,
        "trials": [30] * 3,
        "full_trials": [21.5] * 3,
        "estimate": lr / 2,
        "estimate_se": lr / 20,
        "final_loss": [1.5] * 3,
        "final_loss_se": [0.1] * 3,
        "learns": [learns] * 3,
        "seeds_diverged": [0.0] * 3,
    }
    law = {"exponent": -1.5, "exponent_low": -1.6, "exponent_high": -1.4, "coefficient": 0.5, "r2": 0.99, "points": 3.0}
    law |= {"curvature": curvature, "curvature_low": curvature - 0.2, "curvature_high": curvature + 0.2}
    of_network = law | {f"estimate_{name}": value for name, value in law.items()}
    of_network |= {"published_low": -1.39, "published_high": -1.34, "published_kind": "CNN"}
    of_network |= {"claim_verdict": verdict, "published_verdict": "agrees", "settings": json.dumps({"seeds": [0, 1]})}
    data = xr.Dataset(
        {name: (("network", "depth"), [list(values)]) for name, values in over.items()}
        | {name: ("network", [value]) for name, value in of_network.items()},
        {"network": ["net | one"], "depth": DEPTHS},
    )
    rows = [{"network": "net | one", "measure": "blocks", "law": law, "octaves": 0.5} for law in ("fitted", "claimed")]
    segment = {"segment": "3,4 to 5-9", "exponent": -1.5, "worst": 0.75, "depths": 1}
    zero = {"network": "net | one", "rule": "sp", "lr": 0.1, "loss": 2.0, "loss_se": 0.1, "final_loss": 1.5}
    zero |= {"final_loss_se": 0.1, "regret_se": 0.01}
    methods = [
        zero | {"method": "tuned", "diverged": 0, "regret": 0.0},
        zero | {"method": "fitted law", "diverged": 0, "regret": 0.25},
        zero | {"method": "unchanged", "diverged": 2, "regret": np.nan, "loss": np.nan},
    ]
    return SimpleNamespace(
        data=data,
        predictions=pd.DataFrame(rows),
        segments=pd.DataFrame([row | segment for row in rows]),
        zero_shot=pd.DataFrame(methods),
        runs=pd.DataFrame({"status": ["done", "done", "diverged"]}),
    )


def test_published_measured_and_verdict_stand_side_by_side():
    row = report.law_tables(handed())["Law"].iloc[0]
    assert (row["published"], row["measured"]) == ("-1.39 to -1.34 (CNN)", "-1.50 [-1.60, -1.40]")
    assert (row["against -3/2"], row["power law?"]) == ("agrees", "not refuted")
    assert report.law_tables(handed(curvature=0.5))["Law"].iloc[0]["power law?"] == "no, it bends"


def test_bounds_and_divergence_are_written_as_such():
    tables = report.law_tables(handed(edges=("low", "high", "none")))
    assert [cell.split()[0] for cell in tables["Optima"]["lr*"]] == ["<=", ">=", "none"]
    regrets = tables["Zero-shot"].set_index("method")
    assert regrets["regret"]["fitted law"] == "+0.2500 ± 0.01"
    assert regrets["loss"]["unchanged"] == "2 diverged"


@pytest.mark.parametrize(
    ("verdict", "curvature", "words"),
    [
        ("agrees", 0.0, "no curvature is seen"),
        ("agrees", 0.5, "no power law"),
        ("shallower", 0.0, "less steeply"),
        ("steeper", 0.0, "more steeply"),
        ("cannot tell", 0.0, "too wide"),
        ("no verdict", 0.0, "want of optima"),
    ],
)
def test_the_summary_says_where_the_claim_holds(verdict, curvature, words):
    assert words in report.law_summary(handed(verdict=verdict, curvature=curvature).data)


def test_networks_that_learn_nothing_are_named():
    assert "no exponent of learning is measured: net | one" in report.law_summary(handed(learns=0.0).data)
    assert "no exponent" not in report.law_summary(handed().data)
    assert report.law_tables(handed(learns=0.0))["Law"]["of depths learn"].item() == "0 of 3"


def test_the_page_has_every_table_and_the_command():
    page = report.law_page(handed(), heading="Law", command="isoscale law", figure="f.svg")
    for part in ("# Law", "    isoscale law\n", "(f.svg)", *report.law_tables(handed()), "3 runs: 2 done, 1 diverged."):
        assert part in page
    tables = [line for line in page.splitlines() if line.startswith("|")]
    assert not any("net | one" in line for line in tables)
    assert any(line.startswith("| net / one |") for line in tables)


def test_the_figure_draws_optima_bounds_and_estimates():
    for law in (handed(), handed(edges=("low", "high", "none"))):
        figure = report.depth_law(law.data)
        (axes,) = figure.axes
        assert "L^-1.50 [-1.60, -1.40]" in axes.get_title(loc="left")
        lines = [line for line in axes.get_lines() if line.get_marker() == "s"]
        np.testing.assert_allclose(lines[0].get_ydata(), law.data["estimate"].values[0])


def test_nothing_to_draw_is_an_error():
    with pytest.raises(InvalidValueError, match="nothing to draw"):
        report.depth_law(handed(edges=("none",) * 3).data)
