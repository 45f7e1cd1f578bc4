"""The whole measurement, against the same numbers taken by hand from the sweeps and measures below it."""

from __future__ import annotations

import dataclasses
import logging
import math

import numpy as np
import pytest
import torch
from law_networks import NETWORKS, SETTING

from isoscale import data, measure, report
from isoscale import stats as laws
from isoscale.errors import InvalidTypeError, InvalidValueError
from isoscale.models import ConvResNet
from isoscale.runs import TrialRecord, log2_grid, sweep, worker
from isoscale.runs.shards import Shard
from isoscale.studies.depth_law import depth_law, estimates
from isoscale.training.config import batch_order


def test_an_optimum_is_that_of_the_runs(law):
    """Recomputed from the table of runs: the mean over seeds of the mean over steps has its vertex there."""
    for name in NETWORKS:
        for depth in SETTING["depths"]:
            at = law.data.sel(network=name, depth=depth)
            runs = law.runs.query("network == @name and depth == @depth and stage == 'full'")
            loss = runs.set_index(["lr", "seed"])["loss"].to_xarray()
            assert float(at["lr"]) == pytest.approx(float(laws.optimal_lr(loss).lr), rel=1e-6)


def test_losses_are_measured_at_the_nearest_learning_rate(law):
    at = law.data.sel(network="plain", depth=2)
    runs = law.runs.query("network == 'plain' and depth == 2 and stage == 'full'")
    nearest = min(runs["lr"], key=lambda lr: abs(math.log(lr / float(at["lr"]))))
    seeds = runs[runs["lr"] == nearest]
    assert float(at["loss"]) == pytest.approx(seeds["loss"].mean())
    assert float(at["final_loss"]) == pytest.approx(seeds["final_loss"].mean())
    error = abs(seeds["final_loss"].diff().iloc[-1]) / 2  # of the mean of two
    assert float(at["learns"]) == (seeds["final_loss"].mean() + 2 * error < math.log(4))


def test_every_run_is_kept_once(law, engine):
    keys = ["network", "stage", "rule", "depth", "lr", "seed", "steps"]
    assert not law.runs.duplicated(keys).any()
    assert set(law.runs["stage"]) >= {"pilot", "full", "tuned", "fitted law", "claimed -3/2", "completep"}
    swept = law.runs["stage"].isin(["pilot", "full"]).sum()
    assert swept == int(law.data["trials"].sum())
    assert set(law.runs["status"]) <= {"done", "diverged"}
    assert law.runs.loc[law.runs["status"] == "done", "loss"].notna().all()


def test_run_again_it_trains_nothing_and_finds_the_same(law, engine, store):
    engine.ran.clear()
    again = depth_law(NETWORKS, store=store, device="cpu")
    assert engine.ran == []
    assert again.data.equals(law.data)
    assert again.runs.equals(law.runs)


def test_the_grid_is_the_published_protocol(engine, store):
    spec = dataclasses.replace(NETWORKS["plain"], lrs=log2_grid(-5, 4))
    found = depth_law(spec, search="grid", store=store, device="cpu").data.isel(network=0)
    for depth in spec.depths:
        one = sweep(dataclasses.replace(spec, depths=[depth], base_depth=depth), store=store, device="cpu")
        curve = one.data["curve"].isel(rule=0, width=0, depth=0).astype(float)
        expected = laws.optimal_lr(curve.mean("step", skipna=False))
        assert float(found["lr"].sel(depth=depth)) == pytest.approx(float(expected.lr), rel=1e-6)
    assert (found["at_edge"] == "").all()
    assert (found["trials"] == 20).all()


def test_a_grid_too_narrow_is_extended_by_new_points_only(engine, tmp_path):
    """It ends where the wide grid's optimum is, and run again it trains nothing."""
    wide, narrow = (
        depth_law(
            dataclasses.replace(NETWORKS["plain"], lrs=lrs), search="grid", store=tmp_path / "s.db", device="cpu"
        ).data.isel(network=0)
        for lrs in (log2_grid(-6, 4), log2_grid(-6, -4))
    )
    assert (narrow["at_edge"] == "").all()
    # The wide grid's far points may say more about the curvature; they move the optimum by less than a step.
    octaves = np.log2(narrow["lr"].values / wide["lr"].values)
    assert (np.abs(octaves) < 1).all()
    # -6 to -4, then four octaves at a time.
    counts = narrow["trials"].values // 2
    assert set(counts) <= {7, 11}
    engine.ran.clear()
    again = depth_law(
        dataclasses.replace(NETWORKS["plain"], lrs=log2_grid(-6, -4)),
        search="grid",
        store=tmp_path / "s.db",
        device="cpu",
    )
    assert engine.ran == []
    assert again.data.isel(network=0).equals(narrow)


def test_the_estimate_is_that_of_the_measure(law):
    images = data.load("synthetic", **SETTING["dataset_args"])
    order = batch_order(200, 16, 4, 0)
    batches = [(images.train_x[rows], images.train_y[rows]) for rows in order]
    found = measure.max_update_lr(
        lambda seed: ConvResNet((1, 5, 5), 4, width=4, depth=4, branch_init="he/sqrt(K)", seed=seed),
        torch.nn.functional.cross_entropy,
        batches,
        seeds=2,
    )
    at = law.data.sel(network="residual", depth=4)
    assert (float(at["estimate"]), float(at["estimate_se"])) == pytest.approx((found.lr, found.lr_se), rel=1e-4)


def test_the_law_of_the_estimates_is_weighed_by_their_errors(law):
    for name in NETWORKS:
        of = law.data.sel(network=name)
        values = of["depth"].values, of["estimate"].values, of["estimate_se"].values
        assert float(of["estimate_exponent"]) == pytest.approx(laws.fit_power_law(*values).exponent)


def test_measures_of_depth(law):
    plain, residual = (law.data.sel(network=name) for name in ("plain", "residual"))
    assert plain["effective"].values.tolist() == [2, 3, 5]
    assert residual["effective"].values.tolist() == [3, 4, 6]
    np.testing.assert_allclose(plain["path_sum"], [1, 2, 4])
    # Stem and k of 4 blocks: sum of C(4, k) (k + 1)^3.
    cubes = sum(math.comb(4, k) * (k + 1) ** 3 for k in range(5))
    np.testing.assert_allclose(residual["path_sum"].sel(depth=4), cubes ** (1 / 3))


def test_zero_shot_trains_where_the_shallow_networks_say(law):
    lrs = law.data["lr"].sel(network="residual").values
    table = law.zero_shot.query("network == 'residual'").set_index("method")
    claimed = math.sqrt(lrs[0] * lrs[1] * 1**1.5 * 2**1.5) * 4**-1.5
    fitted = lrs[0] * 4 ** (math.log(lrs[1] / lrs[0]) / math.log(2))
    assert table["lr"]["claimed -3/2"] == pytest.approx(claimed, rel=1e-5)
    assert table["lr"]["fitted law"] == pytest.approx(fitted, rel=1e-5)
    runs = law.runs.query("network == 'residual' and depth == 4 and stage == 'full'")
    means = runs.groupby("lr")["loss"].mean()[runs.groupby("lr")["loss"].count() == 2]
    assert table["lr"]["tuned"] == means.idxmin()
    assert table["loss"]["tuned"] == pytest.approx(means.min())
    assert table["lr"]["completep"] == pytest.approx(lrs[0], rel=1e-5)
    assert table["rule"]["completep"] == "completep"
    assert table["regret"]["tuned"] == 0
    # No branches, nothing for the depth rules to act on.
    assert "completep" not in set(law.zero_shot.query("network == 'plain'")["method"])


def test_laws_and_verdicts_are_of_the_optima(law):
    for name, spec in NETWORKS.items():
        of = law.data.sel(network=name)
        inside = of["at_edge"].values == ""
        if inside.sum() >= 2:
            errors = (of["lr_se"] / of["lr"]).values[inside]
            weights = 1 / errors if (np.isfinite(errors) & (errors > 0)).all() else None
            depths, lrs = np.log(np.array(spec.depths)[inside]), np.log(of["lr"].values[inside])
            slope = np.polyfit(depths, lrs, 1, w=weights)[0]
            assert law.slopes[name].exponent == pytest.approx(slope)
    assert set(law.data["claim_verdict"].values) <= {"agrees", "shallower", "steeper", "cannot tell", "no verdict"}


@pytest.mark.parametrize("search", ["adaptive", "grid"])
def test_depths_that_nothing_trains_are_said_so(engine, tmp_path, caplog, monkeypatch, search):
    def diverge(shard: Shard, device: str) -> list[TrialRecord]:
        trials = worker.failures(shard, "loss not finite at step 0", device)
        return [dataclasses.replace(trial, status="diverged") for trial in trials]

    monkeypatch.setattr(engine, "run_shard", staticmethod(diverge))
    with caplog.at_level(logging.WARNING):
        found = depth_law(NETWORKS["plain"], search=search, store=tmp_path / "s.db", device="cpu")
    assert "no learning rate from 9.09e-13 to 2 trains most seeds; less is not tried" in caplog.text
    assert (found.data["at_edge"] == "none").all()
    assert found.data["claim_verdict"].item() == "no verdict"
    assert found.slopes == {}
    assert found.zero_shot.empty
    assert report.law_tables(found)["Optima"]["lr*"].tolist() == ["none stable"] * 3
    assert "lr_limits [9.094947017729282e-13, 1024.0]" in report.law_page(found, heading="", command="")


def test_a_depth_whose_changes_overflow_has_no_estimate():
    spec = dataclasses.replace(NETWORKS["residual"], model_args={"branch_init": "he"}, widths=[16], seeds=1)
    found = estimates.estimate(spec, 130, estimates.data_of(spec, None))
    assert math.isnan(found.lr)
    assert "overflow" in found.why or "finite" in found.why


@pytest.mark.parametrize(
    ("changes", "match"),
    [
        ({"depths": [3, 4]}, "three `depths`"),
        ({"widths": [4, 8]}, "one width"),
        ({"rule": "completep"}, "rule sp"),
        ({"batch_size": 999}, "batch_size"),
        ({"model_args": {"kernel": 7}}, "kernel"),
    ],
    ids=str,
)
def test_bad_networks_are_refused_before_anything_runs(engine, tmp_path, changes, match):
    engine.ran.clear()
    with pytest.raises(InvalidValueError, match=match):
        depth_law(dataclasses.replace(NETWORKS["plain"], **changes), store=tmp_path / "s.db", device="cpu")
    assert engine.ran == []


def test_bad_arguments():
    with pytest.raises(InvalidTypeError, match="networks"):
        depth_law("conv-net")
    with pytest.raises(InvalidValueError, match="empty"):
        depth_law({})
    with pytest.raises(InvalidValueError, match="search"):
        depth_law(NETWORKS["plain"], search="random")
