"""Figures of the infinite limit: what is drawn is what was measured."""

import numpy as np
import pytest
import xarray as xr

from isoscale import report
from isoscale.errors import InvalidValueError


def _run(height: float) -> xr.Dataset:
    steps = np.arange(6)
    loss = height * 0.8**steps
    return xr.Dataset({"loss": ("step", loss), "loss_se": ("step", 0.01 * loss)}, {"step": steps})


def _gap() -> xr.Dataset:
    horizons, depths, steps = [0.5, 1.0], [8.0, 16.0, np.inf], np.arange(3)
    values = np.array(horizons)[:, None, None] * np.ones((2, 3, 3)) * steps
    dims = ("horizon", "depth", "step")
    return xr.Dataset(
        {"gap": (dims, values), "gap_se": (dims, 0.1 * values)}, {"horizon": horizons, "depth": depths, "step": steps}
    )


def _texts(figure) -> list[str]:
    return [text.get_text() for axes in figure.axes for text in axes.texts]


def test_training_labels_each_run_where_it_ends():
    figure = report.training({"reused": _run(0.5), "independent": _run(0.7)})
    (axes,) = figure.axes
    assert _texts(figure) == ["reused", "independent"]
    np.testing.assert_allclose(axes.lines[1].get_ydata(), 0.7 * 0.8 ** np.arange(6))
    band = axes.collections[1].get_paths()[0].vertices[:, 1]
    assert band.max() == pytest.approx(0.7 * (1 + 1.96 * 0.01))


def test_gap_puts_infinity_after_the_deepest():
    figure = report.gap(_gap())
    (axes,) = figure.axes
    assert [tick.get_text() for tick in axes.get_xticklabels()] == ["8", "16", "∞"]
    assert axes.get_xticks().tolist() == [8, 16, 32]
    assert _texts(figure) == ["T = 0.5", "T = 1"]


def test_files_appear_together_and_read_back(tmp_path):
    run = _run(0.5)
    paths = report.write_figures(tmp_path / "out", {"training": report.training({"reused": run})}, {"reused": run})
    assert sorted(path.name for path in paths) == ["reused.nc", "training.png", "training.svg"]
    xr.testing.assert_allclose(xr.load_dataset(tmp_path / "out" / "reused.nc"), run)
    beyond_32_bits = run.assign_coords(step=2**40 + run.step)
    report.write_figures(tmp_path / "large", {}, {"run": beyond_32_bits})
    kept = xr.load_dataset(tmp_path / "large" / "run.nc")
    assert kept["step"].values.tolist() == beyond_32_bits["step"].values.tolist()
    (tmp_path / "file").touch()
    with pytest.raises(InvalidValueError, match="cannot write"):
        report.write_figures(tmp_path / "file", {}, {"reused": run})
