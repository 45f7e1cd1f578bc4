"""Effects against size: what the panels show, and that their axes can be read."""

from __future__ import annotations

import numpy as np
import pytest
import xarray as xr
from matplotlib.axes import Axes
from matplotlib.lines import Line2D

from isoscale import report
from isoscale.errors import InvalidValueError

QUANTITIES = ("own_update", "branch_update", "stream_update", "output_update")


def _audit(
    exponent: float = -0.5, scale: float = 0.3, labels: tuple[str, ...] = ("input", "branch_last")
) -> xr.Dataset:
    coords = {"role": list(labels), "width": [64, 128], "depth": [4, 8, 16], "seed": [0, 1]}
    shape = [len(values) for values in coords.values()]
    values = scale * np.array(coords["depth"])[:, None] ** exponent * np.ones(shape)
    data = xr.Dataset({name: (tuple(coords), values.copy()) for name in QUANTITIES}, coords)
    data["branch_update"][:] = np.nan
    return data


def _lines(axes: Axes) -> list[Line2D]:
    """The means; the seeds are dots."""
    return [line for line in axes.get_lines() if line.get_linewidth() > 0]


def test_a_panel_for_each_axis_and_quantity_that_was_measured():
    figure = report.audit(_audit())
    assert len(figure.axes) == 2 * 3  # width and depth; one of the four quantities was not measured
    assert [axes.get_title(loc="left").replace("\n", " ") for axes in figure.axes[:1]] == ["own update at fixed input"]
    assert [axes.get_xlabel() for axes in figure.axes].count("depth") == 3
    lines = _lines(figure.axes[3])
    assert [list(line.get_xdata()) for line in lines] == [[4, 8, 16]] * 2
    assert np.allclose(lines[0].get_ydata(), 0.3 * np.array([4, 8, 16]) ** -0.5)


@pytest.mark.parametrize(("exponent", "scale"), [(0.0, 0.3), (-0.5, 0.3), (0.0, 7e-7), (3.0, 1e2), (7.0, 1e-5)])
def test_every_axis_says_its_scale(exponent: float, scale: float):
    figure = report.audit(_audit(exponent, scale))
    for axes in figure.axes:
        low, high = axes.get_ylim()
        ticks = axes.get_yticks()
        assert high / low >= 10 * (1 - 1e-9)  # a flat line looks flat
        assert 2 <= len(ticks) <= 10
        assert all(low <= tick <= high for tick in ticks)
        assert [float(label.get_text()) for label in axes.get_yticklabels()] == pytest.approx(list(ticks))


def test_many_layers_and_missing_numbers():
    data = _audit(labels=tuple(f"layer.{i}.weight" for i in range(14))).rename(role="tensor")
    data["own_update"][0] = np.nan
    data["own_update"][1, :, -1] = np.inf
    figure = report.audit(data)
    shown = _lines(figure.axes[-3])
    assert len(shown) == 13
    assert len({line.get_color() for line in shown}) == 13


def test_a_coordinate_check():
    coords = {"module": ["stem", "output"], "width": [8, 16], "seed": [0], "step": [1, 2]}
    shape = [len(values) for values in coords.values()]
    data = xr.Dataset(
        {
            "start": (tuple(coords)[:-1], np.ones(shape[:-1])),
            "change": (tuple(coords), np.ones(shape) * np.array([0.1, 0.2])),
        },
        coords,
    )
    figure = report.coordinates(data)
    assert len(figure.axes) == 2
    changes = _lines(figure.axes[1])
    assert np.allclose([line.get_ydata() for line in changes], 0.2)  # after all steps


def test_nothing_to_draw():
    with pytest.raises(InvalidValueError, match="nothing to draw"):
        report.audit(_audit().isel(width=[0], depth=[0]))
