"""The verdict read off runs that exist: the same as of a sweep, whatever order and table they come in."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

import isoscale
from isoscale.errors import InvalidValueError

SEEDS = 4


def runs(optima: dict[int, float], *, scattered: bool = False, curvature: float = 0.1, seed: int = 0) -> pd.DataFrame:
    """Log loss is a parabola over log2(lr) with an optimum for each width; wider nets end a little lower."""
    rng = np.random.default_rng(seed)
    rows = []
    for width, optimum in optima.items():
        for number in range(SEEDS):
            at = optimum + 0.1 * rng.standard_normal()
            places = rng.uniform(-10, -2, 10) if scattered else np.arange(-9.0, -2.0)
            logs = curvature * (places - at) ** 2 + 0.001 * rng.standard_normal(len(places)) - width / 1e4
            for place, log in zip(places, logs, strict=True):
                rows.append({"width": width, "lr": 2.0**place, "seed": number, "loss": np.exp(log)})
    return pd.DataFrame(rows)


@pytest.mark.parametrize("scattered", [False, True])
def test_verdicts(scattered):
    same = isoscale.judge(runs({64: -6, 256: -6}, scattered=scattered))
    assert same.answer == "Yes."
    moved = isoscale.judge(runs({64: -6, 256: -4}, scattered=scattered))
    assert moved.answer == "No."
    assert float(moved.data["drift"].sel(rule="-", width=256)) == pytest.approx(2, abs=0.3)


def test_the_order_of_rows_changes_nothing():
    frame = runs({64: -6, 128: -6, 256: -5.5}, scattered=True)
    shuffled = frame.sample(frac=1, random_state=0)
    one, other = isoscale.judge(frame), isoscale.judge(shuffled)
    for name in ("optimal_lr", "drift_low", "regret_high", "rate_used"):
        np.testing.assert_array_equal(one.data[name], other.data[name])


def test_a_sweep_and_its_table_give_the_same_verdict(tmp_path: Path):
    spec = isoscale.Sweep(rule=["sp", "mup"], widths=[8, 16], depths=[2], lrs=[0.0625, 0.125, 0.25], seeds=2, steps=4)
    by_sweep = isoscale.transfer(isoscale.Sweep(**vars(spec) | {"search": "grid"}), store=tmp_path / "s.db", workers=1)
    by_table = isoscale.judge(by_sweep.result)
    assert by_table.verdicts == by_sweep.verdicts
    assert by_table.reasons == by_sweep.reasons
    for name in ("optimal_lr", "drift", "regret", "best_loss", "loss_transferred"):
        np.testing.assert_allclose(by_table.data[name], by_sweep.data[name], rtol=1e-12)


def test_other_settings_are_held_or_minimised_over():
    good, bad = runs({64: -6, 256: -6}), runs({64: -6, 256: -3})
    bad["loss"] *= 2
    frame = pd.concat([good.assign(weight_decay=0.1), bad.assign(weight_decay=0.0)])
    found = isoscale.judge(frame)
    assert found.answer == "Yes."
    assert "minimised over weight_decay" in found.data.attrs["notes"]
    assert isoscale.judge(frame, hold={"weight_decay": 0.0}).answer == "No."


def test_repeats_are_averaged_and_said():
    frame = runs({64: -6, 256: -6})
    twice = pd.concat([frame, frame.assign(loss=frame["loss"] * 1.02)])
    found = isoscale.judge(twice)
    assert "repeat a setting and seed" in found.data.attrs["notes"]
    once = isoscale.judge(frame)
    np.testing.assert_allclose(found.data["best_loss"], 1.01 * once.data["best_loss"], rtol=1e-9)


def test_columns_go_by_their_own_names():
    frame = runs({64: -6, 256: -6}).rename(columns={"width": "d_model", "lr": "learning_rate"})
    found = isoscale.judge(frame, size="d_model", hyperparameter="learning_rate")
    assert (found.axis, found.answer) == ("width", "Yes.")
    own = frame.rename(columns={"d_model": "experts"}).assign(group="a")
    other = own.assign(group="b", loss=2 * own["loss"])
    held = isoscale.judge(pd.concat([own, other]), size="experts", hold={"group": "b"})
    assert (held.axis, held.answer) == ("experts", "Yes.")
    assert float(held.data["best_loss"].min()) > 1.5
    with pytest.raises(InvalidValueError, match="`group` holds words"):
        isoscale.judge(pd.concat([own, other]), size="experts", hyperparameter="group")


def test_columns_and_a_named_index_are_read_as_rows_are():
    frame = runs({64: -6, 256: -6})
    wanted = isoscale.judge(frame).data
    for source in (frame.set_index(["width", "seed"]), frame.to_dict("list")):
        np.testing.assert_array_equal(isoscale.judge(source).data["optimal_lr"], wanted["optimal_lr"])


def test_a_score_is_not_taken_for_a_loss():
    frame = runs({64: -6, 256: -6})
    frame = frame.assign(val_acc=1 - frame["loss"] / 10).drop(columns="loss")
    with pytest.raises(InvalidValueError, match="`val_acc` sounds like a score: say better='higher'"):
        isoscale.judge(frame, columns={"loss": "val_acc"})
    assert isoscale.judge(frame, columns={"loss": "val_acc"}, better="higher").answer == "Yes."


def test_any_positive_hyperparameter_and_any_size():
    frame = runs({2: -6, 4: -6, 8: -6}).rename(columns={"lr": "weight_decay", "width": "n_experts"}).assign(lr=0.1)
    found = isoscale.judge(frame, size="experts", hyperparameter="weight_decay", columns={"experts": "n_experts"})
    assert (found.axis, found.answer) == ("experts", "Yes.")
    assert found.data.attrs["question"] == "Does the weight_decay of experts 2 serve experts 8?"


def test_rules_are_judged_one_by_one():
    frame = pd.concat([runs({64: -6, 256: -6}).assign(rule="mup"), runs({64: -6, 256: -3}).assign(rule="sp")])
    found = isoscale.judge(frame)
    assert found.answer == "Yes, with mup; not with sp."


def test_what_is_not_known_is_not_said():
    """One seed, one rate, all diverged, equal losses: never an exception, never an interval from nothing."""
    frame = runs({64: -6, 256: -6})
    cases = {
        "one seed": frame[frame["seed"] == 0],
        "one rate": frame[frame["lr"] == 2.0**-6],
        "all diverged": frame.assign(loss=np.inf),
        "nothing at the base's optimum": frame[(frame["width"] == 64) | (frame["lr"] > 2.0**-4)],
    }
    for name, case in cases.items():
        found = isoscale.judge(case)
        assert found.answer == "Cannot tell.", name
    # Where every rate costs the same, any will do.
    assert isoscale.judge(frame.assign(loss=1.0)).answer == "Yes."
    one = isoscale.judge(cases["one seed"]).data
    assert np.isnan(one["optimal_lr_low"]).all()
    assert np.isnan(one["drift_high"]).all()


def test_next_run_would_tell():
    found = isoscale.judge(runs({64: -6, 256: -6})[lambda frame: (frame["width"] == 64) | (frame["lr"] > 2.0**-4)])
    run = found.next_run
    assert run is not None
    assert run.size == 256
    assert all(lr < 2.0**-3 for lr in run.lrs)
    assert run.seeds == (0, 1, 2, 3)


@pytest.mark.parametrize(
    ("changes", "given", "message"),
    [
        ({"width": 64}, {}, "no size with several values"),
        ({}, {"size": "depth"}, "no size named 'depth'"),
        ({}, {"base": 100}, "`base` width 100 is not among the sizes of the runs: 64, 256"),
        ({}, {"hold": {"weight_decay": 1}}, "no column to hold named 'weight_decay'"),
        ({}, {"hold": {"seed": 99}}, "`hold` seed 99 is no value of the runs"),
        ({"momentum": 0.0}, {"hyperparameter": "momentum"}, "`momentum` must be positive"),
        ({"depth": [2, 4] * 28}, {}, "several of the columns width, depth"),
    ],
)
def test_questions_that_cannot_be_asked(changes, given, message):
    with pytest.raises(InvalidValueError, match=message):
        isoscale.judge(runs({64: -6, 256: -6}).assign(**changes), **given)


def test_a_notebook_shows_the_answer_the_table_and_the_figure():
    found = isoscale.judge(runs({64: -6, 256: -6}))
    shown = found._repr_html_()
    assert "<b>Yes.</b>" in shown
    assert shown.count("<svg") == 1
    assert "<table" in shown


def test_figures_are_matplotlib_axes():
    found = isoscale.judge(runs({64: -6, 256: -6}))
    assert found.plot()[0].get_yscale() in ("log", "linear")
    assert len(found.plot("optimum")) >= 1
    with pytest.raises(InvalidValueError, match="no figure named 'curves'"):
        found.plot("curves")


def test_tokens_are_batch_size_times_steps_and_said():
    frame = runs({8: -6, 32: -6}).rename(columns={"width": "batch_size"}).assign(steps=lambda t: 256 // t["batch_size"])
    along_batch = isoscale.judge(frame, size="batch_size")
    assert "steps changes with batch_size" in along_batch.data.attrs["notes"]
    assert "minimised" not in along_batch.data.attrs["notes"]
    longer = runs({64: -6, 256: -6}).rename(columns={"width": "steps"}).assign(batch_size=8)
    found = isoscale.judge(longer, size="tokens")
    assert found.data["tokens"].values.tolist() == [512, 2048]
    assert "`tokens` is batch_size x steps" in found.data.attrs["notes"]
    with pytest.raises(InvalidValueError, match="nor is batch_size"):
        isoscale.judge(longer.drop(columns="batch_size"), size="tokens")


def test_results_say_in_a_line_what_they_are():
    frame = runs({64: -6, 256: -6})
    assert repr(isoscale.judge(frame)) == "<Transfer from width 64 to 256: Yes.>"
    assert repr(isoscale.Runs.read(frame)) == f"<Runs: {len(frame)} with rule, seed, loss, lr, width>"
