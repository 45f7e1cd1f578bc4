"""The verdict, on losses made by hand: parabolas over log2(lr) whose vertex, cliff and height are known."""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import xarray as xr

from isoscale.errors import InvalidValueError
from isoscale.runs import Sweep, SweepResult, log2_grid
from isoscale.runs.result import STATUS
from isoscale.studies import transfer as hp_transfer

LOG2_LRS = np.arange(-8.0, 1.0)
SIZES = (4, 8, 16)
SEEDS = 3


def _curve(optimum: float, *, cliff: float = math.inf, lost: tuple[int, ...] = (), lost_above: float = math.inf) -> Any:
    """Loss over (lr, seed): least 1.0 at 2^optimum, NaN above the cliff, NaN for some seeds above another."""
    loss = np.repeat(1 + 0.01 * (LOG2_LRS - optimum)[:, None] ** 2, SEEDS, axis=1)
    loss[cliff < LOG2_LRS] = np.nan
    for seed in lost:
        loss[lost_above < LOG2_LRS, seed] = np.nan
    return loss


@pytest.fixture
def judged() -> Callable[..., hp_transfer.Transfer]:
    """`judged(curves)`: the verdict on one curve a size, by one rule."""

    def judge(
        curves: list[Any], axis: str = "depth", base: int = SIZES[0], lost_status: int = 1
    ) -> hp_transfer.Transfer:
        sizes = {f"{axis}s": SIZES, "widths" if axis == "depth" else "depths": [8]}
        spec = Sweep(**sizes, rule="mup", lrs=log2_grid(-8, 0), seeds=SEEDS, steps=5)
        spec = dataclasses.replace(spec, **{f"base_{axis}": base})
        loss = np.stack(curves)[None]  # (rule, size, lr, seed)
        loss = loss[:, None] if axis == "depth" else loss[:, :, None]
        dims = ("rule", "width", "depth", "lr", "seed")
        coords = {
            "rule": list(spec.rule), "width": list(spec.widths), "depth": list(spec.depths),
            "lr": list(spec.lrs), "seed": list(range(SEEDS)),
        }  # fmt: skip
        status = np.where(np.isnan(loss), lost_status, 0).astype(np.int8)
        arrays = {"loss": (dims, loss), "test_loss": (dims, loss), "status": (dims, status)}
        data = xr.Dataset(arrays | {"curve": ((*dims, "step"), loss[..., None])}, coords)
        _, asked = hp_transfer.asked(spec)
        return hp_transfer.of_sweep(SweepResult(spec, data, "by hand", (), ()), asked)

    return judge


@pytest.mark.parametrize(
    ("curves", "verdict", "good"),
    [
        ([_curve(-4), _curve(-4), _curve(-4)], "transfers", True),
        ([_curve(-4), _curve(-4), _curve(-3.6)], "transfers", True),
        # 0.8 octaves off, but the loss rises by 0.6 % only.
        ([_curve(-4), _curve(-4), _curve(-4.8)], "transfers", True),
        (
            [_curve(-4), _curve(-5), _curve(-6)],
            "does not transfer: costs 4 % of the loss (limit 2 %): the optimum drifts by -2.0 octaves",
            False,
        ),
        (
            [_curve(-5), _curve(-4), _curve(-2.5)],
            "does not transfer: costs 6.2 % of the loss (limit 2 %): the optimum drifts by +2.5 octaves",
            False,
        ),
        # Only the largest size decides.
        ([_curve(-4), _curve(-7), _curve(-4)], "transfers", True),
        (
            [_curve(0), _curve(-4), _curve(-4)],
            "cannot tell: the optimum at depth 4 lies at the end of the measured rates, 1: try larger ones",
            None,
        ),
        # 16 % of the loss, and more beyond the edge.
        (
            [_curve(-4), _curve(-4), _curve(-8)],
            "does not transfer: costs 16 % of the loss (limit 2 %): the optimum drifts by -4.0 octaves",
            False,
        ),
        (
            [_curve(-7), _curve(-4), _curve(-8)],
            "cannot tell: the optimum at depth 16 lies at the end of the measured rates, 0.00391: try smaller ones",
            None,
        ),
        (
            [_curve(-4, cliff=-99), _curve(-4), _curve(-4)],
            "cannot tell: not trainable at depth 4: most seeds diverge at every rate",
            None,
        ),
        ([_curve(-4), _curve(-4), _curve(-4, cliff=-99)], "does not transfer: not trainable at depth 16", False),
        ([_curve(-4), _curve(-4), _curve(-6, cliff=-6)], "does not transfer: diverges at depth 16", False),
        (
            [_curve(-4), _curve(-4), _curve(-4, lost=(1,), lost_above=-5)],
            "does not transfer: 1 of 3 seeds diverge at depth 16",
            False,
        ),
        (
            [_curve(-4), _curve(-4), _curve(-6, lost=(0, 1), lost_above=-6)],
            "does not transfer: 2 of 3 seeds diverge at depth 16",
            False,
        ),
    ],
)
def test_verdict(judged: Callable[..., hp_transfer.Transfer], curves: list[Any], verdict: str, good: bool | None):
    found = judged(curves)
    answer, _, reason = verdict.partition(": ")
    assert found.verdicts == {"mup": answer}
    assert reason in found.reasons["mup"]
    assert bool(found.data["good"]) is (good is True)
    no = "No: with none of mup does the learning rate of depth 4 serve depth 16."
    assert found.answer == {True: "Yes, with mup.", False: no, None: "Cannot tell for mup."}[good]
    assert (found.next_run is None) == (good is not None)


@pytest.mark.parametrize("status", ["failed", "missing"])
def test_a_crash_is_no_divergence(judged: Callable[..., hp_transfer.Transfer], status: str):
    found = judged([_curve(-4), _curve(-4), _curve(-4, cliff=-99)], lost_status=STATUS[status])
    assert found.verdicts == {"mup": "cannot tell"}
    assert found.reasons == {"mup": "trials failed at depth 16"}


def test_numbers_behind_the_verdict(judged: Callable[..., hp_transfer.Transfer]):
    """One octave down a doubling: drift, regret and law are the parabolas' own."""
    found = judged([_curve(-4), _curve(-5), _curve(-6)])
    of_rule = found.data.sel(rule="mup")
    np.testing.assert_allclose(np.log2(of_rule["optimal_lr"]), [-4, -5, -6])
    np.testing.assert_allclose(of_rule["drift"], [0, -1, -2], atol=1e-9)
    np.testing.assert_allclose(of_rule["regret"], [0, 0.01, 0.04], atol=1e-9)
    np.testing.assert_allclose(of_rule["best_loss"], 1)
    np.testing.assert_allclose(of_rule["exponent"], -1)
    assert of_rule["at_edge"].values.tolist() == ["", "", ""]


def test_width_and_base_other_than_the_smallest(judged: Callable[..., hp_transfer.Transfer]):
    found = judged([_curve(-7), _curve(-5), _curve(-4)], axis="width", base=8)
    # Two octaves below: 4 %.
    assert found.verdicts == {"mup": "transfers"}
    assert (found.axis, found.base, found.target) == ("width", 8, 16)
    assert found.data.attrs["question"] == "Does the learning rate of width 8 serve width 16?"
    np.testing.assert_allclose(found.data["drift"].sel(rule="mup"), [-2, 0, 1], atol=1e-9)


@pytest.mark.parametrize(
    ("curves", "octaves", "beyond"),
    [
        ([_curve(-4), _curve(-4), _curve(-4)], 0.0, []),
        ([_curve(-4), _curve(-4), _curve(-5)], 1.5, []),
        ([_curve(-4), _curve(-4), _curve(-5)], 0.5, ["mup"]),
        ([_curve(0), _curve(-1), _curve(-1)], 100.0, ["mup"]),
        ([_curve(-4), _curve(-4), _curve(-8)], 100.0, ["mup"]),  # a bound is no optimum
        ([_curve(-4), _curve(-4), _curve(-4, cliff=-99)], 100.0, ["mup"]),
    ],
)
def test_drifts_beyond(
    judged: Callable[..., hp_transfer.Transfer], curves: list[Any], octaves: float, beyond: list[str]
):
    assert judged(curves).drifts_beyond(octaves) == beyond


def test_no_law_from_fewer_than_three_optima(judged: Callable[..., hp_transfer.Transfer]):
    found = judged([_curve(-4), _curve(-5), _curve(-8)])
    assert np.isnan(found.data["exponent"]).all()


def test_attributes_say_how_it_was_run(judged: Callable[..., hp_transfer.Transfer]):
    attrs = judged([_curve(-4)] * 3).data.attrs
    assert {
        "axis": "depth",
        "base": 4,
        "trials": 81,
        "diverged": 0,
        "failed": 0,
    }.items() <= attrs.items()
    assert json.loads(attrs["versions"]) == {}


# --- the question -----------------------------------------------------------------------------------------------


def test_question():
    def asked(base: dict[str, int] | None = None, **sizes: Any) -> tuple[str, Any, Any]:
        _, axis = hp_transfer.asked(Sweep(**sizes), base)
        return axis.name, axis.base, axis.target

    assert asked(depths=[4, 8, 32]) == ("depth", 4, 32)
    assert asked(depths=[4, 8, 32], base_depth=8) == ("depth", 8, 32)
    assert asked(depths=[4, 8], base={"depth": 8}) == ("depth", 8, 8)
    assert asked(widths=[16, 64], depths=[2]) == ("width", 16, 64)
    path = ("size", "width 16, depth 2", "width 64, depth 8")
    assert asked(widths=[16, 64], depths=[2, 8], base={"width": 16, "depth": 2}) == path
    assert asked(widths=[16, 64], depths=[2, 8], paired=True) == path


@pytest.mark.parametrize(
    ("sizes", "base", "message"),
    [
        ({"depths": [4]}, None, "give several depths, widths, batch sizes or steps, at least two"),
        ({"depths": [2, 4], "widths": [8, 16]}, None, "not along width and depth: give several of one"),
        ({"depths": [2, 4]}, {"depth": 3}, "`base` depth 3 is not among the depths 2, 4"),
        ({"depths": [2, 4], "base_depth": 1}, None, "`base` depth 1 is not among the depths 2, 4"),
        ({"depths": [2, 4]}, {"width": 64}, "`base` must name the depth that was tuned, got {'width': 64}"),
        ({"depths": [2, 4]}, {}, "`base` must name the depth that was tuned, got {}"),
    ],
)
def test_a_question_that_cannot_be_asked_runs_nothing(tmp_path: Path, sizes: dict, base: dict | None, message: str):
    with pytest.raises(InvalidValueError) as caught:
        hp_transfer.transfer(Sweep(**sizes), base=base, store=tmp_path / "s.db")
    assert message in str(caught.value)
    assert list(tmp_path.iterdir()) == []
