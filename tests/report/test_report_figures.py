"""Figures: what stands on them is what the data say, for every shape of data."""

from __future__ import annotations

import itertools
import subprocess
import sys
from collections.abc import Callable
from typing import Any
from xml.etree import ElementTree

import matplotlib
import numpy as np
import pytest
import xarray as xr
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from isoscale import report
from isoscale.report import drawing, formats
from isoscale.report.loss_scale import Scale

Made = Callable[..., xr.Dataset]

SHAPES: dict[str, dict[str, Any]] = {
    "width": {"axis": "width", "sizes": (64, 128, 256)},
    "one of each": {"rules": {"completep": (-2.0, 0.0, 1.0, 3.0)}, "sizes": (8,), "seeds": 1},
    "one learning rate": {"lrs": (0.25,)},
    "nothing trained": {"rules": {"sp": (-20.0, 0.0, 1.0, 1.0)}},
    "nothing diverged": {"rules": {"sp": (-2.0, 0.0, 1.0, 99.0)}, "sizes": (4, 8)},
    "many": {"rules": {f"rule {i}": (-2.0, -i / 4, 1.0, 2.0) for i in range(5)}, "sizes": range(3, 15)},
    "half octaves": {"lrs": tuple(2.0 ** (k / 2) for k in range(-30, 5))},
}


def texts(figure: Figure) -> list[str]:
    """All words of a figure."""
    return [text.get_text() for axes in figure.axes for text in axes.texts]


def curves(axes: Axes, axis: str = "depth") -> list[str]:
    """The names of a panel's curves."""
    return [str(line.get_label()) for line in axes.lines if str(line.get_label()).startswith(axis)]


def label_places(axes: Axes, words: set[str]) -> list[float]:
    """The heights of labels on the right of a panel, as fractions of it."""
    return [float(text.xy[1]) for text in axes.texts if text.get_text() in words]  # type: ignore[attr-defined]


@pytest.mark.parametrize("narrow", [False, True])
def test_one_panel_a_rule_and_one_curve_a_size(data: xr.Dataset, narrow: bool) -> None:
    figure = report.loss_curves(data, narrow=narrow)
    assert len(figure.axes) == 4
    for axes in figure.axes:
        assert curves(axes) == ["depth 4", "depth 8", "depth 16", "depth 32"]
        assert axes.get_ylim() == figure.axes[0].get_ylim()
        assert axes.get_xlim() == figure.axes[0].get_xlim()


def test_the_verdict_stands_over_its_panel_and_good_panels_come_first(data: xr.Dataset) -> None:
    signs = [[text.get_text() for text in axes.texts] for axes in report.loss_curves(data).axes]
    titles = [(words[i], words[i + 1], words[i + 2]) for words in signs for i in [_sign_at(words)]]
    assert titles == [
        ("✓", "completep", "transfers"),
        ("✗", "sp", "not trainable at depth 32"),
        ("✗", "depth-mup", "drifts by \N{MINUS SIGN}3.0 octaves"),
        ("✗", "lazy", "drifts by +0.9 octaves"),
    ]


def _sign_at(words: list[str]) -> int:
    return next(i for i, word in enumerate(words) if word in ("✓", "✗"))


def test_every_learning_rate_that_diverged_has_its_cross(data: xr.Dataset) -> None:
    for axes, rule in zip(report.loss_curves(data).axes, formats.ordered(data), strict=True):
        marks = [marks for marks in axes.collections if marks.get_offset_transform() == axes.get_xaxis_transform()]
        crosses = {tuple(np.round(place, 6)) for mark in marks for place in np.asarray(mark.get_offsets())}
        diverged = (data.status.sel(rule=rule) == 1).any("seed")
        assert len(crosses) == int(diverged.sum())


def test_the_dashed_line_is_the_optimum_of_the_base(data: xr.Dataset) -> None:
    for axes, rule in zip(report.loss_curves(data).axes, formats.ordered(data), strict=True):
        places = [np.asarray(line.get_xdata()) for line in axes.lines]
        (upright,) = [x for x in places if len(x) == 2 and x[0] == x[1]]
        assert upright[0] == pytest.approx(np.log2(float(data.optimal_lr.sel(rule=rule, depth=4))))


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("narrow", [False, True])
def test_every_shape_can_be_drawn(make_data: Made, shape: str, narrow: bool) -> None:
    data = make_data(**SHAPES[shape])
    for draw in (report.loss_curves, report.optimum):
        svg = drawing.encoded(draw(data, narrow=narrow), "svg")
        assert ElementTree.fromstring(svg).tag.endswith("svg")
    assert len(report.loss_curves(data, narrow=narrow).axes) == data.sizes["rule"]


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_labels_keep_apart(make_data: Made, shape: str) -> None:
    data = make_data(**SHAPES[shape])
    for axes in report.loss_curves(data).axes:
        places = sorted(label_places(axes, {str(size) for size in formats.sizes(data)}))
        # 9.5 points of the panel's 169, a line of text.
        assert all(high - low > 0.0561 for low, high in itertools.pairwise(places))


def test_huge_losses_do_not_squash_the_valleys(data: xr.Dataset) -> None:
    usual = report.loss_curves(data).axes[0].get_ylim()
    data["loss"].loc[{"rule": "completep", "lr": 1.0}] = 1e30
    figure = report.loss_curves(data)
    assert figure.axes[0].get_ylim() == usual
    assert "cut at" in figure.axes[0].get_ylabel()


@pytest.mark.parametrize(
    ("losses", "log"), [([2.0, 1.0, 0.01], True), ([3.9, 3.5, 3.2], False), ([1.0, 0.1, -0.5], False)]
)
def test_the_axis_is_logarithmic_only_where_losses_span_much(make_data: Made, losses: list[float], log: bool) -> None:
    data = make_data(rules={"r": (0.0, 0.0, 1.0, 99.0)}, sizes=(4,), lrs=(0.25, 0.5, 1.0), seeds=1)
    data["loss"][:] = np.array(losses)[None, None, :, None]
    scale = Scale.of(data)
    assert scale.log is log
    assert not scale.cut
    assert scale.bottom < min(losses) < max(losses) < scale.top
    assert 3 <= len(scale.ticks()) <= 8


def test_the_optimum_figure_has_a_line_and_a_law_a_rule(data: xr.Dataset) -> None:
    figure = report.optimum(data)
    (axes,) = figure.axes
    rules = [line.get_label() for line in axes.lines if not str(line.get_label()).startswith("_")]
    assert rules == formats.ordered(data)
    words = texts(figure)
    assert {"✓ completep", "✗ sp", "✗ depth-mup", "✗ lazy", "none"} < set(words)
    assert "exponent \N{MINUS SIGN}1.00 ± 0.12" in words
    assert words.count("too few optima for a law") == 1


def test_a_bound_is_drawn_hollow_with_an_arrow_and_a_value_is_filled(data: xr.Dataset) -> None:
    (axes,) = report.optimum(data).axes
    hollow = [line for line in axes.lines if line.get_markerfacecolor() == "white"]
    arrows = [text for text in axes.texts if getattr(text, "arrow_patch", None) is not None]
    assert len(hollow) == len(arrows) == int((data.at_edge == "high").sum()) == 3


def test_a_law_is_drawn_only_where_it_was_fitted(data: xr.Dataset) -> None:
    (axes,) = report.optimum(data).axes
    (sp,) = [line for line in axes.lines if line.get_label() == "sp"]
    assert len(sp.get_xdata()) == 3


def test_a_dollar_sign_is_no_mathematics(make_data: Made) -> None:
    name = "$\\frac{a}$ & <b>"
    figure = report.optimum(make_data(rules={name: (-2.0, 0.0, 1.0, 2.0)}))
    assert f"✓ {name}" in texts(figure)
    words = [element.text for element in ElementTree.fromstring(drawing.encoded(figure, "svg")).iter()]
    assert f"✓ {name}" in words


def test_letters_that_the_font_lacks_are_no_warning(make_data: Made) -> None:
    data = make_data(rules={"规则": (-2.0, 0.0, 1.0, 2.0)})
    assert drawing.encoded(report.loss_curves(data), "png").startswith(b"\x89PNG")


def test_the_callers_settings_neither_change_nor_matter(data: xr.Dataset) -> None:
    plain = drawing.encoded(report.loss_curves(data), "svg")
    with matplotlib.rc_context({"font.size": 20, "axes.grid": False, "svg.hashsalt": None, "svg.fonttype": "path"}):
        before = dict(matplotlib.rcParams)
        assert drawing.encoded(report.loss_curves(data), "svg") == plain
        assert dict(matplotlib.rcParams) == before


def test_names_keep_both_ends_when_they_are_too_long() -> None:
    short = drawing.shortened("residual_family(alpha=0.5, beta=0.75)", 20)
    assert len(short) == 20
    assert short.startswith("residual_f")
    assert short.endswith("eta=0.75)")
    assert drawing.shortened("sp", 20) == "sp"


def test_importing_the_report_is_quick_and_drawing_needs_no_pyplot() -> None:
    code = (
        "import sys, isoscale.report\n"
        "heavy = {'torch', 'matplotlib', 'xarray', 'pandas', 'jinja2'} & set(sys.modules)\n"
        "assert not heavy, heavy\n"
        "isoscale.report.write, isoscale.report.loss_curves\n"
        "assert not {'torch', 'matplotlib.pyplot'} & set(sys.modules)\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
