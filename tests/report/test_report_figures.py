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
from matplotlib.colors import to_rgb
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
    "many": {"rules": {f"rule {i}": (-2.0, -i / 4, 1.0, 2.0) for i in range(5)}, "sizes": range(3, 9)},
    "a path": {"axis": "size", "sizes": ("width 16, depth 2", "width 64, depth 8")},
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
    titles = []
    for words in signs:
        at = next(i for i, word in enumerate(words) if word in ("✓", "?", "✗"))
        titles.append((words[at], words[at + 1], " ".join(words[at + 2].split())))
    assert titles == [
        ("✓", "completep", "transfers: costs 0 % of the loss (limit 2 %)"),
        ("?", "lazy", "cannot tell: the optimum at depth 32 lies at the end of the measured rates"),
        ("✗", "sp", "does not transfer: not trainable at depth 32"),
        (
            "✗",
            "depth-mup",
            "does not transfer: costs 40 % of the loss (limit 2 %): the optimum drifts by \N{MINUS SIGN}3.0 octaves",
        ),
    ]


def test_a_verdict_that_is_open_is_neither_good_nor_bad(data: xr.Dataset) -> None:
    bars = [_title_bar(axes) for axes in report.loss_curves(data).axes]
    good, open_, bad, other = bars
    assert len({good, open_, bad}) == 3
    assert other == bad


def _title_bar(axes: Axes) -> str:
    (bar,) = [line for line in axes.lines if line.get_linewidth() == 2.5]
    return str(bar.get_color())


def test_every_learning_rate_that_diverged_has_its_cross(data: xr.Dataset) -> None:
    for axes, rule in zip(report.loss_curves(data).axes, formats.ordered(data), strict=True):
        marks = [marks for marks in axes.collections if marks.get_offset_transform() == axes.get_xaxis_transform()]
        crosses = {tuple(np.round(place, 6)) for mark in marks for place in np.asarray(mark.get_offsets())}
        diverged = (data.status.sel(rule=rule) == 1).any("seed")
        assert len(crosses) == int(diverged.sum())


def test_what_was_not_trained_is_not_drawn(data: xr.Dataset) -> None:
    """A search leaves most of the grid out: no cross, no point, and no gap in the curve."""
    left_out = {"rule": "completep", "depth": 8, "lr": [2.0**-7, 2.0**-5, 1.0, 2.0, 4.0]}
    data["loss"].loc[left_out] = np.nan
    data["status"].loc[left_out] = formats.MISSING
    axes = report.loss_curves(data).axes[0]
    (curve,) = [line for line in axes.lines if line.get_label() == "depth 8"]
    trained = [2.0**-8, 2.0**-6, 2.0**-4, 2.0**-3, 2.0**-2, 2.0**-1]
    np.testing.assert_allclose(np.asarray(curve.get_xdata(), float), np.log2(trained))
    assert np.isfinite(np.asarray(curve.get_ydata(), float)).all()
    marks = [marks for marks in axes.collections if marks.get_offset_transform() == axes.get_xaxis_transform()]
    crosses = sum(len(np.asarray(mark.get_offsets())) for mark in marks)
    assert crosses == int((data.status.sel(rule="completep") == formats.DIVERGED).any("seed").sum())


def test_the_transferred_rate_is_marked_beside_the_tuned_one_and_the_bases_loss(data: xr.Dataset) -> None:
    axes = report.loss_curves(data).axes[0]
    of = data.sel(rule="completep")
    (diamond,) = [line for line in axes.lines if line.get_marker() == "D"]
    (x,), (y,) = np.asarray(diamond.get_xdata()), np.asarray(diamond.get_ydata())
    assert x == pytest.approx(np.log2(float(of.rate_used)))
    assert y == pytest.approx(Scale.of(data).fraction(float(of.loss_transferred.sel(depth=32))))
    (across,) = [line for line in axes.lines if line.get_transform() == axes.get_yaxis_transform()]
    assert list(across.get_ydata()) == [float(of.loss_transferred.sel(depth=4))] * 2


def test_training_curves_are_the_mean_over_the_seeds(data: xr.Dataset) -> None:
    axes = dict(zip(formats.ordered(data), report.training_curves(data).axes, strict=True))
    names = {rule: [line.get_label() for line in panel.lines] for rule, panel in axes.items()}
    assert names == {
        "completep": ["tuned and\ntransferred"],
        "lazy": ["tuned", "transferred"],
        # Nothing trains at the largest size.
        "sp": [],
        "depth-mup": ["tuned", "transferred"],
    }
    tuned = axes["lazy"].lines[0]
    expected = data.curve.sel(rule="lazy", depth=32, lr=4.0).mean("seed")
    np.testing.assert_allclose(np.asarray(tuned.get_ydata(), float), expected, rtol=1e-6)


def test_the_dashed_line_is_the_rate_used(data: xr.Dataset) -> None:
    data["rate_used"] = 0.8 * data.rate_used
    for axes, rule in zip(report.loss_curves(data).axes, formats.ordered(data), strict=True):
        places = [np.asarray(line.get_xdata()) for line in axes.lines]
        (upright,) = [x for x in places if len(x) == 2 and x[0] == x[1]]
        assert upright[0] == pytest.approx(np.log2(float(data.rate_used.sel(rule=rule))))


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("narrow", [False, True])
def test_every_shape_can_be_drawn(make_data: Made, shape: str, narrow: bool) -> None:
    data = make_data(**SHAPES[shape])
    for draw in (report.loss_curves, report.training_curves, report.optimum):
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
    assert {"✓ completep", "✗ sp", "✗ depth-mup", "? lazy", "none"} < set(words)
    assert "exponent \N{MINUS SIGN}1.00 ± 0.12" in words
    assert words.count("too few optima for a law") == 1


def test_a_bound_is_drawn_hollow_with_an_arrow_and_a_value_is_filled(data: xr.Dataset) -> None:
    (axes,) = report.optimum(data).axes
    hollow = [line for line in axes.lines if line.get_markerfacecolor() == drawing.PAPER]
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


def test_colours_stand_out_on_a_dark_page() -> None:
    """As much as the web's guidelines ask of graphics (3 : 1), of words 4.5 : 1."""
    ground = _luminance(drawing.DARK_PAPER)
    for colour in (*drawing.RULES, *drawing.sequence(4), *drawing.VERDICTS.values()):
        assert (_luminance(drawing.dark(colour)) + 0.05) / (ground + 0.05) > 3
    for colour in (drawing.INK, drawing.MUTED):
        assert (_luminance(drawing.dark(colour)) + 0.05) / (ground + 0.05) > 4.5


def _luminance(colour: str) -> float:
    channels = np.array(to_rgb(colour))
    linear = np.where(channels <= 0.03928, channels / 12.92, ((channels + 0.055) / 1.055) ** 2.4)
    return float(linear @ [0.2126, 0.7152, 0.0722])


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
