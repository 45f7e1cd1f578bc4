"""The collapse plot draws what was measured, and names each line with its exponent."""

import numpy as np
import pytest
import xarray as xr

from isoscale import report
from isoscale.errors import InvalidValueError

GROUPS = ["input", "blocks.*.maps.0", "blocks.*.maps.1"]


def _speed(depths=(4, 8, 16)) -> xr.Dataset:
    depths = np.array(depths, float)
    powers = np.array([0.0, -0.5, 0.1])
    last = 0.25 * depths[:, None] ** powers
    dims = ("depth", "group", "step")
    values = np.stack([0 * last, last], -1)
    data = {}
    for part in ("own", "inherited"):
        data[f"group_{part}"] = (dims, values)
        data[f"group_{part}_se"] = (dims, 0.1 * values)
        for end, shift in (("", 0.0), ("_low", -0.1), ("_high", 0.1)):
            data[f"{part}_exponent{end}"] = ("group", powers + shift)
    return xr.Dataset(data, {"depth": depths, "group": GROUPS, "step": [0, 1]})


def test_own_and_inherited_stand_side_by_side():
    figure = report.collapse(_speed())
    own, inherited = figure.axes
    assert own.get_ylim() == inherited.get_ylim()
    np.testing.assert_allclose(own.lines[1].get_ydata(), 0.25 * np.array([4.0, 8.0, 16.0]) ** -0.5)
    labels = [text.get_text() for text in own.texts]
    assert labels[1] == "blocks.*.maps.0\nL^-0.50 [-0.60, -0.40]"
    assert [tick.get_text() for tick in own.get_xticklabels()] == ["4", "8", "16"]


def test_draws_what_has_no_law():
    data = _speed().where(_speed().group != "input")
    data["own_exponent_low"] = data["own_exponent_low"] * np.nan
    figure = report.collapse(data.expand_dims(width=[32]))
    labels = [text.get_text() for text in figure.axes[0].texts]
    assert labels[0] == "input\nno power law"
    assert labels[1] == "blocks.*.maps.0\nL^-0.50"


def test_needs_depths():
    with pytest.raises(InvalidValueError, match="give `depths`"):
        report.collapse(_speed().isel(depth=0, drop=True))
